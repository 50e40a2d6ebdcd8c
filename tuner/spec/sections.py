"""The study file section by section: which keys there are, what each may hold, how a mistake is told.

Knows pydantic and each key by itself. What needs two sections, a search space, a network or the data
is checked in `tuner.spec` and `tuner.plan`; files and their lines are not known here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, WrapValidator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from models.interface import MODALITIES, TASKS
from search_spaces.document import Keys, describe, shorten, suggest
from tuner.spec.rules import bounds, listed, remedy
from tuner.training.config import TrainConfig

MOST_TRIALS = 1_000_000
MOST_WORKERS = 1_024
STUDY_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def _only(expected: str, fits: Callable[[Any], bool], hint: Callable[[Any], str] = lambda _: "") -> WrapValidator:
    """A rule told in words: `expected`, whether a value fits, and what to do where it does not."""

    def check(value: Any, handler: Callable[[Any], Any], _info: ValidationInfo) -> Any:
        try:
            right = not isinstance(value, bool) and fits(value)
        except TypeError:
            right = False
        if right:
            return handler(value)
        message = f"expected {expected}, got {describe(value)}{hint(value)}"
        raise PydanticCustomError("told", "{message}", {"message": message})

    return WrapValidator(check)


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and low <= value <= high


def _study_hint(value: Any) -> str:
    if not isinstance(value, str):
        return remedy(value, str)
    mended = re.sub(r"[^a-z0-9._-]+", "-", value.lower()).strip("-._")[:64]
    return f"; write {mended}" if STUDY_NAME.fullmatch(mended) else "; write a name such as my-study"


def _is_store(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    if value in ("embedded", "off"):
        return True
    try:
        parts = urlsplit(value)
        secret = "@" in parts.netloc
    except ValueError:
        return False
    if parts.scheme == "sqlite":
        return value.startswith("sqlite:///") and len(value) > len("sqlite:///")
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not secret


def _check_store(value: Any, handler: Callable[[Any], Any]) -> Any:
    if _is_store(value):
        return handler(value)
    got, hint = describe(value), ""
    if isinstance(value, str):
        hint = suggest(value, ("embedded", "off"))
        if "@" in value:  # never show what may be a password
            got = "an address with a user or password in it"
            hint = "; remove it, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment"
    elif value is False:
        hint = "; write off"
    elif value is True:
        hint = "; write embedded"
    message = f"expected embedded, off, an http(s):// address or sqlite:///path, got {got}{hint}"
    raise PydanticCustomError("told", "{message}", {"message": message})


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DataSection(_Section):
    """Which data, and how they are split. `source` is a name or a path relative to the study file."""

    source: Annotated[str, Field(min_length=1)]
    target: Annotated[
        str | list[str] | None,
        _only(
            "a column's name or a list of names",
            lambda v: v is None or (v and (isinstance(v, str) or all(isinstance(name, str) and name for name in v))),
            lambda v: remedy(v, str) if not isinstance(v, list) else "; quote each name",
        ),
    ] = None
    modality: Literal[MODALITIES] | None = None  # type: ignore[valid-type] # a tuple of names, spelt once
    task: Literal[TASKS] | None = None  # type: ignore[valid-type]
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.2
    test: Annotated[float, Field(ge=0, lt=1)] = 0.2


class Objective(_Section):
    """What the search makes as large or as small as it can."""

    metric: str
    goal: Literal["maximize", "minimize"]


class Tpe(_Section):
    """Tree-structured Parzen estimator; the first `startup` trials are random. Bergstra et al. 2011."""

    kind: Literal["tpe"] = "tpe"
    startup: Annotated[int, Field(ge=1, le=MOST_TRIALS)] = 10


class Random(_Section):
    """Every trial by itself."""

    kind: Literal["random"]


class Grid(_Section):
    """Every point of a finite space, in an order shuffled by the seed."""

    kind: Literal["grid"]


class NoPruner(_Section):
    """Every trial is trained to its end."""

    kind: Literal["none"] = "none"


class Median(_Section):
    """Stops a trial that is below the median of the earlier ones at the same epoch."""

    kind: Literal["median"]
    min_epochs: Annotated[int, Field(ge=1, le=100_000)] = 1
    startup: Annotated[int, Field(ge=1, le=MOST_TRIALS)] = 5


class Asha(_Section):
    """Asynchronous successive halving: 1 in `reduction` goes on at each rung. Li et al. 2018."""

    kind: Literal["asha"]
    min_epochs: Annotated[int, Field(ge=1, le=100_000)] = 1
    reduction: Annotated[int, Field(ge=2, le=100_000)] = 3


class SearchSection(_Section):
    """What is searched, for what, how, and how often."""

    space: str | dict[str, Any]
    objective: Objective
    sampler: Annotated[Tpe | Random | Grid, Field(discriminator="kind")] = Tpe()
    pruner: Annotated[NoPruner | Median | Asha, Field(discriminator="kind")] = NoPruner()
    trials: Annotated[int, Field(ge=1, le=MOST_TRIALS)]
    start_with: list[dict[str, Any]] = []


class RunSection(_Section):
    """On what the study runs. `cohort` is the largest number of trials trained as one; 1 is every trial alone."""

    executor: Literal["local"] = "local"
    workers: Annotated[
        Literal["auto"] | int,
        _only(f"auto or an integer from 1 to {MOST_WORKERS}", lambda v: v == "auto" or _is_whole(v, 1, MOST_WORKERS)),
    ] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    cohort: Annotated[
        Literal["auto"] | int,
        _only("auto or an integer from 1 to 4096", lambda v: v == "auto" or _is_whole(v, 1, 4096)),
    ] = "auto"
    threads: Annotated[int, Field(ge=1, le=1_024)] = 1
    share: Annotated[float, Field(gt=0, le=1)] = 1.0


class TrackingSection(_Section):
    """Where MLflow is: embedded in TUNER_HOME, a server's address, or off."""

    mlflow: Annotated[str, WrapValidator(_check_store)] = "embedded"


