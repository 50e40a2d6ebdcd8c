"""A worker: loads the data once, trains the cohorts it is given, reports epochs, writes checkpoints.

Knows training and data; never a sampler, a ledger, nor what carries its messages. The same code runs
in a process of this machine and in an actor of a cluster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from tuner import data, models
from tuner.checkpoints.store import CheckpointStore, Folder, MachineError
from tuner.data import batches
from tuner.errors import DataError, told, trace
from tuner.executors.protocol import (
    Alive,
    Answer,
    Done,
    Ended,
    Flush,
    Message,
    Notice,
    Report,
    Setup,
    Started,
    Stop,
    Trouble,
    Work,
)
from tuner.training.loop import Training
from tuner.training.task import Arrays, Epoch, Step

CHECKPOINT_SECONDS = 10.0  # at most this much training is lost to a crash, or one epoch where that is longer
ALIVE_SECONDS = 2.0  # between two signs of life
_LISTEN_SECONDS = 0.05  # between two looks for a Stop
_RETRY_SECONDS = 5.0  # between two attempts to write to a full disk


class Channel(Protocol):
    """The line to the driver."""

    def send(self, message: Message) -> None: ...

    def receive(self) -> Work | Answer | Stop:
        """Wait for the next word. Raises EOFError when the driver is gone."""

    def waiting(self) -> bool:
        """Whether `receive` would return at once."""


class _Stopped(Exception):
    """The driver asked to save and leave."""


def arrays(dataset: data.Dataset, device: torch.device) -> Arrays:
    """A data set's training and validation rows on the device."""

    train, validation = dataset.train, dataset.validation
    return Arrays(
        batches.place(train.inputs, device),
        batches.laid(train.targets, device),
        batches.place(validation.inputs, device),
        batches.laid(validation.targets, device),
    )


