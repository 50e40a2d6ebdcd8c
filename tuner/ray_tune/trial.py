"""A trial of a study as Ray Tune's class Trainable: a cohort of one, an epoch a step, with the numbers it has anywhere.

Knows data, training and Tune's protocol; never a sampler, a scheduler or the ledger. In the hands of our own driver
(`ActorSetup`) it brings files along with its results, and says of a failure what failed instead of raising it, so that
the actor can be used again.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from tuner.checkpoints import format as checkpoint
from tuner.data import Dataset
from tuner.errors import InputError, told, trace
from tuner.events import Trial
from tuner.executors.worker import CHECKPOINT_SECONDS
from tuner.ray_tune.space import read, settled
from tuner.seeds import derive
from tuner.spec import StudySpec
from tuner.training.evaluation import network_of
from tuner.training.loop import Training
from tuner.workloads.base import Epoch, Finished
from tuner.workloads.network.plan import load
from tuner.workloads.network.runner import arrays
from tuner.workloads.network.size import Sizes
from tuner.workloads.network.tasks import task

NUMBER = "_trial"  # in a config: our number of the trial, which its seed comes from
EPOCH = "epoch"  # in a result: absolute, also after a restore; use it as time_attr
FINISHED = "finished"  # in a result: the trial has come to its own end
FAILED = "failed"  # in a result: why it cannot go on
TRACE = "traceback"  # and of an error in its network, all of it
FILES = "files"
REPORT = "report"  # in a result: all metrics of a person's own training, whose names may be any
VARIABLES = "(variables)"  # in a config, a name that no parameter has: what tells own code of its run in MLflow
_FILE = "trial.pt"
_RUN = ("device", "threads")  # of `run`: what a trial needs to know


@dataclass
class TrialFiles:
    """Files that come with a result. Emptied where they are kept: Tune's schedulers hold on to all results."""

    weights: bytes | None = field(default=None, repr=False)
    state: bytes | None = field(default=None, repr=False)

    def take(self) -> tuple[bytes | None, bytes | None]:
        """The weights and the state of the trial, once."""
        taken = self.weights, self.state
        self.weights = self.state = None
        return taken


@dataclass(frozen=True)
class ActorSetup:
    """What our driver gives to every actor.

    The data unless each is to read them, the last states of trials that go on, by number, and whether weights and
    states come with every epoch: in a population any of them may be the best of a trial, or be gone on with.
    """

    dataset: Dataset | None
    kept: Mapping[int, bytes] = field(repr=False)
    always: bool
    share: float  # of a GPU


class TrialTrainable(tune.Trainable):
    """What our trials have in common."""

    _spec: StudySpec

    def train(self) -> dict[str, Any]:
        """Tune's own step round ours; what it remembers, and sends with every checkpoint, is without the files."""
        result: dict[str, Any] = super().train()  # type: ignore[no-untyped-call]
        self._last_result: Any = {name: value for name, value in result.items() if name != FILES}
        return result

    def _failure(self, message: str, epoch: int, trace: str = "") -> dict[str, Any]:
        said = {FAILED: message, **({TRACE: trace} if trace else {})}
        return {EPOCH: epoch, self._spec.metric: math.nan, **said, tune.result.DONE: True}


