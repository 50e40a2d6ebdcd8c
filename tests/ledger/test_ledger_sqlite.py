"""The ledger in a file: its place, its making, its damages, its lock, and files of old that are read for ever."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import signal
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.events import asked, fork, in_a_process, reported
from tests.servers import PATIENCE
from tuner import lock
from tuner.errors import InputError, LedgerError
from tuner.events import EVENTS, Asking, Finished, Opened, Reported, State
from tuner.ledger import FORMAT, Ledger, sqlite, studies, study_folder

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return study_folder(tmp_path, "digits")


@pytest.fixture
def ledger(folder: Path) -> Iterator[Ledger]:
    with Ledger.create(folder) as opened:
        yield opened


def test_the_folder_of_a_home_with_odd_characters_is_taken_literally(tmp_path: Path) -> None:
    folder = study_folder(tmp_path / "a?b#c%20d é", "x")
    with Ledger.create(folder) as ledger:
        ledger.append([asked(0)])
    assert sorted(path.name for path in folder.iterdir()) == ["ledger.db"]


def test_every_commit_is_synced_to_the_disk(ledger: Ledger) -> None:
    with ledger._place.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_a_creation_cut_short_is_done_again(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "ledger.db.new").write_bytes(b"half a file")
    (folder / "ledger.db.new-journal").write_bytes(b"\0")
    with Ledger.create(folder) as ledger:
        assert ledger.last() == 0
    assert sorted(path.name for path in folder.iterdir()) == ["ledger.db"]


def test_a_home_lists_its_studies_and_no_other_folder(tmp_path: Path) -> None:
    assert studies(tmp_path / "nowhere") == []
    for name in ("b", "a.1"):
        Ledger.create(study_folder(tmp_path, name)).close()
    (tmp_path / "studies" / "no-ledger").mkdir()
    (tmp_path / "studies" / "Not A Name").mkdir()
    (tmp_path / "studies" / "Not A Name" / "ledger.db").touch()
    assert studies(tmp_path) == ["a.1", "b"]


def test_the_ledger_of_a_folder_that_may_only_be_read_is_read_and_not_written() -> None:
    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o755)
        folder = Path(home) / "x"
        with Ledger.create(folder) as ledger:
            ledger.append([asked(0)])
        folder.chmod(0o555)

        def look(pipe: Connection) -> None:
            if os.getuid() == 0:
                os.setuid(65534)
            with Ledger.open(folder, read_only=True) as ledger:
                found: list[Any] = [ledger.last(), ledger.holder()]
            for attempt in (lambda: Ledger.open(folder).append([asked(1)]), lambda: Ledger.create(folder.parent / "y")):
                try:
                    attempt()
                except (LedgerError, InputError) as error:
                    found.append(f"{type(error).__name__}: {error}")
            pipe.send(found)

        seen = in_a_process(look)
        folder.chmod(0o755)
    assert seen[:2] == [1, None]
    assert seen[2].startswith("LedgerError")
    assert seen[2].endswith("check the folder's permissions")
    assert seen[3].startswith("InputError")
    assert "Permission denied" in seen[3]


def test_a_newer_format_is_refused(ledger: Ledger, folder: Path) -> None:
    with contextlib.closing(sqlite3.connect(folder / "ledger.db", isolation_level=None)) as database:
        database.execute("UPDATE meta SET value = '99' WHERE key = 'format'")
    with pytest.raises(LedgerError, match=f"written in format 99, this Tuner reads up to {FORMAT}; install a newer"):
        Ledger.open(folder)


def _garble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_text("no database at all, but long enough to be looked at" * 9), "is no ledger"),
        (lambda path: path.write_bytes(b""), "without the table `meta`"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "damaged"),
        (_garble, "damaged"),
    ],
)
def test_a_damaged_file_is_told_plainly(folder: Path, damage: Callable[[Path], object], message: str) -> None:
    with Ledger.create(folder) as ledger:
        ledger.append([asked(n) for n in range(500)])
    damage(folder / "ledger.db")
    with pytest.raises(LedgerError, match=rf"ledger\.db: .*{message}"), Ledger.open(folder) as ledger:
        list(ledger.read())


def test_a_full_disk_stops_the_batch_whole_and_loses_nothing(ledger: Ledger, folder: Path) -> None:
    ledger.append([asked(0)])
    with ledger._place.connect() as connection:  # the pool keeps the connection, and SQLite the limit
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    with pytest.raises(LedgerError, match=r"the disk is full \(\d+ MB free\)"):
        ledger.append([reported(0, epoch, loss=1.0) for epoch in range(1, 200)])
    assert ledger.last() == 1
    with Ledger.open(folder) as roomy:
        assert len(roomy.append([reported(0, epoch) for epoch in range(1, 200)])) == 199


def test_a_stuck_process_is_told_apart_from_a_damaged_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_BUSY_SECONDS", 0.05)
    with Ledger.create(folder) as ledger, contextlib.closing(sqlite3.connect(folder / "ledger.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match="another process has kept the ledger locked"):
            ledger.append([asked(0)])
        assert ledger.last() == 0  # readers are not in the way of writers, nor writers in theirs
        other.rollback()
        assert len(ledger.append([asked(0)])) == 1


def _die_at_instruction(folder: Path, fatal: int, pipe: Connection) -> None:
    """One batch, SIGKILLed at the `fatal`-th instruction of SQLite's machine since the batch began."""
    with Ledger.open(folder) as ledger:
        count = 0

        def step() -> int:
            nonlocal count
            count += 1
            if count == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return 0

        with ledger._place.connect() as connection:
            dbapi: Any = connection.connection.dbapi_connection
            dbapi.set_progress_handler(step, 1)
        ledger.append([reported(trial, ledger.last() // 8 + 1) for trial in range(8)])
        pipe.send(count)


def test_sigkill_inside_a_transaction_leaves_all_of_it_or_nothing(folder: Path) -> None:
    Ledger.create(folder).close()

    def spend(fatal: int) -> int:
        ours, theirs = fork.Pipe(duplex=False)
        process = fork.Process(target=_die_at_instruction, args=(folder, fatal, theirs))
        process.start()
        theirs.close()
        process.join(PATIENCE)
        if process.exitcode == 0:
            return int(ours.recv())
        assert process.exitcode == -signal.SIGKILL
        return 0

    total = spend(0)
    assert total > 100
    points = sorted({*random.Random(5).sample(range(1, total), 15), total - 1, total})
    killed = 0
    for point in points:
        with Ledger.open(folder) as ledger:
            before = ledger.last()
        killed += spend(point) == 0
        with Ledger.open(folder) as ledger:
            assert ledger.last() in (before, before + 8), f"killed at instruction {point} of {total}"
            assert [event.seq for event in ledger.read()] == list(range(1, ledger.last() + 1))
            ledger.append([Reported(t, 1000 + point, metrics={}, seconds=0.5) for t in range(8)])  # it goes on
    assert killed >= len(points) - 2


def test_a_driver_that_has_not_signed_yet_is_not_taken_for_the_dead_one_before_it(
    ledger: Ledger, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = fork.Process(target=lambda: None)
    dead.start()
    dead.join()
    host = os.uname().nodename
    (folder / "lock").write_text(json.dumps({"pid": dead.pid, "host": host, "since": "2026-01-01T00:00:00+00:00"}))
    signed, asking, seen = threading.Event(), threading.Event(), threading.Event()
    looks = lock._signature

    def looked(handle: int) -> Any:
        asking.set()
        return looks(handle)

    monkeypatch.setattr(lock, "_signature", looked)
    monkeypatch.setattr(lock, "_PROBE_SECONDS", PATIENCE)

    def sign_late() -> None:
        with lock.hold(folder):
            handle = os.open(folder / "lock", os.O_RDWR)
            text = os.pread(handle, 4096, 0)
            os.pwrite(handle, json.dumps({"pid": dead.pid, "host": host, "since": "2026"}).encode().ljust(len(text)), 0)
            signed.set()
            assert asking.wait(PATIENCE)  # it has been taken for the dead one's, once at least
            os.pwrite(handle, text, 0)
            os.close(handle)
            assert seen.wait(PATIENCE)

    thread = threading.Thread(target=sign_late)
    thread.start()
    assert signed.wait(PATIENCE)
    found = ledger.holder()
    seen.set()
    thread.join()
    assert found is not None
    assert found["pid"] == os.getpid()


def test_looking_for_the_holder_never_keeps_a_driver_out(
    ledger: Ledger, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_PROBE_SECONDS", PATIENCE)
    looking = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(looking, fcntl.LOCK_SH)  # as `holder` does, only for longer
    held = [looking]  # until the driver has met it, and waits
    waits = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: os.close(held.pop()))
    monkeypatch.setattr(lock, "time", waits)
    with ledger.lock():
        assert not held
        assert (ledger.holder() or {})["pid"] == os.getpid()


def test_a_ledger_of_the_first_format_is_opened_for_ever(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "ledger.db").write_bytes((GOLDEN / "ledger-v1.db").read_bytes())
    expected = json.loads((GOLDEN / "ledger-v1.json").read_text())
    with Ledger.open(folder) as ledger:
        stored = list(ledger.read())
        history = ledger.history()
        for event, (seq, time, kind, trial, cohort, epoch, body) in zip(stored, expected["events"], strict=True):
            assert (event.seq, event.time, event.kind) == (seq, time, kind)
            assert all(getattr(event, name) == value for name, value in body.items() if name != "versions")
            columns = {"trial": trial, "cohort": cohort, "epoch": epoch}
            assert all(getattr(event, name) == columns[name] for name in event.columns)
        assert {event.kind for event in stored} == EVENTS.keys() - {Asking.kind}  # which came later
        assert [trial.state for trial in history.trials.values()] == [State.COMPLETE, State.PRUNED, State.FAILED]
        assert ledger.append([Finished(0, epochs=9, best_epoch=1)]) == []  # its rules came with it
        assert len(ledger.append([Opened(host="here", pid=1)])) == 1


def test_the_schema_of_today_is_the_golden_one_until_the_format_is_raised(folder: Path) -> None:
    def schema(path: Path) -> list[tuple[str]]:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as database:
            return database.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name").fetchall()

    Ledger.create(folder).close()
    assert FORMAT == 1
    assert schema(folder / "ledger.db") == schema(GOLDEN / "ledger-v1.db")
