"""What a worker and its driver say to one another, whatever carries it.

Plain frozen values. A worker reports in the order in which things happened; it waits for an answer
only where its report says so, and before a checkpoint, so that no checkpoint is ahead of the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tuner.workloads.base import Job


@dataclass(frozen=True)
class Answer:
    """To a `Report` or a `Flush`: everything said so far is stored; leave these trials."""

    stop: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Stop:
    """Save the cohort now and leave it."""


@dataclass(frozen=True)
class Ready:
    """The worker has its data."""

    worker: int


@dataclass(frozen=True)
class Alive:
    """The worker lives: the cohort makes progress, or waits for room on a disk; `share` of its epoch is trained."""

    cohort: int
    attempt: int
    share: float = 0.0


@dataclass(frozen=True)
class Started:
    """The cohort is being trained, from `epoch` on; `notes` tell of checkpoints that could not be used."""

    cohort: int
    attempt: int
    worker: int
    epoch: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """One epoch of a cohort; of its `undecided` trials, where there are any, an `Answer` decides who goes on."""

    cohort: int
    attempt: int
    epoch: int
    metrics: Mapping[int, Mapping[str, float]]
    failed: Mapping[int, str]
    seconds: float
    undecided: frozenset[int]

    @property
    def waits(self) -> bool:
        return bool(self.undecided)


@dataclass(frozen=True)
class Ended:
    """A trial reached its end; what is kept of it is on disk."""

    cohort: int
    attempt: int
    trial: int
    epochs: int
    best_epoch: int


@dataclass(frozen=True)
class Flush:
    """The worker is about to write a checkpoint and waits for an `Answer`."""

    cohort: int
    attempt: int


@dataclass(frozen=True)
class Done:
    """No trial of the cohort is left, or (`saved`) it was left at a driver's wish after a checkpoint."""

    cohort: int
    attempt: int
    saved: bool = False


@dataclass(frozen=True)
class Trouble:
    """The cohort cannot go on here: for want of memory, for a fault of the `machine`, or of its code."""

    cohort: int
    attempt: int
    memory: bool
    message: str
    machine: bool = False
    trace: str = field(default="", repr=False)  # the whole traceback, where a person's code raised


@dataclass(frozen=True)
class Lost:
    """Made by the executor: the worker that had this cohort (None: was idle) is gone."""

    cohort: int | None
    attempt: int
    message: str


@dataclass(frozen=True)
class Notice:
    """Something a person should read while the work goes on."""

    message: str


Message = Ready | Alive | Started | Report | Ended | Flush | Done | Trouble | Lost | Notice


class Executor(Protocol):
    """Workers, as the study loop sees them. At most `workers` cohorts are submitted and not done."""

    @property
    def workers(self) -> int:
        """How many there are, or are about to be."""

    def submit(self, job: Job) -> None: ...

    def receive(self, timeout: float) -> Sequence[Message]:
        """What workers said since the last call, each one's words in their order; waits at most `timeout` seconds."""

    def answer(self, cohort: int, answer: Answer) -> None: ...

    def stop(self) -> None:
        """Ask every worker to save its cohort; each answers `Done(saved=True)`."""

    def close(self) -> None:
        """End all workers now."""
