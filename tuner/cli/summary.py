"""What is said of a study in a few lines: how far it is, and how a launch of it ended.

It knows the history, and what people ask first. It must never know how a study is stored, nor print anything.
"""

from __future__ import annotations

import math
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from tuner.events import State
from tuner.history import failures
from tuner.history.counts import Counts, counts
from tuner.history.fold import History
from tuner.history.results import leader, objectives
from tuner.terminal.progress import score
from tuner.terminal.tables import cell
from tuner.tracking.dashboard import OFF

_UNITS = (("min", 1, 60), ("h", 60, 48 * 60), ("days", 24 * 60, math.inf))  # each, its minutes, and up to how many
_FIRST = (
    "study",
    "state",
    "progress",
    "best",
    "objective",
    "trials",
    "complete",
    "updated",
    "pruned",
    "failed",
    "running",
    "queued",
)


def standing(
    name: str, history: History, holder: Mapping[str, Any] | None, folder: Path, *, full: bool = False
) -> dict[str, str | int | float | None]:
    """One study in one row; `full` adds who drives it, when it began, and a note about its best trial."""
    # A driver that died before its first event leaves a ledger without a spec: listed, never a reason to fail.
    wanted = objectives(history) if history.spec else ()
    best = leader(history) if wanted else None
    values = best.values(wanted) if best else None
    now = counts(history, folder, driven=holder is not None)
    row: dict[str, str | int | float | None] = {
        "study": name,
        "state": history.completed or ("running" if holder else "interrupted"),
        "trials": history.spec["search"]["trials"] if history.spec else None,
        "complete": history.count(State.COMPLETE),
        "pruned": history.count(State.PRUNED),
        "failed": history.count(State.FAILED),
        "running": now.running,
        "saved": now.saved,
        "queued": now.queued,
        "objective": wanted[0][0] if wanted else None,
        "best": values[0] if values else None,
        "best_trial": best.number if best else None,
        "updated": _moment(history.updated_at),
    }
    if full:
        row["progress"] = now.line()
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


def called() -> str:
    """The program as a person can paste it: as they called it, where no shell finds `tuner`."""
    if shutil.which("tuner"):
        return "tuner"
    module = Path(sys.argv[0]).name == "__main__.py"  # python -m tuner
    path = sys.executable if module else sys.argv[0]
    short = shlex.quote(min(path, os.path.relpath(path), key=len))
    return f"{short} -m tuner" if module else short


def ending(
    name: str,
    history: History,
    state: str,
    tracked: Mapping[str, Any] | None,
    *,
    now: Counts | None = None,
    program: str,
    where: str,
) -> list[str]:
    """What a person wants to know when a launch has ended: the best trial, its test score, where to look.

    `program` and `where` are what they can paste: the command as they call it, and its --home if there was one.
    `tracked` is how far MLflow has followed, None where nobody waited for it; `now`, of a study that was interrupted,
    how far it is.
    """
    best = leader(history)
    if now is not None:
        leads = f"; best so far: trial {best.number}, {score(best, objectives(history))}" if best else ""
        lines = [f"study {name} {state}: {now.line()}{leads}", "the same command goes on where it stopped"]
        lines += [pruned] if (pruned := overlooked(history)) is not None else []
    else:
        states = ((State.COMPLETE, "complete"), (State.PRUNED, "pruned"), (State.FAILED, "failed"))
        told = ", ".join(f"{history.count(state)} {word}" for state, word in states)
        lines = [
            f"study {name} {state}: {len(history.trials)} trials ({told})",
            *_winner(name, history, program, where),
        ]
    lines += failures.told(history, f"{program} logs {name}{where} --trial")
    lines.append(f"every trial: {program} results {name}{where}")
    if history.tracking != OFF:
        lines.append(f"dashboard:   {program} ui {name}{where}")
    if tracked is not None and (tracked.get("waiting") or tracked.get("error")):
        points = tracked.get("waiting")
        why = f"{points:,} points waiting" if points else tracked["error"]
        lines.append(f"MLflow:      {why}; {program} sync {name}{where}")
    elif tracked is not None:
        lines.append("MLflow:      up to date")
    return lines


def _winner(name: str, history: History, program: str, where: str) -> Iterator[str]:
    """The best trial, with its hyperparameters and scores."""
    wanted, best = objectives(history), leader(history)
    if best is None:
        return
    yield f"best trial {best.number}: {score(best, wanted)}"
    width = max(map(len, best.params), default=0)
    yield from (f"  {key:<{width}}  {cell(value)}" for key, value in best.params.items())
    if best.tested:
        yield f"on the test split: {', '.join(f'{key} {cell(value)}' for key, value in best.tested.items())}"
    if (pruned := overlooked(history)) is not None:
        yield pruned
    if len(wanted) > 1:
        front = ", ".join(str(trial.number) for trial in history.front(*wanted))
        yield f"Pareto front: trials {front}; {program} best {name}{where}"


def for_people(row: Mapping[str, Any], now: float | None = None) -> dict[str, Any]:
    """What `standing` gives as a table shows it: what people look for first on the left, times as `53 min ago`.

    `now`, in seconds since 1970, is the present unless given.
    """
    told = {name: row[name] for name in _FIRST if name in row} | dict(row)
    told.pop("note", None)  # a sentence, and no cell of a table
    for name in ("updated", "created"):
        if told.get(name):
            told[name] = ago(str(told[name]), now)
    if told.get("driver"):
        who, _, since = str(told["driver"]).rpartition(" since ")
        told["driver"] = f"{who}, started {ago(since, now)}"
    return told


def ago(moment: str, now: float | None = None) -> str:
    """`53 min ago`, from local time with its offset; anything else as it is."""
    try:
        seconds = (time.time() if now is None else now) - datetime.fromisoformat(moment).timestamp()
    except ValueError:
        return moment
    minutes = int(max(seconds, 0)) // 60
    if minutes < 1:
        return f"{int(max(seconds, 0))} s ago"
    return next(f"{minutes // length} {unit} ago" for unit, length, most in _UNITS if minutes < most)


def _moment(seconds: float) -> str | None:
    """Local time with its offset from UTC, or None for a moment that never was."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds") if seconds else None
