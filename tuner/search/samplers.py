"""Who chooses the next trial: each a function of the study's seed, the trial's number and what has ended.

Knows the space, Optuna's samplers and the memory of trials; must never know pruners. No sampler keeps a state: what
one holds between two draws is worked out from the memory, and would be the same if it were worked out anew.
"""

from __future__ import annotations

import contextlib
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import GPSampler, NSGAIISampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from tuner.events import Value
from tuner.search import tpe
from tuner.search.trials import Memory, bare, pending_trial, quiet
from tuner.search.unit_interval import drawn, place_of, value_at
from tuner.search_spaces import Choice, Float, Int, SearchSpace
from tuner.seeds import derive

_AHEAD = 1024  # the most trials asked at once by samplers that do not learn: enough to fill any cohort
_AHEAD_OF_GP = 8


class Sampler(Protocol):
    """A rule for the next trial. `piece` draws take a few milliseconds, or there is one that takes longer."""

    piece: int

    def window(self, asked: int, /) -> int:
        """How many trials to ask at once when so many have been asked."""

    def draw(self, number: int, /) -> Mapping[str, Value]:
        """What it chooses for a trial; what it leaves out is drawn uniformly, what is inactive is not heeded."""


@dataclass(frozen=True)
class Facts:
    """What a sampler may know: `given` trials come from the study file, and `alone` none trains with another."""

    space: SearchSpace
    distributions: Mapping[str, BaseDistribution]  # of the parameters that have more than one value
    memory: Memory
    seed: int
    trials: int
    given: int
    alone: bool
    rng: np.random.RandomState = field(default_factory=np.random.RandomState)  # seeded anew before each use

    def uniform(self, number: int, name: str) -> Value:
        """A draw that depends on seed, number and name alone."""
        self.rng.seed(derive(self.seed, "sample", number, name))
        return drawn(self.space.parameters[name], self.rng)

    def fitted(self, drawn: Mapping[str, Any]) -> dict[str, Value]:
        """What a sampler computed, as legal values."""
        return {name: self.space.parameters[name].fit(value) for name, value in drawn.items()}

    def always(self) -> list[str]:
        """The parameters that every trial has and that have more than one value, sorted."""
        return sorted(name for name in self.distributions if not self.space.parameters[name].when)


class Random:
    """Every trial by itself."""

    piece = 32

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def window(self, _asked: int) -> int:
        return _AHEAD

    def draw(self, _number: int, /) -> Mapping[str, Value]:
        return {}


class Grid(Random):
    """Every point of a finite space once, in an order shuffled by the seed."""

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        points = facts.space.size()
        if points is None:
            raise ValueError("a grid needs a finite space; give every float a step")
        self.points = points

    def draw(self, number: int) -> Mapping[str, Value]:
        if number < self._facts.given:
            return {}
        return self._facts.space.point(shuffled(number - self._facts.given, self.points, self._facts.seed))


class Qmc(Random):
    """The Sobol sequence (Sobol 1967, scrambled as by Matousek 1998), a coordinate for every parameter.

    Ours over scipy's, because Optuna's counts its draws in the study and leaves conditional parameters out. They keep
    their coordinate here: where it is active, the values of a parameter are as even as the others allow.
    """

    def draw(self, number: int) -> Mapping[str, Value]:
        from scipy.stats import qmc  # half a second that other samplers need not wait for

        facts = self._facts
        if number < facts.given or not facts.distributions:
            return {}
        sequence = qmc.Sobol(len(facts.distributions), seed=derive(facts.seed, "sobol"))
        if number > facts.given:
            sequence.fast_forward(number - facts.given)
        places = sequence.random(1)[0]
        names = sorted(facts.distributions)
        return {name: value_at(facts.space.parameters[name], at) for name, at in zip(names, places, strict=True)}


class _Startup(ABC):
    """Random at first: learns from trial `startup` on, once half as many have ended.

    Half is enough to learn from: what is asked ahead cannot wait for the last of them to end. It asks the rest of its
    startup at once and then 2·√trials: wide enough for equal structures to meet, with √trials/2 moments to learn from
    what the window before has shown (docs/decisions/cohorts.md).
    """

    piece = 4

    def __init__(self, facts: Facts, *, startup: int = 10) -> None:
        self._facts, self._startup = facts, startup
        self._ahead = 1 if facts.alone else max(2, math.isqrt(4 * facts.trials))

    def window(self, asked: int) -> int:
        random = max(self._startup, self._facts.given) - asked
        return random if random > 0 else self._ahead

    def draw(self, number: int) -> Mapping[str, Value]:
        learns = number >= self._startup and 2 * self._facts.memory.finished >= self._startup
        return self._learnt(number) if learns else {}

    @abstractmethod
    def _learnt(self, number: int) -> Mapping[str, Value]:
        """What it chooses for a trial from those that have ended."""


