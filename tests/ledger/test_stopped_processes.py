"""A process that was stopped keeps what it holds: it is named, and a writer that its driver left behind is ended.

The processes are real, and stop themselves at named points; the tests end them by their ids.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.events import asked
from tests.servers import until
from tests.stores import Store, drain
from tests.stories import Story
from tuner import processes
from tuner.cli.stopping import stop as stop_study
from tuner.errors import LedgerError, StudyLocked, TunerError
from tuner.ledger import Ledger, sqlite, study_folder
from tuner.tracking import in_the_way
from tuner.tracking.dashboard import first_use

# A writer that stops itself: with its study's lock, while it opens the store, in the middle of a transaction.
WRITER = """
import os, signal, sys
from pathlib import Path
from tuner.tracking import sql_writer, sqlite_store, sync

def stop(*_):
    print(os.getpid(), flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)

folder, uri, artifacts, point = sys.argv[1:]
driver = os.getppid()
points = {"lock": (sync.Tracker, "_write"), "use": (sqlite_store, "_make"), "commit": (sql_writer.SqlWriter, "_check")}
owner, name = points[point]
setattr(owner, name, stop)
sync.Tracker(Path(folder), uri, artifacts, driver).cycle()
"""
DRIVER = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", *sys.argv[1:]]).wait()
"""


Abandon = Callable[..., tuple[subprocess.Popen[str], int]]


@pytest.fixture
def left_behind() -> Iterator[Abandon]:
    """Starts a driver and its writer, which stops at a point; the driver is killed unless it is to live."""
    began: list[tuple[subprocess.Popen[str], int]] = []

    def start(story: Story, store: Store, point: str, *, driven: bool = False) -> tuple[subprocess.Popen[str], int]:
        given = [WRITER, str(story.folder), store.uri, str(store.artifacts), point]
        driver = subprocess.Popen([sys.executable, "-c", DRIVER, *given], stdout=subprocess.PIPE, text=True)
        assert driver.stdout is not None
        writer = int(driver.stdout.readline())
        began.append((driver, writer))
        until(lambda: processes.stopped(writer))
        if not driven:
            driver.kill()
            driver.wait()
        return driver, writer

    yield start
    for driver, writer in began:
        if processes.start(writer) is not None:
            os.kill(writer, signal.SIGKILL)
        driver.kill()
        driver.communicate()


POINTS = ["lock", "use", "commit"]


@pytest.mark.parametrize("point", POINTS)
def test_a_writer_whose_driver_is_gone_is_ended_by_who_writes_the_study_next(
    tmp_path: Path, left_behind: Abandon, point: str
) -> None:
    store = Store(tmp_path)
    story = Story(tmp_path, "left").whole()
    _, writer = left_behind(story, store, point)
    store.sync(story)
    assert processes.start(writer) is None
    store.assert_mirrors(story)


@pytest.mark.parametrize("point", ["use", "commit"])
def test_a_writer_whose_driver_is_gone_keeps_no_other_study_from_the_store(
    tmp_path: Path, left_behind: Abandon, point: str
) -> None:
    store = Store(tmp_path)
    story, other = Story(tmp_path, "left").whole(), Story(tmp_path, "other").whole()
    _, writer = left_behind(story, store, point)
    store.sync(other)
    assert processes.start(writer) is None
    store.assert_mirrors(other)
    store.sync(story)
    store.assert_mirrors(story)


def test_a_stopped_writer_whose_driver_lives_is_named_and_left_alone(tmp_path: Path, left_behind: Abandon) -> None:
    store = Store(tmp_path)
    story = Story(tmp_path, "driven").whole()
    driver, writer = left_behind(story, store, "lock", driven=True)
    tracker = store.track(story)
    said = tracker.cycle().error
    assert said is not None
    for part in (
        str(story.folder / "tracking.lock"),
        f"the MLflow writer of study driven, process {writer} (",
        ", since 2",
        f"`kill -CONT {writer}` lets it go on, `kill -KILL {writer}` ends it",
    ):
        assert part in said
    assert processes.stopped(writer)
    assert driver.poll() is None
    driver.kill()
    driver.wait()
    drain(tracker)
    tracker.close()
    store.assert_mirrors(story)


def test_who_opens_a_store_does_not_wait_for_one_that_is_stopped(tmp_path: Path, left_behind: Abandon) -> None:
    store = Store(tmp_path)
    _, writer = left_behind(Story(tmp_path, "driven").whole(), store, "use", driven=True)
    with (
        pytest.raises(TunerError, match=rf"lock is held by .*process {writer} .*`kill -CONT {writer}`"),
        first_use(store.uri),
    ):
        pass


