"""MLflow as the ledger's mirror: everything is there, once, whatever died, was away, or answered nonsense."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import pandas as pd
import pytest

from tests.servers import PATIENCE
from tests.stores import Store, drain
from tests.stories import DATA, Story, instalments
from tuner import champion as champion_of
from tuner.errors import TunerError
from tuner.events import Opened, Reported
from tuner.ledger import Ledger
from tuner.terminal.progress import PlainProgress
from tuner.tracking import process as follow
from tuner.tracking.dashboard import SQLITE, command, link, serve, sqlite_uri, uri_of
from tuner.tracking.shared_view import VIEW
from tuner.tracking.sqlite_store import connect
from tuner.tracking.sync import Progress, Tracker
from tuner.tracking.writer import Writer


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("home"))


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


# --- servers that fail -----------------------------------------------------------------------------


class Server:
    """MLflow's own REST server in a thread, behind a door that can be told to misbehave."""

    def __init__(self, store: Store) -> None:
        from werkzeug.serving import make_server

        os.environ["_MLFLOW_SERVER_FILE_STORE"] = store.uri
        os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = Path(str(store.artifacts)).as_uri()
        from mlflow.server import app

        self.mood: Callable[[WSGIApplication, WSGIEnvironment, StartResponse], Any] = willing
        self._server = make_server("127.0.0.1", 0, lambda e, s: self.mood(app, e, s), threaded=True)
        self.uri = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()


def willing(app: WSGIApplication, environ: WSGIEnvironment, start: StartResponse) -> Any:
    return app(environ, start)


def broken(app: WSGIApplication, environ: WSGIEnvironment, start: StartResponse) -> Any:
    start("500 Internal Server Error", [("Content-Type", "text/plain")])
    return [b"no"]


def forgetful(app: WSGIApplication, environ: WSGIEnvironment, start: StartResponse) -> Any:
    """Does what it is asked, and answers that it has not."""
    list(app(environ, lambda *_: lambda _: None))
    return broken(app, environ, start)


RECOVERED = threading.Event()


def hanging(app: WSGIApplication, environ: WSGIEnvironment, start: StartResponse) -> Any:
    """No answer before it is too late."""
    assert RECOVERED.wait(PATIENCE)
    return broken(app, environ, start)


@pytest.fixture(scope="module")
def server(store: Store) -> Iterator[Server]:
    server = Server(store)
    yield server
    server.close()


@pytest.fixture
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in follow.SETTINGS.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(int(PATIENCE)))


