"""The ledger: the append-only store of a study's events, and the only truth about it.

It knows events, transactions and the study's folder. It must never know what an event means (that is `history`), nor
samplers, executors or MLflow. No module outside this package writes SQL.

Each study has a folder, `TUNER_HOME/studies/<study>/`. Its events are in `ledger.db` there (`sqlite`), or, where the
environment names a database as TUNER_LEDGER=postgresql://…, in that one, with those of other studies (`postgresql`).
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tuner import home as homes
from tuner.errors import LedgerDamaged, LedgerError, StudyMissing
from tuner.events import Event
from tuner.history.fold import History
from tuner.home import ADDRESS, ELSEWHERE, LEDGER, study_folder
from tuner.ledger import head, sqlite, tables
from tuner.ledger.digests import SIZE, Audit
from tuner.ledger.place import Place, Transaction
from tuner.ledger.tables import FORMAT

__all__ = ["FORMAT", "Ledger", "server", "studies", "study_folder"]

_PAGE = 4096  # events per query, so that no reader holds a snapshot open while its caller works
# What the fold raises where an event does not follow from those before it.
_MISFITS = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)


def _warn(text: str) -> None:
    sys.stderr.write(f"{text}\n")


class Ledger:
    """A study's events, opened. Any number may read; one process writes, the one that holds `lock()`.

    Safe to use from several threads. Every method that touches the events raises LedgerError with a plain message
    where the disk is full, the file is damaged, another process keeps it locked, or a database does not answer.
    """

    def __init__(self, folder: Path, place: Place) -> None:
        """Use `Ledger.create` or `Ledger.open`."""
        self.folder = folder
        self._place = place
        self._thread = threading.local()  # `open`: the transaction that is open, in each thread its own
        try:
            place.check_format()
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, folder: Path, tell: Callable[[str], None] = _warn, *, accept_loss: bool = False) -> Self:
        """Make the folder and an empty ledger where there is none, and open it for writing.

        Processes that create at once get the same ledger. A creation cut short leaves nothing that is mistaken for
        a ledger. What a person should hear of while it is written to, a database that restarts, is given to `tell`,
        by the thread that writes. Raises InputError where the folder cannot be made, LedgerDamaged where a ledger was
        there and is lost, unless that is accepted.
        """
        if address := os.environ.get(ADDRESS):
            from tuner.ledger import postgresql

            return cls(folder, postgresql.create(folder, address, tell))
        _check_here(folder)
        return cls(folder, sqlite.create(folder, accept_loss=accept_loss))

    @classmethod
    def open(cls, folder: Path, *, read_only: bool = False) -> Self:
        """Open a study's ledger. Raises StudyMissing where there is none, LedgerError where it cannot be read."""
        if address := os.environ.get(ADDRESS):
            from tuner.ledger import postgresql

            if (folder / LEDGER).exists():
                raise LedgerError(
                    f"study {folder.name} has its ledger in {folder / LEDGER}, and {ADDRESS} names a database; "
                    f"unset {ADDRESS} for studies of this home"
                )
            place: Place | None = postgresql.find(folder, address, read_only=read_only, tell=_warn)
        else:
            _check_here(folder)
            place = sqlite.File(folder, read_only=read_only) if (folder / LEDGER).exists() else None
        if place is None:
            if (known := head.read(folder)) is not None:
                raise LedgerDamaged(sqlite.lost(folder, known[0]))
            from tuner.search_spaces.document import (
                suggest,  # pydantic comes with it: 0.15 s that only this mistake pays
            )

            home = folder.parent.parent
            hint = suggest(folder.name, studies(home)) or "; `tuner list` shows the studies of this home"
            raise StudyMissing(f"no study {folder.name!r} in {home}{hint}")
        return cls(folder, place)

    def append(self, events: Sequence[Event]) -> list[Event]:
        """Store events in one transaction, synced to the disk when this returns; all of them or, on an error, none.

        Returns those really stored, as `read` will give them, with `seq` (without gaps, from 1) and `time` set. What
        the ledger already holds is left out: a second `created`, a trial's second `asked`, second terminal event or
        second report of one epoch; the first one wins.
        Raises ValueError where a body is no JSON (NaN and infinity are none: they are left out by whoever appends).
        """
        if not events:
            return []
        now = time.time()
        rows = [tables.row(event, now) for event in events]
        with self._writing() as transaction:
            kept = transaction.store(rows)
        return [tables.event(row) for row in kept]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Everything that this thread appends inside is one transaction: on the disk at the end, or, on an error, none.

        So what arrived at once costs one sync of the disk (4 ms and more) instead of one each. Others see none of it
        before; what `append` returned inside may be relied on after the end alone.
        """
        with self._writing():
            yield

    @contextmanager
    def _writing(self) -> Iterator[Transaction]:
        """The transaction that this thread has open, or a new one."""
        found: Transaction | None = getattr(self._thread, "open", None)
        if found is not None:
            yield found
            return
        with self._place.transaction() as transaction:
            self._thread.open = transaction
            try:
                yield transaction
            finally:
                self._thread.open = None

    def read(self, after: int = 0, limit: int | None = None) -> Iterator[Event]:
        """The events with `seq` above `after`, in order, at most `limit` of them.

        Reads page by page, so what is appended meanwhile by anybody is included.
        """
        place = self._place
        while limit is None or limit > 0:
            size = _PAGE if limit is None else min(_PAGE, limit)
            with place.connect() as connection:
                rows = (
                    connection.execute(place.tables.read, {"after": after, "size": size, **place.key}).mappings().all()
                )
            for row in rows:
                try:
                    event = tables.event(row)
                except (ValueError, TypeError) as error:
                    raise LedgerDamaged(f"{place.name}: event {row['seq']} cannot be read: {error}") from error
                yield event
            if len(rows) < size:
                return
            after = rows[-1]["seq"]
            limit = None if limit is None else limit - size

    def history(self) -> History:
        """The study as its events tell it. Raises LedgerError where they contradict one another."""
        history = History()
        for event in self.read():
            try:
                history.apply(event)
            except _MISFITS as error:
                raise LedgerDamaged(
                    f"{self._place.name}: event {event.seq} ({event.kind}) does not fit those before it"
                ) from error
        return history

    def examine(self) -> tuple[History, Audit]:
        """The study as its events tell it, and whether they are all there and as they were stored.

        What is wrong with them is found, and not raised: the history then ends before the event that cannot be read.
        May be asked while a driver writes. Raises LedgerError where the ledger cannot be read at all.
        """
        place = self._place
        known = head.read(self.folder)  # first, as the newest mark is: what comes meanwhile is none that is missing
        with place.connect() as connection:
            audit = Audit(known, place.newest_mark(connection))
        history, after, size = History(), 0, _PAGE
        while size == _PAGE:
            with place.connect() as connection:
                given = {"after": after, "size": _PAGE, **place.key}
                rows: Sequence[Any] = connection.execute(place.tables.read, given).mappings().all()
                audit.page(rows, place.marks(connection, after, rows[-1]["seq"]) if rows else ())
            for row in rows if not audit.fatal else ():
                try:
                    history.apply(tables.event(row))
                except _MISFITS as error:
                    audit.unreadable(_contradiction(row, error))
                    break
            size, after = len(rows), rows[-1]["seq"] if rows else after
        audit.close()
        if history.completed and not audit.fatal and (left := history.unfinished):
            audit.unfinished(history.completed, left)
        audit.holes = history.holes if audit.gaps else ()
        with place.connect() as connection:
            accepted = connection.scalar(place.tables.noted, {"name": place.note_key})
        audit.accept(set((accepted or "").splitlines()))
        return history, audit

    def checked(self, *, accept_loss: bool, tell: Callable[[str], None]) -> tuple[History, bool]:
        """The study's history, to go on from, and whether events are lost. Raises LedgerDamaged, with what to do.

        With `accept_loss` what can be gone on from is told, and never found again: then checkpoints may be ahead.
        """
        history, audit = self.examine()
        damage = self.damage(audit)
        if not damage:
            return history, False
        if audit.fatal or not accept_loss:
            raise LedgerDamaged(damage)
        tip = self._place.forgive([finding.id for finding in audit.findings if finding.id])
        if self._place.head is not None:
            self._place.head.write(history.seq, tip or "0" * SIZE)
        tell(f"{self._place.name}: {'; '.join(audit.lines())}; accepted, going on without it")
        return history, True

    def damage(self, audit: Audit) -> str:
        """What an audit has found and what to do, in a line for a person; "" where nothing is wrong."""
        if not audit.findings:
            return ""
        found = f"study {self.folder.name}: {'; '.join(audit.lines())} ({self._place.name})"
        onward = "" if audit.fatal else ", or go on without what is lost: `tuner launch` its file with --accept-loss"
        return f"{found}; restore {self._place.backup} from a backup{onward}"

    def last(self) -> int:
        """The `seq` of the newest event, 0 where there is none."""
        with self._place.connect() as connection:
            return connection.scalar(self._place.tables.last, self._place.key) or 0

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the study: one driver at a time. Raises StudyLocked, naming who holds it."""
        with self._place.lock():
            self._place.head = held = head.Head(self.folder)
            try:
                yield
            finally:
                self._place.head = None
                held.close()

    def holder(self) -> dict[str, Any] | None:
        """Who drives the study now: {"pid", "host", "since" (ISO 8601)}; None where nobody does."""
        return self._place.holder()

    def ask_to_stop(self, who: dict[str, Any]) -> None:
        """Leave word for the driver that `holder` has told of that it is to stop, on whatever machine it runs."""
        self._place.ask_to_stop(who)

    def asked_to_stop(self) -> bool:
        """Whether somebody has left such word for this process, which holds `lock()`. Takes no time."""
        return self._place.asked_to_stop()

    def discard(self) -> str | None:
        """Remove the study's events for good from a database, whose name is returned; None where they are in a file of
        the study's folder, and go with it."""
        return self._place.discard()

    def close(self) -> None:
        """Let go of the events. Closing twice is harmless."""
        self._place.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _contradiction(row: Mapping[str, Any], error: Exception) -> str:
    """What is told of an event that cannot be read, or does not follow from those before it."""
    if isinstance(error, ValueError | TypeError):
        return f"event {row['seq']} cannot be read: {error}"
    asked = f": trial {error.args[0]} was never asked" if error.args and isinstance(error.args[0], int) else ""
    return f"event {row['seq']} ({row['kind']}) does not fit those before it{asked}"


def _check_here(folder: Path) -> None:
    """Raises LedgerError where the study's events are in a database, and the environment names none."""
    if (folder / ELSEWHERE).exists():
        where = (folder / ELSEWHERE).read_text().strip()
        raise LedgerError(f"the events of study {folder.name} are in {where}: set {ADDRESS} to its address")


def server() -> str | None:
    """The database that the environment names, and its version, for a person; None where it names none."""
    if address := os.environ.get(ADDRESS):
        from tuner.ledger import postgresql

        return postgresql.version(address)
    return None


def studies(home: Path) -> list[str]:
    """The names of the studies in a home, or, where the environment names one, in a database; sorted."""
    if address := os.environ.get(ADDRESS):
        from tuner.ledger import postgresql

        return postgresql.studies(address)
    return homes.studies(home)