class Tpe(_Startup):
    """Optuna's tree-structured Parzen estimator (Bergstra et al. 2011), parents before children.

    A group is what is active under equal conditions: Optuna's `group=True` finds the same groups,
    but from the trials so far, and draws children whose parents then leave them inactive.
    """

    def __init__(self, facts: Facts, *, startup: int = 10) -> None:
        super().__init__(facts, startup=startup)
        self._groups = groups(facts.space)
        free = [sorted(name for name in group if name in facts.distributions) for group in self._groups]
        kind = tpe.estimator()
        self._source: Callable[[int, np.random.RandomState], Any] = kind.source
        self._estimators: list[Any] = [
            kind({name: facts.distributions[name] for name in names}, facts.memory) if names else None for names in free
        ]

    def _learnt(self, number: int) -> Mapping[str, Value]:
        facts, space = self._facts, self._facts.space
        source = self._source(derive(facts.seed, "sample", number), facts.rng)
        values: dict[str, Value] = {}
        for group, estimator in zip(self._groups, self._estimators, strict=True):
            if not space.active(group[0], values):
                continue
            values |= {name: space.parameters[name].nth(0) for name in group if name not in facts.distributions}
            if estimator is not None:
                values |= facts.fitted(estimator.draw(source))
        return values


class Gp(_Startup):
    """Optuna's Gaussian process with log expected improvement, over what every trial has; the rest is drawn uniformly.

    One that was stopped counts with its best report, one that failed as the worst there is. A draw takes a second and
    more: so few are asked ahead.
    """

    piece = 1

    def window(self, asked: int) -> int:
        return min(super().window(asked), _AHEAD_OF_GP)

    def _learnt(self, number: int) -> Mapping[str, Value]:
        facts = self._facts
        free = {name: facts.distributions[name] for name in facts.always()}
        study = facts.memory.scored(free)
        if not free or not study.get_trials(deepcopy=False):
            return {}
        sampler = GPSampler(seed=derive(facts.seed, "sample", number), n_startup_trials=0)
        with _one_thread(), quiet(logging.ERROR):  # without greenlet it is a little slower, and would say so
            return facts.fitted(sampler.sample_relative(study, pending_trial(number), free))


class _Generations:
    """Trials in generations of `population` by their numbers, a generation asked at once."""

    piece = 4

    def __init__(self, facts: Facts, *, population: int) -> None:
        self._facts, self._population = facts, population

    def window(self, asked: int) -> int:
        return 1 if self._facts.alone else self._population - asked % self._population


class Nsga2(_Generations):
    """Optuna's NSGA-II (Deb et al. 2002): parents are the elite of the generations before, children cross and mutate.

    A trial's genes are all parameters of the space: those that are inactive in it have the value that a uniform draw
    gives, so that any two trials can be crossed. A trial that failed is nobody's parent.
    """

    def __init__(self, facts: Facts, *, population: int = 16) -> None:
        super().__init__(facts, population=population)
        self._study = bare(facts.memory.maximize)
        self._parents: tuple[int, dict[int, list[FrozenTrial]]] = (0, {})  # how many had ended then, by generation

    def draw(self, number: int) -> Mapping[str, Value]:
        facts, generation = self._facts, number // self._population
        ended = len(facts.memory.outcomes)
        if self._parents[0] != ended:
            self._parents = (ended, {})
        sampler = _Nsga2(self._population, derive(facts.seed, "sample", number), self._individuals, self._parents[1])
        if len(sampler.get_parent_population(self._study, generation)) < 2:
            return {}
        child = sampler.sample_relative(self._study, pending_trial(number), dict(facts.distributions))
        return facts.fitted(child)

    def _individuals(self, generation: int) -> list[FrozenTrial]:
        """The trials of a generation that have ended with a value, genes and values, by their numbers."""
        memory, found = self._facts.memory, []
        for number in range(generation * self._population, (generation + 1) * self._population):
            if (values := memory.outcomes.get(number)) is not None:
                params = memory.params[number]
                genes = {
                    n: params[n] if n in params else self._facts.uniform(number, n) for n in self._facts.distributions
                }
                frozen = create_trial(
                    state=TrialState.COMPLETE,
                    params=genes,
                    distributions=dict(self._facts.distributions),
                    values=values,
                )
                frozen.number = number
                found.append(frozen)
        return found


