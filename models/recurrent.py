"""Recurrent layers that fuse: RNN, LSTM and GRU for K rows and both directions as one recurrence.

The inputs of all steps are multiplied at once; what is left for a step is one batched product and a few
elementwise operations. The gradient is written by hand, step by step, so that what a step needs stays in
the processor's cache. torch's nn.LSTM and nn.GRU have no batching rule on a CPU.

Legend: R rows of a recurrence (trials × directions), T steps, B batch, F features, W width, G gates · W.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import whole

Many = tuple[Tensor, ...]

_tanh_back = torch.ops.aten.tanh_backward.grad_input  # gradient · (1 − y²) of y = tanh(x)
_sigmoid_back = torch.ops.aten.sigmoid_backward.grad_input  # gradient · y · (1 − y) of y = sigmoid(x)


def _steady(x_RBW: Tensor) -> bool:
    """`models.layers.steady` of one row; a part of wider gates is looped over apart in each example, in any company."""
    part = x_RBW.stride(-2) != x_RBW.shape[-1]
    return part or torch.compiler.is_compiling() or whole(x_RBW[0])


def _sigmoid(x_RBW: Tensor) -> Tensor:
    """In place."""
    return x_RBW.sigmoid_() if _steady(x_RBW) else x_RBW.mul_(0.5).tanh_().mul_(0.5).add_(0.5)


def _tanh_of_half(x_RBW: Tensor) -> Tensor:
    """tanh(½x), in place."""
    return x_RBW.sigmoid_().mul_(2.0).sub_(1.0) if _steady(x_RBW) else x_RBW.mul_(0.5).tanh_()


class Cell(Protocol):
    """What one kind of cell computes.

    `scales`: what a gate's sum comes multiplied by, which is exact: 2 where its tanh is made of a sigmoid, because
    tanh(x) = 2·sigmoid(2x) − 1 (see `models.layers.tanh`). Sigmoids stand first.
    """

    scales: ClassVar[tuple[float, ...]]
    biased: ClassVar[bool]
    """whether the recurrent product has a bias of its own, which does not merely add to that of the inputs"""

    @staticmethod
    def forward(
        gates_RTBG: Tensor, weight_RWG: Tensor, bias_R1G: Tensor | None, real_RTB1: Tensor | None, *, keep: bool
    ) -> Many:
        """The states [R, T, B, W], then what `backward` needs, time first. A step that is not real changes no state."""

    @staticmethod
    def backward(
        gradient_RTBW: Tensor, weight_RWG: Tensor, real_RTB1: Tensor | None, states_RTBW: Tensor, *kept: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The gradients by the inputs' gates and by the recurrent product, both [R, T, B, G]."""


class _Steps:
    """Where the results of all steps go, [T, R, B, width]: into one tensor, or apart unless `keep`.

    Time comes first because a batched product into a place with gaps falls apart into R products, except for
    the states, whose `rows_first` are what the next layer multiplies. torch.export has no use for writing into
    places, and what is only evaluated needs no gradients.
    """

    def __init__(self, like_RTBG: Tensor, width: int, keep: bool, *, rows_first: bool = False) -> None:
        rows, time, batch, _ = like_RTBG.shape
        shape = (rows, time, batch, width) if rows_first else (time, rows, batch, width)
        self.whole = like_RTBG.new_empty(shape) if keep else None
        self.at: Sequence[Tensor | None] = [None] * time
        if self.whole is not None:
            self.at = self.whole.unbind(int(rows_first))


def _joined(states: list[Tensor], into: _Steps, *kept: _Steps) -> Many:
    """What a cell's forward answers: its states, and what it kept."""
    if into.whole is None:
        return (torch.stack(states, 1),)
    return (into.whole, *(steps.whole for steps in kept if steps.whole is not None))


def _parted(gradient: Tensor, real_RTB1: Tensor | None, t: int) -> tuple[Tensor, Tensor | None]:
    """A gradient's share for the real steps at t, and what passes the others unchanged."""
    if real_RTB1 is None:
        return gradient, None
    here = gradient * real_RTB1[:, t]
    return here, gradient - here


def _sum(gradient: Tensor, *others: Tensor | None) -> Tensor:
    """In place."""
    for other in others:
        if other is not None:
            gradient.add_(other)
    return gradient


