"""What goes with a study that is deleted: MLflow's copy, checkpoints at a storage, events in a database, its folder.

The folder goes last, so that whoever was cut short finds the study and goes on. It joins tracking, checkpoints and
ledger; it must never ask a person, nor print.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

from tuner import lock
from tuner.checkpoints import migrate
from tuner.errors import StudyLocked, TunerError
from tuner.ledger import Ledger, study_folder
from tuner.tracking.dashboard import OFF, uri_of


def described(home: Path, study: str) -> str:
    """What would go, in a line. Raises StudyMissing, and StudyLocked where it runs."""
    folder = study_folder(home, study)
    with Ledger.open(folder, read_only=True) as ledger:
        if who := ledger.holder():
            raise StudyLocked(lock.refusal(study, who))
        count = len(ledger.history().trials)
    return f"study {study} with {count} trial{'s' * (count != 1)}, its best model and its logs ({folder})"


def delete(home: Path, study: str, say: Callable[[str], None], *, keep_mlflow: bool = False) -> None:
    """Delete a study for good; `say` hears of each thing that is gone.

    Raises StudyMissing, StudyLocked where it runs, and TunerError where MLflow, a storage or a database does not
    answer: what was to come after that is still there.
    """
    folder = study_folder(home, study)
    with Ledger.open(folder) as ledger, ledger.lock(), contextlib.ExitStack() as stack:
        history = ledger.history()
        folder.mkdir(parents=True, exist_ok=True)  # a ledger may be elsewhere
        if not keep_mlflow and history.study_id and history.tracking != OFF:
            from tuner.tracking.removal import remove, unwatched

            stack.enter_context(unwatched(folder))
            uri, _ = uri_of(history.tracking, home)
            try:
                gone = remove(uri, study, history.study_id)
            except TunerError as error:
                kept = "the study is kept; delete it later, or with --keep-mlflow, which leaves what MLflow has"
                raise TunerError(f"{error}; {kept}") from error
            say(f"removed from MLflow: {', '.join(gone) or 'nothing, it had nothing of this study'}")
        for storage in dict.fromkeys(filter(None, history.storages)):
            migrate.place(folder, storage).clear()
            say(f"removed its checkpoints at {storage}")
        if where := ledger.discard():
            say(f"removed its events from the {where}")
        doomed = folder.with_name(f".{study}.deleted")  # no study's name: a half of it is never taken for one
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed)
    say(f"removed {folder}")
