"""The study file as a JSON Schema, for editors: the same sections and rules that the checks use.

Knows which keys exist and what each may hold by itself. What takes two keys to see (a fixed value that
is searched too, a metric of the wrong task) no schema says; `tuner check` does.
"""

from __future__ import annotations

from inspect import Parameter as Argument
from typing import Any

from pydantic import TypeAdapter

from tuner import models, search_spaces
from tuner.data.built_in import BUILT_IN
from tuner.models.interface import Hyperparameter, hyperparameters
from tuner.search_spaces import Parameter
from tuner.spec.checks import PARAMETERS, TRAINING, metrics_of
from tuner.spec.sections import MOST_COHORT, MOST_WORKERS, StudyFile

_JSON: dict[type, str] = {int: "integer", float: "number", bool: "boolean", str: "string"}
_BOUNDS = {"low": "minimum", "high": "maximum", "above": "exclusiveMinimum", "below": "exclusiveMaximum"}


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a study file."""
    whole = StudyFile.model_json_schema()
    parameter = TypeAdapter(Parameter).json_schema(ref_template="#/$defs/{model}")
    sections: dict[str, Any] = {**whole.pop("$defs"), **parameter.pop("$defs")}
    for kind in ("Float", "Int", "Choice"):
        sections[kind]["properties"]["when"] = {
            "description": "the parameter exists only where another one has one of these values",
            "type": "object",
            "additionalProperties": {"anyOf": [_SCALAR, {"type": "array", "items": _SCALAR, "minItems": 1}]},
        }
        sections[kind]["required"] = sorted({*sections[kind].get("required", ()), "type"})
    sections["Parameter"] = parameter
    search = sections["SearchSection"]["properties"]
    search["space"] = _space()
    for kind in ("sampler", "pruner"):
        for reference in search[kind]["oneOf"]:
            alternative = sections[reference["$ref"].rpartition("/")[2]]
            alternative["required"] = sorted({*alternative.get("required", ()), "kind"})
    for name in ("workers", "cohort"):
        (number,) = (one for one in sections["RunSection"]["properties"][name]["anyOf"] if one["type"] == "integer")
        number |= {"minimum": 1, "maximum": MOST_WORKERS if name == "workers" else MOST_COHORT}
    source = sections["DataSection"]["properties"]["source"]
    source["anyOf"] = [{"enum": list(BUILT_IN)}, {"type": source.pop("type"), "minLength": source.pop("minLength")}]
    search["start_with"]["items"]["additionalProperties"] = _SCALAR
    whole["properties"]["model"] = {
        "description": "the network's family, and its hyperparameters that are not searched",
        "type": "object",
        "required": ["family"],
        "properties": {"family": {"anyOf": [{"enum": list(models.FAMILIES)}, {"type": "string", "pattern": ":"}]}},
        "allOf": [
            {
                "if": {"properties": {"family": {"const": family}}, "required": ["family"]},
                "then": {"properties": {"family": {}, **_values(network)}, "additionalProperties": False},
            }
            for family, network in models.FAMILIES.items()
        ],
    }
    metric = sections["Objective"]["properties"]["metric"]
    metric["anyOf"] = [{"enum": [*metrics_of(None), PARAMETERS]}, {"type": metric.pop("type")}]
    whole["properties"]["data"] = {"$ref": "#/$defs/DataSection"}
    whole["properties"]["trial"] = {"$ref": "#/$defs/TrialSection"}
    whole["required"] = ["study", "search"]
    whole["if"] = {"required": ["trial"]}
    whole["then"] = {"not": {"anyOf": [{"required": [name]} for name in ("data", "model", "train")]}}
    whole["else"] = {"required": ["data", "model"], "properties": {"search": {"properties": _objective()}}}
    whole["properties"]["train"] = {
        "description": "how it is trained: what is not searched",
        "type": "object",
        "properties": {name: _value(one) for name, one in TRAINING.items()},
        "additionalProperties": False,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **whole,
        "$defs": sections,
        "title": "Tuner study",
    }


def _objective() -> dict[str, Any]:
    """The metrics that networks report; a person's own training reports under any name."""
    one = {"type": "object", "properties": {"metric": {"enum": [*metrics_of(None), PARAMETERS]}}}
    return {"objective": {"anyOf": [one, {"type": "array", "items": one}]}}


def _space() -> dict[str, Any]:
    """What `search.space` may be: a name, a path, or parameters by name."""
    helps: dict[str, dict[str, list[str]]] = {}  # hyperparameter → what it is → in which families
    for family, network in models.FAMILIES.items():
        for name, one in hyperparameters(network).items():
            helps.setdefault(name, {}).setdefault(one.rule.help, []).append(family)
    told = {name: one.rule.help for name, one in TRAINING.items()}
    for name, each in helps.items():
        told[name] = "; ".join(text if len(each) == 1 else f"{', '.join(of)}: {text}" for text, of in each.items())
    searched = {"anyOf": [{"$ref": "#/$defs/Parameter"}, {"type": "null"}]}
    named: dict[str, Any] = {"anyOf": [{"enum": list(search_spaces.names())}, {"type": "string", "minLength": 1}]}
    return {
        "description": "a space of ours, the path of a space's file, or parameters by name; include: takes over others",
        "anyOf": [
            *named["anyOf"],
            {
                "type": "object",
                "minProperties": 1,
                "properties": {
                    "include": {"anyOf": [*named["anyOf"], {"type": "array", "items": named}]},
                    **{name: {**searched, "description": text} for name, text in told.items()},
                },
                "additionalProperties": searched,
            },
        ],
    }


_SCALAR: dict[str, Any] = {"type": ["boolean", "number", "string"]}


def _values(network: type) -> dict[str, Any]:
    return {name: _value(one) for name, one in hyperparameters(network).items()}


def _help(one: Hyperparameter) -> dict[str, str]:
    return {"description": one.rule.help} if one.rule.help else {}


def _value(one: Hyperparameter) -> dict[str, Any]:
    """One hyperparameter's own rule."""
    told: dict[str, Any] = {"type": [_JSON[one.type], "null"] if one.optional else _JSON[one.type], **_help(one)}
    if one.rule.choices is not None:
        told["enum"] = [*one.rule.choices, None] if one.optional else list(one.rule.choices)
    for ours, theirs in _BOUNDS.items():
        if (bound := getattr(one.rule, ours)) is not None:
            told[theirs] = bound
    if one.default is not Argument.empty and one.default is not None:
        told["default"] = one.default
    return told
