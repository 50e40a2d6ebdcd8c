"""Where checkpoints and weights are kept: the protocols, and the study's own folder.

Knows files of tensors and full disks; never training, nor who writes. `remote` keeps checkpoints at an address that all
nodes see, `wire` sends them to the driver.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from tuner.checkpoints import format as checkpoint
from tuner.errors import MachineError

State = dict[str, Any]
Pause = Callable[[str | None], None]
"""Called again and again while a disk is full or a storage away, for as long as one is to wait: the first time with
what a person should read."""


def checkpoint_path(folder: Path, cohort: int) -> Path:
    return folder / "checkpoints" / f"{cohort:06d}.pt"


def weights_path(folder: Path, trial: int) -> Path:
    return folder / "weights" / f"{trial:06d}.pt"


class CheckpointStore(Protocol):
    """The states of cohorts in training, as a worker has them: it goes on from the newest, and adds to them."""

    def latest(self, cohort: int, pause: Pause, restore: checkpoint.Restore) -> tuple[State | None, list[str]]:
        """The newest whole state of a cohort (None where there is none), and a message for each that is not.

        Whole is what `restore` has taken; see `checkpoint.newest`. Raises as `save`."""

    def save(self, cohort: int, attempt: int, state: State, pause: Pause) -> None:
        """Keep the state of a cohort in an attempt. Raises MachineError, and whatever `pause` raises."""


class WeightStore(Protocol):
    """What is kept of trials for good."""

    def save_weights(self, cohort: int, attempt: int, trial: int, state: State, pause: Pause) -> None:
        """Keep the weights of a trial's best epoch, at its end. Raises as `CheckpointStore.save`."""


class StudyCheckpoints(CheckpointStore, Protocol):
    """The same, as the study's driver has them: no state is looked into.

    Raises TunerError where a storage is not to be had."""

    def generations(self, cohort: int) -> Iterator[tuple[str, bytes]]:
        """What there is of a cohort, the newest first: the name and the content of each."""

    def put(self, cohort: int, content: bytes) -> None:
        """Keep it as the newest of that cohort."""

    def drop(self, cohort: int) -> None:
        """Nobody goes on from that cohort any more."""

    def clear(self) -> None:
        """Nobody goes on from any."""


class Folder:
    """The study's folder, on a disk that this process sees."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def latest(self, cohort: int, _pause: Pause, restore: checkpoint.Restore) -> tuple[State | None, list[str]]:
        return checkpoint.newest(self.generations(cohort), restore)

    def generations(self, cohort: int) -> Iterator[tuple[str, bytes]]:
        return checkpoint.generations(checkpoint_path(self._folder, cohort))

    def put(self, cohort: int, content: bytes) -> None:
        path = checkpoint_path(self._folder, cohort)
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save(path, content)

    def drop(self, cohort: int) -> None:
        """Remove its files; one that cannot be removed now goes with `clear`."""
        for path in checkpoint.files(checkpoint_path(self._folder, cohort)):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def clear(self) -> None:
        shutil.rmtree(self._folder / "checkpoints", ignore_errors=True)

    def save(self, cohort: int, _attempt: int, state: State, pause: Pause) -> None:
        self.write(cohort, None, state, pause)

    def save_weights(self, cohort: int, _attempt: int, trial: int, state: State, pause: Pause) -> None:
        self.write(cohort, trial, state, pause)

    def write(self, cohort: int, trial: int | None, state: State | bytes, pause: Pause) -> None:
        """As `save` (of a `trial`, its weights), also for what a worker has packed already."""
        path = checkpoint_path(self._folder, cohort) if trial is None else weights_path(self._folder, trial)
        paused = False
        while True:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                return checkpoint.save(path, state, generations=2 if trial is None else 1)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise MachineError(f"{path} cannot be written: {error.strerror or error}") from error
                free = shutil.disk_usage(path.parent).free
                need = f"{checkpoint.size(state) / 1e6:.1f} MB, {free / 1e6:.1f} free at {path.parent}"
            pause(None if paused else f"{path.name} needs {need}; paused until there is room")
            paused = True
