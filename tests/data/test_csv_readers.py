"""Both readers of CSV files give one table, or the same complaints: line by line, and column by column."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tuner.data import csv_arrow, csv_files
from tuner.data.column_kinds import typed
from tuner.data.columns import ColumnChoices
from tuner.data.csv_files import read_csv
from tuner.data.table_source import table_inputs
from tuner.data.tables import Table
from tuner.errors import DataError

NUMBERS = st.sampled_from(["1", "-2.5", "1e3", "0", "0.125", "", "NA", "nan", "?", "12345678901234567"])
WORDS = st.sampled_from(["red", "blue ", " green", "", "1,5", 'a "quoted" word', "two\nlines", "nil", "ü", "True", "-"])
CODES = st.sampled_from(["007", "12", "1.50", "2013-01-05", "0", "00", "-07", "1_000", "+5", "inf"])


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[list[str]], dict[str, Any]]:
    kinds = draw(st.lists(st.sampled_from([NUMBERS, WORDS, CODES]), min_size=2, max_size=4))
    rows = draw(st.lists(st.tuples(*kinds).map(list), min_size=1, max_size=12))
    header = ["a", "b b", 'c "c"', "d"][: len(kinds)]
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))
    return header, rows, {"delimiter": draw(st.sampled_from(",;\t")), "quoting": quoting,
                          "lineterminator": draw(st.sampled_from(["\n", "\r\n"]))}  # fmt: skip


def written(header: Sequence[str], rows: Sequence[Sequence[str]], how: dict[str, Any]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, **how)
    writer.writerow(header)
    writer.writerows(rows)
    return stream.getvalue()


def told(path: Path, least: float, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The table as a person's study gets it, or the complaints."""
    monkeypatch.setattr(csv_arrow, "LEAST", least)
    try:
        table = read_csv(path)
        inputs, left = table_inputs(table, None, ColumnChoices(()))
    except DataError as error:
        return error.problems
    if not isinstance(inputs, Table):
        return inputs.tolist()
    columns = {name: cells.tolist() for name, cells in inputs.columns.items()}
    assert table.lines is not None
    return repr(columns), inputs.kinds, inputs.notes, left, table.lines[np.arange(len(table))].tolist()


def compared(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    path = folder / "d.csv"
    path.write_bytes(text.encode())
    slowly, fast = (told(path, least, monkeypatch) for least in (float("inf"), 0))
    assert fast == slowly
    return fast


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=150)
@given(made=tables())
@example(made=(["a", "b b"], [["1", "x"], ["07", "y"]], {}))
def test_what_is_written_is_read_alike(made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared(written(*made), tmp_path, monkeypatch)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=150)
@given(text=st.text(st.sampled_from('a1,;" \n\r0.é'), min_size=1, max_size=40))
@example(text='a,b\n1,"x\n2,y\n')
@example(text='a,b\n1,"x" \n2,y\n')
@example(text='a,b\n1, "x, y"\n2,z\n')
@example(text='a,b\n1,x"y"\n2,z\n')
@example(text="\na,b\n\n1,2\n")
def test_anything_at_all_is_read_alike(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared(f"n,m\n{text}", tmp_path, monkeypatch)


def test_text_far_down_a_column_of_numbers_is_read_and_told_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_arrow, "_BLOCK", 4_096)
    rows = [f"{row},{row % 7}" for row in range(3_000)]
    rows[2_500] = "nil,3"
    _, kinds, notes, _, lines = compared("\n".join(["x,y", *rows]) + "\n", tmp_path, monkeypatch)
    assert kinds == {"x": "number", "y": "number"} and lines[2_500] == 2_502
    place = f"{tmp_path / 'd.csv'}: column 'x'"
    assert notes == (f"{place}: 1 of 3,000 cells are no numbers, such as 'nil' (line 2502): taken as empty",)


def test_a_file_is_read_a_few_times_for_lines_however_many_cells_are_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_arrow, "LEAST", 0)
    asked: list[int] = []
    find = csv_files.row_lines
    monkeypatch.setattr(csv_files, "row_lines", lambda path, count: asked.append(count) or find(path, count))
    rows = [f"{'' if row % 2 else 'nil'},{'' if row % 3 else 'x'},{row}" for row in range(3_000)]
    (path := tmp_path / "d.csv").write_text("\n".join(["a,b,c", *rows]) + "\n")
    table = read_csv(path)
    assert typed(table, empty=True).kinds["b"] == "category" and asked == [], "empty cells of text ask for no line"
    with pytest.raises(DataError) as raised:
        typed(table, dict.fromkeys(table.columns, "number"))
    assert raised.value.problems[0].startswith(f"{path}:2:1: row 1, column 'a': expected a number, got 'nil'")
    assert raised.value.problems[5] == f"{path}: column 'a': and 2995 more"
    assert len(asked) <= 5


def test_the_target_and_categories_keep_their_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_arrow, "LEAST", 0)
    (path := tmp_path / "d.csv").write_text("a,b\n1.50,1\n1.5,2\n")
    table = read_csv(path, {"a"})
    assert table.texts("a").tolist() == ["1.50", "1.5"] and table.numbers("b").tolist() == [1.0, 2.0]
