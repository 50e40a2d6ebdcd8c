"""What is said of a study in a few lines: how far it is, and how a launch of it ended.

It knows the history, and what people ask first. It must never know where a study is stored, nor print anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tuner import failures
from tuner.history import History
from tuner.output import cell
from tuner.progress import score
from tuner.results import leader, objectives
from tuner.trial import State


def standing(
    name: str, history: History, holder: Mapping[str, Any] | None, *, full: bool = False
) -> dict[str, str | int | float | None]:
    """One study in one row; `full` adds who drives it, when it began, and a note about its best trial."""
    # A driver that died before its first event leaves a ledger without a spec: listed, never a reason to fail.
    wanted = objectives(history) if history.spec else ()
    best = leader(history) if wanted else None
    values = best.values(wanted) if best else None
    row: dict[str, str | int | float | None] = {
        "study": name,
        "state": history.completed or ("running" if holder else "interrupted"),
        "trials": history.spec["search"]["trials"] if history.spec else None,
        "complete": history.count(State.COMPLETE),
        "pruned": history.count(State.PRUNED),
        "failed": history.count(State.FAILED),
        "running": history.count(State.RUNNING) if holder else 0,
        "objective": wanted[0][0] if wanted else None,
        "best": values[0] if values else None,
        "best_trial": best.number if best else None,
        "updated": _moment(history.updated_at),
    }
    if full:
        row["created"] = _moment(history.created_at)
        row["driver"] = f"{holder['host']}:{holder['pid']} since {holder['since']}" if holder else None
        row["note"] = overlooked(history) if wanted else None
    return row


def overlooked(history: History) -> str | None:
    """One line about the best pruned trial, where its best value is better than that of the best completed trial."""
    best = leader(history)
    if best is None:
        return None
    metric, maximize = objectives(history)[0]
    sign = 1.0 if maximize else -1.0
    score = best.best_value(metric, maximize)
    pruned = [
        (sign * value, -trial.number, value)
        for trial in history.trials.values()
        if trial.state is State.PRUNED and (value := trial.best_value(metric, maximize)) is not None
    ]
    if score is None or not pruned or max(pruned)[0] <= sign * score:
        return None
    _, number, value = max(pruned)
    trial = history.trials[-number]
    epoch = trial.best_epoch(metric, maximize)
    reached, beaten = cell(value), cell(score)
    if reached == beaten:  # equal but for the digits that a person is spared
        reached, beaten = repr(value), repr(score)
    at = f" at epoch {epoch}" if epoch != trial.epochs else ""
    whose = "the winner's" if history.completed else "the best completed trial's"
    return (
        f"trial {trial.number} was pruned at epoch {trial.epochs} with {metric} {reached}{at}, better than {whose} "
        f"{beaten}; pruned trials are not candidates"
    )


def ending(
    name: str, history: History, state: str, tracked: Mapping[str, Any] | None, *, program: str, where: str
) -> list[str]:
    """What a person wants to know when a launch has ended: the best trial, its test score, where to look.

    `program` and `where` are what they can paste: the command as they call it, and its --home if there was one.
    `tracked` is how far MLflow has followed, None where nobody waited for it.
    """
    wanted = objectives(history)
    counts = ", ".join(
        f"{history.count(state)} {word}"
        for state, word in ((State.COMPLETE, "complete"), (State.PRUNED, "pruned"), (State.FAILED, "failed"))
    )
    lines = [f"study {name} {state}: {len(history.trials)} trials ({counts})"]
    if (best := leader(history)) is not None:
        lines.append(f"best trial {best.number}: {score(best, wanted)}")
        width = max(map(len, best.params), default=0)
        lines += [f"  {key:<{width}}  {cell(value)}" for key, value in best.params.items()]
        if best.tested:
            tested = ", ".join(f"{key} {cell(value)}" for key, value in best.tested.items())
            lines.append(f"on the test split: {tested}")
        if (pruned := overlooked(history)) is not None:
            lines.append(pruned)
        if len(wanted) > 1:
            front = ", ".join(str(trial.number) for trial in history.front(*wanted))
            lines.append(f"Pareto front: trials {front}; {program} best {name}{where}")
    lines += failures.told(history, f"{program} logs {name}{where} --trial")
    if state == "interrupted":
        lines.append("interrupted; the same command goes on where it stopped")
    lines += [f"every trial: {program} results {name}{where}", f"dashboard:   {program} ui {name}{where}"]
    if tracked is not None and (tracked.get("waiting") or tracked.get("error")):
        lines.append(f"MLflow:      {tracked.get('waiting', 0):,} points waiting; {program} sync {name}{where}")
    elif tracked is not None:
        lines.append("MLflow:      everything is written")
    return lines


def _moment(seconds: float) -> str | None:
    """Local time with its offset from UTC, or None for a moment that never was."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds") if seconds else None
