"""A worker: drives the runners of the jobs it is given, reports epochs, writes checkpoints, heeds stops.

Knows the seam to workloads; never what is trained, a sampler, a ledger, nor what carries its messages. The same code
runs in a process of this machine and in an actor of a cluster.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from tuner.checkpoints.store import CheckpointStore, Folder, WeightStore
from tuner.errors import MachineError, TrialError, out_of_memory, told, trace
from tuner.executors.protocol import (
    Alive,
    Answer,
    Done,
    Ended,
    Flush,
    Message,
    Notice,
    Report,
    Started,
    Stop,
    Trouble,
)
from tuner.workloads.base import Epoch, Events, Job, Located, Runner, Setup, Step, as_named
from tuner.workloads.kinds import trainer

CHECKPOINT_SECONDS = 10.0  # at most this much training is lost to a crash, or one epoch where that is longer
ALIVE_SECONDS = 2.0  # between two signs of life
_LISTEN_SECONDS = 0.05  # between two looks for a Stop
_RETRY_SECONDS = 5.0  # between two attempts to write to a full disk


class Channel(Protocol):
    """The line to the driver."""

    def send(self, message: Message) -> None: ...

    def receive(self) -> Job | Answer | Stop:
        """Wait for the next word. Raises EOFError when the driver is gone."""

    def waiting(self) -> bool:
        """Whether `receive` would return at once."""


class _Stopped(Exception):
    """The driver asked to save and leave."""


class Worker:
    """One worker. `train` returns when its cohort is done, saved or in trouble."""

    def __init__(
        self,
        number: int,
        setup: Setup,
        channel: Channel,
        shared: Any = None,
        *,
        checkpoints: CheckpointStore | None = None,
        weights: WeightStore | None = None,
        mark: Callable[[Sequence[int]], None] = lambda _: None,
        located: Located = as_named,
    ) -> None:
        """`shared` is what the workload's trainer would else load, where the process has it in memory already.

        Where no store is given it is the study's folder. `mark` is told whose trials' code runs from now on, `located`
        tells where a person's code is on this machine.
        """
        self.number = number
        folder = Folder(Path(setup.folder))
        self.checkpoints, self.weights = checkpoints or folder, weights or folder
        self.trainer = trainer(setup, shared, located)
        self.channel = channel
        self.mark = mark
        self._heard = self._spoke = self._saved = time.monotonic()
        self._stopping = False
        self._share = 0.0  # of the epoch under way, as of the last look

    def train(self, job: Job) -> None:
        """Train one cohort and say so; only a lost driver (EOFError, ConnectionError) gets out."""
        self.mark(job.trials)
        end = self._end(job)
        self.trainer.release_memory()
        self.mark(())
        self.channel.send(end)

    def _end(self, job: Job) -> Done | Trouble:
        cohort, attempt = job.cohort, job.attempt
        try:
            self._run(job)
            return Done(cohort, attempt)
        except _Stopped:
            return Done(cohort, attempt, saved=True)
        except MachineError as error:
            return Trouble(cohort, attempt, False, str(error), machine=True)
        except (EOFError, ConnectionError):
            raise
        except TrialError as error:
            return Trouble(cohort, attempt, error.memory, str(error), trace=error.trace)
        except MemoryError as error:
            return Trouble(cohort, attempt, True, str(error) or "out of memory", trace=trace(error))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a person's code may raise anything; it ends its trials, not the study
            return Trouble(cohort, attempt, out_of_memory(error), told(error), trace=trace(error))

    def _run(self, job: Job) -> None:
        cohort, attempt = job.cohort, job.attempt
        runner, notes = self._resume(job)
        self.channel.send(Started(cohort, attempt, self.number, runner.epoch, tuple(notes)))
        self._saved = time.monotonic()
        with contextlib.closing(runner.run()) as events:
            self._drive(runner, job, events, set(job.trials))

    def _drive(self, runner: Runner, job: Job, events: Events, training: set[int]) -> None:
        """What the runner says, in its order; `training` are the trials that have not ended."""
        cohort, attempt = job.cohort, job.attempt
        answer: set[int] | None = None
        rung = flushed = False
        while True:
            try:
                event = events.send(answer)
            except StopIteration:
                return
            answer = None
            if isinstance(event, Step):
                if event.note:
                    self.channel.send(Notice(event.note))
                boundary = event.step == 0
                if boundary and (rung or event.due or time.monotonic() - self._saved > CHECKPOINT_SECONDS):
                    self._save(runner, job, flushed=flushed)
                rung = flushed = False
                self._listen(runner, job, event)
            elif isinstance(event, Epoch):
                self._spoke = time.monotonic()
                self.channel.send(
                    Report(cohort, attempt, event.epoch, event.metrics, event.failed, event.seconds, event.undecided)
                )
                if event.undecided:
                    answer = set(self._expect_answer().stop)
                    rung = flushed = True
                if gone := {*event.failed, *(answer or ())}:
                    training -= gone
                    self.mark(sorted(training))
            else:
                if event.kept:
                    self.weights.save_weights(cohort, attempt, event.number, event.kept, partial(self._pause, job))
                self.channel.send(Ended(cohort, attempt, event.number, event.epochs, event.best_epoch))
                training.discard(event.number)
                flushed = False  # the ledger may not have this end yet

    def _resume(self, job: Job) -> tuple[Runner, list[str]]:
        runner = self.trainer.runner(job, partial(self._pulse, job))
        state, notes = self.checkpoints.latest(job.cohort, partial(self._pause, job), runner.restore)
        if state is not None:
            return runner, [f"{note}, using the one before" for note in notes]
        return runner, [f"{note}, starting over" for note in notes[-1:]]

    def _listen(self, runner: Runner, job: Job, step: Step) -> None:
        """Between two steps: a sign of life now and then, and a look for a Stop."""
        now = time.monotonic()
        if now - self._heard < _LISTEN_SECONDS and not self._stopping:
            return
        self._heard = now
        self._share = step.step / step.steps
        self._pulse(job)
        if self._told_to_stop():
            self._save(runner, job, flushed=False)
            raise _Stopped

    def _pulse(self, job: Job) -> None:
        """A sign of life where the last word is a while ago."""
        if time.monotonic() - self._spoke > ALIVE_SECONDS:
            self._spoke = time.monotonic()
            self.channel.send(Alive(job.cohort, job.attempt, self._share))

    def _told_to_stop(self) -> bool:
        if not self._stopping and self.channel.waiting():
            self._stopping = isinstance(self.channel.receive(), Stop)
        return self._stopping

    def _expect_answer(self) -> Answer:
        """The driver's answer; a Stop that comes before it is heeded at the next step."""
        while not isinstance(word := self.channel.receive(), Answer):
            self._stopping = self._stopping or isinstance(word, Stop)
        return word

    def _save(self, runner: Runner, job: Job, *, flushed: bool) -> None:
        """Keep a checkpoint; never ahead of the ledger, and never giving up on a full disk."""
        state = runner.state()
        if state is not None:
            if not flushed:
                self.channel.send(Flush(job.cohort, job.attempt))
                self._expect_answer()
            self.checkpoints.save(job.cohort, job.attempt, state, partial(self._pause, job))
        self._saved = time.monotonic()

    def _pause(self, job: Job, notice: str | None) -> None:
        """While a disk is full or a storage away: wait, with signs of life; it is no hung worker."""
        if notice is not None:
            self.channel.send(Notice(notice))
        if self._told_to_stop():
            raise _Stopped
        self._pulse(job)
        time.sleep(_RETRY_SECONDS)
