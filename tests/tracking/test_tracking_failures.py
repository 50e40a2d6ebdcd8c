"""A failed trial's traceback is an artifact of its run in MLflow, whoever was away when it failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.stores import Store
from tests.stories import Story
from tuner.events import Failed, Finished
from tuner.tracking.sync import Tracker

TRACE = 'Traceback (most recent call last):\n  File "net.py", line 3, in forward\nValueError: größer'


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("home"))


def failed(folder: Path, name: str) -> Story:
    """Trials 0 and 2 raise, 1 diverges, 3 completes."""
    story = Story(folder, name, trials=4)
    story.ask(range(4))
    story.start(0, range(4))
    story.report(1, range(4))
    story.tell(*(Failed(n, message="m", traceback=f"{TRACE} {n}") for n in (0, 2)))
    story.tell(Failed(1, message="diverged"))
    story.tell(Finished(3, epochs=1, best_epoch=1))
    story.complete()
    return story


def artifacts(store: Store, name: str) -> dict[int, str]:
    found = {}
    for number, run in store.children(name).items():
        for one in store.client.list_artifacts(run.info.run_id):
            assert one.path == "traceback.txt"
            path = store.client.download_artifacts(run.info.run_id, one.path)
            found[number] = Path(path).read_text(encoding="utf-8")
    return found


def test_each_trial_that_raised_has_its_traceback_and_no_other(store: Store, tmp_path: Path) -> None:
    store.sync(failed(tmp_path, "raised"))
    assert artifacts(store, "raised") == {n: f"{TRACE} {n}" for n in (0, 2)}


def test_it_arrives_with_what_an_unreachable_server_missed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # as the process that follows has it
    story = failed(tmp_path, "away")
    tracker = Tracker(story.folder, "http://127.0.0.1:9", None)
    try:
        assert tracker.cycle(closing=True).error
    finally:
        tracker.close()
    store.sync(story)
    assert artifacts(store, "away") == {n: f"{TRACE} {n}" for n in (0, 2)}


def test_one_that_could_not_be_written_is_written_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    log = MlflowClient.log_text

    def refuse_the_second(self: MlflowClient, run: str, text: str, artifact: str) -> Any:
        calls.append(artifact)
        if calls.count("traceback.txt") == 2:
            raise OSError("disk full")
        return log(self, run, text, artifact)

    monkeypatch.setattr(MlflowClient, "log_text", refuse_the_second)
    story = failed(tmp_path, "refused")
    tracker = Tracker(story.folder, store.uri, store.artifacts)
    try:
        assert "disk full" in str(tracker.cycle(closing=True).error)
        while not tracker.drained:
            assert tracker.cycle(closing=True).error is None
    finally:
        tracker.close()
    assert artifacts(store, "refused") == {n: f"{TRACE} {n}" for n in (0, 2)}
    store.assert_mirrors(story)
