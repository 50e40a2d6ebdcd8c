"""Who trains a study: as many workers as its file names or there is room for, of the kind that it names.

Knows the spec and the executors; never the sampler or the ledger. Ray is imported where a study is trained on it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from tuner.data.dataset import Dataset
from tuner.errors import TunerError
from tuner.executors import code_bundle
from tuner.executors.local import LocalExecutor, PreforkedWorkers
from tuner.executors.protocol import Executor
from tuner.spec import StudySpec
from tuner.study import finish
from tuner.study.cohorts import Grouping, device_of
from tuner.terminal.progress import Progress

Begin = Callable[[Grouping, Dataset], Executor]
"""Workers for what the grouping tells them."""


def cores() -> int:
    """The cores that this process may use; all of them where the system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local_count(spec: StudySpec, trials: int) -> int:
    """As many as the machine carries: a core each on a CPU, a GPU or a share of one each on GPUs."""
    if isinstance(spec.run.workers, int):
        return spec.run.workers
    on_gpus = device_of(spec) == "cuda"
    room = torch.cuda.device_count() / spec.run.share if on_gpus else cores() / spec.run.threads
    return max(1, min(int(room), trials))


@contextlib.contextmanager
def local(
    spec: StudySpec, trials: int, workers: int | None, crew: PreforkedWorkers, _progress: Progress
) -> Iterator[tuple[int, Begin]]:
    count = workers or local_count(spec, trials)

    def begin(grouping: Grouping, _dataset: Dataset) -> Executor:
        setups = [grouping.setup(number) for number in range(count)]
        return LocalExecutor(setups, crew, cores=cores(), spare=finish.prepare)

    yield count, begin


@contextlib.contextmanager
def on_ray(
    spec: StudySpec, trials: int, workers: int | None, _crew: PreforkedWorkers, progress: Progress
) -> Iterator[tuple[int, Begin]]:
    with imported(spec.run.executor):
        from tuner.executors import ray_cluster
    run = spec.run
    gpus = 0.0 if device_of(spec) == "cpu" else run.gpus_per_worker or 1.0
    needs = ray_cluster.Needs(run.cpus_per_worker or run.threads, gpus, int((run.memory or 0.0) * 2**30))
    with contextlib.ExitStack() as stack:
        with our_signals():
            stack.enter_context(ray_cluster.connected(run.address, cores()))
        asked = run.workers if isinstance(run.workers, int) else min(needs.room, trials)
        count = workers or max(1, asked)

        def begin(grouping: Grouping, dataset: Dataset) -> Executor:
            network = code_bundle.pack(spec.model["family"], spec.folder)
            mapped = any(isinstance(split.inputs, np.memmap) for split in (dataset.train, dataset.validation))
            if mapped:
                progress.message(f"{dataset.name} is larger than memory: every node reads it from {spec.folder}")
            shipped = None if mapped else dataset.without_test()
            return ray_cluster.RayExecutor(grouping.setup(0), count, needs, shipped, network)

        yield count, begin


@contextlib.contextmanager
def connect_early(spec: StudySpec, folder: Path) -> Iterator[None]:
    """The cluster that a new study names, connected to before `folder` is made: one that refuses us leaves nothing.

    A study that has its folder may be complete, and then needs no cluster.
    """
    with contextlib.ExitStack() as stack:
        if spec.run.executor != "local" and not folder.exists():
            with imported(spec.run.executor):
                from tuner.executors import ray_cluster
            if spec.run.address is not None:
                with our_signals():
                    stack.enter_context(ray_cluster.connected(spec.run.address, cores()))
        yield


@contextlib.contextmanager
def imported(executor: str) -> Iterator[None]:
    """Inside, Ray is imported; where it is not there, a person is told what to do."""
    try:
        yield
    except ImportError as error:
        raise TunerError(
            f"executor {executor} needs Ray, which cannot be imported ({error}); pip install 'ray[tune]'"
        ) from None


@contextlib.contextmanager
def our_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself; to us it means to let workers save."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


EXECUTORS = {"local": local, "ray": on_ray}
