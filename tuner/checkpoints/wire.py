"""Checkpoints and weights through an executor's connection, for a worker that does not see the study's folder.

Knows contents and who carries them to the driver; never training. A job brings the generations to go on from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # an actor's process imports torch after it has heard of its threads
    from tuner.checkpoints.format import Restore
    from tuner.checkpoints.store import Pause, State


@dataclass(frozen=True)
class File:
    """A checkpoint of a cohort or, of a `trial`, its weights: for the driver, which keeps it in the study's folder."""

    cohort: int
    attempt: int
    trial: int | None
    content: bytes = field(repr=False)


class Wire:
    """A checkpoint store and a weight store that send all they are given. `kept` is what the newest job has brought."""

    def __init__(self, send: Callable[[File], None]) -> None:
        self._send = send
        self.kept: tuple[tuple[str, bytes], ...] = ()

    def latest(self, _cohort: int, _pause: Pause, restore: Restore) -> tuple[State | None, list[str]]:
        from tuner.checkpoints import format as checkpoint

        kept, self.kept = self.kept, ()
        return checkpoint.newest(kept, restore)

    def save(self, cohort: int, attempt: int, state: State, _pause: Pause) -> None:
        self._file(cohort, attempt, None, state)

    def save_weights(self, cohort: int, attempt: int, trial: int, state: State, _pause: Pause) -> None:
        self._file(cohort, attempt, trial, state)

    def _file(self, cohort: int, attempt: int, trial: int | None, state: State) -> None:
        from tuner.checkpoints import format as checkpoint

        self._send(File(cohort, attempt, trial, checkpoint.pack(state)))
