"""What to try next and what to stop: Optuna behind ask, observe and tell.

Knows the space, what was asked, reported and told so far, and Optuna (no other package imports it);
must never know how trials are trained, stored or shown, nor read a clock.

Nothing here remembers more than the ledger does. A trial's draws come from generators seeded by the
study's seed and the trial's number alone, made anew for each trial, and the memory holds the very
values that were handed out. So a search rebuilt from events (`adopt`, `replay`, `tell`, in the
ledger's order) is the search that lived them, and goes on equally.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tuner.events import Params, State, Trial, Value
from tuner.search import pruners, samplers
from tuner.search.trials import Memory, distribution
from tuner.search_spaces import SearchSpace
from tuner.seeds import derive


class Search:
    """One study's sampler and pruner.

    `sampler` and `pruner` are {kind, options}, as the study file has them (`samplers.build`, `pruners.build`).
    `maximize` tells of each objective whether more of it is better. `epochs` are those of the longest trial. `alone`
    tells that trials never train together, so that nothing is gained by asking ahead of what is learnt. `start_with`
    assignments become the first trials.

    `trials` (the attribute) is how many will be asked: the budget, or fewer where the grid ends first.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        sampler: Mapping[str, Any],
        pruner: Mapping[str, Any],
        maximize: Sequence[bool],
        seed: int,
        trials: int,
        epochs: int,
        start_with: Sequence[Params],
        alone: bool = False,
    ) -> None:
        self.space, self.seed = space, seed
        self._start_with = [_fitted(space, values) for values in start_with]
        self._distributions = {n: distribution(p) for n, p in space.parameters.items() if p.count != 1}
        self._memory = Memory(maximize)
        self._facts = samplers.Facts(
            space, self._distributions, self._memory, seed, trials, given=len(start_with), alone=alone
        )
        self._sampler = samplers.build(sampler, self._facts)
        self._pruner = pruners.build(pruner, pruners.Facts(maximize[0], seed, epochs))
        points = self._sampler.points if isinstance(self._sampler, samplers.Grid) else trials
        self.trials = min(trials, len(start_with) + points)
        self._reports: dict[int, dict[int, float | None]] = {}  # of the trials that have not ended

    @property
    def _asked(self) -> int:
        return len(self._memory.params)

    # ------------------------------------------------------------------ asking

    def window(self, remaining: int) -> int:
        """How many trials to ask now when `remaining` are left: by the spec and the trials so far alone.

        Samplers that do not learn lose nothing by asking far ahead; the others ask as much as lets equal structures
        meet, and learn from it before they go on.
        """
        return min(remaining, self._sampler.window(self._asked))

    @property
    def piece(self) -> int:
        """How many of a window to ask in one go, before anybody else is heard: as many as take little time."""
        return self._sampler.piece

    def hold(self) -> None:
        """Ask from what is known now, until `release`. Verdicts go on learning."""
        self._memory.hold()

    def release(self) -> None:
        """Learn what has ended since `hold`."""
        self._memory.release()

    def ask(self, first: int, count: int) -> list[Trial]:
        """The trials numbered `first` (the number after the last one), `first` + 1, …; each must later be told."""
        if first != self._asked:
            raise ValueError(f"trial {self._asked} is next, not {first}")
        asked = []
        for number in range(first, first + count):
            trial = Trial(number, self._sample(number), derive(self.seed, "trial", number))
            self.adopt(trial)
            asked.append(trial)
        return asked

    def adopt(self, trial: Trial) -> None:
        """Take in a trial asked before, by this process or the one that died. In the order of numbers."""
        if trial.number != self._asked:
            raise ValueError(f"trial {self._asked} is next, not {trial.number}")
        problems = self.space.validate(trial.params)
        if problems:
            raise ValueError(f"trial {trial.number} does not fit the search space: {'; '.join(problems)}")
        self._memory.add(trial.params)
        self._reports[trial.number] = {}

    def _sample(self, number: int) -> Params:
        """The active parameters of that trial, in the space's order."""
        fixed = self._start_with[number] if number < len(self._start_with) else {}
        drawn = {**self._sampler.draw(number), **fixed}
        values: dict[str, Value] = {}
        for name, parameter in self.space.parameters.items():
            if not self.space.active(name, values):
                continue
            if name in drawn:
                values[name] = drawn[name]
            else:
                values[name] = parameter.nth(0) if parameter.count == 1 else self._facts.uniform(number, name)
        return values

    # ----------------------------------------------------------- reports, ends

    def observe(self, reports: Sequence[tuple[int, int, float | None]]) -> set[int]:
        """Take in one epoch of a cohort, (trial, epoch, first objective or None if not finite); which trials to stop.

        All are recorded before the first verdict, so that a verdict does not depend on a trial's row.
        A report that is known already (a resumed attempt repeats it) keeps its first value and is not
        judged again. What is said of a trial's last epoch does not matter: it is done.
        """
        fresh = [(number, epoch) for number, epoch, value in reports if self._record(number, epoch, value)]
        if self._pruner is None:
            return set()
        return {number for number, epoch in fresh if self._pruner.stops(number, epoch, self._reports[number])}

    def replay(self, number: int, epoch: int, value: float | None) -> None:
        """Take in a report from the ledger."""
        self._record(number, epoch, value)

    def _record(self, number: int, epoch: int, value: float | None) -> bool:
        reports = self._reports[number]
        if epoch in reports:
            return False
        reports[epoch] = value if value is not None and math.isfinite(value) else None
        if self._pruner is not None:
            self._pruner.record(number, epoch, reports[epoch])
        return True

    def tell(self, number: int, state: State, values: Sequence[float] | None) -> None:
        """End a trial: COMPLETE with a value for each objective, PRUNED or FAILED without.

        A failed trial is told to TPE as pruned before any report, the worst there is: to Optuna a
        FAIL is nothing, and the sampler would go on trying what diverges. The first end counts, as in
        the ledger.
        """
        if self._memory.ended(number):
            return
        reports = self._reports[number]
        if state is State.COMPLETE and values is not None and all(map(math.isfinite, values)):
            self._memory.end(number, reports, tuple(values))
            if self._pruner is not None:
                self._pruner.complete(reports)
        elif state is State.PRUNED:
            self._memory.end(number, reports, None)
        elif state in (State.COMPLETE, State.FAILED):
            self._memory.end(number, {}, None)
        else:
            raise ValueError(f"a trial ends COMPLETE, PRUNED or FAILED, not {state}")
        del self._reports[number]

    def rungs(self, epochs: int) -> set[int]:
        """The epochs before the last of `epochs` at which a verdict can be anything but "go on"."""
        return set() if self._pruner is None else self._pruner.rungs(epochs)


def _fitted(space: SearchSpace, values: Params) -> Params:
    """An assignment as a person wrote it, each value in its parameter's own type. Raises ValueError for a misfit."""
    problems = space.validate(values)
    if problems:
        raise ValueError(f"start_with does not fit the search space: {'; '.join(problems)}")
    return {name: space.parameters[name].fit(value) for name, value in values.items()}