class StudyFile(_Section):
    """A whole study file, each key checked by itself."""

    version: Literal[1] = 1
    study: Annotated[
        str,
        Field(pattern=f"^{STUDY_NAME.pattern}$"),
        _only(
            "a name of 1 to 64 small letters, digits, dots, dashes and underscores that begins with a letter or digit",
            lambda v: isinstance(v, str) and STUDY_NAME.fullmatch(v) is not None,
            _study_hint,
        ),
    ]
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    data: DataSection
    model: dict[str, Any]
    train: dict[str, Any] = {}
    search: SearchSection
    run: RunSection = RunSection()
    tracking: TrackingSection = TrackingSection()


_SECTIONS: dict[Keys, type[BaseModel]] = {
    (): StudyFile,
    ("data",): DataSection,
    ("search",): SearchSection,
    ("search", "objective"): Objective,
    ("search", "sampler", "tpe"): Tpe,
    ("search", "sampler", "random"): Random,
    ("search", "sampler", "grid"): Grid,
    ("search", "pruner", "none"): NoPruner,
    ("search", "pruner", "median"): Median,
    ("search", "pruner", "asha"): Asha,
    ("run",): RunSection,
    ("tracking",): TrackingSection,
}
_UNIONS: dict[Keys, tuple[str, ...]] = {
    ("search", "sampler"): ("tpe", "random", "grid"),
    ("search", "pruner"): ("none", "median", "asha"),
}
_HOMES: tuple[Keys, ...] = (*(home for home in _SECTIONS if home and len(home) < 3), ("train",))
_WRITTEN: dict[Keys, str] = {  # how each is written, for whoever left it out or wrote something else
    ("study",): "study: my-study",
    ("data",): "data: {source: digits}",
    ("data", "source"): "source: digits",
    ("model",): "model: {family: mlp}",
    ("train",): "train: {epochs: 20}",
    ("search",): "search: {space: mlp, objective: {metric: val/accuracy, goal: maximize}, trials: 64}",
    ("search", "space"): "space: mlp",
    ("search", "objective"): "objective: {metric: val/accuracy, goal: maximize}",
    ("search", "objective", "metric"): "metric: val/accuracy",
    ("search", "objective", "goal"): "goal: maximize",
    ("search", "sampler"): "sampler: {kind: tpe}",
    ("search", "pruner"): "pruner: {kind: asha}",
    ("search", "trials"): "trials: 64",
    ("search", "start_with"): "start_with: [{learning_rate: 0.01}]",
    ("run",): "run: {workers: auto}",
    ("tracking",): "tracking: {mlflow: embedded}",
}
_WANTED: dict[str, tuple[str, type | None]] = {  # pydantic's error types
    "int_type": ("an integer", int),
    "float_type": ("a number", float),
    "finite_number": ("a finite number", float),
    "string_type": ("text", str),
    "string_too_short": ("text", str),
    "bool_type": ("true or false", bool),
    "dict_type": ("a mapping", dict),
    "model_type": ("a mapping", dict),
    "model_attributes_type": ("a mapping", dict),
    "list_type": ("a list", list),
}


