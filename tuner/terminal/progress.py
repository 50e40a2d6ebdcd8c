"""What a person sees while a study runs: a live table on a terminal, plain lines elsewhere.

It knows the history and the fresh events that it is handed, and writes to one stream (stderr unless told). It must
never know the study loop, the ledger or MLflow, never decide anything, and never write to stdout, which belongs to
results.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TextIO, TypedDict

from tuner.events import (
    TERMINAL,
    Completed,
    Event,
    Extended,
    Failed,
    Finished,
    Objective,
    Pruned,
    State,
    Tested,
    TrialEvent,
)
from tuner.history.fold import History, TrialHistory
from tuner.history.results import leader, objectives
from tuner.terminal.pace import Pace, epochs_of
from tuner.terminal.tables import cell, printable

if TYPE_CHECKING:
    from rich.console import RenderableType

REDRAW = 0.25  # seconds between two drawings: a person reads no faster, and drawing must cost training nothing
PULSE = 60.0  # seconds between two lines of a plain log about speed and time left
EARLY = 5.0  # seconds until the first of them, once there is something to tell
COHORTS_SHOWN = 8  # a terminal of 24 lines keeps room for messages
STREAM_CLOSED = OSError  # what writing raises when the terminal or the pipe has gone away: a study goes on without it


class Tracking(TypedDict, total=False):
    """How far the dashboard has followed: points written and waiting, why they wait, what is wrong with the ledger."""

    written: int
    waiting: int
    error: str | None
    warning: str | None


class Now(TypedDict, total=False):
    """What the history cannot tell: how many trials there will be in all, how many workers live, the dashboard."""

    trials: int
    workers: int
    tracking: Tracking | None
    within: Mapping[int, float]  # how much of its epoch a running cohort has trained, where a worker has said so


class Progress(Protocol):
    """What the study loop tells while it runs. Every method returns at once and raises nothing of its own."""

    def start(self, plan: Sequence[str]) -> None:
        """The study begins or goes on; `plan` is what it is about to do, a line each."""

    def update(self, history: History, fresh: Sequence[Event], now: Now) -> None:
        """`fresh` are the events stored since the last update, already folded into `history`; none on a mere tick."""

    def message(self, text: str) -> None:
        """One line that a person should see, whatever else is shown."""

    def stop(self) -> None:
        """Nothing more will come; leaves the terminal as it was."""


def progress_for(stream: TextIO | None = None) -> Progress:
    """The live table where `stream` (stderr) is a terminal that can redraw, else plain lines."""
    stream = stream or sys.stderr
    if stream.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return TerminalProgress(stream)
    return PlainProgress(stream)


class _Leader:
    """The best completed trial, kept up event by event, so that a study of 100,000 trials is never searched anew."""

    def __init__(self) -> None:
        self._known = False
        self.trial: TrialHistory | None = None

    def note(self, history: History, fresh: Sequence[Event]) -> None:
        if not self._known:
            self._known = True
            self.trial = leader(history)
            return
        wanted = objectives(history)
        for event in fresh:
            if not isinstance(event, Finished):
                continue
            challenger = history.trials[event.trial]
            merit = challenger.merit(wanted)
            held = self.trial.merit(wanted) if self.trial else None
            if merit is None:
                continue
            if self.trial is None or held is None or (merit, -challenger.number) > (held, -self.trial.number):
                self.trial = challenger


def clock_text(seconds: float) -> str:
    """83 → 1:23, 5000 → 1:23:20."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def score(trial: TrialHistory, wanted: Sequence[Objective]) -> str:
    """`val/accuracy 0.9712 at epoch 9, parameters 4810`, or that it was never measured."""
    epoch, (first, *others) = trial.best_epoch(*wanted[0]), (metric for metric, _ in wanted)
    found = {} if epoch is None else trial.reports[epoch]
    told = [f"{first} {cell(found[first])} at epoch {epoch}" if found else f"no {first}"]
    return ", ".join([*told, *(f"{metric} {cell(found[metric])}" for metric in others if metric in found)])


def describe(event: Event, history: History) -> str | None:
    """The plain line of an event worth knowing; None for the others, and for what the study loop tells in full."""
    match event:
        case Finished():
            return f"trial {event.trial} complete: {score(history.trials[event.trial], objectives(history))}"
        case Pruned():
            trial = history.trials[event.trial]
            return f"trial {trial.number} pruned after epoch {trial.epochs}: {score(trial, objectives(history))}"
        case Failed():
            return f"trial {event.trial} failed: {event.message}"
        case Tested() if event.metrics:
            values = ", ".join(f"{name} {cell(value)}" for name, value in event.metrics.items())
            return f"trial {event.trial} on the test split: {values}"
        case Extended():
            return f"extended to {history.spec.get('search', {}).get('trials', '?')} trials"
        case Completed():
            return f"study {event.state}" + (f": {event.message}" if event.message else "")
    return None


