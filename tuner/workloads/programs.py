"""The driver's side of a study of a person's own training: functions and commands alike.

Knows the spec and the person's files; imports and runs none of them.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from tuner import champion
from tuner.checkpoints import format as checkpoint
from tuner.checkpoints.store import weights_path
from tuner.errors import CheckpointCorrupt, SpecError
from tuner.events import Cohort, Params
from tuner.executors import code_bundle
from tuner.history.fold import History, TrialHistory
from tuner.models import code
from tuner.spec import StudySpec
from tuner.spec.programs import PLACEHOLDER
from tuner.spec.trial_section import TrialSection, seconds
from tuner.study.cohorts import OneByOne
from tuner.workloads.base import Problem, Say, Setup
from tuner.workloads.context import TrialJob
from tuner.workloads.process_runner import ProgramJob, ProgramTrainer
from tuner.workloads.trial_processes import ProgramSetup, search_path


@dataclass(frozen=True)
class ProgramPlan:
    """What a study of a person's own training will do. Counts of None are infinite or not known."""

    study: str
    kind: str
    runs: str
    hyperparameters: int
    size: int | None
    trials: int
    epochs: int | None
    objectives: tuple[str, ...]
    sampler: str
    pruner: str
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        return {**asdict(self), "objectives": list(self.objectives), "warnings": list(self.warnings)}

    def lines(self, trials: int | None = None) -> list[str]:
        """For a person, one subject a line; warnings last."""
        trials = self.trials if trials is None else trials
        points = "continuous" if self.size is None else f"{self.size:,} points"
        epochs = f"up to {self.epochs} reports a trial" if self.epochs else "each trial reports as often as it likes"
        return [
            f"study     {self.study}: {'; '.join(self.objectives)}",
            f"trial     {self.kind} {self.runs}",
            f"space     {self.hyperparameters} hyperparameters ({points})",
            f"search    sampler {self.sampler}, pruner {self.pruner}, {trials:,} trials",
            f"training  {epochs}; the same call with the same seed, as far as it keeps to it",
            *(f"warning   {warning}" for warning in self.warnings),
        ]


