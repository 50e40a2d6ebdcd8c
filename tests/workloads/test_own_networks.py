"""Networks of a person's own as files: what `check` says of them, what belongs to them, what fails alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import studies
from tests.studies import Plan, plan
from tests.study.test_study import launch
from tuner import models
from tuner.errors import SpecError, StudyChanged
from tuner.events import State
from tuner.models import Signature, code
from tuner.models.interface import hyperparameters
from tuner.spec import StudySpec

ROWS = 161  # of them 97 to train on, 1 more than whole batches of 16
HEAD = "import torch\nfrom torch import nn\n"
BODY = """
class Net(nn.Module):
    def __init__(self, signature{arguments}):
        super().__init__()
        {before}
        self.layers = nn.Sequential(nn.Linear(2, 8), {layer} nn.ReLU(), nn.Linear(8, signature.outputs))

    def forward(self, x):
        return {answer}
"""


def net(arguments: str = "", before: str = "pass", layer: str = "", answer: str = "self.layers(x)") -> str:
    return HEAD + BODY.format(arguments=arguments, before=before, layer=layer, answer=answer)


def project(folder: Path, text: str, name: str = "net.py", **changes: Any) -> dict[str, Any]:
    """A study of the network in that file, on a small table."""
    generator = np.random.default_rng(0)
    lines = [f"{a:.4f},{b:.4f},{'yes' if a + b > 0 else 'no'}" for a, b in generator.normal(size=(ROWS, 2))]
    (folder / "d.csv").write_text("\n".join(["a,b,y", *lines]))
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    space = {"learning_rate": {"type": "float", "low": 0.001, "high": 0.1, "log": True}}
    content = {
        "study": "small",
        "data": {"source": "d.csv", "target": "y"},
        "model": {"family": f"{name}:Net"},
        "train": {"epochs": 2, "batch_size": 8, **changes.pop("train", {})},
        "search": {
            "space": space | changes.pop("space", {}),
            "objective": {"metric": "val/loss", "goal": "minimize"},
            "sampler": {"kind": "random"},
            "trials": 2,
            **changes.pop("search", {}),
        },
        "run": {"workers": 1, "device": "cpu"},
        "tracking": {"mlflow": "off"},
    }
    return {**content, **changes}


def check(folder: Path, content: dict[str, Any]) -> Plan:
    spec = StudySpec.read(studies.write(folder, content))
    return plan(spec)


# --- what cannot be built, or not always ---------------------------------------------------------------

HEADS = "if width % heads: raise ValueError(f'width {width} is not divisible by heads {heads}')"


@pytest.mark.parametrize(
    "space",
    [
        {"width": {"type": "choice", "values": [4, 12]}, "heads": {"type": "choice", "values": [2, 3]}},
        {"width": {"type": "choice", "values": [12, 16]}, "heads": {"type": "choice", "values": [2, 3]}},
        {"width": {"type": "int", "low": 4, "high": 12}, "heads": {"type": "int", "low": 1, "high": 4}},
    ],
    ids=["smallest", "largest", "ranges"],
)
def test_combinations_that_cannot_be_built_are_a_warning(space: dict[str, Any], tmp_path: Path) -> None:
    content = project(tmp_path, net(", width: int = 12, heads: int = 2", HEADS), space=space)
    (warning,) = check(tmp_path, content).warnings
    assert "combinations that were tried do not run" in warning and "is not divisible by heads" in warning


def test_trials_of_such_combinations_fail_alone(tmp_path: Path) -> None:
    space = {"width": {"type": "choice", "values": [4, 12]}, "heads": {"type": "choice", "values": [2, 3]}}
    text = net(", width: int = 12, heads: int = 2", HEADS)
    content = project(tmp_path, text, space=space, search={"trials": 8})
    study, _ = launch(tmp_path, content)
    states = {
        trial.state
        for trial in study.history.trials.values()
        if (trial.params["width"], trial.params["heads"]) == (4, 3)
    }
    assert states == {State.FAILED}
    assert study.history.count(State.FAILED) < 8 and study.state == "complete"


def test_a_value_that_works_in_no_combination_is_refused_by_its_place(tmp_path: Path) -> None:
    space = {"width": {"type": "choice", "values": [4, 12]}, "heads": {"type": "choice", "values": [2, 5]}}
    content = project(tmp_path, net(", width: int = 12, heads: int = 2", HEADS), space=space)
    with pytest.raises(
        SpecError, match=r"heads.values\[1\]: expected values that work, got 5: width .* is not divisible"
    ):
        check(tmp_path, content)


def test_a_constructor_that_refuses_one_trials_value_fails_that_trial_alone(tmp_path: Path) -> None:
    text = net(", dropout: float = 0.0", "if 0.1 < dropout < 0.3: raise ValueError(f'no dropout of {dropout:.2f}')")
    text = text.replace("class Net(nn.Module):", "class Net(nn.Module):\n    fusible = {'dropout'}")
    space = {"dropout": {"type": "float", "low": 0.0, "high": 0.5}}
    study, said = launch(tmp_path, project(tmp_path, text, space=space, search={"trials": 10}))
    assert [(c.company, len(c.trials)) for c in study.history.cohorts.values()] == [(True, 5)] * 2, said
    for trial in study.history.trials.values():
        refused = 0.1 < trial.params["dropout"] < 0.3
        assert trial.state is (State.FAILED if refused else State.COMPLETE)
        assert trial.message == (
            f"ValueError: no dropout of {trial.params['dropout']:.2f} (net.py:8)" if refused else ""
        )


def test_a_network_that_fails_in_company_later_on_goes_on_alone(tmp_path: Path) -> None:
    """Its forward branches on a value, but not in the few steps in which it is tried."""
    text = net(before="self.steps = 0", answer="self.answer(x)") + (
        "\n    def answer(self, x):\n"
        "        self.steps += self.training\n"
        "        late = self.steps > 20 and float(self.layers[0].weight.sum()) > 1e9\n"
        "        return self.layers(x) * (2.0 if late else 1.0)\n"
    )
    study, said = launch(tmp_path, project(tmp_path, text, search={"trials": 3}))
    assert study.history.count(State.COMPLETE) == 3
    assert "start over one by one" in said
    assert [len(cohort.trials) for cohort in study.history.cohorts.values() if not cohort.company] == [1, 1, 1]


# --- one row, doubles, no gradient, lazy ------------------------------------------------------------------


def test_a_last_batch_of_one_row_is_told_with_the_way_out(tmp_path: Path) -> None:
    text = net(layer="nn.BatchNorm1d(8),")
    sizes = {"batch_size": {"type": "choice", "values": [8, 10, 16]}}
    content = project(tmp_path, text, space=sizes, train={})
    del content["train"]["batch_size"]
    with pytest.raises(SpecError) as refused:
        check(tmp_path, content)
    told = refused.value.problems
    assert [line.split(": ")[1].rpartition(".")[2] for line in told] == ["values[0]", "values[2]"]
    assert all("a last batch of 1 of the 97 training rows" in line and "train.drop_last: true" in line for line in told)
    content["train"]["drop_last"] = True
    study, _ = launch(tmp_path, content)
    assert study.history.count(State.COMPLETE) == 2


def test_a_network_that_takes_one_row_is_left_alone(tmp_path: Path) -> None:
    assert check(tmp_path, project(tmp_path, net(), train={"batch_size": 16})).warnings == ()


@pytest.mark.parametrize(("size", "refused"), [(1, True), (16, False)])
def test_our_batch_normalisation_of_one_row_is_told(size: int, refused: bool, tmp_path: Path) -> None:
    content = project(tmp_path, net(), train={"batch_size": size}, model={"family": "mlp", "norm": "batch"})
    if refused:
        with pytest.raises(SpecError, match="expected more than 1 row per step with batch normalisation"):
            check(tmp_path, content)
    else:
        (warning,) = check(tmp_path, content).warnings
        assert "train.drop_last" in warning


def test_an_answer_in_doubles_trains(tmp_path: Path) -> None:
    study, _ = launch(tmp_path, project(tmp_path, net(answer="self.layers(x).double()")))
    assert study.history.count(State.COMPLETE) == 2


@pytest.mark.parametrize("answer", ["self.layers(x).detach()", "self.layers(x).argmax(1, True).expand(len(x), 2)"])
def test_an_answer_that_cannot_be_learnt_from_is_refused(answer: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no gradient flows|floating-point"):
        check(tmp_path, project(tmp_path, net(answer=answer)))


def test_a_lazy_network_trains(tmp_path: Path) -> None:
    study, _ = launch(tmp_path, project(tmp_path, net(layer="nn.LazyLinear(8),")))
    assert study.history.count(State.COMPLETE) == 2


# --- the files that belong to it ------------------------------------------------------------------------


def changed(folder: Path, content: dict[str, Any], path: Path, after: bytes) -> None:
    launch(folder, content)
    content["search"]["trials"] = 4
    path.write_bytes(after)
    with pytest.raises(StudyChanged, match="or one that it imports or reads, changed"):
        launch(folder, content, trials=4)


def test_a_helper_that_changed_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "deep.py").write_text("SCALE = 1.0\n")
    (tmp_path / "helper.py").write_text("def scale():\n    from deep import SCALE\n    return SCALE\n")
    text = net(answer="self.layers(x) * scale()").replace(HEAD, HEAD + "from helper import scale\n")
    changed(tmp_path, project(tmp_path, text), tmp_path / "deep.py", b"SCALE = 1000.0\n")


def test_weights_that_it_begins_from_are_noticed(tmp_path: Path) -> None:
    torch.save(torch.ones(()), tmp_path / "first.pt")
    read = "import pathlib; self.scale = torch.load(pathlib.Path(__file__).parent / 'first.pt', weights_only=True)"
    content = project(tmp_path, net(before=read, answer="self.layers(x) * self.scale"))
    torch.save(torch.zeros(()), tmp_path / "second.pt")
    changed(tmp_path, content, tmp_path / "first.pt", (tmp_path / "second.pt").read_bytes())


def test_a_file_that_stands_alone_has_the_digest_that_older_ledgers_have(tmp_path: Path) -> None:
    import hashlib

    project(tmp_path, net())
    expected = hashlib.sha256((tmp_path / "net.py").read_bytes()).hexdigest()
    assert models.digest("net.py:Net", tmp_path) == expected
    (tmp_path / "helper.py").write_text("A = 1\n")
    (tmp_path / "net.py").write_text("import helper\n" + net())
    alone = hashlib.sha256((tmp_path / "net.py").read_bytes()).hexdigest()
    assert models.digest("net.py:Net", tmp_path) != alone
    assert not models.changed(alone, "net.py:Net", tmp_path)  # recorded before helpers were
    assert models.changed(expected, "net.py:Net", tmp_path)


@pytest.mark.parametrize(
    ("helper", "alone"),
    [
        ("import math, torch.nn.functional as F\n", True),
        ("from other import drop\n", True),
        ("def drop():\n    import random\n", False),
        ("from numpy import random\n", False),
        ("import somebodys_layers\n", False),
        ("import importlib\n", False),
        ("__import__('random')\n", False),
    ],
)
def test_who_may_draw_from_pythons_and_numpys_generators_is_seen_in_the_imports(
    tmp_path: Path, helper: str, *, alone: bool
) -> None:
    project(tmp_path, "from helper import *\n" + net())
    (tmp_path / "helper.py").write_text(helper)
    (tmp_path / "other.py").write_text("from collections import abc\n")
    assert models.only_torch("net.py:Net", tmp_path) is alone
    assert models.only_torch("torch.nn:Linear", tmp_path) is False
    assert models.only_torch("mlp", tmp_path) is True


def test_two_projects_have_helpers_of_the_same_name_and_one_that_changes(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    for number, folder in enumerate(folders):
        folder.mkdir()
        (folder / "same_helper.py").write_text(f"VALUE = {number}\n")
        (folder / "net.py").write_text("from same_helper import VALUE\n" + net().replace("class Net", "class Net"))
    values = [sys.modules[models.family("net.py:Net", folder).__module__].VALUE for folder in folders]
    (folders[0] / "same_helper.py").write_text("VALUE = 2\n")
    values.append(sys.modules[models.family("net.py:Net", folders[0]).__module__].VALUE)
    assert values == [0, 1, 2]


@pytest.mark.parametrize("family", ["mynets/net.py:Net", "mynets.net:Net"])
def test_a_network_in_a_package_imports_its_neighbours(family: str, tmp_path: Path) -> None:
    text = net(answer="self.layers(x) * WIDTH").replace(HEAD, HEAD + "from .sizes import WIDTH\n")
    content = project(tmp_path, text, "mynets/net.py", model={"family": family})
    (tmp_path / "mynets" / "__init__.py").touch()
    (tmp_path / "mynets" / "sizes.py").write_text("WIDTH = 8\n")
    study, _ = launch(tmp_path, content)
    assert study.history.count(State.COMPLETE) == 2
    assert {file.name for file in code.sources(tmp_path / "mynets/net.py")} == {"__init__.py", "net.py", "sizes.py"}


def test_the_running_program_is_no_file_of_a_network() -> None:
    with pytest.raises(LookupError, match="write the class to a file of its own"):
        models.family("__main__:Net")


# --- constructors as people write them --------------------------------------------------------------------


def test_what_nobody_need_tell_is_no_hyperparameter(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        """from __future__ import annotations
from enum import Enum
from typing import TYPE_CHECKING, Literal
from torch import nn

