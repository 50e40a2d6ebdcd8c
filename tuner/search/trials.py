"""What was asked and how it ended, in as few bytes a trial as samplers need, and our parameters in Optuna's words.

Knows what ranks a trial; must never know which sampler or pruner reads it.
"""

from __future__ import annotations

import bisect
import contextlib
import inspect
import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tuner.events import Params
from tuner.search_spaces import Choice, Float, Int

split_complete: Any
try:
    from optuna.samplers._tpe.sampler import _split_complete_trials_multi_objective as split_complete

    if list(inspect.signature(split_complete).parameters) != ["trials", "study", "n_below"]:
        split_complete = None
except ImportError:
    split_complete = None

Values = tuple[float, ...]  # one for each objective
Reports = Mapping[int, float | None]  # epoch → the first objective, None where it was not finite

_MOST_GOOD = 25  # trials that Optuna's TPE counts as good, of one objective


class Memory:
    """What was asked and how it ended, under our numbers.

    `maximize` has one entry for each objective. `outcomes` holds what samplers that rank trials learn from:
    the values of a complete trial, the best report of one that was stopped, None for one that failed.
    """

    def __init__(self, maximize: Sequence[bool]) -> None:
        self.maximize = tuple(maximize)
        self.params = _Assignments()  # by number
        self.outcomes: dict[int, Values | None] = {}  # by number, of those that have ended
        self.finished = 0  # complete or pruned, so that a sampler has something to learn from
        self._complete = array("q")  # numbers
        self._holding = False
        self._held: dict[int, tuple[Reports, Values | None]] = {}  # who ended meanwhile
        self._ranked: list[tuple[int, float, float, int]] = []  # the best first, as TPE ranks what ended

    def add(self, params: Params) -> None:
        self.params.append(params)

    def ended(self, number: int) -> bool:
        return number in self.outcomes or number in self._held

    def hold(self) -> None:
        """Let nobody's end be known before `release`."""
        self._holding = True

    def release(self) -> None:
        self._holding = False
        held, self._held = self._held, {}
        for number, end in held.items():
            self.end(number, *end)

    def end(self, number: int, reports: Reports, values: Values | None) -> None:
        """End a trial complete with its values, or stopped, which is a failure where there are no reports."""
        if self._holding:
            self._held[number] = (reports, values)
            return
        seen = [report for report in reports.values() if report is not None]
        best = ((max if self.maximize[0] else min)(seen),) if seen and len(self.maximize) == 1 else None
        self.outcomes[number] = values or best
        self.finished += bool(reports) or values is not None
        if values is not None:
            self._complete.append(number)
        if values is None or len(self.maximize) == 1:
            bisect.insort(self._ranked, (*self._rank(reports, values), number))
            if len(self.maximize) == 1:
                del self._ranked[_MOST_GOOD:]

    def _rank(self, reports: Reports, values: Values | None) -> tuple[int, float, float]:
        """TPE's order: complete trials by their value, then stopped ones by their last report, the later the better.

        What failed before any report comes last.
        """
        sign = -1.0 if self.maximize[0] else 1.0
        if values is not None:
            return 0, 0.0, sign * values[0]
        if not reports:
            return 2, 0.0, 0.0
        last = max(reports)
        value = reports[last]
        return 1, -last, math.inf if value is None else sign * value

    def good(self) -> list[int]:
        """The numbers of the trials that TPE counts as good, ascending; a tenth of those that have ended.

        Of one objective they are the best, and no more than 25. Of several complete ones come first, by the fronts that
        they are on, within a front by the volume that they dominate.
        """
        count = math.ceil(0.1 * len(self.outcomes))
        if len(self.maximize) == 1:
            return sorted(number for *_, number in self._ranked[:count])
        complete = [_Ended(number, self.outcomes[number] or ()) for number in sorted(self._complete)]
        good, _ = split_complete(complete, bare(self.maximize), min(count, len(complete)))
        return sorted([one.number for one in good] + [one[-1] for one in self._ranked[: count - len(good)]])

    def scored(self, names: Mapping[str, BaseDistribution]) -> Study:
        """Optuna's study of the same trials, each that has ended complete, for samplers that heed no others.

        Only those parameters are in it, which every trial must have. One that was stopped has its best report, one
        that failed the worst value there is of each objective. Empty where nothing has a value.
        """
        known = [values for values in self.outcomes.values() if values is not None]
        study = bare(self.maximize)
        if not known:
            return study
        worst = tuple(
            (min if up else max)(column) for up, column in zip(self.maximize, zip(*known, strict=True), strict=True)
        )
        for number, params in enumerate(self.params):
            ended = number in self.outcomes
            study.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.COMPLETE if ended else TrialState.RUNNING,
                    params={name: params[name] for name in names},
                    distributions=dict(names),
                    values=(self.outcomes[number] or worst) if ended else None,
                )
            )
        return study

    def ranked(self, names: Mapping[str, BaseDistribution]) -> Study:
        """Optuna's study of the same trials, of which its TPESampler counts as good those that `good` does.

        Of the parameters each trial has those of `names` that it had. Those that did not end complete are infeasible
        there, the more the later they rank here.
        """
        study, complete = bare(self.maximize), set(self._complete)
        places = {number: place for place, (*_, number) in enumerate(self._ranked, start=1)}
        for number, params in enumerate(self.params):
            ended = number in self.outcomes
            values = self.outcomes[number] if number in complete else (0.0,) * len(self.maximize)
            rank = places.get(number, len(self.params))  # behind the _MOST_GOOD best none is good
            held = {name: params[name] for name in names if name in params}
            study.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.COMPLETE if ended else TrialState.RUNNING,
                    params=held,
                    distributions={name: names[name] for name in held},
                    values=values if ended else None,
                    constraints={"rank": float(rank)} if ended and number not in complete else None,
                )
            )
        return study


