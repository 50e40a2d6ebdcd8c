"""The cells of recurrent networks: what one step of RNN, LSTM and GRU computes, and its gradient, written by hand.

Knows one step of all rows, and neither time nor trials. The examples of a batch lie side by side, so that a gate is one
piece of memory for a row; gradients are found without torch's autograd, in few passes.

Legend: R rows of a recurrence (trials × directions), B batch, F features, W width, G gates · W,
S what a step knows: W of its state, a one, and F of its input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from tuner.models.layers import steady

Many = tuple[Tensor, ...]
Pairs = Sequence[tuple[Tensor, Tensor]]  # of a step: each weight with what it multiplies
Places = Sequence[Sequence[Tensor]]  # of a step and of the next; none where there will be no gradient

_sigmoid_back = torch.ops.aten.sigmoid_backward.grad_input  # gradient · y · (1 − y) of y = sigmoid(x)
_tanh_back = torch.ops.aten.tanh_backward.grad_input  # gradient · (1 − y²) of y = tanh(x)


def _sigmoid(x_RGB: Tensor, out: Tensor | None) -> Tensor:
    """1 / (1 + e⁻ˣ); through tanh where `models.layers.steady` asks for it."""
    if steady(x_RGB[0]):
        return torch.sigmoid(x_RGB, out=out)
    return torch.mul(x_RGB, 0.5, out=out).tanh_().mul_(0.5).add_(0.5)


def _bent(sigmoid_RWB: Tensor, out: Tensor | None) -> Tensor:
    """tanh(½x) of a sigmoid(x): 2·sigmoid − 1, in one pass."""
    one = torch.full((), -1.0, dtype=sigmoid_RWB.dtype, device=sigmoid_RWB.device)
    return torch.add(one, sigmoid_RWB, alpha=2, out=out)


def _product(weight_RSG: Tensor, known_RSB: Tensor, out: Tensor | None = None) -> Tensor:
    """[R, G, B]."""
    return torch.bmm(weight_RSG.mT, known_RSB, out=out)


def _chosen(real_R1B: Tensor | None, new: Tensor, old: Tensor, out: Tensor | None) -> Tensor:
    """The old values where a step is not real."""
    return new if real_R1B is None else torch.where(real_R1B, new, old, out=out)


def _parted(gradient: Tensor, real_R1B: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """A gradient's share for the real steps, and what passes the others unchanged."""
    if real_R1B is None:
        return gradient, None
    here = gradient * real_R1B
    return here, gradient - here


def column(like: Tensor, values: tuple[float, ...], width: int) -> Tensor:
    """[gates · width]: each value for a whole gate."""
    return torch.cat([torch.full((width,), value, dtype=like.dtype, device=like.device) for value in values])


PARTS: dict[str, Callable[[int], slice]] = {  # of what a step knows, by the width
    "all": lambda _: slice(None),
    "state": lambda width: slice(width + 1),
    "input": lambda width: slice(width, None),
}


class Cell(Protocol):
    """What one kind of cell computes in a step, and its gradient.

    tanh(x) = 2·sigmoid(2x) − 1 (see `models.layers.tanh`), so the weights of a tanh come doubled, and `slopes` are what
    the gradients by the gates are left to be multiplied by: powers of two, which is exact, and cheapest in the weights.
    """

    gates: ClassVar[int]
    biased: ClassVar[bool]
    """whether the recurrent product has a bias of its own, which does not merely add to that of the inputs"""
    reads: ClassVar[tuple[str, ...]]
    """what each of the weights multiplies of what a step knows; one of `PARTS`, the first all"""
    slopes: ClassVar[tuple[tuple[float, ...], ...]]
    """of each of the weights, gate by gate"""
    keeps: ClassVar[tuple[int, ...]]
    """vectors [W] of an example and step that `backward` needs, in so many tensors [R, · W, B]"""

    @staticmethod
    def weights(state: Tensor, inner: Tensor | None, bias: Tensor, inputs: Tensor) -> Many:
        """What multiplies what a step `reads`, from the parameters [D, ·, G] of D directions: [D, ·, some of G]."""

    @staticmethod
    def begin(h: Tensor, kept: Sequence[Tensor]) -> Many:
        """`before` of the first step; h is zero."""

    @staticmethod
    def forward(pairs: Pairs, before: Many, real: Tensor | None, place: Tensor | None, kept: Places) -> Many:
        """The state [R, W, B], written to `place`, then what else the next step's `before` is.

        `kept` is where this step and the next keep what `backward` needs.
        """

    @staticmethod
    def backward(
        dh: Tensor, later: Any, h: Tensor, real: Tensor | None, kept: Sequence[Tensor]
    ) -> tuple[Tensor | None, Any, Many]:
        """What passes to the state before, `later` of the step before, and the gradients by the products."""


