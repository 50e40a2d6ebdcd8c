"""The ledger in PostgreSQL: its address, its outages, replies that are lost, and the lease of its one driver."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.events import asked, fork, in_a_process, reported
from tests.postgres import PASSWORD, Server
from tests.servers import PATIENCE, until
from tuner.cli import doctor
from tuner.errors import InputError, LedgerError, StudyLocked
from tuner.events import Asked, Created, Event, Opened, Reported, Started
from tuner.ledger import FORMAT, Ledger, lease, postgresql, server, studies, study_folder
from tuner.tracking import process as follow
from tuner.tracking.sync import Progress, Tracker


@pytest.fixture
def address(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    address = postgres.fresh()
    monkeypatch.setenv("TUNER_LEDGER", address)
    return address


@pytest.fixture
def folder(tmp_path: Path, address: str) -> Path:
    return study_folder(tmp_path, "digits")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def ledger(folder: Path, said: list[str]) -> Iterator[Ledger]:
    with Ledger.create(folder, said.append) as opened:
        yield opened


# The address


@pytest.mark.parametrize(
    ("address", "got"),
    [
        ("mysql://root:{}@db/tuner", "an address of mysql"),
        ("postgres://root:{}@db/tuner", "an address of postgres"),
        ("postgresql://root:{}/x@db:port/tuner", "one that cannot be read"),
        ("{}", "none"),
    ],
)
def test_what_is_no_address_is_refused_without_a_word_of_it(
    address: str, got: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNER_LEDGER", address.format("Secret9"))
    for attempt in (Ledger.create, Ledger.open, studies):
        with pytest.raises(InputError, match="TUNER_LEDGER: expected postgresql://user:password@host/database") as info:
            attempt(study_folder(tmp_path, "digits"))
        assert f"got {got};" in str(info.value)
        assert "Secret9" not in str(info.value)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_password_or_database_is_told_with_host_and_database_and_without_the_password(
    postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {
        "password authentication failed": postgres.address("postgres", password="wrong-Secret9"),
        'database "nowhere" does not exist': postgres.address("nowhere"),
    }
    for reason, address in wrong.items():
        monkeypatch.setenv("TUNER_LEDGER", address)
        with pytest.raises(LedgerError, match=f"PostgreSQL database \\w+ at 127.0.0.1:{postgres.port}: ") as info:
            Ledger.create(study_folder(tmp_path, "digits"))
        assert reason in str(info.value)
        assert "Secret9" not in str(info.value) and PASSWORD not in str(info.value)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there_is_told_at_once_where_somebody_only_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("TUNER_LEDGER", f"postgresql://tuner:Secret9@127.0.0.1:{free.getsockname()[1]}/x")
        for attempt in (Ledger.create, Ledger.open, studies):
            with pytest.raises(LedgerError, match=r"does not answer \(.*refused.*is it up") as info:
                attempt(study_folder(tmp_path, "digits"))
            assert "Secret9" not in str(info.value)


def test_the_server_is_named_with_its_version(address: str, postgres: Server) -> None:
    found = server()
    assert found is not None
    assert found.startswith(f"PostgreSQL database postgres at 127.0.0.1:{postgres.port}, version 1")


def test_doctor_says_which_database_it_is_and_whether_it_answers_without_the_password(
    ledger: Ledger, tmp_path: Path, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def line() -> doctor.Finding:
        (found,) = doctor.CHECKS["ledgers"](doctor.Place(tmp_path))
        return found

    assert line().state == doctor.OK
    assert f"1 studies in PostgreSQL database postgres at 127.0.0.1:{postgres.port}, version 1" in line().found
    monkeypatch.setenv("TUNER_LEDGER", "postgresql://tuner:Secret9@127.0.0.1:1/tuner")
    assert line().state == doctor.PROBLEM
    assert "PostgreSQL database tuner at 127.0.0.1:1: it does not answer" in line().found
    assert "Secret9" not in line().line()


# Many studies


def test_studies_of_one_database_do_not_see_one_another(tmp_path: Path, address: str) -> None:
    one, two = (Ledger.create(study_folder(tmp_path, name)) for name in "ab")
    with one, two, one.lock(), two.lock():
        for ledger in (one, two, one):
            ledger.append([Created(id="x", spec={}, digest="d", text="", seed=0, data={}), asked(0), reported(0, 1)])
        assert [e.seq for e in one.read()] == [e.seq for e in two.read()] == [1, 2, 3]
        two.append([asked(1)])
        assert (one.last(), two.last()) == (3, 4)


def test_a_study_that_has_its_ledger_in_a_file_is_not_begun_again_in_a_database(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = study_folder(tmp_path, "digits")
    monkeypatch.delenv("TUNER_LEDGER")
    Ledger.create(folder).close()
    monkeypatch.setenv("TUNER_LEDGER", address)
    with pytest.raises(InputError, match=r"has its ledger in .*ledger\.db, .*unset TUNER_LEDGER, or"):
        Ledger.create(folder)
    assert studies(tmp_path) == []


def test_a_study_that_has_its_ledger_in_a_database_is_not_begun_again_in_a_file(
    ledger: Ledger, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TUNER_LEDGER")
    for attempt in (Ledger.create, Ledger.open):
        with pytest.raises(LedgerError, match=r"events of study digits are in PostgreSQL database .*set TUNER_LEDGER"):
            attempt(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["ledger.elsewhere"]


def test_a_newer_format_is_refused(ledger: Ledger, folder: Path, address: str, postgres: Server) -> None:
    postgres.ask(address, "UPDATE tuner_meta SET value = '99' WHERE key = 'format'")
    with pytest.raises(LedgerError, match=f"written in format 99, this Tuner reads up to {FORMAT}; install a newer"):
        Ledger.open(folder)


def test_every_commit_is_synced_to_the_disk_whatever_the_server_is_set_to(
    ledger: Ledger, address: str, postgres: Server, folder: Path
) -> None:
    postgres.ask("postgres", "ALTER ROLE tuner SET synchronous_commit = off")
    with Ledger.open(folder) as other, other._place.connect() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
    postgres.ask("postgres", "ALTER ROLE tuner RESET synchronous_commit")


# Outages


def test_a_restart_between_two_appends_loses_and_doubles_nothing(
    ledger: Ledger, postgres: Server, said: list[str]
) -> None:
    with ledger.lock():
        for trial in range(4):
            ledger.append([asked(trial)])
            postgres.restart()
    postgres.await_answer()
    assert [(e.seq, e.trial) for e in ledger.read()] == [(n + 1, n) for n in range(4)]


def test_a_restart_inside_a_transaction_is_invisible_in_what_it_stores(
    ledger: Ledger, postgres: Server, said: list[str]
) -> None:
    ledger.append([asked(0)])
    with ledger.lock(), ledger.together():
        first = ledger.append([asked(1), asked(0)])
        postgres.restart()
        second = ledger.append([asked(1), reported(1, 1)])
        postgres.restart()
    assert list(ledger.read(after=1)) == [*first, *second]
    assert [(e.seq, type(e)) for e in ledger.read()] == [(1, Asked), (2, Asked), (3, Reported)]


def through(outage: Server, ledger: Ledger, said: list[str], seconds: float = 0.0) -> list[Event]:
    """What is appended while the database is away, until a person was told of it, and for so many seconds more."""
    stored: list[Event] = []
    writing = threading.Thread(target=lambda: stored.extend(ledger.append([asked(1)])))
    outage.stop()
    try:
        writing.start()
        until(lambda: said)
        time.sleep(seconds)
    finally:
        outage.start()
    writing.join(PATIENCE)
    return stored


def test_an_outage_is_told_once_and_waited_for(ledger: Ledger, postgres: Server, said: list[str]) -> None:
    assert len(through(postgres, ledger, said)) == 1
    assert len(said) == 1
    assert "does not answer" in said[0] and "127.0.0.1" in said[0] and PASSWORD not in said[0]
    ledger.append([asked(0)])
    assert len(said) == 1


def test_an_outage_that_lasts_too_long_ends_the_driver_in_plain_words(
    ledger: Ledger, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "OUTAGE_SECONDS", 0.3)
    postgres.stop()
    try:
        with pytest.raises(LedgerError, match=r"has not answered for 0 s .*launch again when it does") as info:
            ledger.append([asked(0)])
        assert PASSWORD not in str(info.value)
    finally:
        postgres.start()
    assert ledger.last() == 0


def test_a_server_that_is_stopped_and_keeps_its_connections_is_an_outage_like_any_other(
    ledger: Ledger, postgres: Server, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ledger.lock():
        ledger.append([asked(0)])
        postgres.freeze(True)
        monkeypatch.setattr(postgresql, "ANSWER_SECONDS", 0.5)
        stored: list[Event] = []
        writing = threading.Thread(target=lambda: stored.extend(ledger.append([asked(1)])))
        writing.start()
        until(lambda: said)
        monkeypatch.setattr(postgresql, "ANSWER_SECONDS", PATIENCE)
        postgres.freeze(False)
        writing.join(PATIENCE)
        assert [event.seq for event in stored] == [2]
    assert [event.trial for event in ledger.read()] == [0, 1]
    assert len(said) == 1


class Cutter:
    """A way to the server that breaks at the first `word`: before it is heard there, or its answer here."""

    def __init__(self, server: int, word: bytes, *, arrives: bool) -> None:
        self.cuts = 0
        self._server, self._word, self._arrives = server, word, arrives
        self._answered = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                ours, _ = self._listener.accept()
                theirs = socket.create_connection(("127.0.0.1", self._server))
                deaf = threading.Event()
                for carry in (self._there, self._back):
                    threading.Thread(target=carry, args=(ours, theirs, deaf), daemon=True).start()

    def _there(self, ours: socket.socket, theirs: socket.socket, deaf: threading.Event) -> None:
        with ours, theirs, suppress(OSError):
            while data := ours.recv(65_536):
                if self._word in data and not self.cuts:
                    self.cuts += 1
                    deaf.set()
                    if self._arrives:
                        theirs.sendall(data)
                        while not self._answered.is_set():  # it is done then; the answer stays here
                            if select.select([ours], [], [], 0.01)[0]:  # of several statements that are sent as one
                                theirs.sendall(ours.recv(65_536))
                    for end in (ours, theirs):  # both learn of it: another thread listens to one of them
                        end.shutdown(socket.SHUT_RDWR)
                    return
                theirs.sendall(data)

    def _back(self, ours: socket.socket, theirs: socket.socket, deaf: threading.Event) -> None:
        with suppress(OSError):
            while (data := theirs.recv(65_536)) and not deaf.is_set():
                ours.sendall(data)
            self._answered.set()

    def close(self) -> None:
        self._listener.close()


@pytest.mark.parametrize("arrives", [True, False])
@pytest.mark.parametrize("word", [b"COMMIT", b"INSERT INTO tuner_events", b"FOR UPDATE", b"max(tuner_events"])
@pytest.mark.parametrize("together", [True, False])
def test_a_reply_that_is_lost_anywhere_stores_nothing_twice_and_loses_nothing(
    word: bytes, arrives: bool, together: bool, postgres: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = os.environ["TUNER_LEDGER"]
    Ledger.create(folder).close()
    # Events that no rule keeps apart: only what was stored tells whether it was.
    batches = [
        [
            Started(0, attempt=n, worker=0, trials=[], epoch=1),
            Started(0, attempt=n, worker=0, trials=[], epoch=1),
        ]
        for n in range(3)
    ]
    with closing(Cutter(postgres.port, word, arrives=arrives)) as cutter:
        monkeypatch.setenv("TUNER_LEDGER", address.replace(f":{postgres.port}/", f":{cutter.port}/"))
        with Ledger.open(folder) as ledger:
            with ledger.together() if together else nullcontext():
                stored = [event for batch in batches for event in ledger.append(batch)]
            ledger.append([asked(0)])
    monkeypatch.setenv("TUNER_LEDGER", address)
    with Ledger.open(folder) as ledger:
        assert list(ledger.read(limit=6)) == stored
        assert [(event.seq, getattr(event, "attempt", None)) for event in ledger.read()] == [
            (1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 2), (7, None),
        ]  # fmt: skip
    assert cutter.cuts == 1


def test_what_somebody_else_wrote_in_an_outage_is_no_place_for_what_was_promised_there(
    ledger: Ledger, folder: Path, postgres: Server
) -> None:
    def promise() -> None:
        with ledger.together():
            ledger.append([asked(0)])
            postgres.restart()
            postgres.await_answer()
            with Ledger.open(folder) as other:
                other.append([asked(1)])

    with pytest.raises(LedgerError, match="another process wrote this study's events"):
        promise()
    assert [(event.seq, event.trial) for event in ledger.read()] == [(1, 1)]


# The lease


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that is renewed every tenth of a second, and outlives that on any machine."""
    monkeypatch.setattr(lease, "SECONDS", PATIENCE)
    monkeypatch.setattr(lease, "_RENEWALS", int(PATIENCE * 10))


