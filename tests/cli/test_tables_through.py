"""Tables as people have them go from `init` over `launch` to `predict` without an edit."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import datasets as carried

from tests.forks import Forks, ran

ROWS = 150
DRAW = np.random.default_rng(4)


def kinds() -> list[str]:
    return DRAW.choice(["elm", "oak", "ash"], ROWS).tolist()


def passengers() -> pd.DataFrame:
    """Names, identifiers, a constant, empty cells, and a class of one row."""
    frame = pd.DataFrame({"PassengerId": range(1, ROWS + 1), "Name": [f"Person, Mr. {i}" for i in range(ROWS)]})
    frame["Sex"], frame["Age"] = DRAW.choice(["male", "female"], ROWS), DRAW.normal(30, 9, ROWS).round(1)
    frame.loc[::7, "Age"] = np.nan
    frame["Deck"], frame["Ship"] = DRAW.choice(["A", "B", None], ROWS), "one"
    frame["Survived"] = kinds()
    frame.loc[3, "Survived"] = "unknown"
    return frame


def readings() -> pd.DataFrame:
    """Dates and times, cells of words among numbers, and rows without a target."""
    frame = pd.DataFrame({"datetime": pd.date_range("2024-03-01 08:00", periods=ROWS, freq="3h")})
    signal = DRAW.normal(100, 20, ROWS).round(1)
    frame["signal"] = np.where(DRAW.random(ROWS) < 0.1, "nil", signal.astype(str))
    frame["glucose"] = signal * 2 + DRAW.normal(0, 3, ROWS)
    frame.loc[[5, 40], "glucose"] = np.nan
    return frame


def prices() -> pd.DataFrame:
    """Currency, thousands, per cent, towns, and another notation of numbers."""
    amount = DRAW.integers(1_000, 90_000, ROWS)
    frame = pd.DataFrame(
        {"income": [f"${value:,}" for value in amount], "share": [f"{value % 97}%" for value in amount]}
    )
    frame["town"] = DRAW.choice([f"town {i}" for i in range(40)], ROWS)
    frame["price"] = amount / 7
    return frame


TABLES: dict[str, tuple[Callable[[], pd.DataFrame], str, str]] = {
    "passengers": (passengers, "Survived", ".csv"),
    "readings": (readings, "glucose", ".csv"),
    "readings in Excel": (readings, "glucose", ".xlsx"),
    "prices": (prices, "price", ".jsonl"),
    "prices packed": (prices, "price", ".csv.gz"),
    "irises": (lambda: carried.load_iris(as_frame=True).frame, "target", ".parquet"),
    "wines": (lambda: carried.load_wine(as_frame=True).frame, "target", ".csv"),
    "diabetes": (lambda: carried.load_diabetes(as_frame=True).frame, "target", ".csv"),
}


def write(frame: pd.DataFrame, ending: str, folder: Path) -> Path:
    path = folder / f"table{ending}"
    if ending == ".xlsx":
        frame.to_excel(path, index=False)
    elif ending == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif ending == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_csv(path, index=False)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_a_table_goes_through_without_an_edit(name: str, forks: Forks, tmp_path: Path) -> None:
    make, target, ending = TABLES[name]
    frame = make()
    path, home = write(frame, ending, tmp_path), ["--home", str(tmp_path / "home")]
    study = str(tmp_path / "study.yaml")
    ran(forks.tuner("init", "--data", str(path), "--target", target, "--trials", "3", "--output", study))
    ran(forks.launch(study, *home, "--set", "train.epochs=2", "--set", "tracking.mlflow=off"))
    (new := tmp_path / "new").mkdir()
    asked = forks.tuner("predict", "table", str(write(frame.drop(columns=target).head(20), ending, new)), *home)
    answers, said = asked.communicate()
    assert asked.returncode == 0, said
    rows = list(csv.DictReader(answers.splitlines()))
    assert len(rows) == 20 and all(value for row in rows for value in row.values())
