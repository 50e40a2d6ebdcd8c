"""Which trials of networks train as one: those of equal structure, in cohorts no larger than pays.

Knows the spec, the data's signature and the cost model; never workers, the sampler or the ledger. Which trials share a
cohort changes no number.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from tuner import models
from tuner.data.dataset import Dataset
from tuner.events import Cohort, Params, Trial
from tuner.seeds import derive
from tuner.spec import StudySpec
from tuner.training import cohort_size
from tuner.training.proof import MOST_PARAMETERS, few, fuses
from tuner.training.seeding import seeded
from tuner.workloads.network.size import count
from tuner.workloads.network.tasks import task


class NetworkCohorts:
    """One study's cohorts. `say` hears once why a person's own network does not fuse."""

    def __init__(
        self,
        spec: StudySpec,
        dataset: Dataset,
        device: str,
        workers: int,
        say: Callable[[str], None],
        known: Iterable[Cohort] = (),
    ) -> None:
        """`known` are cohorts that were made before: what trained alone then does so again."""
        self._spec, self._dataset, self._signature = spec, dataset, dataset.signature
        self._device, self._workers, self._say = device, workers, say
        self._family: str = spec.model["family"]
        self._said = False
        self._companies: dict[str, bool] = {}  # by structure
        self._parameters: dict[str, int] = {}
        for cohort in known:
            if not cohort.company:
                self._companies[_key(cohort.structure)] = False

    def group(self, trials: Sequence[Trial], first: int) -> list[Cohort]:
        """Trials of equal structure side by side, in cohorts no larger than pays, enough of them for all workers."""
        spec = self._spec
        groups: dict[str, list[Trial]] = {}
        for trial in trials:
            groups.setdefault(_key(spec.structure(trial.params)), []).append(trial)
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

    def separate(self, structure: Params) -> bool:
        """Trials of that structure failed in company: have them train alone. False where that would be no remedy."""
        if self._family in models.FAMILIES:
            return False
        self._companies[_key(structure)] = False
        return True

    def _company(self, params: Params) -> bool:
        """Whether the structure of that trial trains in company."""
        key = _key(self._spec.structure(params))
        if key not in self._companies:
            network = self._spec.network(params)
            modality = self._signature.modality
            wanted = not self._spec.alone and cohort_size.company(self._family, network, self._device, modality)
            self._companies[key] = wanted and (self._family in models.FAMILIES or self._fuses(params))
        return self._companies[key]

    def _fuses(self, params: Params) -> bool:
        """A person's own network trains alone where it does not train as one, and they are told why."""
        ends = [end for end in self._ends(params) if self._runs(end)][:2]
        if not ends:
            return False  # it fails its own trials, where each is told
        size = self._size(self._spec.network(ends[0]))
        reason = f"{size:,} parameters gain nothing in company" if size > MOST_PARAMETERS else self._tried(ends)
        if reason and not self._said:
            self._said = True
            self._say(f"{self._family} does not fuse, so its trials train one by one: {reason}")
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
        both = task(self._spec, self._signature, trials, company=True)
        train, validation = self._dataset.train, self._dataset.validation
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            # What a network prints while it is tried belongs to no trial.
            return fuses(both, few(both, train.inputs, train.targets, validation.inputs, validation.targets))

    def _build(self, network: dict[str, Any], device: str = "cpu") -> torch.nn.Module:
        with torch.device(device), seeded(self._spec.seed):
            return models.build(self._family, self._signature, network, self._spec.folder)

    def _size(self, network: dict[str, Any]) -> int:
        """Parameters that train: without memory, unless the constructor looks at values."""
        key = _key(network)
        if key not in self._parameters:
            try:
                built = self._build(network, "meta")
            except (Exception, SystemExit):  # noqa: BLE001 - whatever it is, it is raised again where it has memory
                built = self._build(network)
            self._parameters[key] = count(built)
        return self._parameters[key]


def _key(values: Params) -> str:
    return json.dumps(dict(values), sort_keys=True)
