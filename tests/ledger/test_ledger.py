"""The ledger's laws: append-only, first one wins, all or nothing, nothing acknowledged is ever lost."""

from __future__ import annotations

import contextlib
import math
import os
import random
import signal
import tempfile
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.events import asked, fork, place, reported
from tests.postgres import Server
from tests.servers import PATIENCE, until
from tuner import ledger as module
from tuner.errors import InputError, LedgerError, StudyLocked, StudyMissing
from tuner.events import Created, Event, Extended, Failed, Finished, Grouped, Opened, Pruned, Reported, Started
from tuner.history.fold import History
from tuner.ledger import Ledger, lease, studies, study_folder


@pytest.fixture(params=["sqlite", "postgresql"])
def home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, its ledgers in files or in a database: every law here holds in both."""
    if request.param == "postgresql":
        server: Server = request.getfixturevalue("postgres")
        monkeypatch.setenv("TUNER_LEDGER", server.fresh())
    return tmp_path


@pytest.fixture
def folder(home: Path) -> Path:
    return study_folder(home, "digits")


@pytest.fixture
def ledger(folder: Path) -> Iterator[Ledger]:
    with Ledger.create(folder) as opened:
        yield opened


# Storing and reading


def test_what_append_returns_is_what_read_gives_and_what_another_opening_reads(ledger: Ledger, folder: Path) -> None:
    nested = {
        "text": "naïve \ud800 \x00 ' ; --",
        "list": (1, 2.5, None, True),
        "map": {"a": {"b": [0.1 + 0.2, 1e-320]}},
    }
    stored = ledger.append([Opened(machine=nested), asked(0, rate=0.1), reported(0, 1, loss=1 / 3)])
    assert [event.seq for event in stored] == [1, 2, 3]
    assert stored[0].machine["list"] == [1, 2.5, None, True]
    assert stored == list(ledger.read())
    with Ledger.open(folder, read_only=True) as other:
        assert stored == list(other.read())


def test_seq_has_no_gaps_and_the_cursor_reads_each_event_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAGE", 3)
    ledger.append([asked(n) for n in range(10)])
    assert [event.seq for event in ledger.read()] == list(range(1, 11))
    assert [event.seq for event in ledger.read(after=4)] == list(range(5, 11))
    assert [event.seq for event in ledger.read(after=4, limit=5)] == list(range(5, 10))
    assert [event.seq for event in ledger.read(limit=3)] == [1, 2, 3]
    assert list(ledger.read(after=10)) == []
    assert list(ledger.read(limit=0)) == []
    assert ledger.last() == 10


def test_a_reader_that_dawdles_sees_what_is_appended_meanwhile_and_blocks_nobody(
    ledger: Ledger, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAGE", 2)
    ledger.append([asked(n) for n in range(4)])
    with Ledger.open(folder, read_only=True) as other:
        reading = other.read()
        assert next(reading).trial == 0
        ledger.append([asked(4)])
        assert [event.trial for event in reading] == [1, 2, 3, 4]


def test_an_empty_ledger_has_nothing_and_an_empty_batch_stores_nothing(ledger: Ledger) -> None:
    assert ledger.append([]) == []
    assert ledger.last() == 0
    assert list(ledger.read()) == []
    assert ledger.history() == History()


def test_the_time_is_the_same_for_a_batch_and_the_order_is_by_seq_when_the_clock_jumps(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 50.0])
    monkeypatch.setattr("tuner.ledger.time.time", lambda: next(clock))
    ledger.append([asked(0), asked(1)])
    ledger.append([asked(2)])
    assert [(event.trial, event.time) for event in ledger.read()] == [(0, 100.0), (1, 100.0), (2, 50.0)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (
            Created(id="a", spec={}, digest="d", text="", seed=0, data={}),
            Created(id="b", spec={}, digest="d", text="", seed=0, data={}),
        ),
        (asked(1, rate=0.1), asked(1, rate=0.2)),
        (reported(1, 3, loss=0.1), reported(1, 3, loss=0.2)),
        (Pruned(1, epoch=3), Finished(1, epochs=9, best_epoch=1)),
        (Failed(1, message="nan"), Failed(1, message="again")),
    ],
)
@pytest.mark.parametrize("together", [True, False])
def test_the_first_one_wins_and_the_second_is_not_returned(
    ledger: Ledger, first: Event, second: Event, together: bool
) -> None:
    other = reported(1, 4, loss=0.0)
    if together:
        stored = ledger.append([first, second, other])
    else:
        assert len(ledger.append([first])) == 1
        stored = list(ledger.read()) + ledger.append([second, other])
    assert [replace(event, time=0.0) for event in stored] == [replace(first, seq=1), replace(other, seq=2)]
    assert list(ledger.read()) == stored


def test_what_is_appended_together_is_seen_by_others_at_the_end_and_numbered_as_if_alone(
    ledger: Ledger, folder: Path
) -> None:
    ledger.append([asked(0)])
    with Ledger.open(folder, read_only=True) as other:
        with ledger.together():
            first = ledger.append([asked(1), asked(0), reported(1, 1)])
            second = ledger.append([reported(1, 1), reported(1, 2), asked(2)])
            assert other.last() == 1
        assert list(other.read(after=1)) == [*first, *second]
    assert [(e.seq, *place(e)[::2]) for e in (*first, *second)] == [
        (2, 1, None), (3, 1, 1), (4, 1, 2), (5, 2, None),
    ]  # fmt: skip


def test_an_error_inside_leaves_nothing_of_what_was_appended_together(ledger: Ledger) -> None:
    def together(value: float) -> None:
        with ledger.together():
            ledger.append([asked(0)])
            ledger.append([Opened(machine={"x": value}, host="here", pid=1)])
            raise KeyError

    with pytest.raises(KeyError):
        together(0.0)
    with pytest.raises(ValueError, match="the body is no JSON"):
        together(math.nan)
    assert ledger.last() == 0
    assert len(ledger.append([asked(0)])) == 1


def test_what_may_happen_again_is_stored_again(ledger: Ledger) -> None:
    again = [
        Opened(host="here", pid=1),
        Extended(spec={}, digest="d", text=""),
        Started(1, attempt=1, worker=0, trials=[], epoch=1),
        reported(2, 1),
    ]
    ledger.append([*again, reported(1, 1)])
    assert [type(event) for event in ledger.append(again)] == [Opened, Extended, Started]


def test_a_batch_of_nothing_new_stores_nothing(ledger: Ledger) -> None:
    batch = [asked(0), reported(0, 1)]
    ledger.append(batch)
    assert ledger.append(batch) == []
    assert ledger.last() == 2


def test_a_batch_larger_than_one_statement_is_still_one_transaction(ledger: Ledger) -> None:
    batch = [reported(trial, epoch, loss=0.1) for trial in range(50) for epoch in range(1, 101)]
    assert len(ledger.append([asked(7), *batch[:2500], batch[0], *batch[2500:]])) == 5001
    assert [event.seq for event in ledger.read()] == list(range(1, 5002))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_what_is_no_json_is_refused_with_its_whole_batch(ledger: Ledger, value: object) -> None:
    bad = Reported(5, 1, metrics={"loss": value}, seconds=0.1)
    with pytest.raises(ValueError, match="reported of trial 5"):
        ledger.append([asked(0), bad])
    assert ledger.last() == 0


def test_threads_that_append_at_once_lose_nothing(ledger: Ledger) -> None:
    def write(trial: int) -> None:
        for epoch in range(1, 26):
            ledger.append([reported(trial, epoch)])

    threads = [threading.Thread(target=write, args=(trial,)) for trial in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stored = list(ledger.read())
    assert [event.seq for event in stored] == list(range(1, 101))
    assert {(event.trial, event.epoch) for event in stored} == {(t, e) for t in range(4) for e in range(1, 26)}


# The fold


def _a_study(trials: int, epochs: int, ends: list[type[Event]]) -> list[Event]:
    events = [Created(spec={"a": 1}, digest="d", text="t", id="i", data={}, seed=0)]
    events += [asked(n, rate=n / 10) for n in range(trials)]
    body = {"trials": list(range(trials)), "structure": {"width": 8}, "company": True}
    events.append(Grouped(0, **body))
    events.append(Started(0, attempt=1, worker=0, trials=body["trials"], epoch=0))
    events += [reported(n, epoch, loss=n + 1 / epoch) for epoch in range(1, epochs + 1) for n in range(trials)]
    made = {Pruned: Pruned(0, epochs, "why"), Finished: Finished(0, epochs, 1), Failed: Failed(0, "why")}
    events += [replace(made[kind], trial=n) for n, kind in enumerate(ends[:trials])]
    return events


@st.composite
def told_twice(draw: st.DrawFn) -> tuple[list[Event], list[int], list[int]]:
    """A study's events with some repeated later on (as after a lost reply), and two ways to cut them into batches."""
    ends = draw(st.lists(st.sampled_from([Pruned, Finished, Failed]), max_size=4))
    events = _a_study(draw(st.integers(1, 4)), draw(st.integers(0, 4)), ends)
    for index in draw(st.lists(st.integers(0, len(events) - 1), max_size=6)):
        events.insert(draw(st.integers(index + 1, len(events))), events[index])
    cuts = st.lists(st.integers(1, len(events)), max_size=8).map(sorted)
    return events, draw(cuts), draw(cuts)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(told_twice())