class _Nsga2(NSGAIISampler):
    """Optuna's sampler, told the generations and the parents that it would note in the study's attributes."""

    def __init__(
        self,
        population: int,
        seed: int,
        individuals: Callable[[int], list[FrozenTrial]],
        parents: dict[int, list[FrozenTrial]],
    ) -> None:
        super().__init__(population_size=population, seed=seed)
        self._size, self._individuals, self._known = population, individuals, parents

    def get_trial_generation(self, _study: Study, trial: FrozenTrial) -> int:
        return trial.number // self._size

    def get_population(self, _study: Study, generation: int) -> list[FrozenTrial]:
        return self._individuals(generation)

    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        for one in range(len(self._known), generation + 1):
            self._known[one] = self.select_parent(study, one) if one else []
        return self._known[generation]


class Cmaes(_Generations):
    """CMA-ES (Hansen 2016) from the centre of the numbers that every trial has; the rest is drawn uniformly.

    The `cmaes` package, which Optuna's sampler is made of, with Optuna's settings: Optuna keeps the pickled state in a
    trial's attributes, here the state is what the generations say that have ended as a whole, one after the other. A
    trial that was stopped counts with its best report, one that failed is the last of its generation.
    """

    def __init__(self, facts: Facts) -> None:
        self._names = [name for name in facts.always() if not isinstance(facts.space.parameters[name], Choice)]
        if not self._names:
            raise ValueError("cmaes needs a number that every trial has; use tpe or nsga2")
        if len(facts.memory.maximize) > 1:
            raise ValueError("cmaes has one objective; use nsga2 or tpe")
        super().__init__(facts, population=4 + math.floor(3 * math.log(len(self._names))))
        self._sign = -1.0 if facts.memory.maximize[0] else 1.0
        self._optimizer = self._begun()

    def _begun(self) -> Any:
        import numpy as np
        from cmaes import CMA

        size = len(self._names)
        cube = np.tile([0.0, 1.0], (size, 1))
        return CMA(mean=np.full(size, 0.5), sigma=1 / 6, bounds=cube, n_max_resampling=10 * size, seed=0)

    def draw(self, number: int) -> Mapping[str, Value]:
        self._learn()
        self._optimizer.reseed_rng(derive(self._facts.seed, "sample", number))
        places = self._optimizer.ask()
        return {name: value_at(self._number(name), float(at)) for name, at in zip(self._names, places, strict=True)}

    def _learn(self) -> None:
        """Tell the optimizer the generations that have ended since the last draw, as far as none is missing."""
        import numpy as np

        memory = self._facts.memory
        while True:
            first = self._optimizer.generation * self._population
            numbers = range(first, first + self._population)
            if not all(number in memory.outcomes for number in numbers):
                return
            solutions = []
            for number in numbers:
                values, params = memory.outcomes[number], memory.params[number]
                places = [place_of(self._number(name), params[name]) for name in self._names]
                solutions.append((np.array(places), math.inf if values is None else self._sign * values[0]))
            self._optimizer.tell(solutions)

    def _number(self, name: str) -> Float | Int:
        parameter = self._facts.space.parameters[name]
        assert not isinstance(parameter, Choice)
        return parameter


def build(options: Mapping[str, Any], facts: Facts) -> Sampler:
    """The sampler that a study file names. Raises KeyError for another kind, ValueError for a space it cannot do."""
    kinds: dict[str, Callable[..., Sampler]] = {
        "random": Random,
        "grid": Grid,
        "qmc": Qmc,
        "tpe": Tpe,
        "gp": Gp,
        "cmaes": Cmaes,
        "nsga2": Nsga2,
    }
    return kinds[options["kind"]](facts, **{name: value for name, value in options.items() if name != "kind"})


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Torch on one thread: the sums do not depend on how many cores there are, nor take any from the workers."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def groups(space: SearchSpace) -> list[list[str]]:
    """Parameters that are active under equal conditions, groups of parents before those of children."""
    depth: dict[str, int] = {}
    groups: dict[tuple[int, str], list[str]] = {}
    for name, parameter in space.parameters.items():
        when = parameter.when or {}
        depth[name] = 1 + max((depth[parent] for parent in when), default=-1)
        groups.setdefault((depth[name], repr(sorted(when.items()))), []).append(name)
    return [group for _, group in sorted(groups.items(), key=lambda item: item[0][0])]


def shuffled(index: int, size: int, seed: int) -> int:
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
