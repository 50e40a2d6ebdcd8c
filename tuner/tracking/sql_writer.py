"""Runs written in bulk: all that a cycle has to say, in one transaction of an embedded store.

MLflow's client takes six commits and eleven sessions of SQLAlchemy's objects for a run. Here the same rows go through
the tables of MLflow's own models and through its own checks; a test compares the two ways, table by table. Where
MLflow's tables are not those that we know, `writer_for` goes back to the client. Knows the rows of MLflow's tables;
must never know ledgers, events, nor what a study is.
"""

from __future__ import annotations

import inspect
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import Insert, insert

from tuner.tracking.client_writer import ClientWriter, RunWriter, Written
from tuner.tracking.projection import RUNNING, Point

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

_VALUE = {"run_uuid", "key", "value"}
_METRIC = _VALUE | {"timestamp", "step", "is_nan"}
_RUN = {
    *("run_uuid", "experiment_id", "name", "artifact_uri", "status", "start_time", "end_time", "lifecycle_stage"),
    *("deleted_time", "user_id", "source_type", "source_name", "source_version", "entry_point_name"),
}
_KNOWN = {"runs": _RUN, "params": _VALUE, "tags": _VALUE, "metrics": _METRIC, "latest_metrics": _METRIC}
_RULES = {  # MLflow's own, and what each is called with
    "_validate_metric": ["key", "value", "timestamp", "step"],
    "_validate_param": ["key", "value"],
    "_validate_tag": ["key", "value"],
}
_ACTIVE = "active"

_SETTINGS = ("PRAGMA foreign_keys=ON", "PRAGMA busy_timeout=20000")  # what MLflow begins each of its sessions with
_CHUNK = 1_000  # runs in one question: SQLite takes 32,766 values


def writer_for(client: MlflowClient) -> RunWriter:
    """The fastest writer for what is behind the client."""
    store = _embedded(client)
    return ClientWriter(client) if store is None or _strange() else SqlWriter(store)


def _embedded(client: MlflowClient) -> SqlAlchemyStore | None:
    """The SQLite store behind the client, None where something else is."""
    try:
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    except ImportError:
        return None
    store = getattr(getattr(client, "_tracking_client", None), "store", None)
    return store if type(store) is SqlAlchemyStore and store.engine.dialect.name == "sqlite" else None


@cache
def _strange() -> bool:
    """Whether this MLflow has other columns, or rules, than those that we know; if so it is said, once, on stderr."""
    from mlflow import __version__

    other = _differences()
    if other:
        named = ", ".join(other)
        told = f"MLflow {__version__} is not as we know it ({named}): runs are written by its client, slower\n"
        sys.stderr.write(told)
    return bool(other)


def _differences() -> list[str]:
    """The names of what `SqlWriter` uses and this MLflow has otherwise."""
    try:
        from mlflow.store.db.base_sql_model import Base
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
        from mlflow.utils import validation
        from mlflow.utils.uri import append_to_uri_path  # noqa: F401
    except ImportError as error:
        return [error.name or str(error)]
    tables = Base.metadata.tables
    found = [name for name, columns in _KNOWN.items() if name not in tables or {*tables[name].c.keys()} != columns]
    for name, known in _RULES.items():
        rule = getattr(validation, name, None)
        if rule is None or list(inspect.signature(rule).parameters)[: len(known)] != known:
            found.append(name)
    return found + [name for name in ("sanitize_metric_value",) if not hasattr(SqlAlchemyStore, name)]


@dataclass
class _Pending:
    """Rows for each table; those of new runs and of latest metrics by what they are found by."""

    touched: set[str] = field(default_factory=set)  # runs that something is written to
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    settled: dict[str, dict[str, Any]] = field(default_factory=dict)
    params: list[dict[str, Any]] = field(default_factory=list)
    tags: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    latest: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)


