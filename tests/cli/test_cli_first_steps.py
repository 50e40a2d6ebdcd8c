"""What somebody tries first: the version, the help in every way of asking for it, and a sign of life at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from tests import studies
from tests.stories import Story
from tuner import cli

VERBS = [verb for verbs in cli.VERBS.values() for verb in verbs]
# A process that ends with 7 as soon as it imports what takes long.
IMPATIENT = """
import os, sys

class Heavy:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "mlflow", "optuna", "pandas", "numpy", "sqlalchemy"):
            sys.stderr.flush()
            os._exit(7)

sys.meta_path.insert(0, Heavy())
from tuner.cli import main
main()
"""

Tuner = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tuner(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Tuner:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tuner", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        seen = capsys.readouterr()
        return int(ended.value.code or 0), seen.out, seen.err

    return run


def test_the_version_is_the_installed_one(tuner: Tuner) -> None:
    assert tuner("--version") == (0, f"tuner {version('cohort-tuner')}\n", "")


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help_is_the_same_however_it_is_asked_for(verb: str | None, tuner: Tuner) -> None:
    words = [verb] if verb else []
    code, out, err = tuner(*words, "--help")
    assert (code, err) == (0, "")
    assert out.startswith("Usage: tuner ")
    assert tuner(*words, "-h") == (0, out, "")
    if verb != "help":
        assert tuner("help", *words) == (0, out, "")


def test_help_of_a_verb_that_there_is_not_is_wrong_input_with_a_suggestion(tuner: Tuner) -> None:
    code, out, err = tuner("help", "lauch")
    assert (code, out) == (2, "")
    assert "No such command 'lauch'. Did you mean 'launch'?" in err
    assert "Did you mean" not in tuner("help", "run")[2]


@pytest.mark.parametrize(
    ("verb", "said"),
    [("launch", "launching study.yaml: reading the study file and its data"),
     ("launch --dry-run", "checking study.yaml: reading the study file and its data"),
     ("ui", "starting MLflow's server for study one")],
)  # fmt: skip
def test_it_says_what_it_does_before_it_imports_anything_that_takes_long(verb: str, said: str, tmp_path: Path) -> None:
    studies.write(tmp_path, studies.study())
    Story(tmp_path / "tuner-home", "one").ledger.close()
    name = "one" if verb == "ui" else "study.yaml"
    command = [sys.executable, "-P", "-c", IMPATIENT, *verb.split(), name]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (7, "", f"{said}\n")
