"""Layers that fuse: the parts from which our networks, and a person's own, are built.

Everything here trains K rows as one under `torch.func.vmap` with each row's numbers equal to the bit
whatever its neighbours (law 1). Where torch's own operation does not keep that, the reason stands
beside ours.

Shapes: B batch, C channels, W width of a layer, H×W' an image's sides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tuner.models import stateless
from tuner.models.interface import Setting

WHOLE = 64  # elements: two vectors of float32 on any CPU, what a vector loop takes at a time


def whole(x: Tensor) -> bool:
    """Whether vector loops over x leave no rest."""
    return x.numel() % WHOLE == 0


def steady(x: Tensor) -> bool:
    """Whether elementwise kernels round a row's x [B, …] alike wherever a cohort's memory has it.

    torch's sigmoid, silu and gelu round otherwise in the scalar rest of their vector loop than inside it. There
    is no rest where a row is so many whole vectors, and an exported program is no part of a cohort.
    """
    return torch.compiler.is_compiling() or whole(x)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e⁻ˣ); through tanh, which has no unsteady rest, where `steady` asks for it."""
    return torch.sigmoid(x) if steady(x) else 0.5 * torch.tanh(0.5 * x) + 0.5


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent; through sigmoid, whose kernel takes a tenth of the time, to within 1e-6 in float32."""
    return 2.0 * torch.sigmoid(2.0 * x) - 1.0 if steady(x) else torch.tanh(x)


def gelu(x: Tensor) -> Tensor:
    """x · Φ(x), exact, through erf."""
    return F.gelu(x) if steady(x) else 0.5 * x * (1.0 + torch.erf(x * 0.5**0.5))


def silu(x: Tensor) -> Tensor:
    """x · sigmoid(x)."""
    return F.silu(x) if steady(x) else x * sigmoid(x)


_NONLINEARITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "sigmoid": sigmoid,
    "tanh": tanh,
    "gelu": gelu,
    "silu": silu,
}
ACTIVATIONS = tuple(_NONLINEARITIES)
RISING = frozenset({"relu", "sigmoid", "tanh"})  # of two numbers, the larger one's value is never the smaller


class Nonlinearity(nn.Module):
    """One of `ACTIVATIONS`, elementwise."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return _NONLINEARITIES[self.name](x)

    def extra_repr(self) -> str:
        return self.name


def each_row(value: Tensor, dim: int | None, count: int) -> Tensor:
    """A row's part of vmap's `value` at each place of the first dimension; the same one where all share it."""
    return value.expand(count, *value.shape) if dim is None else value.movedim(dim, 0)


class _Product(torch.autograd.Function):
    """x [B, F] times weight [W, F] transposed; the weight's gradient comes as the weight lies, and needs no copy."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        return x @ weight.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG004 - torch's signature
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight = ctx.needs_input_grad
        return gradient @ weight if of_x else None, gradient.mT @ x if of_weight else None

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, int | None], x: Tensor, weight: Tensor) -> tuple[Tensor, int]:
        """The same with every row's x [K, B, F] and weight [K, W, F]."""
        x, weight = each_row(x, dims[0], info.batch_size), each_row(weight, dims[1], info.batch_size)
        return _Product.apply(x, weight), 0  # type: ignore[no-untyped-call]


class Linear(nn.Linear):
    """nn.Linear, x [B, F] → [B, W], as a product and a sum: vmap takes F.linear apart into more than these."""

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = _Product.apply(x, self.weight)  # type: ignore[no-untyped-call]
        return product if self.bias is None else product + self.bias


class _Above(torch.autograd.Function):
    """1 where x is above a threshold [], else 0, in x's own type: truth values are slow on a CPU. Has no gradient."""

    @staticmethod
    def forward(x: Tensor, threshold: Tensor) -> Tensor:
        return torch.gt(x, threshold, out=torch.empty_like(x))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG004 - torch's signature
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None]:  # noqa: ARG004 - torch's signature
        return None, None

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, int | None], x: Tensor, threshold: Tensor) -> tuple[Tensor, int]:
        x, threshold = each_row(x, dims[0], info.batch_size), each_row(threshold, dims[1], info.batch_size)
        threshold = threshold.reshape(*threshold.shape, *(1,) * (x.dim() - threshold.dim()))
        return _Above.apply(x, threshold), 0  # type: ignore[no-untyped-call]


