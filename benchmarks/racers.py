"""A process that trains on a word: cohorts through Tuner's training loop, or one network after another in PyTorch.

    python racers.py --threads 1

Jobs come as lines of JSON on stdin. For each, what is to be trained is built and warmed up, and "ready" said; the next
line begins the race, or calls it off; the outcome is a line of JSON. `harness.Crew` is the other side. Only what a job
trains with is imported: a peer's process runs without Tuner's settings of the libraries below.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import shapes
import torch
from harness import OUT_OF_MEMORY
from shapes import SHAPES, Shape, Trial

if TYPE_CHECKING:
    from tuner.training.loop import Training

READY, BEGIN = "ready", "begin\n"
ALONE = 1  # a cohort of one: the structure trains alone, as the cost model may decide
FOR_EVER = 100_000  # epochs
_PRODUCT = 512  # side of the matrices whose product tells the machine's rate: three of them stay in a core's cache

Laps = Iterator[int]  # the trial-steps of each lap: whole epochs, with their evaluation


@lru_cache
def tensors(inputs: tuple[int, ...], rows: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Inputs and classes to learn from, and to validate on; once for all trials of a process."""
    return tuple(torch.from_numpy(part).to(device) for part in vars(shapes.draw(inputs, rows)).values())


# --- Tuner ----------------------------------------------------------------------------------------


def cohort(trials: Sequence[Trial], epochs: int, device: torch.device, *, company: bool) -> Training:
    """Trials of one shape as Tuner's workers train them."""
    from tuner.models.interface import CLASSIFICATION, Signature
    from tuner.training.config import TrainConfig
    from tuner.training.loop import Arrays, Row, Task, Training

    shape = trials[0].shape
    rows = []
    for one in trials:
        config = TrainConfig(
            epochs=epochs, batch_size=shape.batch, optimizer=one.optimizer, learning_rate=one.learning_rate
        )
        rows.append(Row(one.number, one.number, {**shape.network, "dropout": one.dropout}, config))
    task = Task(
        rows=tuple(rows),
        family=shape.family,
        signature=Signature(CLASSIFICATION, shape.modality, shape.inputs, shapes.CLASSES),
        company=company,
        seed=1,
        metric="val/accuracy",
        maximize=True,
        named=frozenset({"epochs", "batch_size", "optimizer", "learning_rate"}),
    )
    return Training(task, Arrays(*tensors(shape.inputs, shape.rows, device)))


def chosen(shape: Shape, device: str = "cpu") -> int:
    """The rows of a cohort that Tuner's cost model gives a study's structure of this shape."""
    from tuner import models
    from tuner.models.interface import CLASSIFICATION, Signature
    from tuner.training import cohort_size

    if not cohort_size.company(shape.family, shape.network, device, shape.modality):
        return ALONE
    signature = Signature(CLASSIFICATION, shape.modality, shape.inputs, shapes.CLASSES)
    network = models.build(shape.family, signature, shape.network)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return cohort_size.largest(shape.family, parameters, device, shape.inputs)


def tuner(job: Mapping[str, Any], device: torch.device) -> Laps:
    """Cohorts of `rows` trials; of one row, two cohorts in turn, so that both optimizers have their share.

    A cohort of one trains as a structure does that always trains alone.
    """
    from tuner.workloads.base import Epoch

    shape, size = SHAPES[job["shape"]], job["rows"]
    trials = shapes.alike(shape, max(size, 2))
    cohorts = [
        cohort(trials[first : first + size], FOR_EVER, device, company=size > 1).run()
        for first in range(0, len(trials), size)
    ]
    while True:
        for running in cohorts:
            epoch = next(event for event in running if isinstance(event, Epoch))
            if epoch.failed:
                raise RuntimeError(f"{shape.label}: {epoch.failed}")
        yield shape.steps * len(trials)


