"""Whatever dies, nothing acknowledged is lost, and the study ends as if nothing had died (docs: faults).

The processes are real and so are the kills; they come when the ledger has come to an event, drawn from a printed seed.
"""

from __future__ import annotations

import os
import random
import signal
from itertools import cycle
from pathlib import Path

import psutil
import pytest

from tests import studies
from tests.forks import Forks, Run
from tests.points import COMMITTED, DEATHS
from tests.servers import PATIENCE, until
from tests.stores import Store
from tuner.events import TERMINAL, Event, Reported, Started
from tuner.ledger import Ledger, study_folder

TPE_ASHA = {
    "sampler": {"kind": "tpe", "startup": 6},
    "pruner": {"kind": "asha", "min_epochs": 1, "reduction": 2},
}
ENDLESS = 100_000  # epochs


def check_ledger(home: Path, trials: int, name: str = "small") -> None:
    """I2, I3, I5: one end per trial, the exact number of trials, one report per epoch, epochs without gaps."""
    with Ledger.open(study_folder(home, name), read_only=True) as ledger:
        events = list(ledger.read())
    ended = [event.trial for event in events if isinstance(event, TERMINAL)]
    assert sorted(ended) == list(range(trials))
    reports = [(event.trial, event.epoch) for event in events if isinstance(event, Reported)]
    assert len(reports) == len(set(reports))
    for trial in range(trials):
        epochs = sorted(epoch for number, epoch in reports if number == trial)
        assert epochs == list(range(1, len(epochs) + 1))
    assert [event.seq for event in events] == list(range(1, len(events) + 1))


def events_of(home: Path) -> list[Event]:
    with Ledger.open(study_folder(home, "small"), read_only=True) as ledger:
        return list(ledger.read())


def events_in(folder: Path) -> int:
    if not (folder / "ledger.db").exists():
        return 0
    with Ledger.open(folder, read_only=True) as ledger:
        return ledger.last()


def kill_again_and_again(run: Run, path: Path, home: Path, seed: int, kills: int, trials: int) -> None:
    """Launch, kill everything at a drawn event, launch again, …; every kill meets a living study. Then to its end."""
    run(path, home / "whole")
    events = events_of(home / "whole")
    drawn = sorted(random.Random(seed).sample(range(2, len(events)), kills))
    kept: list[Event] = []
    for at, death in zip(drawn, cycle(DEATHS), strict=False):
        said = run(path, home / "broken", f"{at}:{death}", code=-signal.SIGKILL)
        assert "Traceback" not in said, f"seed {seed}, killed at event {at} ({death})"
        stored = events_of(home / "broken")
        assert stored[: len(kept)] == kept, f"seed {seed}: lost by the kill at event {at} ({death})"
        assert death != COMMITTED or len(stored) >= at
        kept = stored
    run(path, home / "broken")
    assert events_of(home / "broken")[: len(kept)] == kept, f"seed {seed}"
    check_ledger(home / "broken", trials)
    broken, whole = (studies.facts(studies.history(home / name)) for name in ("broken", "whole"))
    assert broken == whole, f"seed {seed}"


@pytest.mark.parametrize("seed", [1])
def test_a_study_killed_at_random_events_ends_as_an_unbroken_one(seed: int, run: Run, tmp_path: Path) -> None:
    content = studies.study(search={**TPE_ASHA, "trials": 16}, train={"epochs": 6})
    kill_again_and_again(run, studies.write(tmp_path, content), tmp_path, seed, kills=6, trials=16)


def test_workers_that_are_killed_or_frozen_cost_their_cohorts_no_result(run: Run, tmp_path: Path) -> None:
    """A copy of the driver before it has heard of any work, and two that train; a frozen one says nothing more."""
    path = studies.write(tmp_path, studies.study(train={"epochs": 6}, search={"trials": 8, "pruner": studies.WAITING}))
    run(path, tmp_path / "whole")
    events = ["1:kill copy", "10:kill worker", "30:freeze worker"]
    said = run(path, tmp_path / "broken", *events)
    assert said.count("worker 0 lost (signal 9), resuming trials") == 1, said
    assert "worker 0 lost (no progress for 600 s), resuming trials" in said
    check_ledger(tmp_path / "broken", 8)
    assert studies.facts(studies.history(tmp_path / "broken")) == studies.facts(studies.history(tmp_path / "whole"))


def test_a_signal_saves_and_leaves_a_study_that_the_same_command_goes_on_with(run: Run, tmp_path: Path) -> None:
    path = studies.write(tmp_path, studies.study(train={"epochs": 30}, search={"trials": 4, "pruner": studies.WAITING}))
    folder = study_folder(tmp_path, "small")
    came = [0]
    for at, name, code in ((20, "SIGINT", 130), (60, "SIGTERM", 143)):
        said = run(path, tmp_path, f"{at}:{name}", code=code)
        assert "stopping, saving" in said and "the same command goes on" in said
        assert ("resuming: " in said) is (name == "SIGTERM")
        children = next(line for line in said.splitlines() if line.startswith("children: ")).split()[1:]
        assert children and not [child for child in map(int, children) if living(child)]
        assert list((folder / "checkpoints").glob("*.pt"))
        came.append(max(trial.epochs for trial in studies.history(tmp_path).trials.values() if not trial.ended))
    assert "resuming: " in run(path, tmp_path)
    check_ledger(tmp_path, 4)
    with Ledger.open(folder, read_only=True) as ledger:
        resumed = [event.epoch for event in ledger.read() if isinstance(event, Started)]
    assert max(resumed) >= max(came) - 1  # not from the beginning


def living(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_second_launch_is_refused_and_harms_nothing_and_no_worker_outlives_the_first(
    forks: Forks, run: Run, tmp_path: Path
) -> None:
    path = studies.write(tmp_path, studies.study(train={"epochs": ENDLESS}))
    first = forks.launch(str(path), "--home", str(tmp_path))
    folder = study_folder(tmp_path, "small")
    until(lambda: events_in(folder) > 20, first)
    text = run(path, tmp_path, code=1)
    assert "already running on" in text
    assert "Traceback" not in text
    before = events_in(folder)
    until(lambda: events_in(folder) > before, first)
    children = psutil.Process(first.pid).children(recursive=True)
    assert children
    os.kill(first.pid, signal.SIGKILL)
    assert not psutil.wait_procs(children, timeout=PATIENCE)[1]


@pytest.mark.slow
def test_twenty_kills_of_one_tracked_study_lose_nothing(run: Run, tmp_path: Path) -> None:
    content = studies.study(search={**TPE_ASHA, "trials": 40}, train={"epochs": 12}, tracking={"mlflow": "embedded"})
    seed = int(os.environ.get("TUNER_FAULT_SEED", "7"))
    kill_again_and_again(run, studies.write(tmp_path, content), tmp_path, seed, kills=20, trials=40)
    Store(tmp_path / "broken").assert_equals("small", studies.history(tmp_path / "broken"))
