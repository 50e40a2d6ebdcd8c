"""A multilayer perceptron for numbers, or for anything else flattened."""

from __future__ import annotations

import math
from typing import Annotated

from torch import Tensor, nn

from models.interface import Setting, Signature
from models.layers import Activation, Dropout, DropoutRate, Norm, nonlinearity, normalise


class MLP(nn.Module):
    """x [B, *signature.inputs] → [B, signature.outputs]."""

    def __init__(
        self,
        signature: Signature,
        width: Annotated[int, Setting("units per hidden layer", low=1, high=65_536)] = 64,
        depth: Annotated[int, Setting("hidden layers", low=0, high=256)] = 2,
        activation: Activation = "relu",
        norm: Norm = "none",
        dropout: DropoutRate = 0.0,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        units = math.prod(signature.inputs)
        for _ in range(depth):
            layers += [nn.Linear(units, width), *normalise(norm, width), nonlinearity(activation), Dropout(dropout)]
            units = width
        self.layers = nn.Sequential(*layers, nn.Linear(units, signature.outputs))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layers(x)
        return output
