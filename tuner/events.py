"""The facts of a study: trials, cohorts, and the events that its ledger stores about them, one type for each kind.

Plain frozen values; everything in them is JSON. What stands in a ledger is written by `to_body` and read by `read`,
nowhere else: bodies that older releases wrote lack what has a default here, and a key that is not known is passed over.
Knows nothing of how trials are asked, trained or stored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from typing import Any, ClassVar

Value = bool | int | float | str
Params = Mapping[str, Value]
Objective = tuple[str, bool]  # a metric, and whether more of it is better

STUDY_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")  # what a name keeps to, so that it can become a folder


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

    def grouped(self) -> Grouped:
        """The event that makes it known."""
        return Grouped(self.number, [trial.number for trial in self.trials], dict(self.structure), self.company)


# --- events ---------------------------------------------------------------------------------------

_OPTIONAL = {"optional": True}  # a field that no body has where it is at its default


@dataclass(frozen=True, slots=True)
class Event:
    """One fact about a study. `seq` (from 1) and `time` (seconds since 1970) are set by the ledger that stores it."""

    kind: ClassVar[str]
    columns: ClassVar[tuple[str, ...]] = ()  # fields that stand beside the body, where the ledger looks for them

    seq: int = field(default=0, kw_only=True)
    time: float = field(default=0.0, kw_only=True)

    def to_body(self) -> dict[str, Any]:
        """What a ledger stores of it beside the columns; JSON."""
        return {
            name: value
            for name, default in _BODIES[self.kind].items()
            if (value := getattr(self, name)) != default or default is MISSING
        }


@dataclass(frozen=True, slots=True)
class TrialEvent(Event):
    """An event of one trial, by its number."""

    columns: ClassVar[tuple[str, ...]] = ("trial",)

    trial: int


@dataclass(frozen=True, slots=True)
class CohortEvent(Event):
    """An event of one cohort, by its number."""

    columns: ClassVar[tuple[str, ...]] = ("cohort",)

    cohort: int


@dataclass(frozen=True, slots=True)
class Created(Event):
    """The study was made. `data`: name, digests, rows and signature of the dataset; `network`: digest of its file."""

    kind: ClassVar[str] = "created"

    spec: Mapping[str, Any]
    digest: str
    text: str
    id: str
    seed: int
    data: Mapping[str, Any]
    network: str | None = None
    folder: str = ""  # of the study file


@dataclass(frozen=True, slots=True)
class Extended(Event):
    """The study has more trials, or goes on though it was complete."""

    kind: ClassVar[str] = "extended"

    spec: Mapping[str, Any]
    digest: str
    text: str


@dataclass(frozen=True, slots=True)
class Opened(Event):
    """A driver has taken the study up. None is what older releases did not write."""

    kind: ClassVar[str] = "opened"

    host: str = ""
    pid: int = 0
    tracking: str | None = field(default=None, metadata=_OPTIONAL)  # where MLflow is
    machine: Mapping[str, str] | None = field(
        default=None, metadata=_OPTIONAL
    )  # what numbers depend on: device, versions
    storage: str = field(default="", metadata=_OPTIONAL)  # of checkpoints; "": the study's folder
    network: str = field(default="", metadata=_OPTIONAL)  # digest of the network's file where it has changed


@dataclass(frozen=True, slots=True)
class Asking(Event):
    """A window of so many trials was begun before this, and is not asked yet."""

    kind: ClassVar[str] = "asking"

    count: int


@dataclass(frozen=True, slots=True)
class Asked(TrialEvent):
    """A trial has its hyperparameters: `params` those searched that are active, `fixed` what the study file sets.

    None is what older releases did not write: then the spec says it.
    """

    kind: ClassVar[str] = "asked"

    params: Params
    seed: int
    fixed: Mapping[str, Any] | None = field(default=None, metadata=_OPTIONAL)


@dataclass(frozen=True, slots=True)
class Grouped(CohortEvent):
    """Trials will train together; see `Cohort`."""

    kind: ClassVar[str] = "grouped"

    trials: list[int]
    structure: Params
    company: bool


@dataclass(frozen=True, slots=True)
class Started(CohortEvent):
    """A worker trains a cohort from `epoch` on: 0, or where its checkpoint was taken."""

    kind: ClassVar[str] = "started"

    attempt: int
    worker: int
    trials: list[int]
    epoch: int


@dataclass(frozen=True, slots=True)
class Reported(TrialEvent):
    """Metrics of an epoch, from 1. `params`: all hyperparameters, where Ray Tune has changed some since the start."""

    kind: ClassVar[str] = "reported"
    columns: ClassVar[tuple[str, ...]] = ("trial", "epoch")

    epoch: int
    metrics: Mapping[str, float]
    seconds: float
    params: Params | None = field(default=None, metadata=_OPTIONAL)


@dataclass(frozen=True, slots=True)
class Pruned(TrialEvent):
    """A trial was stopped after `epoch` epochs; `message` where it was not the pruner."""

    kind: ClassVar[str] = "pruned"

    epoch: int
    message: str = field(default="", metadata=_OPTIONAL)


@dataclass(frozen=True, slots=True)
class Finished(TrialEvent):
    """A trial has trained all its epochs, or as many as early stopping let it."""

    kind: ClassVar[str] = "finished"

    epochs: int
    best_epoch: int


@dataclass(frozen=True, slots=True)
class Failed(TrialEvent):
    """A trial has ended without a result; `traceback` where a person's own code raised."""

    kind: ClassVar[str] = "failed"

    message: str
    traceback: str = field(default="", metadata=_OPTIONAL)


@dataclass(frozen=True, slots=True)
class Lost(CohortEvent):
    """The worker of a cohort died; its trials go on elsewhere, or fail by an event of their own."""

    kind: ClassVar[str] = "lost"

    attempt: int
    message: str


@dataclass(frozen=True, slots=True)
class Tested(TrialEvent):
    """Metrics of the winner on the test split."""

    kind: ClassVar[str] = "tested"

    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Completed(Event):
    """The study has ended, `state` "complete" or "failed"."""

    kind: ClassVar[str] = "completed"

    state: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Interrupted(Event):
    """The driver was told to stop, and has saved; `message` is the signal's name."""

    kind: ClassVar[str] = "interrupted"

    message: str


EVENTS: Mapping[str, type[Event]] = {
    event.kind: event
    for event in (
        Created, Extended, Opened, Asking, Asked, Grouped, Started, Reported, Pruned, Finished, Failed, Lost, Tested,
        Completed, Interrupted,
    )
}  # fmt: skip
TERMINAL = (Pruned, Finished, Failed)

# The fields that stand in the body of each kind, with the value at which one is left out (MISSING: never).
_BODIES: Mapping[str, Mapping[str, Any]] = {
    kind: {
        one.name: one.default if one.metadata.get("optional") else MISSING
        for one in fields(event)
        if one.name not in (*event.columns, "seq", "time")
    }
    for kind, event in EVENTS.items()
}


def read(kind: str, body: Mapping[str, Any], columns: Mapping[str, Any], seq: int, time: float) -> Event:
    """The event that a ledger has stored. Raises ValueError where no event has that kind, TypeError where it lacks
    something."""
    event = EVENTS.get(kind)
    if event is None:
        raise ValueError(f"{kind!r} is no kind of event")
    placed = {name: columns[name] for name in event.columns}
    for name, number in placed.items():
        if not isinstance(number, int):
            raise TypeError(f"event {kind} names no {name}")
    known = _BODIES[kind]
    if not body.keys() <= known.keys():
        body = {name: value for name, value in body.items() if name in known}
    return event(**placed, **body, seq=seq, time=time)
