"""Studies of a person's own training for tests, as a person would write them."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import tuner
from tests import studies
from tests.study.test_study import Silent
from tuner.events import State
from tuner.history.fold import TrialHistory
from tuner.study.launch import Study

SPACE = {"rate": {"type": "float", "low": 1e-4, "high": 1.0, "log": True}}
GOOD = """
import math, random
def train(trial):
    state = trial.restore() or {"epoch": 0}
    for epoch in range(state["epoch"], trial.epochs):
        loss = abs(math.log10(trial.params["rate"]) + 2) + 1 / (epoch + 1)
        trial.report({"val/loss": loss, "drawn": random.random()}, checkpoint=lambda: {"epoch": epoch + 1})
"""


def content(trial: dict[str, Any], **search: Any) -> dict[str, Any]:
    searched = {"space": SPACE, "objective": {"metric": "val/loss", "goal": "minimize"}, "trials": 3, **search}
    return {
        "study": "own",
        "seed": 1,
        "trial": trial,
        "search": {"sampler": {"kind": "random"}, **searched},
        "run": {"workers": 1},
        "tracking": {"mlflow": "off"},
    }


def launched(folder: Path, code: str, trial: dict[str, Any] | None = None, **search: Any) -> tuple[Study, str]:
    """A study of a function in `train.py`, to its end, and what was said."""
    (folder / "train.py").write_text(code)
    told = {"function": "train.py:train", "epochs": 4, "retries": 0, **(trial or {})}
    return launch(folder, content(told, **search))


def launch(folder: Path, written: dict[str, Any], home: str = "home", **options: Any) -> tuple[Study, str]:
    heard = Silent()
    study = tuner.launch(studies.write(folder, written), home=folder / home, progress=heard, **options)
    return study, "\n".join(heard.lines)


def states(study: Study) -> Counter[State]:
    return Counter(trial.state for trial in study.history.trials.values())


def first(study: Study) -> TrialHistory:
    return study.history.trials[0]


def left(study: Study | Path) -> list[str]:
    """Processes of that study's trials that still run; a folder is a study's."""
    folder = study if isinstance(study, Path) else study.folder
    mark = f"TUNER_WORKER={folder.absolute()}:".encode()
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and int(process.name) != os.getpid():
            try:
                if any(one.startswith(mark) for one in (process / "environ").read_bytes().split(b"\0")):
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
    return found