def tuner_study(job: Mapping[str, Any], device: torch.device) -> Laps:
    """A study's trials to their end, in cohorts as large as the cost model makes them; where memory ends, halves."""
    from tuner.workloads.base import Epoch

    trials = shapes.study(job["trials"], job["seed"])
    groups: dict[str, list[Trial]] = {}
    for one in trials:
        groups.setdefault(one.shape.label, []).append(one)
    cohorts = []
    for group in groups.values():
        size = chosen(group[0].shape, device.type)
        cohorts += [group[first : first + size] for first in range(0, len(group), size)]

    def train(rows: Sequence[Trial], epochs: int = job["epochs"]) -> int:
        events = cohort(rows, epochs, device, company=chosen(rows[0].shape, device.type) > ALONE).run()
        return rows[0].shape.steps * sum(len(event.metrics) for event in events if isinstance(event, Epoch))

    train(trials[:1], 1)
    yield 0
    yield halving(cohorts, train)


def halving(cohorts: Sequence[Sequence[Trial]], train: Callable[[Sequence[Trial]], int]) -> int:
    """Train all of them, one that does not fit into memory as two of half the size; the sum of what `train` returns.

    Raises torch.OutOfMemoryError where even a single trial does not fit.
    """
    waiting, done = deque(cohorts), 0
    while waiting:
        rows = waiting.popleft()
        steps = attempt(lambda rows=rows: train(rows))
        if steps != OUT_OF_MEMORY:
            done += steps
        elif len(rows) == 1:
            raise torch.OutOfMemoryError(f"{rows[0].shape.label}: not even one trial fits")
        else:
            middle = len(rows) // 2
            waiting.extendleft((rows[middle:], rows[:middle]))
    return done


# --- plain PyTorch --------------------------------------------------------------------------------


def network(one: Trial, device: torch.device, *, fused: bool) -> Iterator[dict[str, float]]:
    """One trial's epochs."""
    from peers import plain

    shape = one.shape
    make = plain.NETWORKS[shape.family]
    module = make(shape.inputs, shapes.CLASSES, **plain.settings(shape.network), dropout=one.dropout).to(device)
    optimizer = plain.optimizer(one.optimizer, module, one.learning_rate, fused=fused or None)
    return plain.train(module, optimizer, shape.batch, tensors(shape.inputs, shape.rows, device))


def plain(job: Mapping[str, Any], device: torch.device) -> Laps:
    """One network with adam and one with sgd, an epoch each in turn."""
    shape: Shape = SHAPES[job["shape"]]
    trainings = [network(one, device, fused=job["fused"]) for one in shapes.alike(shape, 2)]
    while True:
        for training in trainings:
            next(training)
        yield shape.steps * len(trainings)


def plain_study(job: Mapping[str, Any], device: torch.device) -> Laps:
    """A study's trials one by one, or this process's share of them."""
    trials = shapes.study(job["trials"], job["seed"])[:: job["every"]][job["number"] :: job["processes"]]
    next(network(trials[0], device, fused=True))
    yield 0
    for one in trials:
        training = network(one, device, fused=True)
        for _ in range(job["epochs"]):
            next(training)
    yield sum(one.shape.steps for one in trials) * job["epochs"]


# --- the race -------------------------------------------------------------------------------------


def products(_job: Mapping[str, Any], device: torch.device) -> Laps:
    """Matrix products and nothing else, as cohorts are multiplied; a lap is one product's multiply-adds."""
    from tuner.training.replay import blas as tuners
    from tuner.training.replay.out_variants import aten

    one, other, target = torch.randn(3, 1, _PRODUCT, _PRODUCT, device=device)
    torchs = [(torch.bmm, (one, other), {"out": target})]
    ((multiply, factors, place),) = tuners.calls(aten.bmm.default, (one, other), {}, target) or torchs
    while True:
        multiply(*factors, **place)
        yield _PRODUCT**3


WORK: Mapping[str, Callable[[Mapping[str, Any], torch.device], Laps]] = {
    "tuner": tuner,
    "plain": plain,
    "products": products,
    "tuner-study": tuner_study,
    "plain-study": plain_study,
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
    parser.add_argument("--number", type=int, default=0, help="which of its crew this process is, from 0")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    torch.manual_seed(0)
    for line in sys.stdin:
        job = {**json.loads(line), "number": given.number}
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
        gc.collect()  # what the failed attempt held in circles
        return OUT_OF_MEMORY


def say(word: object) -> None:
    print(json.dumps(word), flush=True)


if __name__ == "__main__":
    main()
