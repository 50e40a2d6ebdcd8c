"""The ledgers of twelve small studies, written by two versions of Tuner and compared event by event.

`python tests/ledgers.py OTHER_CHECKOUT` trains the same study files here and there (each checkout needs its `.venv`)
and prints for each study how many events are the same to the bit. Exits with 1 where one differs. What depends on the
moment or the machine is left out: times, process numbers, paths. A key that only this version writes is listed.
Takes three minutes.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).resolve().parents[1]
VOLATILE = {"id", "host", "pid", "machine", "folder", "seconds", "worker", "tracking", "text", "traceback"}
NETWORK = """
import {extra}
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, signature, width: int = 8, scale: float = 1.0):
        super().__init__()
        self.scale = scale
        ends = nn.Linear(signature.inputs[0], width), nn.Linear(width, signature.outputs)
        self.layers = nn.Sequential(ends[0], nn.ReLU(), ends[1])

    def forward(self, x):
        noise = {noise}
        return self.layers(x) * self.scale + noise
"""
RATE = {"learning_rate": {"type": "float", "low": 1e-3, "high": 0.1, "log": True}}
WIDTH = {"width": {"type": "choice", "values": [8, 16]}}
OPTIMIZER = {
    "optimizer": {"type": "choice", "values": ["sgd", "adam"]},
    "momentum": {"type": "float", "low": 0.0, "high": 0.9, "when": {"optimizer": "sgd"}},
}
ACCURACY = {"metric": "val/accuracy", "goal": "maximize"}
LOSS = {"metric": "val/loss", "goal": "minimize"}


def study(source: str, model: dict[str, Any], space: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A study file's content; `more` are keys of `search`, and `train` and `run`."""
    train, run = more.pop("train", {}), more.pop("run", {})
    search = {"space": space, "objective": ACCURACY, "trials": 8, **more}
    return {
        "seed": 5,
        "data": {"source": source},
        "model": model,
        "train": {"epochs": 4, **train},
        "search": search,
        "run": {"workers": 1, "device": "cpu", **run},
        "tracking": {"mlflow": "off"},
    }


ASHA = {"kind": "asha", "min_epochs": 1, "reduction": 2}
HALVES = {"dropout": {"type": "float", "low": 0.0, "high": 0.5}}
STUDIES = {
    "mlp-tpe-asha": study(
        "breast_cancer",
        {"family": "mlp"},
        {**RATE, **WIDTH, **OPTIMIZER},
        sampler={"kind": "tpe"},
        pruner=ASHA,
        trials=16,
    ),
    "cnn-random-median": study(
        "digits",
        {"family": "cnn", "width": 4},
        {**RATE, **HALVES},
        sampler={"kind": "random"},
        pruner={"kind": "median", "startup": 3},
    ),
    "lstm-gp-hyperband": study(
        "syllables",
        {"family": "rnn", "cell": "lstm", "width": 8},
        {**RATE, **HALVES},
        sampler={"kind": "gp"},
        pruner={"kind": "hyperband", "min_epochs": 1},
        trials=6,
    ),
    "gru-random": study(
        "digits-rows", {"family": "rnn", "cell": "gru", "width": 8}, {**RATE, **OPTIMIZER}, sampler={"kind": "random"}
    ),
    "transformer-cmaes-patient": study(
        "syllables",
        {"family": "transformer", "width": 8, "heads": 2},
        RATE,
        sampler={"kind": "cmaes"},
        pruner={"kind": "patient", "patience": 1},
        trials=6,
    ),
    "regression-qmc": study(
        "diabetes",
        {"family": "mlp"},
        {**RATE, **WIDTH},
        sampler={"kind": "qmc"},
        objective=LOSS,
        train={"loss": "huber"},
    ),
    "grid": study(
        "wine",
        {"family": "mlp"},
        {**WIDTH, "learning_rate": {"type": "choice", "values": [0.01, 0.1]}},
        sampler={"kind": "grid"},
        trials=4,
    ),
    "two-objectives": study(
        "wine",
        {"family": "mlp"},
        {**RATE, **WIDTH},
        sampler={"kind": "nsga2"},
        objective=[ACCURACY, {"metric": "parameters", "goal": "minimize"}],
    ),
    "own-fused": study(
        "wine",
        {"family": "fused.py:Net"},
        {**RATE, "scale": {"type": "float", "low": 0.5, "high": 1.5}},
        sampler={"kind": "random"},
    ),
    "own-alone": study("wine", {"family": "alone.py:Net"}, {**RATE, **WIDTH}, sampler={"kind": "random"}),
    "on-ray": study("wine", {"family": "mlp"}, {**RATE, **WIDTH}, sampler={"kind": "random"}, run={"executor": "ray"}),
    "tuned-by-ray": study(
        "wine",
        {"family": "mlp"},
        RATE,
        sampler={"kind": "random"},
        trials=4,
        run={"executor": "ray-tune", "scheduler": "fifo"},
    ),
}


