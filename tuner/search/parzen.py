"""Optuna's multivariate tree-structured Parzen estimator, over columns of numbers instead of its trials.

A trial is drawn as `optuna.samplers.TPESampler(multivariate=True, constant_liar=True)` draws it: 24 candidates from the
mixture of the good trials, of which the one is taken whose density there is highest beside that in the mixture of all
others (Bergstra et al. 2011; Watanabe 2023 for the details). Optuna itself estimates and samples the good ones, at most
25. It goes through all trials and all their parameters in Python for every draw; here a trial is looked at once, when
it is new, and the mixture of the others is one matrix product. Tests hold the draws to Optuna's.

Knows the memory of trials and Optuna's distributions; must never know spaces or seeds.

Shapes: N kernels, one for each trial and last the prior; C candidates; D parameters; F features of a candidate.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator, _ParzenEstimatorParameters
from optuna.samplers._tpe.sampler import default_weights

from tuner.search.memory import Memory

Floats = NDArray[np.float64]

_CANDIDATES = 24  # TPESampler's n_ei_candidates
_FINEST = 100.0  # no kernel is narrower than the range divided by this, or by the number of kernels and one
_BLOCK = 2048  # kernels at once: their densities at 24 candidates stay in the cache
_NOTHING = -60.0  # e^-60 beside 1 is nothing in float64, and exp is slow where it underflows
_TIE = (
    1e-9  # merits no further apart are equal, so that rounding, which differs from machine to machine, decides nothing
)
_SETTINGS = _ParzenEstimatorParameters(
    prior_weight=1.0, consider_magic_clip=True, consider_endpoints=False, weights=default_weights, multivariate=True
)


class Estimator:
    """Draws some parameters together, as the trials that have all of them say.

    What it holds between two draws is worked out from the memory.
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution], memory: Memory) -> None:
        self._distributions, self._memory = dict(distributions), memory
        self._seen = 0  # trials of the memory that were looked at
        self._numbers = array("q")  # of those that have all parameters, ascending
        self._cells = np.empty((len(self._distributions), 64))  # [D, room]: their values in Optuna's numbers
        self._good: _Good | None = None

    def draw(self, rng: np.random.RandomState) -> dict[str, Any]:
        """The best of the candidates: the likeliest among the good trials beside all others."""
        self._look()
        if self._good is None or self._good.ended != len(self._memory.outcomes):
            self._good = self._divide()
        good = self._good
        drawn = good.estimator.sample(rng, _CANDIDATES)
        candidates = np.array([drawn[name] for name in self._distributions])  # [D, C]
        others = np.delete(self._cells[:, : len(self._numbers)], good.places, axis=1)
        merit = good.density.log(candidates) - _Density(self._distributions, others).log(candidates)
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
    estimator: _ParzenEstimator
    density: _Density


class _Density:
    """A mixture of products of one kernel for each parameter; `observed` is [D, N − 1].

    The logarithm of a kernel's density is a sum over parameters. A Gaussian's is a polynomial of the candidate's value,
    a table's is looked up: both are products with features of the candidate, so that all densities of all candidates
    are one product [C, F] × [F, N].
    """

    def __init__(
        self, distributions: Mapping[str, BaseDistribution], observed: Floats, weights: Floats | None = None
    ) -> None:
        count = observed.shape[1]
        shares = np.append(default_weights(count) if weights is None else weights, 1.0)
        self._shares: Floats = np.log(shares / shares.sum())
        self._kernels = [_kernel(one, column) for one, column in zip(distributions.values(), observed, strict=True)]

    def log(self, candidates: Floats) -> Floats:
        """At each candidate, [D, C] → [C]; up to a constant that all mixtures over these parameters share."""
        highest, sums = np.full(candidates.shape[1], -np.inf), np.zeros(candidates.shape[1])
        for start in range(0, len(self._shares), _BLOCK):
            block = slice(start, start + _BLOCK)
            terms = [one.terms(values, block) for one, values in zip(self._kernels, candidates, strict=True)]
            table = np.concatenate([features for features, _, _ in terms]).T @ np.concatenate(
                [factors for _, factors, _ in terms]
            )  # [C, N], piece by piece
            table += self._shares[block] + sum(constant for _, _, constant in terms)
            higher = np.maximum(highest, table.max(axis=1))
            table -= higher[:, None]
            np.exp(np.maximum(table, _NOTHING, out=table), out=table)
            sums = sums * np.exp(highest - higher) + table.sum(axis=1)
            highest = higher
        return np.asarray(np.log(sums) + highest)


