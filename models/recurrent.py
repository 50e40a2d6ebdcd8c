"""Recurrent layers that fuse: RNN, LSTM and GRU for K rows and both directions as one recurrence.

A step multiplies what it knows, its state, a one and its input, which lie in one piece of memory, by one matrix of
weights. The gradient is found step by step as well, that of the weights with it, so that what a step needs stays in
the processor's cache. torch's nn.LSTM and nn.GRU have no batching rule on a CPU.

Legend: R rows of a recurrence (trials × directions), D directions, T steps, B batch, F features, W width, G gates · W,
S what a step knows: W of its state, a one, and F of its input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tuner.models.cells import CELLS, PARTS, Cell, Many, Pairs, column


def _onto(found: Tensor | None, first: Tensor, second: Tensor) -> Tensor:
    """The batched product, added to what was found; not in place, where MKL alone can add it."""
    return torch.bmm(first, second) if found is None else torch.baddbmm(found, first, second)


def _pairs(cell: type[Cell], weights: Sequence[Tensor], known_RSB: Tensor, width: int, *, first: bool) -> Pairs:
    """The first step's state is zero, and not multiplied."""
    found = []
    for name, weight in zip(cell.reads, weights, strict=True):
        seen = known_RSB[:, PARTS[name](width)]
        begins = width if first and name == "all" else 0
        found.append((weight[:, begins:], seen[:, begins:]))
    return found


def _unrolled(cell: type[Cell], x: Tensor, real: Tensor | None, *weights: Tensor) -> Many:
    """`_Recurrence`'s states and last state without writing into places, of which torch.export has no use."""
    rows, time, features, batch = x.shape
    width = weights[0].shape[1] - features - 1
    rest = torch.cat((torch.ones_like(x[:, :, :1]), x), 2)
    before = cell.begin(x.new_zeros(rows, width, batch), ())
    states = []
    for t in range(time):
        pairs = _pairs(cell, weights, torch.cat((before[0], rest[:, t]), 1), width, first=False)
        before = cell.forward(pairs, before, None if real is None else real[:, t], None, ())
        states.append(before[0])
    return torch.stack(states), states[-1]


class _Recurrence(torch.autograd.Function):
    """One cell over all steps. Rows come first, so a cohort's rows are nothing but more of them.

    x [R, T, F, B], real [R or 1, T, 1, B], weights as the cell's → the states [T, R, W, B] and the last of them, what
    each step knew [T + 1, R, S, B], and what the cell keeps.
    """

    @staticmethod
    def forward(cell: type[Cell], keep: bool, x: Tensor, real: Tensor | None, *weights: Tensor) -> Many:
        rows, time, features, batch = x.shape
        size = weights[0].shape[1]
        width = size - features - 1
        known = x.new_empty(time + 1, rows, size, batch)
        states = known[:, :, :width]
        states[0].zero_()
        known[:, :, width].fill_(1.0)
        # What all rows see is turned once.
        known[:time, :, width + 1 :].copy_((x if x.stride(0) else x[:1].contiguous()).transpose(0, 1))
        kept = [x.new_empty(time + 1, rows, count * width, batch) for count in cell.keeps] if keep else []
        before = cell.begin(states[0], [part[0] for part in kept])
        for t in range(time):
            pairs = _pairs(cell, weights, known[t], width, first=not t)
            places = [[part[at] for part in kept] for at in (t, t + 1)] if keep else ()
            before = cell.forward(pairs, before, None if real is None else real[:, t], states[t + 1], places)
        return states[1:], states[time], known, *kept

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Many) -> None:
        ctx.cell, _, _, real, *weights = inputs
        ctx.mark_non_differentiable(*output[2:])
        ctx.set_materialize_grads(False)  # for what is only kept they would be large tensors of zeros
        ctx.count = len(weights)
        ctx.save_for_backward(real, *weights, *output[2:])

    @staticmethod
    def backward(ctx: Any, by_states: Tensor | None, by_last: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        real, *saved = ctx.saved_tensors
        weights, known, kept = saved[: ctx.count], saved[ctx.count], saved[ctx.count + 1 :]
        by_x, by_weights = _gradients(
            ctx.cell, by_states, by_last, real, weights, known, kept, wanted=ctx.needs_input_grad[2]
        )
        return None, None, by_x, None, *by_weights

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], cell: type[Cell], keep: bool, *inputs: Tensor | None) -> Any:
        """The vmapped axis becomes rows of the same recurrence."""

        def rows(value: Tensor | None, dim: int | None) -> Tensor | None:
            if value is None:
                return None
            value = value.expand(info.batch_size, *value.shape) if dim is None else value.movedim(dim, 0)
            return value.flatten(0, 1)

        found = _Recurrence.apply(cell, keep, *(rows(*pair) for pair in zip(inputs, dims[2:], strict=True)))  # type: ignore[no-untyped-call]
        axes = (1, 0, *(1,) * (len(found) - 2))
        parted = tuple(value.unflatten(axis, (info.batch_size, -1)) for value, axis in zip(found, axes, strict=True))
        return parted, axes


