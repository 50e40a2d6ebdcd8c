"""What a network is told, what it is configured by, and what makes it fusible.

Knows torch modules in general and none of them in particular; knows neither search spaces nor studies.

A network is an ordinary `nn.Module` whose constructor takes a `Signature` and keywords (its
hyperparameters). It is *fusible* when K copies can be trained as one under `torch.func.vmap`: no
Python branches on tensor values, no torch random numbers (use `tuner.models.layers.Dropout`), and every
number that may differ from row to row held in a buffer.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

if TYPE_CHECKING:
    import torch

CLASSIFICATION, REGRESSION, LANGUAGE = "classification", "regression", "language"
TASKS = (CLASSIFICATION, REGRESSION, LANGUAGE)
NUMBERS, IMAGE, SEQUENCE, TEXT = "numbers", "image", "sequence", "text"
MODALITIES = (NUMBERS, IMAGE, SEQUENCE, TEXT)
NUMBER, CATEGORY, DATE, ID = "number", "category", "date", "id"
COLUMN_TYPES = (NUMBER, CATEGORY, DATE, ID)  # what a column of a table may be; an identifier is no input
PADDING, UNKNOWN = 0, 1  # the tokens that stand behind a shorter text, and for characters never seen in training


@dataclass(frozen=True)
class Signature:
    """What a data set looks like to a network.

    `inputs` is the shape of one example: `(features,)` for numbers, `(channels, height, width)` for
    images, `(time, features)` for sequences, `(time,)` for text, whose int64 tokens are below
    `vocabulary`: `PADDING` behind a shorter text, `UNKNOWN` for what training never saw. `outputs` is the
    number of classes, of targets in a regression, of tokens in language modelling (one answer for every
    position). `masked`: the last feature of a sequence is 1 at real steps and 0 in the padding behind them.
    """

    task: str
    modality: str
    inputs: tuple[int, ...]
    outputs: int
    vocabulary: int | None = None
    masked: bool = False

    def example(self, count: int) -> torch.Tensor:
        """`count` examples of nothing: float32 zeros, or tokens of padding, [count, *inputs]."""
        import torch

        return torch.zeros(count, *self.inputs, dtype=torch.int64 if self.modality == TEXT else torch.float32)

    def output_shape(self, count: int) -> tuple[int, ...]:
        """What a network answers to `count` examples: [count, outputs]; of text to continue, [count, time, outputs]."""
        return (count, *self.inputs, self.outputs) if self.task == LANGUAGE else (count, self.outputs)

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "inputs": list(self.inputs)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Signature:
        return cls(**{**value, "inputs": tuple(value["inputs"])})


@dataclass(frozen=True)
class Setting:
    """The rule that one hyperparameter keeps: its bounds (included unless `above`/`below`) or its choices.

    Written beside the type: `width: Annotated[int, Setting("units per layer", low=1)] = 64`. A
    `fusible` hyperparameter may differ from row to row inside one cohort; any other is structural.
    `tasks` and `modalities` are those for which it does something, `read_by` the choices of another hyperparameter
    under which it is read: `("optimizer", ("sgd", "rmsprop"))`.
    """

    help: str = ""
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: Sequence[str] | None = None
    fusible: bool = False
    tasks: Sequence[str] | None = None
    modalities: Sequence[str] | None = None
    read_by: tuple[str, Sequence[str]] | None = None


@dataclass(frozen=True)
class Hyperparameter:
    """One keyword of a constructor: its type (`int`, `float`, `bool`, `str`), default and rule.

    `default` is `inspect.Parameter.empty` where the constructor gives none; `optional` tells that
    None is a legal value.
    """

    name: str
    type: type
    default: Any
    optional: bool
    rule: Setting


def keywords(constructor: type) -> dict[str, tuple[type, inspect.Parameter]]:
    """What a constructor takes, `signature` first, each with the class whose constructor names it.

    What it takes as `**keywords` is for its base class's constructor.
    """
    found: dict[str, tuple[type, inspect.Parameter]] = {}
    owners = [one for one in constructor.__mro__ if "__init__" in vars(one)]
    signature = inspect.signature(constructor)
    for owner, base in zip(owners, [*owners[1:], object], strict=True):
        kinds = {parameter.kind for parameter in signature.parameters.values()}
        for name, parameter in signature.parameters.items():
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                found.setdefault(name, (owner, parameter))
        if inspect.Parameter.VAR_KEYWORD not in kinds or base is object or _is_module(base):
            break
        signature = inspect.signature(functools.partial(vars(base)["__init__"], None))
    return found


def _is_module(kind: type) -> bool:
    """Whether it is torch's own Module, which need not be imported to tell."""
    return (kind.__module__, kind.__qualname__) == ("torch.nn.modules.module", "Module")


