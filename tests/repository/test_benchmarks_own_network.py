"""The benchmark of a person's own network, with the smallest work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "own_network.py"


@pytest.mark.slow
def test_its_two_tables_have_a_row_for_each_way() -> None:
    command = [sys.executable, str(SCRIPT), "--repeats", "1", "--epochs", "1", "--width", "8"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    rows = [line for line in ran.stdout.splitlines() if "×" in line]
    named = ["alone", "ghost", "cohort of 2", "cohort of 4", "cohort of 8", "plain", "ours"]
    assert len(rows) == len(named) and all(name in row for name, row in zip(named, rows, strict=True)), ran.stdout