def _gradients(
    cell: type[Cell],
    by_states: Tensor | None,
    by_last: Tensor | None,
    real: Tensor | None,
    weights: Sequence[Tensor],
    known: Tensor,
    kept: Sequence[Tensor],
    *,
    wanted: bool,
) -> tuple[Tensor | None, list[Tensor]]:
    """`_Recurrence`'s gradients by x, where they are wanted, and by the weights."""
    width = weights[0].shape[2] // len(cell.slopes[0])
    features = known.shape[2] - width - 1
    slopes = [column(known, values, width) for values in cell.slopes]
    back = [weight * slope for weight, slope in zip(weights, slopes, strict=True)]
    to_state = [(at, back[at][:, :width]) for at, name in enumerate(cell.reads) if name != "input"]
    to_input = [(at, back[at][:, -features:]) for at, name in enumerate(cell.reads) if name != "state"]
    by_weights = [torch.zeros_like(weight) for weight in weights]
    by_x = []
    dh, later = by_last, None
    for t in reversed(range(len(known) - 1)):
        if by_states is not None:
            dh = by_states[t] if dh is None else dh + by_states[t]
        assert dh is not None
        dh = dh.contiguous()  # where a product is added to another layout it rounds otherwise
        now = None if real is None else real[:, t]
        dh, later, found = cell.backward(dh, later, known[t, :, :width], now, [part[t] for part in kept])
        places = _pairs(cell, by_weights, known[t], width, first=not t)
        for at, ((place, seen), by_product) in enumerate(zip(places, found, strict=True)):
            if t:
                by_weights[at] = _onto(place, seen, by_product.mT)
            else:
                place.add_(torch.bmm(seen, by_product.mT))
        for at, weight in to_state if t else ():
            dh = _onto(dh, weight, found[at])
        step: Tensor | None = None
        for at, weight in to_input if wanted else ():
            step = _onto(step, weight, found[at])
        by_x += [] if step is None else [step]
    scaled = [value * slope for value, slope in zip(by_weights, slopes, strict=True)]
    return (torch.stack(by_x[::-1], 1) if wanted else None), scaled


class Recurrent(nn.Module):
    """One recurrent layer, x [T, B, F] → its states [T, B, W] and the last of them [B, W]; with `bidirectional` 2·W.

    Forwards come first, then backwards, whose last state is that of the first step. `real` [T, B] (bool) tells the
    steps of unequal sequences: the state is carried through the others, so that the backward direction begins at each
    sequence's own last step, as in torch's packed sequences. Weights as torch's: uniform within ±1/√W; gates in the
    order of the cell's own description, and the two biases of RNN and LSTM, which only ever appear as their sum, are
    one.
    """

    def __init__(self, cell: str, features: int, width: int, *, bidirectional: bool = False) -> None:
        super().__init__()
        self.cell = CELLS[cell]
        self.width, self.directions = width, 2 if bidirectional else 1
        bound = width**-0.5

        def uniform(rows: int) -> nn.Parameter:
            shape = (self.directions, rows, self.cell.gates * width)
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

        self.weight, self.bias = uniform(features), uniform(1)
        self.recurrent_weight = uniform(width)
        self.recurrent_bias = uniform(1) if self.cell.biased else None

    def forward(self, x: Tensor, real: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = x.mT[None]
        steps = None if real is None else real[None, :, None]
        if self.directions == 2:
            x = torch.cat((x, x.flip(1)))
            steps = None if steps is None else torch.cat((steps, steps.flip(1)))
        weights = self.cell.weights(self.recurrent_weight, self.recurrent_bias, self.bias, self.weight)
        if torch.compiler.is_compiling():
            states, last = _unrolled(self.cell, x, steps, *weights)
        else:
            states, last, *_ = _Recurrence.apply(self.cell, torch.is_grad_enabled(), x, steps, *weights)  # type: ignore[no-untyped-call]
        if self.directions == 2:
            states = torch.stack((states[:, 0], states[:, 1].flip(0)), 1)
        return states.flatten(1, 2).mT, last.flatten(0, 1).T.contiguous()  # products of turned small matrices are slow
