"""Layers over vectors that lie feature by feature in memory: x [W, ...], where others have [..., W].

So the sums over features, of which layer norm and its gradient are made, run along whole vectors of the processor,
and the three products of a linear layer, forward and backward, read memory as it lies.

Legend: R rows of a cohort, W features, M everything else (examples and their steps), I and O features of a layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tuner.models.layers import each_row


def rows_of(info: Any, dims: tuple[int | None, ...], values: tuple[Tensor | None, ...]) -> list[Tensor | None]:
    """Values [R, ...] beneath vmap, [K, R, ...] or shared, as [K·R, ...]: the vmapped axis becomes more rows."""
    pairs = zip(values, dims, strict=True)
    return [None if value is None else each_row(value, dim, info.batch_size).flatten(0, 1) for value, dim in pairs]


def parted(info: Any, value: Tensor) -> Tensor:
    """The inverse for what was found."""
    return value.view(info.batch_size, -1, *value.shape[1:])


class _Product(torch.autograd.Function):
    """weight · x + bias for weight [R, O, I], bias [R, O, 1], x [R, I, M]."""

    @staticmethod
    def forward(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
        if x.is_contiguous():
            weight = weight.mT.contiguous().mT  # OpenBLAS reads it faster so (tuner/training/replay/blas.py)
        return torch.bmm(weight, x) if bias is None else torch.baddbmm(bias, weight, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004 - torch's signature
        weight, bias, x = inputs
        ctx.biased = bias is not None
        ctx.save_for_backward(weight, x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, x = ctx.saved_tensors
        gradient = gradient.contiguous()
        by_bias = gradient.sum(2, keepdim=True) if ctx.biased else None
        by_x = torch.bmm(weight.mT, gradient) if ctx.needs_input_grad[2] else None
        return _by_weight(gradient, x), by_bias, by_x

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], *inputs: Tensor | None) -> tuple[Tensor, int]:
        found: Tensor = _Product.apply(*rows_of(info, dims, inputs))  # type: ignore[no-untyped-call]
        return parted(info, found), 0


def _by_weight(gradient: Tensor, x: Tensor) -> Tensor:
    """[R, O, I], multiplied as a high matrix where the layer is wide on either side: a broad one is slower."""
    if x.shape[1] > gradient.shape[1]:
        return torch.bmm(x, gradient.mT).mT
    return torch.bmm(gradient, x.mT)


class Linear(nn.Linear):
    """nn.Linear for x [I, ...] → [O, ...]."""

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias[None, :, None]
        found: Tensor = _Product.apply(self.weight[None], bias, x.flatten(1)[None])  # type: ignore[no-untyped-call]
        return found.view(-1, *x.shape[1:])


class _Standard(torch.autograd.Function):
    """Each column of x [R, W, M] less its mean, over its standard deviation, times weight, plus bias [R, W, 1]."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
        standard = x - x.mean(1, keepdim=True)
        scale = (standard * standard).mean(1, keepdim=True).add_(epsilon).rsqrt_()
        standard.mul_(scale)
        return (standard * weight).add_(bias), standard, scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        _, standard, scale = output
        ctx.mark_non_differentiable(standard, scale)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[1], standard, scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        weight, standard, scale = ctx.saved_tensors
        gradient = gradient.contiguous()
        along = gradient * standard
        by_bias, by_weight = gradient.sum(2, keepdim=True), along.sum(2, keepdim=True)
        by_x = gradient * weight
        mean = by_x.mean(1, keepdim=True)
        mean_along = along.mul_(weight).mean(1, keepdim=True)
        by_x.sub_(mean).addcmul_(standard, mean_along, value=-1.0).mul_(scale)
        return by_x, by_weight, by_bias, None

    @staticmethod
    def vmap(
        info: Any, dims: tuple[Any, ...], x: Tensor, weight: Tensor, bias: Tensor, epsilon: float
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        found = _Standard.apply(*rows_of(info, dims[:3], (x, weight, bias)), epsilon)  # type: ignore[no-untyped-call]
        return tuple(parted(info, value) for value in found), (0, 0, 0)


class LayerNorm(nn.Module):
    """nn.LayerNorm for x [W, ...], every column for itself. Ba et al. 2016."""

    def __init__(self, width: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight[None, :, None], self.bias[None, :, None]
        found: Tensor = _Standard.apply(x.flatten(1)[None], weight, bias, self.epsilon)[0]  # type: ignore[no-untyped-call]
        return found.view(x.shape)