class ProgramWorkload:
    """A study's function or command."""

    needed_at_the_end: ClassVar[tuple[str, ...]] = ()

    def __init__(self, spec: StudySpec) -> None:
        assert spec.trial is not None
        self._spec, self._trial = spec, spec.trial

    @property
    def kind(self) -> str:
        return self._spec.kind

    @property
    def shared(self) -> None:
        return None

    def shared_for_remote(self) -> bool:
        """There is nothing to send but the code."""
        return True

    @property
    def name(self) -> str:
        return self._trial.function or " ".join(self._trial.command or ())

    @property
    def fixed(self) -> Mapping[str, Any]:
        epochs = {} if self._trial.epochs is None else {"epochs": self._trial.epochs}
        return {**self._trial.params, **epochs}

    def preflight(self, found: Iterable[Problem]) -> ProgramPlan:
        spec, trial = self._spec, self._trial
        problems = [*found]
        if spec.run.executor == "local" and sys.platform != "linux":
            problems.append((("trial",), f"expected Linux for a person's own training, got {sys.platform}"))
        if trial.function is not None:
            problems += _function_problems(trial.function, spec.folder)
        else:
            problems += _command_problems(trial.command or [], spec.folder)
        problems += [
            (("trial", "environment", name), "expected this variable in the launch's environment, got none; set it")
            for name, value in trial.environment.items()
            if value is None and name not in os.environ
        ]
        if problems:
            raise SpecError(spec.problems(problems))
        return ProgramPlan(
            study=spec.study,
            kind=spec.kind,
            runs=self.name,
            hyperparameters=len(spec.space.parameters),
            size=spec.space.size(),
            trials=spec.search.trials,
            epochs=spec.epochs or None,
            objectives=tuple(f"{metric}, {'maximized' if up else 'minimized'}" for metric, up in spec.objectives),
            sampler=spec.search.sampler.kind,
            pruner=spec.search.pruner.kind,
            warnings=(*spec.warnings, *(spec.problem(*one) for one in self._unused())),
        )

    def examine(self) -> Iterator[Problem]:
        """What goes wrong when the function is imported."""
        if self._trial.function is not None:
            trainer = ProgramTrainer(Setup(self.kind, self.setup(), "", "cpu", self._spec.run.threads))
            if problem := trainer.import_problem():
                yield ("trial", "function"), problem

    def _unused(self) -> Iterator[Problem]:
        """Searched parameters that no word of a command names."""
        command = self._trial.command
        named = {name for word in command or () for name in PLACEHOLDER.findall(word)}
        if command is not None and named:
            for name in self._spec.space.parameters.keys() - named:
                yield ("search", "space", name), f"no word of the command names {{{name}}}; is it read elsewhere?"

    @property
    def writes_runs(self) -> bool:
        """As the file says, else where a word of the command or the code beside it speaks of MLflow."""
        if self._trial.mlflow is not None:
            return self._trial.mlflow
        words = [word.encode() for word in self._trial.command or ()]
        return any(b"mlflow" in text.lower() for text in (*words, *map(Path.read_bytes, self._code())))

    def _code(self) -> list[Path]:
        """The files of a person's code: those that are named, and what a Python file imports of what lies beside it."""
        named = [path for path in self._files() if path.is_file()]
        return [file for path in named for file in (code.sources(path) if path.suffix == ".py" else [path])]

    def versions(self) -> Mapping[str, str]:
        """What is installed, as far as it is known without an import: what the code uses it says itself."""
        with contextlib.suppress(metadata.PackageNotFoundError):
            return {"torch": metadata.version("torch")}
        return {}

    def fingerprint(self) -> Mapping[str, Any]:
        return {}

    def code(self) -> str | None:
        files = [path for path in self._files() if path.is_file()]
        if not files:
            return None
        parts = [
            code.digest(path) if path.suffix == ".py" else hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        ]
        return parts[0] if len(parts) == 1 else hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _files(self) -> list[Path]:
        """A person's own files that are named: the function's, or those among a command's words."""
        folder = self._spec.folder
        if self._trial.function is not None:
            path = code.locate(self._trial.function.rpartition(":")[0], folder)
            return [] if path is None else [path]
        return [folder / word for word in self._trial.command or () if not PLACEHOLDER.search(word)]

    def code_changed(self, recorded: str | None) -> bool:
        return recorded != self.code()

    def bundle(self) -> dict[str, bytes]:
        return {} if self._trial.function is None else code_bundle.pack(self._trial.function, self._spec.folder)

    def static_metrics(self, _params: Params) -> Mapping[str, float]:
        return {}

    def cohorts(self, _workers: int, _known: Iterable[Cohort], _say: Say) -> OneByOne:
        return OneByOne(self._spec)

    def setup(self) -> ProgramSetup:
        trial, folder = self._trial, self._spec.folder
        variables = {
            name: os.environ[name] if value is None else _text(value) for name, value in trial.environment.items()
        }
        return ProgramSetup(
            kind=self._spec.kind,
            place=trial.function if trial.function is not None else tuple(_found(trial, folder)),
            folder=str(folder),
            timeout=seconds(trial.timeout),
            silence=seconds(trial.silence),
            retries=trial.retries,
            grace=seconds(trial.grace) or 0.0,
            variables={"OMP_NUM_THREADS": str(self._spec.run.threads), **variables},
            printed=trial.metrics == "stdout",
        )

    def payload(self, cohort: Cohort, rungs: Callable[[int], set[int]]) -> ProgramJob:
        spec, (trial,) = self._spec, cohort.trials
        params = {**self._trial.params, **trial.params}
        epochs = params.get("epochs", self._trial.epochs)
        at = tuple(sorted(rungs(int(epochs)))) if epochs else ()
        job = TrialJob(trial.number, params, trial.seed, "cpu", int(epochs) if epochs else None, spec.metric, "", at)
        others = tuple(metric for metric, _ in spec.objectives[1:])
        return ProgramJob(job, spec.metric, spec.maximize, others)

    def finish(self, best: TrialHistory, _history: History, folder: Path, say: Say) -> Mapping[str, float] | None:
        """Make the model that it has saved the champion; else tell where its files are."""
        kept, weights = folder / "trials" / f"{best.number:06d}", weights_path(folder, best.number)
        if not weights.is_file():
            say(f"what the winner wrote is in {kept}")
            why = f"its trials are a person's own training, and trial {best.number} saved no model (trial.save_model)"
            champion.refuse(folder, f"{why}; what it wrote is in {kept}")
            return None
        from tuner.inference import champion_writer
        from tuner.workloads import own_model

        epoch = best.best_epoch(self._spec.metric, self._spec.maximize)
        metrics = {} if epoch is None else best.reports[epoch]
        about = {"number": best.number, "params": dict(best.params), "seed": best.seed, "metrics": metrics}
        try:
            why = champion_writer.adopt(folder, partial(own_model.unpacked, checkpoint.load(weights)), about)
        except CheckpointCorrupt as error:
            why = f"its model is damaged: {error}"
        if why:
            champion.refuse(folder, f"{why}; its state_dict is {kept / own_model.STATE}")
            say(f"the winner's model cannot be exported, only its state_dict is kept in {kept}: {why}")
        return {}

    def restore(self, best: TrialHistory, history: History, folder: Path, say: Say) -> None:
        if champion.is_lost(folder):
            say(f"the champion is lost, damaged or an older Tuner's: exporting trial {best.number} again")
            self.finish(best, history, folder, say)


