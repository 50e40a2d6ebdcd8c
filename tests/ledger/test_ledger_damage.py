"""A ledger tells that it is whole, in both databases: events that are missing, changed or lost at its end are found."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tests import studies
from tests.events import asked, fork, in_a_process, reported
from tests.forks import Forks, Run, ran
from tests.points import COMMITTED
from tests.postgres import Server
from tuner import cli
from tuner.errors import LedgerDamaged
from tuner.events import Completed, Event, Finished, Opened
from tuner.ledger import Ledger, head, study_folder

GOLDEN = Path(__file__).parents[1] / "golden"
Spoil = Callable[[str], None]

EVENTS = [
    asked(0, rate=0.1),
    asked(1, rate=0.2),
    *(reported(trial, epoch, loss=1 / epoch) for epoch in range(1, 5) for trial in range(2)),
    Finished(0, epochs=4, best_epoch=4),
    Finished(1, epochs=4, best_epoch=4),
    Completed(state="complete", message=""),
]


@pytest.fixture(params=["sqlite", "postgresql"])
def home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if request.param == "postgresql":
        server: Server = request.getfixturevalue("postgres")
        monkeypatch.setenv("TUNER_LEDGER", server.fresh())
    return tmp_path


@pytest.fixture
def folder(home: Path) -> Path:
    return study_folder(home, "digits")


@pytest.fixture
def spoil(folder: Path, request: pytest.FixtureRequest) -> Spoil:
    """Does to the tables of events and of digests what a person, or another program, might."""

    def act(statement: str) -> None:
        if address := os.environ.get("TUNER_LEDGER"):
            server: Server = request.getfixturevalue("postgres")
            server.ask(address, statement.replace("events", "tuner_events").replace("meta", "tuner_meta"))
            return
        with contextlib.closing(sqlite3.connect(folder / "ledger.db", isolation_level=None)) as database:
            database.execute(statement)

    return act


def store(folder: Path, events: list[Event], size: int = 3) -> None:
    """As a driver does: under the lock, some at a time."""
    with Ledger.create(folder) as ledger, ledger.lock():
        ledger.checked(accept_loss=False, tell=print)
        for first in range(0, len(events), size):
            ledger.append(events[first : first + size])


def found(folder: Path) -> list[str]:
    with Ledger.open(folder, read_only=True) as ledger:
        return [finding.text for finding in ledger.examine()[1].findings]


def uncovered(folder: Path) -> int:
    with Ledger.open(folder, read_only=True) as ledger:
        return ledger.examine()[1].uncovered


def accept(folder: Path) -> list[str]:
    said: list[str] = []
    with Ledger.create(folder, accept_loss=True) as ledger, ledger.lock():
        ledger.checked(accept_loss=True, tell=said.append)
    return said


@pytest.mark.parametrize("size", [1, 3, 100])
def test_what_was_stored_is_whole_and_every_event_is_covered(folder: Path, size: int) -> None:
    store(folder, EVENTS, size)
    store(folder, [Opened(host="here", pid=1), *EVENTS, Opened(host="here", pid=1)])  # the second ones are left out
    assert found(folder) == []
    assert uncovered(folder) == 0


@pytest.mark.parametrize("seq", range(1, len(EVENTS) + 1))
def test_a_deleted_event_is_named(folder: Path, spoil: Spoil, seq: int) -> None:
    store(folder, EVENTS)
    spoil(f"DELETE FROM events WHERE seq = {seq}")
    last = f": the last one that is there is event {seq - 1}" if seq == len(EVENTS) else ""
    assert f"event {seq} is missing{last}" in found(folder)
    with Ledger.create(folder) as ledger, pytest.raises(LedgerDamaged, match=f"event {seq} is missing"):
        ledger.checked(accept_loss=False, tell=print)


@pytest.mark.parametrize("first", range(1, len(EVENTS) + 1, 2))
def test_a_lost_end_is_found_with_its_digests_or_without(folder: Path, spoil: Spoil, first: int) -> None:
    store(folder, EVENTS)
    spoil(f"DELETE FROM events WHERE seq >= {first}")
    (text,) = found(folder)
    assert text.startswith(
        f"events {first} to {len(EVENTS)} are missing" if first < len(EVENTS) else f"event {first} is missing"
    )
    spoil("DELETE FROM meta WHERE key LIKE 'digest%'")  # the head beside the ledger is enough
    assert found(folder) == [text]


@pytest.mark.parametrize(
    "change", ["body = '{}'", "time = 1.5", "kind = 'opened'", "trial = 7", "epoch = 99", "cohort = 3"]
)
def test_a_changed_event_is_named(folder: Path, spoil: Spoil, change: str) -> None:
    store(folder, EVENTS)
    spoil(f"UPDATE events SET {change} WHERE seq = 5")
    assert any(text.startswith("event 5 (") and text.endswith("is not as it was stored") for text in found(folder))
    assert not any(text.startswith("event 6") and "not as it was stored" in text for text in found(folder))


def test_the_trials_that_lost_something_are_named(folder: Path, spoil: Spoil) -> None:
    store(folder, [*EVENTS[:2], asked(2), *EVENTS[2:]])
    spoil("DELETE FROM events WHERE seq IN (2, 8) OR trial = 1")
    with Ledger.open(folder, read_only=True) as ledger:
        damage = ledger.damage(ledger.examine()[1])
    assert "without them: trial 1, epoch 3 of trial 0;" in damage
    assert "trial 2 has not ended" in damage


def test_events_that_moved_up_into_a_gap_are_found(folder: Path, spoil: Spoil) -> None:
    store(folder, EVENTS)
    spoil("DELETE FROM events WHERE seq = 5")
    spoil("UPDATE events SET seq = -seq WHERE seq > 5")
    spoil("UPDATE events SET seq = -seq - 1 WHERE seq < 0")
    assert any(text.startswith("events 5 to 12") for text in found(folder))


def test_a_body_that_is_no_json_any_more_is_told_and_is_no_traceback(folder: Path, spoil: Spoil) -> None:
    store(folder, EVENTS)
    spoil("UPDATE events SET body = 'x' WHERE seq = 5")
    with Ledger.create(folder) as ledger, pytest.raises(LedgerDamaged, match="event 5 cannot be read") as raised:
        ledger.checked(accept_loss=True, tell=print)
    assert "--accept-loss" not in str(raised.value)  # nobody can go on from these


def test_a_study_that_is_complete_with_an_open_trial_is_damaged_though_no_digest_tells(folder: Path) -> None:
    with Ledger.create(folder) as ledger:
        ledger.append([event for event in EVENTS if event != Finished(1, 4, 4)])
    assert found(folder) == ["the study says that it is complete, but trial 1 has not ended"]


def test_an_old_copy_of_the_ledger_is_told_from_the_one_that_went_on(folder: Path, spoil: Spoil) -> None:
    store(folder, EVENTS[:6])
    with Ledger.open(folder) as ledger:
        written = list(ledger.read())
    spoil("DELETE FROM events WHERE seq > 3")
    spoil("DELETE FROM meta WHERE key LIKE 'digest%'")
    (folder / "ledger.head").rename(folder / "kept")
    store(folder, EVENTS[3:8])  # another life, of which the head beside it knows nothing
    (folder / "kept").rename(folder / "ledger.head")
    assert found(folder) == [f"event {len(written)} is another than the one that ledger.head knows"]


def test_loss_that_is_accepted_is_not_found_again_and_a_new_one_is(folder: Path, spoil: Spoil) -> None:
    store(folder, EVENTS[:9])
    spoil("DELETE FROM events WHERE seq IN (4, 8, 9)")
    spoil('UPDATE events SET body = \'{"metrics":{},"seconds":1}\' WHERE seq = 6')
    assert len(found(folder)) == 3
    (said,) = accept(folder)
    assert "event 4 is missing" in said
    assert found(folder) == []
    store(folder, EVENTS[7:])
    assert found(folder) == []
    spoil("DELETE FROM events WHERE seq = 5")
    assert found(folder) == ["events 4 to 5 are missing"]
    accept(folder)
    spoil('UPDATE events SET body = \'{"metrics":{},"seconds":2}\' WHERE seq = 6')  # again, and otherwise
    assert found(folder) == ["event 6 (reported of trial 1, epoch 2) is not as it was stored"]


def test_nobody_writes_over_events_that_are_lost(folder: Path, spoil: Spoil) -> None:
    store(folder, EVENTS[:9])
    spoil("DELETE FROM events WHERE seq > 5")
    with Ledger.open(folder) as ledger, pytest.raises(LedgerDamaged, match="9 events were stored, and 5 are there"):
        ledger.append([Opened(host="here", pid=1)])


def test_an_older_tuner_that_writes_without_digests_leaves_events_that_are_not_covered(
    folder: Path, spoil: Spoil
) -> None:
    store(folder, EVENTS[:4])
    key = "study, " if "TUNER_LEDGER" in os.environ else ""
    value = "(SELECT max(id) FROM tuner_studies), " if key else ""
    spoil(f"INSERT INTO events ({key}seq, time, kind, body) VALUES ({value}5, 1.0, 'opened', '{{}}')")
    store(folder, EVENTS[4:])
    assert found(folder) == []
    assert uncovered(folder) == 1
    spoil("DELETE FROM events WHERE seq = 5")
    assert found(folder) == ["event 5 is missing"]


def test_a_lost_head_file_is_no_damage(folder: Path) -> None:
    for content in (None, b"", b"000000000000099 no digest 00000000\n", b"\xff" * 33):
        store(folder, [Opened(host="here", pid=1)])
        if content is None:
            (folder / "ledger.head").unlink()
        else:
            (folder / "ledger.head").write_bytes(content)
        assert found(folder) == []


def test_threads_that_append_under_the_lock_leave_one_chain(folder: Path) -> None:
    with Ledger.create(folder) as ledger, ledger.lock():
        ledger.append([asked(trial) for trial in range(4)])

        def write(trial: int) -> None:
            for epoch in range(1, 26):
                ledger.append([reported(trial, epoch)])

        threads = [threading.Thread(target=write, args=(trial,)) for trial in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ledger.examine()[1].findings == []
    assert (found(folder), uncovered(folder)) == ([], 0)


def test_who_looks_while_a_driver_writes_sees_no_false_alarm(folder: Path) -> None:
    Ledger.create(folder).close()

    def drive(pipe: Connection) -> None:
        with Ledger.open(folder) as ledger, ledger.lock():
            ledger.append([asked(trial) for trial in range(8)])
            pipe.send(None)
            epoch = 0
            while not pipe.poll():
                epoch += 1
                with ledger.together():
                    for trial in range(8):
                        ledger.append([reported(trial, epoch, loss=1 / epoch)])

    ours, theirs = fork.Pipe()
    process = fork.Process(target=drive, args=(theirs,))
    process.start()
    assert ours.poll(30)
    try:
        with Ledger.open(folder, read_only=True) as ledger:
            seen = []
            while len(seen) < 20 or len(set(seen)) < 5:
                history, audit = ledger.examine()
                assert (audit.findings, audit.uncovered) == ([], 0)
                seen.append(history.seq)
    finally:
        ours.send(None)
        process.join(30)
    assert found(folder) == []


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A study's folder, its ledger in a file."""
    return study_folder(tmp_path, "digits")


