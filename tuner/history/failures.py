"""Why trials failed: causes shared by several of them, what those trials had in common, and how many are too many.

It knows the history of a study. It must never know where the study is stored, nor print anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tuner.events import State, Value
from tuner.history.fold import History, TrialHistory
from tuner.terminal.tables import cell

_PLACE = re.compile(r" \([^()]+:\d+\)$")  # where it was raised, at the end of a message
_NUMBER = re.compile(r"(?<![A-Za-z_])[-+]?\d+(?:[.,]\d+)*(?:e[-+]?\d+)?", re.IGNORECASE)
_LISTED = 8  # numbers of trials that are named one by one
_CAUSES = 5  # that are told, the most frequent ones
_SHARED = 3  # hyperparameters that are named as common to all


@dataclass(frozen=True)
class Cause:
    """What several trials failed of: the message of the first, whether those of others differ in their numbers, and
    the hyperparameters that all of these trials have and others have not."""

    message: str
    alike: bool
    trials: tuple[int, ...]
    shared: tuple[tuple[str, Value], ...]

    def __str__(self) -> str:
        count = f"{len(self.trials)} trials failed" if len(self.trials) > 1 else "1 trial failed"
        alike = ", and the like" if self.alike else ""
        common = ", ".join(f"{name} {cell(value)}" for name, value in self.shared)
        common = f" ({common} in all of them)" if common else ""
        return f"{count}: {self.message}{alike}: {named(self.trials)}{common}"


def too_many(history: History) -> bool:
    """Whether more than half of the trials that have ended failed; a pruned trial is no failure."""
    return 2 * history.count(State.FAILED) > history.ended


def told(history: History, command: str) -> list[str]:
    """The causes in a line each, and where to look: `command` is what shows a trial's log, but for the number."""
    found = causes(history)
    lines = [str(cause) for cause in found[:_CAUSES]]
    if len(found) > _CAUSES:
        rest = sum(len(cause.trials) for cause in found[_CAUSES:])
        lines.append(f"{rest} more failed of {len(found) - _CAUSES} other causes")
    if found:
        lines.append(f"what a trial printed: {command} {found[0].trials[0]}")
    if history.completed and too_many(history):
        lines.append("more than half of the trials failed, so the exit code is 1")
    return lines


def causes(history: History) -> list[Cause]:
    """Why trials failed, the most frequent cause first. Two messages that differ in a number alone are one cause,
    if they come from one place."""
    groups: dict[tuple[str, str], list[TrialHistory]] = {}
    for _, trial in sorted(history.trials.items()):
        if trial.state is State.FAILED:
            place = match[0] if (match := _PLACE.search(trial.message)) else ""
            said = trial.message.removesuffix(place)
            groups.setdefault((_NUMBER.sub("#", said), place), []).append(trial)
    found = [
        Cause(
            trials[0].message,
            len({trial.message for trial in trials}) > 1,
            tuple(trial.number for trial in trials),
            tuple(_shared(history, trials)),
        )
        for trials in groups.values()
    ]
    return sorted(found, key=lambda cause: -len(cause.trials))


def _shared(history: History, failed: Sequence[TrialHistory]) -> list[tuple[str, Value]]:
    """The values that several trials have in common and others have not; first those that no other trial has."""
    if len(failed) < 2:
        return []
    numbers = {trial.number for trial in failed}
    others = [trial.params for trial in history.trials.values() if trial.number not in numbers and trial.ended]
    found = []
    for name, value in failed[0].params.items():
        if all(trial.params.get(name) == value for trial in failed):
            elsewhere = sum(params.get(name) == value for params in others)
            if elsewhere < len(others):
                found.append((elsewhere, name, value))
    found.sort(key=lambda one: one[0])
    return [(name, value) for _, name, value in found[:_SHARED]]


def named(trials: Iterable[int]) -> str:
    """`trial 7`, `trials 0, 3, 4`; of many the first ones and how many more."""
    numbers = sorted(trials)
    first = ", ".join(map(str, numbers[:_LISTED]))
    more = f" and {len(numbers) - _LISTED} more" if len(numbers) > _LISTED else ""
    return f"trial{'s' if len(numbers) > 1 else ''} {first}{more}"
