"""The model that a trial saves is the champion if the trial wins: predicted with, registered, restored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.programs import content, launch, launched
from tests.stores import Store
from tuner import champion
from tuner.champion import Predictor
from tuner.errors import StudyMissing
from tuner.study.launch import Study

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.last = nn.Linear(3, width), nn.Linear(width, OUTPUTS)
    def forward(self, x):
        return self.last(torch.relu(self.first(x)))ENDING

def train(trial):
    net = Net(4)
    with torch.no_grad():
        net.last.bias.fill_(float(trial.number))
    trial.report({"val/loss": abs(trial.number - 1.0)})
    trial.save_model(net, torch.zeros(5, 3)NAMES)
    (trial.folder / "expected.txt").write_text(str(net(torch.ones(1, 3)).flatten().tolist()))
"""


def code(outputs: int = 1, ending: str = "", names: str = "") -> str:
    return CODE.replace("OUTPUTS", str(outputs)).replace("ENDING", ending).replace("NAMES", names)


def expected(study: Study) -> list[float]:
    """What the winner's own process has computed for ones."""
    text = (study.folder / "trials" / "000001" / "expected.txt").read_text()
    numbers: list[float] = json.loads(text)
    return numbers


@pytest.mark.parametrize(
    ("outputs", "ending", "columns"),
    [(1, "", ["prediction"]), (1, "[:, 0]", ["prediction"]), (2, "", ["prediction_0", "prediction_1"])],
)
def test_the_winners_model_predicts(outputs: int, ending: str, columns: list[str], tmp_path: Path) -> None:
    study, _ = launched(tmp_path, code(outputs, ending), {"epochs": 1})
    predictor = Predictor.load(study.folder)
    assert predictor.card["trial"]["number"] == 1 and predictor.card["trial"]["metrics"] == {"val/loss": 0.0}
    frame = predictor.predict(np.ones((4, 3), np.float32))
    assert list(frame.columns) == columns
    np.testing.assert_allclose(frame.to_numpy(), np.tile(expected(study), (4, 1)), rtol=1e-5)


def test_named_classes_and_columns_are_the_champions(tmp_path: Path) -> None:
    names = ", classes=['no', 'yes'], columns=['a', 'b', 'c']"
    study, _ = launched(tmp_path, code(2, "", names), {"epochs": 1})
    (tmp_path / "new.csv").write_text("c,a,b,more\n1,1,1,x\n1,1,1,y\n")
    predictor = Predictor.load(study.folder)
    frame = predictor.predict(predictor.read(tmp_path / "new.csv"))
    likely = np.exp(expected(study)) / np.exp(expected(study)).sum()
    np.testing.assert_allclose(frame[["probability_no", "probability_yes"]].to_numpy()[0], likely, rtol=1e-5)
    assert set(frame["prediction"]) == {("no", "yes")[int(likely.argmax())]}


def test_the_winners_model_is_registered_and_made_again_where_it_is_lost(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(code())
    written = content({"function": "train.py:train", "epochs": 1})
    written["tracking"] = {"mlflow": "embedded"}
    study, _ = launch(tmp_path, written)
    store = Store(tmp_path / "home")
    version = store.client.get_model_version_by_alias("own", "champion")
    assert version.run_id == store.children("own")[1].info.run_id
    shutil.rmtree(study.folder / champion.FOLDER)
    launch(tmp_path, written)
    predicted: pd.DataFrame = Predictor.load(study.folder).predict(np.ones((1, 3)))
    np.testing.assert_allclose(predicted.to_numpy()[0], expected(study), rtol=1e-5)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (
            {"return self.last": "return self.last(self.first(-x)) if x.sum() > 0 else self.last"},
            "torch.export refuses",
        ),
        ({"torch.zeros(5, 3)": "torch.zeros(5, 3).long()"}, "a champion takes floats [N, F]"),
        ({"torch.zeros(5, 3)": "torch.zeros(5, 7)"}, "does not take the example"),
    ],
)
def test_a_model_that_cannot_be_exported_is_kept_as_its_state(
    changed: dict[str, str], reason: str, tmp_path: Path
) -> None:
    text = code()
    for old, new in changed.items():
        text = text.replace(old, new)
    study, lines = launched(tmp_path, text, {"epochs": 1})
    assert study.state == "complete" and reason in lines
    with pytest.raises(StudyMissing, match=r"no champion to predict with.*its state_dict is .*000001/model.pt"):
        Predictor.load(study.folder)
    assert (study.folder / "trials" / "000001" / "model.pt").is_file()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("trial.save_model(3, None)", "TypeError: expected a torch.nn.Module, got int"),
        ("trial.save_model(Net(4), [1])", "TypeError: expected an example as a tensor [N, …]"),
        ("trial.save_model(Net(4), torch.zeros(2, 3), classes=['a'])", "ValueError: expected 2 classes, got 1"),
    ],
)
def test_a_call_that_makes_no_sense_fails_the_trial(call: str, message: str, tmp_path: Path) -> None:
    text = code(2) + f"    {call}\n"
    study, _ = launched(tmp_path, text, {"epochs": 1}, trials=1)
    trial: Any = study.history.trials[0]
    assert message in trial.message