class Plain(Cell):
    """h = tanh(x + h·U). Elman 1990, as nn.RNN."""

    scales = (2.0,)
    biased = False

    @staticmethod
    def forward(
        gates_RTBG: Tensor,
        weight_RWG: Tensor,
        bias_R1G: Tensor | None,  # noqa: ARG004 - the others' argument
        real_RTB1: Tensor | None,
        *,
        keep: bool,
    ) -> Many:
        place = _Steps(gates_RTBG, gates_RTBG.shape[-1], keep, rows_first=True)
        h = torch.zeros_like(gates_RTBG[:, 0])
        states = []
        for t, gates in enumerate(gates_RTBG.unbind(1)):
            bent = _tanh_of_half(torch.baddbmm(gates, h, weight_RWG))
            at = place.at[t]
            if real_RTB1 is not None:
                h = torch.where(real_RTB1[:, t], bent, h, out=at)
            else:
                h = bent if at is None else at.copy_(bent)
            states.append(h)
        return _joined(states, place)

    @staticmethod
    def backward(
        gradient_RTBW: Tensor,
        weight_RWG: Tensor,
        real_RTB1: Tensor | None,
        states_RTBW: Tensor,
        *kept: Tensor,  # noqa: ARG004 - the others' argument
    ) -> tuple[Tensor, Tensor]:
        back = weight_RWG.mT.contiguous()
        found = torch.empty_like(states_RTBW)
        dh = gradient_RTBW[:, -1]
        for t in reversed(range(found.shape[1])):
            dh, passed = _parted(dh, real_RTB1, t)
            _tanh_back(dh, states_RTBW[:, t], grad_input=found[:, t]).mul_(0.5)
            if t:
                dh = _sum(torch.baddbmm(gradient_RTBW[:, t - 1], found[:, t], back), passed)
        return found, found


class LSTM(Cell):
    """Gates in, forget, out and candidate: c = f·c + i·g, h = o·tanh(c). Hochreiter & Schmidhuber 1997, as nn.LSTM."""

    scales = (1.0, 1.0, 1.0, 2.0)
    biased = False

    @staticmethod
    def forward(
        gates_RTBG: Tensor,
        weight_RWG: Tensor,
        bias_R1G: Tensor | None,  # noqa: ARG004 - the others' argument
        real_RTB1: Tensor | None,
        *,
        keep: bool,
    ) -> Many:
        width = weight_RWG.shape[1]
        opened = _Steps(gates_RTBG, 4 * width, keep)
        cells, bent = _Steps(gates_RTBG, width, keep), _Steps(gates_RTBG, width, keep)
        place = _Steps(gates_RTBG, width, keep, rows_first=True)
        h = c = torch.zeros_like(gates_RTBG[:, 0, :, :width])
        states = []
        for t, gates in enumerate(gates_RTBG.unbind(1)):
            a = torch.baddbmm(gates, h, weight_RWG, out=opened.at[t])
            _sigmoid(a[..., : 3 * width])
            _tanh_of_half(a[..., 3 * width :])
            i, f, o, g = a.chunk(4, -1)
            if real_RTB1 is None:
                c = torch.mul(f, c, out=cells.at[t]).add_(i * g)
                h = torch.mul(o, _tanh_of_half(torch.mul(c, 2.0, out=bent.at[t])), out=place.at[t])
            else:
                real = real_RTB1[:, t]
                c = torch.where(real, (f * c).add_(i * g), c, out=cells.at[t])
                h = torch.where(real, o * _tanh_of_half(torch.mul(c, 2.0, out=bent.at[t])), h, out=place.at[t])
            states.append(h)
        return _joined(states, place, opened, cells, bent)

    @staticmethod
    def backward(
        gradient_RTBW: Tensor, weight_RWG: Tensor, real_RTB1: Tensor | None, states_RTBW: Tensor, *kept: Tensor
    ) -> tuple[Tensor, Tensor]:
        opened, cells, bent = kept
        width = weight_RWG.shape[1]
        back = weight_RWG.mT.contiguous()
        found = opened.new_empty(*states_RTBW.shape[:3], 4 * width)
        none = torch.zeros_like(cells[0])
        by_gate = torch.empty_like(opened[0])
        by_in, by_forget, by_out, by_candidate = by_gate.chunk(4, -1)
        dh, dc = gradient_RTBW[:, -1], none
        for t in reversed(range(found.shape[1])):
            i, f, o, g = opened[t].chunk(4, -1)
            dh, passed = _parted(dh, real_RTB1, t)
            through = dh * o
            dc = _tanh_back(through, bent[t], grad_input=through).add_(dc)
            dc, kept_on = _parted(dc, real_RTB1, t)
            torch.mul(dc, g, out=by_in)
            torch.mul(dc, cells[t - 1] if t else none, out=by_forget)
            torch.mul(dh, bent[t], out=by_out)
            torch.mul(dc, i, out=by_candidate)
            sigmoids, candidate = torch.split(found[:, t], [3 * width, width], -1)
            _sigmoid_back(by_gate[..., : 3 * width], opened[t, ..., : 3 * width], grad_input=sigmoids)
            _tanh_back(by_candidate, g, grad_input=candidate).mul_(0.5)
            if t:
                dh = _sum(torch.baddbmm(gradient_RTBW[:, t - 1], found[:, t], back), passed)
                dc = _sum(dc * f, kept_on)
        return found, found


