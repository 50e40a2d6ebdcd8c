"""Training as a person would write it, for the float64 reference: plain modules, torch.optim, one loop.

Needs torch and numpy alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests import zoo
from tuner.data import augmentation, batches
from tuner.models import build, layers, stateless
from tuner.seeds import derive
from tuner.training.optimizers import learning_rate
from tuner.training.task import Row, Task


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


def plain(case: zoo.Case, task: Task, row: Row, device: torch.device = zoo.CPU) -> nn.Module:
    """One row's training as a person would write it: one module, one torch optimizer, one loop; in float64."""
    data = zoo.arrays(case.signature, torch.float64, device=device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(row.seed, "weights"))
        network = build(case.family, case.signature, row.network).double().to(device)
    update = optimizer(row, network)
    mean, scale = None, 1.0
    if case.signature.task == "regression":
        mean, scale = data.train_targets.mean(0), data.train_targets.std(0, correction=0)
    dropouts = [module for module in network.modules() if isinstance(module, layers.Dropout)]
    c = row.config
    count = len(data.train_inputs)
    steps = batches.steps(count, c.batch_size)
    for epoch in range(c.epochs):
        order = batches.order(task.seed, c.batch_size, epoch, count).to(device)
        for step in range(steps):
            chosen = order[step * c.batch_size : (step + 1) * c.batch_size]
            x, y = data.train_inputs[chosen], data.train_targets[chosen]
            if case.training:
                strengths = {
                    f"{name}_K": torch.tensor([getattr(c, name)], dtype=torch.float64, device=device)
                    for name in case.training
                }
                keys = augmentation.keys(task.seed, epoch, step).to(device)
                x = augmentation.augment(x, keys, masked=task.signature.masked, **strengths)[0]
            number = epoch * steps + step
            for layer, module in enumerate(dropouts):
                seed = stateless.mix(torch.tensor(derive(row.seed, "dropout"), dtype=torch.int32))
                module.key = stateless.mix(
                    stateless.mix(seed + layer + 1) ^ stateless.mix(torch.tensor(number, dtype=torch.int32))
                ).to(device)
            output = network(x)
            loss = plain_loss(case, c, output, y if mean is None else (y - mean) / scale, data.train_targets)
            penalty = c.l1 * sum(parameter.abs().sum() for parameter in network.parameters())
            update.zero_grad()
            (loss + penalty).backward()
            if c.gradient_clip is not None:
                nn.utils.clip_grad_norm_(network.parameters(), c.gradient_clip)
            for group in update.param_groups:
                group["lr"] = learning_rate(c, number, steps)
            update.step()
    return network
