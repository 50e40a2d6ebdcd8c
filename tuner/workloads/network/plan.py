"""What a study of networks will do, checked against its data before the first trial.

Knows the spec, the data's signature, and from `size` which networks run; trains nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from tuner import data, models
from tuner.data import Dataset, columns, leaks
from tuner.data.columns import Role
from tuner.errors import DataError, SpecError
from tuner.events import Value
from tuner.models.interface import CLASSIFICATION, IMAGE, LANGUAGE, NUMBERS, REGRESSION, SEQUENCE, Signature
from tuner.search_spaces import SearchSpace
from tuner.search_spaces.document import Keys, describe
from tuner.search_spaces.parameters import Choice, Float, Int
from tuner.spec import StudySpec
from tuner.spec.checks import PARAMETERS, TRAINING, metrics_of, nearest_metric
from tuner.spec.rules import listed
from tuner.training.config import FURTHER_METRICS
from tuner.training.losses import FOR_NUMBERS
from tuner.workloads.network import size as sizes

_MOST_SIZES = 64  # of batches, each looked at
_MOST_STRUCTURES = 100_000  # counted one by one; beyond it nobody needs the number
_CALLED = {  # tasks and modalities, as what a setting is for
    CLASSIFICATION: "classes",
    LANGUAGE: "text",
    REGRESSION: "numbers to predict",
    NUMBERS: "numbers",
    IMAGE: "images",
    SEQUENCE: "sequences",
}
_OUTPUTS = {CLASSIFICATION: "class", REGRESSION: "target", LANGUAGE: "token"}


@dataclass(frozen=True)
class Plan:
    """What is to be done. Counts of None are infinite; `parameters` are those of the smallest and largest network."""

    study: str
    family: str
    source: str
    task: str
    modality: str
    inputs: tuple[int, ...]
    outputs: int
    rows: dict[str, int]
    hyperparameters: int
    size: int | None
    structures: int | None
    trials: int
    epochs: int
    parameters: tuple[int, int]
    metric: str
    goal: str
    objectives: tuple[str, ...]
    sampler: str
    pruner: str
    warnings: tuple[str, ...]
    columns: tuple[Role, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        return {
            **asdict(self),
            "columns": [asdict(role) for role in self.columns],
            **{name: list(getattr(self, name)) for name in ("inputs", "objectives", "parameters", "warnings")},
        }

    def lines(self, trials: int | None = None) -> list[str]:
        """For a person, one subject a line; warnings last. Of so many `trials` where they are others than planned."""
        trials = self.trials if trials is None else trials
        rows = ", ".join(f"{count:,} {split}" for split, count in self.rows.items())
        outputs = _counted(self.outputs, _OUTPUTS[self.task])
        least, most = self.parameters
        points = "continuous" if self.size is None else _counted(self.size, "point")
        architectures = "continuous architecture"
        if self.structures is not None:
            architectures = _counted(self.structures, "architecture")
        return [
            f"study     {self.study}: {'; '.join(self.objectives)}",
            f"data      {self.source}: {self._inputs()}, {outputs}; {rows} rows",
            *(f"{'' if index else 'columns':<10}{line}" for index, line in enumerate(columns.lines(self.columns))),
            f"network   {self.family}: {least:,} parameters" + (f" to {most:,}" if most != least else ""),
            f"space     {_counted(self.hyperparameters, 'hyperparameter')} ({points}), {architectures}",
            f"search    sampler {self.sampler}, pruner {self.pruner}, {_counted(trials, 'trial')}",
            f"training  {_counted(self.epochs, 'epoch')} a trial, up to {trials * self.epochs:,} epochs in total",
            *(f"warning   {warning}" for warning in self.warnings),
        ]

    def _inputs(self) -> str:
        """What one example is: `30 numeric features`, `images 1×28×28`, `text of 64`."""
        shape = "×".join(map(str, self.inputs))
        if self.modality == NUMBERS:
            return _counted(self.inputs[0], "numeric feature")
        return f"{self.modality}s {shape}" if self.modality in (IMAGE, SEQUENCE) else f"{self.modality} of {shape}"


def _counted(count: int, what: str) -> str:
    """`1 target`, `10 classes`."""
    if count == 1:
        return f"1 {what}"
    return f"{count:,} {what}{'es' if what.endswith('s') else 's'}"


def load(spec: StudySpec) -> Dataset:
    """The study's data. Raises DataError whose problems about a key of the file name its line."""
    section = spec.data
    try:
        return data.load(
            section.source,
            **section.model_dump(exclude={"source"}),
            seed=spec.seed,
            folder=spec.folder,
        )
    except DataError as error:
        raise DataError([_placed(spec, problem) for problem in error.problems]) from None


