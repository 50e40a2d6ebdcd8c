"""What a value written in a study file must be, told for a person: expected, got, remedy.

Knows the rules of hyperparameters (`models.interface.Setting`) and the parameters of a search space;
must never know files, sections of a study, or how anything is trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from tuner.models.interface import Hyperparameter, Setting
from tuner.search_spaces.document import describe, suggest
from tuner.search_spaces.parameters import Choice, Float, Int

_TYPES: dict[type, str] = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
_TRUE, _FALSE = ("yes", "on", "y", "true"), ("no", "off", "n", "false")


def listed(names: Iterable[object]) -> str:
    """`a, b or c`."""
    *rest, last = map(str, names)
    return f"{', '.join(rest)} or {last}" if rest else last


def remedy(value: object, wanted: type | None) -> str:
    """`; write 10 without quotes` and the like, where a value of the wrong type shows what was meant, else empty."""
    if value is None:
        return "; give a value or remove the line"
    if wanted in (int, float) and isinstance(value, str):
        number = _number(value)
        if number is not None and (wanted is float or number == int(number)):
            written = f"{number:.12g}"
            return f"; write {written} without quotes" if written == value.strip() else f"; write {written}"
    if wanted is int and isinstance(value, float) and math.isfinite(value) and value == int(value):
        return f"; write {int(value)}"
    if wanted is bool and isinstance(value, str) and value.lower() in (*_TRUE, *_FALSE):
        return f"; write {'true' if value.lower() in _TRUE else 'false'}"
    if wanted is bool and isinstance(value, int) and value in (0, 1):
        return f"; write {'true' if value else 'false'}"
    if wanted is str and isinstance(value, (bool, int, float)):
        return f'; write "{describe(value).rpartition(" ")[2]}" in quotes'
    if isinstance(value, list):
        return "; write one value without brackets"
    return ""


def storage_problem(value: object) -> str | None:
    """What is wrong with a storage's address as it is written, None where nothing is. Never shows a password."""
    if value is None:
        return None
    expected, got, hint = "expected an absolute folder or an address such as s3://bucket/folder", describe(value), ""
    if isinstance(value, str):
        protocol, colon, rest = value.partition("://")
        user = rest.partition("/")[0].rpartition("@")[0]
        if colon and (":" in user or "?" in rest or "#" in rest):
            got = "an address with a password or options in it"
            hint = "; remove them: credentials are read from each node's environment"
        elif "::" in value:
            hint = "; write one address without ::"
        elif (colon and protocol and rest) or (not colon and value.startswith("/")):
            return None
        elif not colon:
            hint = "; begin it with /"
    return f"{expected}, got {got}{hint}"


def _number(text: str) -> float | None:
    try:
        number = float(text.replace("_", "").replace(",", "").replace(" ", ""))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def told(rule: Setting, wanted: type) -> str:
    """What a rule allows: `an integer from 1 to 4,096`, `relu, sigmoid or tanh`."""
    if rule.choices is not None:
        return listed(rule.choices)
    return f"{_TYPES[wanted]}{bounds(rule.low, rule.high, rule.above, rule.below)}"


def bounds(low: float | None, high: float | None, above: float | None, below: float | None) -> str:
    """` from 1 to 4,096`, ` above 0 and below 1`; empty where there is no bound."""
    if low is not None and high is not None:
        return f" from {_shown(low)} to {_shown(high)}"
    pairs = (("of at least", low), ("above", above), ("at most", high), ("below", below))
    limits = [f"{word} {_shown(bound)}" for word, bound in pairs if bound is not None]
    return f" {' and '.join(limits)}" if limits else ""


def _shown(bound: float) -> str:
    return f"{int(bound):,}" if bound == int(bound) else f"{bound:.12g}"


def _purpose(rule: Setting) -> str:
    return f" ({rule.help})" if rule.help else ""


def mistake(hyperparameter: Hyperparameter, value: object) -> str | None:
    """What is wrong with a value for a hyperparameter, None where it fits."""
    wanted, rule = hyperparameter.type, hyperparameter.rule
    if value is None and hyperparameter.optional:
        return None
    expected = told(rule, wanted) + (" (or null)" if hyperparameter.optional else "")
    right = isinstance(value, wanted) if wanted is not float else isinstance(value, (int, float))
    if wanted is not bool and isinstance(value, bool):
        right = False
    if not right:
        hint = remedy(value, wanted)
        if rule.choices is not None and isinstance(value, str):
            hint = suggest(value, rule.choices)
        return f"expected {expected}{_purpose(rule)}, got {describe(value)}{hint}"
    if rule.choices is not None and value not in rule.choices:
        return f"expected {expected}{_purpose(rule)}, got {describe(value)}{suggest(value, rule.choices)}"
    if isinstance(value, (int, float)) and not isinstance(value, bool) and not _within(rule, value):
        return f"expected {expected}{_purpose(rule)}, got {describe(value)}"
    return None


def _within(rule: Setting, value: float) -> bool:
    return (
        math.isfinite(value)
        and (rule.low is None or value >= rule.low)
        and (rule.above is None or value > rule.above)
        and (rule.high is None or value <= rule.high)
        and (rule.below is None or value < rule.below)
    )


def misfits(hyperparameter: Hyperparameter, parameter: Float | Int | Choice) -> list[tuple[tuple[str | int, ...], str]]:
    """What is wrong with a search-space parameter for a hyperparameter: (path inside the parameter, message)."""
    if isinstance(parameter, Choice):
        return [
            (("values", index), message)
            for index, value in enumerate(parameter.values_)
            if (message := mistake(hyperparameter, value)) is not None
        ]
    wanted, rule = hyperparameter.type, hyperparameter.rule
    kind = "int" if isinstance(parameter, Int) else "float"
    if wanted not in (int, float):
        values = ", ".join(rule.choices) if rule.choices is not None else "true, false"
        return [
            (
                ("type",),
                f"expected values of {_TYPES[wanted]}, got type {kind}; use {{type: choice, values: [{values}]}}",
            )
        ]
    if wanted is int and isinstance(parameter, Float):
        return [(("type",), f"expected integers{_purpose(rule)}, got type float; write type: int")]
    return [
        ((end,), message)
        for end, value in (("low", parameter.low), ("high", parameter.high))
        if (message := mistake(hyperparameter, value)) is not None
    ]


def cast(hyperparameter: Hyperparameter, value: Any) -> Any:
    """A legal value in the hyperparameter's own type: an integer written for a number becomes a float."""
    return value if value is None else hyperparameter.type(value)
