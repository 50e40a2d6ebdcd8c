"""Small real studies for the tests that run whole ones, as a person would write them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.servers import PATIENCE
from tuner.data.dataset import Dataset
from tuner.history.fold import History
from tuner.ledger import Ledger, study_folder
from tuner.spec import StudySpec
from tuner.study import preflight
from tuner.workloads.network.plan import Plan
from tuner.workloads.network.workload import NetworkWorkload

SMALL: dict[str, Any] = {
    "study": "small",
    "seed": 3,
    "data": {"source": "breast_cancer"},
    "model": {"family": "mlp", "norm": "layer"},
    "train": {"epochs": 6},
    "search": {
        "space": {
            "learning_rate": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
            "width": {"type": "choice", "values": [8, 16, 24]},
            "batch_size": {"type": "choice", "values": [32, 64]},
            "dropout": {"type": "float", "low": 0.0, "high": 0.4},
            "optimizer": {"type": "choice", "values": ["sgd", "adam", "rmsprop"]},
        },
        "objective": {"metric": "val/accuracy", "goal": "maximize"},
        "sampler": {"kind": "random"},
        "trials": 12,
    },
    "run": {"workers": 1, "device": "cpu"},
    "tracking": {"mlflow": "off"},
}


def plan(spec: StudySpec, dataset: Dataset | None = None) -> Plan:
    """What a study of networks will do; its data are read unless they are given. Raises SpecError."""
    made = preflight.plan(spec, NetworkWorkload(spec, dataset))
    assert isinstance(made, Plan)
    return made


# It stops nobody, and a worker waits after every epoch: whoever is killed then is in the middle of its work.
WAITING = {"kind": "median", "startup": 1_000}


def study(**changes: Any) -> dict[str, Any]:
    """SMALL with the sections' keys replaced: `study(search={"trials": 3})`."""
    made = json.loads(json.dumps(SMALL))
    for key, value in changes.items():
        made[key] = {**made[key], **value} if isinstance(value, dict) else value
    return made


def write(folder: Path, content: dict[str, Any], name: str = "study.yaml") -> Path:
    """JSON is YAML."""
    path = folder / name
    path.write_text(json.dumps(content, indent=2))
    return path


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}


def start(path: Path, home: Path, *arguments: str) -> subprocess.Popen[str]:
    """`tuner launch`, in a process of its own."""
    command = [sys.executable, "-P", "-c", "from tuner.cli import main; main()", "launch", str(path)]
    return subprocess.Popen(
        [*command, "--home", str(home), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def run(path: Path, home: Path, *arguments: str, expect: int = 0) -> str:
    """`tuner launch` to its end; what it printed."""
    process = start(path, home, *arguments)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == expect, f"exit {process.returncode}\n{out}\n{err}"
    return out + err


def history(home: Path, name: str = "small") -> History:
    with Ledger.open(study_folder(home, name), read_only=True) as ledger:
        return ledger.history()


def facts(told: History) -> dict[int, Any]:
    """What must be equal however a study came to its end: everything about its trials but times."""
    return {
        number: (dict(t.params), t.seed, t.state, t.reports, t.message, t.tested) for number, t in told.trials.items()
    }
