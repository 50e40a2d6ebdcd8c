"""A home that was moved or copied: MLflow's store names where artifacts are by whole paths, which are set right here.

Knows the tables of MLflow's embedded store that have such paths, and that artifacts lie beside the store, in a folder
for each experiment. Must never import mlflow (2 s), nor touch artifacts that somebody keeps elsewhere.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tuner.errors import TunerError

_BUSY_SECONDS = 20.0  # as long as MLflow itself waits for another writer
_PATHS = {  # table → its columns with such paths
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}


def relocate(store: Path, artifacts: Path) -> int:
    """Let the store's experiments find their artifacts in the folder `artifacts`; how many did not.

    Those are left alone that are kept anywhere else than in a folder of that name, or are still where the store says
    and not here. Raises TunerError where the store cannot be read or written.
    """
    try:
        return _relocate(store, artifacts) if store.exists() else 0
    except sqlite3.Error as error:
        raise TunerError(f"the store {store} cannot be used: {error}") from error


def _relocate(store: Path, artifacts: Path) -> int:
    with closing(sqlite3.connect(store, timeout=_BUSY_SECONDS)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"experiments", *_PATHS} <= tables:  # of another MLflow, or not made yet
            return 0
        moved = list(_moved(database, artifacts))
        if moved:
            with database:  # all of them or none
                for experiment, before, after in moved:
                    _rewrite(database, experiment, before, after)
    return len(moved)


def _moved(database: sqlite3.Connection, artifacts: Path) -> Iterator[tuple[int, str, str]]:
    """Experiments whose artifacts are here and said to be in another place: id, the place said, the place here."""
    for experiment, name, said in database.execute("SELECT experiment_id, name, artifact_location FROM experiments"):
        address = urlsplit(said or "")
        there, here = Path(unquote(address.path)), artifacts / name
        ours = address.scheme == "file" and there.name == name and there.parent.name == artifacts.name
        if not ours or there == here or (there.exists() and not here.exists()):
            continue
        if there.exists() and there.samefile(here):  # by another name of the same folder
            continue
        yield experiment, said, here.as_uri()


def _rewrite(database: sqlite3.Connection, experiment: int, before: str, after: str) -> None:
    database.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (after, experiment))
    for table, columns in _PATHS.items():
        for column in columns:
            database.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",  # noqa: S608
                (f"{after}/", len(before) + 2, len(before) + 1, f"{before}/"),
            )
