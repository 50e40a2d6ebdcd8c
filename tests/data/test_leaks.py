"""What makes a score look better than it is is told before the first trial, and nothing is told of honest data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tuner.data import leaks, load

ROWS = 300
DRAW = np.random.default_rng(0)
COLUMNS: dict[str, Sequence[Any]] = {
    "age": DRAW.normal(40, 12, ROWS).tolist(),
    "town": DRAW.choice(["Oslo", "Rome", "Bern"], ROWS).tolist(),
    "kind": DRAW.choice(["elm", "oak"], ROWS).tolist(),
}


def told(folder: Path, target: str = "kind", **more: Any) -> list[str]:
    pd.DataFrame({**COLUMNS, **more}).to_csv(folder / "t.csv", index=False)
    return leaks.warnings(load(str(folder / "t.csv"), target=target))


def test_honest_data_are_not_warned_of(tmp_path: Path) -> None:
    assert told(tmp_path) == []
    assert told(tmp_path, "age") == []


@pytest.mark.parametrize(
    "column",
    [
        pytest.param([{"elm": 1, "oak": 2}[kind] for kind in COLUMNS["kind"]], id="a code"),
        pytest.param([{"elm": "bark", "oak": "acorn"}[kind] for kind in COLUMNS["kind"]], id="a word"),
        pytest.param([(kind == "oak") * 100 + n / 300 for n, kind in enumerate(COLUMNS["kind"])], id="a measure"),
    ],
)
def test_a_column_that_gives_a_class_away_is_named(column: Sequence[Any], tmp_path: Path) -> None:
    asks = "is it known when a prediction is wanted?"
    assert told(tmp_path, after=column) == [
        f"column 'after' alone tells the target of 100.0% of the validation rows; {asks}"
    ]


def test_a_column_that_gives_a_number_away_is_named(tmp_path: Path) -> None:
    (line,) = told(tmp_path, "age", months=[12 * age + 3 for age in COLUMNS["age"]])
    assert line.startswith("column 'months' alone tells the target of the validation rows to 100.00% of its variance")


def test_a_rare_class_makes_no_column_a_leak(tmp_path: Path) -> None:
    assert told(tmp_path, kind=["elm" if n % 30 else "oak" for n in range(ROWS)]) == []


def test_rows_on_both_sides_are_counted(tmp_path: Path) -> None:
    twice = {name: [*values[:150], *values[:150]] for name, values in COLUMNS.items()}
    (line,) = told(tmp_path, **twice)
    count, _, rest = line.partition(" of 60 validation rows")
    assert 30 < int(count) <= 60 and rest == " have the inputs of a training row; split by group?"