def left(server: Server, address: str) -> float:
    """Seconds that the lease has left, by the database's clock."""
    ((seconds,),) = server.ask(
        address, "SELECT extract(epoch FROM expires - clock_timestamp())::float8 FROM tuner_leases"
    )
    assert isinstance(seconds, float)
    return seconds


def run_out(server: Server, address: str) -> None:
    """As when it was not renewed for longer than it lasts."""
    server.ask(address, "UPDATE tuner_leases SET expires = clock_timestamp() - interval '1 second'")


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> Callable[[Ledger], None]:
    """Makes the one who holds a study a process of another machine, of which nobody here knows whether it lives."""

    def move(ledger: Ledger) -> None:
        with ledger._place.engine.begin() as connection:
            connection.exec_driver_sql(
                'UPDATE tuner_leases SET holder = replace(holder, \'"host": "\', \'"host": "far-\')'
            )

    return move


@pytest.mark.usefixtures("often")
def test_a_driver_that_renews_its_lease_holds_the_study(
    ledger: Ledger, folder: Path, address: str, postgres: Server
) -> None:
    with ledger.lock(), Ledger.open(folder) as other:
        for _ in range(3):
            assert 0 < left(postgres, address) <= PATIENCE
            run_out(postgres, address)
            until(lambda: left(postgres, address) > 0)
            with pytest.raises(StudyLocked, match=rf"already running on {socket.gethostname()}:{os.getpid()} since 2"):
                other.lock().__enter__()


