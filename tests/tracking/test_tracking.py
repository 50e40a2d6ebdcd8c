"""MLflow as the ledger's mirror: everything is there, once, whatever died, was away, or answered nonsense."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.stores import Store, drain
from tests.stories import DATA, Story, instalments
from tuner.tracking.shared_view import VIEW
from tuner.tracking.sync import Progress, Tracker

# --- what is there ---------------------------------------------------------------------------------


def test_everything_that_a_person_looks_for_is_found_after_a_sync(store: Store, tmp_path: Path) -> None:
    story = Story(tmp_path, "whole-study", trials=5).whole()
    store.sync(story)
    store.assert_mirrors(story)
    history, parent, children = story.ledger.history(), store.parent("whole-study"), store.children("whole-study")
    assert parent.info.run_name == "whole-study"
    assert parent.info.start_time == int(history.created_at * 1000)
    assert parent.info.end_time == int(history.updated_at * 1000)
    note = parent.data.tags["mlflow.note.content"]
    assert "**whole-study**: complete. 5 of 5 trials ended: 2 complete, 2 pruned, 1 failed." in note
    best = history.best("val/accuracy", maximize=True)
    assert best is not None
    assert f"**trial {best.number}**" in note
    assert "| learning_rate |" in note
    tags = {key: value for key, value in parent.data.tags.items() if key.startswith("tuner.")}
    assert tags == {
        "tuner.study": "whole-study",
        "tuner.ledger": "id-of-whole-study",
        "tuner.seed": "7",
        "tuner.spec_sha256": "a" * 64,
        "tuner.state": "complete",
        "tuner.best_trial": str(best.number),
        "tuner.cursor": str(history.seq),
        "tuner.form": "2",
    }
    assert children[2].info.run_name == "trial-0002"
    assert children[2].data.params == {
        "family": "mlp",
        "activation": "relu",
        "width": "16",
        "epochs": "3",
        "batch_size": "32",
        "nesterov": "False",
        "early_stopping": "None",
        "learning_rate": "0.01",
        "optimizer": "sgd",
    }
    note = children[2].data.tags["mlflow.note.content"]
    assert note.startswith("Trial 2 of study **whole-study**: failed after 3 epochs. Best val/accuracy: **0.")
    assert note.endswith("`loss is nan at step 12`")
    assert children[2].data.tags == {
        "mlflow.parentRunId": parent.info.run_id,
        "mlflow.runName": "trial-0002",
        "tuner.study": "whole-study",
        "tuner.ledger": "id-of-whole-study",
        "tuner.trial": "2",
        "tuner.seed": "102",
        "tuner.spec_sha256": "a" * 64,
        "tuner.state": "FAILED",
        "tuner.cohort": "0",
        "tuner.message": "loss is nan at step 12",
        "mlflow.note.content": note,
    }


def test_the_spec_is_an_artifact_and_the_dataset_an_input(store: Store, tmp_path: Path) -> None:
    story = Story(tmp_path, "papers").whole(1)
    store.sync(story)
    parent = store.parent("papers")
    text = Path(store.client.download_artifacts(parent.info.run_id, "study.yaml", str(tmp_path))).read_text()
    assert text == "study: papers\n"
    (used,) = parent.inputs.dataset_inputs
    assert used.dataset.name == "digits"
    assert used.dataset.digest == DATA["digest"][:36]
    assert json.loads(used.dataset.source)["digest"] == DATA["digest"]
    rows = {"train_rows": 10, "validation_rows": 5, "test_rows": 5}
    looks = {"task": "classification", "inputs": "numbers 64", "classes": 10}
    assert json.loads(used.dataset.profile) == rows | looks
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]
    assert store.artifacts is not None
    assert Path(store.artifacts, "papers").is_dir()


def test_a_minimized_objective_falls(store: Store, tmp_path: Path) -> None:
    store.sync(Story(tmp_path, "falling", trials=7, goal="minimize").whole())
    values = [value for _, value, _ in store.points(store.parent("falling"))["best/val/accuracy"]]
    assert len(values) == 7
    assert values == sorted(values, reverse=True)


def test_test_scores_are_the_studys_and_a_tag_of_their_trial(store: Store, tmp_path: Path) -> None:
    story = Story(tmp_path, "scored").whole()
    story.test(0, accuracy=0.75, loss=0.5)
    story.test(0, accuracy=0.75, loss=0.5)  # an extension whose best is the same trial finds it tested
    story.test(3, accuracy=0.5)
    store.sync(story)
    found = store.points(store.parent("scored"))
    assert [(step, value) for step, value, _ in found["test/accuracy"]] == [(0, 0.75), (1, 0.5)]
    assert [(step, value) for step, value, _ in found["test/loss"]] == [(0, 0.5)]
    child = store.children("scored")[0].data
    assert child.tags["tuner.test"] == "test/accuracy 0.75, test/loss 0.5"
    assert not any(key.startswith("test/") for key in child.metrics)


def test_an_extended_study_goes_on_in_the_same_runs(store: Store, tmp_path: Path) -> None:
    story = Story(tmp_path, "longer", trials=3).whole()
    store.sync(story)
    before = {number: run.info.run_id for number, run in store.children("longer").items()}
    story.extend(5)
    story.ask([3, 4])
    story.start(2, [3, 4])
    story.report(1, [3, 4])
    story.end([3, 4])
    story.complete()
    store.sync(story)
    store.assert_mirrors(story)
    after = store.children("longer")
    assert {number: after[number].info.run_id for number in before} == before
    assert [after[number].data.tags["tuner.spec_sha256"][0] for number in range(5)] == list("aaabb")
    text = store.client.download_artifacts(store.parent("longer").info.run_id, "study.yaml", str(tmp_path))
    assert Path(text).read_text() == "study: longer #2\n"


def test_waiting_trials_have_no_run_and_nothing_is_written_twice_over(store: Store, tmp_path: Path) -> None:
    story = Story(tmp_path, "early")
    story.ask(range(4))
    story.start(0, [0, 2])
    tracker = store.track(story)
    drain(tracker)
    assert store.children("early").keys() == {0, 2}
    story.report(1, [0, 2])
    assert tracker.cycle() == Progress(6, 0)
    tracker._client = None  # nothing is new, so nothing is asked of MLflow
    for _ in range(3):
        tracker._client = Silent()  # type: ignore[assignment]
        assert tracker.cycle() == Progress(6, 0)
    tracker.close()


class Silent:
    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was called although nothing is new")


# --- who lives, who died ---------------------------------------------------------------------------


def test_nothing_runs_in_mlflow_once_its_driver_is_gone(store: Store, tmp_path: Path) -> None:
    story = Story(tmp_path, "mortal")
    story.ask(range(4))
    story.start(0, [0, 2])
    story.report(1, [0, 2])
    with story.ledger.lock():
        tracker = store.track(story)
        drain(tracker)
        assert {run.info.status for run in store.runs("mortal")} == {"RUNNING"}
        assert store.parent("mortal").data.tags["tuner.state"] == "running"
        story.end([0])
        drain(tracker)
        assert {n: run.info.status for n, run in store.children("mortal").items()} == {0: "FINISHED", 2: "RUNNING"}
    drain(tracker)  # killed: it could not write that it was interrupted, but its lock is free
    child = store.children("mortal")[2]
    assert (child.info.status, child.data.tags["tuner.state"]) == ("KILLED", "INTERRUPTED")
    assert store.parent("mortal").info.status == "KILLED"
    assert "interrupted" in store.parent("mortal").data.tags["mlflow.note.content"]
    tracker.close()
    with story.ledger.lock():  # launched again
        tracker = store.track(story)
        story.start(0, [2], attempt=2, epoch=1)
        drain(tracker)
        assert {n: run.info.status for n, run in store.children("mortal").items()} == {0: "FINISHED", 2: "RUNNING"}
        assert store.parent("mortal").info.status == "RUNNING"
        story.report(2, [2])
        story.interrupt()
        drain(tracker)
        assert {run.info.status for run in store.runs("mortal")} == {"FINISHED", "KILLED"}
    tracker.close()
    with story.ledger.lock():
        story.start(0, [2], attempt=3, epoch=2)
        story.start(1, [1, 3])
        story.report(1, [1, 3])
        story.end([1, 2, 3])
        story.complete()
        store.sync(story)
    store.assert_mirrors(story)


def test_a_driver_that_has_closed_its_pipe_counts_as_gone(store: Store, tmp_path: Path) -> None:
    story = Story(tmp_path, "closing")
    story.ask([0])
    story.start(0, [0])
    tracker = Tracker(story.folder, store.uri, store.artifacts, driver=os.getpid())
    with story.ledger.lock():
        assert tracker.cycle(closing=False).error is None
        assert store.children("closing")[0].info.status == "RUNNING"
        assert tracker.cycle(closing=True).error is None
        assert store.children("closing")[0].info.status == "KILLED"
    tracker.close()


def test_one_process_writes_a_study_at_a_time(store: Store, tmp_path: Path) -> None:
    story = Story(tmp_path, "alone").whole()
    first, second = store.track(story), store.track(story)
    drain(first)
    progress = second.cycle()
    assert progress.error is not None
    assert "another process" in progress.error
    assert progress.waiting > 0
    first.close()
    drain(second)
    second.close()
    store.assert_mirrors(story)


# --- replay ----------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


class Saboteur:
    """A client whose n-th call fails, before it reached MLflow or after: an answer that is lost."""

    def __init__(self, client: Any, at: int, before: bool, error: BaseException) -> None:
        self._client, self._at, self._before, self._error = client, at, before, error
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            if self.calls == self._at and self._before:
                raise self._error
            answer = method(*arguments, **named)
            if self.calls == self._at:
                raise self._error
            return answer

        return call


def sabotage(store: Store, folder: Path, at: int, before: bool, dies: bool) -> int:
    """Write a short study while the `at`-th call of MLflow fails; how many calls there were."""
    name = f"{folder.name}-{at}-{'before' if before else 'after'}-{'dies' if dies else 'errs'}"
    story = Story(folder, name, trials=2)
    error = Killed() if dies else OSError("the connection was reset")
    client = Saboteur(store.client, at, before, error)
    tracker = store.track(story)
    for _ in instalments(story):
        for _ in range(6):
            tracker._client = client  # type: ignore[assignment]
            try:
                tracker.cycle()
            except Killed:
                tracker.close()
                tracker = store.track(story)
            if tracker.drained:
                break
    tracker.close()
    store.assert_mirrors(story)
    return client.calls


def test_a_death_or_a_fault_at_some_calls_adds_nothing_twice_and_misses_nothing(store: Store, tmp_path: Path) -> None:
    at = calls = 1
    while at <= calls:
        calls = sabotage(store, tmp_path, at, before=at % 2 == 0, dies=at % 3 != 0)
        at += 3
    assert calls > 20, "the study was too short to be a test"


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("dies", [True, False])
def test_a_death_or_a_fault_at_any_call_adds_nothing_twice_and_misses_nothing(
    store: Store, tmp_path: Path, before: bool, dies: bool
) -> None:
    at = calls = 1
    while at <= calls:
        calls = sabotage(store, tmp_path, at, before, dies)
        at += 1
    assert calls > 20


@pytest.mark.parametrize("gone", ["cursor", "child", "parent", "experiment", "twice"])
def test_what_was_deleted_in_mlflow_comes_back_from_the_ledger(store: Store, tmp_path: Path, gone: str) -> None:
    story = Story(tmp_path, f"without-{gone}").whole()
    store.sync(story)
    parent, children = store.parent(story.name), store.children(story.name)
    if gone == "cursor":
        store.client.set_tag(parent.info.run_id, "tuner.cursor", "nonsense")
    elif gone == "child":
        store.client.delete_run(children[2].info.run_id)
    elif gone == "parent":
        store.client.delete_run(parent.info.run_id)
    elif gone == "experiment":
        store.client.delete_experiment(parent.info.experiment_id)
    else:  # a request that was thought lost has made a second run of a trial, and one of the study
        tags = {"tuner.ledger": f"id-of-{story.name}"}
        store.client.create_run(parent.info.experiment_id, tags=tags)
        store.client.create_run(parent.info.experiment_id, tags={**tags, "tuner.trial": "2"})
    store.sync(story)
    store.assert_mirrors(story)


def test_a_run_that_a_stopped_server_makes_late_is_taken_away(store: Store, tmp_path: Path) -> None:
    story = Story(tmp_path, "late").whole()
    tracker = store.track(story)
    tracker._client = Saboteur(store.client, 7, True, OSError("timed out"))  # type: ignore[assignment]
    assert tracker.cycle().error == "timed out"
    assert tracker.cycle().error is None
    assert not tracker.drained, "after a fault it must look again"
    parent = store.parent("late")
    tags = {"tuner.ledger": "id-of-late", "tuner.trial": "1", "mlflow.parentRunId": parent.info.run_id}
    store.client.create_run(parent.info.experiment_id, tags=tags)
    drain(tracker)
    tracker.close()
    store.assert_mirrors(story)


def test_a_long_backlog_is_written_in_slices(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.tracking.sync._SLICE", 3)
    story = Story(tmp_path, "sliced", trials=3).whole()
    writer = store.track(story)
    waiting = [writer.cycle().waiting for _ in range(8)]
    writer.close()
    assert waiting[0] > waiting[-1] == 0
    assert waiting == sorted(waiting, reverse=True)
    store.assert_mirrors(story)


def test_a_study_that_an_older_release_wrote_gets_what_came_since(store: Store, tmp_path: Path) -> None:
    story = Story(tmp_path, "older").whole()
    with pytest.MonkeyPatch.context() as older:  # a release without best epochs, nor a mark of what it wrote
        older.setattr("tuner.tracking.projection._improvements", lambda *_: frozenset())
        older.setattr("tuner.tracking.shared_view.BEST", "")
        older.setattr("tuner.tracking.sync._NEWEST", "1")
        store.sync(story)
    assert "best/epoch" not in store.children("older")[0].data.metrics
    store.sync(story)
    store.assert_mirrors(story)
    view = store.client.get_experiment_by_name("older").tags[f"mlflow.sharedViewState.{VIEW}"]
    assert "best/val/accuracy" in view


def test_an_older_copy_of_the_ledger_is_written_from_its_beginning(store: Store, tmp_path: Path) -> None:
    story = Story(tmp_path / "new", "restored").whole()
    store.sync(story)
    older = Story(tmp_path / "old", "restored", trials=2)
    older.ask([0, 1])
    older.start(0, [0, 1])
    tracker = store.track(older)
    warning = tracker.cycle().warning
    drain(tracker)
    tracker.close()
    assert store.parent("restored").data.tags["tuner.cursor"] == str(older.ledger.last())
    assert warning is not None
    assert f"written to MLflow, and its ledger holds {older.ledger.last()}: the others are lost" in warning
