"""`tuner stop` of a study whose driver is out of a signal's reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import studies
from tests.forks import Forks, Run
from tests.postgres import Server
from tests.servers import PATIENCE, until
from tuner.cli import stopping
from tuner.ledger import Ledger, study_folder

BEGAN = 20  # events; some trials have come some way then, and others have not begun


@pytest.mark.parametrize("where", ["sqlite", "postgresql"])
def test_a_driver_on_another_machine_saves_and_leaves_and_the_study_goes_on_here(
    where: str, forks: Forks, run: Run, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "postgresql":
        server: Server = request.getfixturevalue("postgres")
        monkeypatch.setenv("TUNER_LEDGER", server.fresh())
    monkeypatch.setattr(stopping, "FAR_SECONDS", PATIENCE)
    home = tmp_path / "home"
    path = studies.write(tmp_path, studies.study(search={"trials": 6, "pruner": studies.WAITING}))
    driver = forks.launch(str(path), "--home", str(home), points=["0:far", f"{BEGAN}:hold"])
    try:
        until(lambda: events_in(home) >= BEGAN, driver)
        told: list[str] = []
        stopping.stop(study_folder(home, "small"), told.append)
        _, err = driver.communicate()
    finally:
        driver.kill()
    assert driver.returncode == 143 and "stopping, saving" in err, err
    assert told[0] == f"stopping study small (process {driver.pid} on far-away)"
    assert told[1].startswith("stopped; ")
    assert not studies.history(home).completed
    assert not (study_folder(home, "small") / "stop").exists()
    assert "resuming: " in run(path, home)
    assert studies.history(home).completed == "complete"


def events_in(home: Path) -> int:
    try:
        with Ledger.open(study_folder(home, "small"), read_only=True) as ledger:
            return ledger.last()
    except (LookupError, OSError):
        return 0