def main() -> int:
    """Train everywhere, compare, print a line for each study."""
    other, *chosen = sys.argv[1:]
    same = True
    with TemporaryDirectory(prefix="tuner-ledgers-") as place:
        folder = Path(place)
        (folder / "fused.py").write_text(NETWORK.format(extra="math", noise="0.0"))
        (folder / "alone.py").write_text(NETWORK.format(extra="numpy", noise="float(numpy.random.rand()) * 0.1"))
        for name in chosen or STUDIES:
            (folder / f"{name}.yaml").write_text(json.dumps({"study": name, **STUDIES[name]}))
            then, now = (events(checkout, folder, name) for checkout in (Path(other), HERE))
            differences, added = compare(then, now)
            same = same and not differences
            told = f"{len(differences)} DIFFER" if differences else "the same"
            new = f"; new keys: {', '.join(sorted(added))}" if added else ""
            print(f"{name:26} {len(then):4} events, {len(now):4} here: {told}{new}", flush=True)
            for line in differences[:5]:
                print(f"    {line}")
    return 0 if same else 1


def events(checkout: Path, folder: Path, name: str) -> Counter[str]:
    """What a launch by that checkout has stored, each event as a line, without what depends on moment or machine."""
    home = folder / "homes" / checkout.resolve().name / name
    command = [checkout / ".venv" / "bin" / "python", "-m", "tuner", "launch", folder / f"{name}.yaml", "--home", home]
    ran = subprocess.run(
        command, cwd=checkout, capture_output=True, text=True, env={**os.environ, "TUNER_NO_TTY": "1"}, check=False
    )
    if ran.returncode:
        raise SystemExit(f"{name} in {checkout}: exit {ran.returncode}\n{ran.stdout}{ran.stderr}")
    with sqlite3.connect(home / "studies" / name / "ledger.db") as ledger:
        # Whether a window of trials was noted before it was asked depends on who spoke meanwhile.
        rows = ledger.execute("select kind, trial, cohort, epoch, body from events where kind != 'asking'").fetchall()
    found: Counter[str] = Counter()
    for kind, trial, cohort, epoch, body in rows:
        told = {key: value for key, value in json.loads(body).items() if key not in VOLATILE}
        found[json.dumps([kind, trial, cohort, epoch, told], sort_keys=True)] += 1
    return found


def compare(then: Counter[str], now: Counter[str]) -> tuple[list[str], set[str]]:
    """What is not the same, and the keys that are new."""
    added: set[str] = set()
    left = now - then
    differences = []
    for line in (then - now).elements():
        *place, body = json.loads(line)
        for candidate in list(left):
            *where, other = json.loads(candidate)
            if place == where and {key: other.get(key) for key in body} == body:
                added |= {f"{place[0]}.{key}" for key in other.keys() - body.keys()}
                left -= Counter([candidate])
                break
        else:
            differences.append(f"- {line[:200]}")
    return differences + [f"+ {line[:200]}" for line in left.elements()], added


if __name__ == "__main__":
    sys.exit(main())
