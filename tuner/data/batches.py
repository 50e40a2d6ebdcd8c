"""Which training rows stand in which batch: one order for every trial of a study.

Knows numpy and torch alone. Must never know a trial's own seed or hyperparameters other than the
batch size, so that trials are compared on the same batches and a cohort gathers each batch once.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tuner.trial import derive


def order(seed: int, batch_size: int, epoch: int, rows: int) -> Tensor:
    """The order in which `rows` training rows are visited in `epoch`: int64 [rows], a permutation, on the CPU.

    Depends on nothing but the arguments. Batch s is `order[s * batch_size : (s + 1) * batch_size]`.
    PCG64's raw words are the part of numpy's random numbers that is promised never to change.
    """
    words = np.random.PCG64(derive(seed, "batches", batch_size, epoch)).random_raw(rows)
    return torch.from_numpy(np.argsort(words, kind="stable"))


def steps(rows: int, batch_size: int) -> int:
    """Batches per epoch. Every row is used once; the last batch holds what is left over."""
    return -(-rows // batch_size)
