"""The worker's side of a person's own training: a trial is a process, and its reports are epochs.

Knows how a trial's process is begun, heard, stopped and ended; never a study, nor what is trained.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tuner.errors import CheckpointCorrupt, MachineError, TrialError
from tuner.workloads.base import Answer, Epoch, Finished, Job, Located, Setup, Step, as_named
from tuner.workloads.context import MODEL, OURS, TrialJob, finite, intact
from tuner.workloads.trial_processes import (
    CommandProcess,
    FunctionProcess,
    ProgramSetup,
    TrialProcess,
    search_path,
)
from tuner.workloads.trial_server import MARK, sweep

_POLL_SECONDS = 0.05
_IMPORT_SECONDS = 300.0  # that an import may take, where nobody has said how long a trial may


@dataclass(frozen=True)
class ProgramJob:
    """One trial of them."""

    trial: TrialJob
    metric: str
    maximize: bool
    others: tuple[str, ...] = ()  # the other objectives


class ProgramTrainer:
    """Begins a process for every trial, under one server that lives as long as it can."""

    def __init__(
        self,
        setup: Setup,
        _shared: Any = None,
        located: Located = as_named,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self.setup: ProgramSetup = setup.payload
        self.device, self.study, self._gpus = setup.device, Path(setup.folder), setup.gpus
        self._located = located
        sweep(self.study)
        # A node that does not see the study's folder keeps what its trials write for as long as it works.
        self._away = None if self.study.is_dir() else tempfile.TemporaryDirectory(prefix="tuner-trials-")
        self.folder = self.study / "trials" if self._away is None else Path(self._away.name)
        self._server: tuple[subprocess.Popen[bytes], Connection] | None = None
        self._requests = 0  # of this server

    def runner(self, job: Job, pulse: Callable[[], None]) -> ProgramRunner:
        return ProgramRunner(self, job, pulse)

    def release_memory(self) -> None:
        """The server stays, with what it has imported."""

    def server(self) -> Connection:
        """The line to the server, begun where there is none."""
        if self._server is not None and self._server[0].poll() is not None:  # it was ended while it had nothing to do
            self.dismiss()
        if self._server is None:
            ours, theirs = socket.socketpair()
            command = [
                sys.executable,
                "-P",
                "-m",
                "tuner.workloads.trial_server",
                str(theirs.fileno()),
                str(os.getpid()),
            ]
            with theirs:
                # torch reads its threads when it is imported; to ask it whether there is a GPU must not begin CUDA.
                own = {"PYTHONUNBUFFERED": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
                # The allocator of pyarrow, and so of pandas, begins a thread, and only one thread can be copied.
                own["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
                mark = {MARK: f"{self.study.absolute()}:{os.getpid()}"}
                own["PATH"] = search_path()  # `python` is this one, also where no environment is activated
                seen = {"CUDA_VISIBLE_DEVICES": self._gpus} if self._gpus else {}
                environment = {**os.environ, **own, **seen, **self.setup.variables, **mark}
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], env=environment
                )
            self._server, self._requests = (process, Connection(ours.detach())), 0
        return self._server[1]

    def import_problem(self) -> str:
        """What is wrong with importing the function, in a server that is ended then; empty where nothing is."""
        line, number = self.server(), self.request()
        assert isinstance(self.setup.place, str)
        line.send(("import", {}, *self.located(self.setup.place), {}))
        try:
            said = line.recv() if line.poll(self.setup.timeout or _IMPORT_SECONDS) else None
        except (EOFError, ConnectionError):
            return f"expected a file that can be imported, got the end of its process (exit code {self.dismiss()})"
        self.kill()
        self.dismiss()
        if said is None:
            return f"expected an import that ends, got none in {self.setup.timeout or _IMPORT_SECONDS:g} s"
        assert said[:2] == (number, "imported")
        return str(said[2])

    def request(self) -> int:
        """The number of the request that is about to be made of the server."""
        self._requests += 1
        return self._requests

    def kill(self) -> None:
        """End the server at once; what it has begun ends with it."""
        if self._server is not None:
            self._server[0].kill()

    def dismiss(self) -> int:
        """End the server, which ends what it has begun; its exit code."""
        assert self._server is not None
        process, line = self._server
        self._server = None
        line.close()
        try:
            code = process.wait(self.setup.grace)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        sweep(self.study, gone=os.getpid())  # what its trial has left outside of its group
        return code

    def located(self, place: str) -> tuple[str, str]:
        """A function's place and the folder to find it from, on this machine."""
        return self._located(place, self.setup.folder)


