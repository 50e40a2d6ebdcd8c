"""What a database must give so that a ledger can be kept in it, and one transaction of it.

Knows tables and connections; must never know what an event means, nor which database it is: SQLite and PostgreSQL each
say in a module of their own where they are, who may write, and what their errors mean to a person.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Self, TypeVar

import sqlalchemy as sa

from tuner.errors import LedgerDamaged, LedgerError
from tuner.ledger.digests import SIZE, Mark, digest
from tuner.ledger.head import Head
from tuner.ledger.tables import FORMAT, Row, Tables

T = TypeVar("T")

_LAST = 10**15 - 1  # the largest `seq` that a mark's key has room for


class Place(ABC):
    """Where the events of one study are. `name` is what messages call it, `key` tells its rows from others'."""

    tables: Tables
    engine: sa.Engine
    name: str
    key: Row
    backup: str  # what is to be restored where the ledger is damaged
    head: Head | None = None  # while this process holds the study
    _tip: tuple[int, str] = (0, "")  # of the newest commit of this process: the last event, the last digest

    @contextmanager
    def told(self) -> Iterator[None]:
        """What goes wrong with the database inside is a LedgerError in plain words."""
        try:
            yield
        except sa.exc.DBAPIError as error:
            raise (LedgerDamaged if self.damaged(error) else LedgerError)(self.explain(error)) from error

    @contextmanager
    def connect(self) -> Iterator[sa.Connection]:
        """A connection, to look; what goes wrong inside is told."""
        with self.told(), self.engine.connect() as connection:
            yield connection

    @abstractmethod
    def explain(self, error: sa.exc.DBAPIError) -> str:
        """One line about what went wrong, what it means and what to do; without a secret."""

    @abstractmethod
    def damaged(self, error: sa.exc.DBAPIError) -> bool:
        """Whether the error says that what is stored is not as it was stored."""

    @abstractmethod
    def begin(self, connection: sa.Connection) -> int:
        """Take the right to write before the first look at `seq`, which is returned: the newest one.

        The order of seq is then the order of commits, and a reader's cursor never passes an event still to appear.
        """

    def transaction(self) -> Transaction:
        """A new one, for the thread that asks."""
        return Transaction(self)

    @abstractmethod
    def lock(self) -> AbstractContextManager[None]:
        """Hold the study: one driver at a time. Raises StudyLocked, naming who holds it."""

    @abstractmethod
    def holder(self) -> dict[str, Any] | None:
        """Who drives the study now: {"pid", "host", "since" (ISO 8601)}; None where nobody does."""

    @abstractmethod
    def ask_to_stop(self, who: dict[str, Any]) -> None:
        """Leave word for the driver that `holder` has told of."""

    @abstractmethod
    def asked_to_stop(self) -> bool:
        """Whether word is there for this process, which holds the study. Takes no time: asked at every turn."""

    def mark_key(self, seq: int) -> str:
        """The key of the mark whose last event is `seq`: of equal length, so that every database sorts them alike."""
        whose = "".join(f"{study:010d}/" for study in self.key.values())
        return f"digest/{whose}{seq:015d}"

    @property
    def note_key(self) -> str:
        """The key of what a person has accepted to be lost."""
        return "/".join(["accepted", *(f"{study:010d}" for study in self.key.values())])

    def bounds(self) -> Row:
        """Of the keys of this study's marks, for the statements about them."""
        return {"begin": self.mark_key(0), "end": self.mark_key(_LAST)}

    def newest_mark(self, connection: sa.Connection) -> Mark | None:
        row = connection.execute(self.tables.newest_mark, self.bounds()).one_or_none()
        return None if row is None else mark(row)

    def marks(self, connection: sa.Connection, after: int, upto: int) -> list[Mark]:
        """Those that end after the event `after`, up to the one that covers the event `upto`."""
        span = {"after": self.mark_key(after), "upto": self.mark_key(upto), "end": self.mark_key(_LAST)}
        return [mark(row) for row in connection.execute(self.tables.marks, span)]

    def tip(self, connection: sa.Connection, last: int) -> str:
        """The digest that the one of the event after `last` is chained from. Raises LedgerDamaged where some are lost.

        Asked inside a transaction that may write. Nothing is read where the newest commit was this process's own.
        """
        known, tip = self._tip
        if known == last and tip:
            return tip
        newest = self.newest_mark(connection)
        if newest is None:
            return ""
        if newest.last > last:
            raise LedgerDamaged(
                f"{self.name}: {newest.last} events were stored, and {last} are there; see `tuner doctor`"
            )
        return newest.digests[-SIZE:]

    def forgive(self, ids: Sequence[str]) -> str:
        """Take what is there for all there is, and note damage (by its ids) as accepted; returns the newest digest."""
        with self.connect() as connection:
            last = self.begin(connection)
            kept = next((found for found in self.marks(connection, last - 1, last) if found.of(last)), None)
            connection.execute(self.tables.drop_marks, {"after": self.mark_key(last - 1), **self.bounds()})
            if kept is not None:
                left = kept.digests[: (last + 1 - kept.first) * SIZE]
                connection.execute(self.tables.mark, {"key": self.mark_key(last), "value": left})
            name = {"name": self.note_key}
            before = connection.scalar(self.tables.noted, name)
            connection.execute(self.tables.drop_note, name)
            noted = "\n".join([*(before or "").splitlines(), *ids])
            connection.execute(self.tables.mark, {"key": self.note_key, "value": noted})
            tip = self.newest_mark(connection)
            connection.commit()
        return tip.digests[-SIZE:] if tip else ""

    def committed(self, last: int, tip: str) -> None:
        """The newest event that is on the disk now, and its digest."""
        self._tip = last, tip
        if self.head is not None:
            self.head.write(last, tip)

    def discard(self) -> str | None:
        """Remove the study from a database that holds others, too, and say which; None where the ledger is a file."""
        return None

    def check_format(self) -> None:
        """Raises LedgerDamaged where the database is no ledger, or one that only a newer Tuner can read."""
        with self.connect() as connection:
            if not sa.inspect(connection).has_table(self.tables.meta.name):
                raise LedgerDamaged(
                    f"{self.name}: expected a ledger, got a database without the table `{self.tables.meta.name}`; "
                    "restore it from a backup"
                )
            found = connection.scalar(self.tables.format)
        if found is None or not found.isdigit():
            raise LedgerDamaged(f"{self.name}: expected a ledger's format number, got {found!r}")
        if int(found) > FORMAT:
            raise LedgerDamaged(
                f"{self.name}: written in format {found}, this Tuner reads up to {FORMAT}; install a newer Tuner"
            )