class Plain(Cell):
    """h = tanh(x + h·U). Elman 1990, as nn.RNN. Kept is the sigmoid."""

    gates, biased, keeps = 1, False, (1,)
    reads, slopes = ("all",), ((2.0,),)

    @staticmethod
    def weights(state: Tensor, inner: Tensor | None, bias: Tensor, inputs: Tensor) -> Many:  # noqa: ARG004 - the others' argument
        return (torch.cat((state, bias, inputs), -2) * 2.0,)

    @staticmethod
    def begin(h: Tensor, kept: Sequence[Tensor]) -> Many:  # noqa: ARG004 - the others' argument
        return (h,)

    @staticmethod
    def forward(pairs: Pairs, before: Many, real: Tensor | None, place: Tensor | None, kept: Places) -> Many:
        s = _sigmoid(_product(*pairs[0]), kept[0][0] if kept else None)
        new = _bent(s, place if real is None else None)
        return (_chosen(real, new, before[0], place),)

    @staticmethod
    def backward(
        dh: Tensor,
        later: Any,  # noqa: ARG004 - the others' argument
        h: Tensor,  # noqa: ARG004 - the others' argument
        real: Tensor | None,
        kept: Sequence[Tensor],
    ) -> tuple[Tensor | None, Any, Many]:
        dh, passed = _parted(dh, real)
        found = torch.empty_like(kept[0])
        return passed, None, (_sigmoid_back(dh, kept[0], grad_input=found),)


class LSTM(Cell):
    """Gates in, forget, out and candidate: c = f·c + i·g, h = o·tanh(c). Hochreiter & Schmidhuber 1997, as nn.LSTM.

    Neither tanh is ever found: with s the candidate's sigmoid g = 2s − 1, and with b = sigmoid(−2c) tanh(c) = 1 − 2b,
    so that i·g, h and the gradients by i and o are one pass each. Carried is −c, and back a quarter of the gradient by
    c. Kept are −c before the step, b, i, f, o and s.
    """

    gates, biased, keeps = 4, False, (6,)
    reads, slopes = ("all",), ((-4.0, -4.0, 1.0, 8.0),)

    @staticmethod
    def weights(state: Tensor, inner: Tensor | None, bias: Tensor, inputs: Tensor) -> Many:  # noqa: ARG004 - the others' argument
        scale = column(bias, (1.0, 1.0, 1.0, 2.0), state.shape[-2])
        return (torch.cat((state, bias, inputs), -2) * scale,)

    @staticmethod
    def begin(h: Tensor, kept: Sequence[Tensor]) -> Many:
        return h, kept[0].chunk(6, 1)[0].zero_() if kept else torch.zeros_like(h)

    @staticmethod
    def forward(pairs: Pairs, before: Many, real: Tensor | None, place: Tensor | None, kept: Places) -> Many:
        h, c = before
        at_b = at_gates = at_c = None
        if kept:
            here, after = kept[0][0], kept[1][0]
            _, at_b, at_gates = torch.split(here, [h.shape[1], h.shape[1], 4 * h.shape[1]], 1)
            at_c = after.chunk(6, 1)[0]
        i, f, o, s = _sigmoid(_product(*pairs[0], at_gates), at_gates).chunk(4, 1)
        new = torch.addcmul(i, i, s, value=-2.0)
        new = torch.addcmul(new, f, c, out=at_c if real is None else None)
        c = _chosen(real, new, c, at_c)
        b = _sigmoid(c + c, at_b)
        new = torch.addcmul(o, o, b, value=-2.0, out=place if real is None else None)
        return _chosen(real, new, h, place), c

    @staticmethod
    def backward(
        dh: Tensor,
        later: Any,
        h: Tensor,
        real: Tensor | None,
        kept: Sequence[Tensor],
    ) -> tuple[Tensor | None, Any, Many]:
        parts = kept[0].view(len(h), 6, *h.shape[1:])
        _, b, _, f, o, s = parts.unbind(1)
        dh, passed = _parted(dh, real)
        dc = torch.mul(dh, o)
        _sigmoid_back(dc, b, grad_input=dc)
        if later is not None:
            after, forgotten, skipped = later
            dc.addcmul_(after, forgotten)
            if skipped is not None:
                dc.add_(skipped)
        dc, skipped = _parted(dc, real)
        found = dc.new_empty(len(dc), 4, *dc.shape[1:])
        torch.addcmul(dc, dc, s, value=-2.0, out=found[:, 0])
        torch.addcmul(dh, dh, b, value=-2.0, out=found[:, 2])
        torch.mul(parts[:, :3:2], dc[:, None], out=found[:, 1::2])  # −c by the gate f, i by the candidate
        _sigmoid_back(found, parts[:, 2:], grad_input=found)
        return passed, (dc, f, skipped), (found.flatten(1, 2),)


