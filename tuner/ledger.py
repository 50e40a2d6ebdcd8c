"""The ledger: the append-only store of a study's events, and the only truth about it.

It knows SQL, transactions and the study's folder. It must never know what an event means (that is `history`), nor
samplers, executors or MLflow. No other module writes SQL.

One folder per study, `TUNER_HOME/studies/<study>/`: `ledger.db` (SQLite in WAL mode, every commit synced to the
disk before it is acknowledged) and `lock` (see `lock`: who drives the study).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from tuner import lock
from tuner.errors import InputError, LedgerError, StudyMissing
from tuner.history import History
from tuner.home import LEDGER, studies, study_folder
from tuner.trial import TERMINAL, Event, Kind

__all__ = ["FORMAT", "Ledger", "studies", "study_folder"]

FORMAT = 1  # of ledger.db; raised when an older Tuner could no longer read what is written

_BUSY_SECONDS = 30  # a commit of the driver takes milliseconds; longer means a stuck process or disk
_PAGE = 4096  # events per query, so that no reader holds a snapshot open while its caller works
_OF_A_TRIAL = (Kind.ASKED, Kind.REPORTED, *sorted(TERMINAL))

_schema = sa.MetaData()
_meta = sa.Table(
    "meta",
    _schema,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
_events = sa.Table(
    "events",
    _schema,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("time", sa.Double, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("trial", sa.Integer),
    sa.Column("cohort", sa.Integer),
    sa.Column("epoch", sa.Integer),
    sa.Column("body", sa.Text, nullable=False),
)


def _unique(name: str, columns: Sequence[str], kinds: Sequence[Kind]) -> None:
    where = _events.c.kind.in_([sa.literal_column(f"'{kind.value}'") for kind in kinds])
    sa.Index(name, *(_events.c[column] for column in columns), unique=True, sqlite_where=where, postgresql_where=where)


_unique("one_created", ["kind"], [Kind.CREATED])
_unique("one_asked", ["trial"], [Kind.ASKED])
_unique("one_report", ["trial", "epoch"], [Kind.REPORTED])
_unique("one_end", ["trial"], sorted(TERMINAL))

_INSERT = insert(_events).on_conflict_do_nothing().execution_options(preserve_rowcount=True)
_LAST = sa.select(sa.func.coalesce(sa.func.max(_events.c.seq), 0))
_SINCE = sa.select(_events.c.seq).where(_events.c.seq >= sa.bindparam("first")).order_by(_events.c.seq)
_TAKE_BACK = sa.delete(_events).where(_events.c.seq >= sa.bindparam("first"))  # inside its own transaction alone
_READ = (
    sa.select(_events).where(_events.c.seq > sa.bindparam("after")).order_by(_events.c.seq).limit(sa.bindparam("size"))
)

_JSON = json.JSONEncoder(allow_nan=False, separators=(",", ":"))

_REASONS = {  # SQLite's result codes, by the name they begin with, in a person's words
    "SQLITE_BUSY": f"another process has kept the ledger locked for {_BUSY_SECONDS} s; end it and launch again",
    "SQLITE_FULL": "the disk is full ({free} MB free); make room and launch again: nothing acknowledged is lost",
    "SQLITE_IOERR": "the disk refused to read or write ({detail}); check it ({free} MB free) and launch again",
    "SQLITE_CORRUPT": "the file is damaged ({detail}); restore the study's folder from a backup",
    "SQLITE_NOTADB": "the file is no ledger ({detail}); restore the study's folder from a backup",
    "SQLITE_READONLY": "the ledger may only be read here; check the folder's permissions",
    "SQLITE_CANTOPEN": "the file cannot be opened; check the folder's permissions",
    "SQLITE_CONSTRAINT": "an event breaks the ledger's rules ({detail})",
}


@dataclass
class _Open:
    """A transaction under way: its connection, and the newest `seq` in it."""

    connection: sa.Connection
    last: int


class Ledger:
    """A study's events, opened. Any number may read; one process writes, the one that holds `lock()`.

    Safe to use from several threads. Every method that touches the file raises LedgerError with a plain message
    where the disk is full, the file is damaged or another process keeps it locked.
    """

    def __init__(self, folder: Path, *, read_only: bool) -> None:
        """Use `Ledger.create` or `Ledger.open`."""
        self.folder = folder
        self.path = folder / LEDGER
        self.read_only = read_only
        self._engine = _engine(self.path, _mode(self.path, read_only))
        self._thread = threading.local()  # `open`: the transaction that is open, in each thread its own
        try:
            self._check_format()
        except BaseException:
            self._engine.dispose()
            raise

    @classmethod
    def create(cls, folder: Path) -> Self:
        """Make the folder and an empty ledger where there is none, and open it for writing.

        Processes that create at once get the same ledger. A creation cut short leaves nothing that is mistaken for
        a ledger. Raises InputError where the folder cannot be made.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise _unwritable(folder, error) from error
        try:
            fcntl.flock(place, fcntl.LOCK_EX)
            if not (folder / LEDGER).exists():
                _build(folder)
        except LedgerError:  # an OSError, too
            raise
        except OSError as error:
            raise _unwritable(folder, error) from error
        finally:
            os.close(place)
        return cls(folder, read_only=False)

    @classmethod
    def open(cls, folder: Path, *, read_only: bool = False) -> Self:
        """Open a study's ledger. Raises StudyMissing where there is none, LedgerError where it cannot be read."""
        if not (folder / LEDGER).exists():
            from search_spaces.document import suggest  # pydantic comes with it: 0.15 s that only this mistake pays

            home = folder.parent.parent
            hint = suggest(folder.name, studies(home)) or "; `tuner list` shows the studies of this home"
            raise StudyMissing(f"no study {folder.name!r} in {home}{hint}")
        return cls(folder, read_only=read_only)

    def append(self, events: Sequence[Event]) -> list[Event]:
        """Store events in one transaction, synced to the disk when this returns; all of them or, on an error, none.

        Returns those really stored, as `read` will give them, with `seq` (without gaps, from 1) and `time` set. What
        the ledger already holds is left out: a second `created`, a trial's second `asked`, second terminal event or
        second report of one epoch; the first one wins.
        Raises ValueError where a body is no JSON (NaN and infinity are none: they are left out by whoever appends).
        """
        bodies = [_encode(event) for event in events]
        if not bodies:
            return []
        now = time.time()
        with self._writing() as open_:
            last = open_.last
            rows = [
                _row(last + 1 + i, now, event, body) for i, (event, body) in enumerate(zip(events, bodies, strict=True))
            ]
            kept = _store(open_.connection, rows)
            open_.last += len(kept)
        return [
            Event(event.kind, json.loads(bodies[index]), event.trial, event.cohort, event.epoch, last + place, now)
            for place, index in enumerate(kept, 1)
            for event in (events[index],)
        ]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Everything that this thread appends inside is one transaction: on the disk at the end, or, on an error, none.

        So what arrived at once costs one sync of the disk (4 ms and more) instead of one each. Others see none of it
        before; what `append` returned inside may be relied on after the end alone.
        """
        with self._writing():
            yield

    @contextmanager
    def _writing(self) -> Iterator[_Open]:
        """The transaction that this thread has open, or a new one."""
        found: _Open | None = getattr(self._thread, "open", None)
        if found is not None:
            yield found
            return
        with self._connect() as connection:
            # The write lock before the first look at `seq`: the order of seq is then the order of commits, and a
            # reader's cursor never passes an event that is still to appear.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            self._thread.open = _Open(connection, connection.scalar(_LAST) or 0)
            try:
                yield self._thread.open
            finally:
                self._thread.open = None
            connection.commit()

    def read(self, after: int = 0, limit: int | None = None) -> Iterator[Event]:
        """The events with `seq` above `after`, in order, at most `limit` of them.

        Reads page by page, so what is appended meanwhile by anybody is included.
        """
        while limit is None or limit > 0:
            size = _PAGE if limit is None else min(_PAGE, limit)
            with self._connect() as connection:
                rows = connection.execute(_READ, {"after": after, "size": size}).all()
            for row in rows:
                yield self._event(row)
            if len(rows) < size:
                return
            after = rows[-1].seq
            limit = None if limit is None else limit - size

    def history(self) -> History:
        """The study as its events tell it. Raises LedgerError where they contradict one another."""
        history = History()
        for event in self.read():
            try:
                history.apply(event)
            except (KeyError, TypeError) as error:
                raise LedgerError(
                    f"{self.path}: event {event.seq} ({event.kind}) does not fit those before it"
                ) from error
        return history

    def last(self) -> int:
        """The `seq` of the newest event, 0 where there is none."""
        with self._connect() as connection:
            return connection.scalar(_LAST) or 0

    def lock(self) -> AbstractContextManager[None]:
        """Hold the study: one driver at a time. Raises StudyLocked, naming who holds it."""
        return lock.hold(self.folder)

    def holder(self) -> dict[str, Any] | None:
        """Who drives the study now: {"pid", "host", "since" (ISO 8601)}; None where nobody does."""
        return lock.holder(self.folder)

    def close(self) -> None:
        """Let go of the file. Closing twice is harmless."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _connect(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except sa.exc.DBAPIError as error:
            raise LedgerError(_explain(self.path, error)) from error

    def _check_format(self) -> None:
        with self._connect() as connection:
            if not sa.inspect(connection).has_table(_meta.name):
                raise LedgerError(f"{self.path}: expected a ledger, got a database without the table `meta`")
            found = connection.scalar(sa.select(_meta.c.value).where(_meta.c.key == "format"))
        if found is None or not found.isdigit():
            raise LedgerError(f"{self.path}: expected a ledger's format number, got {found!r}")
        if int(found) > FORMAT:
            raise LedgerError(
                f"{self.path}: written in format {found}, this Tuner reads up to {FORMAT}; install a newer Tuner"
            )

    def _event(self, row: sa.Row[Any]) -> Event:
        try:
            return Event(Kind(row.kind), json.loads(row.body), row.trial, row.cohort, row.epoch, row.seq, row.time)
        except ValueError as error:
            raise LedgerError(f"{self.path}: event {row.seq} cannot be read: {error}") from error


