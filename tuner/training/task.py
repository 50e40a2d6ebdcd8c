"""What a cohort is told before it trains, and what it says while it does: plain values, no behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tuner.data import batches
from tuner.models import Signature
from tuner.training.config import TrainConfig


@dataclass(frozen=True)
class Row:
    """One trial as training sees it: its number, its seed, its network's keywords and its settings."""

    number: int
    seed: int
    network: Mapping[str, Any]
    config: TrainConfig


@dataclass(frozen=True)
class Task:
    """One cohort to train. `named` are the training settings that the study sets or searches at all."""

    cohort: int
    rows: tuple[Row, ...]
    family: str
    signature: Signature
    company: bool
    seed: int
    metric: str
    maximize: bool
    named: frozenset[str] = frozenset()
    rungs: frozenset[int] = frozenset()
    folder: str = "."


@dataclass(frozen=True)
class Arrays:
    """The rows to learn from and to validate on, on the training device or given out there; targets in their unit."""

    train_inputs: Tensor | batches.Mapped
    train_targets: Tensor
    inputs: Tensor | batches.Mapped
    targets: Tensor


@dataclass(frozen=True)
class Epoch:
    """One epoch of the whole cohort. `metrics` by trial number; answer with the set of trials to stop.

    `failed` are the rows that diverged in it, with a message; they have left the stack. `seconds` is a
    row's share of the time. `undecided` are the rows whose fate the answer decides: at a rung, those that have
    epochs left; where there are none the answer may be None.
    """

    epoch: int
    metrics: dict[int, dict[str, float]]
    failed: dict[int, str]
    seconds: float
    undecided: frozenset[int]


@dataclass(frozen=True)
class Finished:
    """A row that reached its last epoch (or stopped early), with the weights of its best epoch."""

    number: int
    epochs: int
    best_epoch: int
    weights: dict[str, Tensor] = field(repr=False)


@dataclass(frozen=True)
class Step:
    """A step was made: a moment to ask for the state, or to stop."""

    epoch: int
    step: int


Answer = set[int] | None
