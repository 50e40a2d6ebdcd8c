"""The kinds of workload: for each the driver's side and the worker's, imported where one is needed."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

from tuner.spec import StudySpec
from tuner.workloads.base import Located, Setup, Trainer, Workload, as_named


class Kind(NamedTuple):
    """`module:Class` of a workload (made of a spec) and of its trainer (made of a setup)."""

    workload: str
    trainer: str


_PROGRAM = Kind("tuner.workloads.programs:ProgramWorkload", "tuner.workloads.process_runner:ProgramTrainer")
KINDS = {
    "network": Kind(
        "tuner.workloads.network.workload:NetworkWorkload", "tuner.workloads.network.runner:NetworkTrainer"
    ),
    "function": _PROGRAM,
    "command": _PROGRAM,
}


def workload(spec: StudySpec) -> Workload:
    """What a trial of that study is. Raises DataError where its data cannot be read."""
    made: Workload = _named(KINDS[spec.kind].workload)(spec)
    return made


def trainer(setup: Setup, shared: Any = None, located: Located = as_named) -> Trainer:
    """The trainer of a worker. `shared` is the workload's, where the process has it in memory already."""
    made: Trainer = _named(KINDS[setup.workload].trainer)(setup, shared, located)
    return made


def _named(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