def _mode(path: Path, read_only: bool) -> dict[str, str]:
    if not read_only:
        return {"mode": "rw"}
    # In a folder of somebody else's SQLite cannot make the file that readers of a WAL share; where no WAL is left
    # behind nobody writes, and it can do without.
    alone = not os.access(path.parent, os.W_OK) and not path.with_name(f"{LEDGER}-wal").exists()
    return {"mode": "ro"} | ({"immutable": "1"} if alone else {})


def _engine(path: Path, mode: dict[str, str]) -> sa.Engine:
    """SQLite at `path`; `mode` in the words of its URIs: `mode` is ro, rw (must exist) or rwc (made where missing)."""
    url = sa.URL.create("sqlite", database=f"file:{quote(str(path.absolute()))}", query=mode | {"uri": "true"})
    # isolation_level None: sqlite3 begins no transaction by itself, `append` says when and how.
    engine = sa.create_engine(url, connect_args={"timeout": _BUSY_SECONDS, "isolation_level": None})

    @sa.event.listens_for(engine, "connect")
    def _settle(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA synchronous=FULL")  # a commit is on the disk before it is acknowledged

    return engine


def _build(folder: Path) -> None:
    """An empty ledger under another name, moved into place when it is whole. Called under a lock on the folder."""
    draft = folder / f"{LEDGER}.new"
    for leftover in folder.glob(f"{draft.name}*"):
        leftover.unlink()
    draft.touch()  # a folder that cannot be written says so here, in the system's own words
    engine = _engine(draft, {"mode": "rwc"})
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")  # is kept in the file
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            _schema.create_all(connection)
            connection.execute(sa.insert(_meta).values(key="format", value=str(FORMAT)))
            connection.commit()
    except sa.exc.DBAPIError as error:
        raise LedgerError(_explain(draft, error)) from error
    finally:
        engine.dispose()
    draft.rename(folder / LEDGER)
    for place in (folder, folder.parent, folder.parent.parent):  # the names, too, must outlive a power cut
        handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _encode(event: Event) -> str:
    try:
        return _JSON.encode(dict(event.body))
    except (TypeError, ValueError) as error:
        raise ValueError(f"event {event.kind} of trial {event.trial}: the body is no JSON: {error}") from error


def _row(seq: int, now: float, event: Event, body: str) -> dict[str, Any]:
    if event.kind in _OF_A_TRIAL and event.trial is None:
        raise ValueError(f"event {event.kind} names no trial")
    if event.kind is Kind.REPORTED and event.epoch is None:
        raise ValueError(f"event {event.kind} of trial {event.trial} names no epoch")
    return {
        "seq": seq,
        "time": now,
        "kind": event.kind.value,
        "trial": event.trial,
        "cohort": event.cohort,
        "epoch": event.epoch,
        "body": body,
    }


def _store(connection: sa.Connection, rows: list[dict[str, Any]]) -> Sequence[int]:
    """Insert the rows that break no unique index; their places in `rows`."""
    first = rows[0]["seq"]
    if connection.execute(_INSERT, rows).rowcount == len(rows):
        return range(len(rows))
    # Some were there already. Once more without them, so that seq stays without gaps and depends on what was
    # stored alone, not on how it came.
    kept = [seq - first for seq in connection.scalars(_SINCE, {"first": first})]
    connection.execute(_TAKE_BACK, {"first": first})
    if kept:
        connection.execute(_INSERT, [rows[place] | {"seq": first + i} for i, place in enumerate(kept)])
    return kept


def _explain(path: Path, error: sa.exc.DBAPIError) -> str:
    name: str = getattr(error.orig, "sqlite_errorname", "")
    reason = next((text for begin, text in _REASONS.items() if name.startswith(begin)), "{detail}")
    free = shutil.disk_usage(path.parent).free // 2**20 if path.parent.exists() else 0
    return f"{path}: {reason.format(detail=error.orig, free=free)}"


def _unwritable(folder: Path, error: OSError) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return LedgerError(f"{folder}: the study's folder cannot be made: {error.strerror}")
    return InputError(
        f"{folder}: expected a folder that can be written, got: {error.strerror}; "
        "choose another home with --home or TUNER_HOME"
    )