@pytest.mark.parametrize("count", [1, 4, len(EVENTS)])
def test_a_killed_driver_whose_log_is_deleted_is_told_what_is_lost(local: Path, count: int) -> None:
    def drive(pipe: Connection) -> None:
        store(local, EVENTS[:2])
        with Ledger.create(local) as ledger, ledger.lock():
            ledger.append([Opened(host="here", pid=1)])
            for event in EVENTS[2 : 2 + count]:
                ledger.append([event])
            pipe.send(ledger.last())
            os.kill(os.getpid(), signal.SIGKILL)

    last = in_a_process(drive)
    assert (local / "ledger.db-wal").stat().st_size > 0
    for name in ("ledger.db-wal", "ledger.db-shm"):
        (local / name).unlink()
    (text,) = found(local)
    assert text == f"events 3 to {last} are missing: the last one that is there is event 2"
    with Ledger.create(local) as ledger, pytest.raises(LedgerDamaged, match=f"events 3 to {last} are missing"):
        ledger.checked(accept_loss=False, tell=print)


def test_a_ledger_that_is_gone_is_missed_and_no_new_one_is_made(local: Path) -> None:
    store(local, EVENTS)
    (local / "ledger.db").unlink()
    for attempt in (lambda: Ledger.create(local), lambda: Ledger.open(local, read_only=True)):
        with pytest.raises(LedgerDamaged, match=rf"is missing, and {len(EVENTS)} events were stored in it; restore"):
            attempt()
    assert not (local / "ledger.db").exists()
    accept(local)
    assert found(local) == []