def _text(value: Any) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def _found(trial: TrialSection, folder: Path) -> list[str]:
    """The command's words, files of the study's folder by their whole paths: a trial has a folder of its own."""
    words = []
    for index, word in enumerate(trial.command or ()):
        path = folder / word
        plain = "/" in word or index > 0
        words.append(str(path.absolute()) if plain and not PLACEHOLDER.search(word) and path.is_file() else word)
    return words


def _function_problems(place: str, folder: Path) -> Iterator[Problem]:
    """What can be seen without running anything: the file, its syntax, the function and what it takes."""
    key = ("trial", "function")
    file, _, name = place.rpartition(":")
    path = code.locate(file, folder)
    if path is None:
        try:
            there = importlib.util.find_spec(file) is not None
        except (ImportError, ValueError):
            there = False
        if not there:
            yield key, f"expected a Python file or an installed module, got {file}, which is neither"
        return
    if not path.is_file():
        yield key, f"expected the path of a file, found nothing at {path}"
        return
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        yield key, f"expected Python, got a syntax error in {path.name}{f', line {line}' if line else ''}: {error}"
        return
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    if isinstance(functions.get(name), ast.AsyncFunctionDef):
        yield key, f"expected a plain function, got {name}, which is async"
    elif name in functions:
        given = functions[name].args
        positional = [*given.posonlyargs, *given.args]
        if not (positional or given.vararg) or len(positional) - len(given.defaults) > 1:
            count = f"{len(positional)} arguments" if len(positional) != 1 else "1 argument"
            yield key, f"expected a function of one argument, the trial, got {name} with {count}"
    elif not _assigned(tree, name):
        near = f"; it has {', '.join(functions)}" if functions else ""
        yield key, f"expected a function {name} in {path.name}, got none of that name{near}"


def _assigned(tree: ast.Module, name: str) -> bool:
    """Whether the name comes about in another way than by a `def`."""
    names = {
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    targets = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return (
        name in names | targets
        or "*" in names
        or any(isinstance(n, ast.ClassDef) and n.name == name for n in tree.body)
    )


def _command_problems(command: list[str], folder: Path) -> Iterator[Problem]:
    program = command[0]
    if PLACEHOLDER.search(program):
        return
    path = str(folder / program) if "/" in program else program
    if shutil.which(path, path=search_path()) is None:
        there = Path(path).is_file() and "/" in program
        hint = "; make it executable: chmod +x" if there else "; install it, or give its path"
        yield ("trial", "command", 0), f"expected a program that can be run, got {program}{hint}"