def test_the_lease_of_a_machine_that_died_runs_out_and_is_then_anybodys(
    ledger: Ledger, folder: Path, address: str, postgres: Server, foreign: Callable[[Ledger], None]
) -> None:
    def drive(pipe: Any) -> None:
        with Ledger.open(folder) as mine, mine.lock():
            pipe.send(os.getpid())
            os.kill(os.getpid(), signal.SIGKILL)

    pid = in_a_process(drive)
    foreign(ledger)
    assert 0 < left(postgres, address) <= lease.SECONDS
    who = ledger.holder()
    assert who is not None and who["host"].startswith("far-") and who["pid"] == pid
    with pytest.raises(StudyLocked, match=f"far-.*:{pid} since"):
        ledger.lock().__enter__()
    run_out(postgres, address)
    assert ledger.holder() is None
    with ledger.lock():
        assert ledger.append([asked(0)])


@pytest.mark.usefixtures("often")
def test_a_driver_that_was_cut_off_and_replaced_writes_nothing_more_and_says_why(
    ledger: Ledger,
    folder: Path,
    address: str,
    postgres: Server,
    monkeypatch: pytest.MonkeyPatch,
    foreign: Callable[[Ledger], None],
) -> None:
    with ledger.lock():
        ledger.append([asked(0)])
        with monkeypatch.context() as cut:
            cut.setattr(ledger._place._lease, "_renew_once", lambda *_: False)  # type: ignore[attr-defined]
            until(lambda: ledger._place._lease._lost)  # type: ignore[attr-defined]
            run_out(postgres, address)
            with Ledger.open(folder) as other:
                foreign(other)
                with other.lock():
                    assert [event.seq for event in other.append([asked(1)])] == [2]
                    for attempt in (lambda: ledger.append([asked(2)]), lambda: ledger.together().__enter__()):
                        with pytest.raises(LedgerError, match=rf"digits was taken over by \S+:{os.getpid()} .*stops"):
                            attempt()
                assert (other.last(), other.holder()) == (2, None)  # and letting go frees nobody else's lease


