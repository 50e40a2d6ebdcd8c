"""A regression's targets on the scale of their own spread while learning, in their own unit everywhere else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tuner.models.interface import REGRESSION


@dataclass(frozen=True)
class Standard:
    """A regression's targets, moved to mean 0 and deviation 1 of the training rows while learning."""

    mean: Tensor | None
    scale: Tensor | None

    @classmethod
    def of(cls, targets: Tensor, task: str, dtype: torch.dtype) -> Standard:
        if task != REGRESSION:
            return cls(None, None)
        values = targets.double()
        scale = values.std(0, correction=0)
        return cls(values.mean(0).to(dtype), torch.where(scale > 0, scale, 1.0).to(dtype))

    def apply(self, targets: Tensor) -> Tensor:
        return targets if self.mean is None or self.scale is None else (targets.to(self.mean) - self.mean) / self.scale

    def undo(self, outputs: Tensor) -> Tensor:
        return outputs if self.mean is None or self.scale is None else outputs * self.scale + self.mean

    def wrap(self, network: nn.Module) -> nn.Module:
        return network if self.mean is None or self.scale is None else _Rescaled(network, self.mean, self.scale)


class _Rescaled(nn.Module):
    """A regression's network that answers in the targets' own unit."""

    mean: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean.cpu())
        self.register_buffer("scale", scale.cpu())

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.network(x) * self.scale + self.mean
        return output
