"""Optuna's multivariate tree-structured Parzen estimator, over columns of numbers instead of its trials.

A trial is drawn as `optuna.samplers.TPESampler(multivariate=True, constant_liar=True)` draws it: 24 candidates from the
mixture of the good trials, of which the one is taken whose density there is highest beside that in the mixture of all
others (Bergstra et al. 2011; Watanabe 2023 for the details). Optuna itself estimates and samples the good ones, at most
25. It goes through all trials and all their parameters in Python for every draw; here a trial is looked at once, when
it is new, and the mixture of the others is one matrix product, of which a draw computes what the trials since the last
one have changed. Tests hold the draws to Optuna's.

Knows the memory of trials and Optuna's distributions; must never know spaces or seeds.

Shapes: N kernels, one for each trial and last the prior; C candidates; D parameters; F features of a candidate.
"""

from __future__ import annotations

import inspect
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler

from tuner.search import trials
from tuner.search.trials import Memory, pending_trial

Floats = NDArray[np.float64]

_CANDIDATES = 24  # TPESampler's n_ei_candidates
_FINEST = 100.0  # no kernel is narrower than the range divided by this, or by the number of kernels and one
_BLOCK = 2048  # kernels at once: their densities at 24 candidates stay in the cache
_NOTHING = -60.0  # e^-60 beside 1 is nothing in float64, and exp is slow where it underflows
_TIE = (
    1e-9  # merits no further apart are equal, so that rounding, which differs from machine to machine, decides nothing
)

_ParzenEstimator: Any
default_weights: Any
_SETTINGS: Any
try:
    from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator, _ParzenEstimatorParameters
    from optuna.samplers._tpe.sampler import default_weights

    _SETTINGS = _ParzenEstimatorParameters(
        prior_weight=1.0, consider_magic_clip=True, consider_endpoints=False, weights=default_weights, multivariate=True
    )
    _KNOWN = ["observations", "search_space", "parameters", "predetermined_weights"]
    _FOUND = trials.split_complete is not None and list(inspect.signature(_ParzenEstimator).parameters) == _KNOWN
except (ImportError, TypeError):  # another Optuna's
    _FOUND = False


def estimator() -> type[Estimator | OptunaEstimator]:
    """The faster of the two that this Optuna has the interfaces for."""
    return Estimator if _FOUND else OptunaEstimator


class OptunaEstimator:
    """The draws of `Estimator` from Optuna's own sampler, which reads all trials at every draw."""

    def __init__(self, distributions: Mapping[str, BaseDistribution], memory: Memory) -> None:
        self._distributions, self._memory = dict(distributions), memory

    @staticmethod
    def source(seed: int, _rng: np.random.RandomState) -> TPESampler:
        return TPESampler(seed=seed, n_startup_trials=0)

    def draw(self, source: TPESampler) -> dict[str, Any]:
        study = self._memory.ranked(self._distributions)
        return source.sample_relative(study, pending_trial(len(self._memory.params)), self._distributions)


