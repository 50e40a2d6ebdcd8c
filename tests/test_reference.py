"""Ours against torch's: the stacked network and its optimizers equal plain modules and torch.optim in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests import zoo
from tuner.data import augmentation, batches
from tuner.models import build, layers, stateless
from tuner.training.loop import Training
from tuner.training.optimizers import learning_rate
from tuner.training.task import Row, Step, Task
from tuner.trial import derive

torch.set_num_threads(1)
TOLERANCE = 1e-10


def optimizer(row: Row, network: nn.Module) -> torch.optim.Optimizer:
    c, parameters = row.config, network.parameters()
    momentum = c.momentum
    if c.optimizer == "sgd":
        momentum = 0.9 if momentum is None else momentum
        return torch.optim.SGD(
            parameters, c.learning_rate, momentum=momentum, nesterov=c.nesterov, weight_decay=c.weight_decay
        )
    if c.optimizer == "rmsprop":
        return torch.optim.RMSprop(
            parameters,
            c.learning_rate,
            alpha=c.alpha,
            eps=c.epsilon,
            momentum=momentum or 0,
            weight_decay=c.weight_decay,
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[c.optimizer]
    return kind(parameters, c.learning_rate, betas=(c.beta1, c.beta2), eps=c.epsilon, weight_decay=c.weight_decay)


def plain_loss(case: zoo.Case, c: zoo.TrainConfig, output: Tensor, y: Tensor, targets: Tensor) -> Tensor:
    if case.signature.task == "regression":
        return F.huber_loss(output, y, delta=c.huber_delta) if c.loss == "huber" else F.mse_loss(output, y)
    if case.signature.task == "language":
        return F.cross_entropy(output.flatten(0, 1), y.flatten(), label_smoothing=c.label_smoothing)
    weight = None
    if c.class_weights == "balanced":
        counts = torch.bincount(targets, minlength=case.signature.outputs).double().clamp(min=1.0)
        weight = len(targets) / (len(counts) * counts)
    # summed and divided by the batch: torch's own mean would divide by the batch's weights
    loss = F.cross_entropy(output, y, weight=weight, label_smoothing=c.label_smoothing, reduction="sum")
    return loss / len(y)


def plain(case: zoo.Case, task: Task, row: Row) -> tuple[nn.Module, list[float]]:
    """The same training as a person would write it: one module, one torch optimizer, one loop."""
    data = zoo.arrays(case.signature, torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(row.seed, "weights"))
        network = build(case.family, case.signature, row.network).double()
    update = optimizer(row, network)
    mean, scale = None, torch.tensor(1.0)
    if case.signature.task == "regression":
        mean, scale = data.train_targets.mean(0), data.train_targets.std(0, correction=0)
    dropouts = [module for module in network.modules() if isinstance(module, layers.Dropout)]
    c, losses = row.config, []
    count = len(data.train_inputs)
    steps = batches.steps(count, c.batch_size)
    for epoch in range(c.epochs):
        order = batches.order(task.seed, c.batch_size, epoch, count)
        for step in range(steps):
            chosen = order[step * c.batch_size : (step + 1) * c.batch_size]
            x, y = data.train_inputs[chosen], data.train_targets[chosen]
            if case.training:
                strengths = {
                    f"{name}_K": torch.tensor([getattr(c, name)], dtype=torch.float64) for name in case.training
                }
                keys = augmentation.keys(task.seed, epoch, step)
                x = augmentation.augment(x, keys, masked=task.signature.masked, **strengths)[0]
            number = epoch * steps + step
            for layer, module in enumerate(dropouts):
                seed = stateless.mix(torch.tensor(derive(row.seed, "dropout"), dtype=torch.int32))
                module.key = stateless.mix(
                    stateless.mix(seed + layer + 1) ^ stateless.mix(torch.tensor(number, dtype=torch.int32))
                )
            output = network(x)
            loss = plain_loss(case, c, output, y if mean is None else (y - mean) / scale, data.train_targets)
            losses.append(loss.item())
            penalty = c.l1 * sum(parameter.abs().sum() for parameter in network.parameters())
            update.zero_grad()
            (loss + penalty).backward()
            if c.gradient_clip is not None:
                nn.utils.clip_grad_norm_(network.parameters(), c.gradient_clip)
            for group in update.param_groups:
                group["lr"] = learning_rate(c, number, steps)
            update.step()
    return network, losses


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
        network, _ = plain(case, task, row)
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
