"""Where a study's checkpoints are kept from launch to launch: in its home, or at the storage that its file names.

Knows the history and the places; never what is in a checkpoint, nor who trains from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tuner.checkpoints.store import Folder, StudyCheckpoints
from tuner.errors import TunerError
from tuner.history.fold import History


def address(storage: str | None, study: str, number: str) -> str:
    """The folder of a study of that name and id at a storage; empty where there is none."""
    return "" if storage is None else f"{storage.rstrip('/')}/{study}-{number[:12]}"


def place(folder: Path, storage: str) -> StudyCheckpoints:
    """The study's `folder` in its home, or its folder at a storage. Raises InputError where nothing reaches that."""
    if not storage:
        return Folder(folder)
    from tuner.checkpoints.remote import Storage

    return Storage(storage)


def begin(folder: Path, storage: str, study: str, history: History, say: Callable[[str], None]) -> None:
    """Make a place ready for a launch; where the last one had another, bring over what it kept.

    Raises TunerError where the place is not to be had.
    """
    before = history.storages[-1] if history.storages and not history.completed else None
    if storage:
        from tuner.checkpoints.remote import Storage

        card = {"study": study, "about": "checkpoints of trials that train; gone when the study is complete"}
        Storage(storage).begin(card, known=before == storage)
    if before is None or before == storage:
        return
    was, now = (one or "the study's folder" for one in (before, storage))
    target, count = place(folder, storage), 0
    for cohort in _open(history):
        try:
            kept = [content for _, content in place(folder, before).generations(cohort)]
        except TunerError as error:
            say(f"checkpoints cannot be brought from {was}, trials that had begun begin anew: {error}")
            break
        _put(target, cohort, kept)
        count += bool(kept)
    if count:
        say(f"checkpoints of {count} cohort{'s' * (count > 1)} brought from {was} to {now}")


def split(kept: StudyCheckpoints, cohort: int, parts: Sequence[int]) -> None:
    """The parts of a halved cohort go on from its checkpoint."""
    contents = [content for _, content in kept.generations(cohort)]
    for part in parts:
        _put(kept, part, contents)


def _put(target: StudyCheckpoints, cohort: int, contents: Sequence[bytes]) -> None:
    """The newest first, as they were found."""
    for content in reversed(contents):
        target.put(cohort, content)


def clear(folder: Path, history: History, say: Callable[[str], None]) -> None:
    """No trial goes on any more: remove what any launch has kept anywhere."""
    for storage in dict.fromkeys(["", *history.storages]):
        try:
            place(folder, storage).clear()
        except TunerError as error:
            say(f"checkpoints are left behind: {error}")


def _open(history: History) -> list[int]:
    """The cohorts that a trial goes on from."""
    return sorted({t.cohort for t in history.trials.values() if t.cohort is not None and not t.ended})