if TYPE_CHECKING:
    from tuner.models.interface import Signature

class Kind(Enum):
    A = 1

class Base(nn.Module):
    def __init__(self, signature: Signature, width: int = 8, rate: float = 0, kind: Literal["relu", "tanh"] = "relu",
                 sizes: list[int] = (8, 8), mode: Kind = Kind.A, other=None, share: int | float = 0.5):
        super().__init__()

class Net(Base):
    pass

class Needs(nn.Module):
    def __init__(self, signature, width: int):
        super().__init__()

class NeedsTwo(Needs):
    pass
"""
    )
    found = hyperparameters(models.family("net.py:Net", tmp_path))
    assert {name: one.type for name, one in found.items()} == {"width": int, "rate": float, "kind": str, "share": float}
    assert list(found["kind"].rule.choices or ()) == ["relu", "tanh"]
    assert found == hyperparameters(models.family("net.py:Base", tmp_path))
    assert hyperparameters(models.family("net.py:NeedsTwo", tmp_path))["width"].type is int


def test_a_keyword_that_must_be_told_and_cannot_be_is_refused() -> None:
    class Net(torch.nn.Module):
        def __init__(self, signature: Signature, sizes: list) -> None:
            super().__init__()

    with pytest.raises(TypeError, match=r"Net\(sizes: list\) is no hyperparameter"):
        hyperparameters(Net)


@pytest.mark.parametrize("call", ["importlib.import_module('helper').SCALE", "__import__('helper').SCALE"])
def test_a_helper_that_is_imported_by_a_call_belongs_to_the_network(call: str, tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("SCALE = 1.0\n")
    (tmp_path / "beside.py").write_text("")
    (tmp_path / "net.py").write_text(f"import importlib\nSCALE = {call}\nNAME = 'beside'\n")
    assert [file.name for file in code.sources(tmp_path / "net.py")] == ["helper.py", "net.py"]


@pytest.mark.parametrize("place", ["model", "space"])
def test_a_keyword_without_a_type_is_told_with_what_to_write(place: str, tmp_path: Path) -> None:
    content = project(tmp_path, net(", dropout=None"))
    if place == "model":
        content["model"]["dropout"] = 0.5
    else:
        content["search"]["space"]["dropout"] = {"type": "float", "low": 0.0, "high": 0.5}
    with pytest.raises(SpecError, match=r"dropout: expected a keyword whose type is int, float.* annotate it so"):
        check(tmp_path, content)