def _placed(spec: StudySpec, problem: str) -> str:
    place, colon, message = problem.partition(": ")
    key = place.removeprefix("data.")
    return (
        spec.problem(("data", key), message) if colon and place.startswith("data.") and key.isidentifier() else problem
    )


def plan(spec: StudySpec, dataset: Dataset, found: Iterable[tuple[Keys, str]] = ()) -> Plan:
    """Check the spec against the data. Raises SpecError with every problem, those that were `found` before included."""
    signature = dataset.signature
    problems = [
        *found,
        *_objective(spec, signature),
        *_metrics(spec, signature),
        *_loss(spec, signature),
        *_batches(spec, dataset.rows["train"]),
    ]
    corners = sizes.Corners(problems=tuple(_family(spec, signature)))
    if not corners.problems:
        corners = sizes.corners(spec, signature)
    problems += corners.problems
    small: list[tuple[Keys, str]] = []
    if not problems:
        problems, small = _last_batches(spec, signature, dataset.rows["train"])
    if problems:
        raise SpecError(spec.problems(problems))
    size = spec.space.size()
    kind = spec.search.sampler.kind
    return Plan(
        study=spec.study,
        family=spec.model["family"],
        source=dataset.name,
        task=signature.task,
        modality=signature.modality,
        inputs=signature.inputs,
        outputs=signature.outputs,
        rows=dict(dataset.rows),
        hyperparameters=len(spec.space.parameters),
        size=size,
        structures=structures(spec),
        trials=min(spec.search.trials, size + len(spec.search.start_with))
        if kind == "grid" and size is not None
        else spec.search.trials,
        epochs=spec.epochs,
        parameters=(corners.least, corners.most),
        metric=spec.metric,
        goal=_goal(spec.maximize),
        objectives=tuple(f"{metric}, {_goal(maximize)}d" for metric, maximize in spec.objectives),
        sampler=kind,
        pruner=spec.search.pruner.kind if spec.run.scheduler in (None, "fifo") else spec.run.scheduler,
        warnings=(
            *spec.warnings,
            *dataset.notes,
            *leaks.warnings(dataset),
            *(
                spec.problem(*one)
                for one in (*corners.warnings, *small, *_useless(spec, signature), *_repeated(spec, size))
            ),
        ),
        columns=dataset.roles,
    )


def _goal(maximize: bool) -> str:
    return "maximize" if maximize else "minimize"


def structures(spec: StudySpec) -> int | None:
    """How many different structures the space has; None where there is no end to them."""
    structural = {name: one for name, one in spec.space.parameters.items() if spec.is_structural(name)}
    if any(one.count is None for one in structural.values()):
        return None
    needed: dict[str, Float | Int | Choice] = {}
    for name in reversed(spec.space.parameters):  # children before parents
        if name in structural or any(name in (child.when or ()) for child in needed.values()):
            needed[name] = spec.space.parameters[name]
    if not needed:
        return 1
    part = SearchSpace(needed)
    size = part.size()
    if size is None or len(needed) == len(structural) or size > _MOST_STRUCTURES:
        return size
    return len({tuple((name, value) for name, value in point.items() if name in structural) for point in part.grid()})


def _values(spec: StudySpec, name: str) -> list[Value | None]:
    """What a hyperparameter of training may be: every searched choice, or its one value."""
    searched = spec.space.parameters.get(name)
    if searched is None:
        return [spec.training({})[name]]
    return list(searched.values_) if isinstance(searched, Choice) else [searched.low, searched.high]


def _objective(spec: StudySpec, signature: Signature) -> Iterator[tuple[Keys, str]]:
    known = metrics_of(signature.task)
    for index, (metric, _) in enumerate(spec.objectives):
        if metric not in (*known, PARAMETERS):
            message = f"expected a metric of {signature.task} ({', '.join(known)}), got {describe(metric)}"
            place: Keys = (index,) if isinstance(spec.search.objective, list) else ()
            yield ("search", "objective", *place, "metric"), message + nearest_metric(metric, known)


def _metrics(spec: StudySpec, signature: Signature) -> Iterator[tuple[Keys, str]]:
    known = FURTHER_METRICS[signature.task]
    for index, name in enumerate(spec.metrics or ()):
        if name not in known:
            message = f"expected a metric of {signature.task} ({', '.join(known) or 'none more'}), got {name}"
            yield ("metrics", index), message


def _loss(spec: StudySpec, signature: Signature) -> Iterator[tuple[Keys, str]]:
    for name in _values(spec, "loss"):
        if name != "auto" and (name in FOR_NUMBERS) != (signature.task == REGRESSION):
            yield spec.place("loss", "train"), f"expected a loss for {signature.task}, got {name}; write auto"


