"""From a batch to vectors, one per step, and from vectors per step to one per example.

Steps that are padding are known here and never matter: their vectors are zero, and no readout sees them.

Legend: B batch, T steps, F features, W width, V vocabulary, H×W' an image's sides.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tuner.models import layers
from tuner.models.interface import LANGUAGE, PADDING, TEXT, Setting, Signature

READOUTS = ("mean", "last", "attention")
ReadoutName = Annotated[str, Setting("pooling", choices=READOUTS)]
STEP_NORMS = ("none", "layer")
StepNorm = Annotated[str, Setting("normalisation of every step's vector", choices=STEP_NORMS)]
Embedded = Annotated[int, Setting("text: embedding size", low=1, high=65_536)]

HIDDEN = -1e9  # a score whose softmax is 0 and, where every score has it, no NaN


class Linear(layers.Linear):
    """nn.Linear on every step, x [B, T, F] → [B, T, W]: one product, where vmap would make one per example."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)


class LayerNorm(nn.LayerNorm):
    """nn.LayerNorm over the last dimension, every step for itself. Ba et al. 2016."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, eps=self.eps) * self.weight + self.bias


class Vectors(nn.Module):
    """x of a sequence or text → (vectors [B, T, features], real [B, T] or None where every step is real).

    Text is looked up in a table of `embedding` numbers per token, drawn from N(0, 1). In language modelling
    padding only stands behind what is asked for, where a causal network never looks: real is None.
    """

    def __init__(self, signature: Signature, embedding: int) -> None:
        super().__init__()
        self.masked = signature.masked
        self.text = signature.modality == TEXT
        self.padded = self.text and signature.task != LANGUAGE
        if self.text:
            assert signature.vocabulary is not None
            self.table = nn.Embedding(signature.vocabulary, embedding)
        self.features = embedding if self.text else signature.inputs[-1] - signature.masked

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        real = None
        if self.text:
            real = x != PADDING if self.padded else None
            x = self.table(x)
        elif self.masked:
            real, x = x[..., -1] > 0.5, x[..., :-1]
        return x if real is None else torch.where(real[..., None], x, 0.0), real


class Patches(nn.Module):
    """x [B, C, H, W'] → (vectors [B, patches, C·side²], None), patches row by row."""

    def __init__(self, signature: Signature, side: int) -> None:
        super().__init__()
        channels, height, breadth = signature.inputs
        if height % side or breadth % side:
            raise ValueError(f"patch must divide the image's sides, got patch {side} for a {height}×{breadth} image")
        self.side = side
        self.grid = height // side, breadth // side
        self.features = channels * side**2

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        rows, columns = self.grid
        squares = x.view(-1, x.shape[1], rows, self.side, columns, self.side)
        return squares.permute(0, 2, 4, 1, 3, 5).reshape(-1, rows * columns, self.features), None


def last_steps(real_BT: Tensor) -> Tensor:
    """True at each example's last real step, [B, T]; nowhere in an example without any."""
    after = F.pad(real_BT[:, 1:], (0, 1))
    return real_BT & ~after


class Readout(nn.Module):
    """h [B, T, W] and real [B, T] or None → [B, W]: the mean of the real steps, the last one, or a weighted mean.

    `attention` weighs each step by the softmax of a learnt score (Yang et al. 2016, without the hidden layer).
    While `record` is set, the weights [B, T] of a call are kept in `recorded`.
    """

    def __init__(self, name: str, width: int) -> None:
        super().__init__()
        self.name = name
        self.score = Linear(width, 1) if name == "attention" else None
        self.record, self.recorded = False, torch.empty(0)

    def weights(self, h: Tensor, real: Tensor | None) -> Tensor:
        """How much each step counts, [B, T]; over the real steps the sum is 1."""
        if self.score is not None:
            scores = self.score(h)[..., 0]
            if real is None:
                return torch.softmax(scores, -1)
            return torch.softmax(scores.masked_fill(~real, HIDDEN), -1) * real
        if self.name == "last":
            real = torch.ones_like(h[..., 0], dtype=torch.bool) if real is None else real
            return last_steps(real).to(h.dtype)
        if real is None:
            return torch.full_like(h[..., 0], 1.0 / h.shape[1])
        count = real.to(h.dtype)
        return count / count.sum(-1, keepdim=True).clamp(min=1.0)

    def forward(self, h: Tensor, real: Tensor | None) -> Tensor:
        weights = self.weights(h, real)
        if self.record:
            self.recorded = weights.detach()
        if real is None and self.name == "last":
            return h[:, -1]
        if real is None and self.name == "mean":
            return h.sum(1) / h.shape[1]  # a gradient that is divided while it is small
        return (h * weights[..., None]).sum(1)
