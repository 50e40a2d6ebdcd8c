"""A complete study that is launched again: nothing is trained, and MLflow is found up to date without a wait."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import studies
from tests.forks import Run


@pytest.mark.slow
def test_a_complete_study_that_is_launched_again_finds_mlflow_up_to_date(tmp_path: Path, run: Run) -> None:
    written = studies.study(search={"trials": 2}, train={"epochs": 1}, tracking={"mlflow": "embedded"})
    path, home = studies.write(tmp_path, written), tmp_path / "home"
    assert "MLflow:      up to date" in run(path, home)
    again = run(path, home)
    assert "study small is complete: 2 trials" in again
    assert "MLflow:      up to date" in again
    assert "waiting" not in again
