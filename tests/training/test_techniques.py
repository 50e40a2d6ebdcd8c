"""A person's own network trains as an ordinary PyTorch loop trains it: alone, over a restart, and in company."""

from __future__ import annotations

import copy
import io
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests import techniques, techniques_more
from tuner import models
from tuner.data import batches
from tuner.models import Signature
from tuner.seeds import derive
from tuner.training import proof
from tuner.training.config import TrainConfig
from tuner.training.loop import Training
from tuner.training.proof import few, fuses
from tuner.training.replay import dispatch
from tuner.training.task import Arrays, Row, Task
from tuner.workloads.base import Epoch, Step

torch.set_num_threads(1)
FILES = {name: Path(str(part.__file__)) for part in (techniques, techniques_more) for name in part.TECHNIQUES}
SIGNATURE = Signature("classification", "numbers", (12,), 3)
EPOCHS, BATCH, ROWS = 3, 16, 70  # an epoch's last batch has 6 rows
CONFIG = TrainConfig(epochs=EPOCHS, batch_size=BATCH, optimizer="adam", learning_rate=0.01, weight_decay=0.01)
STUDY_SEED = 7


def data(dtype: torch.dtype = torch.float32) -> Arrays:
    generator = np.random.default_rng(0)
    x = torch.from_numpy(generator.normal(size=(ROWS + 30, 12))).to(dtype)
    y = torch.from_numpy((generator.normal(size=(ROWS + 30, 12)) @ generator.normal(size=(12, 3))).argmax(1))
    return Arrays(x[:ROWS], y[:ROWS], x[ROWS:], y[ROWS:])


def task(name: str, numbers: tuple[int, ...], *, company: bool) -> Task:
    rows = tuple(Row(number, 100 + number, {}, CONFIG) for number in numbers)
    named = frozenset({"weight_decay", "optimizer", "learning_rate"})
    family = f"{FILES[name].name}:{name}"
    return Task(rows, family, SIGNATURE, company, STUDY_SEED, "val/loss", False, named, folder=str(FILES[name].parent))


def seed(value: int) -> None:
    torch.manual_seed(value)
    np.random.seed(value)  # noqa: NPY002 - as people do
    random.seed(value)