class GRU(Cell):
    """Gates reset, update and new: n = tanh(x + r·(h·U + b)), h = n + z·(h − n). Cho et al. 2014, as nn.GRU."""

    scales = (1.0, 1.0, 2.0)
    biased = True

    @staticmethod
    def forward(
        gates_RTBG: Tensor, weight_RWG: Tensor, bias_R1G: Tensor | None, real_RTB1: Tensor | None, *, keep: bool
    ) -> Many:
        assert bias_R1G is not None
        width = weight_RWG.shape[1]
        opened = _Steps(gates_RTBG, 2 * width, keep)
        news, inner = _Steps(gates_RTBG, width, keep), _Steps(gates_RTBG, width, keep)
        place = _Steps(gates_RTBG, width, keep, rows_first=True)
        early, late = torch.split(gates_RTBG, [2 * width, width], -1)
        h = torch.zeros_like(late[:, 0])
        states = []
        for t, (both, x) in enumerate(zip(early.unbind(1), late.unbind(1), strict=True)):
            product, m = torch.split(torch.baddbmm(bias_R1G, h, weight_RWG), [2 * width, width], -1)
            if inner.whole is not None:
                inner.whole[t] = m
            r, z = _sigmoid(torch.add(both, product, out=opened.at[t])).chunk(2, -1)
            n = _tanh_of_half(torch.mul(r, m, out=news.at[t]).add_(x))
            if real_RTB1 is None:
                h = torch.sub(h, n, out=place.at[t]).mul_(z).add_(n)
            else:
                h = torch.where(real_RTB1[:, t], (h - n).mul_(z).add_(n), h, out=place.at[t])
            states.append(h)
        return _joined(states, place, opened, news, inner)

    @staticmethod
    def backward(
        gradient_RTBW: Tensor, weight_RWG: Tensor, real_RTB1: Tensor | None, states_RTBW: Tensor, *kept: Tensor
    ) -> tuple[Tensor, Tensor]:
        opened, news, inner = kept
        width = weight_RWG.shape[1]
        back = weight_RWG.mT.contiguous()
        by_gates, by_product = (opened.new_empty(*states_RTBW.shape[:3], 3 * width) for _ in range(2))
        none = torch.zeros_like(news[0])
        by_both = torch.empty_like(opened[0])
        by_reset, by_update = by_both.chunk(2, -1)
        dh = gradient_RTBW[:, -1]
        for t in reversed(range(len(opened))):
            r, z = opened[t].chunk(2, -1)
            n = news[t]
            dh, passed = _parted(dh, real_RTB1, t)
            kept_on = dh * z
            by_new = _tanh_back(dh - kept_on, n, grad_input=by_gates[:, t, :, 2 * width :]).mul_(0.5)
            torch.mul(by_new, inner[t], out=by_reset)
            torch.sub(states_RTBW[:, t - 1] if t else none, n, out=by_update).mul_(dh)
            both = _sigmoid_back(by_both, opened[t], grad_input=by_gates[:, t, :, : 2 * width])
            by_product[:, t, :, : 2 * width] = both
            torch.mul(by_new, r, out=by_product[:, t, :, 2 * width :])
            if t:
                dh = _sum(torch.baddbmm(gradient_RTBW[:, t - 1], by_product[:, t], back), kept_on, passed)
        return by_gates, by_product


