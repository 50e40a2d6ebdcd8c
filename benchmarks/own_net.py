"""The network of `own_network.py`, as a person would have it: in a file of its own."""

import itertools

import torch
from torch import nn

from tuner.models import Signature


class Net(nn.Module):
    """What both ways train."""

    def __init__(self, signature: Signature, width: int = 16, depth: int = 1) -> None:
        super().__init__()
        sizes = [signature.inputs[0], *[width] * depth]
        hidden = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, signature.outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layers(x)
        return found
