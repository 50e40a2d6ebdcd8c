"""One network that trains alone: an ordinary module, an ordinary backward pass, torch.optim.

For a person's own network that does not fuse, with everything that PyTorch promises one: hooks, parameters that a step
passes over, recomputation, modes, types of its own. It looks like a stack and an optimizer of one row to the
training loop. Knows torch; never losses or data.

Legend: K = 1 row, B batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tuner.training.config import TrainConfig
from tuner.training.optimizers import learning_rate, momentum_of

_PARAMETER, _BUFFER = "parameter:", "buffer:"  # in the names of a state


class Single:
    """A stack of one row. `base` is the network; it keeps its own types unless `dtype` asks for another."""

    def __init__(self, network: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> None:
        self.base = network.to(device) if dtype is None else network.to(device, dtype)
        self.device = device
        self._parameters = list(self.base.parameters())
        self._training: bool | None = None  # as it was told last; None: by nobody yet

    def __len__(self) -> int:
        return 1

    @property
    def buffers(self) -> dict[str, Tensor]:
        """Views of the network's buffers [1, …]; what is copied into one is the network's."""
        return {name: buffer[None] for name, buffer in self.base.named_buffers()}

    def forward(self, x: Tensor, *, training: bool, shared: bool) -> Tensor:
        """Outputs [1, B, …] for x [B, …] (`shared`) or x [1, B, …]."""
        return self.answer(x if shared else x[0], training=training)[None]

    def answer(self, x: Tensor, *, training: bool) -> Tensor:
        """The network's own output for x [B, …]. It is told its mode when that changes."""
        if self._training is not training:
            self.base.train(training)
            self._training = training
        output: Tensor = self.base(x)
        return output

    def backward(self, loss: Tensor) -> None:
        """The gradient of a loss [], where autograd leaves it; a parameter that took no part has none."""
        for parameter in self._parameters:
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]

    def state(self) -> dict[str, Tensor]:
        """Parameters and buffers as they are, each [1, …]."""
        found = {f"{_PARAMETER}{name}": value.detach()[None] for name, value in self.base.named_parameters()}
        return found | {f"{_BUFFER}{name}": value.detach()[None] for name, value in self.base.named_buffers()}

    @torch.no_grad()
    def keep(self, best: dict[str, Tensor], better_K: Tensor) -> None:
        """Write what the network has now into `best`, a copy of an earlier `state`, if the row got `better`."""
        if not better_K.any():
            return
        for name, now in self.state().items():
            if name in best and best[name].shape == now.shape:
                best[name].copy_(now)
            else:
                best[name] = now.clone()

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        for name, parameter in self.base.named_parameters():
            parameter.copy_(state[f"{_PARAMETER}{name}"][0])
        for name, value in state.items():
            if name.startswith(_BUFFER):
                self._put_buffer(name.removeprefix(_BUFFER), value[0])
        self._training = None

    def _put_buffer(self, name: str, value: Tensor) -> None:
        path, _, leaf = name.rpartition(".")
        module = self.base.get_submodule(path)
        now = getattr(module, leaf, None)
        if isinstance(now, Tensor) and now.shape == value.shape:
            now.copy_(value)
        elif hasattr(module, leaf):
            setattr(module, leaf, value.to(self.device))
        else:  # one that the network makes while it trains
            module.register_buffer(leaf, value.to(self.device))

    def put(self, weights: Mapping[str, Tensor]) -> None:
        """Give the network these weights, as `weights` gave them."""
        with torch.no_grad():
            for name, parameter in self.base.named_parameters():
                parameter.copy_(weights[name])
            for name, _ in self.base.named_buffers():
                self._put_buffer(name, weights[name])

    def weights(self, state: Mapping[str, Tensor], row: int) -> dict[str, Tensor]:
        """A `state` by the names that the network gives its parameters and buffers, on the CPU; no copy there."""
        assert row == 0, row
        return {name.partition(":")[2]: value[0].cpu() for name, value in state.items()}

    def told(self, *, training: bool) -> None:
        """The network is in that mode already."""
        self._training = training


class Losses:
    """The losses of one network's newest steps: kept as they come, added up when somebody asks for them."""

    def __init__(self) -> None:
        self._newest: list[tuple[int, Tensor]] = []

    def add(self, rows: int, loss: Tensor) -> None:
        """The mean loss [] of a step on that many rows."""
        self._newest.append((rows, loss))

    def move(self, sum_K: Tensor, losses_KS: Tensor) -> None:
        """Add them, each times its rows, to the sum; they become the last of the losses."""
        if not self._newest:
            return
        counts, losses = zip(*self._newest, strict=True)
        losses_S = torch.stack(losses).to(losses_KS)
        losses_KS[0, -len(counts) :] = losses_S
        total = float(sum_K)
        for count, loss in zip(counts, losses_S.tolist(), strict=True):
            total += count * loss
        sum_K.fill_(total)
        self._newest = []


class SingleOptimizer:
    """torch.optim's update of one network, with the study's schedule, L1 penalty and clipping."""

    def __init__(self, config: TrainConfig, network: nn.Module) -> None:
        self._config = config
        self._parameters = list(network.parameters())
        self._optimizer = _OPTIMIZERS[config.optimizer](self._parameters, config)
        (self._group,) = self._optimizer.param_groups
        self._first = self._steps = 0

    def begin_epoch(self, epoch: int, steps: int) -> None:
        """Prepare the steps of one epoch (from 0)."""
        self._first, self._steps = epoch * steps, steps

    def step(self, at: int) -> None:
        """Update the network by its gradients, at step `at` of the epoch, from 0."""
        config = self._config
        if config.l1:
            with torch.no_grad():
                for parameter in self._parameters:
                    if parameter.grad is not None:
                        parameter.grad.add_(parameter.sign(), alpha=config.l1)
        if config.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self._parameters, config.gradient_clip)
        self._group["lr"] = learning_rate(config, self._first + at, self._steps)
        self._optimizer.step()

    def state(self) -> dict[str, Tensor]:
        """torch.optim's own state, by parameter and name."""
        held = self._optimizer.state_dict()["state"]
        return {f"{index}:{name}": value for index, values in held.items() for name, value in values.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        held: dict[int, dict[str, Any]] = {}
        for key, value in state.items():
            index, _, name = key.partition(":")
            held.setdefault(int(index), {})[name] = value
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": held, "param_groups": groups})
        (self._group,) = self._optimizer.param_groups


def _sgd(parameters: list[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    momentum = momentum_of(config)
    return torch.optim.SGD(
        parameters,
        lr=config.learning_rate,
        momentum=momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov and momentum > 0.0,  # without momentum it is the plain step, and torch refuses it
    )


def _adam(parameters: list[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    rule = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return rule(
        parameters,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        weight_decay=config.weight_decay,
    )


def _rmsprop(parameters: list[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(
        parameters,
        lr=config.learning_rate,
        alpha=config.alpha,
        eps=config.epsilon,
        momentum=momentum_of(config),
        weight_decay=config.weight_decay,
    )


_OPTIMIZERS = {"sgd": _sgd, "adam": _adam, "adamw": _adam, "rmsprop": _rmsprop}
