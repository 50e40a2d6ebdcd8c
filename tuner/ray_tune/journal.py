"""What Ray Tune does with a study's trials, written into its ledger; and the sampler that Tune asks for the next one.

Knows ledger, history and search; never how a trial is trained, nor which scheduler stops it. The ledger is the truth:
what Tune itself keeps is thrown away, and a second launch hands out the trials that the ledger has no end of.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import Searcher
from ray.tune.stopper import NoopStopper

from tuner.checkpoints import format as checkpoint
from tuner.checkpoints.store import Folder, checkpoint_path
from tuner.errors import MachineError, TunerError, first_line
from tuner.events import Params, State
from tuner.history.fold import History, TrialHistory
from tuner.ray_tune.space import settled
from tuner.ray_tune.trial import EPOCH, FAILED, FILES, FINISHED, NUMBER, REPORT, TRACE, VARIABLES
from tuner.search import Search
from tuner.study.cohorts import OneByOne
from tuner.study.session import StudySession
from tuner.terminal.progress import Now

SCHEDULE = "schedule/"  # before a hyperparameter's name: the metric that tells its value at each epoch of a population
_RETRY_SECONDS = 5.0  # between two attempts to write to a full disk


def _noted(method: Callable[..., None]) -> Callable[..., None]:
    """Tune takes what its callbacks raise for a trial's fault, and goes on: keep it, and stop the whole."""

    @wraps(method)
    def call(self: Journal, *arguments: Any, **named: Any) -> None:
        if self.fault is None:
            try:
                method(self, *arguments, **named)
            except Exception as error:  # noqa: BLE001 - raised again when Tune has stopped
                self.fault = error

    return call