def test_the_log_of_a_ledger_that_is_gone_does_not_get_into_a_new_one(local: Path) -> None:
    with Ledger.create(local) as ledger:
        ledger.append(EVENTS)
        shutil.copy(local / "ledger.db-wal", local / "kept")
    (local / "ledger.db").unlink()
    (local / "kept").rename(local / "ledger.db-wal")
    with pytest.raises(LedgerDamaged, match=r"is missing, but not its log ledger\.db-wal"):
        Ledger.create(local)
    with Ledger.create(local, accept_loss=True) as ledger:
        assert ledger.last() == 0


def test_a_ledger_older_than_digests_is_opened_and_what_is_added_is_covered(local: Path) -> None:
    local.mkdir(parents=True)
    (local / "ledger.db").write_bytes((GOLDEN / "ledger-v1.db").read_bytes())
    with Ledger.open(local, read_only=True) as ledger:
        old = ledger.last()
    assert (found(local), uncovered(local)) == ([], old)
    store(local, [Opened(host="here", pid=1), Opened(host="here", pid=1)])
    assert (found(local), uncovered(local)) == ([], old)
    with contextlib.closing(sqlite3.connect(local / "ledger.db", isolation_level=None)) as database:
        database.execute("UPDATE events SET body = '{ }' WHERE seq = (SELECT max(seq) FROM events)")
    assert found(local) == [f"event {old + 2} (opened) is not as it was stored"]


