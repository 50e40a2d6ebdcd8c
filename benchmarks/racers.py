"""A process that trains on a word: cohorts through Tuner's training loop, or one network after another in plain PyTorch.

    python racers.py --threads 1

Jobs come as lines of JSON on stdin. For each, what is to be trained is built and warmed up, and "ready" said; the
next line begins the race, or calls it off; the outcome is a line of JSON. `harness.Crew` is the other side. Only what a process
trains with is imported into it: a peer runs without Tuner's settings of the libraries below.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import shapes
import torch
from harness import OUT_OF_MEMORY

READY, BEGIN = "ready", "begin\n"
_PRODUCT = 512  # side of the matrices whose product tells the machine's rate: three of them stay in a core's cache

Laps = Iterator[int]  # the trial-steps of each lap: whole epochs, with their evaluation


def tuner(job: Mapping[str, Any], device: torch.device) -> Laps:
    """Cohorts of `rows` trials, half of them with adam and half with sgd; of one row, two cohorts in turn.

    A cohort of one trains as a structure does that always trains alone.
    """
    from models.interface import CLASSIFICATION, Signature
    from tuner.training.config import TrainConfig
    from tuner.training.loop import Arrays, Epoch, Row, Task, Training

    shape, rows = shapes.SHAPES[job["shape"]], job["rows"]
    drawn = shapes.draw(shape)
    arrays = Arrays(
        *(torch.from_numpy(part).to(device) for part in (drawn.train_inputs, drawn.train_targets)),
        *(torch.from_numpy(part).to(device) for part in (drawn.inputs, drawn.targets)),
    )

    def row(number: int) -> Row:
        optimizer = list(shapes.LEARNING_RATES)[number % 2]
        config = TrainConfig(
            epochs=100_000,
            batch_size=shape.batch,
            optimizer=optimizer,
            learning_rate=shapes.LEARNING_RATES[optimizer],
        )
        return Row(number, number, {**shape.network, "dropout": shapes.RATES[number // 2 % 2]}, config)

    numbers = list(range(max(rows, 2)))
    trainings = [
        Training(
            Task(
                cohort=first,
                rows=tuple(map(row, numbers[first : first + rows])),
                family=shape.family,
                signature=Signature(CLASSIFICATION, shape.modality, shape.inputs, shapes.CLASSES),
                company=rows > 1,
                seed=1,
                metric="val/accuracy",
                maximize=True,
                named=frozenset({"epochs", "batch_size", "optimizer", "learning_rate"}),
            ),
            arrays,
        )
        for first in range(0, len(numbers), rows)
    ]
    cohorts = [training.run() for training in trainings]
    while True:
        for cohort in cohorts:
            epoch = next(event for event in cohort if isinstance(event, Epoch))
            if epoch.failed:
                raise RuntimeError(f"{shape.label}: {epoch.failed}")
        yield shape.steps * len(numbers)


def plain(job: Mapping[str, Any], device: torch.device) -> Laps:
    """One network with adam and one with sgd, an epoch each in turn."""
    from peers import plain

    shape = shapes.SHAPES[job["shape"]]
    drawn = shapes.draw(shape)
    data = tuple(torch.from_numpy(part).to(device) for part in vars(drawn).values())
    trainings = []
    for rate, (name, learning_rate) in zip(shapes.RATES, shapes.LEARNING_RATES.items(), strict=True):
        make = plain.NETWORKS[shape.family]
        network = make(shape.inputs, shapes.CLASSES, **plain.settings(shape.network), dropout=rate).to(device)
        optimizer = plain.optimizer(name, network, learning_rate, fused=job["fused"] or None)
        trainings.append(plain.train(network, optimizer, shape.batch, data))
    while True:
        for training in trainings:
            next(training)
        yield shape.steps * len(trainings)


def products(job: Mapping[str, Any], device: torch.device) -> Laps:
    """Matrix products and nothing else; a lap is one product's multiply-adds."""
    one, other = torch.randn(2, _PRODUCT, _PRODUCT, device=device)
    target = torch.empty(_PRODUCT, _PRODUCT, device=device)
    while True:
        torch.mm(one, other, out=target)
        yield _PRODUCT**3


WORK: Mapping[str, Callable[[Mapping[str, Any], torch.device], Laps]] = {
    "tuner": tuner,
    "plain": plain,
    "products": products,
}


def race(laps: Laps, seconds: float, device: torch.device) -> dict[str, float]:
    """Whole laps until the time is over, one at least: what was done, and how long it took."""
    settle(device)
    clock, done, took = time.perf_counter(), 0, 0.0
    while took < seconds or not done:
        done += next(laps)
        settle(device)
        took = time.perf_counter() - clock
    return {"done": done, "seconds": took}


def settle(device: torch.device) -> None:
    """Wait until a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    torch.manual_seed(0)
    for line in sys.stdin:
        job = json.loads(line)
        laps = attempt(lambda job=job: start(job, device))
        say(laps if laps == OUT_OF_MEMORY else READY)
        if sys.stdin.readline() == BEGIN:
            say(attempt(lambda job=job, laps=laps: race(laps, job["seconds"], device)))
        del laps
        if device.type == "cuda":
            torch.cuda.empty_cache()


def start(job: Mapping[str, Any], device: torch.device) -> Laps:
    """The job, its first lap behind it."""
    laps = WORK[job["work"]](job, device)
    next(laps)
    return laps


def attempt(action: Callable[[], Any]) -> Any:
    """What the action returns, or the word for too little memory."""
    try:
        return action()
    except torch.OutOfMemoryError:
        return OUT_OF_MEMORY


def say(word: object) -> None:
    print(json.dumps(word), flush=True)


if __name__ == "__main__":
    main()
