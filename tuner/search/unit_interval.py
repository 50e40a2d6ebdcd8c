"""Parameters as coordinates: every value has a place between 0 and 1, and every place a value.

Equal stretches hold equally many values, of a logarithmic range equal ratios. Knows the kinds of parameters; must
never know who draws the places.
"""

from __future__ import annotations

import math

import numpy as np

from tuner.events import Value
from tuner.search_spaces import Choice, Float, Int


def value_at(parameter: Float | Int | Choice, place: float) -> Value:
    """The value at a place from 0 to 1."""
    if isinstance(parameter, Choice) or (parameter.count is not None and not parameter.log):
        assert parameter.count is not None
        return parameter.nth(min(int(place * parameter.count), parameter.count - 1))
    low, high = _ends(parameter)
    if parameter.log:
        return parameter.fit(math.exp(math.log(low) + place * (math.log(high) - math.log(low))))
    return parameter.fit(low + place * (high - low))


def place_of(parameter: Float | Int, value: Value) -> float:
    """The place of a value; of one that shares a stretch with none other, the middle of it."""
    number = float(value)
    if parameter.count is not None and not parameter.log:
        step = parameter.step or 1
        return (round((number - parameter.low) / step) + 0.5) / parameter.count
    low, high = _ends(parameter)
    if parameter.log:
        return (math.log(number) - math.log(low)) / (math.log(high) - math.log(low))
    return (number - low) / (high - low)


def _ends(parameter: Float | Int) -> tuple[float, float]:
    """The ends of the range; of integers half of one further out, so that the outer ones have as much room."""
    room = 0.5 if isinstance(parameter, Int) else 0.0
    return parameter.low - room, parameter.high + room


def drawn(parameter: Float | Int | Choice, rng: np.random.RandomState) -> Value:
    """A uniform draw: the very value that Optuna's RandomSampler has for a generator in the same state.

    A choice has a draw for each of its values, of which the highest wins.
    """
    if isinstance(parameter, Choice):
        return parameter.nth(int(rng.uniform(size=parameter.count).argmax()))
    half = (parameter.step or (1 if isinstance(parameter, Int) else 0)) / 2
    if parameter.log:
        at = rng.uniform(math.log(parameter.low - half), math.log(parameter.high + half))
        return parameter.fit(math.exp(at))
    return parameter.fit(rng.uniform(parameter.low - half, parameter.high + half))
