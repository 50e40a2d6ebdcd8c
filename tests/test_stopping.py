"""`tuner stop` of a study whose driver is out of a signal's reach."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import studies
from tests.postgres import Server
from tuner.cli.stopping import stop
from tuner.ledger import Ledger, study_folder

FAR = "import socket; socket.gethostname = lambda: 'far-away'; from tuner.cli import main; main()"


@pytest.mark.parametrize("where", ["sqlite", "postgresql"])
def test_a_driver_on_another_machine_saves_and_leaves_and_the_study_goes_on_here(
    where: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "postgresql":
        server: Server = request.getfixturevalue("postgres")
        monkeypatch.setenv("TUNER_LEDGER", server.fresh())
    home = tmp_path / "home"
    path = studies.write(tmp_path, studies.study(search={"trials": 6}, train={"epochs": 300}))
    driver = subprocess.Popen(
        [sys.executable, "-P", "-c", FAR, "launch", str(path), "--home", str(home)],
        stderr=subprocess.PIPE,
        text=True,
        env=studies.environment(),
    )
    try:
        deadline = time.monotonic() + 60
        while not began(home):
            assert driver.poll() is None and time.monotonic() < deadline, driver.communicate()
            time.sleep(0.1)
        told: list[str] = []
        stop(study_folder(home, "small"), told.append)
        _, err = driver.communicate(timeout=10)
    finally:
        driver.kill()
    assert driver.returncode == 143 and "stopping, saving" in err, err
    assert told[0] == f"stopping study small (process {driver.pid} on far-away)"
    assert told[1].startswith("stopped; ")
    assert not studies.history(home).completed
    assert not (study_folder(home, "small") / "stop").exists()
    assert "resuming: " in studies.run(path, home)
    assert studies.history(home).completed == "complete"


def began(home: Path) -> bool:
    """Whether a trial has come some way."""
    try:
        with Ledger.open(study_folder(home, "small"), read_only=True) as ledger:
            return any(trial.epochs > 3 for trial in ledger.history().trials.values())
    except (LookupError, OSError):
        return False