class Estimator:
    """Draws some parameters together, as the trials that have all of them say.

    What it holds between two draws is worked out from the memory. A `source` is of one trial, for all its groups.
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution], memory: Memory) -> None:
        self._distributions, self._memory = dict(distributions), memory
        self._seen = 0  # trials of the memory that were looked at
        self._numbers = array("q")  # of those that have all parameters, ascending
        self._cells = np.empty((len(self._distributions), 64))  # [D, room]: their values in Optuna's numbers
        self._good: _Good | None = None
        self._others: _Density | None = None  # as the last draw had them

    @staticmethod
    def source(seed: int, rng: np.random.RandomState) -> np.random.RandomState:
        rng.seed(seed)  # a new one takes 90 µs
        return rng

    def draw(self, source: np.random.RandomState) -> dict[str, Any]:
        """The best of the candidates: the likeliest among the good trials beside all others."""
        self._look()
        if self._good is None or self._good.ended != len(self._memory.outcomes):
            self._good = self._divide()
        good = self._good
        drawn = good.estimator.sample(source, _CANDIDATES)
        candidates = np.array([drawn[name] for name in self._distributions])  # [D, C]
        self._others = _Density(self._distributions, self._without(good.places), before=self._others)
        merit = good.density.log(candidates) - self._others.log(candidates)
        first = int(np.argmax(merit >= merit.max() - _TIE))
        best = candidates[:, first].tolist()
        return {
            name: one.to_external_repr(value)
            for (name, one), value in zip(self._distributions.items(), best, strict=True)
        }

    def _look(self) -> None:
        """Take in the trials that are new, those that still train as well."""
        for number in range(self._seen, len(self._memory.params)):
            params = self._memory.params[number]
            if self._distributions.keys() <= params.keys():
                if (at := len(self._numbers)) == self._cells.shape[1]:
                    self._cells = np.concatenate((self._cells, np.empty_like(self._cells)), axis=1)
                self._cells[:, at] = [one.to_internal_repr(params[name]) for name, one in self._distributions.items()]
                self._numbers.append(number)
        self._seen = len(self._memory.params)

    def _without(self, places: Sequence[int]) -> Floats:
        """The columns but those; copied stretch by stretch, which `np.delete` does cell by cell."""
        begins, ends = (0, *(at + 1 for at in places)), (*places, len(self._numbers))
        return np.concatenate([self._cells[:, a:b] for a, b in zip(begins, ends, strict=True)], axis=1)

    def _divide(self) -> _Good:
        """The good trials that have all parameters, as they are now."""
        good = set(self._memory.good())
        places = [at for at, number in enumerate(self._numbers) if number in good]
        observed = self._cells[:, places]
        weights = np.ones(len(places)) if len(self._memory.maximize) > 1 else None
        columns = dict(zip(self._distributions, observed, strict=True))
        return _Good(
            len(self._memory.outcomes),
            places,
            _ParzenEstimator(columns, self._distributions, _SETTINGS, weights),
            _Density(self._distributions, observed, weights),
        )


@dataclass(frozen=True)
class _Good:
    """The good trials once `ended` trials had ended: their places among the columns, and their mixture."""

    ended: int
    places: list[int]
    estimator: Any  # Optuna's
    density: _Density


class _Density:
    """A mixture of products of one kernel for each parameter; `observed` is [D, N − 1].

    The logarithm of a kernel's density is a sum over parameters. A Gaussian's is a polynomial of the candidate's value,
    a table's is looked up: both are products with features of the candidate, so that all densities of all candidates
    are one product [C, F] × [F, N]. What `before`, a mixture of most of the same trials in the same places, has worked
    out is not worked out again.
    """

    def __init__(
        self,
        distributions: Mapping[str, BaseDistribution],
        observed: Floats,
        weights: Floats | None = None,
        before: _Density | None = None,
    ) -> None:
        count = observed.shape[1]
        shares = np.append(default_weights(count) if weights is None else weights, 1.0)
        known: Sequence[Any] = before._kernels if before is not None else [None] * len(distributions)
        self._shares: Floats = np.log(shares / shares.sum())
        self._kernels: list[_Categories | _Smooth | _Stepped] = [
            _kernel(*one) for one in zip(distributions.values(), observed, known, strict=True)
        ]

    def log(self, candidates: Floats) -> Floats:
        """At each candidate, [D, C] → [C]; up to a constant that all mixtures over these parameters share."""
        terms = [one.terms(values) for one, values in zip(self._kernels, candidates, strict=True)]
        features = np.concatenate([features for features, _ in terms]).T
        constants = self._shares + sum(one.constants for one in self._kernels)
        highest, sums = np.full(candidates.shape[1], -np.inf), np.zeros(candidates.shape[1])
        for start in range(0, len(self._shares), _BLOCK):
            block = slice(start, start + _BLOCK)
            table = features @ np.concatenate([factors[:, block] for _, factors in terms])  # [C, N], piece by piece
            table += constants[block]
            higher = np.maximum(highest, table.max(axis=1))
            table -= higher[:, None]
            np.exp(np.maximum(table, _NOTHING, out=table), out=table)
            sums = sums * np.exp(highest - higher) + table.sum(axis=1)
            highest = higher
        return np.asarray(np.log(sums) + highest)


# Of some kernels at candidates [C]: features [f, C], and their factors [f, N].
_Terms = tuple[Floats, Floats]


class _Categories:
    """The observed one of `count` categories, the others with a little of the weight of one."""

    def __init__(self, count: int, observed: Floats) -> None:
        little = 1.0 / (len(observed) + 1)
        whole = 1.0 + count * little
        rare, often = math.log(little / whole), math.log((1.0 + little) / whole)
        prior = np.full((count, 1), (-math.log(count) - rare) / (often - rare))
        self._more, self.constants = often - rare, rare
        self._kinds = np.arange(count)
        self._factors = np.concatenate((_one_hot(self._kinds, observed), prior), axis=1)

    def terms(self, values: Floats) -> _Terms:
        return self._more * _one_hot(self._kinds, values), self._factors


class _Gaussians:
    """Gaussians around what was observed, cut at the ends of the range, which is the unit of everything here.

    `before` may have kernels of the same centre and deviation in the same places: only the others are `new`.
    """

    def __init__(self, one: FloatDistribution | IntDistribution, observed: Floats, before: _Gaussians | None) -> None:
        half = (one.step or 0) / 2
        low, high = one.low - half, one.high + half
        if one.log:
            low, high, observed = math.log(low), math.log(high), np.log(observed)
        self.log, self.step, self.low, self.width = one.log, float(one.step or 0), low, high - low
        self.centers = (np.append(observed, low + self.width / 2) - low) / self.width
        self.sigmas = np.append(_widths(observed, low, high), self.width) / self.width
        self.constants = np.empty(len(self.centers))  # of each, what no candidate changes
        self.known, self.new = 0, np.arange(len(self.centers))
        if before is not None:
            self.known = known = min(len(self.centers), len(before.centers))
            other = self.centers[:known] != before.centers[:known]
            other |= self.sigmas[:known] != before.sigmas[:known]
            self.new = np.append(np.flatnonzero(other), self.new[known:])
            self.constants[:known] = before.constants[:known]
        self.constants[self.new] = -self._inside()

    def _inside(self) -> Floats:
        """Of the new ones: the logarithm of the mass within the range."""
        centers, sigmas = self.centers[self.new], self.sigmas[self.new]
        return np.log(_mass_below((1.0 - centers) / sigmas) - _mass_below(-centers / sigmas))

    def place(self, values: Floats) -> Floats:
        return ((np.log(values) if self.log else values) - self.low) / self.width


class _Smooth(_Gaussians):
    """Those of a continuum: a density is a parabola."""

    def __init__(self, one: FloatDistribution | IntDistribution, observed: Floats, before: _Smooth | None) -> None:
        super().__init__(one, observed, before)
        self._factors = np.empty((2, len(self.centers)))
        if before is not None:
            self._factors[:, : self.known] = before._factors[:, : self.known]
        centers, sigmas = self.centers[self.new], self.sigmas[self.new]
        steep = sigmas**-2
        self._factors[:, self.new] = -0.5 * steep, steep * centers
        self.constants[self.new] += -0.5 * steep * centers**2 - np.log(sigmas)

    def terms(self, values: Floats) -> _Terms:
        places = self.place(values)
        return np.stack((places**2, places)), self._factors


class _Stepped(_Gaussians):
    """Those of values in steps: a density is the mass of a step.

    Many values are the same, and so are most of their deviations: each pair is looked at once.
    """

    def __init__(self, one: FloatDistribution | IntDistribution, observed: Floats, before: _Stepped | None) -> None:
        super().__init__(one, observed, before)
        pairs = self.centers + 1j * self.sigmas
        if before is None or 2 * len(self.new) > len(pairs):
            self._pairs, self._of = np.unique(pairs, return_inverse=True)
            return
        self._pairs = np.union1d(before._pairs, pairs[self.new])  # some may be nobody's any more
        self._of = np.empty(len(pairs), np.intp)
        self._of[: self.known] = np.searchsorted(self._pairs, before._pairs)[before._of[: self.known]]
        self._of[self.new] = np.searchsorted(self._pairs, pairs[self.new])

    def terms(self, values: Floats) -> _Terms:
        different = np.unique(values)
        ends = (self.place(different + side * self.step / 2)[:, None] for side in (-1, 1))
        masses = _log_mass(*((end - self._pairs.real) / self._pairs.imag for end in ends))
        return _one_hot(different, values), masses[:, self._of]


def _kernel(one: BaseDistribution, observed: Floats, before: Any) -> _Categories | _Smooth | _Stepped:
    """The kernels of a parameter; `before` are the same parameter's as they were, or None."""
    if isinstance(one, CategoricalDistribution):
        return _Categories(len(one.choices), observed)
    assert isinstance(one, FloatDistribution | IntDistribution)
    return (_Stepped if one.step else _Smooth)(one, observed, before)


