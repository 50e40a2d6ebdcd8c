"""Whatever dies, nothing acknowledged is lost, and the study ends as if nothing had died (docs: faults).

The processes are real, the kills are real, their moments are drawn from a printed seed.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests import studies
from tests.stores import Store
from tuner.executors.local import NAME
from tuner.ledger import Ledger, study_folder
from tuner.trial import TERMINAL, Kind

TPE_ASHA = {
    "sampler": {"kind": "tpe", "startup": 6},
    "pruner": {"kind": "asha", "min_epochs": 1, "reduction": 2},
}


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    root = psutil.Process(process.pid)
    return [root, *root.children(recursive=True)]


def a_worker(process: subprocess.Popen[str]) -> psutil.Process:
    return next(member for member in family(process)[1:] if member.name() == NAME.format(0))


def kill_everything(process: subprocess.Popen[str]) -> None:
    """SIGKILL the driver and all that it started, the driver first."""
    for member in family(process):
        if member.is_running():
            member.kill()
    process.communicate()


def check_ledger(home: Path, trials: int, name: str = "small") -> None:
    """I2, I3, I5: one end per trial, the exact number of trials, one report per epoch, epochs without gaps."""
    with Ledger.open(study_folder(home, name), read_only=True) as ledger:
        events = list(ledger.read())
    ended = [event.trial for event in events if event.kind in TERMINAL]
    assert sorted(ended) == list(range(trials))
    reports = [(event.trial, event.epoch) for event in events if event.kind is Kind.REPORTED]
    assert len(reports) == len(set(reports))
    for trial in range(trials):
        epochs = sorted(epoch for number, epoch in reports if number == trial)
        assert epochs == list(range(1, len(epochs) + 1))
    assert [event.seq for event in events] == list(range(1, len(events) + 1))


def kill_and_go_on(path: Path, home: Path, seed: int, kills: int, longest: float, trials: int) -> int:
    """Launch, kill everything at a drawn moment, launch again, …; returns how many kills met a living study."""
    draw = random.Random(seed)
    met = 0
    deadline = time.monotonic() + 240
    while met < kills and time.monotonic() < deadline:
        process = studies.start(path, home)
        folder = study_folder(home, "small")
        before = events_in(folder)
        while process.poll() is None and events_in(folder) <= before:
            time.sleep(0.02)  # at least one new event a life, so that every life gets somewhere
        moment = time.monotonic() + draw.uniform(0.0, longest)
        while process.poll() is None and time.monotonic() < moment:
            time.sleep(0.005)
        if process.poll() is not None:
            assert process.returncode == 0, process.communicate()
            break
        kill_everything(process)
        met += 1
        acknowledged = studies.facts(studies.history(home))
        assert len(acknowledged) <= trials
    return met


def events_in(folder: Path) -> int:
    if not (folder / "ledger.db").exists():
        return 0
    with Ledger.open(folder, read_only=True) as ledger:
        return ledger.last()


@pytest.mark.parametrize("seed", [1])
def test_a_study_killed_at_random_moments_ends_as_an_unbroken_one(seed: int, tmp_path: Path) -> None:
    content = studies.study(search={**TPE_ASHA, "trials": 24}, train={"epochs": 12})
    path = studies.write(tmp_path, content)
    studies.run(path, tmp_path / "whole")
    met = kill_and_go_on(path, tmp_path / "broken", seed, kills=4, longest=0.8, trials=24)
    assert met >= 2, f"seed {seed}"
    studies.run(path, tmp_path / "broken")
    check_ledger(tmp_path / "broken", 24)
    assert studies.facts(studies.history(tmp_path / "broken")) == studies.facts(studies.history(tmp_path / "whole"))


def test_a_killed_worker_costs_its_cohort_no_result(tmp_path: Path) -> None:
    content = studies.study(train={"epochs": 40}, search={"trials": 6})
    path = studies.write(tmp_path, content)
    studies.run(path, tmp_path / "whole")
    process = studies.start(path, tmp_path / "broken")
    folder = study_folder(tmp_path / "broken", "small")
    while events_in(folder) < 30:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    worker = a_worker(process)
    worker.kill()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "worker 0 lost (signal 9), resuming trials" in err
    check_ledger(tmp_path / "broken", 6)
    assert studies.facts(studies.history(tmp_path / "broken")) == studies.facts(studies.history(tmp_path / "whole"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_leaves_a_study_that_goes_on(number: int, code: int, tmp_path: Path) -> None:
    content = studies.study(train={"epochs": 300}, search={"trials": 4})
    path = studies.write(tmp_path, content)
    process = studies.start(path, tmp_path)
    folder = study_folder(tmp_path, "small")
    while events_in(folder) < 20:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    children = family(process)[1:]
    process.send_signal(number)
    began = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert time.monotonic() - began < 10
    assert "stopping, saving" in err
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert list((folder / "checkpoints").glob("*.pt"))
    epochs = max(trial.epochs for trial in studies.history(tmp_path).trials.values())
    err = studies.run(path, tmp_path)
    assert "resuming: " in err
    check_ledger(tmp_path, 4)
    with Ledger.open(folder, read_only=True) as ledger:
        resumed = [event.body["epoch"] for event in ledger.read() if event.kind is Kind.STARTED]
    assert max(resumed) >= epochs - 1  # not from the beginning


def test_no_worker_outlives_its_driver(tmp_path: Path) -> None:
    path = studies.write(tmp_path, studies.study(train={"epochs": 2000}))
    process = studies.start(path, tmp_path)
    while events_in(study_folder(tmp_path, "small")) < 20:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    children = family(process)[1:]
    assert children
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(child.is_running() for child in children):
        time.sleep(0.05)
    assert not [child for child in children if child.is_running()]


def test_a_second_launch_of_a_running_study_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    path = studies.write(tmp_path, studies.study(train={"epochs": 20_000}))
    first = studies.start(path, tmp_path)
    while events_in(study_folder(tmp_path, "small")) < 20:
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    text = studies.run(path, tmp_path, expect=1)
    assert "already running on" in text
    assert "Traceback" not in text
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=20)
    assert first.returncode == 143


def test_a_hung_worker_is_replaced(tmp_path: Path) -> None:
    """SIGSTOP: the process neither answers nor dies; the driver's patience is shortened from 600 s to 4 s."""
    path = studies.write(tmp_path, studies.study(train={"epochs": 200}, search={"trials": 3}))
    code = (
        "import tuner.executors.local as local; local.LocalExecutor.__init__.__kwdefaults__['hang_seconds'] = 4.0\n"
        "from tuner.cli import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", code, "launch", str(path), "--home", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=studies.environment(),
    )
    while events_in(study_folder(tmp_path, "small")) < 20:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    worker = a_worker(process)
    worker.suspend()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "no progress for 4 s" in err
    check_ledger(tmp_path, 3)


@pytest.mark.slow
def test_twenty_kills_of_one_long_study_lose_nothing(tmp_path: Path) -> None:
    content = studies.study(search={**TPE_ASHA, "trials": 160}, train={"epochs": 60}, tracking={"mlflow": "embedded"})
    path = studies.write(tmp_path, content)
    studies.run(path, tmp_path / "whole")
    seed = int(os.environ.get("TUNER_FAULT_SEED", "7"))
    met = kill_and_go_on(path, tmp_path / "broken", seed, kills=20, longest=1.5, trials=160)
    assert met == 20, f"seed {seed}: the study ended after {met} kills"
    studies.run(path, tmp_path / "broken")
    check_ledger(tmp_path / "broken", 160)
    history = studies.history(tmp_path / "broken")
    assert studies.facts(history) == studies.facts(studies.history(tmp_path / "whole"))
    Store(tmp_path / "broken").assert_equals("small", history)
