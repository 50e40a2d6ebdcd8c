"""The table that every network, norm, activation, optimizer, schedule and augmentation goes through.

A new one joins by a row and gets every check: law 1 (test_law_one.py) and the float64 reference
(test_reference.py). Data are small, seeded and made here; what is learnt from them is no concern.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from tuner.models import Signature
from tuner.training.config import TrainConfig
from tuner.training.loop import Training
from tuner.training.task import Arrays, Row, Task
from tuner.workloads.base import Epoch, Finished

NUMBERS = Signature("classification", "numbers", (13,), 5)
SEQUENCES = Signature("classification", "sequence", (7, 3), 4)
UNEQUAL = Signature("classification", "sequence", (9, 4), 4, masked=True)
TEXTS = Signature("classification", "text", (11,), 3, vocabulary=9)
LENGTHS = Signature("regression", "sequence", (8, 3), 2, masked=True)
PATCHES = Signature("classification", "image", (2, 6, 8), 5)
LANGUAGE = Signature("language", "text", (10,), 8, vocabulary=8)
IMAGES = Signature("classification", "image", (2, 9, 8), 5)
TARGETS = Signature("regression", "numbers", (13,), 2)


@dataclass(frozen=True)
class Case:
    """One structure with everything fusible varied over its rows."""

    name: str
    family: str
    signature: Signature
    network: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    """strengths of augmentation, the largest of any row"""
    settings: dict[str, Any] = field(default_factory=dict)
    """settings of training that all rows share"""


CASES = [
    Case("mlp", "mlp", NUMBERS, {"width": 33, "depth": 2}),
    # odd sizes put rows at every alignment
    Case("mlp-odd", "mlp", Signature("classification", "numbers", (37,), 10), {"width": 33, "depth": 1}),
    Case("mlp-linear", "mlp", NUMBERS, {"depth": 0}),
    Case("mlp-sigmoid", "mlp", NUMBERS, {"width": 7, "depth": 3, "activation": "sigmoid"}),
    Case("mlp-tanh-layer", "mlp", NUMBERS, {"width": 16, "depth": 2, "activation": "tanh", "norm": "layer"}),
    Case("mlp-gelu", "mlp", IMAGES, {"width": 20, "depth": 1, "activation": "gelu"}, {"shift": 1.5, "flip": 0.5}),
    Case("mlp-silu-batch", "mlp", NUMBERS, {"width": 21, "depth": 2, "activation": "silu", "norm": "batch"}),
    Case("mlp-regression", "mlp", TARGETS, {"width": 10, "depth": 2}),
    Case("mlp-one-target", "mlp", Signature("regression", "numbers", (13,), 1), {"width": 64, "depth": 1}),
    Case("mlp-huber", "mlp", TARGETS, {"width": 9, "depth": 1}, settings={"loss": "huber"}),
    Case("cnn", "cnn", IMAGES, {"width": 4, "depth": 2}, {"noise": 0.1, "shift": 2.0, "flip": 0.3}),
    Case("cnn-turned", "cnn", IMAGES, {"width": 4, "depth": 1}, {"rotation": 30.0, "cutout": 0.6, "shift": 1.0}),
    Case("mlp-steps", "mlp", SEQUENCES, {"width": 12, "depth": 1}, {"noise": 0.2, "time_mask": 0.5}),
    Case("mlp-steps-unequal", "mlp", UNEQUAL, {"width": 11, "depth": 1}, {"noise": 0.2, "time_mask": 0.5}),
    Case("cnn-batch", "cnn", IMAGES, {"width": 3, "depth": 1, "kernel": 5, "norm": "batch"}),
    Case("cnn-layer-silu", "cnn", IMAGES, {"width": 5, "depth": 2, "norm": "layer", "activation": "silu"}),
    Case("cnn-wide", "cnn", IMAGES, {"width": 16, "depth": 2, "activation": "gelu"}),
    Case("cnn-mean", "cnn", IMAGES, {"width": 3, "depth": 1, "readout": "mean"}),
    Case("cnn-steps", "cnn", SEQUENCES, {"width": 5, "depth": 2}, {"noise": 0.1}),
    Case("cnn-steps-masked-batch", "cnn", UNEQUAL, {"width": 6, "depth": 2, "norm": "batch", "readout": "mean"}),
    Case("cnn-text", "cnn", TEXTS, {"width": 9, "depth": 1, "kernel": 5, "readout": "max", "embedding": 6}),
    Case("cnn-text-layer", "cnn", TEXTS, {"width": 4, "depth": 2, "norm": "layer", "activation": "silu"}),
    Case("mlp-steps-masked", "mlp", UNEQUAL, {"width": 11, "depth": 1}),
    Case("rnn", "rnn", SEQUENCES, {"cell": "rnn", "width": 9}, {"noise": 0.1}),
    Case("rnn-masked-last-both", "rnn", UNEQUAL, {"cell": "rnn", "width": 5, "bidirectional": True, "readout": "last"}),
    Case("lstm", "rnn", SEQUENCES, {"cell": "lstm", "width": 8, "depth": 2, "norm": "layer"}),
    Case("lstm-masked-attention", "rnn", UNEQUAL, {"cell": "lstm", "width": 7, "readout": "attention"}),
    Case("lstm-both", "rnn", SEQUENCES, {"cell": "lstm", "width": 6, "bidirectional": True, "readout": "last"}),
    Case("lstm-language", "rnn", LANGUAGE, {"cell": "lstm", "width": 10, "embedding": 5}),
    Case("gru", "rnn", SEQUENCES, {"width": 17, "readout": "attention"}, {"noise": 0.2}),
    Case("gru-text-both", "rnn", TEXTS, {"width": 6, "depth": 2, "bidirectional": True, "embedding": 7}),
    Case("gru-masked-regression", "rnn", LENGTHS, {"width": 12, "readout": "last", "norm": "layer"}),
    Case("gru-language", "rnn", LANGUAGE, {"width": 9, "depth": 2, "embedding": 4}),
    Case("transformer", "transformer", SEQUENCES, {"width": 12, "depth": 2, "heads": 3}, {"noise": 0.1}),
    Case("transformer-masked", "transformer", UNEQUAL, {"width": 10, "depth": 1, "heads": 2, "readout": "attention"}),
    Case("transformer-text", "transformer", TEXTS, {"width": 8, "depth": 2, "positions": "sinusoidal"}),
    Case("transformer-last", "transformer", LENGTHS, {"width": 9, "heads": 1, "readout": "last", "activation": "silu"}),
    Case("transformer-patches", "transformer", PATCHES, {"width": 8, "patch": 2, "depth": 1}, {"flip": 0.5}),
    # rows of whole vectors, which take torch's own sigmoid, gelu and silu; more classes than few, one without rows
    Case("mlp-whole", "mlp", Signature("classification", "numbers", (17,), 17), {"width": 64, "activation": "gelu"}),
    Case("mlp-whole-tanh", "mlp", NUMBERS, {"width": 64, "depth": 3, "activation": "tanh"}),
    Case("cnn-whole", "cnn", Signature("classification", "image", (1, 8, 8), 4), {"width": 4, "activation": "silu"}),
    Case("rnn-whole", "rnn", SEQUENCES, {"cell": "rnn", "width": 64}),
    Case("lstm-whole", "rnn", SEQUENCES, {"cell": "lstm", "width": 64}),
    Case("gru-whole-both", "rnn", UNEQUAL, {"width": 64, "bidirectional": True}),
    Case("transformer-whole", "transformer", SEQUENCES, {"width": 64, "depth": 1, "heads": 4}),
    Case("transformer-language", "transformer", LANGUAGE, {"width": 12, "depth": 2, "heads": 2, "feedforward": 2}),
]
BALANCED = {"class_weights": "balanced"}
SETTINGS: list[dict[str, Any]] = [
    {"optimizer": "sgd", "learning_rate": 0.05},
    {"optimizer": "sgd", "learning_rate": 0.02, "momentum": 0.8, "nesterov": True, "schedule": "cosine", "warmup": 1.0},
    {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.01, "l1": 1e-3, "huber_delta": 0.3},
    {
        "optimizer": "adam",
        "learning_rate": 1e-2,
        "weight_decay": 1e-3,
        "gradient_clip": 0.5,
        "class_weights": "balanced",
    },
    {
        "optimizer": "adam",
        "learning_rate": 3e-3,
        "beta1": 0.8,
        "beta2": 0.95,
        "label_smoothing": 0.1,
        "class_weights": "balanced",
    },
    {"optimizer": "adam", "learning_rate": 2e-3, "label_smoothing": 0.2, "warmup": 0.7, "huber_delta": 2.0},
    {"optimizer": "adamw", "learning_rate": 1e-2, "weight_decay": 0.1, "schedule": "step", "decay_every": 1.0},
    {"optimizer": "rmsprop", "learning_rate": 1e-3, "gradient_clip": 2.0, "l1": 1e-4},
    {"optimizer": "rmsprop", "learning_rate": 2e-3, "momentum": 0.5, "alpha": 0.9, "weight_decay": 1e-2},
]
NAMED = frozenset(name for settings in SETTINGS for name in settings)


CPU = torch.device("cpu")


def arrays(
    signature: Signature, dtype: torch.dtype = torch.float32, rows: int = 71, device: torch.device = CPU
) -> Arrays:
    """Seeded examples of that signature; 71 training rows make batches of 32, 32 and 7."""
    inputs, targets = (part.to(device) for part in _drawn(signature, dtype, rows))
    return Arrays(inputs[:rows], targets[:rows], inputs[rows:], targets[rows:])


def _drawn(signature: Signature, dtype: torch.dtype, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    count = rows + 40
    if signature.modality == "text":
        assert signature.vocabulary is not None
        inputs = torch.randint(2, signature.vocabulary, (count, *signature.inputs), generator=generator)
        if signature.task == "language":
            targets = (inputs * 3 + inputs.roll(1, 1)) % (signature.vocabulary - 1) + 1
        else:
            inputs[torch.arange(signature.inputs[0]) >= lengths(count, signature.inputs[0])] = 0
            targets = (inputs == 2).sum(1).clamp(max=signature.outputs - 1)
        return inputs, targets
    inputs = torch.randn(count, *signature.inputs, generator=generator, dtype=torch.float64)
    if signature.masked:
        real = torch.arange(signature.inputs[0]) < lengths(count, signature.inputs[0])
        inputs[..., -1] = 1.0
        inputs = inputs * real[..., None]
    summary = inputs.flatten(1)[:, : max(signature.outputs, 2)]
    if signature.task == "classification":
        targets = summary.argmax(1)
    else:
        targets = (summary[:, : signature.outputs] * 3.0 + 40.0).to(dtype)
    return inputs.to(dtype), targets


def lengths(count: int, longest: int) -> torch.Tensor:
    """Lengths from 1 to `longest`, [count, 1]."""
    return (torch.arange(count)[:, None] * 5) % longest + 1


def row(case: Case, number: int, **changes: Any) -> Row:
    """Trial `number` of a case: its settings, dropout and augmentation all differ from its neighbours'."""
    settings = {"epochs": 3, "batch_size": 32, **case.settings, **SETTINGS[number % len(SETTINGS)]}
    strengths = {name: strength * (number % 4) / 3 for name, strength in case.training.items()}
    config = TrainConfig(**{**settings, **strengths, **changes})
    return Row(number, 100 + number, {**case.network, "dropout": 0.1 * (number % 5)}, config)


