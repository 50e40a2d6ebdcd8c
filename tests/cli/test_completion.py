"""Completion: what a shell is offered at TAB, by the protocol itself, and what is not imported for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_cli import CONSOLE_SCRIPT, HEAVY, study
from tuner import models, search_spaces
from tuner.cli.completion import SCRIPTS

BASH = Path("/bin/bash") if Path("/bin/bash").exists() else Path("/usr/bin/bash")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TUNER_HOME", raising=False)
    return tmp_path


def asked(line: str) -> dict[str, str]:
    """The environment in which a shell asks, the cursor at the end of the line."""
    words = line.split(" ")
    return os.environ | {
        "COMP_WORDS": "\n".join(words),
        "COMP_CWORD": str(len(words) - 1),
        "_TUNER_COMPLETE": "complete_bash",
    }


def offered(line: str) -> list[str]:
    ran = subprocess.run([CONSOLE_SCRIPT], env=asked(line), capture_output=True, text=True, check=True)
    assert ran.stderr == ""
    return ran.stdout.split()


@pytest.mark.parametrize(
    ("line", "offer"),
    [
        ("tuner la", ["launch"]),
        ("tuner launch --work", ["--workers"]),
        ("tuner launch s.yaml --set train.lea", ["train.learning_rate="]),
        ("tuner launch s.yaml --set=train.lea", ["train.learning_rate="]),
        ("tuner check s.yaml --set see", ["seed="]),
        (
            "tuner check s.yaml --set search.s",
            ["search.space.", "search.space=", "search.sampler.", "search.start_with="],
        ),
        ("tuner check s.yaml --set train.optimizer=a", ["train.optimizer=adam", "train.optimizer=adamw"]),
        ("tuner check s.yaml --set train.nesterov=", ["train.nesterov=true", "train.nesterov=false"]),
        ("tuner check s.yaml --set run.device=", ["run.device=auto", "run.device=cpu", "run.device=cuda"]),
        ("tuner check s.yaml --set search.space.width.lo", ["search.space.width.log=", "search.space.width.low="]),
        ("tuner check s.yaml --set search.objective.metric=val/acc", ["search.objective.metric=val/accuracy"]),
        ("tuner check s.yaml --set nothing.", []),
        ("tuner check s.yaml --set train.epochs=", []),
        ("tuner results --output j", ["json"]),
        ("tuner samplers ran", ["random"]),
        ("tuner pruners as", ["asha"]),
    ],
)
def test_a_line_is_completed_by_the_verbs_the_options_and_the_keys_of_a_study_file(line: str, offer: list[str]) -> None:
    assert sorted(offered(line)) == sorted(offer)


def test_names_of_networks_and_spaces_are_those_of_the_registries() -> None:
    assert offered("tuner models ") == list(models.FAMILIES)
    assert offered("tuner init --family ") == list(models.FAMILIES)
    assert offered("tuner spaces ") == list(search_spaces.names())
    assert offered("tuner check s.yaml --set search.space=") == [
        f"search.space={name}" for name in search_spaces.names()
    ]


def test_studies_are_those_of_the_home_that_the_line_names(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study(here / "tuner-home", "near")
    study(here / "other", "digits-one")
    study(here / "other", "digits-two")
    assert offered("tuner results ") == ["near"]
    assert offered(f"tuner best --home {here / 'other'} dig") == ["digits-one", "digits-two"]
    monkeypatch.setenv("TUNER_HOME", str(here / "other"))
    assert offered("tuner status digits-t") == ["digits-two"]


def test_study_files_are_yaml_and_the_folders_on_the_way(here: Path) -> None:
    (here / "studies").mkdir()
    for name in ("a.yaml", "b.yml", "data.csv", ".hidden.yaml", "studies/c.yaml"):
        (here / name).touch()
    assert offered("tuner launch ") == ["a.yaml", "b.yml", "studies/"]
    assert offered("tuner check studies/") == ["studies/c.yaml"]
    assert offered(f"tuner check {here}/a") == [f"{here}/a.yaml"]


def test_nothing_heavy_is_imported_for_an_answer() -> None:
    slow = (*HEAVY, "sqlalchemy", "rich", "search_spaces", "models")
    code = (
        "import sys\n"
        "from tuner.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        f"print([name for name in {slow} if name in sys.modules], file=sys.stderr)\n"
    )
    line = "tuner launch s.yaml --set search.space.width.l"
    ran = subprocess.run([sys.executable, "-c", code], env=asked(line), check=True, capture_output=True, text=True)
    assert (ran.stdout.split()[0], ran.stderr.splitlines()[-1]) == ("search.space.width.log=", "[]")


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_script_of_every_shell_is_printed_and_asks_by_the_protocol(shell: str) -> None:
    ran = subprocess.run([CONSOLE_SCRIPT, "completion", shell], capture_output=True, text=True, check=True)
    assert "_TUNER_COMPLETE" in ran.stdout and "COMP_CWORD" in ran.stdout
    wrong = subprocess.run([CONSOLE_SCRIPT, "completion", "cmd"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout) == (2, "")


@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("tuner launch s.yaml --set train.optimizer=a", ["adam", "adamw"]),  # bash cuts the word at "="
        ("tuner launch s.yaml --set train.lea", ["train.learning_rate="]),
        ("tuner la", ["launch"]),
        ("tuner status ", ["near"]),
    ],
)
def test_bash_is_told_what_to_put_behind_the_cursor(line: str, replies: list[str], here: Path) -> None:
    study(here / "tuner-home", "near")
    program = (
        f"{SCRIPTS['bash']}\n"
        "compopt() { :; }  # which works only while a person really presses TAB\n"
        f"COMP_LINE={json.dumps(line)} COMP_POINT={len(line)}\n"
        "_tuner_completion tuner\n"
        "printf '%s\\n' \"${COMPREPLY[@]}\"\n"
    )
    environment = os.environ | {"PATH": f"{CONSOLE_SCRIPT.parent}:{os.environ['PATH']}"}
    ran = subprocess.run([BASH, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert (ran.stdout.split(), ran.stderr) == (replies, "")
