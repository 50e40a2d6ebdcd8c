"""Who stops a trial early: each a rule of what was reported, none of the order within a cohort.

Knows reports and rungs; must never know samplers, nor which trials train together.
"""

from __future__ import annotations

import bisect
import math
import statistics
import warnings
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import optuna
from optuna.exceptions import ExperimentalWarning

from tuner.search.trials import Reports, bare, pending_trial
from tuner.seeds import derive


class Pruner(Protocol):
    """A rule. All reports of an epoch of a cohort are recorded before it is asked about any of its trials."""

    def record(self, number: int, epoch: int, value: float | None, /) -> None:
        """Take in a report, once."""

    def complete(self, reports: Reports, /) -> None:
        """Take in that a trial has come to its end, with all that it reported."""

    def stops(self, number: int, epoch: int, reports: Reports, /) -> bool:
        """Whether to stop the trial after that epoch."""

    def rungs(self, epochs: int) -> set[int]:
        """The epochs before the last of `epochs` after which `stops` can be true."""


@dataclass(frozen=True)
class Facts:
    """What a pruner may know of the study; `epochs` are those of the longest trial."""

    maximize: bool
    seed: int
    epochs: int


class Median:
    """Optuna's MedianPruner: stop where the best so far is worse than the median of complete trials at this epoch.

    Ours, because Optuna's reads all reports of all complete trials at every verdict; here each is sorted in once.
    """

    def __init__(self, facts: Facts, *, min_epochs: int = 1, startup: int = 5) -> None:
        self._first, self._startup = min_epochs, startup
        self._sign = -1.0 if facts.maximize else 1.0
        self._complete = 0
        self._costs: dict[int, array[float]] = {}  # epoch → of complete trials, ascending, the best first

    def record(self, _number: int, _epoch: int, _value: float | None) -> None:
        """Nothing: the rule reads complete trials alone."""

    def complete(self, reports: Reports) -> None:
        self._complete += 1
        for epoch, value in reports.items():
            if value is not None:
                bisect.insort(self._costs.setdefault(epoch, array("d")), self._sign * value)

    def stops(self, _number: int, epoch: int, reports: Reports) -> bool:
        if self._complete < max(1, self._startup) or epoch < self._first:
            return False
        seen = [self._sign * value for at, value in reports.items() if at <= epoch and value is not None]
        if not seen:
            return True
        costs = self._costs.get(epoch)
        return costs is not None and min(seen) > statistics.median(costs)

    def rungs(self, epochs: int) -> set[int]:
        return set(range(self._first, epochs))


class Asha:
    """Asynchronous successive halving (Li et al. 2018, algorithm 2): at each rung the best 1/reduction go on.

    A trial is judged once at each rung, among the values that were there by then; equal values fare
    equally. Ours, because Optuna's registers a value only when that trial is asked about, so that in
    a cohort the verdict would depend on the row.
    """

    def __init__(self, facts: Facts, *, min_epochs: int = 1, reduction: int = 3) -> None:
        self._first, self._reduction = min_epochs, reduction
        self._sign = -1.0 if facts.maximize else 1.0
        self._costs: dict[int, array[float]] = {}  # rung → ascending, the best first

    def record(self, _number: int, epoch: int, value: float | None) -> None:
        if value is not None and self._is_rung(epoch):
            bisect.insort(self._costs.setdefault(epoch, array("d")), self._sign * value)

    def complete(self, reports: Reports) -> None:
        """Nothing: the rule reads rungs alone."""

    def stops(self, _number: int, epoch: int, reports: Reports) -> bool:
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
        return set(_powers(self._first, self._reduction, epochs - 1))


class Hyperband:
    """Hyperband (Li et al. 2018, JMLR 18): successive halving from several first rungs, a bracket of trials each.

    Bracket b begins at `min_epochs` · `reduction`^b, for every b where that is no later than the last epoch R; with
    s = s_max − b it has ⌈(s_max + 1) / (s + 1) · reduction^s⌉ of every round of trials (algorithm 1). Which trials is
    drawn by their numbers, so that a study of any length has them in these shares. Within a bracket the rule is Asha.
    """

    def __init__(self, facts: Facts, *, min_epochs: int = 1, reduction: int = 3) -> None:
        firsts = _powers(min_epochs, reduction, facts.epochs) or [min_epochs]
        most = len(firsts) - 1
        shares = [-(-(most + 1) * reduction ** (most - b) // (most - b + 1)) for b in range(most + 1)]
        self._upto = [sum(shares[: b + 1]) for b in range(most + 1)]
        self._seed, self._brackets = facts.seed, [Asha(facts, min_epochs=e, reduction=reduction) for e in firsts]

    def bracket(self, number: int) -> int:
        """The bracket of a trial, 0 being the one that begins to stop first."""
        return bisect.bisect_right(self._upto, derive(self._seed, "bracket", number) % self._upto[-1])

    def record(self, number: int, epoch: int, value: float | None) -> None:
        self._brackets[self.bracket(number)].record(number, epoch, value)

    def complete(self, reports: Reports) -> None:
        """Nothing: the rule reads rungs alone."""

    def stops(self, number: int, epoch: int, reports: Reports) -> bool:
        return self._brackets[self.bracket(number)].stops(number, epoch, reports)

    def rungs(self, epochs: int) -> set[int]:
        return self._brackets[0].rungs(epochs)  # the later brackets' are among them


class Patient:
    """Optuna's PatientPruner: `pruner` may stop a trial, or it is stopped, once it has not improved for a while.

    That is when the best of its last `patience` + 1 epochs is worse than the best before them by more than `min_delta`.
    """

    def __init__(
        self, facts: Facts, *, patience: int, min_delta: float = 0.0, pruner: Mapping[str, Any] | None = None
    ) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # Optuna's word on its interface, not on the rule
            self._rule = optuna.pruners.PatientPruner(None, patience, min_delta)
        self._study, self._least = bare([facts.maximize]), patience + 2
        self._worst = -math.inf if facts.maximize else math.inf
        self._inner = None if pruner is None else build(pruner, facts)

    def record(self, number: int, epoch: int, value: float | None) -> None:
        if self._inner is not None:
            self._inner.record(number, epoch, value)

    def complete(self, reports: Reports) -> None:
        if self._inner is not None:
            self._inner.complete(reports)

    def stops(self, number: int, epoch: int, reports: Reports) -> bool:
        seen = {at: self._worst if value is None else value for at, value in reports.items() if at <= epoch}
        if not self._rule.prune(self._study, pending_trial(0, seen)):
            return False
        return self._inner is None or self._inner.stops(number, epoch, reports)

    def rungs(self, epochs: int) -> set[int]:
        late = set(range(self._least, epochs))
        return late if self._inner is None else late & self._inner.rungs(epochs)


def build(options: Mapping[str, Any], facts: Facts) -> Pruner | None:
    """The pruner that a study file names. Raises KeyError for another kind."""
    kinds: dict[str, Callable[..., Pruner | None]] = {
        "none": lambda _: None,
        "median": Median,
        "asha": Asha,
        "hyperband": Hyperband,
        "patient": Patient,
    }
    return kinds[options["kind"]](facts, **{name: value for name, value in options.items() if name != "kind"})


def _powers(first: int, base: int, last: int) -> list[int]:
    """first, first · base, first · base², … up to `last`."""
    found = []
    while first <= last:
        found.append(first)
        first *= base
    return found
