"""The study loop: asks the sampler, gives cohorts to workers, stores what they say, answers who goes on.

Knows search, executors, ledger and history, and joins them; never processes, what a trial is, or MLflow.

What it does next is a function of the ledger alone: a message is stored, then everything that follows
from it is decided, before the next message is looked at. So a study that was killed at any moment and
launched again asks the same trials as one that was not (one worker; several workers finish in an order
that is theirs). What came at once is stored in one transaction; nobody hears of it, neither worker nor
person, before it is on the disk.

Trials are asked a window at a time, and a window in pieces, between which workers are heard and answered. All of
it is asked from what was known when it began: what ends meanwhile is stored and answered, and learnt from after
it. Once anything is stored meanwhile the ledger says that a window had begun, so that another life asks the same.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from tuner.checkpoints import migrate
from tuner.checkpoints.store import StudyCheckpoints
from tuner.errors import TunerError
from tuner.events import Cohort, State, Trial
from tuner.executors.protocol import (
    Alive,
    Answer,
    Done,
    Ended,
    Executor,
    Flush,
    Lost,
    Message,
    Notice,
    Ready,
    Report,
    Started,
    Trouble,
)
from tuner.search import Search
from tuner.study.session import StudySession
from tuner.terminal.progress import Now
from tuner.workloads.base import CohortPolicy, Job

LOSSES = 3  # of workers under one cohort, before it is halved or its last trial given up
STOP_SECONDS = 8.0  # for workers to save after the first signal; then they are ended
_RUN_PATIENCE = 0.05  # where a trial waits for its run
_PATIENCE = 0.5  # seconds to wait for a message before looking at signals and the dashboard


@dataclass
class _Window:
    """Trials that are asked together, `count` in all, and those that have been so far."""

    count: int
    trials: list[Trial] = field(default_factory=list)


class StudyLoop:
    """One life of a study's loop. `run` returns when every trial has ended, or when told to stop."""

    def __init__(
        self,
        session: StudySession,
        search: Search,
        executor: Executor,
        cohorts: CohortPolicy,
        checkpoints: StudyCheckpoints,
        now: Callable[[int], Now],
        variables: Callable[[int], Mapping[str, str] | None] = lambda _: {},
    ) -> None:
        """`now` tells, of so many workers, what progress is shown besides the history.

        `variables` are those that a trial's own code finds its run by; None: it is still to be made, and waited for.
        """
        self._session, self._log, self._history = session, session.log, session.history
        self._search, self._executor, self._progress, self._now = search, executor, session.progress, now
        self._variables = variables
        self._cohorts, self._checkpoints, self._workload = cohorts, checkpoints, session.workload
        self._objectives = session.spec.objectives
        self._running: dict[int, int] = {}  # cohort: attempt
        history, self._attempts = session.history, dict(session.history.attempts)
        self._epoch_share: dict[int, float] = {}  # running cohort: share of its epoch that is trained
        self._after_commit: list[Callable[[], None]] = []  # to workers, to be said then
        self._fault: TunerError | None = None  # of the machine, to be raised then
        self._window = None if history.asking is None else _Window(history.asking.count)
        self._later: list[Message] = []  # what is heeded when the window is full
        self._queue: deque[Cohort] = deque()
        self._enqueue(rest for cohort in history.cohorts.values() if (rest := self._open(cohort)).trials)

    def _enqueue(self, cohorts: Iterable[Cohort]) -> None:
        """In the order of their first trials, so that the queue after a restart is the queue before it."""
        whole = self._history.cohorts
        self._queue = deque(sorted((*self._queue, *cohorts), key=lambda cohort: whole[cohort.number].trials[0].number))

    def _open(self, cohort: Cohort) -> Cohort:
        """The cohort without the trials that have ended, or have gone on in another cohort."""
        trials = self._history.trials
        rest = tuple(
            t for t in cohort.trials if not trials[t.number].ended and trials[t.number].cohort == cohort.number
        )
        return Cohort(cohort.number, rest, cohort.structure, cohort.company)

    # --- the loop ---------------------------------------------------------------------------------

    def run(self, stopping: Callable[[], bool]) -> bool:
        """Drive until all trials have ended (True), or `stopping()` says so and the workers have saved (False)."""
        if self._queue:  # what an earlier life has left
            with self._settled():
                self._hand_out()
        self._begin_window()
        while self._running or self._window or self._queue:
            if stopping():
                self._wind_down()
                return False
            if self._window:
                self._ask(self._window)
            waiting = self._queue and len(self._running) < self._executor.workers
            self._hear(self._executor.receive(0.0 if self._window else _RUN_PATIENCE if waiting else _PATIENCE))
            if self._history.epochs_ended:  # while workers train, not after them
                self._session.ahead.begin()
            self._begin_window()
        return True

    @contextmanager
    def _settled(self) -> Iterator[None]:
        """What is stored inside is on the disk at the end, and then workers and people are told."""
        with self._log.together() as stored:
            yield
        self._progress.update(self._history, stored, {**self._now(self._executor.workers), "within": self._epoch_share})
        words, self._after_commit = self._after_commit, []
        for say in words:
            say()
        if self._fault is not None:
            raise self._fault

    def _hand_out(self) -> None:
        """Give work to whoever is free; a trial that is to have its run first, once it has."""
        while self._queue and len(self._running) < self._executor.workers:
            variables: dict[str, str] = {}
            for trial in self._queue[0].trials:
                if (told := self._variables(trial.number)) is None:
                    return
                variables |= told
            cohort = self._queue.popleft()
            attempt = self._attempts.get(cohort.number, 0) + 1
            self._running[cohort.number] = self._attempts[cohort.number] = attempt
            self._after_commit.append(partial(self._submit, cohort, attempt, variables))

    def _hear(self, messages: Sequence[Message], *, requeue: bool = True) -> None:
        """Store what was said, with all that follows from it, and answer."""
        with self._settled():
            if messages and self._window and self._history.asking is None:
                self._log.asking(self._window.count)
            for message in messages:
                if self._window and requeue and isinstance(message, Lost | Trouble):
                    self._later.append(message)  # cohorts are numbered in one order, however long a window takes
                    continue
                self._heed(message, requeue=requeue)
                if requeue:
                    self._hand_out()
            if requeue and not messages:
                self._hand_out()

    def _begin_window(self) -> None:
        """Where somebody would soon have nothing to do: before anybody is heard again, so that it is from now."""
        left = self._search.trials - len(self._history.trials)
        if self._window is None and left > 0 and len(self._queue) < self._executor.workers:
            self._window = _Window(min(left, self._search.window(left)))
            self._search.hold()

    def _ask(self, window: _Window) -> None:
        """A piece of the window. Who was free has been told what to do before it was begun, and does it."""
        asked = len(window.trials)
        first, count = len(self._history.trials) + asked, min(self._search.piece, window.count - asked)
        window.trials += self._search.ask(first, count)
        if len(window.trials) == window.count:
            self._end_window(window.trials)

    def _end_window(self, trials: Sequence[Trial]) -> None:
        """Store it as a whole, in cohorts, and heed what had to wait."""
        self._window = None
        self._search.release()
        with self._settled():
            cohorts = self._cohorts.group(trials, len(self._history.cohorts))
            self._log.asked(trials, cohorts, self._workload.fixed)
            self._enqueue(cohorts)
            self._hand_out()
        later, self._later = self._later, []
        if later:
            self._hear(later)
        self._begin_window()

    def _submit(self, cohort: Cohort, attempt: int, variables: Mapping[str, str]) -> None:
        trials = tuple(trial.number for trial in cohort.trials)
        payload = self._workload.payload(cohort, self._search.rungs)
        self._executor.submit(Job(cohort.number, trials, attempt, payload, variables))

    def _answer(self, cohort: int, stop: frozenset[int] = frozenset()) -> None:
        self._after_commit.append(partial(self._executor.answer, cohort, Answer(stop)))

    def _wind_down(self) -> None:
        """Let the workers save, for a while."""
        running = [self._history.cohorts[number] for number in self._running]
        count = sum(len(self._open(cohort).trials) for cohort in running)
        self._progress.message(f"stopping, saving {count} trials")
        self._executor.stop()
        self._hear(self._later, requeue=False)
        deadline = time.monotonic() + STOP_SECONDS
        while self._running and time.monotonic() < deadline:
            self._hear(self._executor.receive(0.1), requeue=False)

    # --- messages ---------------------------------------------------------------------------------

    def _heed(self, message: Message, *, requeue: bool = True) -> None:
        if isinstance(message, Notice):
            self._progress.message(message.message)
            return
        if isinstance(message, Ready) or (isinstance(message, Lost) and message.cohort is None):
            return
        assert message.cohort is not None
        if self._running.get(message.cohort) != message.attempt:
            return  # the last words of an attempt that was given up
        self._epoch_share.pop(message.cohort, None)
        if isinstance(message, Report):
            self._report(message)
        elif isinstance(message, Flush):
            self._answer(message.cohort)
        elif isinstance(message, Ended):
            self._end(message)
        elif isinstance(message, Started):
            self._started(message)
        elif isinstance(message, Done):
            left = [trial.number for trial in self._open(self._history.cohorts[message.cohort]).trials]
            assert message.saved or not left, f"cohort {message.cohort} is done, its trials {left} are not"
            del self._running[message.cohort], self._attempts[message.cohort]
            if not message.saved:
                self._after_commit.append(partial(self._checkpoints.drop, message.cohort))
        elif isinstance(message, Trouble):
            self._trouble(message)
        elif isinstance(message, Lost):
            self._lost(message, requeue)
        else:
            assert isinstance(message, Alive), message
            self._epoch_share[message.cohort] = message.share

    def _started(self, message: Started) -> None:
        for note in message.notes:
            self._progress.message(note)
        trials = [trial.number for trial in self._open(self._history.cohorts[message.cohort]).trials]
        self._log.started(message.cohort, message.attempt, message.worker, trials, message.epoch)

    def _report(self, message: Report) -> None:
        """Observe all, then decide, then store, then answer. A resumed cohort repeats what is known already."""
        trials, epoch = self._history.trials, message.epoch
        fresh = [
            number for number in message.metrics if epoch not in trials[number].reports and not trials[number].ended
        ]
        values = [(number, epoch, message.metrics[number].get(self._objectives[0][0])) for number in sorted(fresh)]
        stop = self._search.observe(values) if values else set()
        stop &= message.undecided  # what has trained its last epoch cannot be stopped
        known = self._workload.static_metrics
        metrics = {number: {**message.metrics[number], **known(trials[number].params)} for number in sorted(fresh)}
        failed = {number: text for number, text in sorted(message.failed.items()) if not trials[number].ended}
        self._log.reported(epoch, metrics, message.seconds, pruned=sorted(stop), failed=failed)
        for number in sorted(stop):
            self._search.tell(number, State.PRUNED, None)
        for number in sorted(failed):
            self._search.tell(number, State.FAILED, None)
        if message.waits:
            ended = {number for number in message.metrics if trials[number].ended}
            self._answer(message.cohort, frozenset(stop | ended))

    def _end(self, message: Ended) -> None:
        trial = self._history.trials[message.trial]
        if trial.ended:
            return
        self._log.finished(message.trial, message.epochs, message.best_epoch)
        self._search.tell(message.trial, State.COMPLETE, trial.values(self._objectives))

    def _trouble(self, message: Trouble) -> None:
        """Too little memory: the same trials in two cohorts of half the size. Any other error ends them."""
        if message.machine:
            self._fault = TunerError(f"{message.message}; mend it and launch again: nothing acknowledged is lost")
            return
        del self._running[message.cohort]
        cohort = self._open(self._history.cohorts[message.cohort])
        count = len(cohort.trials)
        if message.memory and count > 1:
            self._progress.message(
                f"out of memory at K={count} ({message.message}), going on with K={(count + 1) // 2}"
            )
            self._halve(cohort)
            return
        if cohort.company and not message.memory and self._cohorts.separate(cohort.structure):
            self._separate(cohort, message.message)
            return
        text = f"out of memory: {message.message}" if message.memory else message.message
        self._fail(cohort, text, message.trace)

    def _separate(self, cohort: Cohort, reason: str) -> None:
        """A person's network that raises in company may be at fault for one row or none: each starts over alone."""
        numbers = ", ".join(str(trial.number) for trial in cohort.trials)
        self._progress.message(f"training together failed ({reason}); trials {numbers} start over one by one")
        self._after_commit.append(partial(self._checkpoints.drop, cohort.number))
        number = len(self._history.cohorts)
        singles = [
            Cohort(number + index, (trial,), cohort.structure, company=False)
            for index, trial in enumerate(cohort.trials)
        ]
        self._log.grouped(singles)
        self._enqueue(singles)

    def _halve(self, cohort: Cohort) -> None:
        middle = (len(cohort.trials) + 1) // 2
        number = len(self._history.cohorts)
        halves = [
            Cohort(number + index, members, cohort.structure, cohort.company)
            for index, members in enumerate((cohort.trials[:middle], cohort.trials[middle:]))
        ]
        migrate.split(self._checkpoints, cohort.number, [half.number for half in halves])
        self._log.grouped(halves)
        self._after_commit.append(partial(self._checkpoints.drop, cohort.number))
        self._enqueue(halves)

    def _fail(self, cohort: Cohort, text: str, trace: str = "") -> None:
        self._after_commit.append(partial(self._checkpoints.drop, cohort.number))
        self._log.failed([trial.number for trial in cohort.trials], text, trace)
        for trial in cohort.trials:
            self._search.tell(trial.number, State.FAILED, None)

    def _lost(self, message: Lost, requeue: bool) -> None:
        assert message.cohort is not None
        del self._running[message.cohort]
        cohort = self._open(self._history.cohorts[message.cohort])
        self._log.lost(message.cohort, message.attempt, message.message)
        if not cohort.trials or not requeue:
            return
        losses = self._history.losses[message.cohort]
        if losses < LOSSES:
            numbers = ", ".join(str(trial.number) for trial in cohort.trials)
            epoch = max(self._history.trials[trial.number].epochs for trial in cohort.trials)
            self._progress.message(f"{message.message}, resuming trials {numbers} after epoch {epoch}")
            self._enqueue([cohort])
        elif len(cohort.trials) > 1:
            self._progress.message(f"{message.message} {losses} times, going on with half of the trials each")
            self._halve(cohort)
        else:
            self._fail(cohort, f"{message.message}, {losses} times")
