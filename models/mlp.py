"""A multilayer perceptron for numbers, or for images and sequences flattened."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from tuner.models.interface import CLASSIFICATION, IMAGE, NUMBERS, REGRESSION, SEQUENCE, Setting, Signature
from tuner.models.layers import Activation, Dropout, DropoutRate, Linear, Norm, nonlinearity, normalise


class MLP(nn.Module):
    """x [B, *signature.inputs] → [B, signature.outputs]. What stands in a sequence's padding is taken for zeros."""

    modalities: ClassVar = (NUMBERS, IMAGE, SEQUENCE)
    tasks: ClassVar = (CLASSIFICATION, REGRESSION)
    rows_together: ClassVar = 32

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
        self.masked = signature.masked
        layers: list[nn.Module] = [nn.Flatten()]
        units = math.prod(signature.inputs)
        for _ in range(depth):
            layers += [Linear(units, width), *normalise(norm, width), nonlinearity(activation), Dropout(dropout)]
            units = width
        self.layers = nn.Sequential(*layers, Linear(units, signature.outputs))

    def forward(self, x: Tensor) -> Tensor:
        if self.masked:
            x = torch.where(x[..., -1:] > 0.5, x, 0.0)
        output: Tensor = self.layers(x)
        return output