class _Assignments(Sequence[Params]):
    """Params by number; a trial's names are shared with all trials that have the same, which is a third of a dict."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._rows: list[tuple[Any, ...]] = []  # the names, then a value for each: one object less than a pair

    def append(self, params: Params) -> None:
        names = tuple(params)
        self._rows.append((self._names.setdefault(names, names), *params.values()))

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, at: int) -> Params: ...

    @overload
    def __getitem__(self, at: slice) -> list[Params]: ...

    def __getitem__(self, at: int | slice) -> Params | list[Params]:
        if isinstance(at, slice):
            return [self[number] for number in range(len(self))[at]]
        names, *values = self._rows[at]
        return dict(zip(names, values, strict=True))


class _Ended:
    """As much of a trial as Optuna's ranking of several objectives looks at."""

    def __init__(self, number: int, values: Values) -> None:
        self.number, self.values = number, values


class _Storage(InMemoryStorage):
    """Samplers note a trial's draws as an attribute, for processes that share a storage; ours are params already."""

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        pass


def bare(maximize: Sequence[bool]) -> Study:
    """One of Optuna's studies in memory, without trials, a sampler or a pruner."""
    storage = _Storage()
    with quiet(optuna.logging.WARNING):  # it would announce a study that is none of the user's
        directions = [StudyDirection.MAXIMIZE if up else StudyDirection.MINIMIZE for up in maximize]
        storage.create_new_study(directions, "search")
        return optuna.load_study(
            study_name="search",
            storage=storage,
            sampler=RandomSampler(seed=0),
            pruner=optuna.pruners.NopPruner(),
        )


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


def pending_trial(number: int, reports: dict[int, float] | None = None) -> FrozenTrial:
    """A running trial that is in no storage, for asking a sampler or a pruner about."""
    frozen = optuna.trial.create_trial(state=TrialState.RUNNING, intermediate_values=reports)
    frozen.number = number
    return frozen
