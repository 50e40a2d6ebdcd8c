"""A convolutional network for images: blocks of convolution and pooling, then one linear output layer."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from models.interface import Setting, Signature
from models.layers import Activation, Conv2d, Dropout, DropoutRate, Norm, nonlinearity, normalise


class CNN(nn.Module):
    """x [B, C, H, W] → [B, signature.outputs].

    The first block has `width` channels, each further one twice as many at half the resolution.
    Raises ValueError for an even kernel and for an image too small for the depth.
    """

    def __init__(
        self,
        signature: Signature,
        width: Annotated[int, Setting("channels of the first block", low=1, high=4_096)] = 16,
        depth: Annotated[int, Setting("blocks of convolution and pooling", low=1, high=16)] = 2,
        kernel: Annotated[int, Setting("side of the convolution's window, odd", low=1, high=31)] = 3,
        activation: Activation = "relu",
        norm: Norm = "none",
        dropout: DropoutRate = 0.0,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd so that a block keeps the image's size, got {kernel}")
        channels, height, breadth = signature.inputs
        if min(height, breadth) >> depth == 0:
            raise ValueError(f"depth {depth} halves a {height}×{breadth} image to nothing; use a smaller depth")
        layers: list[nn.Module] = []
        for block in range(depth):
            wide = width << block
            layers += [Conv2d(channels, wide, kernel), *normalise(norm, wide)]
            layers += [nonlinearity(activation), nn.MaxPool2d(2)]
            channels, height, breadth = wide, height // 2, breadth // 2
        layers += [nn.Flatten(), Dropout(dropout), nn.Linear(channels * height * breadth, signature.outputs)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layers(x)
        return output
