"""The plan: what cannot work on these data and this machine is told before the first trial."""
# ruff: noqa: E501 - a message stands on one line, as a person reads it

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.studies import plan
from tuner.data import Dataset
from tuner.errors import DataError, SpecError
from tuner.models import Signature
from tuner.spec import StudySpec
from tuner.workloads.network.plan import Plan, load, structures
from tuner.workloads.network.size import count

SPACE = """\
  space:
    learning_rate: {type: float, low: 1e-4, high: 0.1, log: true}
    depth: {type: int, low: 1, high: 3}
    width: {type: choice, values: [16, 4]}
    batch_size: {type: choice, values: [32, 64]}
"""
STUDY = f"""\
study: digits
data: {{source: digits}}
model: {{family: cnn, norm: batch}}
train: {{epochs: 9}}
search:
{SPACE}\
  objective: {{metric: val/accuracy, goal: maximize}}
  trials: 8
"""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load(study(tmp_path_factory.mktemp("digits")))


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """A folder with a table whose `price` is a number and whose `kind` is a class."""
    rng = np.random.default_rng(0)
    rows = [f"{a:.3f},{b:.3f},{a + b:.3f},{'xy'[int(a > 0)]}" for a, b in rng.normal(size=(60, 2))]
    (tmp_path / "table.csv").write_text("\n".join(["a,b,price,kind", *rows]) + "\n")
    return tmp_path


def study(folder: Path, *changes: tuple[str, str], **options: Any) -> StudySpec:
    text = STUDY
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    (folder / "study.yaml").write_text(text)
    return StudySpec.read(folder / "study.yaml", **options)


def refused(spec: StudySpec, dataset: Dataset) -> list[str]:
    with pytest.raises(SpecError) as caught:
        plan(spec, dataset)
    return [problem.removeprefix(f"{spec.folder}/study.yaml:") for problem in caught.value.problems]


def test_a_plan_says_what_is_to_come(tmp_path: Path, digits: Dataset) -> None:
    made = plan(study(tmp_path), digits)
    # 1→4 and 1→16 channels of 3×3 with norm, three blocks of doubling width on 8×8; then 10 classes
    smallest = 9 * 4 + 2 * 4 + (4 * 4 * 4 + 1) * 10
    blocks = [(1, 16), (16, 32), (32, 64)]
    largest = sum(9 * a * b + 2 * b for a, b in blocks) + (64 + 1) * 10
    assert made.parameters == (smallest, largest)
    assert (made.size, made.structures, made.trials, made.epochs) == (None, 12, 8, 9)
    assert made.rows == {"train": 1079, "validation": 359, "test": 359}
    assert made.warnings == ()
    assert made.lines() == [
        "study     digits: val/accuracy, maximized",
        "data      digits: images 1×8×8, 10 classes; 1,079 train, 359 validation, 359 test rows",
        "network   cnn: 694 parameters to 24,058",
        "space     4 hyperparameters (continuous), 12 architectures",
        "search    sampler tpe, pruner none, 8 trials",
        "training  9 epochs a trial, up to 72 epochs in total",
    ]


def test_a_plan_is_json(tmp_path: Path, digits: Dataset) -> None:
    made = plan(study(tmp_path), digits)
    body = json.loads(json.dumps(made.to_dict()))
    assert body["parameters"] == [694, 24058]
    assert body.keys() == set(Plan.__dataclass_fields__)


def test_a_grid_is_not_walked_twice(tmp_path: Path, digits: Dataset) -> None:
    learning_rate = ("{type: float, low: 1e-4, high: 0.1, log: true}", "{type: choice, values: [0.1, 0.01]}")
    spec = study(tmp_path, learning_rate, ("trials: 8", "trials: 800\n  sampler: {kind: grid}"))
    made = plan(spec, digits)
    assert (made.size, made.trials, made.structures) == (24, 24, 12)


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_more_trials_than_points_are_a_warning_that_offers_a_grid(
    sampler: str, tmp_path: Path, digits: Dataset
) -> None:
    learning_rate = ("{type: float, low: 1e-4, high: 0.1, log: true}", "{type: choice, values: [0.1, 0.01]}")
    spec = study(tmp_path, learning_rate, ("trials: 8", f"trials: 25\n  sampler: {{kind: {sampler}}}"))
    (warning,) = [line for line in plan(spec, digits).warnings if "points" in line]
    assert "search.trials: the space has 24 points" in warning
    assert "sampler: {kind: grid}" in warning
    enough = study(tmp_path, learning_rate, ("trials: 8", f"trials: 24\n  sampler: {{kind: {sampler}}}"))
    assert not any("points" in line for line in plan(enough, digits).warnings)


