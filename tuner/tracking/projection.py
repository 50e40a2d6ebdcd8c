"""What a tracker should show of a study, worked out from its events: runs, params, metrics, tags, statuses, a note.

Pure: the same events give the same answer in whatever pieces they come, which is what lets `tracking` write again
what it may have written before. Knows the history fold and how MLflow names things. Must never know MLflow's client,
the ledger's file or a clock.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tuner.events import (
    TERMINAL,
    Asked,
    Completed,
    Event,
    Interrupted,
    Reported,
    Started,
    State,
    Tested,
    TrialEvent,
    Value,
)
from tuner.history.counts import planned
from tuner.history.fold import SHORT, History, TrialHistory, dominates

# MLflow's names for how a run stands. A pruned trial ended before its time, as a killed one does.
SCHEDULED, RUNNING, FINISHED, KILLED, FAILED = "SCHEDULED", "RUNNING", "FINISHED", "KILLED", "FAILED"
_STATUS = {State.COMPLETE: FINISHED, State.PRUNED: KILLED, State.FAILED: FAILED}

BEST = "best/"  # before a metric's name: its value at the objective's best epoch; of the study, that of its best trial
BEST_EPOCH = f"{BEST}epoch"
INTERRUPTED = "INTERRUPTED"  # `tuner.state` of a trial that waits for its study to be taken up again
_LONGEST_MESSAGE = 500
_LONGEST_DIGEST = 36  # MLflow's limit; the whole one stands in the source


@dataclass(frozen=True, slots=True)
class Point:
    """One value of one metric; `timestamp` in milliseconds since 1970, as MLflow has it."""

    key: str
    value: float
    timestamp: int
    step: int


@dataclass(slots=True)
class Projection:
    """A study as a tracker should show it. `under_way` is False once it has completed or was interrupted.

    A trial has a run from its start on; with `ahead` from the moment that it is asked, so that its own code finds it.
    """

    ahead: bool = False
    history: History = field(default_factory=History)
    under_way: bool = False
    began: dict[int, Event] = field(default_factory=dict)  # trial → what its run begins with; only these have one
    digests: dict[int, str] = field(default_factory=dict)  # trial → digest of the spec under which it was asked
    tests: dict[int, Tested] = field(default_factory=dict)  # by trial, the first test of each
    best: TrialHistory | None = None
    front: list[TrialHistory] = field(default_factory=list)  # of several objectives, as `History.front` finds it
    curve: list[Point] = field(default_factory=list)  # see `_lengthen`
    _held: dict[str, float] = field(default_factory=dict)  # the best of each objective on the curve
    _next: int = 0
    _latest: float = 0.0

    def fold(self, event: Event) -> None:
        """Take one event in; they come in the order of `seq`."""
        self.history.apply(event)
        if isinstance(event, Completed | Interrupted):
            self.under_way = False
        elif not isinstance(event, Tested):
            self.under_way = True
        if isinstance(event, Asked):
            self.digests[event.trial] = self.history.digest
            if self.ahead:
                self.began[event.trial] = event
        elif isinstance(event, Started):
            for number in event.trials:
                self.began.setdefault(number, event)
        elif isinstance(event, Tested):
            self.tests.setdefault(event.trial, event)
        elif isinstance(event, TrialEvent):
            self.began.setdefault(event.trial, event)
            if isinstance(event, TERMINAL):
                self._consider(self.history.trials[event.trial])
                self._lengthen()

    @property
    def study(self) -> str:
        return str(self.history.spec["study"])

    @property
    def over(self) -> bool:
        """Whether every trial that the study is to have has ended; the winner's test may be still to come."""
        return bool(self.history.spec) and self._next >= self.history.spec["search"]["trials"]

    def params(self, number: int) -> dict[str, str]:
        """Every hyperparameter of a trial, the fixed ones too."""
        return {name: str(value) for name, value in self.history.trials[number].settings.items()}

    def points(self, number: int, epochs: Iterable[int]) -> list[Point]:
        """What a trial reported at these epochs, step = epoch; with it, where an epoch is the trial's best so far, the
        objectives' best values and that epoch: of each the last one is what `tuner best` goes by, at any moment."""
        trial = self.history.trials[number]
        objectives = self.history.objectives
        due = sorted(epochs)
        better = _improvements(trial.reports.of(objectives[0][0]), objectives[0][1]) if due else frozenset()
        found = []
        for epoch in due:
            metrics, moment = trial.reports[epoch], milliseconds(trial.report_times[epoch])
            if epoch in better:
                best = {f"{BEST}{name}": metrics[name] for name, _ in objectives if name in metrics}
                metrics |= best | {BEST_EPOCH: float(epoch)}
            found += [Point(key, value, moment, epoch) for key, value in metrics.items()]
        return found

    def test_points(self) -> list[Point]:
        """The study's test scores, step = 0 for the first champion, 1 for the one of an extension, …

        They are the study's and not the trial's: among the trials' curves they would be charts of one dot each.
        """
        return [
            Point(key, value, milliseconds(test.time), step)
            for step, test in enumerate(self.tests.values())
            for key, value in test.metrics.items()
        ]

    def _consider(self, trial: TrialHistory) -> None:
        """Keep the best completed trial, the lowest number on a tie, as `History.best` finds it; and the front."""
        wanted = self.history.objectives
        merit = trial.merit(wanted)
        if merit is None:
            return
        if self.best is None or (merit, -trial.number) > (self.best.merit(wanted), -self.best.number):
            self.best = trial
        others = [(one, one.merit(wanted) or merit) for one in self.front]
        if len(wanted) > 1 and not any(dominates(other, merit) for _, other in others):
            self.front = [one for one, other in others if not dominates(merit, other)] + [trial]

    def _lengthen(self) -> None:
        """The curve of each objective's best value among trials 0 … n, step = n, as far as all up to n have ended.

        So it rises (or falls) only, ends at the best trial's value, and does not depend on who was faster.
        """
        wanted = self.history.objectives
        while (trial := self.history.trials.get(self._next)) is not None and trial.ended_at is not None:
            self._latest = max(self._latest, trial.ended_at)
            values = trial.values(wanted) if trial.state is State.COMPLETE else None
            for (metric, maximize), value in zip(wanted, values or (), strict=bool(values)):
                held = self._held.get(metric, value)
                self._held[metric] = max(held, value) if maximize else min(held, value)
            moment = milliseconds(self._latest)
            self.curve += [Point(f"{BEST}{name}", value, moment, self._next) for name, value in self._held.items()]
            self._next += 1

    def pareto(self, number: int) -> dict[str, str]:
        """Of several objectives, the tag that tells whether a completed trial is on the front now."""
        trial = self.history.trials[number]
        several = len(self.history.objectives) > 1 and trial.state is State.COMPLETE
        return {"tuner.pareto": "true" if trial in self.front else "false"} if several else {}

    def status(self, number: int, alive: bool) -> str:
        """MLflow's status of a trial's run; `alive` tells that somebody drives the study now."""
        state = self.history.trials[number].state
        waits = SCHEDULED if state is State.WAITING else RUNNING
        return _STATUS.get(state) or (waits if alive else KILLED)

    def ended(self, number: int) -> int:
        """When a trial's run ended, ms: an interrupted one at the study's last sign of life."""
        return milliseconds(self.history.trials[number].ended_at or self.history.updated_at)

    def study_status(self, alive: bool) -> str:
        if self.history.completed:
            return FINISHED if self.history.completed == "complete" else FAILED
        return RUNNING if alive else KILLED

    def tags(self, number: int, alive: bool) -> dict[str, str]:
        """A trial's tags, but for those that name MLflow's own runs; the note is its description there."""
        trial = self.history.trials[number]
        running = RUNNING if alive else INTERRUPTED
        found = {
            "tuner.study": self.study,
            "tuner.ledger": self.history.study_id,
            "tuner.trial": str(number),
            "tuner.seed": str(trial.seed),
            "tuner.spec_sha256": self.digests[number],
            "tuner.state": trial.state.value if trial.ended else running,
        }
        if trial.cohort is not None:
            found["tuner.cohort"] = str(trial.cohort)
        if self.history.codes:
            found["tuner.code"] = self.history.codes[trial.code][:SHORT]
        if trial.message:
            found["tuner.message"] = _one_line(trial.message)
        if trial.tested:
            found["tuner.test"] = _scores(trial.tested)
        if trial.ended:
            found["mlflow.note.content"] = self.trial_note(number)
        return found | self.pareto(number)

    def trial_note(self, number: int) -> str:
        """A trial that has ended, in a few sentences of Markdown. MLflow's own columns show the last epoch alone."""
        trial, (first, *_) = self.history.trials[number], self.history.objectives
        epochs = f"{trial.epochs} epoch{'s' if trial.epochs != 1 else ''}"
        told = [f"Trial {number} of study **{self.study}**: {trial.state.lower()} after {epochs}."]
        if (best := trial.best_epoch(*first)) is not None:
            told.append(f"Best {first[0]}: **{_number(trial.reports[best][first[0]])}** at epoch {best}.")
        if trial.tested:
            told.append(f"On the test split: {_scores(trial.tested)}.")
        if trial.message:
            told.append(_code(trial.message))
        return " ".join(told)

    def study_tags(self, alive: bool) -> dict[str, str]:
        """The parent run's tags, the note that MLflow shows as its description among them."""
        found = {
            "tuner.study": self.study,
            "tuner.ledger": self.history.study_id,
            "tuner.seed": str(self.history.spec["seed"]),
            "tuner.spec_sha256": self.history.digest,
            "tuner.state": self.history.completed or ("running" if alive else "interrupted"),
            "mlflow.note.content": self.note(alive),
        }
        return found if self.best is None else found | {"tuner.best_trial": str(self.best.number)}

    def dataset(self) -> dict[str, str]:
        """The data as MLflow's dataset input: name, digest, source_type, source and profile (JSON)."""
        data = self.history.data or {"name": "none", "digest": ""}
        rows = {f"{split}_rows": count for split, count in data.get("rows", {}).items()}
        return {
            "name": data["name"],
            "digest": data["digest"][:_LONGEST_DIGEST],
            "source_type": "tuner",
            "source": json.dumps({key: data[key] for key in ("name", "digest", "split") if key in data}),
            "profile": json.dumps(rows | _looks(data.get("signature", {}))),
        }

    def note(self, alive: bool) -> str:
        """The study in a few lines of Markdown."""
        spec, data, history = self.history.spec, self.history.data, self.history
        search = spec["search"]
        counts = ", ".join(f"{history.count(state)} {state.lower()}" for state in _STATUS)
        ended = sum(history.count(state) for state in _STATUS)
        state = history.completed or ("running" if alive else "interrupted; `tuner launch` goes on with it")
        goals = ", ".join(f"{'maximize' if up else 'minimize'} `{name}`" for name, up in history.objectives)
        rows = ", ".join(f"{count:,} {split}" for split, count in data.get("rows", {}).items())
        goals = goals[0].upper() + goals[1:]
        on = f" on {_code(data['name'])} (rows: {rows})" if data else ""
        lines = [
            f"Study **{self.study}**: {state}. {ended} of {planned(self.history)} trials ended: {counts}.",
            *(self._describe_winner(self.best) if self.best else ()),  # above what MLflow folds away
            "",
            f"{goals} of {_trained(spec)}{on}.",
            f"Sampler {search['sampler']['kind']}, pruner {search['pruner']['kind']}, seed {spec['seed']}.",
            *(self._tables(self.best) if self.best else ()),
        ]
        return "\n".join(lines)

    def _describe_winner(self, best: TrialHistory) -> Iterator[str]:
        wanted = self.history.objectives
        (first, score), *others = zip((name for name, _ in wanted), best.values(wanted) or (), strict=True)
        also = "".join(f", {name} {_number(value)}" for name, value in others)
        yield f"Best: **trial {best.number}**, {first} {_number(score)} at epoch {best.best_epoch(*wanted[0])}{also}."
        if best.tested:
            yield f"On the test split: {_scores(best.tested)}."

    def _tables(self, best: TrialHistory) -> Iterator[str]:
        wanted = self.history.objectives
        if self.front:
            yield from ("", "The Pareto front:", "", f"| trial | {' | '.join(name for name, _ in wanted)} |")
            yield "|---" * (len(wanted) + 1) + "|"
            for trial in sorted(self.front, key=lambda trial: trial.number):
                yield f"| {trial.number} | {' | '.join(map(_number, trial.values(wanted) or ()))} |"
        yield from ("", "| hyperparameter | value |", "|---|---|")
        yield from (f"| {name} | {_code(_number(value))} |" for name, value in best.params.items())