@pytest.mark.usefixtures("often")
def test_a_driver_without_news_learns_from_its_renewals_that_it_was_replaced(
    ledger: Ledger, address: str, postgres: Server
) -> None:
    with ledger.lock():
        postgres.ask(address, "UPDATE tuner_leases SET token = token + 1")
        until(lambda: ledger._place._lease._lost)  # type: ignore[attr-defined]
        with pytest.raises(LedgerError, match="taken over"), ledger.together():
            pass


def test_an_outage_longer_than_the_lease_costs_a_driver_nothing_while_nobody_took_its_place(
    ledger: Ledger, postgres: Server, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SECONDS", 1.0)
    with ledger.lock():
        ledger.append([asked(0)])
        assert [event.seq for event in through(postgres, ledger, said, seconds=1.1)] == [2]
        until(lambda: (ledger.holder() or {}).get("pid") == os.getpid())
    assert len(said) == 1


def test_of_many_that_want_a_free_study_one_gets_it(ledger: Ledger, folder: Path) -> None:
    gate, over = fork.Barrier(6), fork.Event()
    pipes = []

    def launch(pipe: Any) -> None:
        with Ledger.open(folder) as mine:
            gate.wait(PATIENCE)
            try:
                with mine.lock():
                    pipe.send(True)
                    over.wait(PATIENCE)
            except StudyLocked:
                pipe.send(False)

    for _ in range(6):
        ours, theirs = fork.Pipe(duplex=False)
        process = fork.Process(target=launch, args=(theirs,))
        process.start()
        pipes.append((ours, process))
    assert all(ours.poll(PATIENCE) for ours, _ in pipes)
    assert sum(ours.recv() for ours, _ in pipes) == 1
    over.set()
    for _, process in pipes:
        process.join(PATIENCE)
    assert ledger.holder() is None


# Who follows it


def test_a_writer_that_cannot_read_the_ledger_leaves_it_to_the_driver_to_say_so_until_the_end(
    ledger: Ledger, folder: Path, postgres: Server
) -> None:
    ledger.append([Opened(host="here", pid=1)])
    tracker = Tracker(folder, "sqlite://", None)
    said: list[Progress] = []
    ended = threading.Event()
    following = threading.Thread(target=follow.follow, args=(tracker, ended, 0.0, said.append))
    postgres.stop()
    try:
        following.start()
        until(lambda: said)
        assert (said[-1].error, tracker.blind) == (None, True)
        ended.set()
        following.join(PATIENCE)
        assert "does not answer" in (said[-1].error or "")
    finally:
        postgres.start()
        tracker.close()