def hyperparameters(constructor: type) -> dict[str, Hyperparameter]:
    """What a network class (after its `signature`) or a configuration class may be told, in written order.

    A class attribute `fusible = {"name", …}` marks further keywords as fusible. A keyword of another type than int,
    float, bool, str, a Literal of such, or one of these or None is left out where it has a default, for nobody need
    tell it; raises TypeError where it has none.
    """
    parameters = keywords(constructor)
    if strangers := sorted(set(getattr(constructor, "fusible", ())) - parameters.keys()):
        raise TypeError(
            f"{constructor.__name__}.fusible names {', '.join(strangers)}, which its constructor does not take; "
            f"it takes {', '.join(name for name in parameters if name != 'signature') or 'none'}"
        )
    found: dict[str, Hyperparameter] = {}
    for name, (owner, parameter) in parameters.items():
        if name == "signature":
            continue
        hint = _hint(owner, parameter)
        one = _hyperparameter(name, hint, parameter.default)
        if one is None and parameter.default is parameter.empty:
            raise TypeError(
                f"{constructor.__name__}({name}: {getattr(hint, '__name__', hint)}) is no hyperparameter: "
                "its type must be int, float, bool or str, a Literal of these, or one of these or None"
            )
        if one is not None:
            fusible = one.rule.fusible or name in getattr(constructor, "fusible", ())
            found[name] = dataclasses.replace(one, rule=dataclasses.replace(one.rule, fusible=fusible))
    return found


def unusable(constructor: type) -> frozenset[str]:
    """Keywords of a constructor that keep their defaults, because their types are none of a hyperparameter's."""
    return frozenset(keywords(constructor).keys() - hyperparameters(constructor).keys() - {"signature"})


def _hint(constructor: type, parameter: inspect.Parameter) -> Any:
    """The parameter's type as it is written, or its default's where it cannot be evaluated here; else its text."""
    hint = parameter.annotation
    implied = Any if parameter.default in (None, parameter.empty) else type(parameter.default)
    if hint is parameter.empty:
        return implied
    if not isinstance(hint, str):
        return hint
    init = typing.cast("Any", constructor).__init__  # perhaps a base class's, written in another module
    names = getattr(init, "__globals__", vars(sys.modules[constructor.__module__]))
    one = types.SimpleNamespace(__annotations__={"hint": hint})
    try:
        return typing.get_type_hints(one, names, include_extras=True)["hint"]
    except (NameError, AttributeError, TypeError, SyntaxError):  # say, imported for type checkers alone
        return hint if implied is Any else implied


def _hyperparameter(name: str, hint: Any, default: Any) -> Hyperparameter | None:
    """What `hint` says of a hyperparameter; None where its type is none of theirs."""
    rule = Setting()
    hint = getattr(hint, "__supertype__", hint)  # of a NewType
    if typing.get_origin(hint) is Annotated:
        hint, *extras = typing.get_args(hint)
        rule = next((extra for extra in extras if isinstance(extra, Setting)), rule)
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    alternatives = list(typing.get_args(hint)) if union else [hint]
    optional = type(None) in alternatives
    kinds = []
    for alternative in alternatives:
        if typing.get_origin(alternative) is Literal:
            choices = typing.get_args(alternative)
            kinds += [type(choice) for choice in choices]
            if all(isinstance(choice, str) for choice in choices):
                rule = dataclasses.replace(rule, choices=choices)
        elif alternative is not type(None):
            kinds.append(alternative)
    optional = optional or type(None) in kinds
    kind = {frozenset({int, float}): float}.get(frozenset(kinds), kinds[0] if len(set(kinds)) == 1 else None)
    return Hyperparameter(name, kind, default, optional, rule) if kind in (int, float, bool, str) else None
