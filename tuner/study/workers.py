"""Who trains a study: as many workers as its file names or there is room for, of the kind that it names.

Knows the spec and the executors; never the sampler or the ledger. Ray is imported where a study is trained on it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from tuner.errors import TunerError
from tuner.executors.local import LocalExecutor, PreforkedWorkers
from tuner.executors.protocol import Executor
from tuner.spec import StudySpec
from tuner.study.session import StudySession
from tuner.workloads.base import Setup
from tuner.workloads.devices import device_of, gpus

Begin = Callable[[str], Executor]
"""Workers that keep checkpoints at that storage; in the study's folder where it is empty."""


def cores() -> int:
    """The cores that this process may use; all of them where the system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local_count(spec: StudySpec, trials: int) -> int:
    """As many as the machine carries: a core each on a CPU, a GPU or a share of one each on GPUs."""
    if isinstance(spec.run.workers, int):
        return spec.run.workers
    each = spec.run.gpus_per_trial or spec.run.share
    room = gpus() / each if device_of(spec) == "cuda" else cores() / spec.run.threads
    return max(1, min(int(room), trials))


def setup_of(session: StudySession, device: str, share: float = 1.0, storage: str = "") -> Setup:
    """What a worker of the study is set up with."""
    workload, run = session.workload, session.spec.run
    return Setup(workload.kind, workload.setup(), str(session.folder), device, run.threads, share, storage)


def gpu_groups(workers: int, each: int, environment: Mapping[str, str]) -> list[str]:
    """CUDA_VISIBLE_DEVICES of each worker, so that each has so many GPUs of its own of those that are visible here."""
    visible = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    names = visible or [str(number) for number in range(workers * each)]
    return [",".join(names[number * each : (number + 1) * each]) for number in range(workers)]


@contextlib.contextmanager
def local(session: StudySession, trials: int, prefork: PreforkedWorkers) -> Iterator[tuple[int, Begin]]:
    spec, device = session.spec, device_of(session.spec)
    count = session.workers or local_count(spec, trials)
    there = max(1, gpus()) if device == "cuda" else 0

    def begin(storage: str) -> Executor:
        setup = setup_of(session, device, spec.run.share, storage)
        if each := spec.run.gpus_per_trial:
            setups = [replace(setup, device="cuda:0", gpus=group) for group in gpu_groups(count, each, os.environ)]
        else:
            devices = [f"cuda:{number % there}" if there else device for number in range(count)]
            setups = [replace(setup, device=each) for each in devices]
        return LocalExecutor(setups, prefork, cores=cores(), spare=session.ahead.begin)

    yield count, begin


@contextlib.contextmanager
def on_ray(session: StudySession, trials: int, _prefork: PreforkedWorkers) -> Iterator[tuple[int, Begin]]:
    spec, run, progress = session.spec, session.spec.run, session.progress
    with imported(run.executor):
        from tuner.executors import ray_cluster
    device = device_of(spec)
    taken = 0.0 if device == "cpu" else run.gpus_per_trial or run.gpus_per_worker or 1.0
    needs = ray_cluster.Needs(run.cpus_per_worker or run.threads, taken, int((run.memory or 0.0) * 2**30))
    with contextlib.ExitStack() as stack:
        with our_signals():
            stack.enter_context(ray_cluster.connected(run.address, cores()))
        asked = run.workers if isinstance(run.workers, int) else min(needs.room, trials)
        count = session.workers or max(1, asked)

        def begin(storage: str) -> Executor:
            workload = session.workload
            if (shared := workload.shared_for_remote()) is None:
                name = workload.fingerprint()["name"]
                progress.message(f"{name} is larger than memory: every node reads it from {spec.folder}")
            # An actor sees its own GPU alone.
            setup = setup_of(session, "cuda:0" if device == "cuda" else device, run.gpus_per_worker or 1.0, storage)
            return ray_cluster.RayExecutor(setup, count, needs, shared, workload.bundle())

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
