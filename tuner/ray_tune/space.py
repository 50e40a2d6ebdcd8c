"""A search space in Ray Tune's words, and an assignment of Ray Tune's in ours.

Knows the spec and Tune's domains; must never know trials or how anything is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune

from tuner.events import Value
from tuner.search_spaces import Choice, Float, Int
from tuner.spec import StudySpec

_LENGTHS = ("epochs", "early_stopping")  # of a trial: a population is compared at equal epochs


def read(study: StudySpec | str | Path) -> StudySpec:
    """A study, or the one in a file. Raises SpecError with every mistake, TypeError for anything else."""
    if isinstance(study, str | Path):
        return StudySpec.read(study)
    if not isinstance(study, StudySpec):
        raise TypeError(f"expected a study file's path or a StudySpec, got {type(study).__name__}")
    return study


def param_space(study: StudySpec | str | Path) -> dict[str, Any]:
    """The study's search space for `ray.tune.Tuner(param_space=…)`: every parameter, also those with a condition.

    Tune has no conditions that its searchers understand: all are drawn, and `trainable` drops those that are inactive.
    Raises SpecError with every mistake of the study file.
    """
    return {name: domain(parameter) for name, parameter in read(study).space.parameters.items()}


def domain(parameter: Float | Int | Choice) -> Any:
    """One parameter as a domain. Tune's integers leave out the top where ours have it, its steps count from zero."""
    if isinstance(parameter, Choice) or parameter.count == 1:
        return tune.choice(parameter.values())
    low, high, step = parameter.low, parameter.high, parameter.step
    if step is not None and step != 1 and round(low / step, 9) % 1:
        return tune.choice(parameter.values())
    if isinstance(parameter, Int):
        if step is not None and step != 1:
            return tune.qrandint(parameter.low, parameter.high, int(step))
        return (tune.lograndint if parameter.log else tune.randint)(parameter.low, parameter.high + 1)
    if step is not None:
        return tune.quniform(low, high, step)
    return (tune.loguniform if parameter.log else tune.uniform)(low, high)


def mutations(spec: StudySpec) -> dict[str, Any]:
    """What a population may change while its networks train: searched numbers that change no shape and no length."""
    found: dict[str, Any] = {}
    for name, parameter in spec.space.parameters.items():
        if spec.is_structural(name) or name in _LENGTHS or parameter.count == 1:
            continue
        if not isinstance(parameter, Choice):
            found[name] = domain(parameter)
        elif all(isinstance(value, int | float) and not isinstance(value, bool) for value in parameter.values_):
            found[name] = list(parameter.values_)
    return found


def settled(spec: StudySpec, config: Mapping[str, Any]) -> dict[str, Value]:
    """The active parameters of a Tune trial's config, each a legal value of its own type.

    Raises ValueError for what no choice has.
    """
    values: dict[str, Value] = {}
    for name, parameter in spec.space.parameters.items():
        if name in config and spec.space.active(name, values):
            values[name] = parameter.fit(config[name])
    return values
