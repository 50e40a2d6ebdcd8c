"""Reference lists: search spaces, networks, data, samplers and pruners, each with its line of help.

Reads the registries that the rest of Tuner uses (`search_spaces`, `models.FAMILIES`, `tuner.data.built_in.BUILT_IN`,
the sections of the study file) and says nothing that does not stand there, so that an addition appears by itself.
It must never know how anything of it works.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter as Argument
from pathlib import Path
from typing import Any

from tuner import data, models, search_spaces
from tuner.data.built_in import BUILT_IN
from tuner.errors import InputError
from tuner.models.interface import Hyperparameter, hyperparameters
from tuner.search_spaces import Choice, Float, Int
from tuner.search_spaces.document import describe, suggest
from tuner.spec.search_section import PRUNERS, SAMPLERS

Row = dict[str, Any]


@dataclass(frozen=True)
class Catalogue:
    """One kind of thing: all of them by name, a row for each, and the rows that tell more of one."""

    noun: str
    items: Callable[[], Mapping[str, Any]]
    row: Callable[[str, Any], Row]
    detail: Callable[[str, Any], list[Row]]


def listing(kind: str) -> list[Row]:
    """Every item of a kind (a key of `KINDS`), a row each: its name first, its line of help last."""
    catalogue = KINDS[kind]
    return [{catalogue.noun: name, **catalogue.row(name, item)} for name, item in catalogue.items().items()]


def detail(kind: str, name: str) -> list[Row]:
    """One item in rows. Raises InputError for a name that is not there."""
    catalogue = KINDS[kind]
    items = catalogue.items()
    if name not in items:
        known = ", ".join(items)
        raise InputError(f"{kind}: expected one of {known}, got {describe(name)}{suggest(name, items)}")
    return catalogue.detail(name, items[name])


def first_sentence(text: str | None) -> str:
    """Of a docstring or a comment, on one line, with its full stop."""
    words = " ".join(inspect.cleandoc(text or "").split("\n\n")[0].split())
    head, stop, _ = words.partition(". ")
    return head + "." if stop else words


# ------------------------------------------------------------------ networks


def _model(_name: str, network: type) -> Row:
    """The class's module says in a sentence what the network is; the class itself, which shapes it takes."""
    module = inspect.getmodule(network)
    return {
        "modalities": ", ".join(getattr(network, "modalities", ())),
        "help": first_sentence(module.__doc__ if module else network.__doc__),
    }


def _hyperparameters(_name: str, network: type) -> list[Row]:
    return [_hyperparameter(one) for one in hyperparameters(network).values()]


def _hyperparameter(one: Hyperparameter) -> Row:
    return {
        "hyperparameter": one.name,
        "type": one.type.__name__,
        "default": None if one.default is Argument.empty else _written(one.default),
        "range": _range(one),
        "fusible": one.rule.fusible,
        "help": one.rule.help,
    }


def _range(one: Hyperparameter) -> str:
    """`1 to 4096`, `above 0, below 1`, `relu, gelu`; what a study file may say."""
    rule = one.rule
    if rule.choices is not None:
        return ", ".join(rule.choices)
    if rule.low is not None and rule.high is not None:
        return f"{_written(rule.low)} to {_written(rule.high)}"
    words = {"from": rule.low, "above": rule.above, "to": rule.high, "below": rule.below}
    return ", ".join(f"{word} {_written(bound)}" for word, bound in words.items() if bound is not None)


def _written(value: object) -> str:
    """A value as a study file would hold it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:.12g}" if isinstance(value, float) else str(value)


# ------------------------------------------------------------------ search spaces


def _spaces() -> dict[str, Path]:
    folder = Path(search_spaces.__file__).parent
    return {name: folder / f"{name}.yaml" for name in search_spaces.names()}


def _space(name: str, file: Path) -> Row:
    comment = file.read_text().partition("\n")[0].removeprefix("#")
    return {"parameters": len(search_spaces.load(name).parameters), "help": first_sentence(comment)}


def _parameters(name: str, _file: Path) -> list[Row]:
    return [_parameter(key, one) for key, one in search_spaces.load(name).parameters.items()]


def _parameter(name: str, one: Float | Int | Choice) -> Row:
    values = ", ".join(map(_written, one.values_)) if isinstance(one, Choice) else ""
    when = [f"{parent}: {', '.join(map(_written, wanted))}" for parent, wanted in (one.when or {}).items()]
    return {
        "parameter": name,
        "type": type(one).__name__.lower(),
        "range": values or f"{_written(one.low_value)} to {_written(one.high_value)}",
        "log": bool(getattr(one, "log", False)),
        "step": getattr(one, "step", None),
        "when": "; ".join(when) or None,
    }


# ------------------------------------------------------------------ data


def _dataset(_name: str, read: Callable[..., Any]) -> Row:
    return {"help": first_sentence(read.__doc__)}


def _described(name: str, read: Callable[..., Any]) -> list[Row]:
    """What a study would see of the data: they come along, so they are there to be looked at."""
    dataset = data.load(name)
    found = {
        "rows": sum(dataset.rows.values()),
        "modality": dataset.signature.modality,
        "shape": "×".join(map(str, dataset.signature.inputs)),
        "task": dataset.signature.task,
        "classes": ", ".join(dataset.classes or ()) or None,
        "columns": ", ".join(dataset.preprocess.columns) or None,
        "help": " ".join(inspect.cleandoc(read.__doc__ or "").split()),
    }
    return [{"property": key, "value": value} for key, value in found.items() if value is not None]


# ------------------------------------------------------------------ samplers and pruners


def _section(name: str, section: Any) -> Row:
    settings = [f"{row['setting']} {row['default']}" for row in _keys(name, section)[1:]]
    return {"settings": ", ".join(settings) or None, "help": first_sentence(section.__doc__)}


def _keys(name: str, section: Any) -> list[Row]:
    """The section's keys as a study file writes them, `kind` first."""
    fields = {key: field for key, field in section.model_fields.items() if key != "kind"}
    kind = {"setting": "kind", "default": name, "help": section.model_fields["kind"].description}
    return [kind, *(_key(key, field) for key, field in fields.items())]


def _key(name: str, field: Any) -> Row:
    default = None if field.is_required() else _written(field.get_default(call_default_factory=True))
    return {"setting": name, "default": default, "help": field.description}


KINDS: dict[str, Catalogue] = {
    "models": Catalogue("model", lambda: models.FAMILIES, _model, _hyperparameters),
    "spaces": Catalogue("space", _spaces, _space, _parameters),
    "datasets": Catalogue("dataset", lambda: BUILT_IN, _dataset, _described),
    "samplers": Catalogue("sampler", lambda: SAMPLERS, _section, _keys),
    "pruners": Catalogue("pruner", lambda: PRUNERS, _section, _keys),
}
