"""Attention, written out so that it fuses on a CPU, and what can be seen of it.

Legend: B batch, T steps (or patches), W width, H heads, D width of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.layers import Dropout
from models.sequences import HIDDEN, LayerNorm, Linear, feed_forward


class SelfAttention(nn.Module):
    """Scaled dot-product attention of every step to every real one, [B, T, W] → [B, T, W]. Vaswani et al. 2017.

    `causal` hides what comes after a step. torch's scaled_dot_product_attention has no batching rule on a CPU.
    While `record` is set, the weights [B, H, T, T] of a call are kept in `recorded`.
    """

    def __init__(self, width: int, heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.width, self.heads, self.causal = width, heads, causal
        self.inward = Linear(width, 3 * width)
        self.outward = Linear(width, width)
        self.record, self.recorded = False, torch.empty(0)

    def forward(self, x: Tensor, real: Tensor | None) -> Tensor:
        batch, time, width = x.shape
        parts = self.inward(x).view(batch, time, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        scores = (query * (width // self.heads) ** -0.5) @ key.mT
        if self.causal:
            later = torch.ones(time, time, dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(later, HIDDEN)
        if real is not None:
            scores = scores.masked_fill(~real[:, None, None, :], HIDDEN)
        weights = torch.softmax(scores, -1)
        if self.record:
            self.recorded = weights.detach()
        found: Tensor = self.outward((weights @ value).transpose(1, 2).reshape(batch, time, width))
        return found


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)): the pre-norm block of Xiong et al. 2020."""

    def __init__(
        self, width: int, heads: int, hidden: int, activation: str, dropout: float, *, causal: bool = False
    ) -> None:
        super().__init__()
        self.before_attention, self.before_forward = LayerNorm(width), LayerNorm(width)
        self.attention = SelfAttention(width, heads, causal=causal)
        self.forward_part = feed_forward(width, hidden, activation)
        self.after_attention, self.after_forward = Dropout(dropout), Dropout(dropout)

    def forward(self, x: Tensor, real: Tensor | None) -> Tensor:
        x = x + self.after_attention(self.attention(self.before_attention(x), real))
        output: Tensor = x + self.after_forward(self.forward_part(self.before_forward(x)))
        return output


def sinusoids(time: int, width: int) -> Tensor:
    """Sines in the even places and cosines in the odd ones, of wavelengths 2π to 20,000π; [T, W].

    Vaswani et al. 2017, section 3.5.
    """
    place = torch.arange(time)[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    return torch.stack((place.sin(), place.cos()), -1).flatten(1)[:, :width]
