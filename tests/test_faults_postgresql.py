"""A study whose ledger is in PostgreSQL, while PostgreSQL dies again and again, or its driver does."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests import studies
from tests.postgres import PASSWORD, Server
from tests.stores import Store
from tests.test_faults import TPE_ASHA, check_ledger, kill_everything
from tuner.ledger import Ledger, study_folder


@pytest.fixture
def address(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    address = postgres.fresh()
    monkeypatch.setenv("TUNER_LEDGER", address)
    return address


def unbroken(path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[int, object]:
    """What the study comes to with a ledger in a file, and nothing dying."""
    with monkeypatch.context() as plain:
        plain.delenv("TUNER_LEDGER")
        studies.run(path, home)
        return studies.facts(studies.history(home))


def newest(home: Path) -> int:
    try:
        with Ledger.open(study_folder(home, "small"), read_only=True) as ledger:
            return ledger.last()
    except (LookupError, OSError):
        return 0


def secrets_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]


def test_a_study_is_on_the_dashboard_as_ever_and_leaves_the_secret_nowhere(address: str, tmp_path: Path) -> None:
    path = studies.write(tmp_path, studies.study(search={"trials": 4}, tracking={"mlflow": "embedded"}))
    said = studies.run(path, tmp_path / "home")
    check_ledger(tmp_path / "home", 4)
    Store(tmp_path / "home").assert_equals("small", studies.history(tmp_path / "home"))
    assert secrets_in(tmp_path) == []
    assert PASSWORD not in said


def test_a_killed_driver_is_followed_at_once_and_loses_nothing(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = studies.write(tmp_path, studies.study(search={"trials": 8}, train={"epochs": 40}))
    whole = unbroken(path, tmp_path / "whole", monkeypatch)
    process = studies.start(path, tmp_path / "home")
    while newest(tmp_path / "home") < 30:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    kill_everything(process)
    assert "resuming: " in studies.run(path, tmp_path / "home")
    check_ledger(tmp_path / "home", 8)
    assert studies.facts(studies.history(tmp_path / "home")) == whole


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "away"), [(1, 0.0), (2, 1.0), (3, 35.0)])
def test_a_study_under_a_database_that_restarts_again_and_again_ends_as_an_unbroken_one(
    seed: int, away: float, address: str, postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`away` seconds each time: 35 are longer than a lease."""
    content = studies.study(search={**TPE_ASHA, "trials": 64}, train={"epochs": 100}, tracking={"mlflow": "embedded"})
    path = studies.write(tmp_path, content)
    whole = unbroken(path, tmp_path / "whole", monkeypatch)
    draw = random.Random(seed)
    process = studies.start(path, tmp_path / "home")
    restarts = 0
    while process.poll() is None and restarts < (2 if away > 10 else 12):
        time.sleep(draw.uniform(0.5, 2.5))
        if process.poll() is None and newest(tmp_path / "home"):
            postgres.restart(away)
            restarts += 1
            time.sleep(away)
            postgres.await_answer()
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, f"seed {seed}\n{out}\n{err}"
    assert restarts >= 2, "the study was over before anything happened"
    postgres.await_answer()
    check_ledger(tmp_path / "home", 64)
    history = studies.history(tmp_path / "home")
    assert studies.facts(history) == whole
    Store(tmp_path / "home").assert_equals("small", history)
    told = [line for line in (out + err).splitlines() if "does not answer" in line]
    assert len(told) <= restarts, "\n".join(told)
    assert (len(told) >= 1) or away < 1
    assert PASSWORD not in out + err
