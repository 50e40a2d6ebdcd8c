"""Optuna's in-memory study, holding what was asked and how it ended, and our parameters in Optuna's words.

Knows Optuna's studies and trials; must never know which sampler or pruner reads them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search_spaces import Choice, Float, Int
from tuner.trial import Value

Values = tuple[float, ...]  # one for each objective


class Memory:
    """What was asked and how it ended, under our numbers, as Optuna's samplers and pruners read it.

    `maximize` has one entry for each objective. `outcomes` holds what samplers that rank trials learn from:
    the values of a complete trial, the best report of one that was stopped, None for one that failed.
    """

    def __init__(self, maximize: Sequence[bool]) -> None:
        self.maximize = tuple(maximize)
        self.study, self._storage, self._study_id = _study(self.maximize)
        self._ids: list[int] = []  # Optuna's own, by our number
        self.params: list[dict[str, Value]] = []  # by number, those that have more than one value
        self.outcomes: dict[int, Values | None] = {}  # by number, of those that have ended
        self.finished = 0  # complete or pruned, so that a sampler has something to learn from

    def add(self, params: dict[str, Value], distributions: dict[str, BaseDistribution]) -> None:
        running = optuna.trial.create_trial(state=TrialState.RUNNING, params=params, distributions=distributions)
        self._ids.append(self._storage.create_new_trial(self._study_id, running))
        self.params.append(params)

    def ended(self, number: int) -> bool:
        return number in self.outcomes

    def end(self, number: int, state: TrialState, reports: Mapping[int, float | None], values: Values | None) -> None:
        """End a trial COMPLETE with its values, or PRUNED, which is a failure where there are no reports."""
        for epoch, report in reports.items():
            self._storage.set_trial_intermediate_value(self._ids[number], epoch, math.nan if report is None else report)
        self.study.tell(number, values, state)
        seen = [report for report in reports.values() if report is not None]
        best = ((max if self.maximize[0] else min)(seen),) if seen and len(self.maximize) == 1 else None
        self.outcomes[number] = values or best
        self.finished += bool(reports) or values is not None

    def scored(self, names: Mapping[str, BaseDistribution]) -> Study:
        """A study of the same trials in which each that has ended is complete, for samplers that heed no others.

        Only those parameters are in it, which every trial must have. One that was stopped has its best report, one
        that failed the worst value there is of each objective. Empty where nothing has a value.
        """
        known = [values for values in self.outcomes.values() if values is not None]
        study, storage, study_id = _study(self.maximize)
        if not known:
            return study
        worst = tuple(
            (min if up else max)(column) for up, column in zip(self.maximize, zip(*known, strict=True), strict=True)
        )
        for number, params in enumerate(self.params):
            ended = number in self.outcomes
            frozen = optuna.trial.create_trial(
                state=TrialState.COMPLETE if ended else TrialState.RUNNING,
                params={name: params[name] for name in names},
                distributions=dict(names),
                values=(self.outcomes[number] or worst) if ended else None,
            )
            storage.create_new_trial(study_id, frozen)
        return study


class _Storage(InMemoryStorage):
    """Samplers note a trial's draws as an attribute, for processes that share a storage; ours are params already."""

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        pass


def _study(maximize: Sequence[bool]) -> tuple[Study, _Storage, int]:
    storage = _Storage()
    with quiet(optuna.logging.WARNING):  # it would announce a study that is none of the user's
        directions = [StudyDirection.MAXIMIZE if up else StudyDirection.MINIMIZE for up in maximize]
        study_id = storage.create_new_study(directions, "search")
        study = optuna.load_study(
            study_name="search",
            storage=storage,
            sampler=RandomSampler(seed=0),
            pruner=optuna.pruners.NopPruner(),
        )
    return study, storage, study_id


@contextlib.contextmanager
def quiet(level: int) -> Iterator[None]:
    """Optuna says nothing below that level; its verbosity stays the user's."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(level)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def distribution(parameter: Float | Int | Choice) -> BaseDistribution:
    """The same parameter in Optuna's words."""
    if isinstance(parameter, Choice):
        return CategoricalDistribution(parameter.values_)
    if isinstance(parameter, Int):
        return IntDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step or 1)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)


def unborn(number: int, reports: dict[int, float] | None = None) -> FrozenTrial:
    """A running trial that is in no storage, for asking a sampler or a pruner about."""
    frozen = optuna.trial.create_trial(state=TrialState.RUNNING, intermediate_values=reports)
    frozen.number = number
    return frozen