def _batches(spec: StudySpec, rows: int) -> Iterator[tuple[Keys, str]]:
    sizes = [size for size in _values(spec, "batch_size") if isinstance(size, int)]
    if max(sizes) > rows:
        written = spec.search.space if isinstance(spec.search.space, dict) else {}
        hint = ""
        if "batch_size" in spec.space.parameters and "batch_size" not in written:
            hint = "; write search.space as {include: …, batch_size: {type: choice, values: […]}} with smaller ones"
        elif "batch_size" not in spec.train and "batch_size" not in written:
            hint = ", the default; set train.batch_size"
        message = f"expected at most {rows:,}, the training rows, got {max(sizes):,}{hint}"
        yield spec.place("batch_size", "train"), message


def _last_batches(
    spec: StudySpec, signature: Signature, rows: int
) -> tuple[list[tuple[Keys, str]], list[tuple[Keys, str]]]:
    """Batch sizes that leave a last batch of one row: problems where the network refuses it, else warnings."""
    searched = spec.space.parameters.get("batch_size")
    values = (
        list(searched.values())
        if searched is not None and (searched.count or 65) <= 64
        else _values(spec, "batch_size")
    )
    left = {}
    for index, size in enumerate(values):
        rest = rows % size if isinstance(size, int) else 0
        if size == 1 or (rest == 1 and False in _values(spec, "drop_last")):
            place: Keys = ("values", index) if isinstance(searched, Choice) else ()
            left[size] = (*spec.place("batch_size", "train"), *place)
    norm = spec.space.parameters.get("norm")
    norms = norm.values_ if isinstance(norm, Choice) else [spec.model.get("norm")]
    normalised = spec.model["family"] in models.FAMILIES and "batch" in norms
    if not left:
        return [], []
    reason = sizes.refuses_one_row(spec, signature)
    if not reason and not normalised:
        return [], []
    problems, warnings = [], []
    for size, keys in left.items():
        if size == 1:
            why = reason or "of one row every number is its own mean"
            problems.append((keys, f"expected more than 1 row per step with batch normalisation, got 1: {why}"))
            continue
        tell = f"{size} leaves a last batch of 1 of the {rows:,} training rows"
        if reason:
            problems.append((keys, f"{tell}, and the network refuses it: {reason}; write train.drop_last: true"))
        else:
            warnings.append((keys, f"{tell}, of which batch normalisation learns nothing; train.drop_last: true"))
    return problems, warnings


def _family(spec: StudySpec, signature: Signature) -> Iterator[tuple[Keys, str]]:
    """Whether a family of ours takes such inputs and gives such answers."""
    family = spec.model["family"]
    if family not in models.FAMILIES:
        return
    modality, task = signature.modality, signature.task
    can = [
        name
        for name in models.FAMILIES
        if modality in models.FAMILIES[name].modalities and task in models.FAMILIES[name].tasks
    ]
    if family in can:
        return
    wanted, fits = modality, models.FAMILIES[family].modalities
    if modality in fits:
        wanted, fits = f"{task} of {modality}", models.FAMILIES[family].tasks
    got = f"got {family}, a network for {listed(fits)}"
    arrays = modality == IMAGE and signature.inputs[0] == 1 and spec.data.source.endswith(".npz")
    steps = arrays and spec.data.modality is None and SEQUENCE in models.FAMILIES[family].modalities
    other = ", or say data.modality: sequence" if steps else ""
    yield ("model", "family"), f"expected a network for {wanted}, {got}; use {listed(can)}{other}"


def _repeated(spec: StudySpec, size: int | None) -> Iterator[tuple[Keys, str]]:
    """More trials than there are points to try, of a sampler that does not keep account of them."""
    trials, kind = spec.search.trials, spec.search.sampler.kind
    if size is not None and trials > size and kind != "grid":
        points = f"the space has {_counted(size, 'point')}, so that {kind} tries some of them again"
        yield (
            ("search", "trials"),
            f"{points}; write `sampler: {{kind: grid}}` to try each once, or lower trials to {size}",
        )


def _useless(spec: StudySpec, signature: Signature) -> Iterator[tuple[Keys, str]]:
    """Settings of training that do nothing with such data."""
    for name, hyperparameter in TRAINING.items():
        rule = hyperparameter.rule
        for here, needed in ((signature.task, rule.tasks), (signature.modality, rule.modalities)):
            used = any(value != hyperparameter.default for value in _values(spec, name))
            if needed is not None and here not in needed and used:
                *others, last = [_CALLED[one] for one in needed]
                use = f"{', '.join(others)} and {last}" if others else last
                yield spec.place(name, "train"), f"{name} is for {use}, and does nothing with {here}"
