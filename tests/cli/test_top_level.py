"""A person's own packages `models` and `search_spaces` are theirs; where there are none, the names lead to Tuner's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cli.test_cli import CONSOLE_SCRIPT

STUDY = """
study: own
data: {source: d.csv, target: y}
model: {family: "net.py:Net"}
train: {epochs: 1, batch_size: 8}
search:
  space: {learning_rate: {type: float, low: 0.001, high: 0.1, log: true}}
  objective: {metric: val/loss, goal: minimize}
  trials: 2
run: {workers: 1, device: cpu}
tracking: {mlflow: off}
"""
NET = """
from torch import nn
{imports}

class Net(nn.Module):
    def __init__(self, signature):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, {width}), {dropout}, nn.Linear({width}, signature.outputs))

    def forward(self, x):
        return self.layers(x)
"""
RUN = "import tuner; print(tuner.launch('s.yaml').state)"
WAYS: dict[str, Sequence[str]] = {
    "script": [str(CONSOLE_SCRIPT), "check", "s.yaml"],
    "module": [sys.executable, "-m", "tuner", "check", "s.yaml"],
    "own": [sys.executable, "own.py"],
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "d.csv").write_text("x,y\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(60)))
    (tmp_path / "s.yaml").write_text(STUDY)
    (tmp_path / "own.py").write_text(f"if __name__ == '__main__':\n    {RUN}\n")
    return tmp_path


def run(folder: Path, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


PACKAGES = ["package", "namespace", "file"]
QUICK = list(zip(WAYS, PACKAGES, strict=True))  # every way and every kind once


@pytest.mark.parametrize(
    ("way", "package"),
    [
        pytest.param(way, package, marks=[] if (way, package) in QUICK else pytest.mark.slow)
        for way in WAYS
        for package in PACKAGES
    ],
)
def test_a_project_keeps_its_own_models_whichever_way_it_is_run(project: Path, way: str, package: str) -> None:
    if package == "file":
        (project / "models.py").write_text("WIDTH = 8\n")
        imports = "from models import WIDTH"
    else:
        (project / "models").mkdir()
        (project / "models" / "sizes.py").write_text("WIDTH = 8\n")
        if package == "package":
            (project / "models" / "__init__.py").touch()
        imports = "from models.sizes import WIDTH"
    dropout = "from tuner.models.layers import Dropout"
    (project / "net.py").write_text(NET.format(imports=f"{imports}\n{dropout}", width="WIDTH", dropout="Dropout(0.1)"))
    ran = run(project, WAYS[way])
    assert ran.returncode == 0, ran.stderr
    assert way != "own" or ran.stdout.splitlines()[-1] == "complete"


@pytest.mark.parametrize("folder_of_weights", [False, True])
def test_the_short_name_leads_to_the_layer_that_training_knows(project: Path, folder_of_weights: bool) -> None:
    if folder_of_weights:  # no Python in it: no package that anybody means
        (project / "models").mkdir()
        (project / "models" / "best.pt").touch()
    net = NET.format(imports="from models.layers import Dropout", width=4, dropout="Dropout(0.1)")
    (project / "net.py").write_text(net)
    ask = (
        "from pathlib import Path; from tuner import models; from tuner.models import layers; "
        "import search_spaces.space, tuner.search_spaces.space; "
        "net = models.family('net.py:Net', Path.cwd()); import sys; short = sys.modules['models.layers']; "
        "assert short is layers and short.__spec__.name == 'tuner.models.layers'; "
        "assert search_spaces.space is tuner.search_spaces.space; print(layers.Dropout.__module__)"
    )
    ran = run(project, [sys.executable, "-c", ask])
    assert (ran.stdout, ran.stderr) == ("tuner.models.layers\n", "")


def test_a_module_that_their_own_package_lacks_is_told_under_its_name(project: Path) -> None:
    (project / "models").mkdir()
    (project / "models" / "__init__.py").touch()
    net = NET.format(imports="from models.layers import Dropout", width=4, dropout="Dropout(0.1)")
    (project / "net.py").write_text(net)
    ran = run(project, WAYS["script"])
    assert ran.returncode == 2
    assert "No module named 'models.layers'" in ran.stderr
    assert "net.py:3" in ran.stderr
    assert "tuner.models" in ran.stderr
