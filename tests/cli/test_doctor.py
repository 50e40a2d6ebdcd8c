"""`tuner doctor`: what it finds wrong, what it says of it, and what it never says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.cli.test_cli import CONSOLE_SCRIPT, ROOT, study
from tests.servers import answering
from tuner import cli
from tuner.cli.doctor import CHECKS, OK, PROBLEM, WARNING, Finding, Place, examine, redacted


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("TUNER_HOME", "TUNER_MLFLOW", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def found(check: str, home: Path, mlflow: str = "off") -> list[Finding]:
    return list(CHECKS[check](Place(home, mlflow)))


def states(findings: list[Finding]) -> list[str]:
    return [finding.state for finding in findings]


@pytest.fixture
def server() -> Iterator[str]:
    """Something that answers as MLflow does."""

    class MLflow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path.startswith("/api/2.0/mlflow/experiments/search?") else 404)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    with answering(MLflow) as address:
        yield address


def test_a_machine_that_is_ready_gets_a_line_for_every_check_and_exit_code_0(here: Path) -> None:
    study(here / "tuner-home", "one")
    ran = subprocess.run([CONSOLE_SCRIPT, "doctor"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = [line.split() for line in ran.stdout.splitlines()]
    assert list(dict.fromkeys(line[1] for line in lines)) == list(CHECKS)
    assert {line[0] for line in lines} <= {OK, WARNING}
    assert "torch" in ran.stdout and "1 studies" in ran.stdout


def test_json_is_the_findings_and_a_problem_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: Place) -> Iterator[Finding]:
        raise RuntimeError("at http://me:secret@host/?token=abc")

    monkeypatch.setattr("tuner.cli.doctor.CHECKS", {"clock": CHECKS["clock"], "broken": broken})
    monkeypatch.setattr(sys, "argv", ["tuner", "doctor", "--output", "json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    seen = capsys.readouterr()
    clock, broke = json.loads(seen.out)
    assert (ended.value.code, clock["state"], broke["state"]) == (1, OK, PROBLEM)
    assert "RuntimeError" in broke["found"] and broke["remedy"]
    assert "secret" not in seen.out and "abc" not in seen.out


@pytest.mark.parametrize(
    "address",
    ["http://me:s3cret@host:1/x", "https://s3cret@host", "http://me:s3/cret@x@host/", "sqlite://u:s3cret@/x?k=s3cret"],
)
def test_no_secret_of_an_address_is_shown(address: str) -> None:
    assert "s3" not in redacted(f"cannot reach {address} today")


def test_an_address_of_the_environment_is_told_without_its_password(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:s3cret@127.0.0.1:9")
    off, told = found("mlflow", here)
    assert (off.state, told.state) == (OK, WARNING)
    assert "s3cret" not in told.line() and "127.0.0.1:9" in told.line()


def test_a_server_that_answers_is_well_and_one_that_does_not_is_a_problem(server: str, here: Path) -> None:
    assert states(found("mlflow", here, server)) == [OK]
    (away,) = found("mlflow", here, "http://127.0.0.1:9")
    assert away.state == PROBLEM
    assert "does not answer" in away.found and away.remedy
    assert states(found("mlflow", here, f"{server}/elsewhere")) == [PROBLEM]
    (wrong,) = found("mlflow", here, "http://me:s3cret@host:port")
    assert wrong.state == PROBLEM and "s3cret" not in wrong.line()


def test_the_address_comes_from_the_study_file(server: str, here: Path) -> None:
    text = (ROOT / "examples" / "digits-mlp.yaml").read_text()
    (here / "s.yaml").write_text(f"{text}tracking: {{mlflow: '{server}'}}\n")
    ran = subprocess.run([CONSOLE_SCRIPT, "doctor", "s.yaml", "-o", "json"], capture_output=True, text=True, check=True)
    (line,) = [one for one in json.loads(ran.stdout) if one["check"] == "mlflow"]
    assert line["found"] == f"{server} answers"


def test_a_home_that_cannot_be_written_or_is_full_is_a_problem(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert states(found("home", here / "new" / "home")) == [OK]
    assert not (here / "new").exists()
    (here / "file").touch()
    assert states(found("home", here / "file" / "home")) == [PROBLEM]
    usage = shutil.disk_usage(here)
    for free, state in ((10e6, PROBLEM), (1e9, WARNING), (9e9, OK)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=int(free)))
        (told,) = found("home", here)
        assert (told.state, bool(told.remedy)) == (state, state != OK)


def test_a_damaged_ledger_is_named_and_hides_no_other(here: Path) -> None:
    (study(here, "damaged") / "ledger.db").write_bytes(b"no database at all")
    study(here, "one")
    bad, whole = found("ledgers", here)
    assert (bad.state, whole.state) == (PROBLEM, OK)
    assert "damaged" in bad.found and "2 studies" in whole.found and "3 trials" in whole.found


def test_a_clock_behind_the_newest_ledger_is_doubted(here: Path) -> None:
    folder = study(here, "one")
    assert states(found("clock", here)) == [OK]
    later = time.time() + 3600
    os.utime(folder / "ledger.db", (later, later))
    assert states(found("clock", here)) == [WARNING]


def test_a_package_that_is_missing_or_of_another_version_is_a_problem(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert states(found("packages", here)) == [OK]
    asked = ["torch<1", "no-such-package>=1", "numpy", "pytest; extra == 'test'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda _: asked)
    _, old, gone = found("packages", here)
    assert "torch" in old.found and old.state == PROBLEM
    assert (gone.found, gone.state) == ("no-such-package is not installed", PROBLEM)


def test_a_store_that_is_no_store_is_a_problem_and_none_is_made(here: Path) -> None:
    assert states(found("mlflow", here / "home", "embedded")) == [OK]
    assert not (here / "home").exists()
    store = here / "home" / "mlflow" / "mlflow.db"
    store.parent.mkdir(parents=True)
    store.write_bytes(b"no database at all" * 100)
    findings = [one for one in examine(Place(here / "home")) if one.check == "mlflow"]
    assert states(findings) == [PROBLEM]
