"""What is wrong with what a study searches, told by place."""
# ruff: noqa: E501 - a message stands on one line of these tables, as a person reads it

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.spec.test_spec import BAD, EXAMPLES, STUDY, WIDTH, problems, study, written
from tuner.errors import SpecError, TunerError
from tuner.spec import StudySpec

"""What a person got wrong → (text exchanged in `STUDY`, how every line of the answer begins)."""


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_by_line_column_path_rule_and_remedy(case: str, tmp_path: Path) -> None:
    changes, expected = BAD[case]
    path = written(tmp_path, *changes)
    told = problems(path)
    assert len(told) == len(expected), told
    for line, beginning in zip(told, expected, strict=True):
        assert line.startswith(beginning)
        assert re.match(r"\d+:\d+: ([\w.\[\]]+: )?expected .+", line), line
    assert [entry.name for entry in tmp_path.iterdir()] == ["study.yaml"], "bad input must create nothing"


def test_every_mistake_is_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        ("seed: 7", "seed: 007"),
        ("family: mlp", "family: mlp, depht: 3"),
        ("epochs: 9", "epochs: 9, epochs: 8, l1: -1"),
        ("values: [16, 32]", "values: [16, big]"),
        ("low: 0, high: 0.99", "low: 2, high: 1"),
        ("goal: maximize", "goal: maximise"),
        ("trials: 8", 'trials: "8"\n  smapler: {kind: tpe}'),
    )
    places = [line.split(": expected")[0] for line in problems(path)]
    assert places == [
        "2:7: seed",
        "4:22: model.depht",
        "5:20: train.epochs",
        "5:31: train.l1",
        "9:40: search.space.width.values[1]",
        "11:29: search.space.momentum.low",
        "12:37: search.objective.goal",
        "13:3: search.trials",
        "14:3: search.smapler",
    ]


def test_bad_input_ends_the_program_with_2() -> None:
    assert SpecError.exit_code == 2
    assert issubclass(SpecError, (TunerError, ValueError))


def test_a_missing_file_is_answered_with_a_near_name(tmp_path: Path) -> None:
    written(tmp_path)
    (line,) = problems(tmp_path / "stdy.yaml")
    assert line == "1:1: expected the path of a file, found nothing there; did you mean 'study.yaml'?"
    (line,) = problems(tmp_path)
    assert line.startswith("1:1: expected a file, got a directory; name a file in it")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(STUDY.replace("digits", "größe").encode("latin-1"))
    assert problems(path) == ["1:10: expected UTF-8 text, got the byte 0xf6; save the file as UTF-8"]
    path.write_bytes(b"#" * 1_000_001)
    (line,) = problems(path)
    assert line.startswith("1:1: expected at most 1 MB")


def test_numbers_may_be_written_with_an_exponent(tmp_path: Path) -> None:
    spec = study(tmp_path, ("epochs: 9", "epochs: 9, l1: 1e-3"))
    assert spec.training({})["l1"] == 0.001
    assert spec.space.parameters["learning_rate"].low_value == 1e-4


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_a_study(path: Path) -> None:
    assert not StudySpec.read(path).warnings


def test_what_is_legal_and_hardly_meant_is_a_warning(tmp_path: Path) -> None:
    spec = study(
        tmp_path,
        (WIDTH, "width: {type: int, low: 16, high: 16}"),
        ("goal: maximize", "goal: minimize"),
        ("trials: 8", "trials: 8\n  pruner: {kind: median, min_epochs: 9}"),
    )
    first, second, third = (line.removeprefix(f"{tmp_path}/study.yaml:") for line in spec.warnings)
    assert first.startswith("9:5: search.space.width: is constant")
    assert (
        second == "12:37: search.objective.goal: minimize looks for the worst val/accuracy; maximize looks for the best"
    )
    assert third.startswith("14:26: search.pruner.min_epochs: nothing is pruned before epoch 9")


@pytest.mark.parametrize(
    ("train", "space", "pruner"),
    [
        ("epochs: 9", "", "kind: median, min_epochs: 10"),
        ("epochs: 9", "", "kind: asha, min_epochs: 10"),
        ("epochs: 9", "", "kind: hyperband, min_epochs: 10"),
        ("optimizer: sgd", "    epochs: {type: int, low: 2, high: 9}\n", "kind: asha, min_epochs: 10"),
        ("optimizer: sgd", "    epochs: {type: choice, values: [9, 3]}\n", "kind: asha, min_epochs: 10"),
        ("epochs: 9", "", "kind: patient, patience: 2, pruner: {kind: median, min_epochs: 10}"),
    ],
)
def test_a_first_epoch_to_prune_at_that_no_trial_has_is_refused(
    train: str, space: str, pruner: str, tmp_path: Path
) -> None:
    changes = [
        ("epochs: 9", train),
        ("  space:\n", f"  space:\n{space}"),
        ("  trials: 8", f"  trials: 8\n  pruner: {{{pruner}}}"),
    ]
    if "epochs" in space:
        changes.append(
            (
                "    optimizer: {type: choice, values: [sgd, adam]}\n    momentum: {type: float, low: 0, high: 0.99, when: {optimizer: sgd}}\n",
                "",
            )
        )
    (line,) = problems(written(tmp_path, *changes))
    assert (
        "min_epochs: expected at most 9, the epochs of the longest trial, got 10: nothing could ever be pruned" in line
    )
    fine = [(old, new.replace("min_epochs: 10", "min_epochs: 3")) for old, new in changes]
    assert study(tmp_path, *fine).warnings == ()


def test_a_password_in_an_address_is_never_shown(tmp_path: Path) -> None:
    path = written(tmp_path, ("seed: 7", "tracking: {mlflow: 'http://me:canary@h'}"))
    assert "canary" not in "".join(problems(path))
    told = problems(written(tmp_path), overrides=["tracking.mlflow=http://me:canary@h"])
    assert "canary" not in "".join(told).partition("expected")[2]


@pytest.mark.parametrize(
    "address", ["embedded", "off", "http://127.0.0.1:5000", "https://mlflow.example.org/x", "sqlite:////tmp/m.db"]
)
def test_tracking_goes_to_a_store_a_server_or_nowhere(address: str, tmp_path: Path) -> None:
    assert study(tmp_path, overrides=[f"tracking.mlflow={address}"]).tracking.mlflow == address


def test_embedded_is_the_server_of_a_service_where_the_environment_names_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNER_MLFLOW", "http://mlflow:5000")
    made = study(tmp_path)
    assert (made.tracking.mlflow, made.store) == ("embedded", "http://mlflow:5000")
    off = study(tmp_path, ("search:", "tracking: {mlflow: off}\nsearch:"))
    assert off.store == "off"
    monkeypatch.delenv("TUNER_MLFLOW")
    again = study(tmp_path)
    assert (again.store, again.digest) == ("embedded", made.digest)