class Transaction:
    """What one thread stores, all of it or nothing. Begun by the first `store`: an empty one costs nothing."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._connection: sa.Connection | None = None
        self._last = 0  # the newest `seq`, once begun
        self._tip = ""  # its digest
        self._digests: list[str] = []  # of what was stored

    def store(self, rows: Sequence[Row]) -> list[Row]:
        """Store the rows that break no rule; those, numbered without a gap after what is there."""
        return self._run(lambda connection: self._store(connection, rows))

    def _store(self, connection: sa.Connection, rows: Sequence[Row]) -> list[Row]:
        places = self._place.tables.store(connection, numbered(rows, self._last), self._place.key)
        kept = numbered([rows[place] for place in places], self._last)
        self._last += len(kept)
        for row in kept:
            self._tip = digest(row, self._tip)
            self._digests.append(self._tip)
        return kept

    def _run(self, act: Callable[[sa.Connection], T]) -> T:
        with self._place.told():
            return act(self._begun())

    def _begun(self) -> sa.Connection:
        if self._connection is None:
            self._connection = self._place.engine.connect()
            try:
                self._last = self._place.begin(self._connection)
                if not self._digests:
                    self._tip = self._place.tip(self._connection, self._last)
            except BaseException:
                self._close()  # whoever goes on all the same begins again
                raise
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Commit, on the disk when this returns; or, on an error, forget all of it."""
        try:
            if kind is None and self._connection is not None:
                self._run(self._commit)
                if self._digests:
                    self._place.committed(self._last, self._tip)
        finally:
            self._close()

    def _commit(self, connection: sa.Connection) -> None:
        """With the digests of what was stored; a commit that arrived without an answer has them already."""
        if self._digests:
            row = {"key": self._place.mark_key(self._last), "value": "".join(self._digests)}
            connection.execute(self._place.tables.mark, row)
        connection.commit()


def numbered(rows: Sequence[Row], last: int) -> list[Row]:
    """The rows with `seq`, from the one after `last` on."""
    return [row | {"seq": seq} for seq, row in enumerate(rows, last + 1)]


def mark(row: Any) -> Mark:
    """The mark of a row of `meta`."""
    return Mark(int(row.key.rpartition("/")[2]), row.value)
