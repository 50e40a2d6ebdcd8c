"""`tuner check` of a person's own training: what importing it shows, and with --try what one trial shows."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests import studies
from tests.programs import content
from tuner.cli import app
from tuner.study.trying import first_report
from tuner.workloads.kinds import workload

CODE = """
def good(trial):
    while True:
        trial.report({"val/loss": trial.params["rate"]})
def other(trial): return {"loss": 1}
def bad(trial): raise ValueError("no such layer")
good_of_none = lambda: None
"""


def check(folder: Path, trial: dict[str, Any], *words: str) -> tuple[int, str, str]:
    path = studies.write(folder, content({"epochs": 3, **trial}))
    done = CliRunner().invoke(app, ["check", str(path), *words])
    return done.exit_code, done.stdout, done.stderr + (f"{done.exception}" if done.exception else "")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import nothing_of_that_name\ndef train(trial): ...", "No module named 'nothing_of_that_name' (train.py:1)"),
        ("import os\ndef train(trial): ...\nos._exit(3)", "got the end of its process (exit code 3)"),
        ("train = lambda: None", "expected a function of one argument, the trial, got train.py:train"),
        ("def other(trial): ...\nif 0:\n    train = other", "has no function train"),
    ],
)
def test_check_imports_the_function(code: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(code)
    code_of_exit, _, errors = check(tmp_path, {"function": "train.py:train"})
    assert code_of_exit != 0 and "trial.function: " in errors and said in errors


def test_an_import_that_never_ends_is_told(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import time\ntime.sleep(600)\ndef train(trial): ...")
    _, _, errors = check(tmp_path, {"function": "train.py:train", "timeout": 0.5})
    assert "expected an import that ends, got none in 0.5 s" in errors


def test_try_runs_one_trial_to_its_first_report(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(CODE)
    code, out, errors = check(tmp_path, {"function": "train.py:good"}, "--try")
    assert code == 0, errors
    assert ": val/loss 0.0001 (with rate 0.0001)" in out.splitlines()[-1]
    _, out, _ = check(tmp_path, {"function": "train.py:other"}, "--try")
    assert out.splitlines()[-1] == "warning   the first report has no val/loss, the study's objective"
    assert not (tmp_path / "tuner-home").exists()


@pytest.mark.parametrize(
    ("trial", "said"),
    [
        (
            {"function": "train.py:bad"},
            "with the smallest values fails: ValueError: no such layer (train.py:6)",
        ),
        ({"command": [sys.executable, "-c", "import sys; sys.exit('no luck')"]}, "ended with exit code 1: no luck"),
        ({"command": ["true"]}, "a trial with the smallest values fails: it ended without a report"),
    ],
)
def test_try_tells_why_a_trial_fails(trial: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(CODE)
    code, _, errors = check(tmp_path, trial, "--try")
    assert code == 1 and said in errors


def test_a_network_is_tried_too(tmp_path: Path) -> None:
    from tuner.spec import StudySpec

    spec = StudySpec.read(studies.write(tmp_path, json.loads(json.dumps(studies.SMALL))))
    report = first_report(spec, workload(spec))
    assert report.params == spec.space.smallest() and report.params["width"] == 8
    assert "val/accuracy" in report.metrics