class StudyTrainable(TrialTrainable):
    """Use `trainable(study)`."""

    study: tuple[dict[str, Any], str]

    def setup(self, config: dict[str, Any], given: ActorSetup | None = None) -> None:
        body, folder = self.study
        self._spec = spec = StudySpec.from_json(body, Path(folder))
        self._given = given
        torch.set_num_threads(spec.run.threads)
        has_gpu = ray.get_gpu_ids() if self.is_actor() else torch.cuda.is_available()  # type: ignore[no-untyped-call]
        device = torch.device("cuda" if has_gpu and spec.run.device != "cpu" else "cpu")
        if device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(given.share if given is not None else 1.0)
        dataset = given.dataset if given is not None and given.dataset is not None else load(spec)
        self._arrays = arrays(dataset, device)
        self._signature = dataset.signature
        self._known = Sizes(spec, dataset.signature)
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Nothing of the trial before is left; a checkpoint, where there is one, is loaded after this."""
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        spec = self._spec
        self._params = settled(spec, config)
        self._number = config.get(NUMBER, 0)
        identity = self._number if NUMBER in config else json.dumps(self._params, sort_keys=True)
        trial = Trial(self._number, self._params, derive(spec.seed, "trial", identity))
        self._error, self._trace = "", ""
        self._saved = time.monotonic()
        try:
            self._training = Training(task(spec, self._signature, [trial], company=False), self._arrays)
            self._events = self._training.run()
            if self._given is not None and self._number in self._given.kept:
                checkpoint.newest([(_FILE, self._given.kept[self._number])], self._go_on)
        except Exception as error:
            if self._given is None:
                raise
            self._error, self._trace = told(error), trace(error)

    def step(self) -> dict[str, Any]:
        """One epoch: our metrics, `epoch`, `seconds`; a loss that is no number is one in the result, and its end."""
        if self._error:
            return self._failure(self._error, 0, self._trace)
        try:
            return self._epoch()
        except Exception as error:
            if self._given is None:
                raise
            return self._failure(told(error), self._training.epoch, trace(error))

    def _epoch(self) -> dict[str, Any]:
        epoch = next((event for event in self._events if isinstance(event, Epoch)), None)
        if epoch is None:
            raise RuntimeError(f"expected a trial with epochs left, got one of {self._training.epoch} that has ended")
        if self._number in epoch.failed:
            return self._failure(epoch.failed[self._number], epoch.epoch)
        following = next(self._events, None)  # no step is made between an epoch and what follows it
        finished = following if isinstance(following, Finished) else None
        result: dict[str, Any] = {**epoch.metrics[self._number], **self._known(self._params)}
        result |= {EPOCH: epoch.epoch, "seconds": epoch.seconds}
        if finished is not None:
            result |= {FINISHED: True, "best_epoch": finished.best_epoch, tune.result.DONE: True}
        if self._given is not None:
            result[FILES] = self._files(self._given, finished)
        return result

    def _files(self, given: ActorSetup, finished: Finished | None) -> TrialFiles:
        files = TrialFiles()
        stack = self._training.stack
        if given.always:
            files.weights = checkpoint.pack({"weights": stack.weights(stack.state(), 0)})
        elif finished is not None:
            files.weights = checkpoint.pack(finished.kept)
        if finished is None and (given.always or time.monotonic() - self._saved > CHECKPOINT_SECONDS):
            files.state = checkpoint.pack(self._whole())
            self._saved = time.monotonic()
        return files

    def _whole(self) -> dict[str, Any]:
        return {**self._training.state(), "params": self._params}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        (Path(checkpoint_dir) / _FILE).write_bytes(checkpoint.pack(self._whole()))

    def load_checkpoint(self, checkpoint_dir: Any) -> None:
        """Go on from a state, this trial's or, where a population exploits another's, that one's."""
        self._go_on(checkpoint.load(Path(checkpoint_dir) / _FILE))

    def _go_on(self, state: dict[str, Any]) -> None:
        """Take over weights, moments and epoch, of whichever trial; hyperparameters stay this one's."""
        training = self._training
        own = {name: buffer.clone() for name, buffer in training.stack.buffers.items()}
        training.restore({**state, "rows": [self._number]})
        before = state.get("params", self._params)
        if before != self._params:  # some of them live in buffers, as dropout's rate does: those that the two differ in
            row = training.rows[0]
            other = network_of(training.task, replace(row, network=self._spec.network(before)))
            for name, buffer in other.named_buffers():
                if not torch.equal(buffer.to(own[name].device), own[name][0]):
                    training.stack.buffers[name].copy_(own[name])
        self._events = training.run()


def trainable(study: StudySpec | str | Path) -> type[StudyTrainable]:
    """A class for `ray.tune.Tuner` that trains the study's trials, its config an assignment of the study's space.

    It reports the metrics of a study file under their names, and `epoch`, which goes on after a restore: use it as
    `time_attr`. A trial ends by itself after its `epochs`. Data and a network of one's own are read from the study
    file's folder by every actor, which goes from trial to trial under `reuse_actors=True`.
    Raises SpecError with every mistake of the study file, InputError for one of a person's own training.
    """
    spec = read(study)
    if spec.kind != "network":
        raise InputError(f"expected a study of networks, got one of a {spec.kind}; give Ray Tune your own training")
    return type("StudyTrainable", (StudyTrainable,), {"study": (body_of(spec), str(spec.folder))})


def body_of(spec: StudySpec) -> dict[str, Any]:
    """What a trial's actor is told of a study."""
    body = spec.to_json()
    return {**body, "run": {name: body["run"][name] for name in _RUN}}  # Tune says the rest