def task(case: Case, rows: list[Row], *, company: bool = True, rungs: frozenset[int] = frozenset()) -> Task:
    metric = "val/rmse" if case.signature.task == "regression" else "val/accuracy"
    return Task(
        rows=tuple(rows),
        family=case.family,
        signature=case.signature,
        company=company,
        seed=7,
        metric=metric,
        maximize=metric == "val/accuracy",
        named=NAMED | frozenset(case.training) | frozenset(case.settings),
        rungs=rungs,
    )


Told = dict[int, list[Any]]  # by trial: its epochs' metrics or its failure, then its weights


def told(training: Training, into: Told | None = None, stop: dict[int, set[int]] | None = None) -> Told:
    """Run to the end and collect what every trial was told; `stop` answers epochs."""
    heard: Told = {} if into is None else into
    events = training.run()
    answer: set[int] | None = None
    while True:
        try:
            event = events.send(answer)
        except StopIteration:
            return heard
        answer = None
        if isinstance(event, Epoch):
            for number, metrics in event.metrics.items():
                heard.setdefault(number, []).append(metrics)
            for number, text in event.failed.items():
                heard.setdefault(number, []).append(text)
            answer = (stop or {}).get(event.epoch)
        elif isinstance(event, Finished):
            weights = {name: value for name, value in event.kept["weights"].items() if not name.endswith("key")}
            heard[event.number].append((event.best_epoch, weights))


def equal(one: Any, other: Any) -> bool:
    """Equal to the bit, tensors included."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)
