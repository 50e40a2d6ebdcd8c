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

from tuner.errors import LedgerError
from tuner.ledger.tables import FORMAT, Row, Tables

T = TypeVar("T")


class Place(ABC):
    """Where the events of one study are. `name` is what messages call it, `key` tells its rows from others'."""

    tables: Tables
    engine: sa.Engine
    name: str
    key: Row

    @contextmanager
    def told(self) -> Iterator[None]:
        """What goes wrong with the database inside is a LedgerError in plain words."""
        try:
            yield
        except sa.exc.DBAPIError as error:
            raise LedgerError(self.explain(error)) from error

    @contextmanager
    def connect(self) -> Iterator[sa.Connection]:
        """A connection, to look; what goes wrong inside is told."""
        with self.told(), self.engine.connect() as connection:
            yield connection

    @abstractmethod
    def explain(self, error: sa.exc.DBAPIError) -> str:
        """One line about what went wrong, what it means and what to do; without a secret."""

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

    def check_format(self) -> None:
        """Raises LedgerError where the database is no ledger, or one that only a newer Tuner can read."""
        with self.connect() as connection:
            if not sa.inspect(connection).has_table(self.tables.meta.name):
                raise LedgerError(
                    f"{self.name}: expected a ledger, got a database without the table `{self.tables.meta.name}`"
                )
            found = connection.scalar(self.tables.format)
        if found is None or not found.isdigit():
            raise LedgerError(f"{self.name}: expected a ledger's format number, got {found!r}")
        if int(found) > FORMAT:
            raise LedgerError(
                f"{self.name}: written in format {found}, this Tuner reads up to {FORMAT}; install a newer Tuner"
            )


class Transaction:
    """What one thread stores, all of it or nothing. Begun by the first `store`: an empty one costs nothing."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._connection: sa.Connection | None = None
        self._last = 0  # the newest `seq`, once begun

    def store(self, rows: Sequence[Row]) -> list[Row]:
        """Store the rows that break no rule; those, numbered without a gap after what is there."""
        return self._run(lambda connection: self._store(connection, rows))

    def _store(self, connection: sa.Connection, rows: Sequence[Row]) -> list[Row]:
        places = self._place.tables.store(connection, numbered(rows, self._last), self._place.key)
        kept = numbered([rows[place] for place in places], self._last)
        self._last += len(kept)
        return kept

    def _run(self, act: Callable[[sa.Connection], T]) -> T:
        with self._place.told():
            return act(self._begun())

    def _begun(self) -> sa.Connection:
        if self._connection is None:
            self._connection = self._place.engine.connect()
            try:
                self._last = self._place.begin(self._connection)
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
                self._run(lambda connection: connection.commit())
        finally:
            self._close()


def numbered(rows: Sequence[Row], last: int) -> list[Row]:
    """The rows with `seq`, from the one after `last` on."""
    return [row | {"seq": seq} for seq, row in enumerate(rows, last + 1)]
