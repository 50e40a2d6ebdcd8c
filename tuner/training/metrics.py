"""What is measured on a split: all rows at once, summed in float64 over the batches.

Names carry no split; the loop adds `val/` or `test/`. Legend: K rows, B batch, C classes or tokens, T targets of a
regression or positions of a text.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from models.interface import CLASSIFICATION, LANGUAGE, PADDING, REGRESSION

METRICS = {
    CLASSIFICATION: ("loss", "accuracy", "f1"),
    REGRESSION: ("loss", "rmse", "mae", "r2"),
    LANGUAGE: ("loss", "perplexity", "bits_per_character", "accuracy"),
}


class ClassificationMetrics:
    """Loss, accuracy, and macro-F1: the mean over the classes that occur among labels or predictions."""

    def __init__(self, rows: int, classes: int, device: torch.device) -> None:
        self._loss = torch.zeros(rows, dtype=torch.float64, device=device)
        self._confusion = torch.zeros(rows, classes * classes, dtype=torch.float64, device=device)
        self._classes = classes
        self._count = 0

    def add(self, loss_KB: Tensor, output_KBC: Tensor, target_B: Tensor) -> None:
        self._count += len(target_B)
        self._loss += loss_KB.double().sum(1)
        cell = target_B * self._classes + output_KBC.argmax(-1)
        self._confusion.scatter_add_(1, cell, torch.ones_like(cell, dtype=torch.float64))

    def result(self) -> dict[str, Tensor]:
        """[K] each, on the CPU."""
        confusion = self._confusion.view(-1, self._classes, self._classes)
        hits = confusion.diagonal(dim1=1, dim2=2)
        seen = confusion.sum(1) + confusion.sum(2)
        f1 = torch.where(seen > 0, 2.0 * hits / seen.clamp(min=1.0), 0.0).sum(1) / (seen > 0).sum(1)
        values = {"loss": self._loss / self._count, "accuracy": hits.sum(1) / self._count, "f1": f1}
        return {name: value.cpu() for name, value in values.items()}


class RegressionMetrics:
    """Loss in standardised units; RMSE, MAE and R² in the targets' own, each the mean over the targets."""

    def __init__(self, rows: int, targets: int, device: torch.device) -> None:
        zeros = torch.zeros(rows, targets, dtype=torch.float64, device=device)
        self._loss = torch.zeros(rows, dtype=torch.float64, device=device)
        self._squared, self._absolute = zeros.clone(), zeros.clone()
        self._targets: list[Tensor] = []

    def add(self, loss_KB: Tensor, output_KBT: Tensor, target_BT: Tensor) -> None:
        """Outputs and targets in the targets' own unit."""
        error = output_KBT.double() - target_BT.double()
        self._loss += loss_KB.double().sum(1)
        self._squared += error.square().sum(1)
        self._absolute += error.abs().sum(1)
        self._targets.append(target_BT.double())

    def result(self) -> dict[str, Tensor]:
        """[K] each, on the CPU."""
        target = torch.cat(self._targets)
        count = len(target)
        spread = (target - target.mean(0)).square().sum(0)
        values = {
            "loss": self._loss / count,
            "rmse": (self._squared / count).sqrt().mean(1),
            "mae": (self._absolute / count).mean(1),
            "r2": (1.0 - self._squared / spread).mean(1),
        }
        return {name: value.cpu() for name, value in values.items()}


class LanguageMetrics:
    """Loss as the mean over examples; perplexity, bits per character and accuracy over all positions but padding.

    Perplexity is exp of the mean −log p of a token, bits per character the same in base 2.
    """

    def __init__(self, rows: int, vocabulary: int, device: torch.device) -> None:  # noqa: ARG002 - as the others
        self._loss, self._nats, self._hits = (torch.zeros(rows, dtype=torch.float64, device=device) for _ in range(3))
        self._examples = self._tokens = 0

    def add(self, loss_KB: Tensor, output_KBTC: Tensor, target_BT: Tensor) -> None:
        real = target_BT != PADDING
        target = target_BT.expand(output_KBTC.shape[:-1])
        nats = -F.log_softmax(output_KBTC, -1).gather(-1, target[..., None])[..., 0]
        self._loss += loss_KB.double().sum(1)
        self._nats += (nats.double() * real).sum((1, 2))
        self._hits += ((output_KBTC.argmax(-1) == target) & real).double().sum((1, 2))
        self._examples += len(target_BT)
        self._tokens += int(real.sum())

    def result(self) -> dict[str, Tensor]:
        """[K] each, on the CPU."""
        nats = self._nats / self._tokens
        values = {
            "loss": self._loss / self._examples,
            "perplexity": nats.exp(),
            "bits_per_character": nats / math.log(2.0),
            "accuracy": self._hits / self._tokens,
        }
        return {name: value.cpu() for name, value in values.items()}


Account = ClassificationMetrics | RegressionMetrics | LanguageMetrics
_ACCOUNTS: dict[str, type[Account]] = {
    CLASSIFICATION: ClassificationMetrics,
    REGRESSION: RegressionMetrics,
    LANGUAGE: LanguageMetrics,
}


def account(task: str, rows: int, outputs: int, device: torch.device) -> Account:
    """A fresh account of one split for that task."""
    return _ACCOUNTS[task](rows, outputs, device)
