"""What to try next and what to stop: Optuna behind ask, observe and tell.

Knows the space, what was asked, reported and told so far, and Optuna (no other module imports it);
must never know how trials are trained, stored or shown, nor read a clock.

Nothing here remembers more than the ledger does. A trial's draws come from samplers seeded by the
study's seed and the trial's number alone, made anew for each trial, and Optuna's in-memory study
holds the very values that were handed out. So a search rebuilt from events (`adopt`, `replay`,
`tell`, in the ledger's order) is the search that lived them, and goes on equally.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search_spaces import Choice, Float, Int, SearchSpace
from tuner.trial import Params, State, Trial, Value, derive

_AHEAD = 1024  # the most trials asked at once by samplers that do not learn: enough to fill any cohort


class Search:
    """One study's sampler and pruner.

    `sampler` is {kind: random | grid | tpe, startup}, `pruner` {kind: none | median | asha,
    min_epochs, startup | reduction}; `startup` counts trials. `alone` tells that trials never train
    together, so that nothing is gained by asking ahead of what is learnt. `start_with` assignments
    become the first trials.

    `trials` (the attribute) is how many will be asked: the budget, or fewer where the grid ends first.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        sampler: Mapping[str, Any],
        pruner: Mapping[str, Any],
        maximize: bool,
        seed: int,
        trials: int,
        start_with: Sequence[Params],
        alone: bool = False,
    ) -> None:
        self.space, self.seed = space, seed
        self._kind: str = sampler["kind"]
        self._startup: int = sampler.get("startup", 10)
        self._start_with = [_fitted(space, values) for values in start_with]
        self.trials = trials
        if self._kind == "grid":
            points = space.size()
            if points is None:
                raise ValueError("a grid needs a finite space; give every float a step")
            self._points = points
            self.trials = min(trials, len(self._start_with) + points)
        self._ahead = 1 if alone else max(2, math.isqrt(4 * trials))
        self._distributions = {n: distribution(p) for n, p in space.parameters.items() if p.count != 1}
        self._groups = _groups(space)
        self._memory = _Memory(maximize)
        self._pruner = _pruner(pruner, maximize, self._memory)
        self._asked: list[Params] = []
        self._reports: dict[int, dict[int, float | None]] = {}

    # ------------------------------------------------------------------ asking

    def window(self, remaining: int) -> int:
        """How many trials to ask now when `remaining` are left: by the spec and the trials so far alone.

        Samplers that do not learn lose nothing by asking far ahead. TPE asks the rest of its startup,
        which is random, and then 2·√trials at a time: wide enough for equal structures to meet, with
        √trials/2 moments to learn from what the window before has shown (docs/decisions.md).
        """
        if self._kind != "tpe":
            return min(remaining, _AHEAD)
        random = max(self._startup, len(self._start_with)) - len(self._asked)
        return min(remaining, random if random > 0 else self._ahead)

    def ask(self, first: int, count: int) -> list[Trial]:
        """The trials numbered `first` (the number after the last one), `first` + 1, …; each must later be told."""
        if first != len(self._asked):
            raise ValueError(f"trial {len(self._asked)} is next, not {first}")
        asked = []
        for number in range(first, first + count):
            trial = Trial(number, self._sample(number), derive(self.seed, "trial", number))
            self.adopt(trial)
            asked.append(trial)
        return asked

    def adopt(self, trial: Trial) -> None:
        """Take in a trial asked before, by this process or the one that died. In the order of numbers."""
        if trial.number != len(self._asked):
            raise ValueError(f"trial {len(self._asked)} is next, not {trial.number}")
        problems = self.space.validate(trial.params)
        if problems:
            raise ValueError(f"trial {trial.number} does not fit the search space: {'; '.join(problems)}")
        known = {name: trial.params[name] for name in self._distributions if name in trial.params}
        self._memory.add(known, {name: self._distributions[name] for name in known})
        self._asked.append(trial.params)
        self._reports[trial.number] = {}

    def _sample(self, number: int) -> Params:
        """The active parameters of that trial, in the space's order."""
        start = len(self._start_with)
        if number < start:
            fixed: Params = self._start_with[number]
        elif self._kind == "grid":
            return self.space.point(_shuffled(number - start, self._points, self.seed))
        else:
            fixed = {}
        # Half of the startup is enough to learn from: what is asked ahead cannot wait for the last of it to end.
        learns = self._kind == "tpe" and number >= self._startup and 2 * self._memory.finished >= self._startup
        drawn = self._tpe(number) if learns else {}
        values: dict[str, Value] = {}
        for name, parameter in self.space.parameters.items():
            if not self.space.active(name, values):
                continue
            if name in fixed:
                values[name] = fixed[name]
            elif name in drawn:
                values[name] = drawn[name]
            else:
                values[name] = parameter.nth(0) if parameter.count == 1 else self._random(number, name)
        return values

    def _random(self, number: int, name: str) -> Value:
        """A uniform draw that depends on seed, number and name alone."""
        sampler = RandomSampler(seed=derive(self.seed, "sample", number, name))
        wanted = self._distributions[name]
        return self.space.parameters[name].fit(
            sampler.sample_independent(self._memory.study, _unborn(number), name, wanted)
        )

    def _tpe(self, number: int) -> dict[str, Value]:
        """TPE's draws for one trial, group by group, parents before children.

        A group is what is active under equal conditions: Optuna's `group=True` finds the same groups,
        but from the trials so far, and draws children whose parents then leave them inactive.
        """
        sampler = TPESampler(
            seed=derive(self.seed, "sample", number), n_startup_trials=0, multivariate=True, constant_liar=True
        )
        values: dict[str, Value] = {}
        for group in self._groups:
            if not self.space.active(group[0], values):
                continue
            values |= {n: self.space.parameters[n].nth(0) for n in group if n not in self._distributions}
            free = {name: self._distributions[name] for name in sorted(group) if name not in values}
            drawn = sampler.sample_relative(self._memory.study, _unborn(number), free) if free else {}
            values |= {name: self.space.parameters[name].fit(value) for name, value in drawn.items()}
        return values

    # ----------------------------------------------------------- reports, ends

    def observe(self, reports: Sequence[tuple[int, int, float | None]]) -> set[int]:
        """Take in one epoch of a cohort, (trial, epoch, objective or None if not finite); which trials to stop.

        All are recorded before the first verdict, so that a verdict does not depend on a trial's row.
        A report that is known already (a resumed attempt repeats it) keeps its first value and is not
        judged again. What is said of a trial's last epoch does not matter: it is done.
        """
        fresh = [(number, epoch) for number, epoch, value in reports if self._record(number, epoch, value)]
        if self._pruner is None:
            return set()
        return {number for number, epoch in fresh if self._pruner.stops(epoch, self._reports[number])}

    def replay(self, number: int, epoch: int, value: float | None) -> None:
        """Take in a report from the ledger."""
        self._record(number, epoch, value)

    def _record(self, number: int, epoch: int, value: float | None) -> bool:
        reports = self._reports[number]
        if epoch in reports:
            return False
        reports[epoch] = value if value is not None and math.isfinite(value) else None
        if self._pruner is not None:
            self._pruner.record(epoch, reports[epoch])
        return True

    def tell(self, number: int, state: State, value: float | None) -> None:
        """End a trial: COMPLETE with its objective, PRUNED or FAILED without.

        A failed trial is told to TPE as pruned before any report, the worst there is: to Optuna a
        FAIL is nothing, and the sampler would go on trying what diverges. The first end counts, as in
        the ledger.
        """
        reports = self._reports[number]
        if self._memory.ended(number):
            return
        if state is State.COMPLETE and value is not None and math.isfinite(value):
            self._memory.end(number, TrialState.COMPLETE, reports, value)
        elif state is State.PRUNED:
            self._memory.end(number, TrialState.PRUNED, reports, None)
        elif state in (State.COMPLETE, State.FAILED):
            self._memory.end(number, TrialState.PRUNED, {}, None)
        else:
            raise ValueError(f"a trial ends COMPLETE, PRUNED or FAILED, not {state}")

    def rungs(self, epochs: int) -> set[int]:
        """The epochs before the last of `epochs` at which a verdict can be anything but "go on"."""
        return set() if self._pruner is None else self._pruner.rungs(epochs)


