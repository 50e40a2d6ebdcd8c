"""What is looked at before a study makes anything: its machines and stores here, its trials by their workload.

Knows the spec and what answers from here; never what a trial is.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

from tuner.errors import SpecError, first_line
from tuner.search_spaces.document import Keys
from tuner.spec import StudySpec
from tuner.workloads.base import Plan, Workload
from tuner.workloads.devices import gpus

_ANSWERS = 5.0  # seconds in which a cluster takes a connection


def plan(spec: StudySpec, workload: Workload, *, thorough: bool = False) -> Plan:
    """Check the spec against the machine and what the workload knows; `thorough` imports a person's code too.

    Raises SpecError with every problem."""
    made = workload.preflight([*_device(spec), *_cluster(spec), *_storage(spec), *_store(spec)])
    if thorough and (found := [*workload.examine()]):
        raise SpecError(spec.problems(found))
    return made


def _device(spec: StudySpec) -> Iterator[tuple[Keys, str]]:
    if spec.run.executor != "local":
        return  # other machines have other devices
    if spec.run.device == "cuda" and not gpus():
        import torch

        built = "no GPU that torch can use" if torch.version.cuda else "a torch built without CUDA"
        yield ("run", "device"), f"expected a machine with a CUDA GPU, got {built}; write auto or cpu"
    elif (each := spec.run.gpus_per_trial) and gpus() < each * (_named_workers(spec) or 1):
        needed = each * (_named_workers(spec) or 1)
        message = f"expected at least {needed} GPUs here, got {gpus()}"
        yield ("run", "gpus_per_trial"), f"{message}; write fewer, or remove it: on a CPU torchrun needs none"
    elif not each and spec.run.device != "cpu" and gpus() and isinstance(spec.run.workers, int):
        room = int(gpus() / spec.run.share)
        if spec.run.workers > room:
            message = f"expected at most {room}, the GPUs here divided by run.share, got {spec.run.workers}"
            yield ("run", "workers"), f"{message}; write auto, or a smaller share"


def _named_workers(spec: StudySpec) -> int | None:
    return spec.run.workers if isinstance(spec.run.workers, int) else None


def _cluster(spec: StudySpec) -> Iterator[tuple[Keys, str]]:
    address = spec.run.address
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS")  # Ray looks there first
    host, _, port = (address or "").rpartition(":")
    if spec.run.executor == "local" or not port.isdecimal() or "/" in host:
        return  # one that only Ray can find
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWERS).close()
    except (OSError, OverflowError) as error:
        got = f"nothing at {address}: {first_line(error)}"
        yield ("run", "address"), f"expected a Ray cluster that answers, got {got}; begin one with ray start --head"


def _storage(spec: StudySpec) -> Iterator[tuple[Keys, str]]:
    if spec.run.storage is not None:
        from tuner.checkpoints.remote import problem

        if (message := problem(spec.run.storage)) is not None:
            yield ("run", "storage"), message


def _store(spec: StudySpec) -> Iterator[tuple[Keys, str]]:
    path = Path(spec.store.removeprefix("sqlite:///"))
    if spec.store.startswith("sqlite:///") and not path.parent.is_dir():
        yield ("tracking", "mlflow"), f"expected a file in a folder that exists, got {path}; make {path.parent}"
