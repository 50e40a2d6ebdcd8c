"""Losses of all rows at once; label smoothing may differ row by row.

Legend: K rows, B batch, C classes, T targets.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from models.interface import CLASSIFICATION


def cross_entropy(output_KBC: Tensor, target_B: Tensor, smoothing_K: Tensor | None = None) -> Tensor:
    """Per example [K, B]: (1 − ε)·(−log p of the class) + ε·(mean of −log p). Szegedy et al. 2016, as in torch."""
    logs = F.log_softmax(output_KBC, -1)
    target = target_B.expand(logs.shape[:2])[..., None]
    hit = -logs.gather(-1, target)[..., 0]
    if smoothing_K is None:
        return hit
    epsilon = smoothing_K[:, None]
    return (1.0 - epsilon) * hit - epsilon * logs.mean(-1)


def mse(output_KBT: Tensor, target_BT: Tensor, smoothing_K: Tensor | None = None) -> Tensor:  # noqa: ARG001 - a class's affair
    """Per example [K, B]: the squared error, averaged over the targets."""
    return (output_KBT - target_BT).square().mean(-1)


LOSSES: dict[str, Callable[..., Tensor]] = {"cross_entropy": cross_entropy, "mse": mse}


def loss_of(name: str, task: str) -> Callable[..., Tensor]:
    """The loss of that name; `auto` is the task's own."""
    if name == "auto":
        name = "cross_entropy" if task == CLASSIFICATION else "mse"
    return LOSSES[name]