def plain(name: str, number: int, dtype: torch.dtype = torch.float32) -> tuple[torch.nn.Module, list[dict[str, float]]]:
    """The loop that everybody writes."""
    arrays = data(dtype)
    seed(derive(100 + number, "weights"))
    net = models.build(f"{FILES[name].name}:{name}", SIGNATURE, {}, FILES[name].parent)
    if dtype is not torch.float32:
        net.to(dtype)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=0.01)
    steps, told = -(-ROWS // BATCH), []
    for epoch in range(EPOCHS):
        net.train()
        total = 0.0
        for step, rows in enumerate(batches.order(STUDY_SEED, BATCH, epoch, ROWS).split(BATCH)):
            seed(derive(100 + number, "step", epoch * steps + step))
            loss = F.cross_entropy(net(arrays.train_inputs[rows]), arrays.train_targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss) * len(rows)
        net.eval()
        with torch.no_grad():
            output = net(arrays.inputs.clone())
        accuracy = float((output.argmax(1) == arrays.targets).float().mean())
        loss = float(F.cross_entropy(output, arrays.targets))
        told.append({"train/loss": total / ROWS, "val/loss": loss, "val/accuracy": accuracy})
    return net, told


def trained(training: Training) -> tuple[dict[int, list[dict[str, float]]], list[dict[str, torch.Tensor]]]:
    """Each trial's metrics by epoch, and the rows' weights after the last epoch, in the order of the stack."""
    told: dict[int, list[dict[str, float]]] = {row.number: [] for row in training.rows}
    weights: list[dict[str, torch.Tensor]] = []
    for event in training.run():
        if isinstance(event, Epoch):
            assert event.failed == {}
            for number, metrics in event.metrics.items():
                told[number].append(metrics)
            state = training.stack.state()
            weights = [copy.deepcopy(training.stack.weights(state, row)) for row in range(len(training.rows))]
    return told, weights


def same(found: dict[str, torch.Tensor], net: torch.nn.Module, tolerance: float) -> None:
    expected = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if not name.endswith((".key", ".rate")):  # told by the loop to our own dropout
            assert torch.allclose(found[name].double(), value.double(), rtol=tolerance, atol=tolerance), name


def test_there_are_fifty_of_them() -> None:
    assert len(FILES) >= 50
    assert set(techniques.ALONE) <= FILES.keys()


@pytest.mark.parametrize("name", FILES)
def test_alone_it_is_the_plain_loop(name: str) -> None:
    told, (weights,) = trained(Training(task(name, (0,), company=False), data()))
    net, expected = plain(name, 0)
    for one, two in zip(told[0], expected, strict=True):
        assert {metric: one[metric] for metric in two} == pytest.approx(two, rel=1e-6, abs=1e-6)
    same(weights, net, 1e-6)


@pytest.mark.parametrize("name", FILES)
def test_a_restart_in_the_middle_of_an_epoch_changes_no_bit(name: str) -> None:
    company = name not in techniques.ALONE and name not in techniques.LATE
    chosen = task(name, (0, 1) if company else (0,), company=company)
    expected, weights = trained(Training(chosen, data()))
    first = Training(chosen, data())
    early: dict[int, list[dict[str, float]]] = {row.number: [] for row in chosen.rows}
    for event in first.run():
        if isinstance(event, Epoch):
            for number, metrics in event.metrics.items():
                early[number].append(metrics)
        if isinstance(event, Step) and (event.epoch, event.step) == (1, 3):
            break
    content = io.BytesIO()
    torch.save(first.state(), content)
    content.seek(0)
    second = Training(chosen, data())
    second.restore(torch.load(content, weights_only=True))
    late, last = trained(second)
    assert {number: early[number] + late[number] for number in early} == expected
    for one, two in zip(last, weights, strict=True):
        assert all(torch.equal(one[key], two[key]) for key in two)


@pytest.mark.parametrize("name", FILES)
def test_it_trains_in_company_exactly_where_that_is_the_same(name: str) -> None:
    pair, arrays = task(name, (0, 1), company=True), data()
    reason = fuses(pair, few(pair, arrays.train_inputs, arrays.train_targets, arrays.inputs, arrays.targets))
    assert bool(reason) is (name in techniques.ALONE), reason
    if reason:
        return
    if name in techniques.LATE:
        with pytest.raises(RuntimeError):  # the stack's own, or vmap's
            trained(Training(task(name, (0, 1, 2), company=True), data()))
        return
    told, weights = trained(Training(task(name, (0, 1, 2), company=True), data(torch.float64), torch.float64))
    for number in range(3):
        net, expected = plain(name, number, torch.float64)
        for one, two in zip(told[number], expected, strict=True):
            assert {metric: one[metric] for metric in two} == pytest.approx(two, rel=1e-6, abs=1e-6)
        same(weights[number], net, 1e-6)


def test_what_a_layer_draws_is_told_with_what_to_use_instead() -> None:
    pair, arrays = task("Dropping", (0, 1), company=True), data()
    reason = fuses(pair, few(pair, arrays.train_inputs, arrays.train_targets, arrays.inputs, arrays.targets))
    assert "nn.Dropout" in reason and "tuner.models.layers.Dropout" in reason


def test_without_torchs_dispatch_mode_a_network_trains_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, arrays = task("Plain", (0, 1), company=True), data()
    few_rows = few(pair, arrays.train_inputs, arrays.train_targets, arrays.inputs, arrays.targets)
    monkeypatch.setattr(dispatch, "FOUND", False)
    assert "does not show which operations" in fuses(pair, few_rows)


def test_what_does_not_fit_twice_is_not_tried_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, arrays = task("Plain", (0, 1), company=True), data()
    few_rows = few(pair, arrays.train_inputs, arrays.train_targets, arrays.inputs, arrays.targets)
    assert fuses(pair, few_rows) == ""
    monkeypatch.setattr(proof, "_MOST_KEPT", 1_000)
    monkeypatch.setattr(proof, "unsteady", lambda *_, **__: pytest.fail("it was tried"))
    assert "keeps 0 MB for its backward pass" in fuses(pair, few_rows)


def test_a_network_of_more_than_a_million_parameters_trains_alone_untried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests import studies
    from tuner.events import Trial
    from tuner.spec import StudySpec
    from tuner.workloads.network import cohorts as grouping
    from tuner.workloads.network.plan import load

    monkeypatch.setattr(grouping, "fuses", lambda *_: pytest.fail("it was tried"))
    (tmp_path / "wide.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self, signature):\n        super().__init__()\n"
        "        self.f = nn.Sequential(nn.Linear(signature.inputs[0], 40_000), nn.Linear(40_000, signature.outputs))\n"
        "    def forward(self, x):\n        return self.f(x)\n"
    )
    content = studies.study(model={"family": "wide.py:Net"}, search={"trials": 2})
    content["model"] = {"family": "wide.py:Net"}
    del content["search"]["space"]["dropout"], content["search"]["space"]["width"]
    spec = StudySpec.read(studies.write(tmp_path, content))
    said: list[str] = []
    chosen = grouping.NetworkCohorts(spec, load(spec), "cpu", 1, said.append)
    params = {"learning_rate": 0.1, "batch_size": 32, "optimizer": "sgd"}
    cohorts = chosen.group([Trial(number, params, number) for number in range(2)], 0)
    assert [(cohort.company, len(cohort.trials)) for cohort in cohorts] == [(False, 1), (False, 1)]
    assert said and "1,320,002 parameters gain nothing in company" in said[0]
