"""The worker's side of a study of networks: the data, read once, and a `Training` for each job.

Knows data and training; never a study, nor what carries messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from tuner import data, models
from tuner.data import batches
from tuner.errors import DataError, MachineError
from tuner.training.loop import Training
from tuner.training.task import Arrays, Task
from tuner.workloads.base import Job, Located, Setup, as_named


@dataclass(frozen=True)
class NetworkSetup:
    """What a worker reads its `data` by (`data.load`'s arguments).

    `pinned` has the SHA-256 of the "data", of their "split" and of the files of a person's "network", as the study was
    made with them.
    """

    data: Mapping[str, Any]
    pinned: Mapping[str, str | None] = field(default_factory=dict)


def arrays(dataset: data.Dataset, device: torch.device) -> Arrays:
    """A data set's training and validation rows on the device."""
    train, validation = dataset.train, dataset.validation
    return Arrays(
        batches.place(train.inputs, device),
        batches.laid(train.targets, device),
        batches.place(validation.inputs, device),
        batches.laid(validation.targets, device),
    )


class NetworkTrainer:
    """Makes a `Training` of a job. Raises DataError where the data are not those that the study was made with."""

    def __init__(self, setup: Setup, dataset: data.Dataset | None = None, located: Located = as_named) -> None:
        """`dataset` where the process has it in memory already, else it is loaded as the setup says."""
        network: NetworkSetup = setup.payload
        self._located = located
        torch.set_num_threads(setup.threads)
        self.device = torch.device(setup.device)
        if self.device.type == "cuda":
            # Fractions of a GPU isolate nothing by themselves: an allocator's limit does.
            torch.cuda.set_per_process_memory_fraction(setup.share, self.device)
        dataset = dataset or data.load(**network.data)
        self._pinned = network.pinned
        for name, digest in (("data", dataset.digest), ("split", dataset.split_digest)):
            if self._pinned.get(name, digest) != digest:
                raise DataError(f"{dataset.name}: the {name} changed while the study ran; restore it and launch again")
        self.arrays = arrays(dataset, self.device)

    def runner(self, job: Job, pulse: Callable[[], None]) -> Training:
        task: Task = job.payload
        family, folder = self._located(task.family, task.folder)
        task = replace(task, family=family, folder=folder)
        digest = models.digest(task.family, Path(task.folder), whole=False)
        if self._pinned.get("network", digest) != digest:
            raise MachineError(f"the file of the network {job.payload.family} changed while the study ran; restore it")
        return Training(task, self.arrays, pulse=pulse)

    def release_memory(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
