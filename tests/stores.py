"""An MLflow store as tests look into it, and what makes it equal to a ledger."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from tests.stories import Story
from tuner.events import State
from tuner.history.fold import History, TrialHistory
from tuner.tracking.dashboard import uri_of
from tuner.tracking.sqlite_store import connect
from tuner.tracking.sync import Tracker

STATUSES = {State.COMPLETE: "FINISHED", State.PRUNED: "KILLED", State.FAILED: "FAILED"}


class Store:
    """An MLflow store, and how a test looks into it."""

    def __init__(self, folder: Path) -> None:
        self.uri, self.artifacts = uri_of("embedded", folder)
        self.client = connect(self.uri)

    def track(self, story: Story) -> Tracker:
        return Tracker(story.folder, self.uri, self.artifacts)

    def sync(self, story: Story) -> None:
        """A process of its own would do so: a fresh tracker, until all is written."""
        tracker = self.track(story)
        drain(tracker)
        tracker.close()

    def runs(self, name: str) -> list[Any]:
        experiment = self.client.get_experiment_by_name(name)
        return list(self.client.search_runs([experiment.experiment_id], max_results=10_000))

    def parent(self, name: str) -> Any:
        (parent,) = (run for run in self.runs(name) if "mlflow.parentRunId" not in run.data.tags)
        return parent

    def children(self, name: str) -> dict[int, Any]:
        found = [run for run in self.runs(name) if "mlflow.parentRunId" in run.data.tags]
        children = {int(run.data.tags["tuner.trial"]): run for run in found}
        assert len(found) == len(children), "two runs of one trial"
        return children

    def points(self, run: Any) -> dict[str, list[tuple[int, float, int]]]:
        """Every value of every metric: (step, value, timestamp)."""
        return {
            key: sorted((m.step, m.value, m.timestamp) for m in self.client.get_metric_history(run.info.run_id, key))
            for key in run.data.metrics
        }

    def assert_mirrors(self, story: Story) -> None:
        self.assert_equals(story.name, story.ledger.history())

    def assert_equals(self, name: str, history: History) -> None:
        """MLflow equals the ledger, run by run and metric by metric."""
        parent, children = self.parent(name), self.children(name)
        assert children.keys() == history.trials.keys()
        for number, trial in history.trials.items():
            wanted: dict[str, list[tuple[int, float, int]]] = {}
            for epoch, metrics in sorted(trial.reports.items()):
                for key, value in metrics.items():
                    wanted.setdefault(key, []).append((epoch, value, int(trial.report_times[epoch] * 1000)))
            wanted |= best_epochs(trial)
            assert self.points(children[number]) == wanted
            info, tags = children[number].info, children[number].data.tags
            assert info.status == STATUSES[trial.state]
            assert info.end_time == int((trial.ended_at or 0) * 1000)
            assert tags["tuner.state"] == trial.state
            assert tags["mlflow.parentRunId"] == parent.info.run_id
            assert children[number].data.params.items() >= {k: str(v) for k, v in trial.params.items()}.items()
        assert self.points(parent).get("best/val/accuracy", []) == best_so_far(history)
        assert parent.info.status == {"complete": "FINISHED", "failed": "FAILED"}[history.completed]


def best_epochs(trial: TrialHistory) -> dict[str, list[tuple[int, float, int]]]:
    """A trial's best accuracy so far and its epoch, where they changed, by another way than the product's."""
    found: dict[str, list[tuple[int, float, int]]] = {}
    for last in sorted(trial.reports):
        until = {epoch: m["val/accuracy"] for epoch, m in trial.reports.items() if epoch <= last}
        if [epoch for epoch, value in until.items() if value == max(until.values())] == [last]:
            moment = int(trial.report_times[last] * 1000)
            found.setdefault("best/val/accuracy", []).append((last, until[last], moment))
            found.setdefault("best/epoch", []).append((last, float(last), moment))
    return found


def best_so_far(history: History) -> list[tuple[int, float, int]]:
    """The parent's curve, by another way than the product's."""
    curve: list[tuple[int, float, int]] = []
    for last in sorted(history.trials):
        until = [history.trials[n] for n in range(last + 1)]
        done = [t.best_value("val/accuracy", maximize=True) for t in until if t.state is State.COMPLETE]
        ended = max(t.ended_at or math.inf for t in until)
        if values := [value for value in done if value is not None]:
            curve.append((last, max(values), int(ended * 1000)))
    return curve


def drain(tracker: Tracker, cycles: int = 10) -> None:
    for _ in range(cycles):
        assert tracker.cycle(closing=True).error is None
        if tracker.drained:
            return
    raise AssertionError(f"not drained after {cycles} cycles")
