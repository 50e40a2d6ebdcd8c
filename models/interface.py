"""What a network is told, what it is configured by, and what makes it fusible.

Knows torch modules in general and none of them in particular; knows neither search spaces nor studies.

A network is an ordinary `nn.Module` whose constructor takes a `Signature` and keywords (its
hyperparameters). It is *fusible* when K copies can be trained as one under `torch.func.vmap`: no
Python branches on tensor values, no torch random numbers (use `tuner.models.layers.Dropout`), and every
number that may differ from row to row held in a buffer.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch

CLASSIFICATION, REGRESSION, LANGUAGE = "classification", "regression", "language"
TASKS = (CLASSIFICATION, REGRESSION, LANGUAGE)
NUMBERS, IMAGE, SEQUENCE, TEXT = "numbers", "image", "sequence", "text"
MODALITIES = (NUMBERS, IMAGE, SEQUENCE, TEXT)
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
    """

    help: str = ""
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: Sequence[str] | None = None
    fusible: bool = False


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


def hyperparameters(constructor: type) -> dict[str, Hyperparameter]:
    """What a network class (after its `signature`) or a configuration class may be told, in written order.

    A class attribute `fusible = {"name", …}` marks further keywords as fusible. Raises TypeError for
    a keyword whose type is not one of int, float, bool, str, or one of these or None.
    """
    names = inspect.signature(constructor).parameters.keys()
    if strangers := sorted(set(getattr(constructor, "fusible", ())) - names):
        raise TypeError(
            f"{constructor.__name__}.fusible names {', '.join(strangers)}, which its constructor does not take; "
            f"it takes {', '.join(name for name in names if name != 'signature') or 'none'}"
        )
    hints = typing.get_type_hints(vars(constructor).get("__init__", constructor), include_extras=True)
    found: dict[str, Hyperparameter] = {}
    for name, parameter in list(inspect.signature(constructor).parameters.items()):
        if name == "signature" or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        hint = hints.get(name, type(parameter.default))
        rule = Setting()
        if typing.get_origin(hint) is Annotated:
            hint, *extras = typing.get_args(hint)
            rule = next((extra for extra in extras if isinstance(extra, Setting)), rule)
        alternatives = [a for a in typing.get_args(hint) if a is not type(None)] or [hint]
        if len(alternatives) > 1 or alternatives[0] not in (int, float, bool, str):
            raise TypeError(
                f"{constructor.__name__}({name}: {hint}) is no hyperparameter: "
                "its type must be int, float, bool or str, or one of these or None"
            )
        if name in getattr(constructor, "fusible", ()):
            rule = dataclasses.replace(rule, fusible=True)
        optional = type(None) in typing.get_args(hint)
        found[name] = Hyperparameter(name, alternatives[0], parameter.default, optional, rule)
    return found
