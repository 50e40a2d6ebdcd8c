"""The reference work in plain PyTorch: scikit-learn's digits, one multilayer perceptron, one trial.

What the peers train. Split and normalisation are Tuner's own, so that all learn from the same rows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import plain
import torch

from tuner import data


def note(moment: str) -> None:
    """Write down when something happened, for a benchmark that asks for it by the name of a file."""
    if place := os.environ.get("MOMENTS"):
        with open(place, "a") as file:  # noqa: PTH123 - one short line, whole whoever writes beside us
            file.write(f"{moment} {time.time()}\n")


def load(seed: int) -> data.Dataset:
    return data.load("digits", validation=0.2, test=0.2, seed=seed)


def train(
    params: Mapping[str, Any], digits: data.Dataset, epochs: int, seed: int, *, fused: bool | None = None
) -> Iterator[dict[str, float]]:
    """One trial; its metrics after each epoch. `fused` asks torch.optim for its one-kernel update."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    splits = (digits.train, digits.validation)
    tensors = tuple(torch.as_tensor(part) for split in splits for part in (split.inputs, split.targets))
    shape = {name: params[name] for name in ("depth", "width", "dropout")}
    network = plain.MLP(digits.signature.inputs, digits.signature.outputs, **shape)
    optimizer = plain.optimizer(params["optimizer"], network, params["learning_rate"], fused=fused)
    note("step")
    yield from islice(plain.train(network, optimizer, params["batch_size"], tensors), epochs)