def reported(event: Event) -> int:
    """How many points an event adds to a trial's curves."""
    return len(event.metrics) if isinstance(event, Reported) else 0


def _improvements(curve: Iterable[tuple[int, float]], maximize: bool) -> frozenset[int]:
    """The epochs of a curve that are better than all before them; the last one is the best."""
    found, best = [], -math.inf
    for epoch, value in curve:
        merit = value if maximize else -value
        if merit > best:
            best = merit
            found.append(epoch)
    return frozenset(found)


def milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _number(value: Value | None) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _scores(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {_number(value)}" for name, value in metrics.items())


def _code(text: str) -> str:
    """Text from a study file or a file's name as Markdown shows it verbatim, in a table too."""
    return "`" + _one_line(text).replace("`", "'").replace("|", "¦") + "`"


def _trained(spec: Mapping[str, Any]) -> str:
    """What a trial of that study is."""
    trial = spec.get("trial")
    return _code(spec["model"]["family"] if trial is None else trial["function"] or " ".join(trial["command"]))


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_LONGEST_MESSAGE]


def _looks(signature: Mapping[str, Any]) -> dict[str, Any]:
    """What a dataset looks like to a network, as lines of MLflow's page: `inputs: image 1 × 28 × 28`, `classes: 10`."""
    if not signature:
        return {}
    counted = {"classification": "classes", "regression": "targets"}.get(signature["task"])
    found = {
        "task": signature["task"],
        "inputs": f"{signature['modality']} {' × '.join(map(str, signature['inputs']))}",
        "vocabulary": signature.get("vocabulary"),
        counted: signature["outputs"],
    }
    return {key: value for key, value in found.items() if key is not None and value is not None}
