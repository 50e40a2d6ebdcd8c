"""What goes from MLflow with a deleted study: its runs, its models, its experiment where nothing else is in it.

Knows MLflow's client and the tag that all of these bear. Must never know ledgers, nor remove what somebody else put
there. MLflow keeps what is deleted until its own `mlflow gc`. Imports mlflow when it first needs it (2 s).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.errors import TunerError
from tuner.tracking.dashboard import SQLITE, sqlite_path
from tuner.tracking.in_the_way import LOCK
from tuner.tracking.process import SETTINGS
from tuner.tracking.sqlite_store import close, connect
from tuner.tracking.sync import explain

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PAGE = 1_000  # runs per search


@contextlib.contextmanager
def unwatched(folder: Path) -> Iterator[None]:
    """Nobody writes the study in that folder to MLflow inside. Raises TunerError where somebody does."""
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise TunerError(
            f"another process writes study {folder.name} to MLflow; delete it when that has ended"
        ) from None
    try:
        yield
    finally:
        os.close(handle)


def remove(uri: str, study: str, ledger: str) -> list[str]:
    """Remove all that bears the tag of that ledger; what that was, in a phrase each. Raises TunerError where MLflow
    does not answer, or refuses: what was removed until then stays so, and another call goes on."""
    if uri.startswith(SQLITE) and not sqlite_path(uri).exists():
        return []
    os.environ.update(SETTINGS)
    try:
        client = connect(uri)
        return [*_models(client, study, ledger), *_runs(client, study, ledger)]
    except Exception as problem:
        raise TunerError(f"MLflow does not do it: {explain(problem)}") from problem
    finally:
        close()


def _models(client: MlflowClient, study: str, ledger: str) -> Iterator[str]:
    versions = client.search_model_versions(f"name = '{study}'")
    ours = [one for one in versions if one.tags.get("tuner.ledger") == ledger]
    for one in ours:
        client.delete_model_version(study, one.version)
    if ours and len(ours) == len(versions):
        client.delete_registered_model(study)
    if ours:
        yield f"{len(ours)} version{'s' * (len(ours) > 1)} of the registered model {study}"


def _runs(client: MlflowClient, study: str, ledger: str) -> Iterator[str]:
    experiment = client.get_experiment_by_name(study)
    if experiment is None or experiment.lifecycle_stage != "active":
        return
    place = [experiment.experiment_id]
    tagged = f"tags.`tuner.ledger` = '{ledger}'"
    for model in client.search_logged_models(place, tagged):
        client.delete_logged_model(model.model_id)
    count = 0
    while found := client.search_runs(place, tagged, max_results=_PAGE):
        for run in found:
            client.delete_run(run.info.run_id)
        count += len(found)
    if count:
        yield f"{count} run{'s' * (count > 1)}"
    if not client.search_runs(place, max_results=1):
        # A study of that name would find the experiment and, with it, bring back the runs: under another name it stays.
        client.rename_experiment(experiment.experiment_id, f"{study} (deleted {ledger[:12]})")
        client.delete_experiment(experiment.experiment_id)
        yield f"the experiment {study}"
