"""From trials to work: which of them train as one network, and what a worker is told.

Knows the spec, the data's signature and the cost model; never processes, the sampler or the ledger. The
ledger records the groups; which trials share one changes no number.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from tuner import models
from tuner.data.dataset import Dataset
from tuner.events import Cohort, Params, Trial
from tuner.executors.protocol import Setup, Work
from tuner.seeds import derive
from tuner.spec import StudySpec
from tuner.training import cohort_size
from tuner.training.config import TrainConfig
from tuner.training.proof import MOST_PARAMETERS, few, fuses
from tuner.training.seeding import seeded
from tuner.training.task import Row, Task
from tuner.workloads import network_size


def device_of(spec: StudySpec) -> str:
    """The kind of device that a study trains on: "cpu" or "cuda"."""
    if spec.run.executor != "local":  # which this machine need not have
        return "cuda" if spec.run.device == "cuda" or spec.run.gpus_per_worker else "cpu"
    if spec.run.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return spec.run.device


class Grouping:
    """One study's way from trials to work. `warn` hears once why a person's own network does not fuse."""

    def __init__(
        self,
        spec: StudySpec,
        dataset: Dataset,
        folder: Path,
        device: str,
        workers: int,
        rungs: Callable[[int], set[int]],
        warn: Callable[[str], None],
        storage: str = "",
    ) -> None:
        self._spec, self._signature, self._folder, self._device = spec, dataset.signature, folder, device
        self._workers, self._rungs, self._storage = workers, rungs, storage
        self._family: str = spec.model["family"]
        self._named = frozenset(
            name
            for name, value in spec.training({}).items()
            if name in spec.space.parameters or value != getattr(TrainConfig(), name)
        )
        self._pinned = {
            "data": dataset.digest,
            "split": dataset.split_digest,
            "network": models.digest(self._family, spec.folder, whole=False),
        }
        self._warn = warn
        self._warned = False
        self._dataset = dataset
        self._companies: dict[str, bool] = {}
        self._parameters: dict[str, int] = {}

    def _company(self, params: Params) -> bool:
        """Whether the structure of that trial trains in company."""
        key = json.dumps(self._spec.structure(params), sort_keys=True)
        if key not in self._companies:
            network = self._spec.network(params)
            modality = self._signature.modality
            wanted = not self._spec.alone and cohort_size.company(self._family, network, self._device, modality)
            self._companies[key] = wanted and (self._family in models.FAMILIES or self._fuses(params))
        return self._companies[key]

    def apart(self, structure: Params) -> None:
        """Trials of that structure train alone from now on: some failed in company, or it was found so before."""
        self._companies[json.dumps(dict(structure), sort_keys=True)] = False

    def _fuses(self, params: Params) -> bool:
        """A person's own network trains alone where it does not train as one, and they are told why."""
        ends = [end for end in self._ends(params) if self._runs(end)][:2]
        if not ends:
            return False  # it fails its own trials, where each is told
        size = self._size(self._spec.network(ends[0]))
        reason = f"{size:,} parameters gain nothing in company" if size > MOST_PARAMETERS else self._tried(ends)
        if reason and not self._warned:
            self._warned = True
            self._warn(f"{self._family} does not fuse, so its trials train one by one: {reason}")
        return not reason

    def _ends(self, params: Params) -> Iterator[Params]:
        """The trial with what may differ between rows at its two ends, and as it is: some values may not work."""
        spec = self._spec
        fusible = [
            (name, parameter)
            for name, parameter in spec.space.parameters.items()
            if name in params and name in spec.network_rules and not spec.is_structural(name)
        ]
        yield {**params, **{name: parameter.low_value for name, parameter in fusible}}
        yield {**params, **{name: parameter.high_value for name, parameter in fusible}}
        yield params

    def _runs(self, params: Params) -> bool:
        """Whether the network can be built."""
        try:
            self._size(self._spec.network(params))
        except (Exception, SystemExit):  # noqa: BLE001 - a person's own network may raise anything
            return False
        return True

    def _tried(self, ends: Sequence[Params]) -> str:
        """Why two rows do not train as one."""
        seed = self._spec.seed
        trials = [Trial(number, ends[number % len(ends)], derive(seed, "tried", number)) for number in (0, 1)]
        task, train, validation = self.task(0, trials, True), self._dataset.train, self._dataset.validation
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            # What a network prints while it is tried belongs to no trial.
            return fuses(task, few(task, train.inputs, train.targets, validation.inputs, validation.targets))

    def _build(self, network: dict[str, Any], device: str = "cpu") -> torch.nn.Module:
        with torch.device(device), seeded(self._spec.seed):
            return models.build(self._family, self._signature, network, self._spec.folder)

    def _size(self, network: dict[str, Any]) -> int:
        """Parameters that train: without memory, unless the constructor looks at values."""
        key = json.dumps(network, sort_keys=True)
        if key not in self._parameters:
            try:
                built = self._build(network, "meta")
            except (Exception, SystemExit):  # noqa: BLE001 - whatever it is, it is raised again where it has memory
                built = self._build(network)
            self._parameters[key] = network_size.count(built)
        return self._parameters[key]

    def setup(self, number: int) -> Setup:
        data = {**self._spec.data.model_dump(), "seed": self._spec.seed, "folder": str(self._spec.folder)}
        run = self._spec.run
        device, share = self._device, run.share
        if run.executor != "local":  # which shows a worker its own GPU alone
            number, share = 0, run.gpus_per_worker or 1.0
        if device == "cuda":
            device = f"cuda:{number % max(1, torch.cuda.device_count())}"
        return Setup(data, str(self._folder), device, run.threads, share, self._pinned, self._storage)

    def group(self, trials: Sequence[Trial], first: int) -> list[Cohort]:
        """Trials of equal structure side by side, in cohorts no larger than pays, enough of them for all workers."""
        spec = self._spec
        groups: dict[str, list[Trial]] = {}
        for trial in trials:
            groups.setdefault(json.dumps(spec.structure(trial.params), sort_keys=True), []).append(trial)
        cohorts: list[Cohort] = []
        fair = max(2, -(-len(trials) // self._workers))
        for members in groups.values():
            company = self._company(members[0].params)
            size = 1
            if company:
                runs = next(end for end in self._ends(members[0].params) if self._runs(end))
                parameters = self._size(spec.network(runs))
                auto = cohort_size.largest(self._family, parameters, self._device, self._signature.inputs)
                most = auto if spec.run.cohort == "auto" else spec.run.cohort
                pieces = -(-len(members) // min(most, fair))
                size = -(-len(members) // pieces)
            for start in range(0, len(members), size):
                chosen = tuple(members[start : start + size])
                structure = spec.structure(chosen[0].params)
                cohorts.append(Cohort(first + len(cohorts), chosen, structure, company))
        return cohorts

    def work(self, cohort: Cohort, attempt: int) -> Work:
        return Work(self.task(cohort.number, cohort.trials, cohort.company), attempt)

    def task(self, number: int, trials: Sequence[Trial], company: bool) -> Task:
        spec = self._spec

        def row(trial: Trial) -> Row:
            settings: dict[str, Any] = spec.training(trial.params)
            return Row(trial.number, trial.seed, spec.network(trial.params), TrainConfig(**settings))

        rows = tuple(map(row, trials))
        return Task(
            cohort=number,
            rows=rows,
            family=self._family,
            signature=self._signature,
            company=company,
            seed=spec.seed,
            metric=spec.metric,
            maximize=spec.maximize,
            named=self._named,
            rungs=frozenset(self._rungs(max(row.config.epochs for row in rows))),
            folder=str(spec.folder),
        )
