"""Opening a store: a client whose store exists, with all its tables, when it is handed out.

An embedded store that we make keeps a write-ahead log, and commits do not wait for the disk: a power cut may take
back the last of them, in their order, so the cursor (written last) is never ahead of what it counts and the ledger
has the rest. Knows MLflow's client, and beside the ledger and `sql_writer` alone that there is SQLite; never a study.
Imports mlflow when it first needs it (2 s).
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

from tuner.tracking.dashboard import SQLITE, first_use, sqlite_path, sqlite_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SETTINGS: dict[str, tuple[str, ...]] = {}  # a store's real path → what each of our connections to it begins with
_DRAFT = ("PRAGMA synchronous=OFF", "PRAGMA journal_mode=MEMORY")  # 330 statements; half a store is thrown away
_LOGGED = ("PRAGMA synchronous=NORMAL",)  # the log is on the disk before it goes into the file; commits do not wait
_opened: list[sqlite3.Connection] = []


def connect(uri: str) -> MlflowClient:
    """A client for `uri`, models included. An embedded store is made whole or not at all, by one process at a time."""
    from mlflow import MlflowClient

    with first_use(uri):
        if uri.startswith(SQLITE):
            path = sqlite_path(uri)
            _make(path)
            if _mode(path) == "wal":  # a person's own store may have another, and keeps it
                _SETTINGS[os.path.realpath(path)] = _LOGGED
        client = MlflowClient(uri, registry_uri=uri)  # whatever MLFLOW_REGISTRY_URI says
        client.search_experiments(max_results=1)
    return client


def load() -> None:
    """Import what `connect` will need."""
    import mlflow.tracking

    with suppress(ImportError):
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401


def close() -> None:
    """Close every embedded store in this process; who is the last to close one leaves it in its one file."""
    for connection in _opened:
        connection.close()
    _opened.clear()


def _make(path: Path) -> None:
    """MLflow makes its tables in many steps; under another name until they are all there."""
    from mlflow import MlflowClient

    if path.exists():
        return
    draft = path.with_name(f"{path.name}.new")
    for leftover in path.parent.glob(f"{draft.name}*"):
        leftover.unlink()
    _SETTINGS[os.path.realpath(draft)] = _DRAFT
    MlflowClient(sqlite_uri(draft), registry_uri=sqlite_uri(draft)).search_experiments(max_results=1)
    _mode(draft, "=WAL")  # kept in the file, and all that was written before is on the disk with it
    draft.rename(path)


def _mode(path: Path, change: str = "") -> str:
    """The journal that the store keeps, after a change where one is given."""
    connection = sqlite3.connect(path)
    try:
        (found,) = connection.execute(f"PRAGMA journal_mode{change}").fetchone()
    finally:
        connection.close()
    return str(found)


@event.listens_for(Engine, "connect")
def _settle(connection: Any, _record: Any) -> None:
    """Give a new connection to one of our stores its settings; MLflow's addresses have no place for them."""
    if not isinstance(connection, sqlite3.Connection):
        return
    (_, _, file), *_ = connection.execute("PRAGMA database_list").fetchall()
    settings = _SETTINGS.get(os.path.realpath(file)) if file else None
    if settings is not None:
        _opened.append(connection)
        for setting in settings:
            connection.execute(setting)
