"""Splits that a table tells: by group, by time, by a column's words, by files; each keeps what it promises."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.data import Dataset, load
from tuner.data.splits import TEST, TRAIN, VALIDATION, Rows, split
from tuner.errors import DataError

ROWS = 120
COLUMNS: dict[str, Sequence[Any]] = {
    "who": [f"c{(i * 7) % 31}" for i in range(ROWS)],
    "when": pd.date_range("2023-01-01", periods=ROWS, freq="D").strftime("%Y-%m-%d").tolist()[::-1],
    "part": [("train", "Training", "val", "TEST")[i % 4] for i in range(ROWS)],
    "size": [i * 0.5 for i in range(ROWS)],
    "kind": [("elm", "oak")[i % 2] for i in range(ROWS)],
}


def loaded(folder: Path, split: dict[str, Any], made: dict[str, Sequence[Any]] | None = None, **more: Any) -> Dataset:
    pd.DataFrame(made or COLUMNS).to_csv(folder / "t.csv", index=False)
    return load("t.csv", target="kind", split=split, folder=folder, **more)


def rows_of(dataset: Dataset) -> list[set[int]]:
    return [set(part.rows.tolist()) for part in (dataset.train, dataset.validation, dataset.open_test())]


def whole(rows: Rows, count: int) -> None:
    """Every row is in one split, and no split is empty."""
    assert sorted(np.concatenate([rows.train, rows.validation, rows.test]).tolist()) == list(range(count))
    assert all(len(part) for part in (rows.train, rows.validation, rows.test))


SHARES: dict[str, Any] = {"validation": 0.2, "test": 0.2, "seed": 3, "source": "t"}
TIMES = st.lists(st.integers(0, 30).map(float), min_size=4, max_size=60).filter(lambda times: len(set(times)) > 2)


@settings(max_examples=200, deadline=None)
@given(times=TIMES)
def test_no_row_is_trained_on_that_is_as_late_as_one_that_is_scored(times: list[float]) -> None:
    at = np.array(times)
    rows = split(len(at), None, None, times=at, **SHARES)
    whole(rows, len(at))
    assert at[rows.train].max() < at[rows.validation].min() <= at[rows.validation].max() < at[rows.test].min()


@settings(max_examples=200, deadline=None)
@given(groups=st.lists(st.integers(0, 9), min_size=4, max_size=60).filter(lambda groups: len(set(groups)) > 2))
def test_no_group_is_in_two_splits(groups: list[int]) -> None:
    of = np.array(groups)
    rows = split(len(of), None, None, groups=of, **SHARES)
    whole(rows, len(of))
    parts = [set(of[part].tolist()) for part in (rows.train, rows.validation, rows.test)]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])


@settings(max_examples=200, deadline=None)
@given(
    parts=st.lists(st.sampled_from([TRAIN, VALIDATION, TEST]), min_size=12, max_size=60), test=st.sampled_from([0, 0.2])
)
def test_rows_are_where_they_are_named_and_only_what_is_missing_is_shared_out(parts: list[int], test: float) -> None:
    told = np.array([TRAIN] * 4 + parts)
    rows = split(len(told), None, None, parts_of=told, **SHARES | {"test": test})
    found = np.full(len(told), -1)
    for number, part in enumerate((rows.train, rows.validation, rows.test)):
        found[part] = number
    assert (found >= 0).all() and len(rows.train) and len(rows.validation) and (len(rows.test) or not test)
    assert (found[told == TEST] == TEST).all() and (found[told == VALIDATION] == VALIDATION).all()
    if VALIDATION in parts and (TEST in parts or not test):
        assert (found == told).all()


def test_by_group_the_column_is_no_input_and_its_rows_stay_together(tmp_path: Path) -> None:
    dataset = loaded(tmp_path, {"group": "who"})
    who = np.array(COLUMNS["who"])
    parts = [set(who[list(rows)].tolist()) for rows in rows_of(dataset)]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    assert dataset.preprocess.columns == ("when", "part", "size")
    assert dataset.roles[0].about == "its rows stay together in one split" and dataset.roles[0].role == "split"


def test_by_time_the_newest_are_tested_and_rows_without_one_are_left_out(tmp_path: Path) -> None:
    when = list(COLUMNS["when"])
    when[5] = ""
    dataset = loaded(tmp_path, {"time": "when"}, {**COLUMNS, "when": when})
    train, validation, test = rows_of(dataset)
    assert min(train) > max(validation) > min(validation) > max(test) and 5 not in train | validation | test
    assert dataset.rows == {"train": 71, "validation": 24, "test": 24}
    assert dataset.notes == (f"{tmp_path / 't.csv'}: column 'when': 1 rows without a time are left out",)
    assert "when" in dataset.preprocess.columns


def test_by_column_and_by_files_everybody_is_where_they_are_named(tmp_path: Path) -> None:
    dataset = loaded(tmp_path, {"column": "part"})
    assert rows_of(dataset) == [{i for i in range(ROWS) if i % 4 in those} for those in ({0, 1}, {2}, {3})]
    frame = pd.DataFrame(COLUMNS).drop(columns="part")
    frame[frame.index % 4 == 2].to_csv(tmp_path / "val.csv", index=False)
    frame[frame.index % 4 == 3].to_json(tmp_path / "test.jsonl", orient="records", lines=True)
    frame[frame.index % 4 < 2].to_csv(tmp_path / "train.csv", index=False)
    files = {"validation": "val.csv", "test": "test.jsonl"}
    other = load("train.csv", target="kind", split={"files": files}, folder=tmp_path)
    assert other.rows == {"train": 60, "validation": 30, "test": 30}
    for mine, theirs in ((dataset.train, other.train), (dataset.validation, other.validation)):
        np.testing.assert_array_equal(theirs.inputs[:, -1], mine.inputs[:, -1])  # size, as the training rows scale it
    alone = load("train.csv", target="kind", split={"files": {"test": "test.jsonl"}}, folder=tmp_path)
    assert alone.rows == {"train": 48, "validation": 12, "test": 30}


@pytest.mark.parametrize(
    ("split_by", "told"),
    [
        ({"group": "whom"}, "data.split: expected a column 'whom', got .*; did you mean 'who'?"),
        ({"time": "who"}, "column 'who': expected dates or numbers to put rows in order, got 'c0'"),
        ({"column": "who"}, "column 'who': expected train, validation or test, got 'c0'"),
        ({"group": "kind"}, "data.split: expected a column that is neither target nor input, got kind"),
        ({"files": {"test": "none.csv"}}, "data.split.files.test: expected a file, got nothing at"),
    ],
)
def test_what_tells_nothing_is_told(tmp_path: Path, split_by: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        loaded(tmp_path, split_by)


def test_one_time_alone_is_no_order(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected 3 different times or more, got 2"):
        loaded(tmp_path, {"time": "when"}, {**COLUMNS, "when": ["2023-01-01", "2023-01-02"] * (ROWS // 2)})
