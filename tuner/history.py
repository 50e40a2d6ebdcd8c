"""A study as its events tell it: the one fold from the ledger to trials, states and curves.

Study loop, results, tracking and status all read a `History`; none of them keeps a second account.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tuner.trial import TERMINAL, Cohort, Event, Kind, Params, State, Trial

_STATES = {Kind.PRUNED: State.PRUNED, Kind.FINISHED: State.COMPLETE, Kind.FAILED: State.FAILED}


@dataclass(slots=True)
class TrialHistory:
    """All that happened to one trial. `reports` maps an epoch (from 1) to its metrics, non-finite ones left out."""

    number: int
    params: Params
    seed: int
    asked_at: float
    cohort: int | None = None
    state: State = State.WAITING
    reports: dict[int, dict[str, float]] = field(default_factory=dict)
    report_times: dict[int, float] = field(default_factory=dict)
    seconds: float = 0.0
    message: str = ""
    ended_at: float | None = None
    tested: dict[str, float] | None = None

    @property
    def ended(self) -> bool:
        return self.state not in (State.WAITING, State.RUNNING)

    @property
    def epochs(self) -> int:
        """Epochs reported so far."""
        return max(self.reports, default=0)

    def best_epoch(self, metric: str, maximize: bool) -> int | None:
        """The first epoch with the best finite value of `metric`, None where there is none."""
        finite = [(values[metric], -epoch) for epoch, values in self.reports.items() if metric in values]
        if not finite:
            return None
        return -max(finite)[1] if maximize else -max((-value, epoch) for value, epoch in finite)[1]

    def best_value(self, metric: str, maximize: bool) -> float | None:
        """The value at `best_epoch`."""
        epoch = self.best_epoch(metric, maximize)
        return None if epoch is None else self.reports[epoch][metric]


@dataclass(slots=True)
class History:
    """A study so far. `seq` is the last event folded in."""

    seq: int = 0
    spec: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""
    text: str = ""
    study_id: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    tracking: str = "embedded"  # where MLflow is, as the last launch had it
    machine: Mapping[str, str] = field(default_factory=dict)  # device and versions of the last launch
    network: str | None = None  # digest of the file that a person's own network comes from
    trials: dict[int, TrialHistory] = field(default_factory=dict)
    cohorts: dict[int, Cohort] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)
    losses: dict[int, int] = field(default_factory=dict)  # workers that died, by cohort
    completed: str = ""  # "", "complete" or "failed"
    created_at: float = 0.0
    updated_at: float = 0.0

    @classmethod
    def of(cls, events: Iterable[Event]) -> History:
        history = cls()
        for event in events:
            history.apply(event)
        return history

    def apply(self, event: Event) -> None:
        """Fold one event in. Events come in the order of `seq`."""
        body = event.body
        self.seq = event.seq
        self.updated_at = event.time
        if event.trial is not None:
            self._apply_to_trial(event, event.trial)
        elif event.kind in (Kind.CREATED, Kind.EXTENDED):
            self.spec, self.digest, self.text = body["spec"], body["digest"], body["text"]
            self.completed = ""
            if event.kind is Kind.CREATED:
                self.study_id, self.data, self.created_at = body["id"], body["data"], event.time
                self.network = body.get("network")
        elif event.kind is Kind.GROUPED and event.cohort is not None:
            members = tuple(
                Trial(number, self.trials[number].params, self.trials[number].seed) for number in body["trials"]
            )
            self.cohorts[event.cohort] = Cohort(event.cohort, members, body["structure"], body["company"])
            for member in members:
                self.trials[member.number].cohort = event.cohort
        elif event.kind is Kind.STARTED and event.cohort is not None:
            self.attempts[event.cohort] = body["attempt"]
            for number in body["trials"]:
                if not self.trials[number].ended:
                    self.trials[number].state = State.RUNNING
        elif event.kind is Kind.LOST and event.cohort is not None:
            self.losses[event.cohort] = self.losses.get(event.cohort, 0) + 1
            self._wait(trial for trial in self.trials.values() if trial.cohort == event.cohort)
        elif event.kind in (Kind.OPENED, Kind.INTERRUPTED):
            self._wait(self.trials.values())
            self.tracking = body.get("tracking", self.tracking)
            self.machine = body.get("machine", self.machine)
        elif event.kind is Kind.COMPLETED:
            self.completed = body["state"]

    @staticmethod
    def _wait(trials: Iterable[TrialHistory]) -> None:
        """Nobody trains these any more, until they are started again."""
        for trial in trials:
            if trial.state is State.RUNNING:
                trial.state = State.WAITING

    def _apply_to_trial(self, event: Event, number: int) -> None:
        body = event.body
        if event.kind is Kind.ASKED:
            self.trials[number] = TrialHistory(number, body["params"], body["seed"], event.time)
            return
        trial = self.trials[number]
        if event.kind is Kind.REPORTED and event.epoch is not None and not trial.ended:
            trial.reports[event.epoch] = dict(body["metrics"])
            trial.report_times[event.epoch] = event.time
            trial.seconds += body["seconds"]
        elif event.kind in TERMINAL:
            trial.state = _STATES[event.kind]
            trial.message = body.get("message", "")
            trial.ended_at = event.time
        elif event.kind is Kind.TESTED:
            trial.tested = dict(body["metrics"])

    def count(self, state: State) -> int:
        return sum(trial.state is state for trial in self.trials.values())

    def best(self, metric: str, maximize: bool) -> TrialHistory | None:
        """The completed trial with the best value of `metric`; the lowest number wins a tie."""
        done = [
            (value if maximize else -value, -trial.number)
            for trial in self.trials.values()
            if trial.state is State.COMPLETE and (value := trial.best_value(metric, maximize)) is not None
        ]
        return self.trials[-max(done)[1]] if done else None
