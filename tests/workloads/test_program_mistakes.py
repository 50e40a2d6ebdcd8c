"""What is said of a study of a person's own training before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import studies
from tests.programs import GOOD, content
from tuner.errors import SpecError
from tuner.spec import StudySpec
from tuner.study import preflight
from tuner.workloads.kinds import workload


@pytest.mark.parametrize(
    ("trial", "message"),
    [
        ({}, "trial: expected a function or a command, got neither"),
        ({"function": "train.py:train", "command": ["true"]}, "trial.command: expected either a function or a command"),
        ({"function": "train.py"}, "trial.function: expected file.py:function, got the text 'train.py'"),
        ({"function": "train.py:tran"}, "expected a function tran in train.py, got none of that name; it has train"),
        ({"function": "trian.py:train"}, "trial.function: expected the path of a file, found nothing at"),
        ({"function": "train.py:none"}, "expected a function of one argument, the trial, got none with 0 arguments"),
        ({"command": ["no-such-program"]}, "trial.command[0]: expected a program that can be run, got no-such-program"),
        ({"command": ["true", "--x={rte}"]}, "expected {parameters} of the study, got {rte}; did you mean 'rate'?"),
        ({"function": "train.py:train", "params": {"rate": 1}}, "expected 'rate' either fixed or searched"),
        ({"function": "train.py:train", "timeout": "long"}, "trial.timeout: expected seconds above 0, or a duration"),
        ({"function": "train.py:train", "silence": "0s"}, "trial.silence: expected seconds above 0, or a duration"),
        (
            {"function": "train.py:train", "params": {"a{b}": 1}},
            "expected a name of letters, digits, spaces and _ - . : /",
        ),
        ({"function": "train.py:train", "params": {"seed": 1}}, "than one that every trial has, got seed; rename it"),
        ({"function": "train.py:train", "params": {"epochs": 1}}, "every trial has, got epochs; write trial.epochs"),
        ({"function": "train.py:train", "epoch": 3}, "trial.epoch: expected one of function, command"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(trial: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("def train(trial): ...\ndef none(): ...\n")

    def check() -> None:
        spec = StudySpec.read(studies.write(tmp_path, content(trial)))
        preflight.plan(spec, workload(spec))

    with pytest.raises(SpecError) as refused:
        check()
    assert message in str(refused.value)


def test_a_pruner_needs_to_know_how_many_epochs_there_are(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(GOOD)
    written = content({"function": "train.py:train"}, pruner={"kind": "asha"})
    with pytest.raises(SpecError, match="expected epochs, which pruner asha counts, got none; add `epochs: 10`"):
        StudySpec.read(studies.write(tmp_path, written))


def test_how_long_a_trial_may_take_is_no_part_of_what_a_study_is(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(GOOD)

    def digest(**trial: Any) -> str:
        made = content({"function": "train.py:train", "epochs": 4, **trial})
        return StudySpec.read(studies.write(tmp_path, made)).digest

    assert digest() == digest(retries=7, timeout="2h", silence=60, grace=1) != digest(params={"depth": 3})