class Worker:
    """One worker. `train` returns when its cohort is done, saved or in trouble."""

    def __init__(
        self,
        number: int,
        setup: Setup,
        channel: Channel,
        dataset: data.Dataset | None = None,
        store: CheckpointStore | None = None,
        mark: Callable[[Sequence[int]], None] = lambda _: None,
    ) -> None:
        """`dataset` where the process has it in memory already, else it is loaded as `setup` says.

        Without a `store` it is the study's folder. `mark` is told whose trials' code runs from now on.
        """
        torch.set_num_threads(setup.threads)
        self.number = number
        self.store = store or Folder(Path(setup.folder))
        self.device = torch.device(setup.device)
        if self.device.type == "cuda":
            # Fractions of a GPU isolate nothing by themselves: an allocator's limit does.
            torch.cuda.set_per_process_memory_fraction(setup.share, self.device)
        dataset = dataset or data.load(**setup.data)
        self._pinned = setup.pinned
        for name, found in (("data", dataset.digest), ("split", dataset.split_digest)):
            if self._pinned.get(name, found) != found:
                raise DataError(f"{dataset.name}: the {name} changed while the study ran; restore it and launch again")
        self.arrays = arrays(dataset, self.device)
        self.channel = channel
        self.mark = mark
        self._heard = self._spoke = self._saved = time.monotonic()
        self._stopping = False
        self._share = 0.0  # of the epoch under way, as of the last look

    def train(self, work: Work) -> None:
        """Train one cohort and say so; only a lost driver (EOFError, ConnectionError) gets out."""
        self.mark([row.number for row in work.task.rows])
        end = self._end(work)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.mark(())
        self.channel.send(end)

    def _end(self, work: Work) -> Done | Trouble:
        cohort, attempt = work.task.cohort, work.attempt
        try:
            self._run(work)
            return Done(cohort, attempt)
        except _Stopped:
            return Done(cohort, attempt, saved=True)
        except MachineError as error:
            return Trouble(cohort, attempt, False, str(error), machine=True)
        except (EOFError, ConnectionError):
            raise
        except MemoryError as error:
            return Trouble(cohort, attempt, True, str(error) or "out of memory", trace=trace(error))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a person's network may raise anything; it ends its trials, not the study
            text = trace(error)
            lack = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text
            return Trouble(cohort, attempt, lack, told(error), trace=text)

    def _run(self, work: Work) -> None:
        task, attempt = work.task, work.attempt
        network = models.digest(task.family, Path(task.folder), whole=False)
        if self._pinned.get("network", network) != network:
            raise MachineError(f"the file of the network {task.family} changed while the study ran; restore it")
        training, notes = self._resume(work)
        self.channel.send(Started(task.cohort, attempt, self.number, training.epoch, tuple(notes)))
        self._saved = time.monotonic()
        events = training.run()
        answer: set[int] | None = None
        rung = flushed = False
        while True:
            try:
                event = events.send(answer)
            except StopIteration:
                return
            answer = None
            if isinstance(event, Step):
                boundary = event.step == 0
                if boundary and (rung or time.monotonic() - self._saved > CHECKPOINT_SECONDS):
                    self._save(training, work, flushed=flushed)
                rung = flushed = False
                self._listen(training, work)
            elif isinstance(event, Epoch):
                self._spoke = time.monotonic()
                self.channel.send(
                    Report(
                        task.cohort, attempt, event.epoch, event.metrics, event.failed, event.seconds, event.undecided
                    )
                )  # fmt: skip
                if event.undecided:
                    answer = set(self._expect_answer().stop)
                    rung = flushed = True
                if gone := {*event.failed, *(answer or ())}:
                    self.mark([row.number for row in training.rows if row.number not in gone])
            else:
                self.store.save_weights(
                    task.cohort, attempt, event.number, {"weights": event.weights}, partial(self._pause, work)
                )
                self.channel.send(Ended(task.cohort, attempt, event.number, event.epochs, event.best_epoch))
                flushed = False  # the ledger may not have this end yet

    def _resume(self, work: Work) -> tuple[Training, list[str]]:
        training = Training(work.task, self.arrays, pulse=lambda: self._pulse(work))
        state, notes = self.store.latest(work.task.cohort, partial(self._pause, work), training.restore)
        if state is not None:
            return training, [f"{note}, using the one before" for note in notes]
        return training, [f"{note}, starting over" for note in notes[-1:]]

    def _listen(self, training: Training, work: Work) -> None:
        """Between two steps: a sign of life now and then, and a look for a Stop."""
        now = time.monotonic()
        if now - self._heard < _LISTEN_SECONDS and not self._stopping:
            return
        self._heard = now
        self._share = training.step / training.steps
        self._pulse(work)
        if self._told_to_stop():
            self._save(training, work, flushed=False)
            raise _Stopped

    def _pulse(self, work: Work) -> None:
        """A sign of life where the last word is a while ago."""
        if time.monotonic() - self._spoke > ALIVE_SECONDS:
            self._spoke = time.monotonic()
            self.channel.send(Alive(work.task.cohort, work.attempt, self._share))

    def _told_to_stop(self) -> bool:
        if not self._stopping and self.channel.waiting():
            self._stopping = isinstance(self.channel.receive(), Stop)
        return self._stopping

    def _expect_answer(self) -> Answer:
        """The driver's answer; a Stop that comes before it is heeded at the next step."""
        while not isinstance(word := self.channel.receive(), Answer):
            self._stopping = self._stopping or isinstance(word, Stop)
        return word

    def _save(self, training: Training, work: Work, *, flushed: bool) -> None:
        """Keep a checkpoint; never ahead of the ledger, and never giving up on a full disk."""
        if not flushed:
            self.channel.send(Flush(work.task.cohort, work.attempt))
            self._expect_answer()
        self.store.save(work.task.cohort, work.attempt, training.state(), partial(self._pause, work))
        self._saved = time.monotonic()

    def _pause(self, work: Work, notice: str | None) -> None:
        """While a disk is full or a storage away: wait, with signs of life; it is no hung worker."""
        if notice is not None:
            self.channel.send(Notice(notice))
        if self._told_to_stop():
            raise _Stopped
        self._pulse(work)
        time.sleep(_RETRY_SECONDS)
