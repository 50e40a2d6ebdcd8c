"""One launch of a study: what all parts of it look at. Knows no part itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tuner.history.fold import History
from tuner.spec import StudySpec
from tuner.startup import ImportAhead
from tuner.study.log import StudyLog
from tuner.terminal.progress import Progress
from tuner.workloads.base import Workload


@dataclass(frozen=True)
class StudySession:
    """A study while its ledger is locked by this process: what was written, what is trained, what has happened.

    `workers` is how many the launch has asked for; None: as the study file says.
    """

    spec: StudySpec
    workload: Workload
    log: StudyLog
    progress: Progress
    folder: Path
    ahead: ImportAhead
    workers: int | None = None

    @property
    def history(self) -> History:
        """All that the ledger tells."""
        return self.log.history
