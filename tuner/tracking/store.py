"""Opening a store: a client whose store exists, with all its tables, when it is handed out.

Knows MLflow's client; never a study. With `tracker` the only module that imports mlflow (when it first needs it: 2 s).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tuner.tracking.dashboard import SQLITE, first_use, sqlite_path, sqlite_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient


def connect(uri: str) -> MlflowClient:
    """A client for `uri`. An embedded store is made whole or not at all, by one process at a time."""
    from mlflow import MlflowClient

    with first_use(uri):
        if uri.startswith(SQLITE):
            _make(sqlite_path(uri))
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    return client


def _make(path: Path) -> None:
    """MLflow makes its tables in many steps; under another name until they are all there."""
    from mlflow import MlflowClient

    if path.exists():
        return
    draft = path.with_name(f"{path.name}.new")
    for leftover in path.parent.glob(f"{draft.name}*"):
        leftover.unlink()
    MlflowClient(sqlite_uri(draft)).search_experiments(max_results=1)
    draft.rename(path)
