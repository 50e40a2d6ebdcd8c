"""What reaches stdout: columns in order, JSON that is JSON, text that is only text."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.terminal.tables import Output, cell, neutral, print_json, print_pairs, print_rows, printable

ROWS: list[dict[str, Any]] = [
    {"number": 0, "params": {"a": 1}, "metrics": {"val/loss": 0.5}, "message": ""},
    {"number": 1, "params": {"b": True}, "metrics": {}, "message": "x"},
]


def printed(rows: list[dict[str, Any]], output: Output) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as stream:
        print_rows(rows, output, rows)
    return stream.getvalue()


def test_columns_of_one_mapping_stand_together_whichever_row_has_them() -> None:
    head, *_ = csv.reader(io.StringIO(printed(ROWS, Output.CSV)))
    assert head == ["number", "params.a", "params.b", "val/loss", "message"]


def test_json_is_the_document_as_it_was_given() -> None:
    assert json.loads(printed(ROWS, Output.JSON)) == ROWS


def test_a_value_that_is_not_finite_is_refused_rather_than_printed_as_no_json() -> None:
    with pytest.raises(ValueError, match="JSON"):
        print_json({"loss": float("nan")})


def test_of_nothing_nothing_is_printed() -> None:
    assert printed([], Output.TABLE) == printed([], Output.CSV) == ""
    assert json.loads(printed([], Output.JSON)) == []


def test_pairs_leave_out_what_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    print_pairs({"study": "one", "best": None, "message": "", "trials": 0})
    assert capsys.readouterr().out == "study    one\ntrials   0\n"


def is_number(text: str) -> bool:
    try:
        return text == text.strip() and "_" not in text and math.isfinite(float(text) or 1.0)
    except ValueError:
        return False


@given(st.text())
def test_no_text_becomes_a_formula_and_none_is_lost(text: str) -> None:
    safe = neutral(text)
    assert is_number(text) or not safe.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert safe in (text, f"'{text}")


@given(st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans(), st.none()))
def test_numbers_stay_numbers_in_csv(value: Any) -> None:
    assert neutral(value) is value


@given(st.text())
def test_a_cell_is_one_printable_line_of_the_same_length(text: str) -> None:
    assert len(printable(text)) == len(text)
    assert printable(text).isprintable()
    assert len(cell(text).splitlines()) <= 1
