"""StudySpec: the study file, validated as a whole, and what the rest of Tuner asks of it.

Knows the file, its sections and the names of all hyperparameters; must never know data, executors or
stores. Every mistake is told at once as `file:line:column: path: expected …, got …; remedy`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from inspect import Parameter as Argument
from pathlib import Path
from typing import Any, Self

from pydantic import PrivateAttr

from tuner.errors import InputError, SpecError
from tuner.events import Objective, Params, Value
from tuner.home import EMBEDDED, MLFLOW, embedded
from tuner.models.interface import Hyperparameter
from tuner.search_spaces import SearchSpace
from tuner.search_spaces.document import (
    DocumentError,
    Keys,
    Problem,
    describe,
    parse_value,
    read,
    shorten,
)
from tuner.spec.checks import TRAINING, examine
from tuner.spec.execution import CLUSTER, TUNE
from tuner.spec.messages import mistakes
from tuner.spec.rules import cast
from tuner.spec.sections import StudyFile, store_problem
from tuner.spec.written import Written, plain
from tuner.training.config import FURTHER_METRICS

__all__ = ["StudySpec"]


class StudySpec(StudyFile):
    """One study. Frozen; made from Python with the same rules as a file: `StudySpec(study=…, data={…}, …)`.

    `folder` is where the study file lies: data.source and model.family are relative to it. `text` is
    what was written. Raises SpecError with every problem.
    """

    _written: Written = PrivateAttr()
    _space: SearchSpace = PrivateAttr()
    _network: dict[str, Hyperparameter] = PrivateAttr()
    _warnings: tuple[str, ...] = PrivateAttr()

    def __init__(self, /, **values: Any) -> None:
        data = plain(values)
        self._make(Written(data, Path.cwd(), json.dumps(data, indent=2, default=str)))

    def _make(self, written: Written, problems: Sequence[str] = ()) -> None:
        found = examine(written.data, written.folder)
        lines = written.lines([*mistakes(written.data), *found.problems])
        lines = [*problems, *dict.fromkeys([*lines, *found.foreign])]
        if lines:
            raise SpecError(lines)
        assert found.space is not None
        assert found.network is not None
        super().__init__(**written.data)
        self._written, self._space, self._network = written, found.space, found.network
        self._warnings = tuple(written.line(*one) for one in found.warnings)

    @classmethod
    def read(
        cls,
        path: str | Path,
        *,
        overrides: Sequence[str] = (),
        name: str | None = None,
        trials: int | None = None,
    ) -> Self:
        """The study in a file, with the command line's `--set path=value`, `--name` and `--trials` put over it."""
        path = Path(path)
        unread: tuple[Problem, ...] = ()
        try:
            document = read(path)
        except DocumentError as error:
            if error.document is None:
                raise SpecError([str(problem) for problem in error.problems]) from None
            document, unread = error.document, error.problems
        written = Written(plain(document.data), path.resolve().parent, document.text, document, unread=unread)
        problems = [problem for override in overrides for problem in _override(written, override)]
        if name is not None:
            written.set(("study",), name, f"--name {shorten(name)}")
        if trials is not None and (problem := written.set(("search", "trials"), trials, f"--trials {trials}")):
            problems.append(f"--trials {trials}: {problem}")
        if written.flags:
            said = "".join(f"# {flag}\n" for flag in written.flags.values())
            written.text = f"{written.text.rstrip()}\n\n# set on the command line:\n{said}"
        return cls._from(written, problems)

    @classmethod
    def from_json(cls, body: Mapping[str, Any], folder: Path, text: str = "") -> Self:
        """The study that `canonical()` or `to_json()` wrote down."""
        return cls._from(Written(plain(body), folder, text))

    @classmethod
    def _from(cls, written: Written, problems: Sequence[str] = ()) -> Self:
        spec = cls.__new__(cls)
        spec._make(written, problems)
        return spec

    def extended(self, trials: int) -> Self:
        """The same study with that many trials, asked for in so many words. Raises SpecError."""
        written = replace(self._written, data=plain(self._written.data), flags=dict(self._written.flags))
        written.set(("search", "trials"), trials, f"trials={trials}")
        return self._from(written)

    @property
    def extends(self) -> bool:
        """Whether the number of trials was asked for beside the file, which may extend a finished study."""
        return ("search", "trials") in self._written.flags

    @property
    def folder(self) -> Path:
        return self._written.folder

    @property
    def text(self) -> str:
        return self._written.text

    @property
    def store(self) -> str:
        """Where MLflow is: `tracking.mlflow`, a file's path made absolute from the study file's folder.

        `embedded` is the server that TUNER_MLFLOW names in the environment, where a service has one for all studies.
        """
        prefix, address = "sqlite:///", self.tracking.mlflow
        if address == EMBEDDED:
            if (problem := store_problem(embedded())) is not None:
                raise InputError(f"{MLFLOW}: {problem}")
            return embedded()
        return f"{prefix}{self.folder / address.removeprefix(prefix)}" if address.startswith(prefix) else address

    @property
    def kind(self) -> str:
        """What a trial is: "network", "function" or "command"."""
        if self.trial is None:
            return "network"
        return "function" if self.trial.function is not None else "command"

    @property
    def space(self) -> SearchSpace:
        return self._space

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is legal and yet looks like a mistake, one printable line each."""
        return self._warnings

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What the study is about; the first decides which epoch of a trial counts, and the winner."""
        written = self.search.objective
        several = written if isinstance(written, list) else [written]
        return tuple((one.metric, one.goal == "maximize") for one in several)

    @property
    def further_metrics(self) -> tuple[str, ...]:
        """What is measured beside what always is: as `metrics` and the objectives ask for it, without the split."""
        known = {name for names in FURTHER_METRICS.values() for name in names}
        asked = (name.rpartition("/")[2] for name, _ in self.objectives)
        return tuple(dict.fromkeys([*(self.metrics or ()), *(name for name in asked if name in known)]))

    @property
    def metric(self) -> str:
        """The first objective."""
        return self.objectives[0][0]

    @property
    def maximize(self) -> bool:
        return self.objectives[0][1]

    @property
    def alone(self) -> bool:
        """Whether every trial trains by itself."""
        return self.run.cohort == 1 or self.run.executor == TUNE

    @property
    def epochs(self) -> int:
        """Those of the longest trial; 0 of a person's own training that does not say."""
        searched = self._space.parameters.get("epochs")
        if self.trial is not None:
            return int(searched.high_value if searched is not None else self.trial.epochs or 0)
        return int(searched.high_value if searched is not None else self.training({})["epochs"] or 0)

    def problem(self, path: Keys, message: str) -> str:
        """A printable problem at a place in the study file."""
        return self._written.line(path, message)

    def problems(self, mistakes: Iterable[tuple[Keys, str]]) -> list[str]:
        """Printable problems, (path, message) each, in the order of the file."""
        return list(dict.fromkeys(self._written.lines(mistakes)))

    @property
    def network_rules(self) -> Mapping[str, Hyperparameter]:
        """The network's own hyperparameters by name."""
        return self._network

    def hyperparameter(self, name: str) -> Hyperparameter:
        """The rule of a hyperparameter of the network or of training. Raises KeyError for any other name."""
        return self._network[name] if name in self._network else TRAINING[name]

    def place(self, name: str, section: str) -> Keys:
        """Where a hyperparameter is written: among what is searched, else in its own section."""
        return ("search", "space", name) if name in self.space.parameters else (section, name)

    def is_structural(self, name: str) -> bool:
        """Whether rows of one cohort must agree on it."""
        return self.trial is None and not self.hyperparameter(name).rule.fusible

    def structure(self, params: Params) -> dict[str, Value]:
        """The structural part of what was searched."""
        return {name: value for name, value in params.items() if self.is_structural(name)}

    def network(self, params: Params) -> dict[str, Value | None]:
        """The network constructor's keywords for a trial, defaults included."""
        return _settled(self._network, {**self.model, **params})

    def training(self, params: Params) -> dict[str, Value | None]:
        """All fields of TrainConfig for a trial."""
        return _settled(TRAINING, {**self.train, **params})

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON: the space inlined, defaults filled in. `from_json` reads it."""
        body: dict[str, Any] = self.model_dump(mode="json")
        body["search"]["space"] = self._space.to_dict()
        if self.trial is not None:
            del body["data"], body["model"], body["train"], body["metrics"]
            return body
        del body["trial"]
        free = self._space.parameters.keys()
        network = {name: value for name, value in self.network({}).items() if name not in free}
        body["model"] = {"family": self.model["family"], **network}
        body["train"] = {name: value for name, value in self.training({}).items() if name not in free}
        body["search"]["start_with"] = [
            {name: cast(self.hyperparameter(name), value) for name, value in values.items()}
            for values in self.search.start_with
        ]
        return body

    def canonical(self) -> dict[str, Any]:
        """`to_json` without what never changes a number: two studies with equal ones give equal results."""
        body = self.to_json()
        del body["tracking"]
        if self.trial is None:
            del body["data"]["memory"]
            if not body["metrics"]:
                del body["metrics"]
            for name in ("drop", "types", "missing", "strict", "split"):  # which older studies do not have
                if not body["data"][name]:
                    del body["data"][name]
        else:
            for name in ("timeout", "silence", "retries", "grace", "mlflow"):
                del body["trial"][name]
        run = body["run"]
        scheduler = run.pop("scheduler")
        if run["gpus_per_trial"] is None:
            del run["gpus_per_trial"]
        for name in ("executor", "workers", *CLUSTER):
            del run[name]
        if self.run.executor == TUNE:
            run["cohort"] = 1
            if scheduler not in (None, "fifo"):
                del run["share"]
                run |= {"executor": TUNE, "scheduler": scheduler}
        return body

    @property
    def digest(self) -> str:
        """sha256 of `canonical()`."""
        text = json.dumps(self.canonical(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def difference(self, other: Mapping[str, Any]) -> list[str]:
        """What differs from another canonical form: `search.pruner.kind: was 'asha', now 'median'`."""
        was, now = _flat(other), _flat(self.canonical())
        return [
            f"{path}: was {_shown(was, path)}, now {_shown(now, path)}"
            for path in dict.fromkeys([*now, *was])
            if was.get(path, _flat) != now.get(path, _flat)
        ]


def _settled(known: Mapping[str, Hyperparameter], given: Mapping[str, Any]) -> dict[str, Value | None]:
    return {
        name: cast(one, given.get(name, one.default))
        for name, one in known.items()
        if name in given or one.default is not Argument.empty
    }


def _override(written: Written, override: str) -> list[str]:
    """Apply one `path=value`; printable problems."""
    flag = f"--set {shorten(re.sub(r'//.*@', '//…@', override))}"  # an address may carry a password
    place, equals, text = override.partition("=")
    path = tuple(place.strip().split("."))
    if not equals or not all(path):
        return [f"{flag}: expected path=value, got {describe(override)}; write --set train.epochs=20"]
    try:
        value = parse_value(text, flag).data
    except DocumentError as error:
        return [f"{flag}: {problem.message}" for problem in error.problems]
    problem = written.set(path, value, flag)
    return [] if problem is None else [f"{flag}: {problem}"]


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Every leaf by its dotted path; a list is one leaf."""
    if not isinstance(value, Mapping) or not value:
        return {path: value}
    return {
        inner: leaf
        for key, one in value.items()
        for inner, leaf in _flat(one, f"{path}.{key}" if path else str(key)).items()
    }


def _shown(values: Mapping[str, Any], path: str) -> str:
    return shorten(repr(values[path]), 200) if path in values else "nothing"
