"""The reference work in plain PyTorch, as one writes it without Tuner: one network, one trial, one loop.

What the peers train. Data lie in tensors and are indexed batch by batch (no DataLoader); split and normalisation are
Tuner's own, so that all learn from the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tuner import data

OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, momentum=0.9),  # Tuner's, where a study names none
    "adam": torch.optim.Adam,
}


class MLP(nn.Module):
    def __init__(self, inputs: int, classes: int, depth: int, width: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        units = inputs
        for _ in range(depth):
            layers += [nn.Linear(units, width), nn.ReLU(), nn.Dropout(dropout)]
            units = width
        self.layers = nn.Sequential(*layers, nn.Linear(units, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def load(seed: int) -> data.Dataset:
    return data.load("digits", validation=0.2, test=0.2, seed=seed)


def train(
    params: Mapping[str, Any], digits: data.Dataset, epochs: int, seed: int, *, fused: bool | None = None
) -> Iterator[dict[str, float]]:
    """One trial; its metrics after each epoch. `fused` asks torch.optim for its one-kernel update."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y = torch.as_tensor(digits.train.inputs), torch.as_tensor(digits.train.targets)
    unseen, labels = torch.as_tensor(digits.validation.inputs), torch.as_tensor(digits.validation.targets)
    inputs, classes = math.prod(digits.signature.inputs), digits.signature.outputs
    network = MLP(inputs, classes, params["depth"], params["width"], params["dropout"])
    optimizer = OPTIMIZERS[params["optimizer"]](network.parameters(), lr=params["learning_rate"], fused=fused)
    for _ in range(epochs):
        network.train()
        total = torch.zeros(())
        for chosen in torch.randperm(len(x)).split(params["batch_size"]):
            loss = F.cross_entropy(network(x[chosen]), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(chosen)
        network.eval()
        with torch.no_grad():
            output = network(unseen)
            yield {
                "train/loss": total.item() / len(x),
                "val/loss": F.cross_entropy(output, labels).item(),
                "val/accuracy": (output.argmax(-1) == labels).float().mean().item(),
            }
