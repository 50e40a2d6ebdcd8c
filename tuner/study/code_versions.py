"""A person's own network whose file changes under its study: refused, or accepted from there on.

Knows the history and what is to be stored of a change; never what is in a network's file, nor who trains.
"""

from __future__ import annotations

from collections.abc import Callable

from tuner.errors import StudyChanged
from tuner.events import Grouped, Pruned, Trial
from tuner.history.failures import named
from tuner.history.fold import History
from tuner.workloads.base import CohortPolicy


def changed(history: History, study: str, name: str, digest: str | None, *, accept: bool, more: bool) -> bool:
    """Whether the network's file is another than at the last launch, which is to be recorded.

    `digest` is that of the file now, `more` whether there are trials left to train. Raises StudyChanged where the
    change is not accepted, or nothing could be trained with it.
    """
    if not history.digest or digest == history.network:
        return False
    files = f"the file of {name}, or one that it imports or reads,"
    what = f"{files} changed since study {study} was last launched"
    if not accept:
        raise StudyChanged(
            f"{what}; restore it, go on with the changed one (--accept-code), or give the study another name (--name)"
        )
    if not more:
        count = len(history.trials)
        raise StudyChanged(
            f"{what}, but its {count} trials have ended; --accept-code with --trials trains more of them"
        )
    return True


def left_behind(history: History, say: Callable[[str], None]) -> list[Pruned]:
    """What is stored with an accepted change: trials that had begun end here, for their network is no more."""
    begun = [trial for trial in history.trials.values() if trial.reports and not trial.ended]
    if begun:
        say(f"{named(trial.number for trial in begun)} had begun with the network as it was, and cannot go on")
    why = "its network was changed while it trained (--accept-code)"
    return [Pruned(trial.number, trial.epochs, why) for trial in begun]


def begun_anew(history: History, cohorts: CohortPolicy) -> list[Grouped]:
    """The cohorts of trials that wait since before such a change: new ones, which have no checkpoint."""
    left = [trial for trial in history.trials.values() if not trial.ended and trial.code != history.code]
    trials = [Trial(trial.number, trial.params, trial.seed) for trial in left if trial.cohort is not None]
    return [cohort.grouped() for cohort in cohorts.group(trials, len(history.cohorts))] if trials else []
