"""Attention, written out so that it fuses on a CPU, and what can be seen of it.

Vectors lie feature by feature, [W, B, T], as in models/columns.py.

Legend: R rows of a cohort, B batch, T steps (or patches), W width, H heads, D width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tuner.models.columns import LayerNorm, Linear, parted, rows_of
from tuner.models.layers import WHOLE, Dropout, nonlinearity
from tuner.models.sequences import HIDDEN

_LOG2_E = math.log2(math.e)  # e^x is 2^(x · log₂ e), of which torch's kernel takes a quarter of the time on a CPU
_VECTOR = 32  # numbers that torch's reductions take at a time, of which its amax takes the rest one by one


class _Attention(torch.autograd.Function):
    """Query, key and value [R, 3, H, D, B, T] → what was found [R, H, D, B, T], and what the weights are made of.

    The weights are powers [R, H, B, keys, queries] over their sums [R, H, B, 1, queries]. Divided is what they found
    and its gradient, which are fewer numbers; the gradient of softmax needs no more either (Dao et al. 2022). `hidden`
    [R, B, keys, queries] (B, keys and queries may be 1) tells what is not looked at. Keys come first in the scores
    because reductions over the last dimension, and products whose rows are no longer than a head, are slow. What else
    is answered is kept for the gradient.

    A head's value has a row of ones below it, [R·H·B, D + 1, T]: what it finds are the sums.
    """

    @staticmethod
    def forward(parts: Tensor, hidden: Tensor | None) -> tuple[Tensor, ...]:
        rows, _, heads, width, batch, time = parts.shape
        shape, count = (rows, heads, batch, width, time), rows * heads * batch
        query, key = (parts.new_empty(count, width, time) for _ in range(2))
        value = parts.new_ones(count, width + 1, time)
        steady = _steady(heads * batch * time**2)
        factor = width**-0.5 * (_LOG2_E if steady else 1.0)
        for place, part, scale in zip((query, key, value[:, :-1]), parts.unbind(1), (factor, 1.0, 1.0), strict=True):
            _put(place.view(shape), torch.mul, part.transpose(2, 3), scale)
        scores = torch.bmm(key.mT, query)
        if hidden is not None:
            scores.view(rows, heads, batch, time, time).masked_fill_(hidden[:, None], HIDDEN)
        scores.sub_(_largest(scores))
        powers = scores.exp2_() if steady else scores.exp_()
        mixed = torch.bmm(value, powers)
        total = mixed[:, -1:].view(rows, heads, batch, 1, time)
        found = parts.new_empty(rows, heads, width, batch, time)
        _put(found.transpose(2, 3), torch.div, mixed[:, :-1].view(shape), total)
        return found, powers.view(rows, heads, batch, time, time), total, mixed, query, key, value

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ARG004 - torch's signature
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor, None]:
        powers, total, mixed, query, key, value = ctx.saved_tensors
        rows, heads, width, batch, time = gradient.shape
        shape = (rows, heads, batch, width, time)
        # Of the scores it is (value · given − given · found) · powers: one product where `given` has a row more.
        given = torch.empty_like(value)
        _put(given[:, :-1].view(shape), torch.div, gradient.transpose(2, 3), total)
        along = (given[:, :-1] * mixed[:, :-1]).sum(1, keepdim=True)
        torch.div(along, mixed[:, -1:], out=given[:, -1:]).neg_()
        by_scores = torch.bmm(value.mT, given).mul_(powers.flatten(0, 2))
        by_value = torch.bmm(given[:, :-1], powers.flatten(0, 2).mT)
        by_query, by_key = torch.bmm(key, by_scores), torch.bmm(query, by_scores.mT)
        base = 1.0 / _LOG2_E if _steady(heads * batch * time**2) else 1.0
        found = gradient.new_empty(rows, 3, heads, width, batch, time)
        parts = zip(found.unbind(1), (by_query, by_key, by_value), (width**-0.5, base, 1.0), strict=True)
        for place, part, scale in parts:
            _put(place, torch.mul, part.view(shape).transpose(2, 3), scale)
        return found, None

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], *inputs: Tensor | None) -> Any:
        found = _Attention.apply(*rows_of(info, dims, inputs))  # type: ignore[no-untyped-call]
        return tuple(parted(info, value) for value in found), (0,) * len(found)


def _steady(count: int) -> bool:
    """Whether so many numbers of a row are whole vectors: exp2 rounds otherwise in a rest; see models.layers.steady."""
    return torch.compiler.is_compiling() or count % WHOLE == 0


def _put(place: Tensor, operation: Callable[..., Tensor], part: Tensor, other: Tensor | float) -> None:
    """What the operation makes of both, in its place by one pass; a program to be exported has no such operations."""
    if isinstance(other, float) and other == 1.0:
        place.copy_(part)
    elif torch.compiler.is_compiling():
        place.copy_(operation(part, other))
    else:
        operation(part, other, out=place)


def _largest(scores: Tensor) -> Tensor:
    """[N, keys, queries] → [N, 1, queries]; half against half where torch's amax would leave its vectors."""
    if scores.shape[2] % _VECTOR == 0:
        return scores.amax(1, keepdim=True)
    while (count := scores.shape[1]) > 1:
        half = -(-count // 2)
        scores = torch.maximum(scores[:, :half], scores[:, count - half :])
    return scores


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
        found, powers, total, *_ = _Attention.apply(parts[None], None if hidden is None else hidden[None])  # type: ignore[no-untyped-call]
        if self.record:
            self.recorded = (powers / total)[0].permute(1, 0, 3, 2).detach()
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
