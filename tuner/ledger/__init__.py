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
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tuner import home as homes
from tuner.errors import LedgerError, StudyMissing
from tuner.history import History
from tuner.home import ADDRESS, ELSEWHERE, LEDGER, study_folder
from tuner.ledger import sqlite, tables
from tuner.ledger.place import Place, Transaction
from tuner.ledger.tables import FORMAT
from tuner.trial import Event

__all__ = ["FORMAT", "Ledger", "server", "studies", "study_folder"]

_PAGE = 4096  # events per query, so that no reader holds a snapshot open while its caller works


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
    def create(cls, folder: Path, tell: Callable[[str], None] = _warn) -> Self:
        """Make the folder and an empty ledger where there is none, and open it for writing.

        Processes that create at once get the same ledger. A creation cut short leaves nothing that is mistaken for
        a ledger. What a person should hear of while it is written to, a database that restarts, is given to `tell`,
        by the thread that writes. Raises InputError where the folder cannot be made.
        """
        if address := os.environ.get(ADDRESS):
            from tuner.ledger import postgresql

            return cls(folder, postgresql.create(folder, address, tell))
        _check_here(folder)
        return cls(folder, sqlite.create(folder))

    @classmethod
    def open(cls, folder: Path, *, read_only: bool = False) -> Self:
        """Open a study's ledger. Raises StudyMissing where there is none, LedgerError where it cannot be read."""
        if address := os.environ.get(ADDRESS):
            from tuner.ledger import postgresql

            place: Place | None = postgresql.find(folder, address, read_only=read_only, tell=_warn)
        else:
            _check_here(folder)
            place = sqlite.File(folder, read_only=read_only) if (folder / LEDGER).exists() else None
        if place is None:
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
                except ValueError as error:
                    raise LedgerError(f"{place.name}: event {row['seq']} cannot be read: {error}") from error
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
            except (KeyError, TypeError) as error:
                raise LedgerError(
                    f"{self._place.name}: event {event.seq} ({event.kind}) does not fit those before it"
                ) from error
        return history

    def last(self) -> int:
        """The `seq` of the newest event, 0 where there is none."""
        with self._place.connect() as connection:
            return connection.scalar(self._place.tables.last, self._place.key) or 0

    def lock(self) -> AbstractContextManager[None]:
        """Hold the study: one driver at a time. Raises StudyLocked, naming who holds it."""
        return self._place.lock()

    def holder(self) -> dict[str, Any] | None:
        """Who drives the study now: {"pid", "host", "since" (ISO 8601)}; None where nobody does."""
        return self._place.holder()

    def ask_to_stop(self, who: dict[str, Any]) -> None:
        """Leave word for the driver that `holder` has told of that it is to stop, on whatever machine it runs."""
        self._place.ask_to_stop(who)

    def asked_to_stop(self) -> bool:
        """Whether somebody has left such word for this process, which holds `lock()`. Takes no time."""
        return self._place.asked_to_stop()

    def close(self) -> None:
        """Let go of the events. Closing twice is harmless."""
        self._place.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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