def mistakes(data: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
    """(path, message) for every key that is wrong by itself."""
    try:
        StudyFile.model_validate(data)
    except ValidationError as error:
        seen: set[tuple[Keys, str]] = set()
        for details in error.errors(include_url=False):
            found = _told(details)
            if found not in seen:
                seen.add(found)
                yield found


def _told(details: ErrorDetails) -> tuple[Keys, str]:
    location = tuple(details["loc"])
    path = location
    for union, kinds in _UNIONS.items():
        if path[:2] == union and len(path) > 2 and path[2] in kinds:
            path = (*union, *path[3:])
    kind, value = details["type"], details["input"]
    if kind == "told":
        return path, details["msg"]
    if kind == "missing":
        return path, f"expected a value, got nothing; add `{_WRITTEN.get(path, f'{path[-1]}: …')}`"
    if kind == "extra_forbidden":
        return path, _unknown(location, path)
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        return _unknown_kind(path, value)
    if path[:2] == ("search", "space"):  # a union of two types: pydantic tells of both
        return ("search", "space"), f"expected a space's name or a mapping, got {describe(value)}; write `space: mlp`"
    if kind == "literal_error":
        return path, _choice(path, value)
    if kind in _WANTED:
        expected, wanted = _WANTED[kind]
        hint = _mended(path, value) if wanted in (dict, list) or value is None else remedy(value, wanted)
        return path, f"expected {expected}, got {describe(value)}{hint}"
    bound = _bounds(location)
    return path, f"expected {bound or details['msg']}, got {describe(value)}"


def _mended(path: Keys, value: object) -> str:
    if isinstance(value, str) and value in _UNIONS.get(path, ()):
        return f"; write `{path[-1]}: {{kind: {value}}}`"
    return f"; write `{_WRITTEN[path]}`" if path in _WRITTEN else remedy(value, None)


def _fields(location: Keys) -> list[str]:
    if location == ("train",):
        return [one.name for one in fields(TrainConfig)]
    section = _SECTIONS.get(location)
    return list(section.model_fields) if section is not None else []


def _unknown(location: Keys, path: Keys) -> str:
    known, key = _fields(location[:-1]), path[-1]
    union = _UNIONS.get(path[:-1], ())
    if union:
        kinds = [kind for kind in union if key in _fields((*path[:-1], kind))]
        hint = f"; '{key}' belongs to kind {listed(kinds)}" if kinds else suggest(key, known)
    else:
        homes = [".".join(map(str, home)) for home in _HOMES if key in _fields(home)]
        hint = f"; '{key}' belongs under {listed(homes)}" if homes else suggest(key, known)
    return f"expected one of {', '.join(known)}, got the unknown key '{shorten(str(key))}'{hint}"


def _unknown_kind(path: Keys, value: object) -> tuple[Keys, str]:
    kinds = _UNIONS[path]
    if not isinstance(value, dict):
        return path, f"expected a mapping, got {describe(value)}{_mended(path, value)}"
    if "kind" not in value:
        return path, f"expected a mapping with a kind ({listed(kinds)}), got one without; add `kind: {kinds[0]}`"
    kind = value["kind"]
    return (*path, "kind"), f"expected {listed(kinds)}, got {describe(kind)}{suggest(kind, kinds)}"


def _choice(path: Keys, value: object) -> str:
    if path == ("version",):
        return f"expected 1, got {describe(value)}; this Tuner reads no other, a newer one may"
    section = _SECTIONS[path[:-1]]
    annotation = section.model_fields[str(path[-1])].annotation
    choices = [choice for choice in _literals(annotation) if choice is not None]
    hint = suggest(value, map(str, choices)) if isinstance(value, str) else remedy(value, None)
    if path == ("run", "device") and isinstance(value, str) and "gpu" in value.lower():
        hint = "; write cuda"
    return f"expected {listed(choices)}, got {describe(value)}{hint}"


def _literals(annotation: Any) -> Iterator[Any]:
    for one in getattr(annotation, "__args__", ()):
        if isinstance(one, (str, int)):
            yield one
        else:
            yield from _literals(one)


def _bounds(location: Keys) -> str:
    """`an integer from 1 to 64`, read from the field itself: both bounds are told, not only the broken one."""
    section = _SECTIONS.get(location[:-1])
    field = section.model_fields.get(str(location[-1])) if section is not None else None
    if field is None:
        return ""
    text = bounds(*(_limit(field, name) for name in ("ge", "le", "gt", "lt")))
    return f"{'an integer' if field.annotation is int else 'a number'}{text}" if text else ""


def _limit(field: FieldInfo, name: str) -> Any:
    return next((getattr(one, name) for one in field.metadata if hasattr(one, name)), None)
