"""The one writer of a study's events: what is appended to the ledger is folded into the history, in one step.

Used by every driver of a study. Knows ledger and history; never who trains, what is asked, or who reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tuner.events import (
    Asked,
    Asking,
    Cohort,
    Completed,
    Event,
    Failed,
    Finished,
    Interrupted,
    Lost,
    Params,
    Pruned,
    Reported,
    Started,
    Tested,
    Trial,
)
from tuner.history.fold import History
from tuner.ledger import Ledger


class StudyLog:
    """A study's `ledger` and the `history` that its events tell."""

    def __init__(self, ledger: Ledger, history: History) -> None:
        self.ledger, self.history = ledger, history
        self._inside: list[Event] | None = None  # what the transaction that is open has stored
        self._reports: list[Event] = []  # that wait for what comes next in the transaction, to be stored at once

    def append(self, events: Sequence[Event]) -> None:
        """Store all of them or none, after the reports that wait, and fold them in; see `Ledger.append`."""
        stored = self.ledger.append([*self._reports, *events])
        self._reports = []
        for event in stored:
            self.history.apply(event)
        if self._inside is not None:
            self._inside += stored

    @contextmanager
    def together(self) -> Iterator[list[Event]]:
        """Everything that is written inside is one transaction: on the disk at the end.

        Gives a list of what is stored inside, to be shown then. Reports that end nothing are folded in with what is
        written next, or at the end: to store many at once takes a fraction of the time.
        """
        stored: list[Event] = []
        self._inside = stored
        try:
            with self.ledger.together():
                yield stored
                self.append([])
        finally:
            self._inside, self._reports = None, []

    # --- a trial's life ---------------------------------------------------------------------------

    def asking(self, count: int) -> None:
        """A window of so many trials is being asked."""
        self.append([Asking(count)])

    def asked(self, trials: Sequence[Trial], cohorts: Sequence[Cohort], fixed: Mapping[str, Any]) -> None:
        """The sampler has given these trials, and they train in these cohorts; `fixed` see `Asked`."""
        asked = [Asked(trial.number, dict(trial.params), trial.seed, fixed) for trial in trials]
        self.append([*asked, *(cohort.grouped() for cohort in cohorts)])

    def grouped(self, cohorts: Sequence[Cohort]) -> None:
        """Trials that were asked before train in these cohorts from now on."""
        self.append([cohort.grouped() for cohort in cohorts])

    def started(self, cohort: int, attempt: int, worker: int, trials: Sequence[int], epoch: int) -> None:
        """A worker trains a cohort's trials, from `epoch` on."""
        self.append([Started(cohort, attempt, worker, list(trials), epoch)])

    def reported(
        self,
        epoch: int,
        metrics: Mapping[int, Mapping[str, float]],
        seconds: float,
        *,
        pruned: Sequence[int] = (),
        failed: Mapping[int, str] | None = None,
        params: Params | None = None,
    ) -> None:
        """Each trial's metrics at an epoch, then which of them were stopped there and which failed, and why.

        `seconds` is what the epoch took each of them; `params` see `Reported`.
        """
        self._reports += [Reported(trial, epoch, values, seconds, params) for trial, values in metrics.items()]
        ended: list[Event] = [Pruned(trial, epoch) for trial in pruned]
        ended += [Failed(trial, message) for trial, message in (failed or {}).items()]
        if ended or self._inside is None:
            self.append(ended)

    def pruned(self, trial: int, epoch: int) -> None:
        """A trial was stopped after that epoch."""
        self.append([Pruned(trial, epoch)])

    def finished(self, trial: int, epochs: int, best_epoch: int) -> None:
        """A trial has come to its own end."""
        self.append([Finished(trial, epochs, best_epoch)])

    def failed(self, trials: Sequence[int], message: str, traceback: str = "") -> None:
        """One error has ended these trials."""
        self.append([Failed(trial, message, traceback) for trial in trials])

    def lost(self, cohort: int, attempt: int, message: str) -> None:
        """The worker of a cohort died."""
        self.append([Lost(cohort, attempt, message)])

    # --- a study's end ----------------------------------------------------------------------------

    def completed(self, message: str, *, winner: int | None = None, tested: Mapping[str, float] | None = None) -> None:
        """Every trial has ended: `failed` without a winner; `tested` are the winner's metrics where they are new."""
        events: list[Event] = [Tested(winner, tested)] if winner is not None and tested is not None else []
        self.append([*events, Completed("failed" if winner is None else "complete", message)])

    def interrupted(self, signal_name: str) -> None:
        """The driver was told to stop, and has saved."""
        self.append([Interrupted(signal_name)])
