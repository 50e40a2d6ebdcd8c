"""A convolutional network for images, sequences and text: blocks of convolution and pooling, then one linear layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tuner.models.interface import CLASSIFICATION, IMAGE, REGRESSION, SEQUENCE, TEXT, Setting, Signature
from tuner.models.layers import (
    RISING,
    Activation,
    BatchNorm,
    Conv2d,
    Dropout,
    DropoutRate,
    MaxPool2,
    Norm,
    biased,
    nonlinearity,
    normalise,
)
from tuner.models.sequences import Embedded, LayerNorm, Linear, Vectors


def _mean(h: Tensor, real: Tensor | None) -> Tensor:
    if real is None:
        return h.mean(-1)
    return h.sum(-1) / real.sum(-1, keepdim=True).clamp(min=1)  # what is not real is zero


def _max(h: Tensor, real: Tensor | None) -> Tensor:
    if real is None:
        return h.amax(-1)
    return h.masked_fill(~real[:, None], _LEAST).amax(-1) * real.any(-1, keepdim=True)


_LEAST = -1e30  # below anything that a network computes; minus infinity times zero would be no number
_READOUTS: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {  # h [B, C, places], real [B, places] or None
    "flatten": lambda h, real: h.flatten(1),  # noqa: ARG005 - what is not real is zero
    "mean": _mean,
    "max": _max,
}


class Block(nn.Module):
    """Convolution over time, norm, nonlinearity and the larger of every two steps: x [B, T, C] → [B, ⌈T/2⌉, channels].

    The windows are laid side by side and multiplied at once, which fuses; a step that is not real is zero
    before and after, and counts in no norm.
    """

    def __init__(self, inputs: int, channels: int, kernel: int, activation: str, norm: str) -> None:
        super().__init__()
        self.kernel = kernel
        self.windows = Linear(kernel * inputs, channels, bias=biased(norm))
        self.norm = _STEP_NORMS[norm](channels)
        self.activation = nonlinearity(activation)

    def forward(self, x: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor | None]:
        time = x.shape[1]
        padded = F.pad(x, (0, 0, self.kernel // 2, self.kernel // 2))
        h = self.windows(torch.cat([padded[:, shift : shift + time] for shift in range(self.kernel)], -1))
        if isinstance(self.norm, BatchNorm):
            flat = self.norm(h.flatten(0, 1), None if real is None else real.flatten())
            h = flat.view(h.shape)
        else:
            h = self.norm(h)
        h = self.activation(h)
        # A last step without a partner is the larger of itself and a step that is not there.
        h = h if real is None else h.masked_fill(~real[..., None], _LEAST)
        h = F.pad(h, (0, 0, 0, time % 2), value=_LEAST)
        h = torch.maximum(h[:, 0::2], h[:, 1::2])
        if real is None:
            return h, None
        real = F.pad(real, (0, time % 2))
        real = real[:, 0::2] | real[:, 1::2]
        return torch.where(real[..., None], h, 0.0), real


_STEP_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda channels: nn.Identity(),  # noqa: ARG005
    "batch": BatchNorm,
    "layer": LayerNorm,
}


class CNN(nn.Module):
    """x [B, *signature.inputs] → [B, signature.outputs].

    The first block has `width` channels, each further one twice as many at half the resolution (of a
    sequence's odd number of steps the last makes a half of its own).
    Raises ValueError for an even kernel and for an image or a sequence too small for the depth.
    """

    modalities: ClassVar = (IMAGE, SEQUENCE, TEXT)
    tasks: ClassVar = (CLASSIFICATION, REGRESSION)
    widest_images_together: ClassVar = 8  # channels of the first block; see training/cohort_size.py

    def __init__(
        self,
        signature: Signature,
        width: Annotated[int, Setting("channels of the first block", low=1, high=4_096)] = 16,
        depth: Annotated[int, Setting("blocks of convolution and pooling", low=1, high=16)] = 2,
        kernel: Annotated[int, Setting("side of the convolution's window, odd", low=1, high=31)] = 3,
        activation: Activation = "relu",
        norm: Norm = "none",
        readout: Annotated[str, Setting("pooling", choices=tuple(_READOUTS))] = "flatten",
        embedding: Embedded = 32,
        dropout: DropoutRate = 0.0,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd so that a block keeps the image's size, got {kernel}")
        self.image = signature.modality == IMAGE
        sides = list(signature.inputs[1:] if self.image else signature.inputs[:1])
        if min(sides) >> depth == 0:
            what = f"a {'×'.join(map(str, sides))} image" if self.image else f"{sides[0]} steps"
            raise ValueError(f"depth {depth} halves {what} to nothing; use a smaller depth")
        self.vectors = None if self.image else Vectors(signature, embedding)
        channels = signature.inputs[0] if self.vectors is None else self.vectors.features
        blocks: list[nn.Module] = []
        for block in range(depth):
            wide = width << block
            if self.image:
                blocks += [Conv2d(channels, wide, kernel, biased(norm)), *normalise(norm, wide)]
                # The larger of four is the same before a rising nonlinearity, which then has a quarter of the work.
                last = [MaxPool2(), nonlinearity(activation)]
                blocks += last if activation in RISING else last[::-1]
                sides = [side // 2 for side in sides]
            else:
                blocks.append(Block(channels, wide, kernel, activation, norm))
                sides = [-(-sides[0] // 2)]
            channels = wide
        places = sides[0] * sides[-1] if self.image else sides[0]
        self.layers = nn.ModuleList(blocks)
        self.readout = _READOUTS[readout]
        self.dropout = Dropout(dropout)
        self.output = Linear(channels * places if readout == "flatten" else channels, signature.outputs)

    def forward(self, x: Tensor) -> Tensor:
        if self.vectors is None:
            for layer in self.layers:
                x = layer(x)
            h, real = x.flatten(2), None
        else:
            h, real = self.vectors(x)
            for block in self.layers:
                h, real = block(h, real)
            h = h.mT
        output: Tensor = self.output(self.dropout(self.readout(h, real)))
        return output
