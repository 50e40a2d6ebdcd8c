"""A ledger in a file of the study's folder: SQLite in WAL mode, every commit synced before it is acknowledged.

Knows the file, its making and what its errors mean; the lock of its driver is a file beside it (`lock`).
"""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from tuner import lock, processes
from tuner.errors import InputError, LedgerDamaged, LedgerError
from tuner.home import LEDGER
from tuner.ledger import head
from tuner.ledger.place import Place
from tuner.ledger.tables import Row, Tables

_BUSY_SECONDS = 30  # a commit of the driver takes milliseconds; longer means a stuck process or disk
_TABLES = Tables(insert)

_REASONS = {  # SQLite's result codes, by the name they begin with, in a person's words
    "SQLITE_BUSY": f"{{holder}} has kept the ledger locked for {_BUSY_SECONDS} s; {{end}} and launch again",
    "SQLITE_FULL": "the disk is full ({free} MB free); make room and launch again: nothing acknowledged is lost",
    "SQLITE_IOERR": "the disk refused to read or write ({detail}); check it ({free} MB free) and launch again",
    "SQLITE_CORRUPT": "the file is damaged ({detail}); restore the study's folder from a backup",
    "SQLITE_NOTADB": "the file is no ledger ({detail}); restore the study's folder from a backup",
    "SQLITE_ERROR": "the file is no ledger as Tuner writes it ({detail}); restore the study's folder from a backup",
    "SQLITE_READONLY": "the ledger may only be read here; check the folder's permissions",
    "SQLITE_CANTOPEN": "the file cannot be opened; check the folder's permissions",
    "SQLITE_CONSTRAINT": "an event breaks the ledger's rules ({detail})",
}
_REMEDY = "restore the study's folder from a backup, or remove {folder} to begin anew"
_DAMAGES = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_ERROR")


class File(Place):
    """The ledger of `folder`, which must be there."""

    tables = _TABLES
    backup = "the study's folder"

    def __init__(self, folder: Path, *, read_only: bool) -> None:
        self._folder = folder
        self._path = folder / LEDGER
        self.name = str(self._path)
        self.key: Row = {}
        self.engine = _engine(self._path, _mode(self._path, read_only))

    def begin(self, connection: sa.Connection) -> int:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        return connection.scalar(self.tables.last) or 0

    def explain(self, error: sa.exc.DBAPIError) -> str:
        return _explain(self._path, error)

    def damaged(self, error: sa.exc.DBAPIError) -> bool:
        return getattr(error.orig, "sqlite_errorname", "").startswith(_DAMAGES)

    def lock(self) -> AbstractContextManager[None]:
        return lock.hold(self._folder)

    def holder(self) -> dict[str, Any] | None:
        return lock.holder(self._folder)

    def ask_to_stop(self, who: dict[str, Any]) -> None:
        lock.ask_to_stop(self._folder, who)

    def asked_to_stop(self) -> bool:
        return lock.asked_to_stop(self._folder)


def create(folder: Path, *, accept_loss: bool = False) -> File:
    """Make the folder and an empty ledger where there is none, and open it for writing.

    Processes that create at once get the same ledger. A creation cut short leaves nothing that is mistaken for
    a ledger. Raises InputError where the folder cannot be made, LedgerDamaged where a ledger was there, and is no more.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        lock.wait(place, folder, _BUSY_SECONDS)
        if not (folder / LEDGER).exists():
            if not accept_loss:
                _check_new(folder)
            _build(folder)
    except LedgerError:  # an OSError, too
        raise
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        os.close(place)
    return File(folder, read_only=False)


def unwritable(folder: Path, error: OSError) -> Exception:
    """What a person is told where a study's folder cannot be made."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return LedgerError(f"{folder}: the study's folder cannot be made: {error.strerror}")
    return InputError(
        f"{folder}: expected a folder that can be written, got: {error.strerror}; "
        "choose another home with --home or TUNER_HOME"
    )


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
    # isolation_level None: sqlite3 begins no transaction by itself, `begin` says when and how.
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
            _TABLES.schema.create_all(connection)
            connection.execute(_TABLES.written)
            connection.commit()
    except sa.exc.DBAPIError as error:
        raise LedgerError(_explain(draft, error)) from error
    finally:
        engine.dispose()
    for log in (f"{LEDGER}-wal", f"{LEDGER}-shm"):  # of a ledger that is lost: SQLite would play it into this one
        (folder / log).unlink(missing_ok=True)
    draft.rename(folder / LEDGER)
    for place in (folder, folder.parent, folder.parent.parent):  # the names, too, must outlive a power cut
        handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _check_new(folder: Path) -> None:
    """Raises LedgerDamaged where something tells of an earlier ledger."""
    known = head.read(folder)
    if known is not None and known[0]:
        raise LedgerDamaged(lost(folder, known[0]))
    if (log := folder / f"{LEDGER}-wal").exists():
        raise LedgerDamaged(
            f"{folder / LEDGER} is missing, but not its log {log.name}; {_REMEDY.format(folder=folder)}"
        )


def lost(folder: Path, events: int) -> str:
    """What a person is told where a ledger is no longer there at all."""
    return (
        f"the ledger of study {folder.name} is missing, and {events:,} events were stored in it; "
        f"{_REMEDY.format(folder=folder)}"
    )


def _of_removed_log(path: Path) -> str:
    """Who has open what was removed beside the ledger, and what to do; empty where nobody has."""
    beside = [path.with_name(f"{path.name}{end}") for end in ("-wal", "-shm")]
    found = sorted({pid for each in beside for pid in processes.removed_from(each)} - {os.getpid()})
    return " and ".join(f"{processes.named(pid)}; {processes.remedy(pid)}" for pid in found)


def _explain(path: Path, error: sa.exc.DBAPIError) -> str:
    name: str = getattr(error.orig, "sqlite_errorname", "")
    if name.startswith("SQLITE_IOERR") and (writers := _of_removed_log(path)):
        return f"{path}: its log {path.name}-wal was removed while it was in use by {writers}; then launch again"
    reason = next((text for begin, text in _REASONS.items() if name.startswith(begin)), "{detail}")
    holders = processes.holders(path, path.with_name(f"{path.name}-shm")) if name.startswith("SQLITE_BUSY") else []
    who = {"holder": "another process", "end": "end it"}
    if holders:
        who = {
            "holder": " and ".join(map(processes.named, holders)),
            "end": f"end it (`kill -KILL {' '.join(map(str, holders))}`)",
        }
    free = shutil.disk_usage(path.parent).free // 2**20 if path.parent.exists() else 0
    return f"{path}: {reason.format(detail=error.orig, free=free, **who)}"