class _Memory:
    """Optuna's in-memory study, holding what was asked and how it ended, under our numbers."""

    def __init__(self, maximize: bool) -> None:
        self._storage = _Storage()
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would announce a study that is none of the user's
        try:
            direction = StudyDirection.MAXIMIZE if maximize else StudyDirection.MINIMIZE
            self._study_id = self._storage.create_new_study([direction], "search")
            self.study = optuna.load_study(
                study_name="search",
                storage=self._storage,
                sampler=RandomSampler(seed=0),
                pruner=optuna.pruners.NopPruner(),
            )
        finally:
            optuna.logging.set_verbosity(verbosity)
        self._ids: list[int] = []  # Optuna's own, by our number
        self.finished = 0  # complete or pruned, so that a sampler has something to learn from

    def add(self, params: dict[str, Value], distributions: dict[str, BaseDistribution]) -> None:
        running = optuna.trial.create_trial(state=TrialState.RUNNING, params=params, distributions=distributions)
        self._ids.append(self._storage.create_new_trial(self._study_id, running))

    def ended(self, number: int) -> bool:
        return self._storage.get_trial(self._ids[number]).state.is_finished()

    def end(self, number: int, state: TrialState, reports: Mapping[int, float | None], value: float | None) -> None:
        for epoch, report in reports.items():
            self._storage.set_trial_intermediate_value(self._ids[number], epoch, math.nan if report is None else report)
        self.study.tell(number, value, state)
        self.finished += bool(reports) or value is not None


