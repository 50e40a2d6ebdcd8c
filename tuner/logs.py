"""What the trials of a study printed, and why they failed: the workers' logs and the ledger's events, in their order.

It knows the two and how a line is shown to a person; it reads both again and again while a study runs. It must never
write to either, nor know who asks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tuner.errors import InputError
from tuner.events import Asked, Failed, Grouped, Lost
from tuner.executors.worker_log import FOLDER, MARK
from tuner.history.failures import named
from tuner.ledger import Ledger
from tuner.terminal.tables import printable

_COLOUR = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")  # and other words to a terminal


@dataclass(frozen=True)
class Section:
    """Lines of one cohort's trials, of one worker between two cohorts (no `trials`), or what an event says.

    The lines are `text`, or stand in a worker's log from byte `start` to `stop`.
    """

    time: float
    source: str
    trials: frozenset[int]
    text: str = ""
    log: Path | None = None
    start: int = 0
    stop: int = 0

    def lines(self) -> Iterator[str]:
        """As a person reads them: each with its source, what a progress bar wrote over left out."""
        for line in self.text.splitlines() if self.log is None else self._read(self.log):
            seen = _COLOUR.sub("", line.rstrip("\r\n").rpartition("\r")[2])
            yield f"{self.source} | {printable(seen.expandtabs())}".rstrip()

    def _read(self, log: Path) -> Iterator[str]:
        with log.open("rb") as file:
            file.seek(self.start)
            while (left := self.stop - file.tell()) > 0:
                yield file.readline(left).decode(errors="replace")


@dataclass
class _Place:
    """How far a worker's log has been read, and whose lines stand there."""

    at: int = 0
    time: float = 0.0
    trials: tuple[int, ...] = ()


@dataclass
class Logs:
    """The logs of the study in a folder; `trial`: what concerns that one alone."""

    ledger: Ledger
    trial: int | None = None
    _places: dict[Path, _Place] = field(default_factory=dict)
    _cohorts: dict[int, tuple[int, ...]] = field(default_factory=dict)
    _trials: int = 0
    _seq: int = 0

    def new(self, *, whole: bool = False) -> list[Section]:
        """What came since the last call, in its order; the last line of a log once it has its end, or with `whole`.

        Raises InputError where the study has not the trial that was asked for.
        """
        said = self._events()  # before the logs: what a trial printed is there when its end is
        if self.trial is not None and self.trial >= self._trials:
            there = f"trials 0 to {self._trials - 1}" if self._trials else "no trial yet"
            raise InputError(f"--trial {self.trial}: study {self.ledger.folder.name} has {there}")
        logs = sorted(self.ledger.folder.glob(f"{FOLDER}/worker-*.log"))
        said += [section for log in logs for section in self._scan(log, whole)]
        mine = [section for section in said if self.trial is None or self.trial in section.trials]
        return sorted(mine, key=lambda section: section.time)

    def _events(self) -> list[Section]:
        found: list[Section] = []
        for event in self.ledger.read(after=self._seq):
            self._seq = event.seq
            if isinstance(event, Asked):
                self._trials += 1
            elif isinstance(event, Grouped):
                self._cohorts[event.cohort] = tuple(event.trials)
            elif isinstance(event, Lost):
                found.append(_told(event.time, self._cohorts[event.cohort], event.message))
            elif isinstance(event, Failed):
                found = _failed(found, event)
        return found

    def _scan(self, log: Path, whole: bool) -> Iterator[Section]:
        """The sections of a log from where it was left."""
        place = self._places.setdefault(log, _Place())
        with log.open("rb") as file:
            start = file.seek(place.at)
            for line in file:
                if not (line.endswith(b"\n") or whole):
                    break
                if found := MARK.search(line):
                    yield from self._section(log, place, start, place.at + found.start())
                    place.time, place.trials = (
                        float(found[1]),
                        tuple(map(int, found[2].split(b",") if found[2] else ())),
                    )
                    start = place.at + len(line)
                place.at += len(line)
        yield from self._section(log, place, start, place.at)

    def _section(self, log: Path, place: _Place, start: int, stop: int) -> Iterator[Section]:
        if stop > start:
            source = named(place.trials) if place.trials else log.stem.replace("-", " ")
            yield Section(place.time, source, frozenset(place.trials), log=log, start=start, stop=stop)


def _told(time: float, trials: tuple[int, ...], text: str) -> Section:
    return Section(time, named(trials), frozenset(trials), text)


def _failed(found: list[Section], event: Failed) -> list[Section]:
    """With the end of a trial; trials that an error ended together have one traceback."""
    text = event.traceback or event.message
    if found and found[-1].time == event.time and found[-1].text == text:
        last = found.pop()
        return [*found, _told(event.time, (*sorted(last.trials), event.trial), text)]
    return [*found, _told(event.time, (event.trial,), text)]
