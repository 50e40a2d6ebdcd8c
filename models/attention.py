"""Attention, written out so that it fuses on a CPU, and what can be seen of it.

Vectors lie feature by feature, [W, B, T], as in models/columns.py.

Legend: R rows of a cohort, B batch, T steps (or patches), W width, H heads, D width of a head.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from models.columns import LayerNorm, Linear, parted, rows_of
from models.layers import Dropout, nonlinearity
from models.sequences import HIDDEN


class _Attention(torch.autograd.Function):
    """Query, key and value [R, 3, H, D, B, T] → what was found [R, H, D, B, T], the weights [R, H, B, keys, queries].

    `hidden` [R, B, keys, queries] (B, keys and queries may be 1) tells what is not looked at. Keys come first in the
    scores because softmax over the last dimension, and products whose rows are no longer than a head, are slow.
    What else is answered is kept for the gradient.
    """

    @staticmethod
    def forward(parts: Tensor, hidden: Tensor | None) -> tuple[Tensor, ...]:
        rows, _, heads, width, batch, time = parts.shape
        query, key, value = (_matrices(part) for part in parts.unbind(1))
        query.mul_(width**-0.5)
        scores = torch.bmm(key.mT, query)
        if hidden is not None:
            scores.view(rows, heads, batch, time, time).masked_fill_(hidden[:, None], HIDDEN)
        weights = torch.softmax(scores, 1)
        found = torch.bmm(value, weights).view(rows, heads, batch, width, time).transpose(2, 3).contiguous()
        return found, weights.view(rows, heads, batch, time, time), query, key, value

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ARG004 - torch's signature
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor, None]:
        weights, query, key, value = ctx.saved_tensors
        rows, heads, width, batch, time = gradient.shape
        given, weights = _matrices(gradient), weights.flatten(0, 2)
        by_value = torch.bmm(given, weights.mT)
        by_weights = torch.bmm(value.mT, given)
        by_scores = torch._softmax_backward_data(by_weights, weights, 1, weights.dtype)
        by_query = torch.bmm(key, by_scores).mul_(width**-0.5)
        by_key = torch.bmm(query, by_scores.mT)
        found = gradient.new_empty(rows, 3, heads, width, batch, time)
        for place, part in zip(found.unbind(1), (by_query, by_key, by_value), strict=True):
            place.copy_(part.view(rows, heads, batch, width, time).transpose(2, 3))
        return found, None

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], *inputs: Tensor | None) -> Any:
        found = _Attention.apply(*rows_of(info, dims, inputs))  # type: ignore[no-untyped-call]
        return tuple(parted(info, value) for value in found), (0,) * len(found)


def _matrices(part: Tensor) -> Tensor:
    """[R, H, D, B, T] as a copy [R·H·B, D, T]."""
    return part.transpose(2, 3).clone(memory_format=torch.contiguous_format).flatten(0, 2)


class SelfAttention(nn.Module):
    """Scaled dot-product attention of every step to every real one, x [W, B, T] → [W, B, T]. Vaswani et al. 2017.

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
        width, batch, time = x.shape
        parts = self.inward(x).view(3, self.heads, width // self.heads, batch, time)
        hidden = None if real is None else ~real[:, :, None]
        if self.causal:
            later = torch.ones(time, time, dtype=torch.bool, device=x.device).tril(-1)[None]
            hidden = later if hidden is None else hidden | later
        found, weights, *_ = _Attention.apply(parts[None], None if hidden is None else hidden[None])  # type: ignore[no-untyped-call]
        if self.record:
            self.recorded = weights[0].permute(1, 0, 3, 2).detach()
        output: Tensor = self.outward(found.view(x.shape))
        return output


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)), x [W, B, T]: the pre-norm block of Xiong et al. 2020."""

    def __init__(
        self, width: int, heads: int, hidden: int, activation: str, dropout: float, *, causal: bool = False
    ) -> None:
        super().__init__()
        self.before_attention, self.before_forward = LayerNorm(width), LayerNorm(width)
        self.attention = SelfAttention(width, heads, causal=causal)
        self.forward_part = nn.Sequential(Linear(width, hidden), nonlinearity(activation), Linear(hidden, width))
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
