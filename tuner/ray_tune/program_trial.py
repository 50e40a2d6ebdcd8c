"""A trial of a person's own training as Ray Tune's class Trainable: a report a step.

Knows the seam to workloads and Tune's protocol; never a sampler, a scheduler or the ledger. It says of a failure what
failed instead of raising it, so that the actor can be used again.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import tune

from tuner.checkpoints import format as checkpoint
from tuner.errors import TrialError
from tuner.events import Cohort, Trial
from tuner.executors.code_bundle import CodeBundle
from tuner.executors.worker import CHECKPOINT_SECONDS
from tuner.ray_tune.space import settled
from tuner.ray_tune.trial import EPOCH, FILES, FINISHED, NUMBER, REPORT, VARIABLES, TrialFiles, TrialTrainable
from tuner.seeds import derive
from tuner.spec import StudySpec
from tuner.workloads.base import Answer, Epoch, Events, Finished, Job, Setup
from tuner.workloads.process_runner import ProgramTrainer
from tuner.workloads.programs import ProgramWorkload

_FILE = "trial.pt"


@dataclass(frozen=True)
class ProgramActorSetup:
    """What our driver gives to every actor: the worker's setup, the person's files, and the last states by number.

    `judged` tells that the scheduler may stop a trial at any report, which then waits for its answer.
    """

    body: Mapping[str, Any]
    folder: str
    setup: Setup
    code: Mapping[str, bytes] = field(repr=False)
    kept: Mapping[int, bytes] = field(repr=False)
    judged: bool


class ProgramTrainable(TrialTrainable):
    """One process of the person's after the other."""

    def setup(self, config: dict[str, Any], given: ProgramActorSetup | None = None) -> None:
        assert given is not None  # our driver gives it
        self._given = given
        self._spec = StudySpec.from_json(given.body, Path(given.folder))
        self._workload = ProgramWorkload(self._spec)
        self._bundle = CodeBundle(given.code)
        self._trainer = ProgramTrainer(given.setup, None, self._bundle.located)
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Nothing of the trial before is left; a checkpoint, where there is one, is loaded after this."""
        self._leave()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        """Let the trial end, and its server after it."""
        self._leave()
        self._trainer.kill()
        self._bundle.close()

    def _begin(self, config: dict[str, Any]) -> None:
        spec, self._number = self._spec, config[NUMBER]
        trial = Trial(self._number, settled(spec, config), derive(spec.seed, "trial", self._number))
        cohort = Cohort(self._number, (trial,), {}, company=False)
        payload = self._workload.payload(
            cohort, lambda epochs: set(range(1, epochs + 1)) if self._given.judged else set()
        )
        job = Job(self._number, (self._number,), 1, payload, config.get(VARIABLES, {}))
        self._epochs = payload.trial.epochs
        self._runner = self._trainer.runner(job, lambda: None)
        if self._number in self._given.kept:
            checkpoint.newest([(_FILE, self._given.kept[self._number])], self._runner.restore)
        self._events: Events = self._runner.run()
        self._undecided, self._begun = False, False
        self._last: dict[str, float] = {}
        self._saved = time.monotonic()

    def _leave(self) -> None:
        """Whoever waits for an answer is told to stop, and ends by itself as far as it can."""
        with contextlib.suppress(TrialError, StopIteration):
            if self._undecided:
                self._send({self._number})
                for _ in self._events:
                    """It has its grace."""
        self._events.close()

    def _send(self, answer: Answer) -> Any:
        self._undecided = False
        return self._events.send(answer if self._begun else None)

    def _following(self) -> Epoch | Finished | None:
        """What comes next but steps; None where the trial has ended."""
        answer: Answer = set() if self._undecided else None
        with contextlib.suppress(StopIteration):
            while True:
                event, self._begun, answer = self._send(answer), True, None
                if isinstance(event, Epoch | Finished):
                    return event
        return None

    def step(self) -> dict[str, Any]:
        """One report: our metrics, `epoch`, `seconds`."""
        try:
            event = self._following()
            if isinstance(event, Epoch):
                if self._number in event.failed:
                    return self._failure(event.failed[self._number], event.epoch)
                self._last, self._undecided = event.metrics[self._number], bool(event.undecided)
                end = self._following() if event.epoch == self._epochs else None
                return self._result(event.epoch, event.seconds, end)
            if event is None:
                raise RuntimeError("expected a trial that goes on, got one that has ended")
            return self._result(self._runner.epoch, 0.0, event)
        except TrialError as error:
            return self._failure(str(error), self._runner.epoch, error.trace)

    def _result(self, epoch: int, seconds: float, end: Epoch | Finished | None) -> dict[str, Any]:
        names = [name for name, _ in self._spec.objectives]
        values = {name: self._last.get(name, math.nan) for name in names}  # which Tune wants in every result
        result: dict[str, Any] = {**values, REPORT: dict(self._last), EPOCH: epoch, "seconds": seconds}
        files = TrialFiles()
        if isinstance(end, Finished):
            result |= {FINISHED: True, "best_epoch": end.best_epoch, tune.result.DONE: True}
            files.weights = checkpoint.pack(end.kept) if end.kept else None
        elif time.monotonic() - self._saved > CHECKPOINT_SECONDS and (state := self._runner.state()) is not None:
            files.state = checkpoint.pack(state)
            self._saved = time.monotonic()
        return {**result, FILES: files}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Of a trial that is to be paused; one that has given no checkpoint begins anew after that."""
        (Path(checkpoint_dir) / _FILE).write_bytes(checkpoint.pack(self._runner.state() or {}))

    def load_checkpoint(self, checkpoint_dir: Any) -> None:
        if state := checkpoint.load(Path(checkpoint_dir) / _FILE):
            self._runner.restore(state)
