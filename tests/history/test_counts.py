"""How far a study is: the same numbers at the interrupt, in the status, in a dry run and at the resume."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import studies
from tests.forks import Run
from tests.servers import PATIENCE
from tuner import cli
from tuner.cli.summary import ending
from tuner.events import Asked, Completed, Created, Event, Finished, Grouped, Interrupted, Opened, Reported, Started
from tuner.history.counts import Counts, counts
from tuner.history.fold import History
from tuner.ledger import Ledger, study_folder

SPACE = {"width": {"type": "choice", "values": [8, 16]}, "depth": {"type": "int", "low": 1, "high": 3}}


def events(trials: int = 12, sampler: str = "random", *, storage: str = "") -> list[Event]:
    """Two of them ended, cohort 1 of two trials and cohort 2 of one have begun, two more are asked."""
    objective = {"metric": "val/accuracy", "goal": "maximize"}
    search = {"trials": trials, "objective": objective, "sampler": {"kind": sampler}, "space": SPACE}
    spec = {"study": "one", "search": search}
    told = [Created(spec=spec, digest="d", text="", seed=0, id="i", data={})]
    told.append(Opened(**{"host": "h", "pid": 1, "storage": storage} if storage else {"host": "h", "pid": 1}))
    told += [Asked(n, params={"width": 8, "depth": 1}, seed=n) for n in range(6)]
    for cohort, numbers in enumerate(([0], [1, 2], [3], [4, 5])):
        grouped = {"trials": numbers, "structure": {}, "company": True}
        told.append(Grouped(cohort, **grouped))
        if cohort < 3:
            started = {"attempt": 1, "worker": 0, "trials": numbers, "epoch": 0}
            told.append(Started(cohort, **started))
    for number in (0, 1):
        told.append(Reported(number, 1, metrics={"val/accuracy": 0.5}, seconds=1.0))
    told.append(Finished(0, epochs=1, best_epoch=1))
    return told


def kept(folder: Path, *cohorts: int) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    for cohort in cohorts:
        (folder / "checkpoints" / f"{cohort:06d}.pt").touch()
    return folder


def test_what_has_a_checkpoint_is_saved_and_all_else_is_queued(tmp_path: Path) -> None:
    history = History.of(events())
    assert counts(history, tmp_path) == Counts(12, 1, 0, 0), "begun, and killed before its first checkpoint"
    found = counts(history, kept(tmp_path, 0, 1))
    assert found == Counts(12, 1, 0, 2)
    assert found.line() == "1 of 12 finished, 2 saved, 9 queued"
    assert found.resuming() == "resuming: 1 finished, 2 from checkpoints, 9 queued"
    assert counts(history, tmp_path, driven=True).line() == "1 of 12 finished, 3 running, 8 queued"
    history.apply(Completed(state="complete", message=""))
    assert counts(history, tmp_path).total == 6


def test_a_grid_ends_with_its_last_point_and_a_storage_elsewhere_is_believed(tmp_path: Path) -> None:
    assert counts(History.of(events(100, "grid")), tmp_path).total == 2 * 3
    assert counts(History.of(events(4, "grid")), tmp_path).total == 6, "never less than were asked"
    assert counts(History.of(events(storage="s3://bucket/one")), tmp_path).saved == 1


def test_the_end_of_an_interrupted_launch_and_the_status_tell_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = study_folder(tmp_path, "one")
    with Ledger.create(folder) as ledger:
        ledger.append([*events(), Interrupted(message="SIGINT")])
        history = ledger.history()
    now = counts(history, kept(folder, 2))
    first, *_ = ending("one", history, "interrupted", None, now=now, program="tuner", where="")
    progress = "1 of 12 finished, 1 saved, 10 queued"
    assert first == f"study one interrupted: {progress}; best so far: trial 0, val/accuracy 0.5 at epoch 1"
    monkeypatch.setattr(sys, "argv", ["tuner", "status", "one", "-o", "json", "--home", str(tmp_path)])
    with pytest.raises(SystemExit):
        cli.main()
    told = json.loads(capsys.readouterr().out)
    assert (told["progress"], told["saved"], told["queued"]) == (progress, 1, 10)


def script(*arguments: Any) -> tuple[str, str]:
    process = studies.start(*arguments)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    return out, err


@pytest.mark.slow
def test_a_real_interrupt_a_dry_run_and_the_resume_tell_the_same(tmp_path: Path, run: Run) -> None:
    content = studies.study(search={"trials": 8, "pruner": studies.WAITING}, train={"epochs": 30})
    path, home = studies.write(tmp_path, content), tmp_path / "home"
    out = run(path, home, "40:SIGINT", code=130)
    found = re.search(r"interrupted: (\d+) of 8 finished, (\d+) saved, (\d+) queued", out)
    assert found, out
    finished, saved, queued = map(int, found.groups())
    assert finished + saved + queued == 8
    assert saved > 0
    line = f"resuming: {finished} finished, {saved} from checkpoints, {queued} queued"
    assert line in script(path, home, "--dry-run")[0]
    assert line in script(path, home, "--set", "train.epochs=30")[1]


@pytest.mark.slow
def test_a_dry_run_tells_what_a_launch_would_do_with_what_is_there(tmp_path: Path) -> None:
    path = studies.write(tmp_path, studies.study(search={"trials": 2}, train={"epochs": 1}))
    home = tmp_path / "home"
    assert "2 trials" in script(path, home, "--dry-run")[0]
    assert not home.exists()
    studies.run(path, home, "--trials", "3")
    told = script(path, home, "--dry-run")[0]
    assert "3 trials" in told
    assert "study small was extended to 3 trials, and goes on with them" in told
    assert "study small is complete: nothing is left to do" in told
    told = script(path, home, "--dry-run", "--trials", "5")[0]
    assert "5 trials" in told
    assert "extends study small from 3 to 5 trials" in told
    refused = studies.start(path, home, "--dry-run", "--set", "train.epochs=2")
    _, err = refused.communicate(timeout=PATIENCE)
    assert refused.returncode == 2
    assert "exists with other settings" in err
