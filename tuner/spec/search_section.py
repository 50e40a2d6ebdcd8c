"""The keys of `search`: objectives, samplers, pruners, and what each of these needs of a study.

Knows pydantic and each key by itself; what needs two sections or a search space is checked in `tuner.spec.checks`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

MOST_TRIALS = 1_000_000


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Objective(Section):
    """What the search makes as large or as small as it can; of several the first decides which epoch counts."""

    metric: str
    """val/loss, val/accuracy, val/f1, … for classes; val/loss, val/rmse, val/mae, val/r2 for numbers; train/loss"""
    goal: Literal["maximize", "minimize"]
    """whether more or less of the metric is better"""


class Sampler(Section):
    """What a sampler needs of a study, beside its keys."""

    finite: ClassVar[bool] = False  # every point of the space is tried: there must be an end to them
    numbers: ClassVar[bool] = False  # it moves numbers that every trial has
    several: ClassVar[bool] = True  # it takes several objectives
    most_trials: ClassVar[int | None] = None  # from which on it is too slow to choose
    random_first: ClassVar[str | None] = None  # the key that says how many trials are drawn before it learns


class Tpe(Sampler):
    """Tree-structured Parzen estimator; the first `startup` trials are random. Bergstra et al. 2011."""

    kind: Literal["tpe"] = "tpe"
    """tpe learns from the trials that have ended"""
    startup: Annotated[int, Field(ge=1, le=MOST_TRIALS)] = 10
    """trials drawn at random before it learns"""


class Random(Sampler):
    """Every trial by itself."""

    kind: Literal["random"]
    """random draws every trial by itself"""


class Grid(Sampler):
    """Every point of a finite space, in an order shuffled by the seed."""

    finite: ClassVar[bool] = True

    kind: Literal["grid"]
    """grid takes every point of a finite space"""


class Qmc(Sampler):
    """A scrambled Sobol sequence: covers the space more evenly than chance."""

    kind: Literal["qmc"]
    """qmc covers the space more evenly than chance"""


class Gp(Sampler):
    """A Gaussian process over what every trial has; the rest, and the first `startup` trials, are random."""

    most_trials: ClassVar[int | None] = 500  # of a thousand seconds, where TPE takes a hundred
    random_first: ClassVar[str | None] = "startup"

    kind: Literal["gp"]
    """gp learns most from few trials, and takes seconds for each of many"""
    startup: Annotated[int, Field(ge=1, le=MOST_TRIALS)] = 10
    """trials drawn at random before it learns"""


class Cmaes(Sampler):
    """Covariance matrix adaptation over the numbers that every trial has; the rest is random. Hansen 2016."""

    numbers: ClassVar[bool] = True
    several: ClassVar[bool] = False

    kind: Literal["cmaes"]
    """cmaes moves a cloud of numbers towards the best"""


class Nsga2(Sampler):
    """A genetic algorithm for one objective or several: parents cross and mutate. Deb et al. 2002."""

    random_first: ClassVar[str | None] = "population"

    kind: Literal["nsga2"]
    """nsga2 crosses the best trials of the generations before"""
    population: Annotated[int, Field(ge=2, le=10_000)] = 16
    """trials in a generation"""


class Pruner(Section):
    """What a pruner means to a study, beside its keys."""

    first: ClassVar[tuple[str, int] | None] = None  # its key and what is added to it: the first epoch that it prunes at
    scheduler: ClassVar[str] = "median"  # of Ray Tune, the one that is most like it


class NoPruner(Pruner):
    """Every trial is trained to its end."""

    kind: Literal["none"] = "none"
    """none stops no trial"""


class Median(Pruner):
    """Stops a trial that is below the median of the earlier ones at the same epoch."""

    first: ClassVar[tuple[str, int] | None] = ("min_epochs", 0)

    kind: Literal["median"]
    """median stops a trial that is behind the others at the same epoch"""
    min_epochs: Annotated[int, Field(ge=1, le=100_000)] = 1
    """epochs that every trial is given"""
    startup: Annotated[int, Field(ge=1, le=MOST_TRIALS)] = 5
    """trials that must have completed before any is stopped"""


class Asha(Pruner):
    """Asynchronous successive halving: 1 in `reduction` goes on at each rung. Li et al. 2018."""

    first: ClassVar[tuple[str, int] | None] = ("min_epochs", 0)
    scheduler: ClassVar[str] = "asha"

    kind: Literal["asha"]
    """asha lets 1 in `reduction` go on at each rung"""
    min_epochs: Annotated[int, Field(ge=1, le=100_000)] = 1
    """the first rung; the next are at `reduction` times as many epochs each"""
    reduction: Annotated[int, Field(ge=2, le=100_000)] = 3
    """reduction factor: keeps 1 of N per rung"""


class Hyperband(Pruner):
    """Successive halving from several first rungs, a share of the trials each. Li et al. 2018."""

    first: ClassVar[tuple[str, int] | None] = ("min_epochs", 0)
    scheduler: ClassVar[str] = "hyperband"

    kind: Literal["hyperband"]
    """hyperband is asha from several first rungs, so that late bloomers have their chance"""
    min_epochs: Annotated[int, Field(ge=1, le=100_000)] = 1
    """the first rung of the first bracket; the next bracket's is `reduction` times as late"""
    reduction: Annotated[int, Field(ge=2, le=100_000)] = 3
    """reduction factor: keeps 1 of N per rung"""


