"""How far a study is, in four numbers: the same for an interrupt, for the status and for the resume.

It knows the history, and which cohorts have a checkpoint in the study's folder. It must never read one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tuner.events import State
from tuner.history.fold import History


@dataclass(frozen=True)
class Counts:
    """Of `total` trials: `finished` (complete, pruned or failed), `running`, `saved` (to be resumed from a checkpoint),
    and `queued`, those that begin at their first epoch."""

    total: int
    finished: int
    running: int
    saved: int

    @property
    def queued(self) -> int:
        return self.total - self.finished - self.running - self.saved

    def line(self) -> str:
        """`2 of 12 finished, 2 saved, 8 queued`."""
        if self.finished == self.total:
            return f"{self.finished} of {self.total} finished"
        begun = f"{self.running} running" if self.running else f"{self.saved} saved"
        return f"{self.finished} of {self.total} finished, {begun}, {self.queued} queued"

    def resuming(self) -> str:
        """`resuming: 2 finished, 2 from checkpoints, 8 queued`."""
        return f"resuming: {self.finished} finished, {self.saved} from checkpoints, {self.queued} queued"


def counts(history: History, folder: Path, *, driven: bool = False) -> Counts:
    """The study's numbers; `driven` says that a process trains it now, so that what is not finished may be running."""
    running = history.count(State.RUNNING) if driven else 0
    total = planned(history)
    if driven or history.completed:
        return Counts(total, history.ended, running, 0)
    return Counts(total, history.ended, 0, _saved(history, folder))


def planned(history: History) -> int:
    """How many trials the study has at its end: those that it ended with, where it has."""
    return len(history.trials) if history.completed else max(_wanted(history), len(history.trials))


def _wanted(history: History) -> int:
    """How many trials are asked for: a grid may have fewer points."""
    search = history.spec.get("search", {})
    wanted = int(search.get("trials", 0))
    if search.get("sampler", {}).get("kind") != "grid":
        return wanted
    from tuner.search_spaces import SearchSpace
    from tuner.search_spaces.parameters import parse

    size = SearchSpace({name: parse(definition) for name, definition in search["space"].items()}).size()
    return wanted if size is None else min(wanted, size + len(search.get("start_with", ())))


def _saved(history: History, folder: Path) -> int:
    """Trials that have begun and not ended, and whose cohort has a checkpoint; at a storage elsewhere none is looked
    for, and those count that have reported."""
    begun = [trial for trial in history.trials.values() if not trial.ended and trial.cohort is not None]
    if history.storages and history.storages[-1]:
        return sum(bool(trial.reports) for trial in begun)
    kept = (path.name for path in (folder / "checkpoints").glob("*.pt*"))
    there = {name.split(".")[0] for name in kept if name.endswith((".pt", ".pt.previous"))}  # whole ones
    return sum(f"{trial.cohort:06d}" in there for trial in begun)