class GRU(Cell):
    """Gates reset, update and new: n = tanh(x + r·(h·U + b)), h = n + z·(h − n). Cho et al. 2014, as nn.GRU.

    Three products: of r and z, h·U + b, and x. Kept are r, z and n, then h·U + b.
    """

    gates, biased, keeps = 3, True, (3, 1)
    reads, slopes = ("all", "state", "input"), ((0.5, 1.0), (0.5,), (0.5,))

    @staticmethod
    def weights(state: Tensor, inner: Tensor | None, bias: Tensor, inputs: Tensor) -> Many:
        assert inner is not None
        width = state.shape[-2]
        parts = [torch.split(value, [2 * width, width], -1) for value in (state, inner, bias, inputs)]
        (early, late), (early_inner, late_inner), (early_bias, late_bias), (early_inputs, late_inputs) = parts
        return (
            torch.cat((early, early_inner + early_bias, early_inputs), -2),
            torch.cat((late, late_inner), -2) * 2.0,
            torch.cat((late_bias, late_inputs), -2) * 2.0,
        )

    @staticmethod
    def begin(h: Tensor, kept: Sequence[Tensor]) -> Many:  # noqa: ARG004 - the others' argument
        return (h,)

    @staticmethod
    def forward(pairs: Pairs, before: Many, real: Tensor | None, place: Tensor | None, kept: Places) -> Many:
        (h,) = before
        at_gates = at_n = at_m = None
        if kept:
            opened, at_m = kept[0]
            at_gates, at_n = torch.split(opened, [2 * h.shape[1], h.shape[1]], 1)
        r, z = _sigmoid(_product(*pairs[0]), at_gates).chunk(2, 1)
        m = _product(*pairs[1], at_m)
        n = _bent(_sigmoid(_product(*pairs[2]).addcmul_(r, m), None), at_n)
        return (_chosen(real, torch.lerp(n, h, z, out=place if real is None else None), h, place),)

    @staticmethod
    def backward(
        dh: Tensor,
        later: Any,  # noqa: ARG004 - the others' argument
        h: Tensor,
        real: Tensor | None,
        kept: Sequence[Tensor],
    ) -> tuple[Tensor | None, Any, Many]:
        opened, m = kept
        r, z, n = opened.chunk(3, 1)
        dh, passed = _parted(dh, real)
        through = dh * z
        by_new = dh - through
        _tanh_back(by_new, n, grad_input=by_new)
        both = by_new.new_empty(len(r), 2 * r.shape[1], r.shape[2])
        by_reset, by_update = both.chunk(2, 1)
        torch.mul(by_new, m, out=by_reset)
        torch.sub(h, n, out=by_update).mul_(dh)
        _sigmoid_back(both, opened[:, : both.shape[1]], grad_input=both)
        return through if passed is None else through.add_(passed), None, (both, by_new * r, by_new)


CELLS: dict[str, type[Cell]] = {"rnn": Plain, "lstm": LSTM, "gru": GRU}
