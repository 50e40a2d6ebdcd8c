"""Commands as trials: what they report, how they fail, and how they are ended."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.programs import content, first, launch, left, states
from tests.servers import until
from tuner.events import State


def test_a_command_reports_in_a_file(tmp_path: Path) -> None:
    script = """
import json, os, sys
rate = float(sys.argv[1].partition("=")[2])
with open(os.environ["TUNER_REPORT"], "a") as file:
    for epoch in (1, 2):
        print(json.dumps({"epoch": epoch, "val/loss": rate / epoch}), file=file)
"""
    (tmp_path / "train.py").write_text(script)
    trial = {"command": [sys.executable, "train.py", "--rate={rate}"], "epochs": 2}
    study, _ = launch(tmp_path, content(trial))
    assert states(study) == {State.COMPLETE: 3}
    for one in study.history.trials.values():
        assert one.reports[2]["val/loss"] == pytest.approx(float(one.params["rate"]) / 2)


def test_a_command_in_python_may_ask_for_its_trial(tmp_path: Path) -> None:
    script = (
        "import tuner\ntrial = tuner.current_trial()\ntrial.report({'val/loss': trial.params['rate'] + trial.number})\n"
    )
    (tmp_path / "train.py").write_text(script)
    study, _ = launch(tmp_path, content({"command": [sys.executable, "train.py"], "epochs": 1}))
    assert states(study) == {State.COMPLETE: 3}
    for one in study.history.trials.values():
        assert one.reports[1]["val/loss"] == pytest.approx(float(one.params["rate"]) + one.number)


def test_metrics_may_stand_in_what_a_command_prints(tmp_path: Path) -> None:
    words = (
        "echo 'epoch 1: nothing yet'; echo cuda=0 workers=4; echo epoch=1 val/loss=0.5, acc=1e-1; echo val/loss=0.25"
    )
    trial = {"command": ["sh", "-c", words], "metrics": "stdout", "epochs": 2}
    study, _ = launch(tmp_path, content(trial, trials=1))
    assert {epoch: dict(values) for epoch, values in first(study).reports.items()} == {
        1: {"val/loss": 0.5, "acc": 0.1},
        2: {"val/loss": 0.25},
    }


@pytest.mark.parametrize(
    ("words", "reports"),
    [
        ('printf \'{"val/loss": 2}\\n{"val/loss": 1}\' >> $TUNER_REPORT', [2.0, 1.0]),
        ('printf \'{"val/loss": 2}\\n\\n{"val/loss": 1}\\n\\n\' >> $TUNER_REPORT', [2.0, 1.0]),
        ("printf '{\"val/loss\": 2}\\r\\n' >> $TUNER_REPORT", [2.0]),
    ],
    ids=["no newline at the end", "empty lines", "carriage returns"],
)
def test_lines_may_end_as_they_like(words: str, reports: list[float], tmp_path: Path) -> None:
    study, _ = launch(tmp_path, content({"command": ["sh", "-c", words], "retries": 0}, trials=1))
    assert states(study) == {State.COMPLETE: 1}
    assert [first(study).reports[epoch]["val/loss"] for epoch in sorted(first(study).reports)] == reports


@pytest.mark.parametrize("number", ["nan", "NaN", "-nan", "inf", "Infinity"])
def test_what_is_printed_of_a_number_that_is_none_is_understood(number: str, tmp_path: Path) -> None:
    trial = {"command": ["echo", f"epoch=1 val/loss={number}"], "metrics": "stdout", "retries": 0}
    study, _ = launch(tmp_path, content(trial, trials=1))
    assert states(study) == {State.FAILED: 1} and "diverged at epoch 1 (val/loss=" in first(study).message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("echo no such layer >&2; exit 3", "its process ended with exit code 3: no such layer"),
        ("exit 0", "it ended without a report"),
        ('echo \'{"epoch": 2, "val/loss": 1}\' >> $TUNER_REPORT', "expected a report of epoch 1 next, got epoch 2"),
        ("echo 'val/loss: 3' >> $TUNER_REPORT", "got the line val/loss: 3"),
        ("kill -9 $$", "its process was ended by SIGKILL"),
    ],
)
def test_a_command_that_fails_says_why(words: str, message: str, tmp_path: Path) -> None:
    trial = {"command": ["sh", "-c", words], "retries": 0}
    study, _ = launch(tmp_path, content(trial, trials=1))
    assert states(study) == {State.FAILED: 1} and message in first(study).message


def test_a_command_that_heeds_no_signal_is_killed_with_its_children(tmp_path: Path) -> None:
    words = "trap '' TERM; sleep 600 & echo '{\"val/loss\": {number}}' >> $TUNER_REPORT; wait; sleep 600"
    trial = {"command": ["sh", "-c", words], "epochs": 3, "grace": 0.3, "silence": 1, "retries": 0}
    study, _ = launch(tmp_path, content(trial, trials=2, pruner={"kind": "median", "startup": 1}))
    assert states(study) == {State.FAILED: 2}
    assert "it gave no sign for 1 s" in first(study).message
    until(lambda: not left(study))


def test_python_is_the_one_that_tuner_runs_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    (tmp_path / "train.py").write_text("import sys, tuner\nprint('prefix', sys.prefix)\nprint('epoch=1 val/loss=1')\n")
    trial = {"command": ["python", "train.py"], "metrics": "stdout", "retries": 0}
    study, _ = launch(tmp_path, content(trial, trials=1))
    assert states(study) == {State.COMPLETE: 1}, first(study).message


def test_a_killed_command_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    script = """
import os, signal, tuner
trial = tuner.current_trial()
state = trial.restore() or {"epoch": 0}
for epoch in range(state["epoch"], trial.epochs):
    mark = trial.folder / "killed"
    if epoch == 2 and not mark.exists():
        mark.write_text("once")
        os.kill(os.getpid(), signal.SIGKILL)
    trial.report({"val/loss": 1.0, "begun": state["epoch"]}, checkpoint={"epoch": epoch + 1})
"""
    (tmp_path / "train.py").write_text(script)
    trial = {"command": [sys.executable, "train.py"], "epochs": 4, "retries": 1}
    pruner = {"kind": "median", "startup": 1_000}  # it decides after every epoch, where a checkpoint is due
    study, lines = launch(tmp_path, content(trial, trials=1, pruner=pruner))
    assert states(study) == {State.COMPLETE: 1}
    assert "trial 0: its process was ended by SIGKILL; begun again after epoch 2" in lines
    assert [first(study).reports[epoch]["begun"] for epoch in (1, 2, 3, 4)] == [0, 0, 2, 2]


def test_nan_as_c_prints_it_is_a_trial_that_diverged(tmp_path: Path) -> None:
    words = "echo '{\"val/loss\": -nan}' >> $TUNER_REPORT"
    study, _ = launch(tmp_path, content({"command": ["sh", "-c", words], "retries": 0}, trials=1))
    assert first(study).message == "diverged at epoch 1 (val/loss=nan)"
