"""Ours against torch's: the stacked network and its optimizers equal plain modules and torch.optim in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests import zoo
from tests.reference import plain
from tuner.models import layers
from tuner.training.loop import Training
from tuner.training.optimizers import learning_rate
from tuner.workloads.base import Step

torch.set_num_threads(1)
TOLERANCE = 1e-10


@pytest.mark.parametrize("case", zoo.CASES, ids=lambda case: case.name)
def test_a_cohort_equals_plain_modules_under_torch_optim(case: zoo.Case) -> None:
    rows = [zoo.row(case, number) for number in range(len(zoo.SETTINGS))]
    task = zoo.task(case, rows)
    training = Training(task, zoo.arrays(case.signature, torch.float64), torch.float64)
    for event in training.run():
        if isinstance(event, Step) and event.epoch == 2 and event.step == training.steps:
            state = {name: value.clone() for name, value in training.stack.state().items()}
            order = [row.number for row in training.rows]
    for row in rows:
        network = plain(case, task, row)
        ours = training.stack.weights(state, order.index(row.number))
        for name, theirs in network.state_dict().items():
            if not name.endswith("key"):
                assert_close(ours[name], theirs, f"{row.config.optimizer} {row.number} {name}")


def assert_close(ours: Tensor, theirs: Tensor, what: str) -> None:
    torch.testing.assert_close(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE, msg=lambda text: f"{what}: {text}")


@pytest.mark.parametrize(
    ("config", "scheduler"),
    [
        (
            {"schedule": "cosine", "epochs": 6},
            lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=6 * 4),
        ),
        (
            {"schedule": "step", "decay_every": 2.0, "decay_factor": 0.3, "epochs": 6},
            lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=2 * 4, gamma=0.3),
        ),
        (
            {"warmup": 2.0, "epochs": 6},
            lambda o: torch.optim.lr_scheduler.LinearLR(o, start_factor=1 / 8, total_iters=7),
        ),
    ],
    ids=["cosine", "step", "warm-up"],
)
def test_schedules_are_torchs(config: dict, scheduler) -> None:
    made = zoo.TrainConfig(learning_rate=0.2, **config)
    update = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.2)
    theirs = scheduler(update)
    for step in range(6 * 4):
        assert learning_rate(made, step, 4) == pytest.approx(update.param_groups[0]["lr"], rel=1e-12, abs=1e-15)
        update.step()
        theirs.step()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (layers.sigmoid, torch.sigmoid),
        (layers.silu, F.silu),
        (layers.gelu, F.gelu),
    ],
)
@pytest.mark.parametrize("count", [4001, 4032])  # with a rest, and in whole vectors
def test_our_activations_are_torchs(ours, theirs, count: int) -> None:
    x = torch.linspace(-40, 40, count, dtype=torch.float64, requires_grad=True)
    assert_close(ours(x), theirs(x), "value")
    (one,) = torch.autograd.grad(ours(x).sum(), x)
    (other,) = torch.autograd.grad(theirs(x).sum(), x)
    assert_close(one, other, "gradient")


@pytest.mark.parametrize(
    ("ours", "theirs", "shape"),
    [
        (layers.BatchNorm(6), nn.BatchNorm1d(6), (11, 6)),
        (layers.BatchNorm(6), nn.BatchNorm2d(6), (11, 6, 4, 3)),
        (layers.ChannelLayerNorm(6), nn.LayerNorm(6), (11, 6)),
        (layers.ChannelLayerNorm(6), nn.GroupNorm(1, 6), (11, 6, 4, 3)),
    ],
    ids=["batch", "batch-image", "layer", "layer-image"],
)
def test_our_norms_are_torchs(ours: nn.Module, theirs: nn.Module, shape: tuple[int, ...]) -> None:
    ours, theirs = ours.double(), theirs.double()
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 1
    with torch.no_grad():
        for module in (ours, theirs):
            module.weight.copy_(torch.linspace(0.5, 2, 6))
            module.bias.copy_(torch.linspace(-1, 1, 6))
    for mode in (True, True, False):
        ours.train(mode)
        theirs.train(mode)
        assert_close(ours(x), theirs(x), f"training={mode}")


@pytest.mark.parametrize("shape", [(3, 2, 8, 6), (3, 2, 9, 7)])
@pytest.mark.parametrize("levels", [7, 10**9])  # with many that are equal, and with none
def test_our_pooling_is_torchs(shape: tuple[int, ...], levels: int) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randint(levels, shape, generator=generator).double().requires_grad_()
    weights = torch.randn(*shape[:2], shape[2] // 2, shape[3] // 2, generator=generator, dtype=torch.float64)
    ours, theirs = layers.MaxPool2()(x), F.max_pool2d(x, 2)
    assert torch.equal(ours, theirs)
    (one,), (other,) = (torch.autograd.grad((y * weights).sum(), x) for y in (ours, theirs))
    if levels > 7:
        assert torch.equal(one, other)
    # among equals another may be chosen, but one of them, and with the whole gradient
    assert_close(F.avg_pool2d(one, 2), F.avg_pool2d(other, 2), "gradient")
    high, wide = (2 * side for side in ours.shape[-2:])
    largest = ours.repeat_interleave(2, -2).repeat_interleave(2, -1)
    assert not one[..., :high, :wide][x[..., :high, :wide] < largest].any()
    assert int((one != 0).sum()) == weights.numel()


def test_tanh_in_float32_is_near() -> None:
    x = torch.linspace(-12, 12, 64_000)
    assert float((layers.tanh(x).double() - torch.tanh(x.double())).abs().max()) < 1e-6


def test_dropout_silences_the_share_it_is_told_and_keeps_the_mean() -> None:
    layer = layers.Dropout(0.3)
    layer.key = torch.tensor(123456, dtype=torch.int32)
    x = torch.ones(400, 500)
    y = layer(x)
    assert float((y == 0).double().mean()) == pytest.approx(0.3, abs=0.005)
    assert float(y.mean()) == pytest.approx(1.0, abs=0.01)
    # no pattern by row, column or lag: neighbours are silenced together as often as chance has it
    silent = (y == 0).double()
    for lag in (1, 2, 3, 250, 500):
        flat = silent.flatten()
        assert float((flat[:-lag] * flat[lag:]).mean()) == pytest.approx(0.09, abs=0.004), lag
    layer.key = torch.tensor(123457, dtype=torch.int32)
    assert float((silent * (layer(x) == 0)).mean()) == pytest.approx(0.09, abs=0.004)
    layer.eval()
    assert torch.equal(layer(x), x)