class Patient(Pruner):
    """Stops a trial, or lets `pruner` stop it, only where there was no improvement for more than `patience` epochs."""

    first: ClassVar[tuple[str, int] | None] = ("patience", 2)

    kind: Literal["patient"]
    """patient waits for a trial to improve"""
    patience: Annotated[int, Field(ge=0, le=100_000)]
    """epochs without an improvement that are forgiven"""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """how much worse than the best before is still forgiven"""
    pruner: Annotated[Median | Asha | Hyperband, Field(discriminator="kind")] | None = None
    """who decides then; nobody: the trial is stopped"""


def _how_many(value: Any) -> str:
    return "several" if isinstance(value, list) else "one"


class SearchSection(Section):
    """What is searched, for what, how, and how often."""

    space: str | dict[str, Any]
    """a space of ours by name, a YAML file, or parameters by name; `include: cnn` takes one in and overrides parts"""
    objective: Annotated[
        Annotated[Objective, Tag("one")] | Annotated[list[Objective], Field(min_length=1), Tag("several")],
        Discriminator(_how_many),
    ]
    """what the search makes as large or as small as it can; several as a list, the first deciding which epoch counts"""
    sampler: Annotated[Tpe | Random | Grid | Qmc | Gp | Cmaes | Nsga2, Field(discriminator="kind")] = Tpe()
    """who chooses the next trial"""
    pruner: Annotated[NoPruner | Median | Asha | Hyperband | Patient, Field(discriminator="kind")] = NoPruner()
    """who stops trials early"""
    trials: Annotated[int, Field(ge=1, le=MOST_TRIALS)]
    """how many trials in all; `--trials` extends a finished study"""
    start_with: list[dict[str, Any]] = []
    """assignments to try first; what they leave out is sampled"""


def kinds(annotation: Any) -> dict[str, Any]:
    """The sections of a union like `search.sampler`, by the kind that picks each, in their order."""
    sections = [one for one in get_args(annotation) if isinstance(one, type) and issubclass(one, BaseModel)]
    return {get_args(one.model_fields["kind"].annotation)[0]: one for one in sections}


SAMPLERS: dict[str, type[Sampler]] = kinds(SearchSection.model_fields["sampler"].annotation)
PRUNERS: dict[str, type[Pruner]] = kinds(SearchSection.model_fields["pruner"].annotation)
