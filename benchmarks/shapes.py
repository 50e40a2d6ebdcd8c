"""The shapes that `steps.py` and `gpu.py` train: networks, data drawn for them, and what a step of each must multiply.

Plain values and numpy, so that it runs where nothing but torch and numpy is installed. Must never know who trains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

CLASSES = 10
VALIDATION_SHARE = 0.25  # of the training rows
LEARNING_RATES = {"adam": 1e-3, "sgd": 1e-2}  # half of the rows each; low enough that nothing diverges
RATES = (0.1, 0.2)  # of dropout, from row to row


@dataclass(frozen=True)
class Shape:
    """`network` are Tuner's keywords. `must` is how many times a plain loop's trial-steps a cohort is to make."""

    label: str
    family: str
    network: Mapping[str, Any]
    modality: str
    inputs: tuple[int, ...]
    batch: int = 64
    must: float | None = None
    quick: bool = False
    rows: int = 1_024  # to learn from; fewer where a step is slow, so that an epoch of many trials stays short

    @property
    def steps(self) -> int:
        """Of one epoch."""
        return -(-self.rows // self.batch)


def _mlp(width: int, depth: int, batch: int, must: float | None, *, quick: bool = False) -> Shape:
    network = {"width": width, "depth": depth, "activation": "relu"}
    return Shape(f"MLP {width}×{depth}, batch {batch}", "mlp", network, "numbers", (64,), batch, must, quick)


def _rnn(cell: str, time: int, *, quick: bool = False) -> Shape:
    network = {"cell": cell, "width": 32, "depth": 1, "readout": "last"}
    return Shape(
        f"{cell.upper()} 32, {time} steps of {time}", "rnn", network, "sequence", (time, time), must=2.5, quick=quick
    )


def _transformer(time: int, *, quick: bool = False) -> Shape:
    network = {"width": 32, "depth": 2, "heads": 4, "readout": "mean"}
    return Shape(
        f"transformer 32×2, {time} steps",
        "transformer",
        network,
        "sequence",
        (time, 8),
        must=2.0,
        quick=quick,
        rows=256,
    )


def _cnn(width: int, must: float | None, *, quick: bool = False) -> Shape:
    network = {"width": width, "depth": 2, "kernel": 3, "activation": "relu"}
    return Shape(f"CNN {width}, 28×28", "cnn", network, "image", (1, 28, 28), must=must, quick=quick, rows=256)


SHAPES = {
    "mlp-64x2": _mlp(64, 2, 64, 6.0, quick=True),
    "mlp-128x3": _mlp(128, 3, 128, 2.2, quick=True),
    "mlp-128x3-64": _mlp(128, 3, 64, 2.2),
    "mlp-32x1": _mlp(32, 1, 64, None),
    "lstm-8": _rnn("lstm", 8, quick=True),
    "lstm-28": _rnn("lstm", 28),
    "gru-8": _rnn("gru", 8, quick=True),
    "gru-28": _rnn("gru", 28),
    "transformer-16": _transformer(16, quick=True),
    "transformer-32": _transformer(32),
    "cnn-8": _cnn(8, 1.2, quick=True),
    "cnn-16": _cnn(16, None),
}


@dataclass(frozen=True)
class Examples:
    """float32 inputs [N, *shape.inputs], int64 classes [N]."""

    train_inputs: np.ndarray
    train_targets: np.ndarray
    inputs: np.ndarray
    targets: np.ndarray


def draw(inputs_shape: tuple[int, ...], rows: int, seed: int = 0) -> Examples:
    """A centre for each class and noise around it: something to learn, the same for everybody."""
    random = np.random.default_rng(seed)
    count = rows + int(rows * VALIDATION_SHARE)
    targets = random.integers(0, CLASSES, count)
    centres = random.standard_normal((CLASSES, *inputs_shape))
    inputs = (0.5 * centres[targets] + random.standard_normal((count, *inputs_shape))).astype(np.float32)
    return Examples(inputs[:rows], targets[:rows], inputs[rows:], targets[rows:])


@dataclass(frozen=True)
class Trial:
    """One trial's shape and what else it chose. `number` is its seed as well."""

    number: int
    shape: Shape
    dropout: float
    optimizer: str
    learning_rate: float


def alike(shape: Shape, count: int) -> list[Trial]:
    """So many trials of one shape: half of them with adam and half with sgd, two rates of dropout."""
    optimizers = list(LEARNING_RATES.items())
    return [Trial(number, shape, RATES[number // 2 % 2], *optimizers[number % 2]) for number in range(count)]


def study(count: int, seed: int) -> list[Trial]:
    """The trials that independent sampling makes of the space of `study.py`."""
    random = np.random.default_rng(seed)
    trials = []
    for number in range(count):
        width, depth, batch = (int(random.choice(values)) for values in ((32, 64, 128), (1, 2, 3), (32, 64, 128)))
        optimizer = str(random.choice(["sgd", "adam"]))
        rate = 10.0 ** random.uniform(-4, -1)
        trials.append(Trial(number, _mlp(width, depth, batch, None), random.uniform(0, 0.5), optimizer, rate))
    return trials


# --- what a step must multiply --------------------------------------------------------------------


def multiply_adds(shape: Shape) -> int:
    """Of one trial-step's matrix products, forward and backward, as if nothing else took time.

    A product has two more of its size behind it, for the gradients of its weights and of its inputs; what reads the
    data needs no gradient of its inputs.
    """
    first, rest = _FORWARD[shape.family](shape)
    return shape.batch * (2 * first + 3 * rest)


def _mlp_forward(shape: Shape) -> tuple[int, int]:
    width, depth = shape.network["width"], shape.network["depth"]
    return math.prod(shape.inputs) * width, (depth - 1) * width**2 + width * CLASSES


def _rnn_forward(shape: Shape) -> tuple[int, int]:
    (time, features), width = shape.inputs, shape.network["width"]
    gates = {"lstm": 4, "gru": 3}[shape.network["cell"]] * width
    return time * features * gates, time * width * gates + width * CLASSES


def _transformer_forward(shape: Shape) -> tuple[int, int]:
    (time, features), width = shape.inputs, shape.network["width"]
    linear = (3 + 1 + 2 * 4) * width**2  # query, key and value; the way out; a feed-forward 4 times as wide
    attention = 2 * time * width  # scores, and the values that they weigh
    return time * features * width, shape.network["depth"] * time * (linear + attention) + width * CLASSES


def _cnn_forward(shape: Shape) -> tuple[int, int]:
    channels, height, breadth = shape.inputs
    products = []
    for block in range(shape.network["depth"]):
        wide = shape.network["width"] << block
        products.append(height * breadth * shape.network["kernel"] ** 2 * channels * wide)
        channels, height, breadth = wide, height // 2, breadth // 2
    return products[0], sum(products[1:]) + channels * height * breadth * CLASSES


_FORWARD: Mapping[str, Callable[[Shape], tuple[int, int]]] = {  # per example: (what reads the data, everything else)
    "mlp": _mlp_forward,
    "rnn": _rnn_forward,
    "transformer": _transformer_forward,
    "cnn": _cnn_forward,
}
