"""Studies told by hand: ledgers whose events a test writes one by one, for what reads ledgers."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tuner.events import (
    Asked,
    Completed,
    Created,
    Event,
    Extended,
    Failed,
    Finished,
    Grouped,
    Interrupted,
    Opened,
    Pruned,
    Reported,
    Started,
    Tested,
)
from tuner.ledger import Ledger, study_folder

DATA = {
    "name": "digits",
    "digest": "0123456789abcdef" * 4,
    "split": "fedcba9876543210" * 4,
    "rows": {"train": 10, "validation": 5, "test": 5},
    "signature": {"task": "classification", "modality": "numbers", "inputs": [64], "outputs": 10, "vocabulary": None},
}


def spec(name: str, trials: int, metric: str = "val/accuracy", goal: str = "maximize") -> dict[str, Any]:
    """The part of a canonical spec that is shown."""
    return {
        "version": 1,
        "study": name,
        "seed": 7,
        "data": {"source": "digits"},
        "model": {"family": "mlp", "activation": "relu", "width": 16},
        "train": {"epochs": 3, "batch_size": 32, "nesterov": False, "early_stopping": None},
        "search": {
            "space": {},
            "objective": {"metric": metric, "goal": goal},
            "sampler": {"kind": "tpe"},
            "pruner": {"kind": "asha"},
            "trials": trials,
        },
    }


class Story:
    """A study of `trials` trials in two cohorts, told step by step; every step is one transaction of the ledger."""

    def __init__(self, home: Path, name: str, trials: int = 4, *, goal: str = "maximize", begin: bool = True) -> None:
        self.name, self.trials, self.goal = name, trials, goal
        self.ledger = Ledger.create(study_folder(home, name))
        self.folder = self.ledger.folder
        self._random = random.Random(name)
        if begin:
            self.begin()

    def tell(self, *events: Event) -> None:
        assert len(self.ledger.append(events)) == len(events)

    def begin(self) -> None:
        body = {
            "spec": spec(self.name, self.trials, goal=self.goal),
            "digest": "a" * 64,
            "text": f"study: {self.name}\n",
        }
        self.tell(Created(**body, seed=7, id=f"id-of-{self.name}", data=DATA))
        self.tell(Opened(host="here", pid=1))

    def extend(self, trials: int) -> None:
        self.trials = trials
        body = {"spec": spec(self.name, trials, goal=self.goal), "digest": "b" * 64, "text": f"study: {self.name} #2\n"}
        self.tell(Extended(**body), Opened(host="here", pid=2))

    def ask(self, numbers: Iterable[int]) -> None:
        self.tell(*(Asked(n, params={"learning_rate": 10.0**-n, "optimizer": "sgd"}, seed=100 + n) for n in numbers))

    def start(self, cohort: int, numbers: Sequence[int], attempt: int = 1, epoch: int = 0) -> None:
        started = {"attempt": attempt, "worker": 0, "trials": list(numbers), "epoch": epoch}
        grouped = {"trials": list(numbers), "structure": {"width": 16}, "company": True}
        events = [Started(cohort, **started)]
        self.tell(*([Grouped(cohort, **grouped)] if attempt == 1 else []), *events)

    def report(self, epoch: int, numbers: Iterable[int]) -> None:
        """Three metrics each; a diverging trial (every fourth) reports no finite loss."""
        events = []
        for n in numbers:
            metrics = {"val/accuracy": self._random.random(), "val/loss": self._random.random() / epoch}
            if n % 4 != 3:
                metrics["train/loss"] = 1.0 / epoch + n
            events.append(Reported(n, epoch, metrics=metrics, seconds=0.25))
        self.tell(*events)

    def end(self, numbers: Iterable[int]) -> None:
        """Trial n completes, is pruned or fails by the rest of n by 3."""
        ends = (lambda n: Finished(n, 3, 1), lambda n: Pruned(n, 3), lambda n: Failed(n, "loss is nan\nat step 12"))
        self.tell(*(ends[n % 3](n) for n in numbers))

    def test(self, number: int, **metrics: float) -> None:
        self.tell(Tested(number, metrics={f"test/{k}": v for k, v in metrics.items()}))

    def complete(self, state: str = "complete") -> None:
        self.tell(Completed(state=state, message=""))

    def interrupt(self) -> None:
        self.tell(Interrupted(message="SIGTERM"))

    def whole(self, epochs: int = 3) -> Story:
        """From the first trial asked to the end, in an order that cohorts have: the second one lags behind."""
        first, second = list(range(0, self.trials, 2)), list(range(1, self.trials, 2))
        self.ask(range(self.trials))
        self.start(0, first)
        self.start(1, second)
        for epoch in range(1, epochs + 1):
            self.report(epoch, first)
            if epoch > 1:
                self.report(epoch - 1, second)
        self.end(first)
        self.report(epochs, second)
        self.end(second)
        self.complete()
        return self


def instalments(story: Story) -> Iterator[None]:
    """A short study that is written in three pieces, with an interruption between them."""
    story.ask([0, 1])
    story.start(0, [0, 1])
    story.report(1, [0, 1])
    yield
    story.interrupt()
    yield
    story.start(0, [0, 1], attempt=2, epoch=1)
    story.report(2, [0, 1])
    story.end([0, 1])
    story.complete()
    yield