def test_the_history_is_the_same_however_the_events_were_batched(
    home: Path,
    case: tuple[list[Event], list[int], list[int]],
) -> None:
    events, *ways = case

    def timeless(stored: Iterator[Event] | list[Event]) -> History:
        return History.of(replace(event, time=float(event.seq)) for event in stored)

    histories = []
    with tempfile.TemporaryDirectory() as place:
        for cuts in ways:
            with Ledger.create(Path(place) / "studies" / uuid.uuid4().hex) as ledger:
                lived = []
                for begin, end in zip([0, *cuts], [*cuts, len(events)], strict=True):
                    lived += ledger.append(events[begin:end])
                assert ledger.history() == History.of(lived)
                histories += [timeless(lived), timeless(ledger.read())]
    assert all(history == histories[0] for history in histories)


def test_a_history_that_contradicts_itself_names_the_event(ledger: Ledger) -> None:
    ledger.append([asked(0), reported(1, 1)])
    with pytest.raises(LedgerError, match=r": event 2 \(reported\)"):
        ledger.history()


# Opening


def test_creating_again_opens_what_is_there(folder: Path) -> None:
    for _ in range(2):
        with Ledger.create(folder) as ledger:
            ledger.append([asked(0)])
            assert ledger.last() == 1


def test_a_missing_study_is_named_with_its_nearest_neighbour(ledger: Ledger, home: Path) -> None:
    with pytest.raises(StudyMissing, match=r"no study 'digit'.*did you mean 'digits'\?"):
        Ledger.open(study_folder(home, "digit"))
    assert not study_folder(home, "digit").exists()


