"""A study's results as tidy pandas frames, JSON and CSV, from the ledger alone.

It knows the history fold and the shapes that people and their scripts read. It must never know the running study,
samplers, networks or MLflow, and it recomputes nothing: every number in it is one that the ledger holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tuner.errors import StudyMissing
from tuner.events import Objective, State
from tuner.history.fold import SHORT, History, TrialHistory

if TYPE_CHECKING:
    import pandas as pd


def objectives(history: History) -> tuple[Objective, ...]:
    """The metrics that the study is about, and of each whether more of it is better.

    The first decides which epoch of a trial counts, and which trial is the winner. Raises StudyMissing where the
    driver died before it had written what the study is.
    """
    if not history.spec:
        raise StudyMissing("the study was never begun; launch it again")
    return history.objectives


def leader(history: History) -> TrialHistory | None:
    """The best completed trial on the first objective; the others decide a tie, so that it is on the Pareto front."""
    first, *others = objectives(history)
    return history.best(*first, *others)


def as_json(history: History, *, driven: bool = False) -> dict[str, Any]:
    """The study as plain JSON: {"study", "state", "objectives", "trials"}, trials in the order of their numbers.

    `driven` says that a process holds the study's lock at this moment. Where none does, nothing can be running: the
    state of an unfinished study is then "interrupted" and its unfinished trials are WAITING; else it is "running".
    A trial is {"number", "state", "params", "metrics", "last", "best_epoch", "epochs", "seconds", "seed", "message"}:
    `params` the searched hyperparameters that are active, `metrics` the values at the objective's best epoch (what the
    sampler is told; empty where the objective never was finite), `last` those of the last epoch reported, `best_epoch`
    the objective's (from 1; null where it never was finite), `epochs` how many were reported, `seconds` the training
    time. Values that are not finite are absent. Of several objectives the first decides the epoch, and each trial has
    `pareto`, whether it is on the Pareto front. Where a person's own network was changed under the study, each trial
    has `code`, the first digits of the SHA-256 of the file that trained it.
    """
    wanted = objectives(history)
    front = {trial.number for trial in history.front(*wanted)} if len(wanted) > 1 else set()
    return {
        "study": history.spec["study"],
        "state": history.completed or ("running" if driven else "interrupted"),
        "objectives": [{"metric": metric, "goal": "maximize" if up else "minimize"} for metric, up in wanted],
        "trials": [_trial(trial, wanted, driven, trial.number in front, history.codes) for trial in _in_order(history)],
    }


def best_json(history: History) -> dict[str, Any] | list[dict[str, Any]] | None:
    """The best completed trial, as in `as_json`, with its `test/…` values, once there are any, among its metrics.

    None where no trial has completed with a finite objective. Of several objectives a list: the Pareto front, the best
    of the first objective, which is the winner, at its head.
    """
    wanted = objectives(history)
    best = leader(history)
    if best is None:
        return None
    if len(wanted) == 1:
        return _tested(best, wanted, history.codes)
    front = sorted(history.front(*wanted), key=lambda trial: trial.merit(wanted) or (), reverse=True)
    return [_tested(trial, wanted, history.codes) for trial in front]


def _tested(trial: TrialHistory, wanted: Sequence[Objective], codes: Sequence[str]) -> dict[str, Any]:
    found = _trial(trial, wanted, driven=False, pareto=True, codes=codes)
    return found | {"metrics": found["metrics"] | (trial.tested or {})}


def trials(history: History, *, driven: bool = False) -> pd.DataFrame:
    """One row per trial; see `frame` for the columns and `as_json` for what stands in them."""
    return frame(as_json(history, driven=driven)["trials"])


def frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Trials as `as_json` and `best_json` give them, one row each.

    Columns: number, state, `params.<name>` for every hyperparameter, every metric by its own name (the values at the
    objective's best epoch), pareto where there are several objectives, best_epoch, epochs, seconds, seed, code where
    there were several, message. What a trial has not is missing (NaN or NA); whole numbers stay whole numbers beside
    missing ones.
    """
    import pandas as pd

    columns: dict[str, pd.Series[Any]] = {
        "number": pd.Series([row["number"] for row in rows], dtype="int64"),
        "state": pd.Series([row["state"] for row in rows], dtype="str"),
    }
    for name in _names(row["params"] for row in rows):
        columns[f"params.{name}"] = _series([row["params"].get(name) for row in rows])
    for name in _names(row["metrics"] for row in rows):
        columns[name] = pd.Series([row["metrics"].get(name) for row in rows], dtype="float64")
    if rows and "pareto" in rows[0]:
        columns["pareto"] = pd.Series([row["pareto"] for row in rows], dtype="bool")
    columns["best_epoch"] = pd.Series([row["best_epoch"] for row in rows], dtype="Int64")
    columns["epochs"] = pd.Series([row["epochs"] for row in rows], dtype="int64")
    columns["seconds"] = pd.Series([row["seconds"] for row in rows], dtype="float64")
    columns["seed"] = pd.Series([row["seed"] for row in rows], dtype="int64")
    if rows and "code" in rows[0]:
        columns["code"] = pd.Series([row["code"] for row in rows], dtype="str")
    columns["message"] = pd.Series([row["message"] for row in rows], dtype="str")
    return pd.DataFrame(columns)


def curves(history: History) -> pd.DataFrame:
    """Every metric ever reported: columns trial, epoch (from 1), metric, value; by trial, then epoch."""
    import pandas as pd

    points = [
        (trial.number, epoch, metric, value)
        for trial in _in_order(history)
        for epoch, metrics in sorted(trial.reports.items())
        for metric, value in metrics.items()
    ]
    types = {"trial": "int64", "epoch": "int64", "metric": "str", "value": "float64"}
    return pd.DataFrame(points, columns=list(types)).astype(types)


def _in_order(history: History) -> list[TrialHistory]:
    return [history.trials[number] for number in sorted(history.trials)]


def _trial(
    trial: TrialHistory, wanted: Sequence[Objective], driven: bool, pareto: bool, codes: Sequence[str]
) -> dict[str, Any]:
    best = trial.best_epoch(*wanted[0])
    return {
        "number": trial.number,
        "state": str(State.WAITING if trial.state is State.RUNNING and not driven else trial.state),
        **({"pareto": pareto} if len(wanted) > 1 else {}),
        "params": dict(trial.params),
        "metrics": {} if best is None else dict(trial.reports[best]),
        "last": dict(trial.reports[trial.epochs]) if trial.reports else {},
        "best_epoch": best,
        "epochs": trial.epochs,
        "seconds": trial.seconds,
        "seed": trial.seed,
        **({"code": codes[trial.code][:SHORT]} if len(codes) > 1 else {}),
        "message": trial.message,
    }


def _names(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    """Every key, in the order of first appearance."""
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


def _series(values: Sequence[Any]) -> pd.Series[Any]:
    """One hyperparameter's values, None where it is inactive, in the narrowest type that changes none of them."""
    import pandas as pd

    types = {type(value) for value in values if value is not None}
    if types <= {int, float} and float in types:
        return pd.Series(values, dtype="float64")
    one = next(iter(types)) if len(types) == 1 else object
    whole = None not in values
    names = {bool: "bool" if whole else "boolean", int: "int64" if whole else "Int64", str: "str"}
    return pd.Series(values, dtype=names.get(one, "object"))
