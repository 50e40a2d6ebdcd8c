"""What pydantic finds wrong in a study file, told in our words: what was expected, what was got, what to do.

Knows the sections and how a person writes; never the file or its lines, nor what takes two sections to see.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from tuner.search_spaces.document import Keys, describe, shorten, suggest
from tuner.spec.rules import bounds, listed, remedy
from tuner.spec.search_section import PRUNERS, SAMPLERS, Objective, Patient, SearchSection, kinds
from tuner.spec.sections import DataSection, NetworkStudy, ProgramStudy, RunSection, StudyFile, TrackingSection
from tuner.spec.trial_section import TrialSection
from tuner.training.config import TrainConfig

_UNIONS: dict[Keys, dict[str, type[BaseModel]]] = {  # the innermost first
    ("search", "pruner", "pruner"): kinds(get_args(Patient.model_fields["pruner"].annotation)[0]),
    ("search", "sampler"): {**SAMPLERS},
    ("search", "pruner"): {**PRUNERS},
}
_SECTIONS: dict[Keys, type[BaseModel]] = {
    (): StudyFile,
    ("data",): DataSection,
    ("search",): SearchSection,
    ("search", "objective"): Objective,
    **{(*path, kind): section for path, kinds in _UNIONS.items() for kind, section in kinds.items()},
    ("trial",): TrialSection,
    ("run",): RunSection,
    ("tracking",): TrackingSection,
}
_HOMES: tuple[Keys, ...] = (*(home for home in _SECTIONS if home and home != ("trial",) and len(home) < 3), ("train",))
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
    ("search", "pruner", "patience"): "patience: 3",
    ("search", "pruner", "pruner"): "pruner: {kind: asha}",
    ("search", "trials"): "trials: 64",
    ("search", "start_with"): "start_with: [{learning_rate: 0.01}]",
    ("trial",): "trial: {function: train.py:train, epochs: 10}",
    ("trial", "command"): "command: [python, train.py]",
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
        (ProgramStudy if "trial" in data else NetworkStudy).model_validate(data)
    except ValidationError as error:
        seen: set[tuple[Keys, str]] = set()
        for details in error.errors(include_url=False):
            found = _told(details)
            if found not in seen:
                seen.add(found)
                yield found


def _told(details: ErrorDetails) -> tuple[Keys, str]:
    path, home = _placed(tuple(details["loc"]))
    kind, value = details["type"], details["input"]
    if kind == "told":
        return path, details["msg"]
    if kind == "missing":
        return path, f"expected a value, got nothing; add `{_WRITTEN.get(_plain(path), f'{path[-1]}: …')}`"
    if kind == "extra_forbidden":
        return path, _unknown(home, path)
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        return _unknown_kind(path, value)
    if path[:2] == ("search", "space"):  # a union of two types: pydantic tells of both
        return ("search", "space"), f"expected a space's name or a mapping, got {describe(value)}; write `space: mlp`"
    if kind == "literal_error":
        return path, _choice(home, value)
    if kind in _WANTED:
        expected, wanted = _WANTED[kind]
        hint = _mended(path, value) if wanted in (dict, list) or value is None else remedy(value, wanted)
        return path, f"expected {expected}, got {describe(value)}{hint}"
    if kind == "too_short":
        return path, f"expected at least one, got an empty list{_mended(path, value)}"
    bound = _bounds(home)
    return path, f"expected {bound or details['msg']}, got {describe(value)}"


def _placed(location: Keys) -> tuple[Keys, Keys]:
    """Where a mistake is in the file, and its key's place among `_SECTIONS`: with kinds, without positions in lists."""
    path: Keys = ()
    home: Keys = ()
    for part in location:
        if path in _UNIONS and home == path and part in _UNIONS[path]:
            home = (*path, part)
        elif path != ("search", "objective") or part not in ("one", "several"):  # pydantic's names for the two forms
            path = (*path, part)
            home = path if path in _UNIONS else home if isinstance(part, int) else (*home, part)
    return path, home


def _plain(path: Keys) -> Keys:
    return tuple(key for key in path if isinstance(key, str))


def _mended(path: Keys, value: object) -> str:
    path = _plain(path)
    if isinstance(value, str) and value in _UNIONS.get(path, ()):
        return f"; write `{path[-1]}: {{kind: {value}}}`"
    return f"; write `{_WRITTEN[path]}`" if path in _WRITTEN else remedy(value, None)


def _fields(home: Keys) -> list[str]:
    if home == ("train",):
        return [one.name for one in fields(TrainConfig)]
    section = _SECTIONS.get(home)
    return list(section.model_fields) if section is not None else []


def _unknown(home: Keys, path: Keys) -> str:
    known, key = _fields(home[:-1]), path[-1]
    union = _UNIONS.get(path[:-1], {})
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
        return (
            path,
            f"expected a mapping with a kind ({listed(kinds)}), got one without; add `kind: {next(iter(kinds))}`",
        )
    kind = value["kind"]
    return (*path, "kind"), f"expected {listed(kinds)}, got {describe(kind)}{suggest(kind, kinds)}"


def _choice(home: Keys, value: object) -> str:
    if home == ("version",):
        return f"expected 1, got {describe(value)}; this Tuner reads no other, a newer one may"
    section = _SECTIONS[home[:-1]]
    annotation = section.model_fields[str(home[-1])].annotation
    choices = [choice for choice in _literals(annotation) if choice is not None]
    hint = suggest(value, map(str, choices)) if isinstance(value, str) else remedy(value, None)
    if home == ("run", "device") and isinstance(value, str) and "gpu" in value.lower():
        hint = "; write cuda"
    return f"expected {listed(choices)}, got {describe(value)}{hint}"


def _literals(annotation: Any) -> Iterator[Any]:
    for one in getattr(annotation, "__args__", ()):
        if isinstance(one, (str, int)):
            yield one
        else:
            yield from _literals(one)


def _bounds(home: Keys) -> str:
    """`an integer from 1 to 64`, read from the field itself: both bounds are told, not only the broken one."""
    section = _SECTIONS.get(home[:-1])
    field = section.model_fields.get(str(home[-1])) if section is not None else None
    if field is None:
        return ""
    text = bounds(*(_limit(field, name) for name in ("ge", "le", "gt", "lt")))
    return f"{'an integer' if field.annotation is int else 'a number'}{text}" if text else ""


def _limit(field: FieldInfo, name: str) -> Any:
    return next((getattr(one, name) for one in field.metadata if hasattr(one, name)), None)