CELLS: dict[str, type[Cell]] = {"rnn": Plain, "lstm": LSTM, "gru": GRU}


def _column(like: Tensor, values: tuple[float, ...], width: int) -> Tensor:
    """[gates · width]: each value for a whole gate."""
    return torch.tensor(values, dtype=like.dtype, device=like.device).repeat_interleave(width)


class _Recurrence(torch.autograd.Function):
    """One cell over all steps. Rows come first, so a cohort's rows are nothing but more of them."""

    @staticmethod
    def forward(
        cell: type[Cell], keep: bool, gates: Tensor, weight: Tensor, bias: Tensor | None, real: Tensor | None
    ) -> Many:
        return cell.forward(gates, weight, bias, real, keep=keep)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Many) -> None:
        ctx.cell, _, _, weight, bias, real = inputs
        ctx.biased = bias is not None
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # for what is only kept they would be large tensors of zeros
        ctx.save_for_backward(weight, real, *output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        weight, real, states, *kept = ctx.saved_tensors
        by_gates, by_product = ctx.cell.backward(gradient, weight, real, states, *kept)
        products = by_product.flatten(1, 2)
        # One product over all steps: what a step found is the state of the step before, the first found zeros.
        by_weight = torch.bmm(states[:, :-1].flatten(1, 2).mT, by_product[:, 1:].flatten(1, 2))
        return None, None, by_gates, by_weight, products.sum(1, keepdim=True) if ctx.biased else None, None

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], cell: type[Cell], keep: bool, *inputs: Tensor | None) -> Any:
        """The vmapped axis becomes rows of the same recurrence."""

        def rows(value: Tensor | None, dim: int | None) -> Tensor | None:
            if value is None:
                return None
            value = value.expand(info.batch_size, *value.shape) if dim is None else value.movedim(dim, 0)
            return value.flatten(0, 1)

        found = _Recurrence.apply(cell, keep, *(rows(*pair) for pair in zip(inputs, dims[2:], strict=True)))  # type: ignore[no-untyped-call]
        axes = (0, *(1,) * (len(found) - 1))
        parted = tuple(value.unflatten(axis, (info.batch_size, -1)) for value, axis in zip(found, axes, strict=True))
        return parted, axes


class Recurrent(nn.Module):
    """One recurrent layer, x [T, B, F] → [T, B, W], with `bidirectional` [T, B, 2·W]: forwards, then backwards.

    `real` [T, B] (bool) tells the steps of unequal sequences: the state is carried through the others, so
    that the backward direction begins at each sequence's own last step, as in torch's packed sequences.
    Weights as torch's: uniform within ±1/√W; gates in the order of the cell's own description, and the
    two biases of RNN and LSTM, which only ever appear as their sum, are one.
    """

    def __init__(self, cell: str, features: int, width: int, *, bidirectional: bool = False) -> None:
        super().__init__()
        self.cell = CELLS[cell]
        self.width, self.directions = width, 2 if bidirectional else 1
        gates = len(self.cell.scales) * width
        bound = width**-0.5

        def uniform(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

        self.weight = uniform(self.directions * gates, features)
        self.bias = uniform(self.directions * gates)
        self.recurrent_weight = uniform(self.directions, width, gates)
        self.recurrent_bias = uniform(self.directions, 1, gates) if self.cell.biased else None

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        time, batch, features = x.shape
        scale = _column(x, self.cell.scales, self.width)
        both = scale.repeat(self.directions)
        # The bias as one more feature that is always 1: adding it apart would go through all gates once more.
        known = F.pad(x.reshape(time * batch, features), (0, 1), value=1.0)
        flat = known @ (torch.cat((self.weight, self.bias[:, None]), 1) * both[:, None]).mT
        gates = flat.view(time, batch, self.directions, -1).permute(2, 0, 1, 3)
        steps = None if real is None else real[None, :, :, None]
        if self.directions == 2:
            gates = torch.stack((gates[0], gates[1].flip(0)))
            steps = None if steps is None else torch.cat((steps, steps.flip(1)))
        bias = None if self.recurrent_bias is None else self.recurrent_bias * scale
        keep = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        states: Tensor = _Recurrence.apply(self.cell, keep, gates, self.recurrent_weight * scale, bias, steps)[0]  # type: ignore[no-untyped-call]
        return states[0] if self.directions == 1 else torch.cat((states[0], states[1].flip(0)), -1)
