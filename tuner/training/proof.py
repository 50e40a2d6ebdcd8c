"""Whether two trials of a person's own network train as one as they train alone: tried for a few steps of the study.

Knows the training loop. Both ways run in float64, where rounding is far below what a hook that is passed over, a frozen
layer that moves or a recomputation with other weights would change; so the same means the same to 1e-6.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tuner import models
from tuner.data import augmentation
from tuner.errors import out_of_memory, told
from tuner.seeds import derive
from tuner.training import attributes
from tuner.training.fusibility import EXAMPLES, unsteady
from tuner.training.loop import Training
from tuner.training.seeding import seeded
from tuner.training.task import Arrays, Row, Task
from tuner.workloads.base import Epoch

MOST_PARAMETERS = 1_000_000  # of one network: larger ones gain nothing in company on a CPU, and two copies take memory
_MOST_KEPT = 100_000_000  # bytes that a step of one network keeps; a pair in float64 keeps four times as much
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}  # of the largest change that training makes
_STEPS = 2  # full batches; the epoch's last batch, where it is smaller, comes behind them
_VALIDATED = 64  # rows
_GENTLE = 1e-4  # a learning rate


class _KeptTensorError(Exception):
    """A network in company leaves tensors of one step to the next, where no buffer holds them."""


def fuses(task: Task, arrays: Arrays) -> str:
    """Why the two rows of `task` cannot train as one on the arrays that `few` cut; empty where they can."""
    first, second = task.rows

    def build(row: int) -> nn.Module:
        return _built(task, (first, second)[row])

    shared = not set(augmentation.OF[task.signature.modality]) & task.named
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of operations that are slow in company: those are found out by trying
            if (kept := _kept(build(0), task, arrays)) > _MOST_KEPT:
                return f"a step keeps {kept / 1e6:,.0f} MB for its backward pass, too much for several at once"
            example = torch.as_tensor(arrays.train_inputs[:EXAMPLES])
            return unsteady(build, example, shared=shared) or _proved(task, arrays)
    except _KeptTensorError as error:
        return str(error)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - functorch raises whatever an operation that it cannot run raises
        return "two copies take more memory than there is" if out_of_memory(error) else _reason(error, build)


def _kept(network: nn.Module, task: Task, arrays: Arrays) -> int:
    """Bytes that a training step keeps between forward and backward."""
    total = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        network.train()(torch.as_tensor(arrays.train_inputs[: task.rows[0].config.batch_size]))
    return total


def _built(task: Task, row: Row) -> nn.Module:
    with seeded(derive(row.seed, "weights")):
        return models.build(task.family, task.signature, row.network, Path(task.folder))


_SAID = {  # part of what torch says of an operation that does not run under vmap → the reason in plain words
    "randomness error mode": "it draws random numbers of its own",
    "data-dependent control flow": "it branches on the values of a tensor",
    "calling .item()": "it reads a tensor's value with .item()",
    "Cannot access data pointer": "it reads a tensor's values into Python",
}


def _reason(error: BaseException, build: Callable[[int], nn.Module]) -> str:
    """What torch said, in plain words, and what to use instead of layers of torch's that draw random numbers."""
    text = told(error)
    for part, reason in _SAID.items():
        if part in text:
            place = text[text.rindex(" (") :] if text.endswith(")") else ""
            drawing = sorted({f"nn.{type(m).__name__}" for m in build(0).modules() if "Dropout" in type(m).__name__})
            if "random" in reason:
                named = f" ({', '.join(drawing)})" if drawing else ""
                return f"{reason}{named}{place}; where that is dropout, use tuner.models.layers.Dropout"
            return reason + place
    return text


def few(task: Task, train_inputs: Any, train_targets: Any, inputs: Any, targets: Any) -> Arrays:
    """Of these arrays the first training rows: full batches, and a last one of the size that an epoch's has; and some
    of validation, copied to the CPU's memory."""
    batch, rows = task.rows[0].config.batch_size, len(train_inputs)
    train, validation = slice(min(rows, _STEPS * batch + rows % batch)), slice(_VALIDATED)
    cuts = ((train_inputs, train), (train_targets, train), (inputs, validation), (targets, validation))
    return Arrays(*(torch.as_tensor(np.asarray(values[part]).copy()) for values, part in cuts))


def _proved(task: Task, arrays: Arrays, *, gently: bool = False) -> str:
    """What differs after an epoch on these few rows."""
    try:
        alone = [_trained(task, arrays, [row], torch.float64)[0] for row in (0, 1)]
        dtype = torch.float64
    except (Exception, SystemExit) as error:
        if out_of_memory(error):
            raise
        dtype = torch.float32  # a network with types of its own
        alone = [_trained(task, arrays, [row], dtype)[0] for row in (0, 1)]
    if not all(bool(value.isfinite().all()) for _, after in alone for value in after.values()) and not gently:
        slow = [replace(row, config=replace(row.config, learning_rate=_GENTLE, warmup=0.0)) for row in task.rows]
        return _proved(replace(task, rows=tuple(slow)), arrays, gently=True)  # numbers that run away prove nothing
    pair = _trained(task, arrays, [0, 1], dtype)
    for (before, one), (_, two) in zip(alone, pair, strict=True):
        if one.keys() != two.keys():
            return "it has other parameters or buffers in company than alone"
        changes = [(one[name] - before[name]).abs().max() for name in one if name in before and _moves(one[name])]
        allowed = _TOLERANCE[dtype] * float(max(changes, default=torch.zeros(())))
        for name, value in one.items():
            if not torch.allclose(two[name].double(), value.double(), rtol=1e-9, atol=allowed, equal_nan=True):
                return f"{name} trains otherwise in company than alone"
    return ""


def _moves(value: Tensor) -> bool:
    return value.is_floating_point() and value.numel() > 0


State = dict[str, Tensor]


def _trained(task: Task, arrays: Arrays, rows: list[int], dtype: torch.dtype) -> list[tuple[State, State]]:
    """Each of these rows before and after an epoch on `arrays`, and its metrics: alone, or in company."""
    chosen = replace(task, rows=tuple(task.rows[row] for row in rows), company=len(rows) > 1, rungs=frozenset())
    values = (arrays.train_inputs[:], arrays.train_targets, arrays.inputs[:], arrays.targets)
    training = Training(chosen, Arrays(*(x.to(dtype) if x.is_floating_point() else x for x in values)), dtype)
    numbers = [row.number for row in training.rows]  # sorted by their rules
    state = training.stack.state()
    before = [{n: v.clone() for n, v in training.stack.weights(state, i).items()} for i in range(len(rows))]
    epoch = next(event for event in training.run() if isinstance(event, Epoch))
    if len(rows) > 1 and (attribute := attributes.wrapped(training.stack.base)):
        raise _KeptTensorError(f"it keeps a tensor in the plain attribute {attribute}; register it as a buffer")
    found = []
    for row in rows:
        index = numbers.index(task.rows[row].number)
        after = dict(training.stack.weights(training.stack.state(), index))
        metrics = epoch.metrics.get(task.rows[row].number, {})
        found.append((before[index], after | {name: torch.tensor(value) for name, value in metrics.items()}))
    return found
