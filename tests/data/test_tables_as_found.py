"""Tables as people have them: what can be read is read, and what is left out or filled is told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tuner.data import Dataset, Preprocess, load
from tuner.errors import DataError

ROWS = 120
DRAW = np.random.default_rng(0)
SIZE = DRAW.normal(5, 2, ROWS).round(3)
KIND = np.array(["oak", "elm"])[(SIZE > 5).astype(int)]


def table(path: Path, columns: dict[str, Sequence[Any]], separator: str = ",") -> str:
    lines = [separator.join(columns), *(separator.join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def again(dataset: Dataset) -> Preprocess:
    return Preprocess.from_dict(json.loads(json.dumps(dataset.preprocess.to_dict())))


def agrees(dataset: Dataset, path: str) -> None:
    """A new file of the same rows becomes what training saw, also after going through JSON and back."""
    preprocess = again(dataset)
    assert preprocess == dataset.preprocess
    inputs = preprocess.apply(preprocess.read(path))
    np.testing.assert_array_equal(inputs[dataset.train.rows], dataset.train.inputs)
    back = preprocess.raw(dataset.train.inputs)
    assert isinstance(back, pd.DataFrame)
    np.testing.assert_allclose(preprocess.apply(back), dataset.train.inputs, atol=1e-3)


def complaint(source: str, **arguments: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(source, **arguments)
    return str(caught.value)


# Notations --------------------------------------------------------------------------------------------------------

NOTATIONS: dict[str, tuple[str, Callable[[float], str], str]] = {
    "decimal comma": (";", lambda v: f"{v:.2f}".replace(".", ","), "decimal comma"),
    "decimal comma, quoted": (",", lambda v: f'"{v:.2f}"'.replace(".", ","), "decimal comma"),
    "both marks": (";", lambda v: f"{v:,.2f}".translate(str.maketrans(",.", ".,")), "decimal comma"),
    "thousands": (",", lambda v: f'"{v * 100:,.0f}"', "thousands comma"),
    "dollars": (",", lambda v: f'"${v:,.2f}"', "thousands comma, $"),
    "euros behind": (";", lambda v: f"{v:.2f} €".replace(".", ","), "decimal comma, €"),
    "percent": (",", lambda v: f"{v:.1f}%", "plain, %"),
    "spaces": (",", lambda v: f"{v * 100:,.0f}".replace(",", "\u202f"), "thousands space"),
    "apostrophes": (",", lambda v: f"{v:,.2f}".replace(",", "'"), "thousands apostrophe"),
}


@pytest.mark.parametrize("case", NOTATIONS)
@pytest.mark.parametrize("steps", [ROWS, 20])  # many different values, and values that repeat like categories
def test_numbers_of_other_notations_are_numbers_and_told(tmp_path: Path, case: str, steps: int) -> None:
    separator, written, notation = NOTATIONS[case]
    prices = [dict(enumerate(DRAW.normal(3_000, 900, steps)))[i % steps] for i in range(ROWS)]
    columns = {"price": [written(price) for price in prices], "size": SIZE, "kind": KIND}
    path = table(tmp_path / "t.csv", columns, separator)
    dataset = load(path, target="kind")
    assert dataset.signature.inputs == (2,)
    assert dataset.preprocess.notations == {"price": notation}
    assert "column 'price': numbers are written like" in dataset.notes[0]
    agrees(dataset, path)
    new = dataset.preprocess.read(table(tmp_path / "one.csv", {"price": [written(1234.5)], "size": [1]}, separator))
    assert new["price"][0] == (123_450 if case in {"thousands", "spaces"} else 1_234.5)
    target = load(path, target="price")
    assert target.signature.task == "regression"
    assert np.concatenate([target.train.targets, target.validation.targets]).mean() > 1_000


def test_the_values_of_other_notations_are_right(tmp_path: Path) -> None:
    from tuner.data.cells import numbers
    from tuner.data.text_columns import Texts

    def read(*texts: str, separator: str = ",") -> list[float]:
        return numbers(Texts.of(texts), separator).values.tolist()

    assert read("1,5", "-2,25", "3", "1.250,5", separator=";") == [1.5, -2.25, 3, 1250.5]
    assert read("1,250", "950", "1,250,000.5") == [1250, 950, 1250000.5]
    assert read("$1,250.50", "-$3", "$ 7") == [1250.5, -3, 7]
    assert read("45%", "7.5 %", "100%") == [45, 7.5, 100]
    assert read("1 250", "12\u00a0000", "7") == [1250, 12000, 7]
    mixed = numbers(Texts.of(["1,5", "2.5", "3,5"]), ";")
    assert mixed.is_text.tolist() == [False, True, False]  # either may be the decimal mark
    assert not numbers(Texts.of(["$5", "€6", "£7"])).mostly


def test_texts_that_look_like_numbers_are_told_where_they_stay_categories(tmp_path: Path) -> None:
    weights = [f"{i % 20}.5 kg" for i in range(ROWS)]
    places = [("1st", "2nd", "3rd", "4th", "5th", "6th")[i % 6] for i in range(ROWS)]
    dataset = load(table(tmp_path / "t.csv", {"weight": weights, "place": places, "kind": KIND}), target="kind")
    assert len(dataset.notes) == 1
    assert "column 'weight': 20 different texts that look like numbers, such as" in dataset.notes[0]


def test_question_marks_are_missing_numbers_however_many(tmp_path: Path) -> None:
    for mark in ("?", "#N/A", "-", "<NA>"):
        cells = [mark if i % 3 else SIZE[i] for i in range(ROWS)]
        dataset = load(table(tmp_path / "t.csv", {"a": cells, "size": SIZE, "kind": KIND}), target="kind")
        assert dataset.signature.inputs == (3,)
        assert (dataset.roles[0].column, dataset.roles[0].missing) == ("a", 80)


def test_numbers_that_are_names_keep_their_zeros_and_stay_apart(tmp_path: Path) -> None:
    def classes(codes: Sequence[str], **arguments: Any) -> tuple[str, ...] | None:
        columns = {"size": SIZE, "code": [codes[i % len(codes)] for i in range(ROWS)]}
        return load(table(tmp_path / "t.csv", columns), target="code", **arguments).classes

    assert classes(["01", "02", "10"]) == ("01", "02", "10")
    assert classes(["1", "01", "001", "2"], task="classification") == ("001", "01", "1", "2")
    assert classes(["1.1", "1.10", "1.2"], task="classification") == ("1.1", "1.10", "1.2")
    assert classes(["1.0", "2", "2.0"], task="classification") == ("1", "2")
    zips = [f"0{i % 7}100" for i in range(ROWS)]
    dataset = load(table(tmp_path / "z.csv", {"zip": zips, "size": SIZE, "kind": KIND}), target="kind")
    assert "column 'zip': numbers with leading zeros, such as '00100', are read as 100" in dataset.notes[0]


def test_spaces_behind_a_category_or_a_class_are_none_of_it(tmp_path: Path) -> None:
    columns = {
        "city": [("Rome", "Rome ", "Oslo\u00a0", "Oslo")[i % 4] for i in range(ROWS)],
        "answer": [("yes", "yes ", "no", "no  ")[i % 4] for i in range(ROWS)],
    }
    path = table(tmp_path / "t.csv", columns)
    dataset = load(path, target="answer")
    assert dataset.classes == ("no", "yes")
    assert dataset.preprocess.categories == {"city": ("Oslo", "Rome")}
    agrees(dataset, path)
    columns["city"] = [("Rome", "rome", "Oslo", "Bern")[i % 4] for i in range(ROWS)]
    assert (
        "'Rome' and 'rome' are taken as different" in load(table(tmp_path / "u.csv", columns), target="answer").notes[0]
    )


# What is left out -------------------------------------------------------------------------------------------------


def test_names_and_empty_columns_are_left_out_and_told(tmp_path: Path) -> None:
    columns = {"name": [f"n{i}" for i in range(ROWS)], "void": [""] * ROWS, "size": SIZE, "kind": KIND}
    path = table(tmp_path / "t.csv", columns)
    dataset = load(path, target="kind")
    assert dataset.preprocess.columns == ("size",)
    assert [(role.column, role.role) for role in dataset.roles if not role.used] == [
        ("name", "id"),
        ("void", "empty"),
        ("kind", "target"),
    ]
    agrees(dataset, table(tmp_path / "new.csv", {"size": SIZE}))
    assert "expected numbers, or text that repeats" in complaint(path, target="kind", columns=["name", "size"])
    assert "got empty cells alone" in complaint(path, target="kind", columns=["void", "size"])


@pytest.mark.parametrize("end", [".csv", ".parquet"])
def test_rows_without_a_target_are_left_out_and_predicted_like_any_other(tmp_path: Path, end: str) -> None:
    frame = pd.DataFrame({"size": SIZE, "kind": KIND})
    frame.loc[[4, 40, 41, 90], "kind"] = None
    path = tmp_path / f"t{end}"
    frame.to_csv(path, index=False) if end == ".csv" else frame.to_parquet(path)
    dataset = load(str(path), target="kind")
    assert sum(dataset.rows.values()) == ROWS - 4
    assert dataset.classes == ("elm", "oak")
    where = " (line 6, line 42, line 43, …)" if end == ".csv" else ""
    assert dataset.notes == (f"{path}: target 'kind': 4 of 120 rows have none and are left out{where}",)
    seen = np.concatenate([part.rows for part in (dataset.train, dataset.validation, dataset.open_test())])
    assert set(seen.tolist()) == set(range(ROWS)) - {4, 40, 41, 90}
    everything = dataset.preprocess.apply(dataset.preprocess.read(path))
    assert len(everything) == ROWS
    np.testing.assert_array_equal(everything[dataset.train.rows], dataset.train.inputs)


def test_splits_of_a_few_rows_and_rare_classes_are_told_with_their_rows_in_the_file(tmp_path: Path) -> None:
    kind = ["", "rare", *(("a", "b")[i % 2] for i in range(12))]
    path = table(tmp_path / "t.csv", {"size": SIZE[:14], "kind": kind})
    dataset = load(path, target="kind")
    assert dataset.notes[1] == "classes of which no row is validated on (and how many rows they have): 'rare' (1)"
    assert 1 in dataset.train.rows.tolist() and dataset.classes == ("a", "b", "rare")
    few = table(tmp_path / "f.csv", {"size": SIZE[:12], "kind": kind[2:]})
    assert load(few, target="kind").notes == tuple(
        f"data.{name}: expected 5 rows or more to score on, got 2; add rows, or name a larger share"
        for name in ("validation", "test")
    )


def test_rows_whose_target_is_no_number_are_left_out_and_told(tmp_path: Path) -> None:
    delay = ["nil" if i in {3, 9} else "?" if i == 5 else SIZE[i] for i in range(ROWS)]
    dataset = load(table(tmp_path / "t.csv", {"size": SIZE, "delay": delay}), target="delay")
    assert sum(dataset.rows.values()) == ROWS - 3
    assert "1 of 120 rows have none and are left out (line 7)" in dataset.notes[0]
    assert "2 of 120 rows have no number and are left out, such as 'nil' (lines 5, 11)" in dataset.notes[1]


def test_a_minority_of_unreadable_cells_counts_as_missing_and_is_told_with_lines(tmp_path: Path) -> None:
    cells = {7: "nil", 8: "[98]", 20: "1_0", 30: "nil"}
    size = [cells.get(i, value) for i, value in enumerate(SIZE)]
    path = table(tmp_path / "t.csv", {"size": size, "twice": SIZE * 2, "kind": KIND})
    dataset = load(path, target="kind")
    told = "column 'size': 4 of 120 cells are no numbers, such as 'nil' (line 9), '[98]' (line 10), '1_0' (line 22): "
    assert told in dataset.notes[0]
    assert dataset.signature.inputs == (3,)
    agrees(dataset, path)
    preprocess = again(dataset)
    known = preprocess.read(table(tmp_path / "one.csv", {"size": ["nil"], "twice": [1]}))
    assert np.isnan(known["size"][0])
    assert preprocess.strangers(known) == []
    some = preprocess.read(table(tmp_path / "some.csv", {"size": ["3", "x", "4"], "twice": [1, 2, 3]}))
    assert "1 of 3 cells are no numbers, such as 'x' (line 3): taken as empty" in preprocess.strangers(some)[0]
    with pytest.raises(DataError, match=r"one.csv:2:1: row 1, column 'size': expected a number, got 'x'"):
        preprocess.read(table(tmp_path / "one.csv", {"size": ["x"], "twice": [1]}))


# Dates ------------------------------------------------------------------------------------------------------------

DAYS = pd.date_range("2023-01-01", periods=ROWS, freq="3D")


@pytest.mark.parametrize(
    "format", ["%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%d %b %Y", "%Y-%m-%dT%H:%M:%SZ"]
)
def test_dates_of_every_day_become_time_passed_and_its_place_in_year_and_week(tmp_path: Path, format: str) -> None:
    path = table(tmp_path / "t.csv", {"when": DAYS.strftime(format), "size": SIZE, "kind": KIND})
    dataset = load(path, target="kind")
    assert dataset.preprocess.cycles == {"when": ("year", "week")}
    assert dataset.signature.inputs == (1 + 4 + 1,)
    assert dataset.preprocess.sources == ("when",) * 5 + ("size",)
    reference = load(
        table(tmp_path / "r.csv", {"when": DAYS.strftime("%Y-%m-%d"), "size": SIZE, "kind": KIND}), target="kind"
    )
    np.testing.assert_array_equal(dataset.train.inputs, reference.train.inputs)
    (role,) = [role for role in dataset.roles if role.role == "date"]
    assert role.about == "time passed, place in the year, place in the week"
    assert len(dataset.notes) == (format[:2] != "%Y"), "day and month may be meant otherwise"
    agrees(dataset, path)


def test_times_of_one_day_have_its_cycle_and_a_frame_and_parquet_say_the_same(tmp_path: Path) -> None:
    times = pd.Series(pd.date_range("2024-03-01", periods=ROWS, freq="10min"))
    frame = pd.DataFrame({"when": times, "size": SIZE, "kind": KIND})
    frame.loc[5, "when"] = pd.NaT
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_csv(tmp_path / "t.csv", index=False)
    one, two = (load(str(tmp_path / f"t.{end}"), target="kind") for end in ("parquet", "csv"))
    assert one.preprocess.cycles == {"when": ("day",)}
    assert one.digest == two.digest
    np.testing.assert_array_equal(one.train.inputs, two.train.inputs)
    np.testing.assert_array_equal(one.preprocess.apply(frame)[one.train.rows], one.train.inputs)
    angle = 2 * np.pi * one.train.rows * 600 / 86_400
    real = one.train.rows != 5
    np.testing.assert_allclose(one.train.inputs[real, -3], np.sin(angle)[real], atol=1e-6)


def test_cells_that_are_no_dates_are_missing_and_told(tmp_path: Path) -> None:
    when = DAYS.strftime("%Y-%m-%d").tolist()
    when[3], when[9] = "never", ""
    dataset = load(table(tmp_path / "t.csv", {"when": when, "size": SIZE, "kind": KIND}), target="kind")
    assert "1 of 120 cells are no dates, such as 'never' (line 5): taken as empty" in dataset.notes[0]
    assert dataset.roles[0].missing == 2
    with pytest.raises(DataError, match=r"row 1, column 'when': expected a date, got 'soon'"):
        dataset.preprocess.apply(pd.DataFrame({"when": ["soon"], "size": [1.0]}))


@pytest.mark.parametrize(
    "texts", [["10-12", "18-25", "26-40"], ["1.2.3", "1.10.0", "2.0.1"], ["A-1-2", "B-2-1", "C-3"]]
)
def test_ranges_versions_and_codes_are_no_dates(tmp_path: Path, texts: list[str]) -> None:
    cells = [texts[i % 3] for i in range(ROWS)]
    dataset = load(table(tmp_path / "t.csv", {"a": cells, "size": SIZE, "kind": KIND}), target="kind")
    assert list(dataset.preprocess.categories) == ["a"]


def test_a_preprocessing_of_before_is_read_and_does_what_it_did() -> None:
    stored = {
        "modality": "numbers", "shape": [2], "columns": ["a", "c"], "categories": {"c": ["x", "x "]}, "empty": [],
        "mean": [1.0], "scale": [2.0], "characters": "", "masked": False, "classes": ["n", "y"], "targets": ["t"],
    }  # fmt: skip
    preprocess = Preprocess.from_dict(stored)
    inputs = preprocess.apply(pd.DataFrame({"a": [3.0, 1.0], "c": ["x", "x "]}))
    assert inputs.tolist() == [[1, 1, 0], [0, 0, 1]]


# Files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("above", "separator", "header"),
    [
        ("", ";", '"amount, in EUR, net"'),
        ("", "|", "amount"),
        ("", "\t", '"a;b;c;d,e,f"'),
        ("sep=;\n", ";", "amount"),
        ("sep=|\n", "|", "amount"),
        ("# written by a machine\n# on Monday, at 8\n", ",", "amount"),
        ("", ";", "amount, net, in EUR"),
    ],
)
def test_the_separator_is_told_from_what_it_parts(tmp_path: Path, above: str, separator: str, header: str) -> None:
    rows = [separator.join((str(SIZE[i]), KIND[i])) for i in range(ROWS)]
    (tmp_path / "t.csv").write_text(above + "\n".join([separator.join((header, "kind")), *rows]))
    dataset = load(str(tmp_path / "t.csv"), target="kind")
    assert dataset.preprocess.columns == (header.strip('"'),)
    assert sum(dataset.rows.values()) == ROWS


def test_lines_are_counted_from_the_files_first_and_a_header_may_begin_with_a_hash(tmp_path: Path) -> None:
    rows = [f"{SIZE[i]},{KIND[i]}" for i in range(ROWS)]
    (tmp_path / "t.csv").write_text("\n".join(["# note", "#size,kind", "inf,oak", *rows]))
    assert "t.csv:3:1: row 1, column '#size': expected a number up to 3.4e38" in complaint(
        str(tmp_path / "t.csv"), target="kind"
    )


def test_a_tsv_is_a_table(tmp_path: Path) -> None:
    path = table(tmp_path / "t.tsv", {"size, in cm": SIZE, "kind": KIND}, "\t")
    assert load(path, target="kind").preprocess.columns == ("size, in cm",)


def test_rows_that_are_all_unlike_the_header_are_told_once(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("size,kind\n" + "\n".join(f"{i},{SIZE[i]},{KIND[i]}" for i in range(ROWS)))
    found = complaint(str(tmp_path / "t.csv"), target="kind")
    assert found.count("\n") == 0
    assert "expected rows of 2 fields as in the header, got 3 in all 120 of them; the first column may have no" in found


def test_a_cell_may_be_as_long_as_a_book(tmp_path: Path) -> None:
    import csv

    texts = ["word " * (60_000 if i == 7 else 3) + str(i) for i in range(ROWS)]
    before = csv.field_size_limit()
    path = table(tmp_path / "t.csv", {"text": texts, "kind": KIND})
    dataset = load(path, target="kind", modality="text", length=40)
    assert dataset.signature.inputs == (40,)
    assert csv.field_size_limit() == before


BOMB = """
import resource, sys
from pathlib import Path
import pyarrow, pandas
from tuner.data import load
from tuner.errors import DataError
preprocess = load("wine").preprocess
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for attempt in (lambda: load(sys.argv[1], target="y"), lambda: preprocess.read(Path(sys.argv[1]))):
    try:
        attempt()
    except DataError as error:
        print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_parquet_that_would_fill_memory_is_named_before_it_does(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    part = pa.table({name: pa.array(np.zeros(4_000_000)) for name in "abcd"} | {"y": pa.array(np.zeros(4_000_000))})
    with pq.ParquetWriter(tmp_path / "bomb.parquet", part.schema) as writer:
        for _ in range(20):
            writer.write_table(part)
    done = subprocess.run(
        [sys.executable, "-c", BOMB, str(tmp_path / "bomb.parquet")], capture_output=True, text=True, check=True
    )
    *found, grown = done.stdout.splitlines()
    assert len(found) == 2
    assert all("bomb.parquet: expected a file about as large as its content, got 2.98 GiB" in line for line in found)
    assert int(grown) < 200 * 1024  # KiB