class Journal(tune.Callback):
    """One life of a study under Ray Tune. `fault` is what went wrong here, to be raised when Tune has stopped.

    `changing` names the hyperparameters that the scheduler changes in the middle of trials, `variables` what a trial's
    own code finds its run by; None: it is still to be made.
    """

    def __init__(
        self,
        session: StudySession,
        search: Search,
        now: Callable[[], Now],
        stopping: Callable[[], bool],
        changing: frozenset[str],
        variables: Callable[[int], Mapping[str, str] | None],
    ) -> None:
        self._variables = variables
        self._session, self._spec, self._search = session, session.spec, search
        self._log, self._history, self._progress = session.log, session.history, session.progress
        self._now, self._stopping, self._changing = now, stopping, changing
        self._cohorts = OneByOne(session.spec)
        self._folder = Folder(session.folder)
        search.release()  # trials are asked one by one here, also where a study loop has left a window half asked
        self.fault: Exception | None = None
        self.kept: dict[int, bytes] = {}  # states of trials that go on, by number
        self.epochs: dict[int, int] = {}  # how far those came
        self._changed: dict[int, Params] = {}  # what a population had made of their hyperparameters
        self._left = deque(self._history.unfinished)
        for number in self._left:
            self._find(self._history.trials[number])

    def __reduce__(self) -> tuple[Any, ...]:
        """Tune writes its callbacks down, for a restore that nobody asks for."""
        return tune.Callback, ()

    def _find(self, trial: TrialHistory) -> None:
        """The last whole state of a trial that an earlier launch has left."""
        path = checkpoint_path(self._session.folder, trial.cohort if trial.cohort is not None else -1)
        for name, content in checkpoint.generations(path):
            state, _ = checkpoint.newest([(name, content)])
            if state is not None and state.get("rows") == [trial.number]:
                self.kept[trial.number], self.epochs[trial.number] = content, state["epoch"]
                self._changed[trial.number] = state.get("params", {})
                return

    @property
    def left(self) -> int:
        """How many trials are to be handed out."""
        return len(self._left) + self._search.trials - len(self._history.trials)

    def stops(self) -> bool:
        return self.fault is not None or self._stopping()

    def next(self) -> dict[str, Any] | None:
        """The next trial's config: one that an earlier launch has left, else a new one, None where there are enough.

        Empty where it is to be asked for again, because the trial waits for its run.
        """
        if not self._left and self.left > 0:
            self._ask()
        if not self._left:
            return None
        variables = self._variables(self._left[0])
        if variables is None:
            return {}
        number = self._left.popleft()
        config = {**self._history.trials[number].params, **self._changed.get(number, {}), NUMBER: number}
        return config | ({VARIABLES: dict(variables)} if variables else {})

    def _ask(self) -> None:
        (trial,) = self._search.ask(len(self._history.trials), 1)
        with self._transaction():
            cohorts = self._cohorts.group([trial], len(self._history.cohorts))
            self._log.asked([trial], cohorts, self._session.workload.fixed)
        self._left.append(trial.number)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """What is written inside is on the disk at the end, and then people are told."""
        with self._log.together() as stored:
            yield
        self._progress.update(self._history, stored, self._now())

    # --- what Tune tells --------------------------------------------------------------------------

    @_noted
    def on_trial_start(self, *, trial: TuneTrial, **_: Any) -> None:
        """An actor has the trial: the first one, or another after a pause, which is no new attempt."""
        record = self._history.trials[trial.config[NUMBER]]
        if record.state is State.WAITING:
            assert record.cohort is not None
            attempt = self._history.attempts.get(record.cohort, 0) + 1
            with self._transaction():
                self._log.started(record.cohort, attempt, 0, [record.number], self.epochs.get(record.number, 0))

    @_noted
    def on_trial_result(self, *, trial: TuneTrial, result: dict[str, Any], **_: Any) -> None:
        files = result.pop(FILES, None)
        weights, state = files.take() if files is not None else (None, None)
        record = self._history.trials[trial.config[NUMBER]]
        if record.ended:
            return
        if FAILED in result:
            self._fail(record, result[FAILED], result.get(TRACE, ""))
            return
        metrics = self._metrics(result)
        epoch = int(result[EPOCH])
        if weights is not None and (self._changing or FINISHED in result) and self._counts(record, epoch, metrics):
            self._folder.write(record.cohort or 0, record.number, weights, self._pause)
        if epoch not in record.reports:
            seconds, params = float(result["seconds"]), self._schedule(record, result)
            with self._transaction():
                self._log.reported(epoch, {record.number: metrics}, seconds, params=params)
            self._search.replay(record.number, epoch, metrics.get(self._spec.metric))
        if state is not None:
            self._folder.write(record.cohort or 0, None, state, self._pause)
        self._session.ahead.begin()
        if FINISHED in result:
            best = record.best_epoch(self._spec.metric, self._spec.maximize)
            with self._transaction():
                self._log.finished(record.number, epoch, best or epoch)
            self._end(record, State.COMPLETE)

    @_noted
    def on_trial_complete(self, *, trial: TuneTrial, **_: Any) -> None:
        """Tune does not say why: what has not come to its own end was stopped by the scheduler."""
        record = self._history.trials[trial.config[NUMBER]]
        if not record.ended:
            with self._transaction():
                self._log.pruned(record.number, record.epochs)
            self._end(record, State.PRUNED)

    @_noted
    def on_trial_recover(self, *, trial: TuneTrial, **_: Any) -> None:
        """The actor is gone, and Tune begins another one."""
        record = self._history.trials[trial.config[NUMBER]]
        if record.state is State.RUNNING and record.cohort is not None:
            with self._transaction():
                self._log.lost(record.cohort, self._history.attempts[record.cohort], "the trial's actor died")
            self._progress.message(f"the actor of trial {record.number} died, Ray Tune begins another one")

    @_noted
    def on_trial_error(self, *, trial: TuneTrial, **_: Any) -> None:
        record = self._history.trials[trial.config[NUMBER]]
        if not record.ended:
            error = trial.get_pickled_error() or trial.get_error()
            cause = getattr(error, "cause", None) or error
            self._fail(record, "its actor died" if cause is None else f"{type(cause).__name__}: {first_line(cause)}")

    def _fail(self, record: TrialHistory, message: str, trace: str = "") -> None:
        with self._transaction():
            self._log.failed([record.number], message, trace)
        self._end(record, State.FAILED)

    def _end(self, record: TrialHistory, state: State) -> None:
        """Let the sampler learn of it; nobody goes on from the trial's checkpoint any more."""
        self._search.tell(
            record.number, state, record.values(self._spec.objectives) if state is State.COMPLETE else None
        )
        self._folder.drop(record.cohort or 0)

    # --- what an epoch leaves ---------------------------------------------------------------------

    def _metrics(self, result: Mapping[str, Any]) -> dict[str, float]:
        """The trial's own numbers; Tune's own have names without a slash. In a population its schedule is one."""
        if REPORT in result:
            return dict(result[REPORT])
        found = {name: float(value) for name, value in result.items() if "/" in name and not name.startswith("config/")}
        found |= {name: float(result[name]) for name, _ in self._spec.objectives if name in result}
        now = settled(self._spec, result["config"]) if self._changing else {}
        return found | {f"{SCHEDULE}{name}": float(now[name]) for name in sorted(self._changing & now.keys())}

    def _schedule(self, record: TrialHistory, result: Mapping[str, Any]) -> Params | None:
        """For an epoch with other hyperparameters than were asked: all that the trial has now."""
        now = settled(self._spec, result["config"]) if self._changing else dict(record.params)
        return None if now == record.params else now

    def _counts(self, record: TrialHistory, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Whether the weights that came with this epoch are those to keep: in a population, the best until now."""
        if not self._changing:
            return True
        known, maximize = record.best_epoch(self._spec.metric, self._spec.maximize), self._spec.maximize
        value = metrics.get(self._spec.metric)
        if known is None or value is None or epoch == known:
            return value is not None
        best = record.reports[known][self._spec.metric]
        return epoch > known and (value > best if maximize else value < best)

    def _pause(self, notice: str | None) -> None:
        if notice is not None:
            self._progress.message(notice)
        if self._stopping():
            raise MachineError("the study is being stopped")
        time.sleep(_RETRY_SECONDS)


class JournalSearcher(Searcher):
    """What Tune asks for the next trial. What becomes of it, the journal hears as a callback."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def __reduce__(self) -> tuple[Any, ...]:
        return Searcher, ()

    def suggest(self, _trial_id: str) -> Any:
        if self._journal.stops():
            return Searcher.FINISHED
        try:
            config = self._journal.next()
        except Exception as error:  # noqa: BLE001 - raised again when Tune has stopped
            self._journal.fault = error
            config = None
        return Searcher.FINISHED if config is None else config or None

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        pass

    def save(self, checkpoint_path: str) -> None:
        pass


class StudyStopper(tune.Stopper):
    """Ends the whole where the study is told to stop, or where the ledger cannot be written."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def __reduce__(self) -> tuple[Any, ...]:
        return NoopStopper, ()

    def __call__(self, _trial_id: str, _result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._journal.stops()


def unfinished(history: History) -> TunerError:
    """Tune came to an end before the study did."""
    left = ", ".join(str(number) for number, trial in history.trials.items() if not trial.ended)
    return TunerError(f"Ray Tune left trials {left} without an end; launch again to go on with them")
