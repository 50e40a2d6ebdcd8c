"""What one hyperparameter may be: a float or an int between bounds, or one of several values.

Knows bounds, logarithms, steps and finite grids; must never know which hyperparameters exist, how a
value is sampled, or which library samples it. `low`, `high`, `log` and `step` mean what they mean in
Optuna (both bounds included), except that a step must divide the range.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tuner.search_spaces.document import Keys, Problem, describe, dotted, suggest

Value = bool | int | float | str
Mistake = tuple[Keys, str]  # where inside the mapping, and what is wrong

_KEYS = ("type", "values", "low", "high", "log", "step", "when")  # in the order that people write them
_LARGEST = 2**53  # samplers compute in float64, which holds every integer up to here


class SpaceError(ValueError):
    """A search space that makes no sense.

    `problems` holds every mistake as (path inside the mapping, message); `foreign` those inside the
    files that the mapping includes, with file, line and column.
    """

    def __init__(self, problems: Iterable[Mistake], foreign: Iterable[Problem] = ()) -> None:
        self.problems: tuple[Mistake, ...] = tuple(problems)
        self.foreign: tuple[Problem, ...] = tuple(foreign)
        lines = (": ".join(filter(None, (dotted(path), text))) for path, text in self.problems)
        super().__init__("\n".join((*lines, *map(str, self.foreign))))


def _scalars(value: object, what: str) -> tuple[Value, ...]:
    """A list of plain finite values, all different, as a tuple. Raises SpaceError with every mistake in it."""
    if not isinstance(value, (list, tuple)):
        raise SpaceError([((), f"expected a list of {what}, got {describe(value)}; write [a, b]")])
    if not value:
        raise SpaceError([((), f"expected at least one of the {what}, got an empty list")])
    problems: list[Mistake] = []
    for index, item in enumerate(value):
        if not isinstance(item, (bool, int, float, str)):
            problems.append(((index,), f"expected a number, text, true or false, got {describe(item)}"))
        elif isinstance(item, float) and not math.isfinite(item):
            problems.append(((index,), f"expected a finite number, got {describe(item)}"))
        elif item in value[:index]:
            first = describe(value[list(value).index(item)])
            problems.append(((index,), f"expected each value once, got {describe(item)} after {first}; remove one"))
    if problems:
        raise SpaceError(problems)
    return tuple(value)


def _conditions(value: object) -> object:
    """`when: {optimizer: sgd}` and `when: {optimizer: [sgd, rmsprop]}` in one form."""
    if value is None:
        return None
    if not isinstance(value, Mapping) or not value:
        raise SpaceError([((), f"expected `when: {{parameter: [values]}}`, got {describe(value)}")])
    problems: list[Mistake] = []
    found: dict[object, tuple[Value, ...]] = {}
    for parent, values in value.items():
        try:
            found[parent] = _scalars(values if isinstance(values, (list, tuple)) else [values], "values")
        except SpaceError as error:
            problems += [((parent, *path), text) for path, text in error.problems]
    if problems:
        raise SpaceError(problems)
    return found


class _Parameter(BaseModel):
    """What all three kinds share. `when` names the values that other parameters must have for this one to exist."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, populate_by_name=True)

    when: Annotated[dict[str, tuple[Value, ...]] | None, BeforeValidator(_conditions)] = None

    @property
    @abstractmethod
    def count(self) -> int | None:
        """How many values there are, None where there is a continuum."""

    @abstractmethod
    def nth(self, index: int) -> Value:
        """The value at that place of the finite grid, from 0."""

    @abstractmethod
    def contains(self, value: object) -> bool:
        """Whether this parameter may take `value`; an int is a float, a bool is neither."""

    def values(self) -> list[Value]:
        """The finite grid in ascending order, a choice's values as written. Raises ValueError for a continuum."""
        if self.count is None:
            raise ValueError("a float without a step has no list of values; give it a step")
        return [self.nth(index) for index in range(self.count)]

    @abstractmethod
    def fit(self, value: Any) -> Value:
        """The legal value that `value` stands for: what a sampler computed, freed of rounding; of the right type."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON that `SearchSpace.from_dict` reads; defaults are left out."""
        written = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        written["type"] = next(kind for kind, one in KINDS.items() if isinstance(self, one))
        return {key: written[key] for key in _KEYS if key in written}