def test_a_head_is_read_as_it_was_written_and_never_half(tmp_path: Path) -> None:
    file = head.Head(tmp_path)
    for seq in (0, 9, 10**14):
        file.write(seq, f"{seq:016x}")
        assert head.read(tmp_path) == (seq, f"{seq:016x}")
    file.close()
    whole = (tmp_path / "ledger.head").read_bytes()
    (tmp_path / "ledger.head").write_bytes(whole[:14] + b"9" + whole[15:])
    assert head.read(tmp_path) is None


# As a person meets it


def test_status_and_doctor_tell_of_a_damaged_study_and_of_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def tuner(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["tuner", *arguments, "--home", str(tmp_path)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        seen = capsys.readouterr()
        return int(ended.value.code or 0), seen.out, seen.err

    for name in ("bad", "gone", "good"):
        store(study_folder(tmp_path, name), EVENTS)
    (tmp_path / "studies" / "gone" / "ledger.db").unlink()
    assert tuner("status", "good")[0] == 0
    with contextlib.closing(sqlite3.connect(tmp_path / "studies" / "bad" / "ledger.db")) as database:
        database.execute("DELETE FROM events WHERE seq IN (4, 12)")
        database.commit()
    code, out, err = tuner("status", "bad")
    assert code == 2
    assert "damaged" in out
    for part in (
        "study bad: event 4 is missing",
        "trial 1 has not ended",
        "restore the study's folder",
        "--accept-loss",
    ):
        assert part in err
    code, out, err = tuner("status", "gone")
    assert (code, out) == (2, "")
    assert err.startswith("the ledger of study gone is missing, and 13 events were stored in it; restore")
    code, out, err = tuner("status", "-o", "json")
    assert code == 2
    assert [(row["study"], row["state"]) for row in json.loads(out)] == [
        ("bad", "damaged"),
        ("gone", "unreadable"),
        ("good", "complete"),
    ]
    assert tuner("list")[0] == 0
    code, out, err = tuner("doctor")
    assert code == 1
    assert "problem  ledgers   study bad: event 4 is missing" in out
    assert "problem  ledgers   the ledger of study gone is missing" in out
    assert "trials that can be read; " not in out  # all of them are covered


def test_a_launch_refuses_a_ledger_that_lost_its_end_and_goes_on_when_told_to(
    tmp_path: Path, forks: Forks, run: Run
) -> None:
    """A driver killed in its work, and its log deleted: what came after the last time that it was opened is lost."""
    path = studies.write(tmp_path, studies.study(search={"trials": 12}, train={"epochs": 12}))
    folder = study_folder(tmp_path, "small")
    words = (str(path), "--home", str(tmp_path), "--trials")
    ran(forks.launch(*words, "2"))
    with Ledger.open(folder, read_only=True) as ledger:
        before = ledger.last()
    ran(forks.launch(*words, "12", points=[f"{before + 40}:{COMMITTED}"]), -signal.SIGKILL)
    for name in ("ledger.db-wal", "ledger.db-shm"):
        (folder / name).unlink()
    said = ran(forks.launch(*words, "12"), 2)
    assert f"study small: events {before + 1} to " in said
    assert "Traceback" not in said
    assert "accepted, going on without it" in ran(forks.launch(*words, "12", "--accept-loss"))
    run(path, tmp_path / "whole")
    found_again, whole = (studies.facts(studies.history(home)) for home in (tmp_path, tmp_path / "whole"))
    assert {n: fact[:4] for n, fact in found_again.items()} == {n: fact[:4] for n, fact in whole.items()}
    assert found(folder) == []


def test_a_complete_study_with_an_open_trial_is_finished_when_told_to(tmp_path: Path, forks: Forks, run: Run) -> None:
    path = studies.write(tmp_path, studies.study(search={"trials": 3}))
    run(path, tmp_path)
    whole = studies.facts(studies.history(tmp_path))
    with contextlib.closing(sqlite3.connect(study_folder(tmp_path, "small") / "ledger.db")) as database:
        database.execute("DELETE FROM events WHERE trial = 1 AND (kind = 'finished' OR epoch > 2)")
        database.commit()
    said = run(path, tmp_path, code=2)
    assert "the study says that it is complete, but trial 1 has not ended" in said
    ran(forks.launch(str(path), "--home", str(tmp_path), "--accept-loss"))
    assert studies.facts(studies.history(tmp_path)) == whole
    assert "is complete" in run(path, tmp_path)