class _Storage(InMemoryStorage):
    """TPE notes a trial's draws as an attribute, for processes that share a storage; ours are params already."""

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        pass


class _Median:
    """Optuna's MedianPruner: stop where the best so far is worse than the median of complete trials at this epoch."""

    def __init__(self, memory: _Memory, *, min_epochs: int, startup: int) -> None:
        self._study, self._first = memory.study, min_epochs
        self._rule = optuna.pruners.MedianPruner(startup, min_epochs)

    def record(self, epoch: int, value: float | None) -> None:
        """Nothing: the rule reads complete trials alone."""

    def stops(self, epoch: int, reports: Mapping[int, float | None]) -> bool:
        seen = {at: math.nan if value is None else value for at, value in reports.items() if at <= epoch}
        return self._rule.prune(self._study, _unborn(0, seen))

    def rungs(self, epochs: int) -> set[int]:
        return set(range(self._first, epochs))


class _Asha:
    """Asynchronous successive halving (Li et al. 2018, algorithm 2): at each rung the best 1/reduction go on.

    A trial is judged once at each rung, among the values that were there by then; equal values fare
    equally. Ours, because Optuna's registers a value only when that trial is asked about, so that in
    a cohort the verdict would depend on the row.
    """

    def __init__(self, maximize: bool, *, min_epochs: int, reduction: int) -> None:
        self._first, self._reduction = min_epochs, reduction
        self._sign = -1.0 if maximize else 1.0
        self._costs: dict[int, list[float]] = {}  # rung → ascending, the best first

    def record(self, epoch: int, value: float | None) -> None:
        if value is not None and self._is_rung(epoch):
            bisect.insort(self._costs.setdefault(epoch, []), self._sign * value)

    def stops(self, epoch: int, reports: Mapping[int, float | None]) -> bool:
        if not self._is_rung(epoch):
            return False
        value = reports[epoch]
        if value is None:
            return True
        costs = self._costs[epoch]
        return bisect.bisect_left(costs, self._sign * value) >= max(1, len(costs) // self._reduction)

    def _is_rung(self, epoch: int) -> bool:
        return epoch in self.rungs(epoch + 1)

    def rungs(self, epochs: int) -> set[int]:
        found, rung = set(), self._first
        while rung < epochs:
            found.add(rung)
            rung *= self._reduction
        return found


def _pruner(options: Mapping[str, Any], maximize: bool, memory: _Memory) -> _Median | _Asha | None:
    """The pruner that a study file names. Raises KeyError for another kind."""
    kinds: dict[str, Callable[..., _Median | _Asha | None]] = {
        "none": lambda: None,
        "median": lambda min_epochs=1, startup=5: _Median(memory, min_epochs=min_epochs, startup=startup),
        "asha": lambda min_epochs=1, reduction=3: _Asha(maximize, min_epochs=min_epochs, reduction=reduction),
    }
    return kinds[options["kind"]](**{name: value for name, value in options.items() if name != "kind"})


def distribution(parameter: Float | Int | Choice) -> BaseDistribution:
    """The same parameter in Optuna's words."""
    if isinstance(parameter, Choice):
        return CategoricalDistribution(parameter.values_)
    if isinstance(parameter, Int):
        return IntDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step or 1)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)


def _unborn(number: int, reports: dict[int, float] | None = None) -> FrozenTrial:
    """A running trial that is in no storage, for asking a sampler or a pruner about."""
    frozen = optuna.trial.create_trial(state=TrialState.RUNNING, intermediate_values=reports)
    frozen.number = number
    return frozen


def _fitted(space: SearchSpace, values: Params) -> Params:
    """An assignment as a person wrote it, each value in its parameter's own type. Raises ValueError for a misfit."""
    problems = space.validate(values)
    if problems:
        raise ValueError(f"start_with does not fit the search space: {'; '.join(problems)}")
    return {name: space.parameters[name].fit(value) for name, value in values.items()}


def _groups(space: SearchSpace) -> list[list[str]]:
    """Parameters that are active under equal conditions, groups of parents before those of children."""
    depth: dict[str, int] = {}
    groups: dict[tuple[int, str], list[str]] = {}
    for name, parameter in space.parameters.items():
        when = parameter.when or {}
        depth[name] = 1 + max((depth[parent] for parent in when), default=-1)
        groups.setdefault((depth[name], repr(sorted(when.items()))), []).append(name)
    return [group for _, group in sorted(groups.items(), key=lambda item: item[0][0])]


def _shuffled(index: int, size: int, seed: int) -> int:
    """Where a seeded permutation of range(size) sends `index`, nothing held in memory.

    A Feistel network over the next power of four, walked until it lands inside (Black & Rogaway 2002).
    """
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for turn in range(6):
            left, right = right, left ^ (derive(seed, "grid", turn, right) & mask)
        index = left << half | right
        if index < size:
            return index