@pytest.mark.usefixtures("_settings")
@pytest.mark.parametrize("mood", [broken, forgetful, hanging])
def test_a_server_that_fails_delays_the_writer_and_everything_arrives_afterwards(
    store: Store, server: Server, tmp_path: Path, mood: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = Story(tmp_path, f"server-{mood.__name__}").whole()
    points = sum(len(event.metrics) for event in story.ledger.read() if isinstance(event, Reported))
    tracker = Tracker(story.folder, server.uri, None)
    server.mood = mood
    RECOVERED.clear()
    with monkeypatch.context() as patched:
        if mood is hanging:
            patched.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        for _ in range(2 if mood is hanging else 4):
            progress = tracker.cycle()
            assert progress.error is not None
            assert (progress.written, progress.waiting) == (0, points)
    server.mood = willing
    RECOVERED.set()
    drain(tracker)
    assert tracker.cycle() == Progress(points, 0)
    tracker.close()
    store.assert_mirrors(story)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.usefixtures("_settings")
def test_a_server_that_is_down_is_named_without_its_password(tmp_path: Path) -> None:
    story = Story(tmp_path, "down").whole()
    address = f"127.0.0.1:{free_port()}"
    tracker = Tracker(story.folder, f"http://anna:s3cret@{address}", None)
    progress = tracker.cycle()
    assert progress.error is not None
    assert address.partition(":")[2] in progress.error
    assert "s3cret" not in progress.error
    assert progress.waiting == 33
    tracker.close()


# --- the process -----------------------------------------------------------------------------------


def start_follower(story: Story, store: Store, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*command(story.folder, store.uri, store.artifacts), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_process_follows_the_ledger_and_drains_when_its_stdin_ends(store: Store, tmp_path: Path) -> None:
    story = Story(tmp_path, "followed")
    story.ask(range(4))
    story.start(0, [0, 2])
    story.start(1, [1, 3])
    process = start_follower(story, store)
    assert process.stdout is not None
    try:
        story.report(1, range(4))
        for line in process.stdout:
            if json.loads(line)["written"] == 11:
                break
        process.send_signal(signal.SIGINT)  # Ctrl-C in a terminal reaches the whole group
        story.report(2, range(4))
        story.end(range(4))
        story.complete()
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == follow.DRAINED, err
    assert json.loads(out.splitlines()[-1]) == {"written": 22, "waiting": 0, "error": None}
    store.assert_mirrors(story)


def test_the_process_gives_up_on_a_server_that_stays_away(tmp_path: Path) -> None:
    story = Story(tmp_path, "hopeless").whole()
    line = command(story.folder, f"http://127.0.0.1:{free_port()}", None, once=True, patience=0)
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == follow.BEHIND, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["written"], last["waiting"]) == (0, 33)
    assert last["error"]


def test_following_ends_at_once_for_a_study_that_never_began(store: Store, tmp_path: Path) -> None:
    tracker = store.track(Story(tmp_path, "unborn", begin=False))
    ended = threading.Event()
    ended.set()
    assert follow.follow(tracker, ended, 0, lambda _: None) == follow.DRAINED
    tracker.close()
    assert store.client.get_experiment_by_name("unborn") is None


def test_a_writer_whose_driver_died_goes_on_without_its_pipe(store: Store, tmp_path: Path) -> None:
    story = Story(tmp_path, "orphaned").whole()
    process = start_follower(story, store)
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdout.close()
    process.stdin.close()
    assert process.wait(timeout=PATIENCE) == follow.DRAINED
    store.assert_mirrors(story)


def test_a_store_that_we_make_does_not_wait_for_the_disk_and_somebody_elses_keeps_its_ways(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.db", tmp_path / "theirs.db"
    connect(sqlite_uri(ours))
    with sqlite3.connect(ours) as made, sqlite3.connect(theirs) as copy:
        made.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")
    copy.close()
    for path, journal, synchronous in ((ours, "wal", 1), (theirs, "delete", 2)):
        client = connect(sqlite_uri(path))
        for part in (client._tracking_client.store, client._get_registry_client().store):
            with part.engine.connect() as connection:
                found = [
                    connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")
                ]
            assert found == [journal, synchronous]


def test_the_writer_leaves_the_store_in_its_one_file(tmp_path: Path) -> None:
    story = Story(tmp_path, "one-file").whole()
    uri, artifacts = uri_of("embedded", tmp_path)
    assert subprocess.run(command(story.folder, uri, artifacts, once=True), check=False).returncode == follow.DRAINED
    assert {path.name for path in (tmp_path / "mlflow").iterdir()} == {"mlflow.db", "artifacts", "lock"}
    Store(tmp_path).assert_mirrors(story)


def test_the_process_leaves_without_taking_mlflow_apart_and_says_all_that_it_has_to_say() -> None:
    code = "import atexit, sys; from tuner.tracking import process; atexit.register(print, 'taken apart')"
    code += "; print('said'); print('told', file=sys.stderr); process.leave(3)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "said\n", "told\n")


@pytest.mark.slow
def test_a_first_use_cut_short_leaves_nothing_that_is_mistaken_for_a_store(tmp_path: Path) -> None:
    uri, _ = uri_of("embedded", tmp_path)
    folder = tmp_path / "mlflow"
    folder.mkdir()
    (folder / "mlflow.db.new").write_bytes(b"half of a database")
    assert connect(uri).search_experiments()
    assert {path.name for path in folder.iterdir()} - {"mlflow.db-wal", "mlflow.db-shm"} == {"mlflow.db", "lock"}


def test_two_first_uses_of_a_store_at_once_do_not_race(tmp_path: Path) -> None:
    stories = [Story(tmp_path, f"first-{number}").whole() for number in range(3)]
    uri, artifacts = uri_of("embedded", tmp_path / "fresh home? %41 # ü")
    processes = [subprocess.Popen(command(story.folder, uri, artifacts, once=True)) for story in stories]
    assert [process.wait(timeout=PATIENCE) for process in processes] == [follow.DRAINED] * 3
    store = Store(tmp_path / "fresh home? %41 # ü")
    for story in stories:
        store.assert_mirrors(story)


@pytest.mark.slow
def test_a_writer_killed_again_and_again_loses_and_repeats_nothing(store: Store, tmp_path: Path) -> None:
    """In the cycle after the first that has written; at every statement: test_tracking_bulk.py."""
    story = Story(tmp_path, "killed", trials=12)
    story.ask(range(12))
    story.start(0, range(12))
    for epoch in range(1, 4):
        process = start_follower(story, store)
        assert process.stdout is not None
        story.report(epoch, range(12))
        assert any(json.loads(line)["written"] for line in process.stdout)
        process.kill()
        process.communicate()
    story.end(range(12))
    story.complete()
    store.sync(story)
    store.assert_mirrors(story)


@pytest.mark.parametrize(("worked", "pause"), [(0.0, 2.0), (1.0, 4.0), (9.0, 5.0)])
def test_the_dashboard_is_never_long_behind(worked: float, pause: float) -> None:
    assert follow._pause(worked) == pause


class Clock:
    """Stands in for a module's `time` and for an event that never comes: waiting passes the time."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return False


def test_what_is_left_after_the_last_trial_is_written_while_the_winner_is_made(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock: Any = Clock()
    monkeypatch.setattr(follow, "time", clock)
    story = Story(tmp_path, "overlapped", trials=2)
    tracker = store.track(story)
    story.ask([0, 1])
    story.start(0, [0, 1])
    story.report(1, [0, 1])
    story.end([0])
    follow._rest(tracker, clock, 60.0)
    assert clock.now == pytest.approx(60.0), "a trial still trains: no hurry"
    story.end([1])
    follow._rest(tracker, clock, 60.0)
    assert clock.now == pytest.approx(60.0)
    drain(tracker)
    assert store.children("overlapped")[1].info.status == "KILLED"
    assert not tracker.look(), "there is nothing left to write"
    tracker.close()


def test_a_store_that_is_away_is_not_asked_again_and_again_because_the_study_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Away:
        drained = connected = blind = False
        cycles = 0

        def cycle(self, closing: bool) -> Progress:
            self.cycles += 1
            if self.cycles == 2:
                ended.set()
            return Progress(0, 5, "away")

        def look(self) -> bool:
            return True

    monkeypatch.setattr(follow, "_RETRY_SECONDS", 0.0)
    tracker: Any = Away()
    ended = threading.Event()
    assert follow.follow(tracker, ended, -1, lambda _: None) == follow.BEHIND
    assert tracker.cycles == 3


def test_connecting_is_told_apart_from_writing(store: Store, tmp_path: Path) -> None:
    tracker = store.track(Story(tmp_path, "connecting").whole())
    assert tracker.cycle().error is None
    assert tracker.connected
    assert tracker.cycle().error is None
    assert not tracker.connected
    tracker.close()


# --- the process as the driver has it --------------------------------------------------------------


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that waits for its writer on any machine."""
    monkeypatch.setattr("tuner.tracking.writer.PATIENT", PATIENCE)


@pytest.mark.parametrize("once", [False, True])
def test_a_writer_gives_a_complete_study_what_mlflow_never_got(store: Store, tmp_path: Path, once: bool) -> None:
    home = Path(str(store.artifacts)).parents[1]
    story = Story(tmp_path, f"undrained-{once}".lower()).whole()
    for written in (33, 0):  # and then there is nothing left to write
        stream = io.StringIO()
        with story.ledger.lock(), Writer(story.folder, home, "embedded", once=once) as writer:
            assert writer.drain(PlainProgress(stream), patient=True) == {
                "written": written,
                "waiting": 0,
                "error": None,
            }
        assert stream.getvalue() == f"MLflow is up to date ({written} points)\n"
        store.assert_mirrors(story)


def test_a_writer_that_may_not_wait_says_what_is_left_and_leaves(tmp_path: Path) -> None:
    story, stream = Story(tmp_path, "hurried").whole(), io.StringIO()
    with Writer(story.folder, tmp_path, f"http://127.0.0.1:{free_port()}") as writer:
        said = writer.drain(PlainProgress(stream), patient=True, seconds=0.0)
    assert said is not None
    assert said["error"]
    assert "MLflow: not finished (still writing); `tuner sync` makes sure" in stream.getvalue()
    assert writer._process is not None
    assert writer._process.returncode is not None


@pytest.mark.parametrize(("ending", "grace", "status"), [("", PATIENCE, 0), ("signal.pause()", 0.0, -signal.SIGTERM)])
def test_an_exception_leaves_the_writer_time_to_finish(
    ending: str, grace: float, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "finished"
    code = f"import signal, sys; sys.stdin.read(); open({str(mark)!r}, 'w').close(); {ending}"
    monkeypatch.setattr("tuner.tracking.writer.command", lambda *_, **__: [sys.executable, "-c", code])
    monkeypatch.setattr("tuner.tracking.writer._END_SECONDS", PATIENCE)
    monkeypatch.setattr("tuner.tracking.writer._LEAVE_SECONDS", grace)
    with pytest.raises(ZeroDivisionError), Writer(tmp_path, tmp_path, "embedded") as writer:
        raise ZeroDivisionError
    assert mark.exists() or grace == 0.0
    assert writer._process is not None
    assert writer._process.returncode == status


@pytest.mark.parametrize("told", [False, True])
def test_a_writer_that_is_killed_is_followed_by_another(tmp_path: Path, told: bool) -> None:
    story = Story(tmp_path, "killed-writer").whole()
    with story.ledger.lock(), Writer(story.folder, tmp_path, "embedded") as writer:
        assert writer._process is not None
        first = writer._process
        if told:
            writer._tell()
        first.kill()
        said = writer.drain(PlainProgress(io.StringIO()), patient=True)
        assert writer._process is not first
    assert said is not None and said["error"] is None
    Store(tmp_path).assert_mirrors(story)


def test_a_writer_that_somebody_kills_again_and_again_is_told_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    monkeypatch.setattr("tuner.tracking.writer.command", lambda *_, **__: line)
    stream = io.StringIO()
    with Writer(tmp_path, tmp_path, "embedded") as writer:
        writer.drain(PlainProgress(stream), patient=True)
    assert stream.getvalue() == "MLflow: points waiting (the writer was ended by SIGKILL); `tuner sync` writes them\n"


def test_the_writer_gives_way_to_training_from_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    monkeypatch.setattr("tuner.tracking.writer.command", lambda *_, **__: line)
    with Writer(tmp_path, tmp_path, "embedded") as writer:
        assert writer._process is not None
        assert os.getpriority(os.PRIO_PROCESS, writer._process.pid) >= 10


def test_nothing_is_started_where_tracking_is_off(tmp_path: Path) -> None:
    with Writer(tmp_path, tmp_path, "off") as writer:
        assert writer.drain(PlainProgress(io.StringIO()), patient=True) is None
    assert not list(tmp_path.iterdir())


# --- a real server ---------------------------------------------------------------------------------


def start_server(home: Path, study: str | None, port: int) -> subprocess.Popen[str]:
    code = (
        "from pathlib import Path; from tuner.tracking.dashboard import serve; "
        f"serve(Path({str(home)!r}), {study!r}, {port})"
    )
    return subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, text=True)


def stop_server(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=PATIENCE) == 0


@pytest.mark.slow
def test_a_stopped_server_loses_nothing_and_the_champion_comes_through_it(tmp_path: Path) -> None:
    home, port = tmp_path / "home", free_port()
    story = Story(home, "stopped", trials=6)
    crown(story, 0)
    server = start_server(home, None, port)
    assert server.stdout is not None
    assert f"127.0.0.1:{port}" in server.stdout.readline()
    workers = [int(pid) for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()]
    try:
        line = command(story.folder, f"http://127.0.0.1:{port}", None)
        writer = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert json.loads(writer.stdout.readline())["error"] is None
        for pid in workers:
            os.killpg(pid, signal.SIGSTOP)
        story.whole()
        story.test(0, accuracy=0.5)
        stuck = next(said for said in map(json.loads, writer.stdout) if said["error"])
        assert stuck["waiting"] > 0
        for pid in workers:
            os.killpg(pid, signal.SIGCONT)
        out, _ = writer.communicate(timeout=PATIENCE)
        assert writer.returncode == follow.DRAINED, out
        assert_champion(f"http://127.0.0.1:{port}", story)
    finally:
        stop_server(server)
    Store(home).assert_mirrors(story)


@pytest.mark.slow
def test_serving_prints_the_studys_link_and_ends_its_server(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    story = Story(tmp_path, "shown").whole()
    store = Store(tmp_path)
    store.sync(story)
    port = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        process = start_server(tmp_path, "shown", port)
        assert process.stdout is not None
        said = process.stdout.readline()
    experiment = store.client.get_experiment_by_name("shown").experiment_id
    assert said.startswith("http://127.0.0.1:")
    assert f":{port}/" not in said, "that port was taken"
    assert f"/#/experiments/{experiment}/runs?workflowType=machine_learning" in said
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=PATIENCE) == 0
    assert children
    assert not any(Path("/proc", pid).exists() for pid in children)


def test_a_study_tracked_by_a_server_is_shown_there(tmp_path: Path) -> None:
    story = Story(tmp_path, "elsewhere").whole()
    address = f"http://127.0.0.1:{free_port()}"
    story.tell(Opened(host="here", pid=1, tracking=address))
    with pytest.raises(TunerError, match=f"the MLflow server {address} cannot be reached"):
        serve(tmp_path, "elsewhere", 5000)


def test_the_link_opens_the_view_that_is_kept_with_the_experiment(store: Store, tmp_path: Path) -> None:
    store.sync(Story(tmp_path, "viewed", goal="minimize").whole())
    experiment = store.client.get_experiment_by_name("viewed")
    said = {"experiment_id": "3", "tags": [{"key": key, "value": value} for key, value in experiment.tags.items()]}
    address = link("http://127.0.0.1:5000", said, {"metric": "val/accuracy", "goal": "minimize"})
    before, _, key = address.partition("&viewStateShareKey=")
    assert before == "http://127.0.0.1:5000/#/experiments/3/runs?workflowType=machine_learning&compareRunsMode=CHART"
    view = json.loads(experiment.tags[f"mlflow.sharedViewState.{key}"])
    state = json.loads(view["state"])
    assert view["name"] == "Trials, best first"
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`best/val/accuracy`", True)


def test_the_link_to_an_experiment_without_a_view_sorts_by_the_objective_and_unfolds_the_trials() -> None:
    address = link("http://127.0.0.1:5000", {"experiment_id": "3"}, {"metric": "val/loss", "goal": "minimize"})
    assert address.startswith("http://127.0.0.1:5000/#/experiments/3/runs?workflowType=machine_learning")
    assert "compareRunsMode=CHART" in address
    assert "orderByKey=metrics.%60val%2Floss%60&orderByAsc=true" in address
    assert "searchFilter=tags.%60tuner.trial%60" in address
    assert "viewStateShareKey" not in address, "MLflow would leave the page with an error"


def test_addresses_are_those_of_the_study_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "home" / "mlflow"
    assert uri_of("embedded", Path("home")) == (f"{SQLITE}{folder}/mlflow.db", f"{folder}/artifacts")
    assert uri_of("sqlite:///x/my.db", Path("home")) == (f"{SQLITE}{tmp_path}/x/my.db", f"{tmp_path}/x/artifacts")
    assert uri_of("https://mlflow.example", Path("home")) == ("https://mlflow.example", None)


# --- the champion ----------------------------------------------------------------------------------


def crown(story: Story, number: int, width: int = 8) -> None:
    """Export a small network as the study's champion."""
    import torch

    from tuner import champion, data, models

    torch.set_num_threads(1)
    torch.manual_seed(width)
    dataset = data.load("breast_cancer")
    network = models.build("mlp", dataset.signature, {"width": width})
    champion.export(story.folder, network, dataset, {"number": number, "params": {"width": width}})


def assert_champion(uri: str, story: Story) -> None:
    """What MLflow serves as the study's champion predicts what the study's folder does."""
    import mlflow.pyfunc

    from tuner.champion import Predictor, example

    mlflow.set_tracking_uri(uri)
    try:
        loaded = mlflow.pyfunc.load_model(f"models:/{story.name}@champion")
    finally:
        mlflow.set_tracking_uri(None)
    raw, _ = example(story.folder / "champion")
    assert isinstance(raw, pd.DataFrame)
    pd.testing.assert_frame_equal(loaded.predict(raw), Predictor.load(story.folder).predict(raw), check_dtype=False)
    whole = raw.round().astype(int)  # a column may be whole numbers in one file and not in the next
    pd.testing.assert_frame_equal(loaded.predict(whole), Predictor.load(story.folder).predict(whole), check_dtype=False)
    assert loaded.metadata.signature.inputs.input_names() == list(raw.columns)
    assert loaded.metadata.signature.outputs.input_names()[0] == "prediction"
    assert loaded.metadata.saved_input_example_info is not None


def test_the_champion_is_registered_once_and_loads_by_its_alias(store: Store, tmp_path: Path) -> None:
    story = Story(tmp_path, "crowned").whole()
    crown(story, 3)
    story.test(3, accuracy=0.9)
    store.sync(story)
    assert_champion(store.uri, story)
    (version,) = store.client.search_model_versions("name = 'crowned'")
    child = store.children("crowned")[3]
    assert version.run_id == child.info.run_id
    assert "test/accuracy 0.9" in version.description
    assert "models:/crowned@champion" in store.client.get_registered_model("crowned").description
    (model,) = store.client.search_logged_models([child.info.experiment_id])
    assert model.params == child.data.params
    assert model.tags["mlflow.note.content"] == version.description
    store.client.set_tag(store.parent("crowned").info.run_id, "tuner.cursor", "0")
    store.sync(story)
    assert [v.version for v in store.client.search_model_versions("name = 'crowned'")] == [version.version]
    assert len(store.client.get_run(child.info.run_id).outputs.model_outputs) == 1
    story.extend(5)
    crown(story, 0, width=16)
    story.test(0, accuracy=0.95)
    story.complete()
    store.sync(story)
    assert_champion(store.uri, story)
    assert len(store.client.search_model_versions("name = 'crowned'")) == 2


def test_the_process_that_leaves_imports_out_still_tells_what_the_champion_takes_and_answers(tmp_path: Path) -> None:
    import mlflow

    story = Story(tmp_path, "crowned").whole()
    crown(story, 3)
    story.test(3, accuracy=0.9)
    story.complete()
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    command = [sys.executable, "-P", "-m", "tuner.tracking.process", str(story.folder), "--uri", uri, "--once"]
    said = subprocess.run([*command, "--artifacts", str(tmp_path)], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert "Failed to infer" not in said.stderr
    mlflow.set_tracking_uri(uri)
    try:
        signature = mlflow.models.get_model_info("models:/crowned@champion").signature
    finally:
        mlflow.set_tracking_uri("")
    assert "AnyType" not in repr(signature)
    assert signature.inputs.is_tensor_spec() or signature.inputs.input_names()


def test_neither_the_rehearsal_nor_the_champion_waits_for_a_look_at_all_that_is_installed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib_metadata
    from mlflow.utils import requirements_utils

    looks = []
    look = importlib_metadata.packages_distributions
    monkeypatch.setattr(importlib_metadata, "packages_distributions", lambda: looks.append(1) or look())
    monkeypatch.setattr(requirements_utils, "_MODULES_TO_PACKAGES", None)
    story = Story(tmp_path, "rehearsed")
    tracker = store.track(story)
    drain(tracker)
    tracker.prepare()
    story.whole()
    crown(story, 3)
    story.test(3, accuracy=0.9)
    drain(tracker)
    tracker.close()
    assert_champion(store.uri, story)
    assert looks == []
    (champion,) = store.client.search_model_versions("name = 'rehearsed'")
    needs = Path(champion.source.removeprefix("file://"), "requirements.txt").read_text().split()
    assert [need.partition("==")[0] for need in needs] == ["mlflow", "torch", "safetensors", "numpy", "pandas"]
    assert all(version(name) == number for name, _, number in (need.partition("==") for need in needs))


def test_a_rehearsal_leaves_nothing_in_mlflow(tmp_path: Path) -> None:
    store = Store(tmp_path)
    story = Story(tmp_path, "nothing-left")
    tracker = store.track(story)
    drain(tracker)

    def rows() -> dict[str, int]:
        with sqlite3.connect(tmp_path / "mlflow" / "mlflow.db") as database:
            names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return {name: database.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names}

    before = rows()
    tracker._projection.under_way = True
    tracker.prepare()
    assert tracker._prepared
    assert rows() == before
    tracker.close()


def test_what_is_shown_of_a_winner_is_in_its_own_run_however_often_it_is_written(store: Store, tmp_path: Path) -> None:
    def shown(number: int) -> dict[str, str]:
        run = store.children("shown")[number].info.run_id
        files = store.client.list_artifacts(run, "looks")
        return {file.path: Path(store.client.download_artifacts(run, file.path)).read_text() for file in files}

    story = Story(tmp_path, "shown").whole()
    for number, text in ((3, "It was"), (0, "the best")):
        place = champion_of.looks(story.folder, number)
        place.mkdir(parents=True)
        (place / "sample.txt").write_text(text)
    champion_of.refuse(story.folder, "torch.export refuses it")  # no champion, and what is shown arrives all the same
    story.test(3, accuracy=0.9)
    store.sync(story)
    assert (shown(3), shown(0)) == ({"looks/sample.txt": "It was"}, {})
    story.extend(5)
    story.test(0, accuracy=0.95)
    story.complete()
    store.sync(story)
    store.client.set_tag(store.parent("shown").info.run_id, "tuner.cursor", "0")
    store.sync(story)
    assert (shown(3), shown(0)) == ({"looks/sample.txt": "It was"}, {"looks/sample.txt": "the best"})


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False])
def test_the_champion_arrives_once_whichever_call_fails(store: Store, tmp_path: Path, before: bool) -> None:
    crowning = 0
    for at in range(1, 40):
        story = Story(tmp_path, f"crown-{at}-{'before' if before else 'after'}", trials=1)
        story.ask([0])
        story.start(0, [0])
        story.report(1, [0])
        story.end([0])
        crown(story, 0)
        story.test(0, accuracy=0.9)
        story.complete()
        client = Saboteur(store.client, at, before, Killed())
        tracker = store.track(story)
        tracker._client = client  # type: ignore[assignment]
        try:
            drain(tracker)
        except Killed:
            crowning += 1
        tracker.close()
        store.sync(story)
        store.assert_mirrors(story)
        (version,) = store.client.search_model_versions(f"name = '{story.name}'")
        assert store.client.get_model_version_by_alias(story.name, "champion").version == version.version
        assert len(store.client.get_run(version.run_id).outputs.model_outputs) == 1
        if client.calls < at:
            break
    assert crowning > 20


def test_a_champion_that_was_taken_away_does_not_hold_up_the_rest(store: Store, tmp_path: Path) -> None:
    story = Story(tmp_path, "bare").whole()
    story.test(0, accuracy=0.9)
    store.sync(story)
    store.assert_mirrors(story)


def test_tracking_never_writes_to_the_ledger(store: Store, tmp_path: Path) -> None:
    story = Story(tmp_path, "read-only").whole()
    before = list(story.ledger.read())
    store.sync(story)
    with Ledger.open(story.folder, read_only=True) as ledger:
        assert list(ledger.read()) == before
