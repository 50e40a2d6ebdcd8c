"""What the callbacks share: metrics to the trial, whether it is to stop, and the checkpoint to go on from.

Knows a trial as `tuner.current_trial` gives it; never a library that trains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from tuner.workloads.context import TrialContext, TrialStopped, current_trial


class Reports:
    """A callback's side of its trial. `stopped` is whether the trial was told to end."""

    def __init__(self, trial: TrialContext | None) -> None:
        self.trial = current_trial() if trial is None else trial
        self.stopped = False

    @cached_property
    def checkpoint(self) -> Path | None:
        """The checkpoint to resume from; None in a trial that begins.

        Ask for it before training: the trial's epochs then count on from that checkpoint. Raises TypeError where the
        trial's checkpoint was not saved by a callback.
        """
        state = self.trial.restore()
        if state is not None and not isinstance(state, Path):
            name = type(state).__name__
            raise TypeError(
                f"expected a checkpoint that this callback saved, got a {name}: use trial.restore() instead"
            )
        return state

    def send(self, metrics: Mapping[str, Any], checkpoint: Path | Callable[[], Path] | None) -> None:
        """Report the next epoch; a stop is kept in `stopped`, so that training can end in its own way."""
        try:
            self.trial.report(scalars(metrics), checkpoint=checkpoint)
        except TrialStopped:
            self.stopped = True


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Those that are single numbers, as floats."""
    found = {}
    for name, value in metrics.items():
        if isinstance(value, str):
            continue
        try:
            found[name] = float(value)
        except (TypeError, ValueError, RuntimeError):  # torch raises the last one for several numbers
            continue
    return found
