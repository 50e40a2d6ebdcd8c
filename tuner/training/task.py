"""What a cohort of networks is trained by: plain values and arrays, no behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
    metrics: tuple[str, ...] = ()  # measured beside those that always are


@dataclass(frozen=True)
class Arrays:
    """The rows to learn from and to validate on, on the training device or given out there; targets in their unit."""

    train_inputs: Tensor | batches.Mapped
    train_targets: Tensor
    inputs: Tensor | batches.Mapped
    targets: Tensor
