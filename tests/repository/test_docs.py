"""The documentation is tested like code: no key is undocumented, and every example is a valid one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

import tuner
from tuner import champion, models
from tuner.champion import Predictor
from tuner.search_spaces import SearchSpace
from tuner.search_spaces.document import parse
from tuner.spec import StudySpec, sections
from tuner.training.config import TrainConfig

TEXT = (Path(__file__).parents[2] / "docs" / "reference" / "study-file.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
SECTIONS = [
    value
    for value in vars(sections).values()
    if isinstance(value, type) and issubclass(value, BaseModel) and value.__module__ == sections.__name__
]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_key_of_the_study_file_is_documented(section: type[BaseModel]) -> None:
    for name, field in section.model_fields.items():
        assert re.search(rf"`{name}`|^## .*\b{name}\b|^{name}:", TEXT, re.MULTILINE), name
        assert field.description, f"{section.__name__}.{name} tells an editor nothing"


@pytest.mark.parametrize("constructor", [TrainConfig, *models.FAMILIES.values()], ids=lambda one: one.__name__)
def test_every_hyperparameter_is_documented_with_its_choices(constructor: type) -> None:
    for name, known in models.hyperparameters(constructor).items():
        assert f"`{name}`" in TEXT, name
        assert known.rule.help
        for choice in known.rule.choices or ():
            assert re.search(rf"\b{choice}\b", TEXT), f"{name}: {choice}"


def test_every_example_is_valid(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(BLOCKS[0])
    spec = StudySpec.read(tmp_path / "study.yaml")
    assert "kernel" not in spec.space.parameters and "shift" in spec.space.parameters
    space = SearchSpace.from_dict(parse(BLOCKS[1], "study-file.md").data)
    assert set(space.parameters) == {"learning_rate", "dropout", "depth", "optimizer", "momentum", "nesterov"}
    assert len(BLOCKS) == 2


@pytest.mark.parametrize("family", models.FAMILIES)
def test_every_family_has_a_page_whose_example_is_valid_and_whose_own_choices_are_explained(
    family: str, tmp_path: Path
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "networks" / f"{family}.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    head = "study: page\ndata: {source: digits}\n"
    tail = "  objective: {metric: val/loss, goal: minimize}\n  trials: 1\n"
    (tmp_path / "study.yaml").write_text(head + example + tail)
    assert StudySpec.read(tmp_path / "study.yaml").model["family"] == family
    known = models.hyperparameters(models.FAMILIES[family])
    named = set(re.findall(r"`(\w+)", page))
    assert set(known) - {"dropout", "activation"} <= named, set(known) - named
    for name in ("readout", "cell", "positions"):
        assert set(known[name].rule.choices or () if name in known else ()) <= named


@pytest.mark.slow
@pytest.mark.usefixtures("copied_workers")
@pytest.mark.parametrize(
    ("family", "source"), [("mlp", "wine"), ("cnn", "syllables"), ("rnn", "digits-rows"), ("transformer", "digits")]
)
def test_the_example_of_every_family_goes_from_launch_to_prediction(family: str, source: str, tmp_path: Path) -> None:
    """The very lines of its page, on a source of another modality each."""
    page = (Path(__file__).parents[2] / "docs" / "networks" / f"{family}.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    head = f"study: page\ndata: {{source: {source}}}\ntracking: {{mlflow: 'off'}}\n"
    if "train:" not in example:
        head += "train: {epochs: 1}\n"
    tail = "  objective: {metric: val/accuracy, goal: maximize}\n  trials: 2\n"
    (tmp_path / "study.yaml").write_text(head + example + tail)
    study = tuner.launch(tmp_path / "study.yaml", home=tmp_path)
    assert study.state == "complete" and study.best is not None
    predictor = Predictor.load(study.folder)
    inputs, outputs = champion.example(study.folder / champion.FOLDER)
    assert predictor.predict(inputs)["prediction"].tolist() == outputs["prediction"].tolist()


def test_every_family_has_an_example_that_runs() -> None:
    (marked,) = (
        mark
        for mark in test_the_example_of_every_family_goes_from_launch_to_prediction.pytestmark
        if mark.name == "parametrize"
    )
    assert {family for family, _ in marked.args[1]} == set(models.FAMILIES)