class _Range(_Parameter):
    """What floats and ints share."""

    log: bool = False

    @abstractmethod
    def _bounds(self) -> tuple[float, float, float | None]:
        """Low, high and step."""

    @model_validator(mode="after")
    def _consistent(self) -> _Range:
        low, high, step = self._bounds()
        problems: list[Mistake] = []
        if low > high:
            problems.append(
                (("low",), f"expected low ≤ high, got low {low:.12g} above high {high:.12g}; exchange them")
            )
        if self.log and low <= 0:
            remedy = "raise low or remove log"
            problems.append((("low",), f"expected low above 0 under log: true, got {low:.12g}; {remedy}"))
        if self.log and step is not None:
            problems.append((("step",), "expected either log or step, got both; remove one of them"))
        if step is not None and step <= 0:
            problems.append((("step",), f"expected a step above 0, got {step:.12g}"))
        elif step is not None and low < high:
            problems += _fits(low, high, step)
        if not math.isfinite(high - low):
            problems.append((("high",), "expected a range that a computer can hold, got high − low infinite"))
        if problems:
            raise SpaceError(problems)
        return self


def _exact(number: float) -> Decimal:
    """The number as a person wrote it: 0.1 is one tenth."""
    return Decimal(repr(number))


def _fits(low: float, high: float, step: float) -> list[Mistake]:
    if step > high - low and _exact(step) > _exact(high) - _exact(low):
        return [(("step",), f"expected a step of at most high − low = {high - low:.12g}, got {step:.12g}")]
    steps = (_exact(high) - _exact(low)) / _exact(step)
    if steps == int(steps):
        return []
    nearest = float(_exact(low) + int(steps) * _exact(step))
    remedy = f"with high: {nearest:.12g} it does"
    return [(("step",), f"expected a step that divides high − low, got {step:.12g} for {high - low:.12g}; {remedy}")]


class Float(_Range):
    """A number from `low` to `high`, uniform, or uniform in its logarithm, or one of low, low + step, …, high."""

    type: Literal["float"] = "float"
    low: float
    high: float
    step: float | None = None

    def _bounds(self) -> tuple[float, float, float | None]:
        return self.low, self.high, self.step

    @property
    def low_value(self) -> float:
        return self.low

    @property
    def high_value(self) -> float:
        return self.high

    @property
    def count(self) -> int | None:
        if self.low == self.high:
            return 1
        if self.step is None:
            return None
        return int((_exact(self.high) - _exact(self.low)) / _exact(self.step)) + 1

    def nth(self, index: int) -> float:
        return self.low if self.step is None else float(_exact(self.low) + index * _exact(self.step))

    def contains(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            return False
        if self.step is None or self.low == self.high:
            return True
        return (_exact(float(value)) - _exact(self.low)) % _exact(self.step) == 0

    def fit(self, value: Any) -> float:
        if self.count is None:
            return float(min(max(value, self.low), self.high))
        if self.step is None:
            return self.low
        return self.nth(min(max(round((value - self.low) / self.step), 0), self.count - 1))


class Int(_Range):
    """A whole number from `low` to `high`, both included, in steps of `step` (1)."""

    type: Literal["int"] = "int"
    low: Annotated[int, Field(ge=-_LARGEST, le=_LARGEST)]
    high: Annotated[int, Field(ge=-_LARGEST, le=_LARGEST)]
    step: int | None = None

    def _bounds(self) -> tuple[float, float, float | None]:
        return self.low, self.high, self.step

    @property
    def low_value(self) -> int:
        return self.low

    @property
    def high_value(self) -> int:
        return self.high

    @property
    def count(self) -> int:
        return (self.high - self.low) // (self.step or 1) + 1

    def nth(self, index: int) -> int:
        return self.low + index * (self.step or 1)

    def contains(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int):
            return False
        return self.low <= value <= self.high and (value - self.low) % (self.step or 1) == 0

    def fit(self, value: Any) -> int:
        return self.nth(min(max(round((value - self.low) / (self.step or 1)), 0), self.count - 1))


class Choice(_Parameter):
    """One of `values`: numbers, text, true or false, without an order between them."""

    type: Literal["choice"] = "choice"
    values_: Annotated[tuple[Value, ...], BeforeValidator(lambda given: _scalars(given, "values"))] = Field(
        alias="values"
    )

    @property
    def _ordered(self) -> tuple[Value, ...]:
        numbers = [v for v in self.values_ if isinstance(v, (int, float)) and not isinstance(v, bool)]
        return tuple(sorted(numbers)) if len(numbers) == len(self.values_) else self.values_

    @property
    def low_value(self) -> Value:
        """The smallest value where all are numbers, else the first."""
        return self._ordered[0]

    @property
    def high_value(self) -> Value:
        """The largest value where all are numbers, else the last."""
        return self._ordered[-1]

    @property
    def count(self) -> int:
        return len(self.values_)

    def nth(self, index: int) -> Value:
        return self.values_[index]

    def contains(self, value: object) -> bool:
        return any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in self.values_)

    def fit(self, value: Any) -> Value:
        return self.values_[self.values_.index(value)]