def _one_hot(kinds: NDArray[Any], values: Floats) -> Floats:
    """[len(kinds), C]: 1 where the candidate is of that kind."""
    found: Floats = (kinds[:, None] == values).astype(np.float64)
    return found


def _widths(observed: Floats, low: float, high: float) -> Floats:
    """Each kernel's deviation: the larger of the distances to its neighbours, within bounds; as Optuna has it."""
    order = np.argsort(observed)
    near = np.empty(len(observed) + 2)
    near[0], near[1:-1], near[-1] = low, observed[order], high
    gaps = np.diff(near)
    found = np.maximum(gaps[:-1], gaps[1:])
    if len(observed) >= 2:
        found[0], found[-1] = gaps[1], gaps[-2]  # the ends of the range are no neighbours
    widths = np.empty_like(found)
    widths[order] = found
    return np.clip(widths, (high - low) / min(_FINEST, 2.0 + len(observed)), high - low)


def _mass_below(values: Floats) -> Floats:
    """A standard Gaussian's mass: few are asked for at once, and scipy's import takes a tenth of a second."""
    return 0.5 * np.array([math.erfc(value) for value in (-math.sqrt(0.5) * values).tolist()])


def _log_mass(begin: Floats, end: Floats) -> Floats:
    """Logarithm of a standard Gaussian's mass between the two, far out as well."""
    from scipy.special import log_ndtr

    flip = begin + end > 0  # the left tail is the accurate one
    low, high = np.where(flip, -end, begin), np.where(flip, -begin, end)
    upper = log_ndtr(high)
    found: Floats = upper + np.log1p(-np.exp(log_ndtr(low) - upper))
    return found
