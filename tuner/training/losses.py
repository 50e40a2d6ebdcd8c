"""Losses of all rows at once; what is a number may differ row by row.

Legend: K rows, B batch, T positions of a text or targets of a regression, C classes or tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tuner.models.interface import CLASSIFICATION, PADDING, REGRESSION, Signature
from tuner.training.config import TrainConfig


def _beside(value_K: Tensor, like: Tensor) -> Tensor:
    """[K] as [K, 1, …], to be multiplied with `like`."""
    return value_K.view(-1, *(1,) * (like.dim() - 1))


_FEW = 16  # classes: fewer do not fill the vectors of torch's softmax over the last dimension


class _TransposedCopy(torch.autograd.Function):
    """x [..., B, C] → [..., C, B] in memory, and its gradient back in memory: products with views of it are slow."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004 - torch's signature
        return x.mT.contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004 - torch's signature
        return gradient.mT.contiguous()


def log_probabilities(output: Tensor) -> Tensor:
    """log softmax over the last dimension; of few classes with the examples [B] side by side: a tenth of the time."""
    if output.shape[-1] > _FEW:
        return F.log_softmax(output, -1)
    beside: Tensor = _TransposedCopy.apply(output)  # type: ignore[no-untyped-call]
    return F.log_softmax(beside, -2).mT


def cross_entropy(
    output_KBC: Tensor, target_B: Tensor, smoothing_K: Tensor | None = None, weight_KC: Tensor | None = None
) -> Tensor:
    """Per example [K, B]: (1 − ε)·(−log p of the class) + ε·(mean of −log p). Szegedy et al. 2016, as in torch.

    Outputs [K, B, T, C] with targets [B, T] give the mean over the positions that are no padding.
    `weight_KC` multiplies each class's part, as torch's `weight` does before it is averaged.
    """
    logs = log_probabilities(output_KBC)
    weighted = logs if weight_KC is None else logs * weight_KC.view(len(weight_KC), *(1,) * target_B.dim(), -1)
    found = -weighted.gather(-1, target_B.expand(logs.shape[:-1])[..., None])[..., 0]
    if smoothing_K is not None:
        epsilon = _beside(smoothing_K, found)
        found = (1.0 - epsilon) * found - epsilon * weighted.mean(-1)
    if target_B.dim() == 1:
        return found
    real = (target_B != PADDING).to(found.dtype)
    return (found * real).sum(-1) / real.sum(-1).clamp(min=1.0)


def mse(output_KBT: Tensor, target_BT: Tensor) -> Tensor:
    """Per example [K, B]: the squared error, averaged over the targets."""
    return (output_KBT - target_BT).square().mean(-1)


def huber(output_KBT: Tensor, target_BT: Tensor, delta_K: Tensor | None = None) -> Tensor:
    """Per example [K, B]: ½e² for |e| ≤ δ, else δ(|e| − ½δ), averaged over the targets; δ is 1 unless given.

    Huber 1964, as torch's huber_loss.
    """
    error = (output_KBT - target_BT).abs()
    delta = torch.ones((), dtype=error.dtype, device=error.device) if delta_K is None else _beside(delta_K, error)
    within = torch.minimum(error, delta)
    return (within * (error - 0.5 * within)).mean(-1)


LOSSES: dict[str, Callable[..., Tensor]] = {"cross_entropy": cross_entropy, "mse": mse, "huber": huber}
FOR_NUMBERS = frozenset({"mse", "huber"})  # the others are for classes and tokens


def loss_of(name: str, task: str) -> Callable[..., Tensor]:
    """The loss of that name; `auto` is the task's own."""
    if name == "auto":
        name = "mse" if task == REGRESSION else "cross_entropy"
    return LOSSES[name]


def of_one(loss: Callable[..., Tensor], output_BC: Tensor, target_B: Tensor, smoothing: float, delta: float) -> Tensor:
    """The mean of a loss over the examples of one network, by torch's own kernel: what an ordinary loop computes."""
    if loss is cross_entropy:
        return F.cross_entropy(output_BC, target_B, label_smoothing=smoothing)
    if loss is huber:
        return F.huber_loss(output_BC, target_B, delta=delta)
    return F.mse_loss(output_BC, target_B)


def terms(
    loss: Callable[..., Tensor],
    configs: Sequence[TrainConfig],
    named: frozenset[str],
    signature: Signature,
    targets: Tensor,
    column: Callable[[list[float]], Tensor],
) -> dict[str, Tensor]:
    """The per-row numbers of a training loss: of those that the study names, what this loss takes.

    `column` makes a tensor [K] of the training's type on its device; `targets` are those of the training rows.
    """
    if loss is huber:
        return {"delta_K": column([c.huber_delta for c in configs])} if "huber_delta" in named else {}
    found = {}
    if loss is cross_entropy and "label_smoothing" in named:
        found["smoothing_K"] = column([c.label_smoothing for c in configs])
    if loss is cross_entropy and "class_weights" in named and signature.task == CLASSIFICATION:
        counts = torch.bincount(targets, minlength=signature.outputs).double().clamp(min=1.0)
        weighs = column([float(c.class_weights == "balanced") for c in configs])[:, None]
        balanced = (len(targets) / (len(counts) * counts)).to(weighs)
        found["weight_KC"] = torch.where(weighs > 0, balanced, torch.ones_like(balanced))
    return found
