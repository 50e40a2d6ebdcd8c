"""Where a study's runs are written to: one interface, and the form of it that goes through MLflow's client.

Knows runs, and MLflow's client. Must never know ledgers, events, nor what a study is. The other form is `sql_writer`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from tuner.tracking.projection import RUNNING, SCHEDULED, Point

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass
class Written:
    """A run as MLflow has it, or will have it after the next `flush`; `ended` in milliseconds since 1970."""

    id: str
    status: str = RUNNING
    ended: int | None = None
    params: set[str] = field(default_factory=set)
    tags: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run) -> Written:
        return cls(run.info.run_id, run.info.status, run.info.end_time, set(run.data.params), dict(run.data.tags))


class RunWriter(ABC):
    """Takes runs, and what they have more than before, to MLflow; at the latest when `flush` returns.

    After an exception it is thrown away, and its runs are read again: nobody knows how much of them has arrived.
    """

    def create(self, experiment: str, name: str, began: int, tags: Mapping[str, str]) -> Written:
        """A new run that has just begun."""
        return Written(self._create(experiment, name, began, tags), tags=dict(tags))

    def log(
        self, run: Written, points: Sequence[Point], tags: Mapping[str, str], params: Mapping[str, str] = _NOTHING
    ) -> None:
        """Add points, params and tags; what the run has is left out, points that it has are known by their times."""
        changed = {key: value for key, value in tags.items() if run.tags.get(key) != value}
        added = {key: value for key, value in params.items() if key not in run.params}
        if points or changed or added:
            self._log(run, points, changed, added)
            run.tags.update(changed)
            run.params.update(added)

    def settle(self, run: Written, status: str, ended: int) -> None:
        """Give a run its status, and its end where it has ended; one that goes on keeps the end that it had."""
        if status in (RUNNING, SCHEDULED):
            ended = run.ended  # type: ignore[assignment]
        if (run.status, run.ended) != (status, ended):
            self._settle(run, status, ended)
            run.status, run.ended = status, ended

    @abstractmethod
    def _create(self, experiment: str, name: str, began: int, tags: Mapping[str, str]) -> str:
        """The new run's id."""

    @abstractmethod
    def _log(
        self, run: Written, points: Sequence[Point], tags: Mapping[str, str], params: Mapping[str, str]
    ) -> None: ...

    @abstractmethod
    def _settle(self, run: Written, status: str, ended: int | None) -> None: ...

    @abstractmethod
    def flush(self) -> None:
        """All that was taken is in MLflow when this returns."""


class ClientWriter(RunWriter):
    """Call by call through MLflow's client: to servers, which know no other way."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def _create(self, experiment: str, name: str, began: int, tags: Mapping[str, str]) -> str:
        return str(self._client.create_run(experiment, began, dict(tags), name).info.run_id)

    def _log(self, run: Written, points: Sequence[Point], tags: Mapping[str, str], params: Mapping[str, str]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        self._client.log_batch(
            run.id,
            [Metric(point.key, point.value, point.timestamp, point.step) for point in points],
            [Param(key, value) for key, value in params.items()],
            [RunTag(key, value) for key, value in tags.items()],
        )

    def _settle(self, run: Written, status: str, ended: int | None) -> None:
        if status in (RUNNING, SCHEDULED):
            self._client.update_run(run.id, status)
        else:
            self._client.set_terminated(run.id, status, ended)

    def flush(self) -> None:
        """Every call was answered."""