def test_nobody_but_the_process_that_signed_is_ended(tmp_path: Path) -> None:
    """A number that is another process's by now, another machine's, or one that has not signed."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        who = {"pid": process.pid, "host": os.uname().nodename, "start": processes.start(process.pid)}
        for wrong in ({"start": "boot:1"}, {"start": None}, {"host": "elsewhere"}):
            assert not processes.end({**who, **wrong})
        assert processes.gone({**who, "start": "boot:1"})
        assert not processes.gone(who)
        assert not processes.gone({**who, "host": "elsewhere", "start": "boot:1"})
        assert process.poll() is None
        assert processes.end(who)
        assert process.wait() == -signal.SIGKILL
        assert processes.gone(who)
    finally:
        process.kill()
        process.communicate()


def test_a_stopped_process_that_is_no_writer_is_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.touch()
    code = "import fcntl, os, signal, sys; fcntl.flock(open(sys.argv[1]), 2); os.kill(os.getpid(), signal.SIGSTOP)"
    process = subprocess.Popen([sys.executable, "-c", code.replace("flock(open", "flock(f := open"), str(path)])
    try:
        until(lambda: processes.stopped(process.pid))
        said = in_the_way.clear(path)
        assert said.startswith(f"process {process.pid} (")
        assert in_the_way.is_stopped(path)
        assert processes.stopped(process.pid)
    finally:
        process.kill()
        process.wait()


# The ledger


def holding(code: str, path: Path) -> subprocess.Popen[str]:
    """A process that runs `code` with the path, says so, and stops."""
    whole = f"import fcntl, os, signal, sqlite3, sys\n{code}\nos.kill(os.getpid(), signal.SIGSTOP)\n"
    process = subprocess.Popen([sys.executable, "-c", whole, str(path)])
    until(lambda: processes.stopped(process.pid) or process.poll() is not None)
    return process


def test_who_keeps_a_ledger_locked_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_BUSY_SECONDS", 0.05)
    folder = study_folder(tmp_path, "x")
    with Ledger.create(folder) as ledger:
        ledger.append([asked(0)])
        code = "db = sqlite3.connect(sys.argv[1], isolation_level=None); db.execute('BEGIN IMMEDIATE')"
        other = holding(code, folder / "ledger.db")
        try:
            with pytest.raises(LedgerError, match=rf"ledger\.db: process {other.pid} \(.*kill -KILL {other.pid}`"):
                ledger.append([asked(1)])
        finally:
            other.kill()
            other.wait()
        assert len(ledger.append([asked(1)])) == 1


def test_who_uses_a_log_that_was_removed_is_named(tmp_path: Path) -> None:
    Story(tmp_path, "logless").whole()
    folder = study_folder(tmp_path, "logless")
    code = (
        "import os, signal, sys; from pathlib import Path; from tuner.ledger import Ledger\n"
        "with Ledger.open(Path(sys.argv[1])) as ledger: next(ledger.read()); os.kill(os.getpid(), signal.SIGSTOP)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(folder)]) as user:
        try:
            until(lambda: processes.stopped(user.pid))
            (folder / "ledger.db-wal").unlink()
            with pytest.raises(LedgerError) as raised:
                list(Ledger.open(folder).read())
        finally:
            user.kill()
    said = str(raised.value)
    assert "its log ledger.db-wal was removed while it was in use by process" in said
    assert f"`kill -KILL {user.pid}` ends it" in said


def test_who_was_stopped_while_it_made_a_ledger_is_named_and_not_waited_for(tmp_path: Path) -> None:
    folder = study_folder(tmp_path, "x")
    folder.mkdir(parents=True)
    other = holding("fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)", folder)
    try:
        with pytest.raises(
            LedgerError, match=rf"x is locked by process {other.pid} \(.*`kill -KILL {other.pid}` ends it"
        ):
            Ledger.create(folder)
    finally:
        other.kill()
        other.wait()
    Ledger.create(folder).close()


LOCKED = """
from pathlib import Path
from tuner.ledger import Ledger
held = Ledger.open(Path(sys.argv[1]))
lock = held.lock()
lock.__enter__()
"""


def test_a_stopped_driver_is_told_as_stopped_and_stop_wakes_and_ends_it(tmp_path: Path) -> None:
    folder = study_folder(tmp_path, "x")
    Ledger.create(folder).close()
    driver = holding(LOCKED, folder)
    try:
        with Ledger.open(folder) as ledger, pytest.raises(StudyLocked) as raised:
            ledger.lock().__enter__()
        assert f":{driver.pid} since 2" in str(raised.value)
        assert f"`kill -CONT {driver.pid}` lets it go on, `kill -KILL {driver.pid}` ends it" in str(raised.value)
        said: list[str] = []
        stop_study(folder, said.append)
        assert said[-1].startswith("stopped;")
        assert driver.wait(30) == -signal.SIGTERM
    finally:
        driver.kill()
        driver.wait()


def test_a_driver_s_number_that_another_process_has_now_does_not_hold_its_study(tmp_path: Path) -> None:
    folder = study_folder(tmp_path, "x")
    with Ledger.create(folder) as ledger, ledger.lock():
        who = ledger.holder()
    assert who is not None
    assert not processes.gone(who)
    assert processes.gone({**who, "start": f"{who['start']}0"})


def test_a_killed_driver_leaves_a_database_that_others_may_write(tmp_path: Path) -> None:
    """The kernel frees its locks, whatever it was in the middle of."""
    folder = study_folder(tmp_path, "x")
    Ledger.create(folder).close()
    driver = holding(LOCKED + "held._place.engine.connect().exec_driver_sql('BEGIN IMMEDIATE')\n", folder)
    driver.kill()
    driver.wait()
    with Ledger.open(folder) as ledger, ledger.lock():
        assert len(ledger.append([asked(0)])) == 1
    with contextlib.closing(sqlite3.connect(folder / "ledger.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
