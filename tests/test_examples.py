"""The examples reach the scores that people would expect of them, from their files as they stand."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import studies
from tuner.data import Dataset
from tuner.plan import load
from tuner.spec import StudySpec

EXAMPLES = Path(__file__).parents[1] / "examples"


def best_of(example: str, home: Path, *overrides: str) -> dict[str, Any]:
    """The metrics of an example's best trial, launched as it stands but for its tracking and `overrides`."""
    settings = [word for override in ("tracking.mlflow=off", *overrides) for word in ("--set", override)]
    said = studies.run(EXAMPLES / f"{example}.yaml", home, *settings)
    assert "every trial: " in said and "dashboard: " in said
    command = [sys.executable, "-P", "-c", "from tuner.cli import main; main()", "best", example]
    told = subprocess.run(
        [*command, "--output", "json", "--home", str(home)], capture_output=True, text=True, check=True
    )
    metrics: dict[str, Any] = json.loads(told.stdout)["metrics"]
    return metrics


def data_of(example: str) -> Dataset:
    """The rows that the example trains and validates on."""
    return load(StudySpec.read(EXAMPLES / f"{example}.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "at_least", "overrides"),
    [
        ("mnist-cnn", 0.965, ()),
        ("digits-mlp", 0.97, ()),
        ("breast-cancer", 0.96, ()),
        ("digits-rows", 0.95, ()),
        ("digits-rows", 0.95, ("model.cell=lstm",)),
        ("syllables", 0.85, ()),
        ("syllables", 0.85, ("model.family=cnn",)),
        ("syllables", 0.85, ("model.family=transformer",)),
    ],
)
def test_an_example_reaches_its_score(
    example: str, at_least: float, overrides: tuple[str, ...], tmp_path: Path
) -> None:
    best = best_of(example, tmp_path, *overrides)
    assert best["val/accuracy"] >= at_least
    assert best["test/accuracy"] >= at_least - 0.03  # a fifth of the rows, seen once


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [(), ("model={family: transformer, width: 64}",)], ids=["lstm", "transformer"])
def test_networks_continue_text_better_than_a_trigram_model_of_the_same_windows(
    overrides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES.parent / "benchmarks")
    import trigram  # type: ignore[import-not-found]

    best = best_of("docs-text", tmp_path, *overrides)
    assert best["val/bits_per_character"] < trigram.bits_per_character(data_of("docs-text"))["trigram"]


@pytest.mark.slow
def test_a_regression_is_a_quarter_closer_than_the_training_mean(tmp_path: Path) -> None:
    dataset = data_of("diabetes")
    off = dataset.validation.targets - dataset.train.targets.mean()
    assert best_of("diabetes", tmp_path)["val/rmse"] <= 0.75 * float(np.sqrt(np.square(off).mean()))


def test_counting_groups_of_vowels_tells_fewer_syllables_than_the_networks_must() -> None:
    dataset = data_of("syllables")
    words = dataset.preprocess.raw(dataset.validation.inputs)["word"]
    most = dataset.signature.outputs
    counted = np.array([min(max(len(re.findall("[aeiouy]+", word)), 1), most) for word in words])
    assert 0.76 <= float((counted - 1 == dataset.validation.targets).mean()) <= 0.80
