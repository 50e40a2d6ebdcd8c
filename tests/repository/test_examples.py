"""The examples reach the scores that people would expect of them, from their files as they stand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.forks import Forks, ran
from tuner.data import Dataset
from tuner.spec import StudySpec
from tuner.workloads.network.plan import load

Best = Callable[..., dict[str, Any]]
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def best_of(forks: Forks, tmp_path: Path) -> Best:
    """The metrics of an example's best trial, launched as it stands but for its tracking and `overrides`."""

    def best_of(example: str, *overrides: str) -> dict[str, Any]:
        settings = [word for override in ("tracking.mlflow=off", *overrides) for word in ("--set", override)]
        home = ["--home", str(tmp_path)]
        said = ran(forks.launch(str(EXAMPLES / f"{example}.yaml"), *home, *settings))
        assert "every trial: " in said
        told, err = (
            best := forks.tuner("best", example.removesuffix("/study"), "--output", "json", *home)
        ).communicate()
        assert best.returncode == 0, err
        metrics: dict[str, Any] = json.loads(told)["metrics"]
        return metrics

    return best_of


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
def test_an_example_reaches_its_score(example: str, at_least: float, overrides: tuple[str, ...], best_of: Best) -> None:
    best = best_of(example, *overrides)
    assert best["val/accuracy"] >= at_least
    assert best["test/accuracy"] >= at_least - 0.03  # a fifth of the rows, seen once


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [(), ("model={family: transformer, width: 64}",)], ids=["lstm", "transformer"])
def test_networks_continue_text_better_than_a_trigram_model_of_the_same_windows(
    overrides: tuple[str, ...], best_of: Best, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES.parent / "benchmarks")
    import trigram  # type: ignore[import-not-found]

    best = best_of("docs-text", *overrides)
    assert best["val/bits_per_character"] < trigram.bits_per_character(data_of("docs-text"))["trigram"]


@pytest.mark.slow
def test_a_regression_is_a_quarter_closer_than_the_training_mean(best_of: Best) -> None:
    dataset = data_of("diabetes")
    off = dataset.validation.targets - dataset.train.targets.mean()
    assert best_of("diabetes")["val/rmse"] <= 0.75 * float(np.sqrt(np.square(off).mean()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "library", "metric", "enough"),
    [
        ("vae", "sklearn", "test/loss", lambda nats: nats < 27),
        ("digits-lightning", "lightning", "val/accuracy", lambda share: share > 0.94),
        ("words-transformers", "accelerate", "eval_accuracy", lambda share: share > 0.65),
    ],
)
def test_a_program_with_three_lines_changed_reaches_its_score(
    example: str, library: str, metric: str, enough: Callable[[float], bool], best_of: Best
) -> None:
    pytest.importorskip(library)
    assert enough(best_of(f"{example}/study")[metric])


@pytest.mark.parametrize("example", ["vae", "digits-lightning", "words-transformers"])
def test_without_three_lines_a_program_knows_no_tuner(example: str) -> None:
    lines = (EXAMPLES / example / "train.py").read_text().splitlines()
    left = "\n".join(line for line in lines if not line.endswith("# Tuner")).split('"""', 2)[2]
    assert len([line for line in lines if line.endswith("# Tuner")]) == 3
    assert not re.search("(?i)tuner|callback|trial", left)
    compile(left, example, "exec")


def test_counting_groups_of_vowels_tells_fewer_syllables_than_the_networks_must() -> None:
    dataset = data_of("syllables")
    words = dataset.preprocess.raw(dataset.validation.inputs)["word"]
    most = dataset.signature.outputs
    counted = np.array([min(max(len(re.findall("[aeiouy]+", word)), 1), most) for word in words])
    assert 0.76 <= float((counted - 1 == dataset.validation.targets).mean()) <= 0.80