def test_the_studies_of_a_home_are_listed_by_name(home: Path) -> None:
    assert studies(home) == []
    for name in ("b", "a.1"):
        Ledger.create(study_folder(home, name)).close()
    assert studies(home) == ["a.1", "b"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A", ".hidden", "a\n", "a\0", "é", "a" * 65, "-x"])
def test_a_name_that_is_no_name_becomes_no_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="study name: expected"):
        study_folder(tmp_path, name)


def test_a_home_that_cannot_be_written_is_the_input_s_mistake(home: Path) -> None:
    (home / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"expected a folder that can be written.*--home or TUNER_HOME"):
        Ledger.create(study_folder(home / "file", "x"))


def test_a_read_only_opening_cannot_write(ledger: Ledger, folder: Path) -> None:
    with Ledger.open(folder, read_only=True) as other, pytest.raises(LedgerError, match="may only be read"):
        other.append([asked(0)])
    assert ledger.last() == 0


# Faults of the disk


# Deaths


def _write_for_ever(folder: Path, pipe: Connection) -> None:
    """Batches of 8 reports, each batch one epoch, acknowledged one by one."""
    with Ledger.create(folder) as ledger, ledger.lock():
        begin = ledger.last() // 8 + 1
        pipe.send(begin - 1)
        for epoch in range(begin, 1_000_000):
            ledger.append([reported(trial, epoch, loss=1 / epoch) for trial in range(8)])
            pipe.send(epoch)


def _check_after_death(folder: Path, acknowledged: int) -> int:
    with Ledger.open(folder) as ledger, ledger.lock():  # at once: the dead hold nothing
        stored = list(ledger.read())
    whole, rest = divmod(len(stored), 8)
    assert rest == 0, "half a batch is seen"
    assert whole in (acknowledged, acknowledged + 1), "an acknowledged batch is lost, or one was made up"
    assert [event.seq for event in stored] == list(range(1, len(stored) + 1))
    assert [(event.epoch, event.trial) for event in stored] == [(e, t) for e in range(1, whole + 1) for t in range(8)]
    return whole


def _drain(pipe: Connection, seen: int) -> int:
    with contextlib.suppress(EOFError, OSError):
        while pipe.poll():
            seen = pipe.recv()
    return seen


def _kill_after(batches: list[int], folder: Path) -> None:
    """Each life is killed when so many more are acknowledged: somewhere in the next."""
    done = 0
    for more in batches:
        ours, theirs = fork.Pipe(duplex=False)
        process = fork.Process(target=_write_for_ever, args=(folder, theirs))
        process.start()
        theirs.close()
        assert ours.poll(PATIENCE)
        seen = ours.recv()
        assert seen == done
        while seen < done + more:
            seen = ours.recv()
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        done = _check_after_death(folder, _drain(ours, seen))


def test_sigkill_after_seeded_batches_loses_nothing_acknowledged_and_shows_nothing_half_written(folder: Path) -> None:
    draw = random.Random(20261123)
    _kill_after([draw.randint(0, 3) for _ in range(20)], folder)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_sigkill_after_many_seeded_batches_loses_nothing_acknowledged(folder: Path, seed: int) -> None:
    draw = random.Random(seed)
    _kill_after([draw.randint(0, 10) for _ in range(100)], folder)


