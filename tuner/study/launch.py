"""One study from its spec to its winner: open or resume, drive, finish the winner, and wait for the dashboard.

The only place that joins spec, workload, search, executor, ledger and tracking. It imports neither optuna nor
mlflow: the first is `search`'s, the second runs in a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.checkpoints import migrate
from tuner.errors import LedgerDamaged, StudyMissing
from tuner.events import Extended, State, Trial
from tuner.executors.local import PreforkedWorkers, forks
from tuner.history import results
from tuner.history.counts import counts, planned
from tuner.history.fold import History, TrialHistory
from tuner.home import private
from tuner.ledger import Ledger, study_folder
from tuner.search import Search
from tuner.spec import StudySpec
from tuner.spec.execution import TUNE
from tuner.startup import ImportAhead, enabled, freeze_gc
from tuner.study import code_versions, finish, preflight
from tuner.study.cohorts import OneByOne
from tuner.study.log import StudyLog
from tuner.study.loop import StudyLoop
from tuner.study.opening import as_written, check_extends, check_same, open_study, remember_extension
from tuner.study.session import StudySession
from tuner.study.signals import Signals
from tuner.study.workers import EXECUTORS, connect_early, imported, local_count
from tuner.terminal.progress import Now, PlainProgress, Progress, Tracking
from tuner.tracking.dashboard import uri_of
from tuner.tracking.standby import Standby
from tuner.tracking.writer import Writer
from tuner.workloads.base import Workload
from tuner.workloads.devices import device_of
from tuner.workloads.kinds import workload as workload_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Study:
    """A study as `launch` leaves it. `state` is "complete", "failed" or "interrupted" (then `signal` says by what)."""

    name: str
    folder: Path
    history: History = field(repr=False)
    state: str
    signal: int | None = None
    tracking: Tracking | None = None

    @property
    def trials(self) -> pd.DataFrame:
        """One row per trial, metrics at the objective's best epoch."""
        return results.trials(self.history)

    @property
    def curves(self) -> pd.DataFrame:
        """One row per trial, epoch and metric."""
        return results.curves(self.history)

    @property
    def best(self) -> dict[str, Any] | list[dict[str, Any]] | None:
        """The best completed trial, with its test metrics; None where no trial completed.

        Of several objectives the Pareto front, the winner at its head."""
        return results.best_json(self.history)


@private()
def launch(
    spec: StudySpec | str | Path,
    *,
    home: str | Path | None = None,
    workers: int | None = None,
    trials: int | None = None,
    progress: Progress | None = None,
    forking: bool = False,
    standby: Standby | None = None,
    accept_loss: bool = False,
    accept_code: bool = False,
) -> Study:
    """Run a study to its end, or go on with it where it was left; `trials` extends a finished one.

    `home` is TUNER_HOME, else ./tuner-home. With `forking` workers may begin as copies of this process, which is for
    processes that do nothing else; `standby` is the writing process where it runs already. With `accept_code` the files
    of a person's own network may have changed since the last launch. Raises SpecError and DataError before anything is
    made, StudyChanged where a study of that name was launched with another spec, StudyLocked where one runs,
    LedgerDamaged where events of it are lost: with `accept_loss` it goes on from the rest.
    """
    spec, progress = _read(spec, trials), progress or PlainProgress()
    home = Path(home or os.environ.get("TUNER_HOME") or "tuner-home")
    folder = study_folder(home, spec.study)
    plan = preflight.plan(spec, workload := workload_of(spec))
    if forking:
        freeze_gc()  # what is imported stays, and workers share it
    copied = forking and enabled("fork") and spec.run.executor == "local" and forks(device_of(spec))
    prefork = PreforkedWorkers((workers or local_count(spec, plan.trials)) if copied else 0, workload.shared)
    opened = partial(Ledger.create, folder, progress.message, accept_loss=accept_loss)  # no copy may hold its lock
    with prefork, connect_early(spec, folder), opened() as ledger, ledger.lock():
        history, lost = ledger.checked(accept_loss=accept_loss, tell=progress.message)
        if lost:  # checkpoints may be ahead of the ledger, or of trials that are asked otherwise this time
            migrate.clear(folder, history, progress.message)
        spec = remember_extension(spec, history, progress.message)
        ahead = ImportAhead(workload.needed_at_the_end)
        session = StudySession(spec, workload, StudyLog(ledger, history), progress, folder, ahead, workers)
        open_study(session, accept_code=accept_code)
        if history.completed:
            progress.message(f"study {spec.study} is {history.completed}: {len(history.trials)} trials")
            finish.restore_winner(session)
            prefork.end()  # copies hold the pipe of the process that stands by, which ends where nobody does any more
            with Writer(folder, home, spec.store, standby=standby) as writer:  # an earlier launch may have died before
                tracked = writer.drain(progress, patient=True)
            return Study(spec.study, folder, history, history.completed, tracking=tracked)
        resuming = [counts(history, folder).resuming()] if history.trials else []
        with (
            Signals(ledger.asked_to_stop) as signals,
            ahead.finished(),
            Writer(folder, home, spec.store, standby=standby, ahead=_runs_ahead(workload, spec, home)) as writer,
        ):
            try:
                progress.start([*plan.lines(planned(history)), *resuming])
                number = None if _drive(session, signals, writer, prefork) else _interrupted(session, signals)
                if number is None:
                    finish.finish_study(session)
            finally:
                progress.stop()
            ended = number is None
            tracked = writer.drain(progress, patient=ended, hurried=lambda: ended and signals.pending())
        return Study(spec.study, folder, history, history.completed or "interrupted", number, tracked)