class Dropout(nn.Module):
    """Silence a share of the elements and scale the others up, as nn.Dropout does, drawing statelessly.

    `rate` and `key` are buffers, so a cohort gives each row its own. The training loop sets a fresh
    `key` for every (seed, step, layer); equal keys give equal masks. The share is kept to 2⁻¹⁶.
    """

    rate: Tensor
    key: Tensor

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("rate", torch.tensor(float(rate)))
        self.register_buffer("key", torch.tensor(0, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        draws = stateless.shorts(self.key, x.numel()).to(x.dtype).view(x.shape)
        keep: Tensor = _Above.apply(draws, torch.round(self.rate * 65_536.0) - 32_769.0)  # type: ignore[no-untyped-call]
        return x * (keep * (1.0 / (1.0 - self.rate)))


class _Convolution(torch.autograd.Function):
    """torch's convolution with a batching rule of our own; see `Conv2d`."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        return F.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004 - torch's signature
        x, weight, _, ctx.padding = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        padding, ones = [ctx.padding] * 2, [1, 1]
        wanted = list(ctx.needs_input_grad[:3])
        found = torch.ops.aten.convolution_backward(
            gradient, x, weight, [len(weight)], ones, padding, ones, False, [0, 0], 1, wanted
        )
        return (*found, None)

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        """Row by row on a CPU; folded into groups of one convolution elsewhere."""
        x, weight, bias, padding = inputs
        rows = info.batch_size
        weight, bias = each_row(weight, dims[1], rows), None if bias is None else each_row(bias, dims[2], rows)
        if dims[0] is not None:
            x = x.movedim(dims[0], 0)
        if weight.device.type == "cpu":
            each = x if dims[0] is not None else [x] * rows
            biases = [None] * rows if bias is None else bias
            return torch.stack([F.conv2d(*row, padding=padding) for row in zip(each, weight, biases, strict=True)]), 0
        added = None if bias is None else bias.flatten()
        if dims[0] is None:
            y = F.conv2d(x, weight.flatten(0, 1), added, padding=padding)
        else:
            folded = x.transpose(0, 1).flatten(1, 2)
            y = F.conv2d(folded, weight.flatten(0, 1), added, padding=padding, groups=rows)
        return y.view(len(y), rows, -1, *y.shape[2:]).transpose(0, 1), 0


class _Halving(torch.autograd.Function):
    """The larger of every two neighbours in both directions, and the gradient to the first that is it.

    In float arithmetic on whole rows, because torch's max_pool2d takes twenty times as long on a CPU.
    """

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        flat = torch.maximum(x[..., 0::2, :], x[..., 1::2, :])
        return torch.maximum(flat[..., 0::2], flat[..., 1::2]), flat

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, *output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> Tensor:
        x, y, flat = ctx.saved_tensors
        by_flat, by_x = torch.empty_like(flat), torch.empty_like(x, memory_format=torch.contiguous_format)
        for whole, larger, given, parts in (
            (flat, y, gradient, (by_flat[..., 0::2], by_flat[..., 1::2])),
            (x.mT, flat.mT, by_flat.mT, (by_x[..., 0::2, :].mT, by_x[..., 1::2, :].mT)),
        ):
            # 1 where the second is the larger, 0 where the first is, or both are
            parts[1].copy_(given * torch.sign(larger - whole[..., 0::2]))
            torch.sub(given, parts[1], out=parts[0])
        return by_x

    @staticmethod
    def vmap(info: Any, dims: tuple[int], x: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:  # noqa: ARG004 - torch's signature
        found: tuple[Tensor, Tensor] = _Halving.apply(x.movedim(dims[0], 0))  # type: ignore[no-untyped-call]
        return found, (0, 0)


class MaxPool2(nn.Module):
    """nn.MaxPool2d(2), x [B, C, H, W'] → [B, C, H // 2, W' // 2]: an odd side's last row or column is left out."""

    def forward(self, x: Tensor) -> Tensor:
        high, wide = x.shape[-2] // 2 * 2, x.shape[-1] // 2 * 2
        output: Tensor = _Halving.apply(x[..., :high, :wide])[0]  # type: ignore[no-untyped-call]
        return output


class Conv2d(nn.Conv2d):
    """nn.Conv2d with stride 1, x [B, C, H, W'] → [B, channels, H, W'] for an odd kernel padded to keep the size.

    A cohort's rows are convolved one by one on a CPU: grouping them into one convolution gains nothing
    there, and torch picks its kernel by the number of groups, so that a row's bits would depend on K.
    """

    def __init__(self, inputs: int, channels: int, kernel: int, bias: bool = True) -> None:
        super().__init__(inputs, channels, kernel, padding=kernel // 2, bias=bias)
        self.reach = kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = _Convolution.apply(x, self.weight, self.bias, self.reach)  # type: ignore[no-untyped-call]
        return output


class BatchNorm(nn.Module):
    """Normalise each channel over batch and image, as nn.BatchNorm1d/2d do; x [B, C] or [B, C, H, W'].

    In evaluation the running mean and variance stand in for the batch's. Ioffe & Szegedy 2015. `real` [B] (bool),
    for x [B, C], tells which examples count.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.momentum, self.epsilon = momentum, epsilon

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        channel = (-1,) + (1,) * (x.dim() - 2)
        mean, variance = self.mean, self.variance
        if self.training:
            if real is None:
                over = [0, *range(2, x.dim())]
                mean = x.mean(over)
                variance = (x - mean.view(channel)).square().mean(over)
                count = x.numel() // x.shape[1]
                unbiased = variance.detach() * (count / max(count - 1, 1))
            else:
                counts = real[:, None].to(x.dtype)
                number = counts.sum().clamp(min=1.0)
                mean = (x * counts).sum(0) / number
                variance = ((x - mean).square() * counts).sum(0) / number
                unbiased = variance.detach() * (number / (number - 1.0).clamp(min=1.0))
            self.mean.mul_(1 - self.momentum).add_(mean.detach() * self.momentum)
            self.variance.mul_(1 - self.momentum).add_(unbiased * self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.epsilon)
        return (x - mean.view(channel)) * scale.view(channel) + self.bias.view(channel)


class ChannelLayerNorm(nn.Module):
    """Normalise each example over all its channels (and its image); x [B, C] or [B, C, H, W']. Ba et al. 2016.

    For x [B, C] this is nn.LayerNorm(C); for images it is nn.GroupNorm(1, C).
    """

    def __init__(self, channels: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        channel = (-1,) + (1,) * (x.dim() - 2)
        over = list(range(1, x.dim()))
        centred = x - x.mean(over, keepdim=True)
        scale = torch.rsqrt(centred.square().mean(over, keepdim=True) + self.epsilon)
        return centred * scale * self.weight.view(channel) + self.bias.view(channel)


_NORMS: dict[str, Callable[[int], nn.Module] | None] = {
    "none": None,
    "batch": BatchNorm,
    "layer": ChannelLayerNorm,
}
NORMS = tuple(_NORMS)

Activation = Annotated[str, Setting("the nonlinearity", choices=ACTIVATIONS)]
Norm = Annotated[str, Setting("normalisation before each nonlinearity", choices=NORMS)]
DropoutRate = Annotated[float, Setting("dropout probability", low=0.0, below=1.0, fusible=True)]


def nonlinearity(name: str) -> nn.Module:
    """The layer for one of `ACTIVATIONS`."""
    return Nonlinearity(name)


def biased(norm: str) -> bool:
    """Whether a layer before this norm has a bias.

    Batch norm takes any bias out again, and adam would make steps of the rounding that is its gradient.
    """
    return norm != "batch"


def normalise(name: str, channels: int) -> list[nn.Module]:
    """The layer for one of `NORMS` as a list: empty for "none"."""
    make = _NORMS[name]
    return [] if make is None else [make(channels)]