def test_a_read_only_opening_sees_what_a_killed_writer_had_acknowledged(folder: Path) -> None:
    ours, theirs = fork.Pipe(duplex=False)
    process = fork.Process(target=_write_for_ever, args=(folder, theirs))
    process.start()
    theirs.close()
    assert ours.poll(PATIENCE)
    while ours.recv() < 3:
        pass
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    with Ledger.open(folder, read_only=True) as ledger:
        assert ledger.last() >= 24
        assert ledger.holder() is None


def test_processes_that_create_at_once_share_one_ledger_and_one_of_them_drives(folder: Path) -> None:
    gate, hold = fork.Barrier(6), fork.Event()
    pipes = []

    def launch(pipe: Connection) -> None:
        gate.wait(PATIENCE)
        with Ledger.create(folder) as ledger:
            ledger.append([asked(0, pid=os.getpid())])
            try:
                with ledger.lock():
                    pipe.send(("drives", os.getpid(), ledger.last()))
                    hold.wait(PATIENCE)
            except StudyLocked as error:
                pipe.send(("waits", str(error), ledger.last()))

    for _ in range(6):
        ours, theirs = fork.Pipe(duplex=False)
        process = fork.Process(target=launch, args=(theirs,))
        process.start()
        pipes.append((ours, process))
    said = []
    for ours, _process in pipes:
        assert ours.poll(PATIENCE)
        said.append(ours.recv())
    hold.set()
    for _ours, process in pipes:
        process.join(PATIENCE)
        assert process.exitcode == 0
    drivers = [line for line in said if line[0] == "drives"]
    assert len(drivers) == 1
    assert all(f":{drivers[0][1]} since 2" in line[1] for line in said if line[0] == "waits")
    assert {line[2] for line in said} == {1}
    with Ledger.open(folder) as ledger:  # SQLite's log stays where two close at once; whoever is next takes it up
        assert ledger.last() == 1
    kept = {path.name for path in folder.iterdir()}
    assert kept in ({"ledger.db", "lock"}, {"ledger.elsewhere"})


# The lock


def test_the_lock_names_its_holder_to_everybody_and_is_free_afterwards(ledger: Ledger, folder: Path) -> None:
    assert ledger.holder() is None
    with ledger.lock(), Ledger.open(folder, read_only=True) as other:
        who = other.holder()
        assert who is not None
        assert who["pid"] == os.getpid()
        with pytest.raises(
            StudyLocked, match=rf"digits is already running on {who['host']}:{who['pid']} since 2\d\d\d-"
        ):
            other.lock().__enter__()
    assert ledger.holder() is None
    with ledger.lock():
        pass


def test_the_lock_is_released_by_sigkill(ledger: Ledger, folder: Path) -> None:
    ours, theirs = fork.Pipe(duplex=False)

    def drive() -> None:
        with Ledger.open(folder) as mine, mine.lock():
            theirs.send(os.getpid())
            signal.pause()

    process = fork.Process(target=drive)
    process.start()
    assert ours.poll(PATIENCE)
    holder = ledger.holder()
    assert holder is not None
    assert holder["pid"] == ours.recv() == process.pid
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert ledger.holder() is None
    with ledger.lock():
        assert (ledger.holder() or {})["pid"] == os.getpid()


def test_word_to_stop_reaches_the_driver_that_is_meant_and_none_that_follows_it(
    ledger: Ledger, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed = [0]
    renew = lease.Lease._renew_once

    def counted(self: lease.Lease, token: int) -> bool:
        found = renew(self, token)
        renewed[0] += 1
        return found

    monkeypatch.setattr(lease.Lease, "_renew_once", counted)
    monkeypatch.setattr(lease, "_RENEWALS", 600)  # of 30 s: often

    def look() -> None:
        """Once more at the database, of which a driver hears when it renews its lease."""
        if hasattr(ledger._place, "_lease"):
            before = renewed[0]
            until(lambda: renewed[0] > before + 1)

    with Ledger.open(folder) as other:
        with ledger.lock():
            who = other.holder()
            assert who is not None
            assert not ledger.asked_to_stop()
            other.ask_to_stop({**who, "pid": who["pid"] + 1})
            look()
            assert not ledger.asked_to_stop()
            other.ask_to_stop(who)
            look()
            assert ledger.asked_to_stop()
            assert other.holder() == who
        with other.lock():
            other.ask_to_stop({**who, "since": "then"})
            look()
            assert not other.asked_to_stop()


# Old files


def test_only_bound_parameters_reach_the_database(ledger: Ledger) -> None:
    seen: list[str] = []
    sa.event.listen(ledger._place.engine, "before_cursor_execute", lambda *arguments: seen.append(arguments[2]))
    hostile = "x'); DROP TABLE events; --"
    ledger.append([Opened(host=hostile, pid=1)])
    assert next(iter(ledger.read())).host == hostile
    assert seen
    assert not any("DROP" in statement for statement in seen)
