"""A study as its events tell it: the one fold from the ledger to trials, states and curves.

Study loop, results, tracking and status all read a `History`; none of them keeps a second account.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from sys import intern
from typing import Any

from tuner.events import (
    Asked,
    Asking,
    Cohort,
    Completed,
    Created,
    Event,
    Extended,
    Failed,
    Finished,
    Grouped,
    Interrupted,
    Lost,
    Objective,
    Opened,
    Params,
    Pruned,
    Reported,
    Started,
    State,
    Tested,
    Trial,
)
from tuner.history.curves import Curves, Times

SHORT = 12  # digits of a digest that tell two versions of a file apart
_STATES: dict[type[Event], State] = {Pruned: State.PRUNED, Finished: State.COMPLETE, Failed: State.FAILED}


@dataclass(slots=True)
class TrialHistory:
    """All that happened to one trial. `reports` maps an epoch (from 1) to its metrics, non-finite ones left out.

    A study of 100,000 trials keeps as many of these: what they hold is small, or shared.
    """

    number: int
    params: Params
    seed: int
    cohort: int | None = None
    state: State = State.WAITING
    reports: Curves = field(default_factory=Curves)
    seconds: float = 0.0
    message: str = ""
    ended_at: float | None = None
    tested: dict[str, float] | None = None
    code: int = 0  # which of the history's `codes` trains it
    fixed: Mapping[str, Any] = field(default_factory=dict)  # what the study file sets for every trial

    @property
    def settings(self) -> dict[str, Any]:
        """Every hyperparameter that is searched or set: the trial's own value, else the file's."""
        return {**self.fixed, **self.params}

    def setting(self, name: str) -> Any:
        """One of `settings`, None where there is none of that name."""
        return self.params.get(name, self.fixed.get(name))

    @property
    def ended(self) -> bool:
        return self.state not in (State.WAITING, State.RUNNING)

    @property
    def report_times(self) -> Mapping[int, float]:
        """Epoch → when its report was stored."""
        return Times(self.reports)

    @property
    def epochs(self) -> int:
        """Epochs reported so far."""
        return max(self.reports, default=0)

    def best_epoch(self, metric: str, maximize: bool) -> int | None:
        """The first epoch with the best finite value of `metric`, None where there is none."""
        curve = self.reports.of(metric)
        if not curve:
            return None
        return max(curve, key=lambda one: (one[1] if maximize else -one[1], -one[0]))[0]

    def best_value(self, metric: str, maximize: bool) -> float | None:
        """The value at `best_epoch`."""
        epoch = self.best_epoch(metric, maximize)
        return None if epoch is None else self.reports[epoch][metric]

    def values(self, objectives: Sequence[Objective]) -> tuple[float, ...] | None:
        """The value of each objective at the best epoch of the first, None where one is missing."""
        epoch = self.best_epoch(*objectives[0])
        found = {} if epoch is None else self.reports[epoch]
        return tuple(found[metric] for metric, _ in objectives) if all(m in found for m, _ in objectives) else None

    def merit(self, objectives: Sequence[Objective]) -> tuple[float, ...] | None:
        """The same, of a complete trial, with signs under which more is better; tuples compare the first first."""
        values = self.values(objectives) if self.state is State.COMPLETE else None
        return values and tuple(v if up else -v for v, (_, up) in zip(values, objectives, strict=True))


@dataclass(slots=True)
class Window:
    """A window of `count` trials that was begun and is not asked yet, and who has ended since."""

    count: int
    since: set[int] = field(default_factory=set)


@dataclass(slots=True)
class History:
    """A study so far. `seq` is the last event folded in."""

    seq: int = 0
    spec: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)  # hyperparameters that the spec sets
    digest: str = ""
    text: str = ""
    study_id: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    tracking: str = "embedded"  # where MLflow is, as the last launch had it
    machine: Mapping[str, str] = field(default_factory=dict)  # device and versions of the last launch
    storages: list[str] = field(default_factory=list)  # where launches kept checkpoints, in their order; "": at home
    folder: str = ""  # of the study file, from which it names its data and networks
    network: str | None = None  # digest of the file that a person's own network comes from
    codes: list[str] = field(default_factory=list)  # all that it has been, in their order; none of a network of ours
    trials: dict[int, TrialHistory] = field(default_factory=dict)
    running: dict[int, TrialHistory] = field(default_factory=dict)  # those of them that train now
    states: Counter[State] = field(default_factory=Counter)  # how many trials are in each
    epochs_ended: int = 0  # of the trials that have ended, all together
    asking: Window | None = None
    cohorts: dict[int, Cohort] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)
    losses: dict[int, int] = field(default_factory=dict)  # workers that died, by cohort
    _structures: dict[str, Params] = field(default_factory=dict)
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
        self.seq = event.seq
        self.updated_at = event.time
        match event:
            case Reported():
                trial = self.trials[event.trial]
                if not trial.ended:
                    trial.reports.add(event.epoch, event.time, event.metrics)
                    trial.seconds += event.seconds
            case Asked():
                fixed = self.fixed if event.fixed is None or event.fixed == self.fixed else event.fixed
                self.trials[event.trial] = TrialHistory(event.trial, _slim(event.params), event.seed, fixed=fixed)
                self.states[State.WAITING] += 1
                self.asking = None
            case Pruned() | Finished() | Failed():
                self._end(self.trials[event.trial], event)
            case Grouped():
                self._group(event)
            case Started():
                self.attempts[event.cohort] = event.attempt
                for number in event.trials:
                    if not self.trials[number].ended:
                        self._move(self.trials[number], State.RUNNING)
            case Lost():
                self.losses[event.cohort] = self.losses.get(event.cohort, 0) + 1
                self._wait([trial for trial in self.running.values() if trial.cohort == event.cohort])
            case Asking():
                self.asking = Window(event.count)
            case Tested():
                self.trials[event.trial].tested = dict(event.metrics)
            case Completed():
                self.completed = event.state
            case Interrupted():
                self._wait(list(self.running.values()))
            case Opened():
                self._open(event)
            case Created():
                self.study_id, self.data, self.created_at = event.id, event.data, event.time
                self.network, self.folder = event.network, event.folder
                self.codes = [event.network] if event.network else []
                self._specify(event)
            case Extended():
                self._specify(event)

    def _specify(self, event: Created | Extended) -> None:
        self.spec, self.digest, self.text = event.spec, event.digest, event.text
        trial = event.spec.get("trial") or {}
        self.fixed = {**event.spec.get("model", {}), **event.spec.get("train", {}), **trial.get("params", {})}
        if trial.get("epochs") is not None:
            self.fixed = {**self.fixed, "epochs": trial["epochs"]}
        self.completed = ""

    def _open(self, event: Opened) -> None:
        self._wait(list(self.running.values()))
        self.tracking = event.tracking or self.tracking
        self.machine = self.machine if event.machine is None else event.machine
        if event.storage not in self.storages[-1:]:
            self.storages.append(event.storage)
        if event.network:
            self.network = event.network
            self.codes.append(event.network)

    def _group(self, event: Grouped) -> None:
        trials = [self.trials[number] for number in event.trials]
        members = tuple(Trial(trial.number, trial.params, trial.seed) for trial in trials)
        self.cohorts[event.cohort] = Cohort(event.cohort, members, self._shared(event.structure), event.company)
        for trial in trials:
            trial.cohort, trial.code = event.cohort, self.code

    def _end(self, trial: TrialHistory, event: Pruned | Finished | Failed) -> None:
        self._move(trial, _STATES[type(event)])
        self.epochs_ended += trial.epochs
        trial.message = "" if isinstance(event, Finished) else event.message
        trial.ended_at = event.time
        if self.asking is not None:
            self.asking.since.add(trial.number)

    def _shared(self, structure: Params) -> Params:
        """One mapping for all cohorts of that structure."""
        return self._structures.setdefault(repr(structure), _slim(structure))

    def _wait(self, trials: Iterable[TrialHistory]) -> None:
        """Nobody trains these any more, until they are started again."""
        for trial in trials:
            self._move(trial, State.WAITING)

    def _move(self, trial: TrialHistory, state: State) -> None:
        self.states[trial.state] -= 1
        self.states[state] += 1
        trial.state = state
        self.running.pop(trial.number, None)
        if state is State.RUNNING:
            self.running[trial.number] = trial

    @property
    def code(self) -> int:
        """Which of `codes` trains now."""
        return max(0, len(self.codes) - 1)

    def count(self, state: State) -> int:
        return self.states[state]

    @property
    def ended(self) -> int:
        """How many trials have ended."""
        return sum(self.states[state] for state in _STATES.values())

    @property
    def unfinished(self) -> list[int]:
        """The trials that have not ended, by number."""
        return sorted(trial.number for trial in self.trials.values() if not trial.ended)

    @property
    def holes(self) -> list[str]:
        """What a whole study has and this one lacks: trials before the newest, epochs before a trial's last."""
        trials = [f"trial {number}" for number in range(max(self.trials, default=0)) if number not in self.trials]
        return trials + [
            f"epoch {epoch} of trial {trial.number}"
            for trial in self.trials.values()
            for epoch in range(1, trial.epochs)
            if epoch not in trial.reports
        ]

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What the study is about, the metric that decides which epoch counts first."""
        written = self.spec["search"]["objective"]
        several = written if isinstance(written, list) else [written]
        return tuple((one["metric"], one["goal"] == "maximize") for one in several)

    def best(self, metric: str, maximize: bool, *others: Objective) -> TrialHistory | None:
        """The completed trial with the best value of `metric`; the others decide a tie, then the lowest number."""
        objectives = ((metric, maximize), *others)
        done = [
            (merit, -trial.number) for trial in self.trials.values() if (merit := trial.merit(objectives)) is not None
        ]
        return self.trials[-max(done)[1]] if done else None

    def front(self, *objectives: Objective) -> list[TrialHistory]:
        """The Pareto front, by number: the completed trials that no other beats in one and equals in all objectives.

        `best` is one of them. From the best down, a trial can be beaten by those before it alone.
        """
        ranked = [(merit, trial) for trial in self.trials.values() if (merit := trial.merit(objectives)) is not None]
        front: list[tuple[tuple[float, ...], TrialHistory]] = []
        for merit, trial in sorted(ranked, key=lambda one: one[0], reverse=True):
            if not any(dominates(better, merit) for better, _ in front):
                front.append((merit, trial))
        return sorted((trial for _, trial in front), key=lambda trial: trial.number)


def _slim(params: Params) -> Params:
    """The same, its texts shared with all other trials."""
    return {intern(name): intern(value) if type(value) is str else value for name, value in params.items()}


def dominates(merit: Sequence[float], other: Sequence[float]) -> bool:
    """Whether the first is nowhere worse than the second, and somewhere better."""
    return merit != other and all(one >= two for one, two in zip(merit, other, strict=True))
