"""What a person says of a table's columns overrules what their cells tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tuner.data import Dataset, load
from tuner.errors import DataError

ROWS = 90
COLUMNS: dict[str, Sequence[Any]] = {
    "customer_id": [7_000 + 13 * i for i in range(ROWS)],
    "name": [f"person {i}" for i in range(ROWS)],
    "zip": [(1_000, 2_000, 3_500)[i % 3] for i in range(ROWS)],
    "day": [20_240_101 + i % 28 for i in range(ROWS)],
    "size": [i * 0.5 for i in range(ROWS)],
    "site": ["north"] * ROWS,
    "kind": [("elm", "oak")[i % 2] for i in range(ROWS)],
}


def loaded(folder: Path, made: dict[str, Sequence[Any]] | None = None, **choices: Any) -> Dataset:
    pd.DataFrame(made or COLUMNS).to_csv(folder / "t.csv", index=False)
    return load(str(folder / "t.csv"), target="kind", **choices)


def roles(dataset: Dataset) -> dict[str, str]:
    return {role.column: role.role for role in dataset.roles}


def test_every_column_has_a_role_in_the_order_of_the_file(tmp_path: Path) -> None:
    dataset = loaded(tmp_path)
    assert list(roles(dataset).items()) == [
        ("customer_id", "id"), ("name", "id"), ("zip", "number"), ("day", "number"), ("size", "number"),
        ("site", "constant"), ("kind", "target"),
    ]  # fmt: skip
    assert [role.about for role in dataset.roles][:2] == [
        "left out: another number in every row, by name an identifier",
        "left out: 90 different texts, such as 'person 0'",
    ]
    assert dataset.roles[5].about == "left out: 'north' in every row"
    assert dataset.preprocess.columns == ("zip", "day", "size") and dataset.notes == ()


def test_types_drop_and_missing_overrule(tmp_path: Path) -> None:
    columns = {**COLUMNS, "size": ["nil" if i % 3 else "gone" if i % 2 else i for i in range(ROWS)]}
    types = {"zip": "category", "day": "date", "customer_id": "number", "site": "id"}
    dataset = loaded(tmp_path, columns, types=types, drop=["name"], missing=["nil", "gone"])
    assert roles(dataset) == {
        "customer_id": "number", "name": "dropped", "zip": "category", "day": "date", "size": "number", "site": "id",
        "kind": "target",
    }  # fmt: skip
    assert dataset.preprocess.categories == {"zip": ("1000", "2000", "3500")}
    assert dataset.preprocess.raw(dataset.train.inputs)["day"].str.startswith("2024-01-").all()
    (size,) = [role for role in dataset.roles if role.column == "size"]
    assert size.missing == 75 and dataset.notes == ()
    frame = dataset.preprocess.read(tmp_path / "t.csv")
    np.testing.assert_array_equal(dataset.preprocess.apply(frame)[dataset.train.rows], dataset.train.inputs)


def test_a_category_may_be_missing_by_a_word_of_ones_own(tmp_path: Path) -> None:
    columns = {**COLUMNS, "town": [("Rome", "Oslo", "unknown")[i % 3] for i in range(ROWS)]}
    dataset = loaded(tmp_path, columns, missing=["unknown"])
    assert dataset.preprocess.categories == {"town": ("", "Oslo", "Rome")}
    frame = dataset.preprocess.read(tmp_path / "t.csv")
    np.testing.assert_array_equal(dataset.preprocess.apply(frame)[dataset.train.rows], dataset.train.inputs)


def test_strict_refuses_what_else_counts_as_empty(tmp_path: Path) -> None:
    columns = {**COLUMNS, "size": ["nil" if i == 4 else i for i in range(ROWS)]}
    assert loaded(tmp_path, columns).roles[4].missing == 1
    with pytest.raises(DataError, match=r"t.csv:6:5: row 5, column 'size': expected a number .*, got 'nil'; correct"):
        loaded(tmp_path, columns, strict=True)


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ({"drop": ["nmae"]}, "data.drop: expected a column 'nmae', got .*; did you mean 'name'?"),
        ({"types": {"zap": "category"}}, "data.types: expected a column 'zap', got .*; did you mean 'zip'?"),
        ({"drop": ["kind"]}, "data.drop: expected none of the target, got kind"),
        ({"columns": ["zip"], "drop": ["zip"]}, "data.drop: expected none of data.columns, got zip"),
        ({"types": {"name": "number"}}, "column 'name': expected a number, got 'person 0'"),
        ({"types": {"size": "date"}}, "column 'size': expected a date, got '0.5'"),
    ],
)
def test_what_cannot_be_is_told(tmp_path: Path, choices: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        loaded(tmp_path, **choices)


def test_a_table_that_tells_nothing_is_refused(tmp_path: Path) -> None:
    made: dict[str, Sequence[Any]] = {"a": [1] * ROWS, "b": ["x"] * ROWS, "kind": COLUMNS["kind"]}
    with pytest.raises(DataError, match=r"expected columns that tell something .* none: a is constant; b is constant"):
        loaded(tmp_path, made)