Parameter = Annotated[Float | Int | Choice, Field(discriminator="type")]
KINDS: dict[str, type[Float | Int | Choice]] = {"float": Float, "int": Int, "choice": Choice}

_EXPECTED = {  # pydantic's name of a mistake → what was expected
    "float_type": "a number",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "bool_type": "true or false",
    "finite_number": "a finite number",
    "greater_than_equal": f"an integer of at least −{_LARGEST}",
    "less_than_equal": f"an integer of at most {_LARGEST}",
    "string_type": "text",
    "invalid_key": "text as a parameter's name",
}


def parse(definition: object) -> Float | Int | Choice:
    """A parameter from what a file says of it. Raises SpaceError with every mistake."""
    if not isinstance(definition, Mapping):
        remedy = "write {type: float, low: 0, high: 1} or {type: choice, values: [a, b]}"
        raise SpaceError([((), f"expected a mapping with type, got {describe(definition)}; {remedy}")])
    kind = definition.get("type")
    if not isinstance(kind, str) or kind not in KINDS:
        got = f"got {describe(kind)}{suggest(kind, KINDS)}" if "type" in definition else "got none"
        raise SpaceError([(("type",), f"expected type float, int or choice, {got}")])
    try:
        return KINDS[kind].model_validate(dict(definition))
    except ValidationError as error:
        raise SpaceError(_mistakes(error, KINDS[kind])) from None


def _mistakes(error: ValidationError, kind: type[BaseModel]) -> list[Mistake]:
    """Pydantic's list in our words."""
    fields = {field.alias or name for name, field in kind.model_fields.items()}
    known = [key for key in _KEYS if key in fields]
    found: list[Mistake] = []
    for item in error.errors():
        path, given = item["loc"], item["input"]
        own = item.get("ctx", {}).get("error")
        if isinstance(own, SpaceError):
            found += [((*path, *inner), text) for inner, text in own.problems]
        elif item["type"] == "missing":
            found.append((path, f"expected a value for {path[-1]}, got none; add it"))
        elif item["type"] == "extra_forbidden":
            allowed = ", ".join(known)
            found.append((path, f"expected one of {allowed}, got '{path[-1]}'{suggest(path[-1], known)}"))
        else:
            expected = _EXPECTED.get(item["type"], item["msg"])
            found.append((path, f"expected {expected}, got {describe(given)}{_remedy(given, item['type'])}"))
    return found


def _remedy(given: object, kind: str) -> str:
    """What to write instead, where that is plain to see."""
    if kind in ("float_type", "int_type") and isinstance(given, str):
        try:
            return f"; write {float(given):.12g} without quotes"
        except ValueError:
            return ""
    if kind == "int_from_float":
        return "; round it or write type: float"
    return "; remove the line or give a value" if given is None else ""
