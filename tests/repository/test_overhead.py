"""The benchmarks of what trials cost run, with few trials, and count what was done."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.servers import PATIENCE

FOLDER = Path(__file__).parents[2] / "benchmarks"


def run(script: str, out: Path, *words: str) -> tuple[str, dict[str, Any]]:
    """A benchmark to its end: what it printed, and its JSON."""
    command = [sys.executable, str(FOLDER / script), "--repeats", "1", "--out", str(out), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert str(FOLDER.parent) not in done.stdout + out.read_text()
    return done.stdout, json.loads(out.read_text())


def cells(said: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in said.splitlines() if line[:1] == "|"]


@pytest.mark.slow
def test_idle_trials_are_asked_reported_and_ended_by_the_study_loop_itself(tmp_path: Path) -> None:
    who = ["tuner-tpe", "tuner-asha", "optuna-tpe"]
    said, saved = run("overhead.py", tmp_path / "o.json", "--trials", "16", "--epochs", "3", "--who", *who)
    head, _, *body = cells(said)
    assert head[:4] == ["who", "trials", "ms a trial", "µs a report"]
    runs = {one["who"]: one for one in saved["runs"]}
    assert runs.keys() == set(who)
    assert len(body) == len(runs)
    assert (runs["tuner-tpe"]["trials"], runs["tuner-tpe"]["reports"]) == (16, 48)
    assert runs["tuner-asha"]["reports"] < 48, "nobody was stopped"
    for name in ("tuner-tpe", "tuner-asha"):
        seconds = runs[name]["seconds"]
        assert sum(seconds.values()) == pytest.approx(2 * seconds["total"]), "the parts are the whole"
        assert seconds["ask"] > 0 and seconds["ledger"] > 0 and seconds["commit"] > 0


@pytest.mark.slow
def test_what_memory_grows_with_is_measured_for_drivers_and_workers(tmp_path: Path) -> None:
    words = ["--trials", "64", "--epochs", "3", "--samplers", "random", "--cohorts", "2"]
    said, saved = run("memory.py", tmp_path / "m.json", *words)
    _, _, *body = cells(said)
    assert [row[0] for row in body] == ["driver, random, 64 trials", "worker, K = 2"]
    driver, worker = saved["runs"]
    assert driver["memory"][-1][0] == 64
    assert worker["peak"] > 50 * 2**20
