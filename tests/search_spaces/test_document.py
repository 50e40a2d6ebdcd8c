"""Strict YAML: what is accepted, what is refused, and where each thing stands."""
# ruff: noqa: E501, ISC004 - a message stands on one line of this table, as a person reads it

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.search_spaces.document import MOST_BYTES, DocumentError, Problem, describe, dotted, parse, parse_value, read


def problems(text: str) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        parse(text, "f.yaml")
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-4", 1e-4),
        ("1.0e-4", 1e-4),
        ("1E3", 1000.0),
        ("-3", -3),
        ("+3", 3),
        ("0", 0),
        ("0x10", 16),
        ("0o17", 15),
        (".5", 0.5),
        ("5.", 5.0),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("yes", "yes"),
        ("off", "off"),
        ("12:30:00", "12:30:00"),
        ("2026-01-01", "2026-01-01"),
        ("1_000", "1_000"),
        ('"10"', "10"),
        ("'true'", "true"),
        ('"\\u00e9"', "é"),
        ("[1, a, {b: 2}]", [1, "a", {"b": 2}]),
    ],
)
def test_a_bare_word_means_what_yaml_1_2_says(written: str, value: object) -> None:
    found = parse(f"key: {written}\n", "f.yaml").data["key"]
    assert found == value
    assert type(found) is type(value)


def test_nan_is_a_number_that_others_must_refuse() -> None:
    assert math.isnan(parse("key: .nan\n", "f.yaml").data["key"])


def test_a_key_is_text_whatever_it_looks_like() -> None:
    assert parse("1: a\nno: b\nnull: c\n", "f.yaml").data == {"1": "a", "no": "b", "null": "c"}


REFUSED = {
    "an empty file": ("", ["f.yaml:1:1: expected lines of `key: value`, got an empty file"]),
    "only a comment": ("# x\n", ["f.yaml:1:1: expected lines of `key: value`, got an empty file"]),
    "a list at the top": ("- a\n", ["f.yaml:1:1: expected lines of `key: value`, got a list at the top"]),
    "a word at the top": ("word\n", ["f.yaml:1:1: expected lines of `key: value`, got the text 'word' at the top"]),
    "a tab as indentation": (
        "a:\n\tb: 1\n \tc: 2\n",
        [
            "f.yaml:2:1: expected spaces as indentation, got a tab; replace it with spaces",
            "f.yaml:3:1: expected spaces as indentation, got a tab; replace it with spaces",
        ],
    ),
    "a duplicate key": (
        "a: 1\nb:\n  c: 1\n  c: 2\na: 2\n",
        [
            "f.yaml:4:3: b.c: expected each key once, got 'c' on lines 3 and 4; remove one of them",
            "f.yaml:5:1: a: expected each key once, got 'a' on lines 1 and 5; remove one of them",
        ],
    ),
    "an anchor and its alias": (
        "a: &x 1\nb: *x\n",
        [
            "f.yaml:1:4: a: expected no anchor, got &x; remove it",
            "f.yaml:2:4: b: expected a value, got the alias *x; write the value again",
        ],
    ),
    "an anchored key": ("&x a: 1\n", ["f.yaml:1:1: a: expected a plain key, got an anchor or a tag; remove it"]),
    "a tag": (
        "a: !!python/object:os.system 1\nb: !x y\nc: !!str 1\n",
        [
            "f.yaml:1:4: a: expected a plain value, got the tag !!python/object:os.system; remove it",
            "f.yaml:2:4: b: expected a plain value, got the tag !x; remove it",
            "f.yaml:3:4: c: expected a plain value, got the tag !!str; remove it",
        ],
    ),
    "a directive": (
        "%YAML 1.1\n---\na: 1\n",
        ["f.yaml:1:1: expected plain YAML, got the directive '%YAML 1.1'; remove the line"],
    ),
    "a second document": (
        "a: 1\n---\nb: 2\n",
        ["f.yaml:2:1: expected one document, got a second one after `---`; remove it"],
    ),
    "a leading zero": (
        "a: 010\n",
        ['f.yaml:1:4: a: expected an integer without a leading zero, got 010; write 10 for a number, "010" for text'],
    ),
    "an endless integer": (
        f"a: {'9' * 5000}\n",
        ["f.yaml:1:4: a: expected at most 18 digits, got 5000; quote it where it is text"],
    ),
    "a NUL": ("a: x\0y\n", ["f.yaml:1:5: expected text, got the control character '\\x00'; remove it"]),
    "half a surrogate pair": (
        'a: "\\ud800"\n',
        ["f.yaml:1:4: a: expected text, got half a surrogate pair; remove the escape"],
    ),
    "a key that is a list": (
        "? [a]\n: 1\n",
        ["f.yaml:1:3: expected a name before the colon, got something else; write `key: value`"],
    ),
    "no key": (": 1\n", ["f.yaml:1:1: expected a name before the colon, got something else; write `key: value`"]),
    "a colon too many": (
        "a: b: c\n",
        [
            "f.yaml:1:5: expected YAML, got a line that does not parse: mapping values are not allowed here; "
            "indent this line like its neighbours, or quote text that holds a colon"
        ],
    ),
    "an open quote": (
        'a: "x\n',
        [
            "f.yaml:2:1: expected YAML, got a line that does not parse: found unexpected end of stream (while scanning a quoted scalar that begins on line 1); close the quotes"
        ],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_hides_mistakes_is_refused_by_line_and_column(case: str) -> None:
    text, expected = REFUSED[case]
    assert problems(text) == expected


def test_an_open_bracket_is_told_with_the_line_where_it_opened() -> None:
    (line,) = problems("a: [1,\nb: 2\n")
    assert "that begins on line 1" in line
    assert "close the bracket" in line


def test_nesting_beyond_reason_is_refused_and_not_followed() -> None:
    assert problems("a: " + "[" * 5000) == ["f.yaml:1:35: a[0][0]: expected at most 32 levels, got more; flatten it"]


def test_a_thousand_mistakes_are_told_as_fifty_and_a_count() -> None:
    lines = problems("a: 1\n" * 1001)
    assert len(lines) == 51
    assert lines[-1] == "f.yaml:52:1: and 950 more problems"


def test_what_could_be_read_comes_with_the_problems() -> None:
    with pytest.raises(DocumentError) as caught:
        parse("a: 007\nb: {c: 1, c: 2}\nd: 3\n", "f.yaml")
    assert caught.value.document is not None
    assert caught.value.document.data == {"a": 7, "b": {"c": 1}, "d": 3}
    with pytest.raises(DocumentError) as caught:
        parse("a: 007\nb: [\n", "f.yaml")
    assert caught.value.document is None
    assert len(caught.value.problems) == 2


def test_a_position_is_the_keys_own_and_else_its_nearest_parents() -> None:
    document = parse("a:\n  b: [1,\n      2]\nc:  3\n", "f.yaml")
    assert document.where(("a",)) == (1, 1)
    assert document.where(("a", "b")) == (2, 3)
    assert document.where(("a", "b", 1)) == (3, 7)
    assert document.where(("a", "b", 7, "x")) == (2, 3)
    assert document.where(("c",)) == (4, 1)
    assert document.where(("nothing",)) == (1, 1)
    assert str(document.problem(("a", "b", 1), "wrong")) == "f.yaml:3:7: a.b[1]: wrong"


def test_a_value_alone_may_be_of_any_type() -> None:
    assert parse_value("[1, 2]", "--set a").data == [1, 2]
    assert parse_value("", "--set a").data is None
    assert parse_value("1e-3", "--set a").data == 0.001


def test_a_path_is_written_as_people_write_it() -> None:
    assert dotted(("search", "start_with", 2, "width")) == "search.start_with[2].width"
    assert dotted(()) == ""


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "null (nothing)"),
        (True, "true"),
        (3, "the integer 3"),
        (0.5, "the number 0.5"),
        (math.nan, "NaN"),
        (-math.inf, "infinity"),
        ("x", "the text 'x'"),
        ("", "empty text"),
        ("a\nb\x1b", "the text 'a\\nb\\x1b'"),
        ([], "an empty list"),
        ({"a": 1}, "a mapping"),
        (object(), "a object"),
    ],
)
def test_a_value_is_named_by_its_type_and_never_breaks_the_line(value: object, told: str) -> None:
    assert describe(value) == told