class _Outage:
    """A line about an MLflow that does not answer, at most one a PULSE, and one when it is back."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._told, self._said = -PULSE, False

    def line(self, tracking: Tracking | None, now: float) -> str | None:
        if not tracking or not (error := tracking.get("error")):
            said, self._since, self._said = self._said, None, False
            return "MLflow is back" if said else None
        self._since = now if self._since is None else self._since
        if now - self._told < PULSE:
            return None
        self._told, self._said = now, True
        how_long = f" for {minutes} min" if (minutes := int(now - self._since) // 60) else f" ({error})"
        return f"MLflow unreachable{how_long}, {tracking.get('waiting', 0):,} points waiting"


class PlainProgress:
    """One plain line per event worth knowing, and a pulse while none happens: for logs and pipes."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self._pace = Pace(clock)
        self._leader = _Leader()
        self._ended: int | None = None
        self._pulsed: float | None = None
        self._outage = _Outage()

    def start(self, plan: Sequence[str]) -> None:
        for line in plan:
            self.message(line)

    def update(self, history: History, fresh: Sequence[Event], now: Now) -> None:
        self._pace.note(history, fresh)
        total = _total(history, now)
        if self._ended is None:
            self._ended = history.ended - sum(isinstance(event, TERMINAL) for event in fresh)
        for event in fresh:
            leader = self._leader.trial
            self._leader.note(history, [event])
            self._ended += isinstance(event, TERMINAL)
            if (line := describe(event, history)) is None:
                continue
            if isinstance(event, Finished) and self._leader.trial is not leader:
                line += " (best so far)"
            self.message(f"[{self._ended}/{total}] {line}" if isinstance(event, TrialEvent) else line)
        if line := self._outage.line(now.get("tracking"), self._clock()):
            self.message(line)
        self._pulse(history, total, now.get("within", {}))

    def _pulse(self, history: History, total: int, within: Mapping[int, float]) -> None:
        """Now and then, how fast it goes and how long it will take; the first time as soon as that is known."""
        left = self._pace.seconds_left(history, total, within)
        early = self._pulsed is None and left is not None
        since = self._pace.elapsed if self._pulsed is None else self._clock() - self._pulsed
        if since >= (EARLY if early else PULSE) and not history.completed:
            self._pulsed = self._clock()
            self.message(f"[{self._ended}/{total}] {', '.join(self._speed(history, left))}")

    def _speed(self, history: History, left: float | None) -> Iterator[str]:
        yield f"{history.count(State.RUNNING)} running"
        if self._leader.trial is not None:
            yield f"best trial {self._leader.trial.number}: {score(self._leader.trial, objectives(history))}"
        if speed := self._pace.steps_per_second():
            yield f"{speed:,.0f} trial-steps/s"
        if left is not None:
            yield f"about {clock_text(left)} left"

    def message(self, text: str) -> None:
        with contextlib.suppress(STREAM_CLOSED):
            print(printable(text), file=self._stream, flush=True)

    def stop(self) -> None:
        """Nothing is held back: every line was flushed."""


