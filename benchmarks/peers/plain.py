"""Training one network in plain PyTorch, as one writes it without Tuner: torch's own modules, torch.optim, one loop.

Data lie in tensors and are indexed batch by batch (no DataLoader), nothing waits for a number before the epoch's end.
Needs torch and numpy alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, momentum=0.9),  # Tuner's, where a study names none
    "adam": torch.optim.Adam,
}


class MLP(nn.Module):
    def __init__(self, inputs: tuple[int, ...], classes: int, depth: int, width: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        units = math.prod(inputs)
        for _ in range(depth):
            layers += [nn.Linear(units, width), nn.ReLU(), nn.Dropout(dropout)]
            units = width
        self.layers = nn.Sequential(*layers, nn.Linear(units, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class RNN(nn.Module):
    """torch's own recurrence, read at its last step."""

    def __init__(
        self, inputs: tuple[int, ...], classes: int, cell: str, width: int, depth: int, dropout: float
    ) -> None:
        super().__init__()
        recurrence = {"lstm": nn.LSTM, "gru": nn.GRU}[cell]
        self.layers = recurrence(inputs[-1], width, depth, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.layers(x)
        return self.output(self.dropout(h[:, -1]))


class Block(nn.Module):
    """Attention and feed-forward, each behind its norm."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_forward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inward, self.outward = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.forward_part = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        parts = self.inward(self.before_attention(x)).view(batch, time, 3, self.heads, width // self.heads)
        found = F.scaled_dot_product_attention(*parts.permute(2, 0, 3, 1, 4).unbind(0))
        x = x + self.dropout(self.outward(found.transpose(1, 2).reshape(batch, time, width)))
        return x + self.dropout(self.forward_part(self.before_forward(x)))


class Transformer(nn.Module):
    def __init__(
        self, inputs: tuple[int, ...], classes: int, width: int, depth: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        time, features = inputs
        self.inward = nn.Linear(features, width)
        self.places = nn.Parameter(torch.randn(time, width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(width, heads, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.norm(self.blocks(self.dropout(self.inward(x) + self.places))).mean(1))


class CNN(nn.Module):
    def __init__(
        self, inputs: tuple[int, ...], classes: int, width: int, depth: int, kernel: int, dropout: float
    ) -> None:
        super().__init__()
        channels, height, breadth = inputs
        layers: list[nn.Module] = []
        for block in range(depth):
            wide = width << block
            layers += [nn.Conv2d(channels, wide, kernel, padding=kernel // 2), nn.ReLU(), nn.MaxPool2d(2)]
            channels, height, breadth = wide, height // 2, breadth // 2
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(dropout))
        self.output = nn.Linear(channels * height * breadth, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.layers(x))


NETWORKS: Mapping[str, Callable[..., nn.Module]] = {"mlp": MLP, "rnn": RNN, "transformer": Transformer, "cnn": CNN}


def train(
    network: nn.Module, optimizer: torch.optim.Optimizer, batch: int, data: tuple[Tensor, Tensor, Tensor, Tensor]
) -> Iterator[dict[str, float]]:
    """Train for ever; the metrics after each epoch. `data`: inputs and classes to learn from, and to validate on."""
    x, y, unseen, labels = data
    while True:
        network.train()
        total = torch.zeros((), device=x.device)
        for chosen in torch.randperm(len(x), device=x.device).split(batch):
            loss = F.cross_entropy(network(x[chosen]), y[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(chosen)
        network.eval()
        with torch.no_grad():
            output = network(unseen)
            metrics = {
                "train/loss": total.item() / len(x),
                "val/loss": F.cross_entropy(output, labels).item(),
                "val/accuracy": (output.argmax(-1) == labels).float().mean().item(),
            }
        yield metrics


def optimizer(
    name: str, network: nn.Module, learning_rate: float, *, fused: bool | None = None
) -> torch.optim.Optimizer:
    """`fused` asks torch.optim for its one-kernel update."""
    return OPTIMIZERS[name](network.parameters(), lr=learning_rate, fused=fused)


def settings(network: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of `NETWORKS` among Tuner's: what these networks leave no choice about is left out."""
    return {name: value for name, value in network.items() if name not in ("activation", "readout")}
