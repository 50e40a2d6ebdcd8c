"""The driver's side of a study of networks. Knows spec and data; joins what this package knows of networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from tuner import models
from tuner.data.dataset import Dataset
from tuner.events import Cohort, Params
from tuner.executors import code_bundle
from tuner.history.fold import History, TrialHistory
from tuner.spec import StudySpec
from tuner.training.replay import blas
from tuner.workloads.base import Problem, Say
from tuner.workloads.devices import device_of
from tuner.workloads.network import plan
from tuner.workloads.network.cohorts import NetworkCohorts
from tuner.workloads.network.runner import NetworkSetup
from tuner.workloads.network.size import Sizes
from tuner.workloads.network.tasks import task


class NetworkWorkload:
    """Networks of the spec's family on its dataset, which is read here unless it is given."""

    kind = "network"
    # torch.export takes a second
    needed_at_the_end: ClassVar[tuple[str, ...]] = ("tuner.workloads.network.winner", "torch.export._trace", "pandas")

    def __init__(self, spec: StudySpec, dataset: Dataset | None = None) -> None:
        """Raises DataError where the data cannot be read."""
        self._spec = spec
        self._family: str = spec.model["family"]
        self.dataset = plan.load(spec) if dataset is None else dataset
        self._sizes = Sizes(spec, self.dataset.signature)

    @property
    def shared(self) -> Dataset:
        return self.dataset

    def shared_for_remote(self) -> Dataset | None:
        splits = (self.dataset.train, self.dataset.validation)
        return None if any(isinstance(split.inputs, np.memmap) for split in splits) else self.dataset.without_test()

    @property
    def name(self) -> str:
        return f"the network {self._family}"

    @cached_property
    def fixed(self) -> Mapping[str, Any]:
        body = self._spec.canonical()
        return {**body["model"], **body["train"]}

    writes_runs = False

    def versions(self) -> Mapping[str, str]:
        return {"torch": torch.__version__, "matrix products": blas.numpys() or "torch's own"}

    def examine(self) -> Iterable[Problem]:
        """A network is built, and its data are read, before this."""
        return ()

    def preflight(self, found: Iterable[Problem]) -> plan.Plan:
        return plan.plan(self._spec, self.dataset, found)

    def fingerprint(self) -> Mapping[str, Any]:
        dataset = self.dataset
        return {
            "name": dataset.name,
            "digest": dataset.digest,
            "split": dataset.split_digest,
            "rows": dataset.rows,
            "signature": dataset.signature.to_dict(),
        }

    def code(self) -> str | None:
        return models.digest(self._family, self._spec.folder)

    def code_changed(self, recorded: str | None) -> bool:
        return models.changed(recorded, self._family, self._spec.folder)

    def bundle(self) -> dict[str, bytes]:
        return {} if self._family in models.FAMILIES else code_bundle.pack(self._family, self._spec.folder)

    def static_metrics(self, params: Params) -> Mapping[str, float]:
        return self._sizes(params)

    def cohorts(self, workers: int, known: Iterable[Cohort], say: Say) -> NetworkCohorts:
        return NetworkCohorts(self._spec, self.dataset, device_of(self._spec), workers, say, known)

    def setup(self) -> NetworkSetup:
        spec, dataset = self._spec, self.dataset
        network = models.digest(self._family, spec.folder, whole=False)
        data = {**spec.data.model_dump(), "seed": spec.seed, "folder": str(spec.folder)}
        return NetworkSetup(data, {"data": dataset.digest, "split": dataset.split_digest, "network": network})

    def payload(self, cohort: Cohort, rungs: Callable[[int], set[int]]) -> Any:
        return task(self._spec, self.dataset.signature, cohort.trials, company=cohort.company, rungs=rungs)

    def finish(self, best: TrialHistory, history: History, folder: Path, say: Say) -> Mapping[str, float]:
        from tuner.workloads.network import winner  # as late as it is needed; see `needed_at_the_end`

        return winner.finish(self._spec, self.dataset, best, history, folder, say)

    def restore(self, best: TrialHistory, history: History, folder: Path, say: Say) -> None:
        from tuner.workloads.network import winner

        winner.restore(self._spec, self.dataset, best, history, folder, say)
