"""What training is told of trials: a pure function of the spec, the data's signature and the trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tuner.events import Trial
from tuner.models.interface import Signature
from tuner.spec import StudySpec
from tuner.training.config import TrainConfig
from tuner.training.task import Row, Task


def task(
    spec: StudySpec,
    signature: Signature,
    trials: Sequence[Trial],
    *,
    company: bool,
    rungs: Callable[[int], set[int]] = lambda _: set(),
) -> Task:
    """The trials of one cohort as rows; `rungs` tells at which of so many epochs a verdict may stop one."""
    rows = tuple(_row(spec, trial) for trial in trials)
    return Task(
        rows=rows,
        family=spec.model["family"],
        signature=signature,
        company=company,
        seed=spec.seed,
        metric=spec.metric,
        maximize=spec.maximize,
        named=_named(spec),
        rungs=frozenset(rungs(max(row.config.epochs for row in rows))),
        folder=str(spec.folder),
        metrics=spec.further_metrics,
    )


def _row(spec: StudySpec, trial: Trial) -> Row:
    settings: dict[str, Any] = spec.training(trial.params)
    return Row(trial.number, trial.seed, spec.network(trial.params), TrainConfig(**settings))


def _named(spec: StudySpec) -> frozenset[str]:
    """The settings of training that the study searches or sets otherwise than they are by default."""
    defaults, searched = TrainConfig(), spec.space.parameters
    return frozenset(
        name for name, value in spec.training({}).items() if name in searched or value != getattr(defaults, name)
    )
