"""The schema for editors, and files after any accident."""
# ruff: noqa: E501 - a message stands on one line of these tables, as a person reads it

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.spec.test_spec import BAD, EXAMPLES, STUDY, written
from tuner.errors import SpecError
from tuner.search_spaces.document import parse
from tuner.spec import StudySpec
from tuner.spec.json_schema import schema

# --- the schema for editors ---


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_schema_accepts_every_example(path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    checker = jsonschema.Draft202012Validator(schema())
    checker.check_schema(checker.schema)
    assert [error.message for error in checker.iter_errors(parse(path.read_text(), path.name).data)] == []


@pytest.mark.parametrize(
    "case",
    ["unknown key", "version 99", "a number in quotes", "yes for a number", "a section without content", "unknown sampler",
     "trials 0", "minimise", "no goal", "a name with ../", "unknown family", "unknown cell", "unknown optimizer, fixed",
     "a key of train under model", "no validation rows", "everything wrong under run", "a metric that is never reported"],
)  # fmt: skip
def test_the_schema_refuses_what_one_key_shows_to_be_wrong(case: str, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    data = parse(written(tmp_path, *BAD[case][0]).read_text(), "study").data
    assert not jsonschema.Draft202012Validator(schema()).is_valid(data)


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("run", {"workers": 0}),
        ("run", {"cohort": 5_000}),
        ("search", {"sampler": {"startup": 3}}),
        ("search", {"pruner": {}}),
        ("search", {"space": {}}),
        ("search", {"space": ""}),
    ],
)
def test_the_schema_refuses_what_the_checks_refuse(section: str, value: dict[str, Any], tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    whole = parse(STUDY, "study").data
    checker = jsonschema.Draft202012Validator(schema())
    assert checker.is_valid(whole)
    whole[section] = {**whole.get(section, {}), **value}
    assert not checker.is_valid(whole)
    with pytest.raises(SpecError):
        StudySpec(**whole)


def test_the_schema_offers_what_there_is_by_name() -> None:
    made = schema()
    assert "syllables" in made["$defs"]["DataSection"]["properties"]["source"]["anyOf"][0]["enum"]
    space = made["$defs"]["SearchSection"]["properties"]["space"]
    assert {"mlp", "transformer"} <= set(space["anyOf"][0]["enum"])
    helps = space["anyOf"][-1]["properties"]["width"]["description"]
    assert "units per hidden layer" in helps and "channels" in helps


# --- anything at all ---

GOOD = [STUDY, *(path.read_text() for path in EXAMPLES)]
PIECES = [
    "\t",
    "\n",
    "  ",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "&a ",
    "*a",
    "!!t ",
    '"',
    "'",
    "#",
    "0",
    "1e9",
    "\0",
    "é",
    "\\",
    "null",
    "~",
    "|\n",
]


@st.composite
def edited_files(draw: st.DrawFn) -> bytes:
    """A good study file after some accidents."""
    text = bytearray(draw(st.sampled_from(GOOD)).encode())
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(text)))
        piece = draw(st.sampled_from(PIECES).map(str.encode) | st.binary(max_size=3))
        text[start : start + draw(st.integers(0, 12))] = piece
    return bytes(text)


ODD_VALUES = st.sampled_from(
    [None, True, False, 0, -1, 3, 1e9, 10**30, 0.5, float("nan"), float("inf"), "", "x", "10", "yes", "../x", "a" * 5000, "\0",
     "\ud800", "mlp", "net.py:X", "os:path", ":", "torch.nn:Linear", [], [1], [[]], [None, "a"], {}, {"a": 1}, {"kind": "tpe"},
     {"kind": 3}, {"type": "int"}, {"type": "int", "low": 0, "high": 2**60}, {"type": "choice", "values": [True, 1, "1"]},
     {"include": "cnn"}, {"include": ["cnn", 3]}, {"": 1}, {1: 2}, (1, 2), b"x", {"type": "float", "low": 1, "high": 1e308, "log": True}]
)  # fmt: skip


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    if isinstance(data, dict | list):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from places(value, (*path, key))


@st.composite
def odd_studies(draw: st.DrawFn) -> dict[str, Any]:
    """A good study with some values exchanged for others of any type."""
    data = parse(draw(st.sampled_from(GOOD)), "good").data
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from(list(places(data))))
        inner = data
        for key in parents:
            inner = inner[key]
        inner[last] = copy.deepcopy(draw(ODD_VALUES))
    return data


def check_told(error: SpecError) -> None:
    assert error.problems
    assert all("expected" in problem and problem.isprintable() for problem in error.problems)


@settings(max_examples=150, deadline=None)
@given(edited_files())
def test_any_accident_to_a_file_gives_a_study_or_problems(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "study.yaml")
        path.write_bytes(content)
        try:
            spec = StudySpec.read(path)
        except SpecError as error:
            check_told(error)
        else:
            assert StudySpec.from_json(spec.canonical(), spec.folder).digest == spec.digest


@settings(max_examples=250, deadline=None)
@given(odd_studies())
def test_any_value_anywhere_gives_a_study_or_problems(data: dict[str, Any]) -> None:
    try:
        spec = StudySpec(**data)
    except SpecError as error:
        check_told(error)
    else:
        assert StudySpec.from_json(json.loads(json.dumps(spec.canonical())), spec.folder).digest == spec.digest


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([".".join(map(str, place)) for place in places(parse(STUDY, "study").data)]), st.text(max_size=10)
)
def test_any_override_gives_a_study_or_problems(place: str, value: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "study.yaml")
        path.write_text(STUDY)
        try:
            StudySpec.read(path, overrides=[f"{place}={value}"])
        except SpecError as error:
            check_told(error)


@pytest.mark.parametrize(
    ("train", "space", "told"),
    [
        ("optimizer: adam, momentum: 0.5", "", "train.momentum: momentum does nothing with optimizer adam; it is for"),
        ("optimizer: adam", "decay_factor: {type: float, low: 0.1, high: 0.5}", "decay_factor does nothing with"),
        ("epochs: 3, warmup: 50", "", "train.warmup: the warm-up of 50 epochs never ends: trials end at epoch 3"),
        ("momentum: 0.5", "optimizer: {type: choice, values: [adam, rmsprop]}", None),
        ("schedule: step, decay_factor: 0.5", "", None),
    ],
)
def test_a_setting_that_nothing_reads_is_a_warning(train: str, space: str, told: str | None, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(
        "study: s\ndata: {source: digits}\nmodel: {family: mlp}\n"
        f"train: {{{train}}}\n"
        "search:\n  space:\n    learning_rate: {type: float, low: 0.1, high: 0.2}\n"
        f"    {space}\n  objective: {{metric: val/accuracy, goal: maximize}}\n  trials: 2\n"
    )
    warnings = StudySpec.read(tmp_path / "study.yaml").warnings
    assert [told in line for line in warnings] == [True] if told else warnings == ()
