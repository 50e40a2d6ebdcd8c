"""Which training rows stand in which batch: one order for every trial of a study.

Knows numpy and torch alone. Must never know a trial's own seed or hyperparameters other than the
batch size, so that trials are compared on the same batches and a cohort gathers each batch once.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from tuner.seeds import derive

_ALIGNMENT = 64  # bytes: a line of a processor's cache, and where torch lets its own tensors begin


def order(seed: int, batch_size: int, epoch: int, rows: int) -> Tensor:
    """The order in which `rows` training rows are visited in `epoch`: int64 [rows], a permutation, on the CPU.

    Depends on nothing but the arguments. Batch s is `order[s * batch_size : (s + 1) * batch_size]`.
    PCG64's raw words are the part of numpy's random numbers that is promised never to change.
    """
    words = np.random.PCG64(derive(seed, "batches", batch_size, epoch)).random_raw(rows)
    return torch.from_numpy(np.argsort(words, kind="stable"))


def steps(rows: int, batch_size: int, *, drop_last: bool = False) -> int:
    """Batches per epoch. Every row is used once; the last batch holds what is left over, unless it is dropped."""
    return max(1, rows // batch_size) if drop_last else -(-rows // batch_size)


class Mapped:
    """Inputs mapped from a file, given out on the device as they are asked for: [N, …] as a tensor would be."""

    def __init__(self, values: np.ndarray, device: torch.device) -> None:
        self.device = device
        self._values = torch.from_numpy(values)

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        chosen = rows if isinstance(rows, slice) else rows.cpu()
        return self._values[chosen].clone(memory_format=torch.contiguous_format).to(self.device)


def place(inputs: np.ndarray, device: torch.device) -> Tensor | Mapped:
    """Inputs on the device, or, where they are mapped from a file, what gives them out."""
    return Mapped(inputs, device) if isinstance(inputs, np.memmap) else laid(inputs, device)


def laid(values: np.ndarray, device: torch.device) -> Tensor:
    """The same values on the device, row-major from an aligned start; copied only if they do not lie so already.

    Kernels choose their way by strides, even those of an axis of length one, and by alignment; bits differ with it.
    Both depend on how an array came: read from a file, sent through Ray, shared by the workers of a node.
    """
    tensor = torch.as_tensor(values).to(device)
    strides = torch.empty(tensor.shape, device="meta").stride()
    if tensor.stride() == strides and tensor.data_ptr() % _ALIGNMENT == 0:
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=device).copy_(tensor)


def visit(inputs: Tensor | Mapped, order: Tensor, batch_size: int, first: int) -> Iterator[tuple[Tensor, ...]]:
    """The row numbers of each batch from number `first` on, and with them, of mapped ones, their inputs.

    A mapped batch is read while its forerunner trains.
    """
    chosen = [order[start : start + batch_size] for start in range(first * batch_size, len(order), batch_size)]
    if not isinstance(inputs, Mapped):
        yield from ((rows,) for rows in chosen)
        return
    with ThreadPoolExecutor(1) as reader:
        coming = [reader.submit(inputs.__getitem__, rows) for rows in chosen[:1]]
        for rows, following in zip(chosen, [*chosen[1:], None], strict=True):
            x = coming.pop().result()
            if following is not None:
                coming.append(reader.submit(inputs.__getitem__, following))
            yield rows, x
