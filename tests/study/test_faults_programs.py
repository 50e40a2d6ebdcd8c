"""A person's own training under kills: whatever dies costs no result, leaves no process, and MLflow has what there is.

A kill comes when a trial has come to an epoch, drawn from a printed seed; the trial does it itself, to itself, to the
process that began it, to the worker or to the driver.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from tests import programs, studies
from tests.forks import Run
from tests.servers import until
from tests.stores import Store
from tests.study.test_faults import check_ledger
from tuner.events import State
from tuner.ledger import study_folder

TRIALS, EPOCHS = 10, 4
KILLS = {"trial": 4, "server": 4, "worker": 4, "driver": 3}

# A function and a command in one. A command never knows when a checkpoint is due: here after every epoch.
PROGRAM = """
import json, os, signal, subprocess
from pathlib import Path

ABOVE = ["trial", "server", "worker", "driver"]  # each is the child of the next
DRAWN = json.loads(Path(__file__).with_name("kills.json").read_text())
KILLS = {(number, epoch): victim for number, epoch, victim in DRAWN}

def above(steps):
    process = os.getpid()
    for _ in range(steps):
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return process

def killed(trial, epoch):
    victim, mark = KILLS.get((trial.number, epoch)), trial.folder / f"killed-{epoch}"
    if victim is not None and not mark.exists():
        mark.write_text(victim)
        os.kill(above(ABOVE.index(victim)), signal.SIGKILL)
        signal.pause()

def train(trial):
    subprocess.Popen(["sleep", "600"])
    state = trial.restore() or {"epoch": 0, "sum": 0.0}
    total = state["sum"]
    for epoch in range(state["epoch"] + 1, trial.epochs + 1):
        killed(trial, epoch)
        total += trial.params["rate"] * epoch
        trial.report({"val/accuracy": total, "begun": state["epoch"]}, checkpoint={"epoch": epoch, "sum": total})
    killed(trial, trial.epochs + 1)

if __name__ == "__main__":
    import tuner
    from tuner.workloads import context

    context.CHECKPOINT_SECONDS = 0.0
    train(tuner.current_trial())
"""


def drawn(seed: int) -> list[tuple[int, int, str]]:
    """Who is killed by which trial, before it reports which epoch, or after the last; each point once."""
    generator = random.Random(seed)
    points: list[tuple[int, int, str]] = []
    for victim, count in KILLS.items():
        for trial in generator.sample(range(TRIALS), count):
            taken = {epoch for number, epoch, _ in points if number == trial}
            points.append((trial, generator.choice([e for e in range(1, EPOCHS + 2) if e not in taken]), victim))
    return sorted(points)


def written(kind: str, folder: Path) -> Path:
    (folder / "train.py").write_text(PROGRAM)
    run: dict[str, Any] = {"command": [sys.executable, "train.py"]}
    if kind == "function":
        run = {"function": "train.py:train"}
    # It waits for a verdict after every epoch, where a function's checkpoint is due, and stops nobody.
    content = programs.content(
        {**run, "epochs": EPOCHS, "retries": sum(KILLS.values())},
        objective={"metric": "val/accuracy", "goal": "maximize"},
        pruner=studies.WAITING,
        trials=TRIALS,
    )
    content["tracking"] = {"mlflow": "embedded"}
    return studies.write(folder, content)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["function", "command"])
def test_fifteen_kills_of_one_tracked_study_lose_nothing_and_leave_nothing_running(
    kind: str, run: Run, tmp_path: Path
) -> None:
    seed = int(os.environ.get("TUNER_FAULT_SEED", "7"))
    kills = drawn(seed)
    print("seed", seed, kills)
    path, home = written(kind, tmp_path), tmp_path / "home"
    (tmp_path / "kills.json").write_text(json.dumps(kills))
    folder = study_folder(home, "own")
    for code in [-signal.SIGKILL] * KILLS["driver"] + [0]:
        said = run(path, home, code=code)
        assert "Traceback" not in said
        until(lambda: not programs.left(folder))
    marks = {
        (int(mark.parent.name), int(mark.name.removeprefix("killed-")), mark.read_text())
        for mark in folder.glob("trials/*/killed-*")
    }
    assert marks == set(kills) and len(kills) == 15
    check_ledger(home, TRIALS, "own")
    history = studies.history(home, "own")
    for trial in history.trials.values():
        assert trial.state is State.COMPLETE, trial.message
        sums = accumulate(float(trial.params["rate"]) * epoch for epoch in range(1, EPOCHS + 1))
        values = [trial.reports[epoch]["val/accuracy"] for epoch in sorted(trial.reports)]
        assert values == pytest.approx([*sums])
    assert any(trial.reports[EPOCHS]["begun"] > 0 for trial in history.trials.values()), "none went on where it was"
    assert sum(history.losses.values()) == KILLS["worker"]
    Store(home).assert_equals("own", history)