class ProgramRunner:
    """One trial: begun, begun again from its newest checkpoint where it falls silent, and ended."""

    def __init__(self, trainer: ProgramTrainer, job: Job, pulse: Callable[[], None]) -> None:
        self._trainer, self._setup, self._pulse, self._clock = trainer, trainer.setup, pulse, trainer.clock
        told: ProgramJob = job.payload
        folder = trainer.folder / f"{told.trial.number:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        self._job, self._told = replace(told.trial, device=trainer.device, folder=str(folder)), told
        self._variables = job.variables
        self._folder = folder
        self.epoch = 0
        self._best: tuple[float, int] | None = None  # the objective's best value, and its epoch
        self._checkpoint: tuple[int, bytes] | None = None  # after which epoch, and what
        self._tries = 0
        self._note = ""  # to be told when it is begun again

    # --- what a worker asks -----------------------------------------------------------------------

    def run(self) -> Generator[Step | Epoch | Finished, Answer, None]:
        while True:
            try:
                begun = self._begin()
            except OSError as error:
                raise MachineError(f"a trial's process cannot be begun: {error.strerror or error}") from error
            try:
                again = yield from self._drive(begun)
            finally:
                self._leave(begun)
            if not again:
                shutil.rmtree(self._folder / OURS, ignore_errors=True)  # nobody goes on from what is there
                return
            self._tries += 1
            self.epoch = self._checkpoint[0] if self._checkpoint else 0

    def state(self) -> dict[str, Any] | None:
        """The newest checkpoint; None where the trial has given none."""
        if self._checkpoint is None:
            return None
        import torch

        epoch, content = self._checkpoint
        best = list(self._best) if self._best else []
        kept = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        return {"rows": [self._job.number], "epoch": epoch, "best": best, "content": kept}

    def restore(self, state: dict[str, Any]) -> None:
        """Raises CheckpointCorrupt for another trial's."""
        try:
            (number,), epoch = state["rows"], int(state["epoch"])
            content = state["content"].numpy().tobytes()
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointCorrupt("it is no checkpoint of a person's own training") from error
        if number != self._job.number or not intact(content):
            raise CheckpointCorrupt(f"it is not a whole checkpoint of trial {self._job.number}")
        self._checkpoint, self.epoch = (epoch, content), epoch
        if state.get("best"):
            value, at = state["best"]
            self._best = (float(value), int(at))

    # --- one process ------------------------------------------------------------------------------

    def _begin(self) -> TrialProcess:
        """Start the process where the newest checkpoint stands."""
        job = self._job
        if self._checkpoint is not None:
            path = self._folder / OURS / "restored"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(self._checkpoint[1])
            job = replace(job, epoch=self.epoch, checkpoint=str(path))
        began = FunctionProcess if self._setup.kind == "function" else CommandProcess
        return began(self._trainer, job, self._variables)

    def _drive(self, trial: TrialProcess) -> Generator[Step | Epoch | Finished, Answer, bool]:
        """Until the process has ended: whether it is to be begun again."""
        began = heard = self._clock()
        spent = began
        limit, silence = self._setup.timeout, self._setup.silence
        note, self._note = self._note, ""
        yield Step(self.epoch, 0, 1, note=note)
        while True:
            messages = trial.messages(_POLL_SECONDS)
            for message in messages:
                heard = self._clock()
                if "epoch" not in message:
                    return (yield from self._ended(message))
                now, fresh = heard, "checkpoint" in message
                stop = yield from self._report(message, now - spent)
                spent = self._clock()
                if stop:
                    trial.answer(True)
                    self._stop(trial)
                    return False
                if self.epoch in self._job.rungs:
                    trial.answer(False)
                yield Step(self.epoch, 0, 1, due=fresh)
                waited = self._clock() - now  # for the driver, or for room on a disk: no fault of the trial's
                heard, began = heard + waited, began + waited
            now = self._clock()
            heard = heard if trial.begun else now  # what is imported first takes its time
            if limit is not None and now - began > limit:
                raise TrialError(f"it took longer than {limit:g} s (trial.timeout)")
            if silence is not None and now - heard > silence:
                if self._again(f"no sign for {silence:g} s"):
                    return True
                again = f", {self._tries + 1} times" if self._tries else ""
                raise TrialError(f"it gave no sign for {silence:g} s (trial.silence){again}")
            yield Step(self.epoch, 1, 2)

    def _report(self, message: dict[str, Any], seconds: float) -> Generator[Epoch, Answer, bool]:
        """One report as an epoch; whether the trial is to stop. Raises TrialError for one that cannot be judged."""
        self.epoch, metrics = message["epoch"], message["metrics"]
        if "checkpoint" in message:
            with contextlib.suppress(OSError):  # several newer ones are there by now
                content = (self._folder / message["checkpoint"]).read_bytes()
                if intact(content):
                    self._checkpoint = self.epoch, content
        number, metric = self._job.number, self._told.metric
        value = metrics.get(metric)
        if value is not None and not math.isfinite(value):
            yield Epoch(
                self.epoch, {}, {number: f"diverged at epoch {self.epoch} ({metric}={value})"}, seconds, frozenset()
            )
            return True
        if value is not None:
            if missing := [name for name in self._told.others if name not in metrics]:
                raise TrialError(f"it reported {metric} without {missing[0]}; report all objectives together")
            better = self._best is None or (value > self._best[0] if self._told.maximize else value < self._best[0])
            if better:
                self._best = value, self.epoch
        last = self._job.epochs is not None and self.epoch >= self._job.epochs
        judged = self.epoch in self._job.rungs and not last and value is not None  # without the objective nobody can
        undecided = frozenset({number} if judged else ())
        stopped = yield Epoch(self.epoch, {number: finite(metrics)}, {}, seconds, undecided)
        return bool(stopped and number in stopped)

    def _ended(self, message: dict[str, Any]) -> Generator[Finished, Answer, bool]:
        """The process is over. Raises TrialError where it has failed; whether to begin again."""
        if "raised" in message:
            raise TrialError(message["raised"], message.get("trace", ""), memory=message.get("memory", False))
        if "lost" in message:
            if self._again(message["lost"]):
                return True
            raise TrialError(message["lost"], message.get("trace", ""))
        metric = self._told.metric
        if not self.epoch:
            raise TrialError(f"it ended without a report; report {metric}, or return it")
        if self._best is None:
            raise TrialError(f"it never reported {metric}, the study's objective; reports are told by their exact name")
        yield Finished(self._job.number, self.epoch, self._best[1], self._model())
        return False

    def _model(self) -> dict[str, Any]:
        """What the trial has saved as its model."""
        if not (self._folder / OURS / MODEL).is_dir():
            return {}
        from tuner.workloads import own_model

        return own_model.packed(self._folder / OURS / MODEL)

    def _again(self, why: str) -> bool:
        """Whether it is tried again, which a person is told then."""
        if self._tries >= self._setup.retries:
            return False
        epoch = self._checkpoint[0] if self._checkpoint else 0
        self._note = f"trial {self._job.number}: {why}; begun again after epoch {epoch}"
        return True

    def _stop(self, trial: TrialProcess) -> None:
        """Let the process end by itself for a while."""
        deadline = self._clock() + self._setup.grace
        while self._clock() < deadline:
            if any("epoch" not in message for message in trial.messages(_POLL_SECONDS)):
                return
            self._pulse()

    def _leave(self, trial: TrialProcess) -> None:
        """Whatever is left of it ends now."""
        trial.end(signal.SIGKILL)
        while not any("epoch" not in message for message in trial.messages(_POLL_SECONDS)):
            pass
