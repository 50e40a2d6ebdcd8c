"""A person's own training in Ray Tune's hands."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import studies
from tests.programs import GOOD, content, launch, left, states
from tests.servers import PATIENCE, until
from tuner.errors import SpecError
from tuner.events import Failed, State
from tuner.ledger import Ledger
from tuner.spec import StudySpec

pytest.importorskip("tuner.ray_tune")
pytestmark = [pytest.mark.xdist_group("ray-tune"), pytest.mark.usefixtures("ray")]

SCRIPT = "\nif __name__ == '__main__':\n    import tuner\n    train(tuner.current_trial())\n"


def tuned(trial: dict[str, Any], scheduler: str | None = None, **search: Any) -> dict[str, Any]:
    written = content({"epochs": 4, "retries": 0, **trial}, **search)
    written["run"] = {"executor": "ray-tune", "workers": 2} | ({"scheduler": scheduler} if scheduler else {})
    return written


def kinds(folder: Path, kind: str, code: str) -> dict[str, Any]:
    (folder / "train.py").write_text(code + SCRIPT)
    return {"function": "train.py:train"} if kind == "function" else {"command": [sys.executable, "train.py"]}


@pytest.mark.parametrize("kind", ["function", "command"])
def test_ray_tune_drives_a_persons_own_training_to_the_loops_numbers(kind: str, tmp_path: Path) -> None:
    code = GOOD.replace('"drawn": random.random()', '"loss": loss')
    trial = kinds(tmp_path, kind, code)
    study, _ = launch(tmp_path, tuned(trial))
    assert states(study) == {State.COMPLETE: 3}
    loop, _ = launch(tmp_path, content({"epochs": 4, "retries": 0, **trial}), "loop")
    assert studies.facts(study.history) == studies.facts(loop.history)
    until(lambda: not left(study))


@pytest.mark.parametrize("scheduler", ["asha", "hyperband", "median"])
def test_schedulers_stop_trials_which_clean_up(scheduler: str, tmp_path: Path) -> None:
    code = """
def train(trial):
    state = trial.restore() or {"epoch": 0}
    try:
        for epoch in range(state["epoch"], trial.epochs):
            trial.report({"val/loss": trial.number + 1.0}, checkpoint={"epoch": epoch + 1})
    finally:
        with open(trial.folder / "ends", "a") as file:
            print(trial.epoch, file=file)
"""
    study, _ = launch(tmp_path, tuned(kinds(tmp_path, "function", code), scheduler, trials=9))
    counted = states(study)
    assert counted[State.COMPLETE] >= 1 and counted.total() == 9 == counted[State.COMPLETE] + counted[State.PRUNED]
    for number, trial in study.history.trials.items():
        assert sorted(trial.reports) == list(range(1, len(trial.reports) + 1))
        if trial.state is State.PRUNED:
            ends = (study.folder / "trials" / f"{number:06d}" / "ends").read_text().split()
            assert int(ends[-1]) == len(trial.reports)
    until(lambda: not left(study))


def test_a_trial_that_fails_says_why_and_harms_no_other(tmp_path: Path) -> None:
    code = "def train(trial):\n    if trial.number == 1: raise ValueError('no luck')\n"
    code += "    return {'val/loss': 1, 'a': 2}\n"
    study, _ = launch(tmp_path, tuned(kinds(tmp_path, "function", code)))
    assert states(study) == {State.COMPLETE: 2, State.FAILED: 1}
    failed = study.history.trials[1]
    assert failed.message == "ValueError: no luck (train.py:2)"
    with Ledger.open(study.folder, read_only=True) as ledger:
        (event,) = (event for event in ledger.read() if isinstance(event, Failed))
    assert event.traceback.startswith("Traceback")
    assert study.history.trials[0].reports[1] == {"val/loss": 1.0, "a": 2.0}


def test_a_killed_launch_goes_on_from_checkpoints(tmp_path: Path) -> None:
    code = """
import os, signal
def train(trial):
    state = trial.restore() or {"epoch": 0}
    for epoch in range(state["epoch"], trial.epochs):
        mark = trial.folder / "killed"
        if trial.number == 1 and epoch == 2 and not mark.exists():
            mark.write_text("once")
            os.kill(int(open("DRIVER").read()), signal.SIGKILL)
            signal.pause()
        trial.report({"val/loss": trial.params["rate"] * (epoch + 1)}, checkpoint={"epoch": epoch + 1})
"""
    written = tuned(kinds(tmp_path, "function", code.replace("DRIVER", str(tmp_path / "driver"))), "median")
    path = studies.write(tmp_path, written)
    process = studies.start(path, tmp_path / "home")
    (tmp_path / "driver").write_text(str(process.pid))
    process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL
    study, _ = launch(tmp_path, written)
    assert states(study).total() == 3 and states(study)[State.FAILED] == 0
    until(lambda: not left(study))


@pytest.mark.parametrize(
    ("scheduler", "trial", "message"),
    [
        ("pbt", {}, "expected another scheduler for a person's own training, got pbt"),
        ("asha", {"epochs": None}, "expected epochs, which scheduler asha counts, got none"),
    ],
)
def test_schedulers_that_cannot_be_are_told(
    scheduler: str, trial: dict[str, Any], message: str, tmp_path: Path
) -> None:
    written = tuned({"function": "train.py:train", **trial}, scheduler)
    with pytest.raises(SpecError, match=message):
        StudySpec.read(studies.write(tmp_path, written))
