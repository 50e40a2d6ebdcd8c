"""The end of a study: its winner is finished as its workload does, and the study is closed.

Knows ledger and history; never what a trial is, the sampler, workers or trackers.
"""

from __future__ import annotations

from tuner.checkpoints import migrate
from tuner.history.results import leader
from tuner.study.session import StudySession
from tuner.terminal.progress import Now


def finish_study(session: StudySession) -> None:
    """Have the best trial finished, once, and close the study; "failed" where no trial completed."""
    history, folder, progress = session.history, session.folder, session.progress
    best = leader(history)
    tested = None
    if best is None:
        message = f"none of {len(history.trials)} trials completed"
        progress.message(message)
    else:
        message = f"best is trial {best.number}"
        if best.tested is None:
            session.ahead.wait()
            tested = session.workload.finish(best, history, folder, progress.message)
    with session.log.together() as stored:
        session.log.completed(message, winner=None if best is None else best.number, tested=tested)
    migrate.clear(folder, history, progress.message)
    progress.update(history, stored, Now(trials=len(history.trials)))


def restore_winner(session: StudySession) -> None:
    """Make what is lost of a complete study's winner again; what was tested stays as it was."""
    best = leader(session.history)
    if best is not None and best.tested is not None:
        session.workload.restore(best, session.history, session.folder, session.progress.message)