class TerminalProgress:
    """A live table: bars for the study and its running cohorts, the best so far, counts, speed and time left."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=stream or sys.stderr, highlight=False, markup=False, emoji=False)
        # Drawn from update() alone: a drawing thread would read the history while the study loop changes it.
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False)
        self._clock = clock
        self._pace = Pace(clock)
        self._leader = _Leader()
        self._drawn = -REDRAW
        self._last: tuple[History, Now] | None = None

    def start(self, plan: Sequence[str]) -> None:
        for line in plan:
            self.message(line)
        with contextlib.suppress(STREAM_CLOSED):
            self._live.start()

    def update(self, history: History, fresh: Sequence[Event], now: Now) -> None:
        self._pace.note(history, fresh)
        self._leader.note(history, fresh)
        self._last = history, now
        for event in fresh:
            if isinstance(event, Failed | Extended | Tested) and (line := describe(event, history)):
                self.message(line)
        if self._clock() - self._drawn >= REDRAW:
            self._draw()

    def message(self, text: str) -> None:
        with contextlib.suppress(STREAM_CLOSED):
            self._console.print(printable(text), soft_wrap=True)

    def stop(self) -> None:
        self._draw()
        with contextlib.suppress(STREAM_CLOSED):
            self._live.stop()

    def _draw(self) -> None:
        if self._last is not None:
            self._drawn = self._clock()
            with contextlib.suppress(STREAM_CLOSED):
                self._live.update(self.view(*self._last), refresh=self._live.is_started)

    def view(self, history: History, now: Now) -> RenderableType:
        """The table as it stands."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        wanted = objectives(history)
        total = _total(history, now)
        counts, ended = history.states, history.ended
        within = now.get("within", {})
        left = self._pace.seconds_left(history, total, within)
        speed = self._pace.steps_per_second()

        head = Table.grid(padding=(0, 2))
        times = f"{clock_text(self._pace.elapsed)} elapsed"
        times += f", about {clock_text(left)} left" if left is not None and not history.completed else ""
        bar = ProgressBar(total=max(total, 1), completed=ended + _under_way(history, within), width=30)
        head.add_row(printable(str(history.spec.get("study", ""))), bar, f"{ended}/{total} trials", times)
        facts = Table.grid(padding=(0, 2))
        facts.add_row(
            f"{counts[State.RUNNING]} running",
            f"{counts[State.COMPLETE]} complete",
            f"{counts[State.PRUNED]} pruned",
            f"{counts[State.FAILED]} failed",
            f"{speed:,.0f} trial-steps/s" if speed else "starting",
            *([f"{now['workers']} workers"] if now.get("workers") else []),
        )
        lines: list[RenderableType] = [head, facts, _best(history, self._leader.trial, wanted)]
        tracking = now.get("tracking")
        if tracking and tracking.get("error"):
            lines.append(f"MLflow: {tracking.get('waiting', 0):,} points waiting ({printable(str(tracking['error']))})")
        return Group(*lines, *_cohort_rows(history, *wanted[0], within))


def _best(history: History, leader: TrialHistory | None, wanted: Sequence[Objective]) -> str:
    """The best completed trial; before there is one, the best of those in training."""
    if leader is not None:
        return f"best so far: trial {leader.number}, {score(leader, wanted)}"
    metric, maximize = wanted[0]
    running = [
        (value if maximize else -value, -trial.number)
        for trial in history.running.values()
        if (value := trial.best_value(metric, maximize)) is not None
    ]
    if not running:
        return "best: none yet"
    trial = history.trials[-max(running)[1]]
    return f"best so far: trial {trial.number}, {score(trial, wanted)}, still in training"


def _under_way(history: History, within: Mapping[int, float]) -> float:
    """The trials that train now, each by the share of its epochs that it has trained."""
    shares = []
    for trial in history.running.values():
        begun = 0.0 if trial.cohort is None else within.get(trial.cohort, 0.0)
        shares.append(min((trial.epochs + begun) / epochs_of(history, trial), 1.0))
    return sum(shares)


def _cohort_rows(
    history: History, metric: str, maximize: bool, within: Mapping[int, float]
) -> Iterator[RenderableType]:
    """A bar for each running cohort: its structure, its trials still in training, its epoch, its best value."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    running: dict[int, list[TrialHistory]] = {}
    for trial in history.running.values():
        if trial.cohort is not None:
            running.setdefault(trial.cohort, []).append(trial)
    if not running:
        return
    table = Table.grid(padding=(0, 2))
    table.add_row("cohort", "trials", "", "epoch", metric, "structure", style="dim")
    for number, members in sorted(running.items())[:COHORTS_SHOWN]:
        longest, epoch = max(epochs_of(history, trial) for trial in members), max(trial.epochs for trial in members)
        values = [value for trial in members if (value := trial.best_value(metric, maximize)) is not None]
        best = (max if maximize else min)(values) if values else None
        structure = history.cohorts[number].structure if number in history.cohorts else {}
        table.add_row(
            str(number),
            str(len(members)),
            ProgressBar(total=longest, completed=min(epoch + within.get(number, 0.0), longest), width=20),
            f"{epoch}/{longest}",
            f"{best:.4g}" if best is not None else "",
            printable(" ".join(f"{name}={value}" for name, value in structure.items())),
        )
    yield table
    if len(running) > COHORTS_SHOWN:
        yield f"and {len(running) - COHORTS_SHOWN} cohorts more"


def _total(history: History, now: Now) -> int:
    """The number of trials in the end: what the study loop says (a grid may be smaller), else what the spec says."""
    return now.get("trials") or int(history.spec.get("search", {}).get("trials", len(history.trials)))