REFUSED = {
    "a network for other data": (
        [("{source: digits}", "{source: breast_cancer}")],
        ["3:9: model.family: expected a network for numbers, got cnn, a network for image, sequence or text; use mlp"],
    ),
    "too deep for the image": (
        [("low: 1, high: 3", "low: 1, high: 6")],
        ["8:32: search.space.depth.high: expected a range that works, got 4: depth 4 halves a 8×8 image to nothing; use a smaller depth; lower high to 3"],
    ),
    "a value in the midst that does not work": (
        [("width: {type: choice, values: [16, 4]}", "kernel: {type: choice, values: [3, 4, 5]}")],
        ["9:40: search.space.kernel.values[1]: expected values that work, got 4: kernel must be odd so that a block keeps the image's size, got 4"],
    ),
    "a fixed value that does not work": (
        [("norm: batch", "kernel: 4")],
        ["3:22: model.kernel: expected a network that runs at depth 1, width 4, got: kernel must be odd so that a block keeps the image's size, got 4"],
    ),
    "a batch larger than the training rows": (
        [("values: [32, 64]", "values: [32, 1080]")],
        ["10:5: search.space.batch_size: expected at most 1,079, the training rows, got 1,080"],
    ),
    "a metric of another task": (
        [("val/accuracy", "val/rmse")],
        ["11:15: search.objective.metric: expected a metric of classification (val/loss, val/accuracy, val/f1, val/balanced_accuracy, val/precision, val/recall, val/f1_weighted, val/precision_weighted, val/recall_weighted, val/matthews, val/kappa, train/loss), got the text 'val/rmse'"],
    ),
    "a loss of another task": (
        [("epochs: 9", "epochs: 9, loss: mse")],
        ["4:20: train.loss: expected a loss for classification, got mse; write auto"],
    ),
    "several at once": (
        [("epochs: 9", "epochs: 9, loss: mse"), ("val/accuracy", "val/r2"), ("values: [32, 64]", "values: [2000]")],
        ["4:20: train.loss", "10:5: search.space.batch_size", "11:15: search.objective.metric"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_told_by_its_place_in_the_file(case: str, tmp_path: Path) -> None:
    changes, expected = REFUSED[case]
    spec = study(tmp_path, *changes)
    told = refused(spec, load(spec))
    assert len(told) == len(expected), told
    assert all(line.startswith(beginning) for line, beginning in zip(told, expected, strict=True)), told


def test_a_default_batch_beyond_the_rows_is_told_with_what_to_set(tables: Path) -> None:
    spec = study(
        tables,
        ("{source: digits}", "{source: table.csv, target: kind}"),
        ("family: cnn", "family: mlp"),
        ("    batch_size: {type: choice, values: [32, 64]}\n", ""),
    )
    assert refused(spec, load(spec)) == [
        "4:1: train.batch_size: expected at most 36, the training rows, got 64, the default; set train.batch_size"
    ]


def test_a_gpu_is_asked_for_only_where_there_is_one(
    tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    spec = study(tmp_path, ("train:", "run: {device: cuda}\ntrain:"))
    (line,) = refused(spec, digits)
    assert line.startswith("4:7: run.device: expected a machine with a CUDA GPU, got")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert plan(spec, digits).trials == 8


def test_no_more_workers_than_shares_of_gpus(tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    spec = study(tmp_path, ("train:", "run: {device: cuda, share: 0.25, workers: 9}\ntrain:"))
    assert refused(spec, digits) == [
        "4:34: run.workers: expected at most 8, the GPUs here divided by run.share, got 9; write auto, or a smaller share"
    ]
    spec = study(tmp_path, ("train:", "run: {device: cuda, share: 0.25, workers: 8}\ntrain:"))
    assert plan(spec, digits).trials == 8


def test_what_does_nothing_is_a_warning(tables: Path) -> None:
    spec = study(
        tables,
        ("{source: digits}", "{source: table.csv, target: price}"),
        ("family: cnn", "family: mlp"),
        ("epochs: 9", "epochs: 9, flip: 0.5, batch_size: 16"),
        ("batch_size: {type: choice, values: [32, 64]}", "label_smoothing: {type: float, low: 0, high: 0.2}"),
        ("metric: val/accuracy, goal: maximize", "metric: val/rmse, goal: minimize"),
    )
    made = plan(spec, load(spec))
    assert [line.removeprefix(f"{tables}/study.yaml:") for line in made.warnings] == [
        "10:5: search.space.label_smoothing: label_smoothing is for classes and text, and does nothing with regression",
        "4:20: train.flip: flip is for images, and does nothing with numbers",
    ]
    assert made.lines()[-1].startswith("warning   ")


@pytest.mark.parametrize(
    ("space", "number"),
    [
        ("{learning_rate: {type: float, low: 0.1, high: 1}}", 1),
        ("{width: {type: int, low: 1, high: 9}, depth: {type: choice, values: [1, 2]}}", 18),
        ("{width: {type: int, low: 1, high: 9}, learning_rate: {type: float, low: 0.1, high: 1}}", 9),
        # a structural child of a parent that is not: 2 widths with sgd, 1 (the default) without
        ("{optimizer: {type: choice, values: [sgd, adam]}, width: {type: choice, values: [1, 2], when: {optimizer: sgd}}}", 3),
        ("{optimizer: {type: choice, values: [sgd, adam]}, momentum: {type: float, low: 0, high: 0.9, when: {optimizer: sgd}}}", 1),
    ],
)  # fmt: skip
def test_structures_are_what_differs_in_shape(space: str, number: int, tmp_path: Path) -> None:
    assert structures(study(tmp_path, (SPACE, f"  space: {space}\n"))) == number


def test_building_the_corners_leaves_torchs_random_numbers_alone(tmp_path: Path, digits: Dataset) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    plan(study(tmp_path), digits)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("family", ["mlp", "cnn"])
def test_a_network_that_cannot_continue_text_is_refused_for_it(family: str, tmp_path: Path) -> None:
    text = SimpleNamespace(signature=Signature("language", "text", (8,), 9, vocabulary=9), rows={"train": 100})
    (line,) = [
        problem
        for problem in refused(
            study(
                tmp_path,
                ("family: cnn, norm: batch", f"family: {family}"),
                ("val/accuracy, goal: maximize", "val/loss, goal: minimize"),
            ),
            text,
        )
        if "model.family" in problem
    ]  # type: ignore[arg-type]
    wanted = {
        "mlp": "text, got mlp, a network for numbers, image or sequence",
        "cnn": "language of text, got cnn, a network for classification or regression",
    }
    assert line == f"3:9: model.family: expected a network for {wanted[family]}; use rnn or transformer"


def test_a_network_too_large_for_memory_is_planned_all_the_same(tmp_path: Path, digits: Dataset) -> None:
    """64 GB of parameters exist on the meta device alone."""
    spec = study(
        tmp_path,
        ("family: cnn", "family: mlp"),
        ("width: {type: choice, values: [16, 4]}", "width: {type: choice, values: [16, 65536]}"),
        ("low: 1, high: 3", "low: 5, high: 5"),
    )
    assert plan(spec, digits).parameters[1] > 16e9


NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, signature, width: int = 4) -> None:
        super().__init__()
        self.layer = nn.Linear(64, {outputs})
        {more}
    def forward(self, x):
        {first}
        return self.layer(x.flatten(1))
"""


def own(folder: Path, outputs: str = "signature.outputs", more: str = "", first: str = "") -> StudySpec:
    (folder / "net.py").write_text(NETWORK.format(outputs=outputs, more=more, first=first))
    return study(
        folder,
        ("family: cnn, norm: batch", "family: net.py:Net"),
        ("    depth: {type: int, low: 1, high: 3}\n", ""),
    )


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"outputs": "3"}, "for two examples it must give [2, 10] (signature.outputs), and gives [2, 3]"),
        ({"first": "return x.mean(), 3"}, "and gives tuple"),
        ({"first": "x = x[:, 5]"}, "IndexError"),
        ({"first": "undefined"}, "NameError: name 'undefined' is not defined"),
        ({"more": "1 / 0"}, "ZeroDivisionError"),
        ({"more": "raise ValueError('width 4 is too small')"}, "got: width 4 is too small"),
    ],
)  # fmt: skip
def test_a_network_of_ones_own_that_does_not_run_is_told(
    parts: dict[str, str], told: str, tmp_path: Path, digits: Dataset
) -> None:
    (line,) = refused(own(tmp_path, **parts), digits)
    assert "expected a network that runs at width 4, got: " in line
    assert told in line
    assert line.startswith("8:5: search.space.width" if "too small" in told else "3:9: model.family")


def test_a_network_of_ones_own_may_look_at_values(tmp_path: Path, digits: Dataset) -> None:
    spec = own(tmp_path, first="assert x.sum().item() == 0")
    assert plan(spec, digits).parameters == (650, 650)
    spec = own(tmp_path, more="self.scale = torch.ones(1).item()")
    assert plan(spec, digits).parameters == (650, 650)


def test_parameters_are_those_that_train() -> None:
    layer = torch.nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    assert count(layer) == 6


def test_a_mistake_about_the_data_is_told_by_its_place_in_the_study_file(tables: Path) -> None:
    spec = study(tables, ("{source: digits}", "{source: table.csv}"))
    with pytest.raises(DataError) as caught:
        load(spec)
    (line,) = caught.value.problems
    assert line.startswith(f"{tables}/study.yaml:2:1: data.target: expected")
    spec = study(tables, ("{source: digits}", "{source: diggits}"))
    with pytest.raises(DataError, match=r"study.yaml:2:8: data.source: expected .*did you mean digits"):
        load(spec)


def test_data_are_found_beside_the_study_file(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tables / "elsewhere").mkdir()
    monkeypatch.chdir(tables / "elsewhere")
    spec = study(tables, ("{source: digits}", "{source: table.csv, target: kind}"))
    assert load(spec).classes == ("x", "y")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("a,b,king\n1,2,x\n" + "1,2,y\n" * 20, ["'kind'", "did you mean 'king'"]),
        ("a,b,kind\n" + "1,2,x\n1,2,y\n" * 20 + "1,inf,x\n", ["42", "'b'"]),
        ("a,b,kind\n" + "1,2,x\n" * 40, ["two classes or more", "all 40 rows"]),
        ("", ["table.csv"]),
    ],
    ids=["missing target", "not a number", "one class", "empty"],
)
def test_bad_data_stop_a_study_before_it_starts(content: str, told: list[str], tables: Path) -> None:
    (tables / "table.csv").write_text(content)
    spec = study(tables, ("{source: digits}", "{source: table.csv, target: kind}"))
    with pytest.raises(DataError) as caught:
        load(spec)
    text = "\n".join(caught.value.problems)
    assert all(part in text for part in told), text


def test_a_store_of_ones_own_lies_beside_the_study_file_in_a_folder_that_is_there(
    tmp_path: Path, digits: Dataset
) -> None:
    spec = study(tmp_path, ("train:", "tracking: {mlflow: 'sqlite:///stores/my.db'}\ntrain:"))
    assert spec.store == f"sqlite:///{tmp_path}/stores/my.db"
    told = f"expected a file in a folder that exists, got {tmp_path}/stores/my.db; make {tmp_path}/stores"
    assert refused(spec, digits) == [f"4:12: tracking.mlflow: {told}"]
    (tmp_path / "stores").mkdir()
    assert plan(spec, digits).trials == 8


def test_a_batch_that_a_named_space_brings_is_told_with_how_to_override_it(tmp_path: Path) -> None:
    text = "study: s\ndata: {source: wine}\nmodel: {family: mlp}\nsearch:\n  space: {include: cnn, kernel: null}\n"
    (tmp_path / "study.yaml").write_text(f"{text}  objective: {{metric: val/loss, goal: minimize}}\n  trials: 2\n")
    spec = StudySpec.read(tmp_path / "study.yaml")
    (line,) = refused(spec, load(spec))
    assert "search.space.batch_size: expected at most 106, the training rows, got 128; write search.space as" in line
