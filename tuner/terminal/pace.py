"""How fast a study trains and how long it will take, from the reports of its trials.

It knows the history and a clock. It must never know how that is shown.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from tuner.events import Event, Reported
from tuner.history.fold import History, TrialHistory

WINDOW = 30.0  # seconds over which speed is averaged: long enough to smooth ASHA's rungs, short enough to follow them
_NOTHING: Mapping[int, float] = MappingProxyType({})


class Pace:
    """Trial-steps per second and time left, from the reports seen since the driver took the study up.

    A trial-step is one update of one trial's weights, so a step of a cohort of 16 counts 16 times.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.started = clock()
        self._steps = self._epochs = 0
        self._marks: deque[tuple[float, int, int]] = deque([(self.started, 0, 0)])

    def note(self, history: History, fresh: Sequence[Event]) -> None:
        """Count the reports among `fresh`."""
        reported = [event.trial for event in fresh if isinstance(event, Reported)]
        if not reported:
            return
        self._steps += sum(steps_per_epoch(history, history.trials[number]) for number in reported)
        self._epochs += len(reported)
        now = self._clock()
        self._marks.append((now, self._steps, self._epochs))
        while len(self._marks) > 2 and self._marks[1][0] < now - WINDOW:
            self._marks.popleft()

    @property
    def elapsed(self) -> float:
        """Seconds since the driver took the study up."""
        return self._clock() - self.started

    def steps_per_second(self) -> float | None:
        """None before the first report."""
        seconds = self._clock() - self._marks[0][0]
        return (self._steps - self._marks[0][1]) / seconds if self._epochs and seconds > 0 else None

    def seconds_left(self, history: History, total: int, within: Mapping[int, float] = _NOTHING) -> float | None:
        """Epochs still to train, were the trials to come as long as those that ended, at the present speed.

        `within` maps a running cohort to the share of its epoch that it has trained. None before anything is.
        """
        seconds = self._clock() - self._marks[0][0]
        begun = sum(within.get(trial.cohort, 0.0) for trial in history.running.values() if trial.cohort is not None)
        rate = (self._epochs - self._marks[0][2] + begun) / seconds if seconds > 0 else 0.0
        if rate <= 0:
            return None
        typical = history.epochs_ended / history.ended if history.ended else epochs_of(history, None)
        to_train = max(0, total - history.ended - len(history.running)) * typical
        to_train += sum(max(typical - trial.epochs, 1.0) for trial in history.running.values())
        return max(to_train - begun, 0.0) / rate


def steps_per_epoch(history: History, trial: TrialHistory) -> int:
    """Updates of the weights in one epoch of that trial; 0 where the facts to tell it are not recorded."""
    rows = history.data.get("rows", {}).get("train", 0)
    batch = trial.setting("batch_size")
    return -(-rows // int(batch)) if batch else 0


def epochs_of(history: History, trial: TrialHistory | None) -> int:
    """Epochs that the trial (or a trial yet to come) trains if nothing stops it."""
    return int((history.fixed.get("epochs") if trial is None else trial.setting("epochs")) or 1)