def foreseen(
    spec: StudySpec,
    home: Path,
    workload: Workload | None = None,
    *,
    accept_code: bool = False,
    accept_loss: bool = False,
) -> tuple[StudySpec, list[str]]:
    """The spec with which `launch` would go on with what is in the home, and what it would say of that.

    Makes nothing. Raises StudyChanged and LedgerDamaged where it would refuse.
    """
    folder = study_folder(home, spec.study)
    try:
        with Ledger.open(folder, read_only=True) as ledger:
            history, audit = ledger.examine()
            if (damage := ledger.damage(audit)) and (audit.fatal or not accept_loss):
                raise LedgerDamaged(damage)
    except StudyMissing:
        return spec, []
    said: list[str] = []
    spec = remember_extension(spec, history, said.append)
    if history.digest and history.digest != spec.digest:
        check_extends(spec, history)
        said.append(
            f"extends study {spec.study} from {history.spec['search']['trials']} to {spec.search.trials} trials"
        )
        history.apply(Extended(*as_written(spec)))  # of this reading alone, to be counted as a launch would
    elif history.completed:
        said.append(f"study {spec.study} is {history.completed}: nothing is left to do")
    if history.digest:
        check_same(spec, workload or workload_of(spec), history, accept_code=accept_code, more=not history.completed)
    if history.trials and not history.completed:
        said.append(counts(history, folder).resuming())
    return spec, said


def _read(spec: StudySpec | str | Path, trials: int | None) -> StudySpec:
    if isinstance(spec, str | Path):
        return StudySpec.read(spec, trials=trials)
    if not isinstance(spec, StudySpec):
        raise TypeError(f"launch() takes a study file's path or a StudySpec, got {type(spec).__name__}")
    return spec if trials is None else spec.extended(trials)


def _runs_ahead(workload: Workload, spec: StudySpec, home: Path) -> bool:
    """Whether a trial's run is made before it begins: where its code may write there, and reaches the store."""
    _, artifacts = uri_of(spec.store, home)
    return workload.writes_runs and (spec.run.executor == "local" or artifacts is None)


# --- driving --------------------------------------------------------------------------------------


def _drive(session: StudySession, signals: Signals, writer: Writer, prefork: PreforkedWorkers) -> bool:
    """Have every trial trained (True), or stop where a signal says so (False)."""
    spec, history, log = session.spec, session.history, session.log
    search = _search(spec, history)

    def now(workers: int) -> Now:
        return Now(trials=search.trials, workers=workers, tracking=writer.said)

    if spec.run.executor == TUNE:
        log.append(code_versions.begun_anew(history, OneByOne(spec)))
        with imported(TUNE):
            from tuner.ray_tune.driver import drive
        return drive(session, search, now, signals.pending, writer.variables)
    with EXECUTORS[spec.run.executor](session, search.trials, prefork) as (count, begin):
        storage = migrate.address(spec.run.storage, spec.study, history.study_id)
        cohorts = session.workload.cohorts(count, history.cohorts.values(), session.progress.message)
        log.append(code_versions.begun_anew(history, cohorts))
        with contextlib.closing(begin(storage)) as executor:
            checkpoints = migrate.place(session.folder, storage)
            return StudyLoop(session, search, executor, cohorts, checkpoints, now, writer.variables).run(
                signals.pending
            )


def _interrupted(session: StudySession, signals: Signals) -> int:
    """Say in the ledger which signal it was."""
    number = signals.first or signal.SIGTERM
    session.log.interrupted(signal.Signals(number).name)
    return number


def _search(spec: StudySpec, history: History) -> Search:
    """The sampler as it was when the last event was stored."""
    search = Search(
        spec.space,
        sampler=spec.search.sampler.model_dump(),
        pruner=spec.search.pruner.model_dump(),
        maximize=[maximize for _, maximize in spec.objectives],
        seed=spec.seed,
        trials=spec.search.trials,
        epochs=spec.epochs,
        start_with=spec.search.start_with,
        alone=spec.alone,
    )

    def tell(trial: TrialHistory) -> None:
        values = trial.values(spec.objectives) if trial.state is State.COMPLETE else None
        search.tell(trial.number, trial.state, values)

    since = history.asking.since if history.asking else ()
    for trial in history.trials.values():
        search.adopt(Trial(trial.number, trial.params, trial.seed))
        for epoch, metrics in sorted(trial.reports.items()):
            search.replay(trial.number, epoch, metrics.get(spec.metric))
        if trial.ended and trial.number not in since:
            tell(trial)
    if history.asking:
        search.hold()
        for number in since:
            tell(history.trials[number])
    return search
