"""What is measured on a split: all rows at once, summed in float64 over the batches.

Names carry no split; the loop adds `val/` or `test/`. Legend: K rows, B batch, C classes or tokens, T targets of a
regression or positions of a text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tuner.models.interface import CLASSIFICATION, LANGUAGE, PADDING, REGRESSION
from tuner.training.losses import log_probabilities


class ClassificationMetrics:
    """Loss, accuracy, and macro-F1: the mean over the classes that occur among labels or predictions.

    `further` are any of FURTHER_METRICS, each as scikit-learn has it (zero_division=0): precision and recall are means
    over the same classes, or weighted by the labels; Matthews' correlation and Cohen's kappa are 0 where undefined.
    """

    def __init__(self, rows: int, classes: int, targets: Tensor, further: Sequence[str] = ()) -> None:
        self._further = further
        device = targets.device
        self._loss = torch.zeros(rows, dtype=torch.float64, device=device)
        self._confusion = torch.zeros(rows, classes * classes, dtype=torch.float64, device=device)
        self._one = torch.ones((), dtype=torch.float64, device=device)
        self._classes, self._count = classes, len(targets)

    def begin(self) -> None:
        """Forget what was added."""
        self._loss.zero_()
        self._confusion.zero_()

    def add(self, loss_KB: Tensor, output_KBC: Tensor, target_B: Tensor) -> None:
        self._loss.add_(loss_KB.double().sum(1))
        cell = target_B * self._classes + output_KBC.argmax(-1)
        self._confusion.scatter_add_(1, cell, self._one.expand(cell.shape))

    def result(self) -> dict[str, Tensor]:
        """[K] each, on the CPU."""
        loss, confusion = self._loss.cpu(), self._confusion.cpu().view(-1, self._classes, self._classes)
        hits = confusion.diagonal(dim1=1, dim2=2)
        seen = confusion.sum(1) + confusion.sum(2)
        f1 = torch.where(seen > 0, 2.0 * hits / seen.clamp(min=1.0), 0.0).sum(1) / (seen > 0).sum(1)
        found = {"loss": loss / self._count, "accuracy": hits.sum(1) / self._count, "f1": f1}
        return found | {name: value for name, value in _of_confusion(confusion).items() if name in self._further}


def _of_confusion(confusion: Tensor) -> dict[str, Tensor]:
    """FURTHER_METRICS of counts [K, labels, predictions], [K] each."""
    labels, predictions, hits = confusion.sum(2), confusion.sum(1), confusion.diagonal(dim1=1, dim2=2)
    count, seen = labels.sum(1), labels + predictions > 0
    by_class = {
        "precision": hits / predictions.clamp(min=1.0),
        "recall": hits / labels.clamp(min=1.0),
        "f1": 2.0 * hits / (labels + predictions).clamp(min=1.0),
    }
    found = {name: (value * seen).sum(1) / seen.sum(1) for name, value in by_class.items() if name != "f1"}
    weighted = {name: (value * labels).sum(1) / count for name, value in by_class.items()}
    found["precision_weighted"], found["recall_weighted"] = weighted["precision"], weighted["recall"]
    found["f1_weighted"] = weighted["f1"]
    found["balanced_accuracy"] = by_class["recall"].sum(1) / (labels > 0).sum(1)
    right, chance = hits.sum(1), (labels * predictions).sum(1)
    spread = ((count.square() - predictions.square().sum(1)) * (count.square() - labels.square().sum(1))).sqrt()
    found["matthews"] = torch.where(spread > 0, (right * count - chance) / spread.clamp(min=1e-300), 0.0)
    apart = count.square() - chance
    found["kappa"] = torch.where(apart > 0, (right * count - chance) / apart.clamp(min=1e-300), 0.0)
    return found


class RegressionMetrics:
    """Loss in standardised units; RMSE, MAE and R² in the targets' own, each the mean over the targets."""

    def __init__(self, rows: int, outputs: int, targets: Tensor, further: Sequence[str] = ()) -> None:  # noqa: ARG002
        zeros = torch.zeros(rows, outputs, dtype=torch.float64, device=targets.device)
        self._loss = zeros[:, 0].clone()
        self._squared, self._absolute = zeros.clone(), zeros.clone()
        values = targets.double()
        self._spread = (values - values.mean(0)).square().sum(0).cpu()
        self._count = len(targets)

    def begin(self) -> None:
        """Forget what was added."""
        for total in (self._loss, self._squared, self._absolute):
            total.zero_()

    def add(self, loss_KB: Tensor, output_KBT: Tensor, target_BT: Tensor) -> None:
        """Outputs and targets in the targets' own unit."""
        error = output_KBT.double() - target_BT.double()
        self._loss.add_(loss_KB.double().sum(1))
        self._squared.add_(error.square().sum(1))
        self._absolute.add_(error.abs().sum(1))

    def result(self) -> dict[str, Tensor]:
        """[K] each, on the CPU."""
        loss, squared, absolute = (total.cpu() for total in (self._loss, self._squared, self._absolute))
        return {
            "loss": loss / self._count,
            "rmse": (squared / self._count).sqrt().mean(1),
            "mae": (absolute / self._count).mean(1),
            "r2": (1.0 - squared / self._spread).mean(1),
        }


class LanguageMetrics:
    """Loss as the mean over examples; perplexity, bits per character and accuracy over all positions but padding.

    Perplexity is exp of the mean −log p of a token, bits per character the same in base 2.
    """

    def __init__(self, rows: int, outputs: int, targets: Tensor, further: Sequence[str] = ()) -> None:  # noqa: ARG002
        self._totals = torch.zeros(3, rows, dtype=torch.float64, device=targets.device)
        self._loss, self._nats, self._hits = self._totals
        self._examples, self._tokens = len(targets), int((targets != PADDING).sum())

    def begin(self) -> None:
        """Forget what was added."""
        self._totals.zero_()

    def add(self, loss_KB: Tensor, output_KBTC: Tensor, target_BT: Tensor) -> None:
        real = target_BT != PADDING
        target = target_BT.expand(output_KBTC.shape[:-1])
        nats = -log_probabilities(output_KBTC).gather(-1, target[..., None])[..., 0]
        self._loss.add_(loss_KB.double().sum(1))
        self._nats.add_((nats.double() * real).sum((1, 2)))
        self._hits.add_(((output_KBTC.argmax(-1) == target) & real).double().sum((1, 2)))

    def result(self) -> dict[str, Tensor]:
        """[K] each, on the CPU."""
        loss, nats, hits = self._totals.cpu()
        nats = nats / self._tokens
        return {
            "loss": loss / self._examples,
            "perplexity": nats.exp(),
            "bits_per_character": nats / math.log(2.0),
            "accuracy": hits / self._tokens,
        }


Account = ClassificationMetrics | RegressionMetrics | LanguageMetrics
_ACCOUNTS: dict[str, type[Account]] = {
    CLASSIFICATION: ClassificationMetrics,
    REGRESSION: RegressionMetrics,
    LANGUAGE: LanguageMetrics,
}


def account(task: str, rows: int, outputs: int, targets: Tensor, further: Sequence[str] = ()) -> Account:
    """A fresh account of one split for that task; `targets` are all of the split's, [N, …]."""
    return _ACCOUNTS[task](rows, outputs, targets, further)