def failing(path: Path) -> str:
    with pytest.raises(DocumentError) as caught:
        read(path)
    (problem,) = caught.value.problems
    return str(problem)


def test_a_missing_file_is_answered_with_a_near_name(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("a: 1\n")
    missing = tmp_path / "stdy.yaml"
    assert (
        failing(missing)
        == f"{missing}:1:1: expected the path of a file, found nothing there; did you mean 'study.yaml'?"
    )
    lost = tmp_path / "no" / "study.yaml"
    assert failing(lost).endswith(
        f"expected the path of a file, found nothing there; there is no folder {tmp_path / 'no'} either"
    )


def test_a_directory_is_answered_with_a_file_in_it(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("a: 1\n")
    assert failing(tmp_path).endswith(
        f"expected a file, got a directory; name a file in it, such as {tmp_path}/study.yaml"
    )


def test_what_is_no_plain_file_is_never_opened() -> None:
    assert "expected a file, got something that is not a plain file" in failing(Path("/dev/zero"))


def test_a_path_no_system_can_hold_is_no_traceback(tmp_path: Path) -> None:
    assert "File name too long" in failing(tmp_path / ("x" * 300))
    assert "a\\x00b:1:1: expected the path of a file, found nothing there" in failing(Path("a\0b"))


def test_bytes_that_are_not_utf_8_are_told_by_place(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes("a: 1\nb: Größe\n".encode("latin-1"))
    assert failing(path) == f"{path}:2:6: expected UTF-8 text, got the byte 0xf6; save the file as UTF-8"
    path.write_bytes("a: 1\n".encode("utf-16"))
    assert "save the file as UTF-8" in failing(path)


def test_a_byte_order_mark_is_forgiven(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert read(path).data == {"a": 1, "b": 2}


def test_a_file_over_a_megabyte_is_taken_for_data(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(b"a: 1\n" * (MOST_BYTES // 5 + 1))
    assert "expected at most 1 MB, got 1.0 MB; is this a data file?" in failing(path)


WHOLE = st.integers(-(10**18) + 1, 10**18 - 1)  # more than 18 digits are refused
SCALARS = st.none() | st.booleans() | WHOLE | st.floats(allow_nan=False) | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(min_size=1, max_size=8), inner, max_size=4),
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=8), VALUES, min_size=1, max_size=4))
def test_json_is_read_as_it_was_written(data: dict[str, object]) -> None:
    import json

    text = json.dumps(data)  # JSON is YAML, its escapes included
    if "Infinity" in text or "\\ud" in text:
        return
    assert parse(text, "f.json").data == data


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab1:-[]{},\"'\n #&*!|>%@0e.?\t\\", max_size=40))
def test_any_text_gives_a_document_or_problems_with_places(text: str) -> None:
    try:
        found = parse(text, "f.yaml")
        told: tuple[Problem, ...] = ()
    except DocumentError as error:
        found, told = None, error.problems
    if found is None:
        assert told
        assert all(1 <= problem.line <= text.count("\n") + 1 and problem.column >= 1 for problem in told)
        assert all("expected" in problem.message for problem in told)
    else:
        assert isinstance(found.data, dict)
