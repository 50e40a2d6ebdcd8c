"""A small study of every workload, and jobs of it that a test hands to an executor itself."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tests import programs, studies
from tuner.events import Cohort, Trial
from tuner.executors.local import LocalExecutor
from tuner.executors.protocol import Executor
from tuner.spec import StudySpec
from tuner.workloads.base import Job, Setup
from tuner.workloads.kinds import KINDS, workload

NETWORK = """
from torch import nn

class Net(nn.Module):
    def __init__(self, signature, width: int = 8):
        super().__init__()
        if width == 13:
            raise ValueError("no such luck")
        self.layers = nn.Sequential(nn.Linear(30, width), nn.ReLU(), nn.Linear(width, signature.outputs))

    def forward(self, x):
        return self.layers(x)
"""

# One program, called as a function and run as a command. A command cannot wait for a verdict, so it is never known when
# its checkpoint is due: here after every epoch.
PROGRAM = """
import math, os, signal, subprocess, time

def train(trial):
    act, mark = trial.params.get("act", ""), trial.folder / "died"
    subprocess.Popen(["sleep", "600"])
    state = trial.restore() or {"epoch": 0, "sum": 0.0}
    total = state["sum"]
    for epoch in range(state["epoch"] + 1, trial.epochs + 1):
        if act == "raises":
            raise ValueError("no such luck")
        if act == "hangs" and epoch == 3:
            time.sleep(600)
        if act == "dies" and epoch == 3 and not mark.exists():
            mark.write_text("once")
            os.kill(os.getpid(), signal.SIGKILL)
        if act == "hangs once" and epoch == 3 and not mark.exists():
            mark.write_text("once")
            time.sleep(600)
        total += math.nan if act == "diverges" else trial.params["rate"] * epoch
        checkpoint = None if act == "forgets" else {"epoch": epoch, "sum": total}
        trial.report({"val/loss": total}, checkpoint=checkpoint)

if __name__ == "__main__":
    import tuner
    from tuner.workloads import context

    context.CHECKPOINT_SECONDS = 0.0
    train(tuner.current_trial())
"""
ACTS: dict[str, dict[str, Any]] = {"diverges": {"learning_rate": 1e30}, "raises": {"width": 13}}  # of networks
EPOCHS = 4


def written(kind: str, folder: Path, **trial: Any) -> dict[str, Any]:
    """A study of that kind, and the files that it names, in the folder; with these keys of `trial`."""
    (folder / "net.py").write_text(NETWORK)
    (folder / "train.py").write_text(PROGRAM)
    if kind == "network":
        space = {"learning_rate": {"type": "float", "low": 1e-3, "high": 0.1, "log": True}}
        objective = {"metric": "val/loss", "goal": "minimize"}
        content = studies.study(
            model={"width": 8},
            train={"epochs": EPOCHS, "optimizer": "sgd"},
            search={"space": space, "objective": objective, "trials": 3},
        )
        content["model"] = {"family": "net.py:Net", "width": 8}
        return content
    run = {"function": "train.py:train"} if kind == "function" else {"command": [sys.executable, "train.py"]}
    return programs.content({**run, "epochs": EPOCHS, **trial})


class Example:
    """Trials of one kind, each doing as a test says. Trials and cohorts are numbered through."""

    def __init__(self, kind: str, folder: Path, **trial: Any) -> None:
        assert kind in KINDS
        folder.mkdir()
        self.kind = kind
        self._workload = workload(StudySpec.read(studies.write(folder, written(kind, folder, **trial))))
        self._trials = self._cohorts = 0

    def setup(self, folder: Path) -> Setup:
        """Of a worker that trains in that folder."""
        return Setup(self.kind, self._workload.setup(), str(folder), "cpu", 1)

    def begin(self, executor: str, folder: Path) -> Executor:
        """One worker, which trains in that folder."""
        setup = self.setup(folder)
        if executor == "local":
            return LocalExecutor([setup])
        from tuner.executors.ray_cluster import Needs, RayExecutor

        return RayExecutor(setup, 1, Needs(1.0), self._workload.shared_for_remote(), self._workload.bundle())

    def jobs(self, *acts: str, rungs: Collection[int] = ()) -> list[Job]:
        """For every act a trial: networks in one cohort, others each in its own. At `rungs` they wait for a verdict."""
        trials = [self._trial(number, act) for number, act in enumerate(acts, self._trials)]
        self._trials += len(trials)
        found = []
        for members in [tuple(trials)] if self.kind == "network" else [(trial,) for trial in trials]:
            cohort = Cohort(self._cohorts, members, {}, company=len(members) > 1)
            self._cohorts += 1
            payload = self._workload.payload(cohort, lambda _: set(rungs))
            found.append(Job(cohort.number, tuple(trial.number for trial in members), 1, payload))
        return found

    def _trial(self, number: int, act: str) -> Trial:
        if self.kind == "network":
            return Trial(number, {"learning_rate": 0.01, **ACTS.get(act, {})}, number)
        return Trial(number, {"rate": 0.01, "act": act}, number)
