"""A study's sampler as Ray Tune's Searcher, for a Tune experiment that a person drives.

Knows search, histories and Tune's protocol. Tune tells a Searcher the same of a trial that was stopped and of one that
came to its end; `trainable` says which, so that a stopped one counts with what it reported, at its epoch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from tuner.events import State, Trial
from tuner.ray_tune.space import read
from tuner.ray_tune.trial import EPOCH, FAILED, FINISHED, NUMBER
from tuner.search import Search
from tuner.seeds import derive
from tuner.spec import StudySpec

Log = list[dict[str, Any]]


class OptunaBridge(Searcher):
    """`TuneConfig(search_alg=OptunaBridge("study.yaml"))` proposes what the study's sampler would.

    Sampler (TPE and all others), objective, `start_with` and the number of trials are the study's; leave `metric`,
    `mode` and `param_space` away. What a trial of `trainable` that was stopped reported is told as pruned, one that
    failed or diverged as failed. Goes on with `ray.tune.Tuner.restore`.
    """

    def __init__(self, study: StudySpec | str | Path) -> None:
        spec = read(study)
        super().__init__(metric=spec.metric, mode="max" if spec.maximize else "min")
        self._spec = spec
        self._search = begun(spec)
        self._numbers: dict[str, int] = {}
        self._reports: dict[int, dict[int, Mapping[str, float]]] = {}  # of trials that have not ended
        self._log: Log = []

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        """Tune's way to hand over a space: the study has its own."""
        return True

    def suggest(self, trial_id: str) -> Any:
        number = len(self._numbers)
        if number >= self._search.trials:
            return Searcher.FINISHED
        (trial,) = self._search.ask(number, 1)
        self._note({"asked": trial_id, "params": dict(trial.params)})
        return {**trial.params, NUMBER: number}

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        self._report(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Tune gives None for a trial that failed, and for one that it stopped while it was paused."""
        if result is not None:
            self._report(trial_id, result)
        self._end(trial_id, State.FAILED if error else ending(result or {}, self._spec.metric))

    def _report(self, trial_id: str, result: Mapping[str, Any]) -> None:
        number = self._numbers.get(trial_id)
        if number not in self._reports or FAILED in result or EPOCH not in result:
            return
        metrics = {name: float(result[name]) for name, _ in self._spec.objectives if name in result}
        metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self._note({"reported": trial_id, "epoch": int(result[EPOCH]), "metrics": metrics})

    def _end(self, trial_id: str, state: State) -> None:
        if self._numbers.get(trial_id) in self._reports:
            self._note({"ended": trial_id, "state": str(state)})

    def _note(self, entry: dict[str, Any]) -> None:
        """Take something in, and remember it for a restore."""
        self._log.append(entry)
        if "asked" in entry:
            number = self._numbers[entry["asked"]] = len(self._numbers)
            self._reports[number] = {}
        elif "reported" in entry:
            number, metrics = self._numbers[entry["reported"]], entry["metrics"]
            self._reports[number][entry["epoch"]] = metrics
            self._search.replay(number, entry["epoch"], metrics.get(self._spec.metric))
        else:
            number = self._numbers[entry["ended"]]
            self._search.tell(number, State(entry["state"]), self._values(self._reports.pop(number)))

    def _values(self, reports: Mapping[int, Mapping[str, float]]) -> tuple[float, ...] | None:
        """The value of each objective at the best epoch of the first, None where one is missing."""
        first, maximize = self._spec.objectives[0]
        curve = [(v[first] if maximize else -v[first], -at) for at, v in reports.items() if first in v]
        best = reports[-max(curve)[1]] if curve else {}
        values = [best.get(name) for name, _ in self._spec.objectives]
        return None if any(value is None for value in values) else tuple(value for value in values if value is not None)

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).write_text(json.dumps(self._log), encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        log: Log = json.loads(Path(checkpoint_path).read_text(encoding="utf-8"))
        self._search = begun(self._spec)
        self._numbers, self._reports, self._log = {}, {}, []
        for entry in log:
            if "asked" in entry:
                number = len(self._numbers)
                self._search.adopt(Trial(number, entry["params"], derive(self._spec.seed, "trial", number)))
            self._note(entry)


def begun(spec: StudySpec) -> Search:
    """The study's sampler before its first trial; nobody is stopped by it, that is the scheduler's part."""
    return Search(
        spec.space,
        sampler=spec.search.sampler.model_dump(),
        pruner={"kind": "none"},
        maximize=[maximize for _, maximize in spec.objectives],
        seed=spec.seed,
        trials=spec.search.trials,
        epochs=spec.epochs,
        start_with=spec.search.start_with,
        alone=True,
    )


def ending(result: Mapping[str, Any], metric: str) -> State:
    """How a trial ended whose last result this is: what did not say that it has come to its end was stopped."""
    if FAILED in result or math.isnan(result.get(metric, 0.0)):
        return State.FAILED
    return State.COMPLETE if result.get(FINISHED) else State.PRUNED