# Some kernels' `terms` at candidates [C]: features [f, C], their factors [f, N], and what no candidate changes.
_Terms = tuple[Floats, Floats, Floats | float]


@dataclass(frozen=True)
class _Categories:
    """The observed one of `count` categories, the others with a little of the weight of one."""

    count: int
    observed: NDArray[np.intp]

    def terms(self, values: Floats, block: slice) -> _Terms:
        little = 1.0 / (len(self.observed) + 1)
        whole = 1.0 + self.count * little
        observed = self.observed[block]
        kernels = min(block.stop, len(self.observed) + 1) - block.start
        factors = np.full((self.count, kernels), math.log(little / whole))
        factors[observed, np.arange(len(observed))] = math.log((1.0 + little) / whole)
        factors[:, len(observed) :] = -math.log(self.count)  # the prior
        return _one_hot(np.arange(self.count), values), factors, 0.0


@dataclass(frozen=True)
class _Gaussians:
    """Gaussians around what was observed, cut at the ends of the range, which is the unit of everything here."""

    low: float  # of the range, in the parameter's own unit or its logarithm
    width: float
    log: bool
    step: float  # 0 where there is a continuum
    centers: Floats  # 0 … 1, as the sigmas
    sigmas: Floats

    @classmethod
    def around(cls, one: FloatDistribution | IntDistribution, observed: Floats) -> _Gaussians:
        half = (one.step or 0) / 2
        low, high = one.low - half, one.high + half
        if one.log:
            low, high, observed = math.log(low), math.log(high), np.log(observed)
        width = high - low
        return cls(low, width, one.log, float(one.step or 0), (np.append(observed, low + width / 2) - low) / width,
                   np.append(_widths(observed, low, high), width) / width)  # fmt: skip

    def _place(self, values: Floats) -> Floats:
        return ((np.log(values) if self.log else values) - self.low) / self.width

    def terms(self, values: Floats, block: slice) -> _Terms:
        from scipy.special import ndtr  # a tenth of a second that studies of other samplers need not wait for

        centers, sigmas = self.centers[block], self.sigmas[block]
        inside = np.log(ndtr((1.0 - centers) / sigmas) - ndtr(-centers / sigmas))
        if not self.step:
            places = self._place(values)
            steep = sigmas**-2
            factors = np.stack((-0.5 * steep, steep * centers))
            return np.stack((places**2, places)), factors, -0.5 * steep * centers**2 - np.log(sigmas) - inside
        different = np.unique(values)
        begin, end = self._place(different - self.step / 2), self._place(different + self.step / 2)
        # Of values in steps many are the same, and so are most of their deviations: each pair is looked at once.
        pairs, of = np.unique(centers + 1j * sigmas, return_inverse=True)
        masses = _log_mass((begin[:, None] - pairs.real) / pairs.imag, (end[:, None] - pairs.real) / pairs.imag)
        return _one_hot(different, values), masses[:, of], -inside


def _kernel(one: BaseDistribution, observed: Floats) -> _Categories | _Gaussians:
    if isinstance(one, CategoricalDistribution):
        return _Categories(len(one.choices), observed.astype(np.intp))
    assert isinstance(one, FloatDistribution | IntDistribution)
    return _Gaussians.around(one, observed)


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


def _log_mass(begin: Floats, end: Floats) -> Floats:
    """Logarithm of a standard Gaussian's mass between the two, far out as well."""
    from scipy.special import log_ndtr

    flip = begin + end > 0  # the left tail is the accurate one
    low, high = np.where(flip, -end, begin), np.where(flip, -begin, end)
    upper = log_ndtr(high)
    found: Floats = upper + np.log1p(-np.exp(log_ndtr(low) - upper))
    return found
