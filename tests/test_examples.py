"""The examples reach the scores that people would expect of them, from their files as they stand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import studies

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("example", "at_least"),
    [("mnist-cnn", 0.965), ("digits-mlp", 0.97), ("breast-cancer", 0.96)],
)
def test_an_example_reaches_its_score(example: str, at_least: float, tmp_path: Path) -> None:
    said = studies.run(ROOT / "examples" / f"{example}.yaml", tmp_path, "--set", "tracking.mlflow=off", seconds=800)
    assert "every trial: " in said and "dashboard: " in said
    command = [sys.executable, "-P", "-c", "from tuner.cli import main; main()", "best", example]
    told = subprocess.run(
        [*command, "--output", "json", "--home", str(tmp_path)], capture_output=True, text=True, check=True
    )
    best = json.loads(told.stdout)
    assert best["metrics"]["val/accuracy"] >= at_least
    assert best["metrics"]["test/accuracy"] >= at_least - 0.03  # a fifth of the rows, seen once
