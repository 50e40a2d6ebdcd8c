"""Search spaces: parameters, conditions, grids, and spaces put together from pieces."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner import search_spaces
from tuner.models import FAMILIES, hyperparameters
from tuner.search_spaces import Choice, Float, Int, SearchSpace, SpaceError, build, load, names, resolve
from tuner.search_spaces.document import DocumentError
from tuner.search_spaces.parameters import parse
from tuner.training.config import TrainConfig

CONDITIONAL: dict[str, Any] = {
    "momentum": {"type": "choice", "values": [0.0, 0.5, 0.9], "when": {"optimizer": ["sgd", "rmsprop"]}},
    "nesterov": {"type": "choice", "values": [True, False], "when": {"momentum": [0.5, 0.9], "optimizer": "sgd"}},
    "optimizer": {"type": "choice", "values": ["adam", "sgd", "adamw", "rmsprop"]},
    "depth": {"type": "int", "low": 1, "high": 3},
}


# ------------------------------------------------------------------ parameters


@pytest.mark.parametrize(
    ("definition", "path", "fragment"),
    [
        ({"type": "float", "low": 2, "high": 1}, ("low",), "low 2 above high 1"),
        ({"type": "float", "low": 0, "high": 1, "log": True}, ("low",), "above 0 under log"),
        ({"type": "int", "low": -1, "high": 8, "log": True}, ("low",), "above 0 under log"),
        ({"type": "float", "low": 1, "high": 2, "log": True, "step": 1}, ("step",), "either log or step"),
        ({"type": "float", "low": 0, "high": 1, "step": 0}, ("step",), "above 0"),
        ({"type": "int", "low": 0, "high": 9, "step": -3}, ("step",), "above 0"),
        ({"type": "int", "low": 0, "high": 3, "step": 5}, ("step",), "at most high − low = 3"),
        ({"type": "float", "low": 0, "high": 1, "step": 0.3}, ("step",), "with high: 0.9 it does"),
        ({"type": "int", "low": 0, "high": 10, "step": 4}, ("step",), "with high: 8 it does"),
        ({"type": "float", "low": float("nan"), "high": 1}, ("low",), "finite number, got NaN"),
        ({"type": "float", "low": 0, "high": float("inf")}, ("high",), "finite number, got infinity"),
        ({"type": "float", "low": -1.7e308, "high": 1.7e308}, ("high",), "infinite"),
        ({"type": "int", "low": 1.5, "high": 3}, ("low",), "an integer, got the number 1.5"),
        ({"type": "int", "low": 0, "high": 2**60}, ("high",), "an integer of at most"),
        ({"type": "float", "low": "1e-4", "high": 1}, ("low",), "write 0.0001 without quotes"),
        ({"type": "float", "low": True, "high": 2}, ("low",), "a number, got true"),
        ({"type": "float", "low": None, "high": 2}, ("low",), "a number, got null"),
        ({"type": "float", "low": 0, "high": 1, "log": "yes"}, ("log",), "true or false, got the text 'yes'"),
        ({"type": "float", "high": 1}, ("low",), "got none; add it"),
        ({"type": "float", "low": 0, "high": 1, "stp": 1}, ("stp",), "did you mean 'step'?"),
        ({"type": "flaot", "low": 0, "high": 1}, ("type",), "did you mean 'float'?"),
        ({"low": 0, "high": 1}, ("type",), "float, int or choice, got none"),
        ({"type": "choice", "values": []}, ("values",), "empty list"),
        ({"type": "choice", "values": "relu"}, ("values",), "a list of values, got the text 'relu'"),
        ({"type": "choice", "values": [1, {"a": 2}]}, ("values", 1), "got a mapping"),
        ({"type": "choice", "values": [1, None]}, ("values", 1), "got null"),
        ({"type": "choice", "values": [0.5, float("inf")]}, ("values", 1), "infinity"),
        ({"type": "choice", "values": ["a", "b", "a"]}, ("values", 2), "each value once"),
        ({"type": "choice", "values": [1, True]}, ("values", 1), "got true after the integer 1"),
        ({"type": "choice", "values": ["a"], "when": {}}, ("when",), "got an empty mapping"),
        ({"type": "choice", "values": ["a"], "when": {"b": []}}, ("when", "b"), "empty list"),
        ({"type": "choice", "values": ["a"], "when": {"b": [None]}}, ("when", "b", 0), "got null"),
        ([0, 1], (), "a mapping with type, got a list"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused_where_it_is_wrong(
    definition: Any, path: tuple[str | int, ...], fragment: str
) -> None:
    with pytest.raises(SpaceError) as caught:
        parse(definition)
    assert [at for at, _ in caught.value.problems] == [path]
    assert fragment in caught.value.problems[0][1]


def test_every_mistake_of_a_space_is_told_at_once() -> None:
    with pytest.raises(SpaceError) as caught:
        SearchSpace.from_dict(
            {
                "a": {"type": "float", "low": 2, "high": 1, "log": 3},
                "b": {"type": "int", "low": 0, "high": 1, "when": {"c": 1, "nowhere": 2}},
                "c": {"type": "choice"},
                "d e": {"type": "int", "low": 0, "high": 1},
            }
        )
    assert [path for path, _ in caught.value.problems] == [
        ("a", "log"),
        ("c", "values"),
        ("d e",),
        ("b", "when", "nowhere"),
    ]


@given(low=st.integers(-50, 50), steps=st.integers(1, 40), digits=st.integers(0, 4), tick=st.integers(1, 500))
def test_a_stepped_float_takes_the_numbers_a_person_would_write(low: int, steps: int, digits: int, tick: int) -> None:
    unit = 10**digits
    parameter = Float(low=low / unit, high=(low + steps * tick) / unit, step=tick / unit)
    assert parameter.values() == [(low + i * tick) / unit for i in range(steps + 1)]
    assert all(parameter.contains(value) for value in parameter.values())
    assert not parameter.contains(parameter.low + 0.5 * tick / unit)
    drifted = [parameter.low + i * (tick / unit) for i in range(steps + 1)]
    assert [parameter.fit(value) for value in drifted] == parameter.values()


@pytest.mark.parametrize(
    ("parameter", "inside", "outside"),
    [
        (Int(low=2, high=8, step=3), [2, 5, 8], [3, 9, 2.0, True, "5", None]),
        (Float(low=0, high=1), [0, 0.5, 1], [-0.1, 1.1, True, "0.5", float("nan")]),
        (Choice(values=[1, 0.5]), [1, 1.0, 0.5], [True, "1", 2]),
        (Choice(values=[True, "a"]), [True, "a"], [1, 1.0, False, "b"]),
    ],
)
def test_a_parameter_contains_its_values_and_nothing_that_only_looks_like_them(
    parameter: Any, inside: list[Any], outside: list[Any]
) -> None:
    assert all(parameter.contains(value) for value in inside)
    assert not any(parameter.contains(value) for value in outside)


def test_corners_are_the_extremes_and_a_continuum_has_no_list() -> None:
    widths = Choice(values=[64, 16, 32])
    assert (widths.low_value, widths.high_value) == (16, 64)
    words = Choice(values=["relu", "gelu", "tanh"])
    assert (words.low_value, words.high_value) == ("relu", "tanh")
    assert (Int(low=1, high=5).low_value, Float(low=0, high=0.5).high_value) == (1, 0.5)
    with pytest.raises(ValueError, match="no list of values"):
        Float(low=0, high=1).values()


def test_a_constant_is_legal_and_warned_of() -> None:
    space = SearchSpace.from_dict(
        {"a": {"type": "float", "low": 1, "high": 1}, "b": {"type": "int", "low": 1, "high": 2}}
    )
    assert [warning.partition(":")[0] for warning in space.warnings] == ["a"]
    assert list(space.grid()) == [{"a": 1.0, "b": 1}, {"a": 1.0, "b": 2}]


# ------------------------------------------------------------------ conditions


def test_parents_come_before_children_and_the_rest_stays_in_order() -> None:
    assert list(SearchSpace.from_dict(CONDITIONAL).parameters) == ["optimizer", "momentum", "nesterov", "depth"]


def test_a_child_of_an_inactive_parent_is_inactive() -> None:
    space = SearchSpace.from_dict(CONDITIONAL)
    assert space.active("nesterov", {"optimizer": "sgd", "momentum": 0.9})
    assert not space.active("nesterov", {"optimizer": "rmsprop", "momentum": 0.9})
    assert not space.active("nesterov", {"optimizer": "sgd", "momentum": 0.0})
    assert not space.active("nesterov", {"optimizer": "sgd"})
    nested = SearchSpace.from_dict(
        {
            "a": {"type": "choice", "values": [1, 2]},
            "b": {"type": "choice", "values": [1, 2], "when": {"a": 1}},
            "c": {"type": "choice", "values": [1, 2], "when": {"b": 1}},
        }
    )
    assert not nested.active("c", {"a": 2, "b": 1})


@pytest.mark.parametrize(
    ("values", "fragments"),
    [
        ({}, []),
        ({"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "depth": 2}, []),
        ({"depth": 4}, ["depth: expected an integer from 1 to 3, got the integer 4"]),
        ({"depht": 1}, ["did you mean 'depth'?"]),
        ({"momentum": 0.5}, ["got no optimizer; write it too"]),
        ({"optimizer": "adam", "momentum": 0.5}, ["momentum exists only when optimizer is sgd or rmsprop"]),
        ({"optimizer": "adagrad", "depth": "2"}, ["sgd, adamw or rmsprop, got the text 'adagrad'", "got the text '2'"]),
    ],
)
def test_an_assignment_that_does_not_fit_is_told_with_the_reason(values: dict[str, Any], fragments: list[str]) -> None:
    told = SearchSpace.from_dict(CONDITIONAL).validate(values)
    assert len(told) == len(fragments)
    assert all(fragment in text for fragment, text in zip(fragments, told, strict=True))


@pytest.mark.parametrize(
    ("mapping", "path", "fragment"),
    [
        ({}, (), "at least one parameter"),
        (["a"], (), "a mapping of parameters, got a list"),
        ({"a": {"type": "int", "low": 1, "high": 2, "when": {"b": 1}}}, ("a", "when", "b"), "got 'b'"),
        ({"a": {"type": "int", "low": 1, "high": 2, "when": {"a": 1}}}, ("a", "when", "a"), "a itself"),
        (
            {
                "a": {"type": "int", "low": 1, "high": 2, "when": {"b": 1}},
                "b": {"type": "int", "low": 1, "high": 2, "when": {"a": 1}},
            },
            ("a", "when"),
            "a → b → a",
        ),
        (
            {
                "a": {"type": "float", "low": 1, "high": 2},
                "b": {"type": "int", "low": 1, "high": 2, "when": {"a": 1.5}},
            },
            ("b", "when", "a"),
            "countable",
        ),
        (
            {
                "a": {"type": "choice", "values": ["sgd", "adam"]},
                "b": {"type": "int", "low": 1, "high": 2, "when": {"a": "adm"}},
            },
            ("b", "when", "a"),
            "did you mean 'adam'?",
        ),
        (
            {
                "a": {"type": "choice", "values": ["x", "y"]},
                "b": {"type": "int", "low": 1, "high": 2, "when": {"a": "x"}},
                "c": {"type": "int", "low": 1, "high": 2, "when": {"a": "y", "b": 1}},
            },
            ("c", "when"),
            "none that leaves 'a' a value",
        ),
    ],
)
def test_a_space_that_contradicts_itself_is_refused(mapping: Any, path: tuple[str, ...], fragment: str) -> None:
    with pytest.raises(SpaceError) as caught:
        SearchSpace.from_dict(mapping)
    assert [at for at, _ in caught.value.problems] == [path]
    assert fragment in caught.value.problems[0][1]


# ----------------------------------------------------------------------- grids


@st.composite
def mappings(draw: st.DrawFn) -> dict[str, Any]:
    """Small finite spaces with nested conditions on several values, in any order; some contradict themselves."""
    kinds = st.one_of(
        st.integers(1, 4).map(lambda n: {"type": "int", "low": 3, "high": 3 + 2 * n, "step": 2}),
        st.integers(1, 3).map(lambda n: {"type": "float", "low": 0.1, "high": round(0.1 + 0.2 * n, 1), "step": 0.2}),
        st.lists(st.sampled_from(["u", "v", "w", True, 7]), min_size=1, max_size=4, unique=True).map(
            lambda values: {"type": "choice", "values": values}
        ),
    )
    found: dict[str, Any] = {}
    for name in "abcdef"[: draw(st.integers(1, 6))]:
        definition = draw(kinds)
        parents = draw(st.lists(st.sampled_from(sorted(found)), max_size=2, unique=True)) if found else []
        when = {
            parent: draw(st.lists(st.sampled_from(parse(found[parent]).values()), min_size=1, max_size=3, unique=True))
            for parent in parents
        }
        found[name] = {**definition, **({"when": when} if when else {})}
    return {name: found[name] for name in draw(st.permutations(list(found)))}


def brute_force(mapping: dict[str, Any]) -> set[frozenset[tuple[str, Any]]]:
    """Every active assignment, by trying all combinations with every subset left out."""
    found = set()
    absent = object()
    columns = [[absent, *parse(definition).values()] for definition in mapping.values()]
    for combination in itertools.product(*columns):
        values = {name: value for name, value in zip(mapping, combination, strict=True) if value is not absent}
        exists = {
            name: all(parent in values and values[parent] in wanted for parent, wanted in d.get("when", {}).items())
            for name, d in mapping.items()
        }
        if all(exists[name] == (name in values) for name in mapping):
            found.add(frozenset(values.items()))
    return found


@given(mapping=mappings())
@settings(max_examples=60, deadline=None)
def test_size_and_grid_are_what_trying_everything_finds(mapping: dict[str, Any]) -> None:
    everything = brute_force(mapping)
    alive = {name for point in everything for name, _ in point}
    if alive != set(mapping):
        with pytest.raises(SpaceError, match="can hold together"):
            SearchSpace.from_dict(mapping)
        return
    space = SearchSpace.from_dict(mapping)
    points = list(space.grid())
    assert space.size() == len(points) == len(everything)
    assert {frozenset(point.items()) for point in points} == everything
    for point in points:
        assert list(point) == [name for name in space.parameters if name in point]
        assert space.validate(point) == []
        assert all(space.active(name, point) == (name in point) for name in space.parameters)


@given(mapping=mappings())
@settings(max_examples=60, deadline=None)
def test_a_space_survives_json(mapping: dict[str, Any]) -> None:
    try:
        space = SearchSpace.from_dict(mapping)
    except SpaceError:
        return
    written = json.loads(json.dumps(space.to_dict()))
    again = SearchSpace.from_dict(written)
    assert again == space
    assert json.dumps(again.to_dict()) == json.dumps(space.to_dict())


def test_defaults_and_notation_do_not_show_in_the_canonical_form() -> None:
    short = SearchSpace.from_dict({"a": {"type": "float", "low": 0, "high": 1}})
    long = SearchSpace.from_dict(
        {"a": {"step": None, "high": 1.0, "low": 0.0, "log": False, "type": "float", "when": None}}
    )
    assert json.dumps(short.to_dict()) == json.dumps(long.to_dict())


def test_a_point_of_an_astronomic_grid_is_found_at_once() -> None:
    space = SearchSpace.from_dict({f"p{i}": {"type": "int", "low": 1, "high": 10**9} for i in range(9)})
    assert space.size() == 10**81
    assert space.point(10**81 - 1) == {f"p{i}": 10**9 for i in range(9)}
    with pytest.raises(IndexError):
        space.point(10**81)


def test_a_continuum_has_neither_size_nor_grid() -> None:
    space = SearchSpace.from_dict(
        {"rate": {"type": "float", "low": 0, "high": 1}, "depth": {"type": "int", "low": 1, "high": 2}}
    )
    assert space.size() is None
    with pytest.raises(ValueError, match="give a step or values to rate"):
        space.grid()


# ---------------------------------------------------------------- compositions


def test_every_space_that_comes_along_names_hyperparameters_that_exist_within_their_rules() -> None:
    training = hyperparameters(TrainConfig)
    for name in names():
        families = [FAMILIES[name]] if name in FAMILIES else list(FAMILIES.values())
        for family in families:
            known = {**training, **hyperparameters(family)}
            for parameter_name, parameter in load(name).parameters.items():
                rule = known[parameter_name].rule
                if isinstance(parameter, Choice):
                    assert rule.choices is None or set(parameter.values_) <= set(rule.choices)
                    assert all(type(value) is known[parameter_name].type for value in parameter.values_)
                else:
                    assert rule.low is None or parameter.low >= rule.low
                    assert rule.above is None or parameter.low > rule.above
                    assert rule.high is None or parameter.high <= rule.high
                    assert rule.below is None or parameter.high < rule.below


def test_every_family_has_a_space_of_its_name() -> None:
    assert set(FAMILIES) <= set(names())


def test_an_override_replaces_and_null_removes() -> None:
    space = build({"include": "cnn", "width": {"type": "choice", "values": [4, 8]}, "kernel": None}, Path())
    assert space.parameters["width"].values() == [4, 8]
    assert "kernel" not in space.parameters
    assert space.parameters["depth"] == load("cnn").parameters["depth"]


def test_later_pieces_override_earlier_ones_and_own_keys_override_all(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("a: {type: int, low: 1, high: 1}\nb: {type: int, low: 1, high: 1}\n")
    (tmp_path / "two.yaml").write_text("a: {type: int, low: 2, high: 2}\nb: {type: int, low: 2, high: 2}\n")
    merged = resolve({"include": ["./one.yaml", "./two.yaml"], "b": {"type": "int", "low": 3, "high": 3}}, tmp_path)
    assert [merged[name]["low"] for name in "ab"] == [2, 3]  # type: ignore[index]


def test_a_piece_is_found_relative_to_the_file_that_includes_it(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a.yaml").write_text("include: [./b.yaml, regularization]\n")
    (tmp_path / "inner" / "b.yaml").write_text("b: {type: int, low: 1, high: 2}\n")
    assert set(load("inner/a.yaml", tmp_path).parameters) == {"b", "dropout", "label_smoothing"}
    assert build("inner/a.yaml", tmp_path) == load(tmp_path / "inner" / "a.yaml")


def test_narrowing_a_parent_narrows_the_included_conditions_on_it() -> None:
    sgd_only = build({"include": "optimizer", "optimizer": {"type": "choice", "values": ["sgd", "adam"]}}, Path())
    assert sgd_only.parameters["momentum"].when == {"optimizer": ("sgd",)}
    without = build({"include": "optimizer", "optimizer": {"type": "choice", "values": ["adam", "adamw"]}}, Path())
    assert "momentum" not in without.parameters


def test_a_condition_written_beside_its_parent_is_never_narrowed_in_silence() -> None:
    mapping = {
        "momentum": {"type": "float", "low": 0, "high": 0.9, "when": {"optimizer": ["sgd", "rmsprop"]}},
        "optimizer": {"type": "choice", "values": ["adam", "sgd"]},
    }
    with pytest.raises(SpaceError, match="got the text 'rmsprop'"):
        build(mapping, Path())


def test_removing_a_parent_is_told_where_it_is_removed() -> None:
    with pytest.raises(SpaceError) as caught:
        build({"include": "mlp", "optimizer": None}, Path())
    assert [path for path, _ in caught.value.problems] == [("optimizer",)]
    assert "write `momentum: null` too" in caught.value.problems[0][1]
    assert caught.value.foreign == ()
    assert "momentum" not in build({"include": "mlp", "optimizer": None, "momentum": None}, Path()).parameters


def test_a_mistake_in_an_included_file_is_told_with_that_files_line_and_column(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "# mine\nwidth: {type: int, low: 9, high: 2}\ndepth:\n  type: int\n  low: x\n  high: 3\n"
    )
    with pytest.raises(SpaceError) as caught:
        build({"include": "./mine.yaml", "rate": {"type": "float", "low": 0}}, tmp_path)
    assert [path for path, _ in caught.value.problems] == [("rate", "high")]
    assert [(Path(p.file).name, p.line, p.path) for p in caught.value.foreign] == [
        ("mine.yaml", 2, "width.low"),
        ("mine.yaml", 5, "depth.low"),
    ]
    with pytest.raises(DocumentError) as placed:
        load("mine.yaml", tmp_path)
    assert [(p.line, p.column) for p in placed.value.problems] == [(2, 20), (5, 3)]


def test_an_included_file_that_is_no_yaml_is_told_with_its_own_position(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("a: {type: int, low: 1, high: 2}\na: {type: int, low: 1, high: 2}\n")
    with pytest.raises(SpaceError) as caught:
        build({"include": ["./mine.yaml"], "b": {"type": "int", "low": 1, "high": 2, "when": {"a": 1}}}, tmp_path)
    assert caught.value.problems == ()
    assert [(problem.line, Path(problem.file).name) for problem in caught.value.foreign] == [(2, "mine.yaml")]


@pytest.mark.parametrize(
    ("written", "path", "fragment"),
    [
        ("cnnn", (), "did you mean 'cnn'?"),
        ("./nothing.yaml", (), "expected the path of a file, found nothing there"),
        (3, (), "name or a mapping of parameters, got the integer 3"),
        ({"include": "optimzer"}, ("include",), "did you mean 'optimizer'?"),
        ({"include": ["mlp", 3]}, ("include", 1), "got the integer 3"),
        ({"include": None}, ("include",), "got null"),
        ({"include": {"mlp": 1}}, ("include",), "got a mapping"),
        ({"include": ["./absent.yaml"]}, ("include", 0), "expected the path of a file, found nothing there"),
        ({"include": "mlp", "widht": None}, ("widht",), "did you mean 'width'?"),
    ],
)
def test_a_piece_that_cannot_be_had_is_told_where_it_is_named(
    written: Any, path: tuple[str | int, ...], fragment: str, tmp_path: Path
) -> None:
    with pytest.raises(SpaceError) as caught:
        build(written, tmp_path)
    assert [at for at, _ in caught.value.problems] == [path]
    assert fragment in caught.value.problems[0][1]


def test_a_circle_of_includes_ends(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("include: ./b.yaml\n")
    (tmp_path / "b.yaml").write_text("include: ./a.yaml\n")
    with pytest.raises(
        DocumentError, match=r"b\.yaml:1:1: include: expected no circle of includes, got a\.yaml → b\.yaml → a"
    ):
        load("a.yaml", tmp_path)


def test_an_unknown_name_is_told_with_the_known_ones() -> None:
    with pytest.raises(DocumentError, match=r"cnn, mlp, optimizer, regularization, rnn, transformer or the path"):
        search_spaces.load("resnet")
