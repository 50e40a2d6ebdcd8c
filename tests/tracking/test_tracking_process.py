"""The process that writes MLflow, and servers that fail."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import pytest

from tests.servers import PATIENCE
from tests.stores import Store, drain
from tests.stories import Story
from tuner.events import Reported
from tuner.tracking import process as follow
from tuner.tracking.dashboard import command, sqlite_uri, uri_of
from tuner.tracking.sqlite_store import connect
from tuner.tracking.sync import Progress, Tracker

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
