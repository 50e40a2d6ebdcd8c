"""A first study for somebody's data: a commented file that passes its check at once.

It looks at the data, asks what it was not told, and proves what it writes by planning it. Knows what people have at
hand and what a study needs. What kinds of data there are is told by `tuner.data`, which networks fit by `models`,
which ranges are sensible by `search_spaces`; it must never train anything.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from tuner import data, models, search_spaces
from tuner.data import Dataset, sources
from tuner.data import columns as column_roles
from tuner.data.built_in import BUILT_IN
from tuner.data.tables import Table
from tuner.errors import DataError, InputError, SpecError, TunerError
from tuner.home import expanded
from tuner.models.interface import CLASSIFICATION, IMAGE, LANGUAGE, REGRESSION
from tuner.search_spaces import Choice, Int
from tuner.search_spaces.document import parse, parse_value
from tuner.spec import StudySpec
from tuner.study import preflight
from tuner.workloads.base import Plan
from tuner.workloads.network.workload import NetworkWorkload

TRIALS, EPOCHS, SEED = 64, 20, 1
OBJECTIVES = {  # task → what people ask of it first, and what else they may ask
    CLASSIFICATION: ("val/accuracy", "maximize", "val/f1 and val/loss"),
    REGRESSION: ("val/rmse", "minimize", "val/mae, val/r2 and val/loss"),
    LANGUAGE: ("val/perplexity", "minimize", "val/bits_per_character and val/loss"),
}
_PLAIN = re.compile(r"[A-Za-z_./][\w./-]*")  # text that YAML needs no quotes for

_UNWRITABLE = "expected a file that can be written"

Asked = TypeVar("Asked")
Ask = Callable[[str, str | None, Callable[[str], Asked]], Asked]  # question, default, what to make of the answer


@dataclass(frozen=True)
class StarterOptions:
    """What a person has told; None and no target are to be asked, or guessed."""

    data: str | None = None
    target: tuple[str, ...] = ()
    family: str | None = None
    trials: int | None = None
    name: str | None = None
    drop: tuple[str, ...] = ()
    types: Mapping[str, str] = field(default_factory=dict)
    modality: str | None = None

    @property
    def choices(self) -> dict[str, Any]:
        """What is written under `data` of it, beside source and target."""
        told = {"drop": list(self.drop), "types": dict(self.types), "modality": self.modality}
        return {key: value for key, value in told.items() if value}


def write(told: StarterOptions, file: Path | None, *, force: bool, ask: Ask[Any] | None) -> tuple[Path, list[str]]:
    """Ask for what the wish lacks, write the study's file, and return it with its plan for a person.

    `file` is `<name>.yaml` unless given. Without anybody to `ask`, what cannot be guessed must be in the wish. Raises
    InputError for what is missing or wrong, and where the file is there already and not `force`; nothing is written
    then.
    """
    if ask is None:
        _demand(told)
    if file is not None:
        _refuse(file, force)
    source = told.data or (ask("Your data (a file, or a name from `tuner datasets`)", None, _source) if ask else "")
    wish = replace(told, data=source)
    dataset = _look(wish, ask)
    wish = replace(wish, target=wish.target or _target_of(dataset, source))
    name = told.name or _name(source)
    file = file or Path(f"{name}.yaml")
    _refuse(file, force)
    wish = replace(wish, name=name, trials=wish.trials or TRIALS)
    if wish.family is None:
        fit = _families(wish, dataset, file)
        family = ask(f"Network ({', '.join(fit)}, or file.py:Class)", fit[0], str) if ask else fit[0]
        wish = replace(wish, family=family)
    if told.trials is None and ask is not None:
        wish = replace(wish, trials=ask("Trials", str(TRIALS), _count))
    text, made = _proven(wish, dataset, file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file}: {_UNWRITABLE}, got: {error.strerror}; name another with --output") from None
    return file, made.lines()


def _demand(wish: StarterOptions) -> None:
    """Nobody can be asked: say all that is missing at once."""
    missing = [] if wish.data else ["--data FILE"]
    columns = _columns(wish.data) if wish.data else []
    if not wish.target and (columns or not wish.data):
        missing += ["--target COLUMN"] if wish.data else ["--target COLUMN (of a table)"]
    if missing:
        told = f"; its columns are {', '.join(columns)}" if columns else ""
        raise InputError(f"not a terminal: pass {' and '.join(missing)}{told}")


def _refuse(file: Path, force: bool) -> None:
    try:
        there = file.exists()
    except OSError as error:
        raise InputError(f"{file}: {_UNWRITABLE}, got: {error.strerror}; name another with --output") from None
    if there and not force:
        raise InputError(f"{file}: expected a new file, got one that exists; name another with --output, or --force")


# ------------------------------------------------------------------ the data


def _source(answer: str) -> str:
    """A name or a path, as `data.source` takes it. Raises InputError for what cannot be read."""
    if not _columns(answer):
        _load(StarterOptions(answer))
    return answer


def _columns(source: str) -> list[str]:
    """Those of a table, one of which is to be predicted; none where a source knows that itself, or cannot be read."""
    if source in BUILT_IN:
        return []
    try:
        inputs = sources.read_inputs(expanded(source))
    except DataError:
        return []
    return list(inputs.columns) if isinstance(inputs, Table) else []


def _look(wish: StarterOptions, ask: Ask[Any] | None) -> Dataset:
    """Read the data, and ask for the column to predict where there is a choice."""
    source = wish.data or ""
    if not wish.target and ask is not None and (columns := _columns(source)):
        question = f"Column to predict ({', '.join(columns)})"
        return ask(question, columns[-1], lambda answer: _load(replace(wish, target=(answer,))))
    return _load(wish)


def _load(wish: StarterOptions) -> Dataset:
    """Told as by somebody who looks at the flags, not at a study file."""
    target = wish.target[0] if len(wish.target) == 1 else wish.target or None
    try:
        return data.load(wish.data or "", target=target, **wish.choices, seed=SEED)
    except TunerError as error:
        raise InputError(_flagged(error)) from None


def _flagged(error: TunerError) -> list[str]:
    """Its lines, naming flags instead of the keys of a file that is not there."""
    flags = {"study": "name", "data.source": "data", "model.family": "family", "data.types": "type"}
    flags |= {f"data.{key}": key for key in ("target", "drop", "modality")}
    return [
        re.sub(r"^[\w.]+", lambda key: f"--{flags[key[0]]}" if key[0] in flags else key[0], line)
        for line in str(error).splitlines()
    ]


def _target_of(dataset: Dataset, source: str) -> tuple[str, ...]:
    """What has just been asked for."""
    return tuple(dataset.preprocess.targets) if _columns(source) else ()


def _name(source: str) -> str:
    stem = Path(source.partition(":")[0].rstrip("/")).name.partition(".")[0]
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")[:64] or "study"


def _count(answer: str) -> int:
    if not answer.isdigit() or int(answer) < 1:
        raise InputError(f"expected a number of trials, got {answer!r}")
    return int(answer)


# ------------------------------------------------------------------ the network and its space


def _families(wish: StarterOptions, dataset: Dataset, file: Path) -> list[str]:
    """Networks of ours for such data, those first that were made for it. Raises InputError where none is."""
    modality, fit, problems = dataset.signature.modality, [], []
    for name in sorted(models.FAMILIES, key=lambda name: (*models.FAMILIES[name].modalities, modality).index(modality)):
        try:
            _proven(replace(wish, family=name), dataset, file)
            fit.append(name)
        except InputError as error:  # it does not take such data, or has no answer of that kind, or the wish is wrong
            problems.append(error)
    if not fit:
        raise problems[0]
    return fit


def _spaces(family: str, rows: int) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """What to write under `search.space` and `model`: the family's own space, then shallower ones until one fits."""
    include = family if family in search_spaces.names() else "optimizer"
    parameters = search_spaces.load(include).parameters
    space = {"include": include}
    batches = parameters.get("batch_size")
    most = max(1, rows // 4)  # four steps an epoch at least
    if not isinstance(batches, Choice) or max(map(int, batches.values())) > most:
        largest = 2 ** min(int(math.log2(most)), 5)
        space["batch_size"] = f"{{type: choice, values: {sorted({max(1, largest // 2), largest})}}}"
    yield space, {}
    depth = parameters.get("depth")
    if isinstance(depth, Int):
        for high in range(depth.high - 1, depth.low, -1):  # an image may be too small to be halved so often
            yield {**space, "depth": f"{{type: int, low: {depth.low}, high: {high}}}"}, {}
        yield {**space, "depth": "null"}, {"depth": str(depth.low)}


def _proven(wish: StarterOptions, dataset: Dataset, file: Path) -> tuple[str, Plan]:
    """The text of the first study that can be planned. Raises InputError with what is wrong where none can."""
    told: SpecError | None = None
    for space, fixed in _spaces(str(wish.family), dataset.rows["train"]):
        text = _text(wish, dataset, space, fixed, file)
        try:
            spec = StudySpec.from_json(parse(text, str(file)).data, file.resolve().parent, text)
            return text, preflight.plan(spec, NetworkWorkload(spec, dataset))
        except SpecError as error:
            told = told or error
    assert told is not None
    raise InputError(_flagged(told))


# ------------------------------------------------------------------ the file


def _text(wish: StarterOptions, dataset: Dataset, space: dict[str, str], fixed: dict[str, str], file: Path) -> str:
    metric, goal, others = OBJECTIVES[dataset.signature.task]
    family = str(wish.family)
    own = ":" in family
    names = ", ".join(map(_scalar, wish.target))
    target = f"\n  target: {names if len(wish.target) == 1 else f'[{names}]'}" if names else ""
    searched = "\n".join(f"    {key}: {value}" for key, value in space.items())
    target += "".join(f"\n  {key}: {_flow(value)}" for key, value in wish.choices.items())
    roles = "".join(f"\n  #   {line}" for line in column_roles.lines(dataset.roles))
    roles = f"\n  # The columns, as they were read; types, drop and missing overrule it:{roles}" if roles else ""
    model = "".join(f"\n  {key}: {value}" for key, value in fixed.items())
    commands = {
        f"tuner check {file}": "every mistake with its line, or the plan",
        f"tuner launch {file}": "run it; interrupted, the same command goes on",
        f"tuner best {wish.name}": "the winner, with its score on the test split",
    }
    width = max(map(len, commands))
    help = "\n".join(f"#   {command:<{width}}  {told}" for command, told in commands.items())
    about = "its constructor's keywords are what it takes" if own else f"`tuner models {family}` lists what it takes"
    return f"""\
# {_subject(wish, dataset)}
#
{help}
#
# `tuner schema` prints every key there is, for an editor that completes and checks this file.
study: {_scalar(wish.name)}
seed: {SEED}  # of everything random: the split, the batches, the sampler, the weights
data:
  source: {_scalar(_relative(str(wish.data), file.parent))}{target}{roles}
  validation: 0.2  # share of the rows that trials are compared on
  test: 0.2  # held-out test share, scored once for the best trial
model:
  family: {_scalar(_relative(family, file.parent))}  # {about}; fix here what is not searched{model}
train:
  epochs: {EPOCHS}  # of a trial that is not stopped early
search:
  space:  # `tuner spaces` lists what can be included; a parameter written here replaces the included one
{searched}
  objective: {{metric: {metric}, goal: {goal}}}  # there are {others} too
  sampler: {{kind: tpe}}  # who chooses the next trial: `tuner samplers`
  pruner: {{kind: asha, min_epochs: 2, reduction: 3}}  # who stops trials early: `tuner pruners`; none stops no trial
  trials: {wish.trials}
run: {{workers: auto, device: auto}}  # every core; a GPU where there is one
tracking: {{mlflow: embedded}}  # or a server's address, or off
"""


def _subject(wish: StarterOptions, dataset: Dataset) -> str:
    """What was seen of the data, on one line of a comment."""
    signature, rows = dataset.signature, sum(dataset.rows.values())
    classes = dataset.classes or ()
    shown = ", ".join(classes[:10]) + (", …" if len(classes) > 10 else "")
    outputs = f" ({len(classes)} classes: {shown})" if classes else ""
    shape = "×".join(map(str, signature.inputs))
    goal = f", predicting {', '.join(wish.target)}" if wish.target else ""
    line = f"{wish.data}{goal}: {rows:,} rows, {signature.modality} of {shape}, {signature.task}{outputs}."
    if signature.modality == IMAGE and wish.data and wish.data.endswith(".npz"):
        line += " If they are sequences: data.modality sequence."
    return " ".join(line.split())


def _relative(source: str, folder: Path) -> str:
    """A path as seen from the study's folder; a name as it is."""
    path, colon, rest = source.partition(":")
    if source in BUILT_IN or not expanded(path).exists() or expanded(path).is_absolute():
        return source
    return os.path.relpath(path, folder) + colon + rest


def _flow(value: Any) -> str:
    """A list, a mapping or a text on one line of YAML."""
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_scalar(key)}: {_scalar(one)}' for key, one in value.items())}}}"
    return _scalar(value)


def _scalar(value: object) -> str:
    """Text as YAML reads it back, in quotes where it must."""
    text = str(value)
    return (
        text if _PLAIN.fullmatch(text) and parse_value(text, "").data == text else json.dumps(text, ensure_ascii=False)
    )
