"""A study whose ledger is in PostgreSQL, while PostgreSQL dies again and again, or its driver does."""

from __future__ import annotations

import os
import random
import signal
import time
from itertools import cycle
from pathlib import Path

import pytest

from tests import studies
from tests.forks import Copy, Forks, Run, ran
from tests.points import ANSWER, ASKING, DEATHS
from tests.postgres import PASSWORD, Server
from tests.servers import until
from tests.stores import Store
from tests.study.test_faults import TPE_ASHA, check_ledger
from tuner.ledger import Ledger, study_folder


@pytest.fixture
def address(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    address = postgres.fresh()
    monkeypatch.setenv("TUNER_LEDGER", address)
    return address


def unbroken(run: Run, path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[int, object], int]:
    """What the study comes to with a ledger in a file, and nothing dying; and in how many events."""
    with monkeypatch.context() as plain:
        plain.delenv("TUNER_LEDGER")
        run(path, home)
        with Ledger.open(study_folder(home, "small"), read_only=True) as ledger:
            return studies.facts(ledger.history()), ledger.last()


def secrets_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]


def test_a_study_is_on_the_dashboard_as_ever_and_leaves_the_secret_nowhere(
    address: str, run: Run, tmp_path: Path
) -> None:
    path = studies.write(tmp_path, studies.study(search={"trials": 4}, tracking={"mlflow": "embedded"}))
    said = run(path, tmp_path / "home")
    check_ledger(tmp_path / "home", 4)
    Store(tmp_path / "home").assert_equals("small", studies.history(tmp_path / "home"))
    assert secrets_in(tmp_path) == []
    assert PASSWORD not in said


def test_a_killed_driver_is_followed_at_once_and_loses_nothing(
    address: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = studies.write(tmp_path, studies.study(search={"trials": 4}))
    whole, _ = unbroken(run, path, tmp_path / "whole", monkeypatch)
    for at, death in zip((8, 16, 24), DEATHS, strict=True):
        run(path, tmp_path / "home", f"{at}:{death}", code=-signal.SIGKILL)
    assert "resuming: " in run(path, tmp_path / "home")
    check_ledger(tmp_path / "home", 4)
    assert studies.facts(studies.history(tmp_path / "home")) == whole


@pytest.mark.slow
@pytest.mark.parametrize(("away", "restarts"), [("no time", 12), ("until it is told", 3), ("longer than a lease", 2)])
def test_a_study_under_a_database_that_restarts_again_and_again_ends_as_an_unbroken_one(
    away: str,
    restarts: int,
    address: str,
    postgres: Server,
    forks: Forks,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At events that are drawn, between two transactions and inside of one."""
    content = studies.study(search={**TPE_ASHA, "trials": 24}, train={"epochs": 8}, tracking={"mlflow": "embedded"})
    path, home = studies.write(tmp_path, content), tmp_path / "home"
    whole, events = unbroken(run, path, tmp_path / "whole", monkeypatch)
    drawn = sorted(random.Random(away).sample(range(3, events - 5), restarts))
    answer = tmp_path / "answer"
    os.mkfifo(answer)
    monkeypatch.setenv(ANSWER, str(answer))
    points = [f"{at}:{deed}" for at, deed in zip(drawn, cycle(["ask", "ask inside"]), strict=False)]
    if away == "longer than a lease":
        points.insert(0, "0:short lease")
    process = forks.launch(str(path), "--home", str(home), points=points)
    for number in range(1, restarts + 1):
        until(lambda number=number: process.said.count(ASKING) == number, process)
        postgres.stop()
        if away == "no time":
            postgres.start()
        answer.write_text("go on")
        if away != "no time":
            until(lambda number=number: told(process).count("does not answer") == number, process)
            time.sleep(2.0 if away == "longer than a lease" else 0.0)  # twice as long as it lasts, or longer
            postgres.start()
    said = ran(process)
    check_ledger(home, 24)
    history = studies.history(home)
    assert studies.facts(history) == whole
    Store(home).assert_equals("small", history)
    assert said.count("does not answer") <= restarts
    assert PASSWORD not in said


def told(process: Copy) -> str:
    """What a driver has told a person so far."""
    assert process.err is not None
    return process.err.read_text() + process.said