class SqlWriter(RunWriter):
    """Everything waits for `flush`, which writes it in one transaction: all of it or, after an error, none."""

    def __init__(self, store: SqlAlchemyStore) -> None:
        from mlflow.store.db.base_sql_model import Base
        from mlflow.utils import validation

        self._store = store
        self._rules: Any = validation  # of names and lengths: each raises, or gives back what may be written
        self._tables = Base.metadata.tables
        self._places: dict[str, str] = {}  # experiment → where its artifacts are
        self._names: set[str] = set()  # of metrics, found to be in order
        self._pending = _Pending()

    def _create(self, experiment: str, name: str, began: int, tags: Mapping[str, str]) -> str:
        from mlflow.utils.uri import append_to_uri_path

        if experiment not in self._places:
            found = self._store.get_experiment(experiment)  # type: ignore[no-untyped-call]
            self._places[experiment] = found.artifact_location
        run = uuid.uuid4().hex
        place = append_to_uri_path(self._places[experiment], run, "artifacts")  # type: ignore[no-untyped-call]
        self._pending.touched.add(run)
        self._pending.runs[run] = {
            "run_uuid": run,
            "experiment_id": int(experiment),
            "name": name,
            "artifact_uri": place,
            "status": RUNNING,
            "start_time": began,
            "end_time": None,
            "lifecycle_stage": _ACTIVE,
            "deleted_time": None,
            "user_id": "unknown",
            "source_type": "UNKNOWN",
            "source_name": "",
            "source_version": "",
            "entry_point_name": "",
        }
        self._tag(run, {**tags, "mlflow.runName": name})
        return run

    def _log(self, run: Written, points: Sequence[Point], tags: Mapping[str, str], params: Mapping[str, str]) -> None:
        self._pending.touched.add(run.id)
        for key, value in params.items():
            valid = self._rules._validate_param(key, value)
            self._pending.params.append({"run_uuid": run.id, "key": valid.key, "value": valid.value})
        for point in points:
            self._measure(run.id, point)
        self._tag(run.id, tags)

    def _tag(self, run: str, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            valid = self._rules._validate_tag(key, value)
            self._pending.tags.append({"run_uuid": run, "key": valid.key, "value": valid.value})

    def _measure(self, run: str, point: Point) -> None:
        """Add a point; a curve's latest is the one of the highest step, timestamp and value, in this order."""
        if point.key not in self._names:
            self._rules._validate_metric(point.key, point.value, point.timestamp, point.step)
            self._names.add(point.key)
        is_nan, value = self._store.sanitize_metric_value(point.value)
        row = {
            "run_uuid": run,
            "key": point.key,
            "value": value,
            "timestamp": point.timestamp,
            "step": point.step,
            "is_nan": is_nan,
        }
        self._pending.metrics.append(row)
        latest = self._pending.latest.setdefault((run, point.key), row)
        if (point.step, point.timestamp, value) > (latest["step"], latest["timestamp"], latest["value"]):
            self._pending.latest[run, point.key] = row

    def _settle(self, run: Written, status: str, ended: int | None) -> None:
        self._pending.touched.add(run.id)
        if new := self._pending.runs.get(run.id):
            new.update(status=status, end_time=ended)
        else:
            self._pending.settled[run.id] = {"run": run.id, "status": status, "end_time": ended}

    def flush(self) -> None:
        """Write what waits. Raises where one of its runs, or its experiment, was deleted meanwhile."""
        pending, self._pending = self._pending, _Pending()
        if not pending.touched:
            return
        with self._store.engine.connect() as connection:
            for setting in _SETTINGS:
                connection.exec_driver_sql(setting)
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # what is looked at below stays so
            self._write(connection, pending)
            connection.commit()

    def _write(self, connection: sa.Connection, pending: _Pending) -> None:
        runs, metrics = self._tables["runs"], self._tables["metrics"]
        settle = sa.update(runs).where(runs.c.run_uuid == sa.bindparam("run"))
        settle = settle.values(status=sa.bindparam("status"), end_time=sa.bindparam("end_time"))
        rows = {
            sa.insert(runs): pending.runs.values(),
            settle: pending.settled.values(),
            sa.insert(self._tables["params"]): pending.params,
            insert(metrics).on_conflict_do_nothing(): pending.metrics,
            _latest(self._tables["latest_metrics"]): pending.latest.values(),
            _tag(self._tables["tags"]): pending.tags,
        }
        for statement, found in rows.items():
            if found:
                connection.execute(statement, list(found))
        self._check(connection, list(pending.touched))

    def _check(self, connection: sa.Connection, touched: Sequence[str]) -> None:
        runs, experiments = self._tables["runs"], self._tables["experiments"]
        joined = runs.join(experiments, runs.c.experiment_id == experiments.c.experiment_id)
        active = (runs.c.lifecycle_stage == _ACTIVE) & (experiments.c.lifecycle_stage == _ACTIVE)
        for first in range(0, len(touched), _CHUNK):
            some = touched[first : first + _CHUNK]
            count = sa.select(sa.func.count()).select_from(joined).where(active, runs.c.run_uuid.in_(some))
            if (left := connection.scalar(count)) != len(some):
                raise LookupError(f"{len(some) - (left or 0)} runs were deleted while they were written")


def _tag(tags: sa.Table) -> Insert:
    """The last value of a tag counts."""
    new = insert(tags)
    return new.on_conflict_do_update(index_elements=tags.primary_key.columns, set_={"value": new.excluded.value})


def _latest(latest: sa.Table) -> Insert:
    """As MLflow has it: what is later by step, timestamp and value in this order takes the place of what was there."""
    new = insert(latest)
    order = ("step", "timestamp", "value")
    return new.on_conflict_do_update(
        index_elements=latest.primary_key.columns,
        set_={name: new.excluded[name] for name in (*order, "is_nan")},
        where=sa.tuple_(*(new.excluded[name] for name in order)) > sa.tuple_(*(latest.c[name] for name in order)),
    )
