"""The facts of a study: trials, cohorts, and the events that the ledger stores about them.

Plain frozen values; everything in them is JSON. Knows nothing of how trials are asked, trained or stored.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Value = bool | int | float | str
Params = Mapping[str, Value]
Objective = tuple[str, bool]  # a metric, and whether more of it is better

STUDY_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")  # what a name keeps to, so that it can become a folder


class Kind(StrEnum):
    """What an event says. Every event has a body; what stands in it is written beside each kind."""

    CREATED = "created"  # study: spec, digest, text, seed, id, data, network (study.py writes them)
    EXTENDED = "extended"  # study: spec, digest, text (more trials)
    # a driver took the study up: host, pid, tracking (where MLflow is), machine, network (where its file has changed)
    OPENED = "opened"
    ASKING = "asking"  # study: count (of the window that was begun before this, and is not asked yet)
    ASKED = "asked"  # trial: params, seed
    GROUPED = "grouped"  # cohort: trials, structure, company
    STARTED = "started"  # cohort: attempt, worker, trials, epoch (0, or where the checkpoint resumes)
    REPORTED = "reported"  # trial, epoch: metrics, seconds
    PRUNED = "pruned"  # trial: epoch
    FINISHED = "finished"  # trial: epochs, best_epoch
    FAILED = "failed"  # trial: message, traceback (where a network raised)
    LOST = "lost"  # cohort: attempt, message (a worker died; the cohort goes on elsewhere)
    TESTED = "tested"  # trial: metrics on the test split
    COMPLETED = "completed"  # study: message, state ("complete" or "failed")
    INTERRUPTED = "interrupted"  # study: message


TERMINAL = frozenset({Kind.PRUNED, Kind.FINISHED, Kind.FAILED})


@dataclass(frozen=True, slots=True)
class Event:
    """One fact. `seq` (from 1) and `time` (seconds since 1970) are set by the ledger when it is stored."""

    kind: Kind
    body: Mapping[str, Any] = field(default_factory=dict)
    trial: int | None = None
    cohort: int | None = None
    epoch: int | None = None
    seq: int = 0
    time: float = 0.0


class State(StrEnum):
    """Where a trial stands, as people see it."""

    WAITING = "WAITING"
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Trial:
    """One assignment of hyperparameters. `params` holds the searched ones that are active, in the space's order."""

    number: int
    params: Params
    seed: int


@dataclass(frozen=True, slots=True)
class Cohort:
    """Trials of equal structure that train as one network; `company` False where the structure trains alone."""

    number: int
    trials: tuple[Trial, ...]
    structure: Mapping[str, Value]
    company: bool

    def grouped(self) -> Event:
        """The event that makes it known."""
        trials = [trial.number for trial in self.trials]
        body = {"trials": trials, "structure": dict(self.structure), "company": self.company}
        return Event(Kind.GROUPED, body, cohort=self.number)


def derive(*parts: object) -> int:
    """A 31-bit integer that depends on every part and their order, the same on every machine: a seed."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "little") >> 1
