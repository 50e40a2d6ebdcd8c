"""A transformer: an encoder of sequences, text and image patches, or a causal decoder that continues text."""

from __future__ import annotations

from typing import Annotated, ClassVar

from torch import Tensor, nn

from tuner.models import columns
from tuner.models.attention import Block, sinusoids
from tuner.models.interface import IMAGE, LANGUAGE, SEQUENCE, TASKS, TEXT, Setting, Signature
from tuner.models.layers import Activation, Dropout, DropoutRate
from tuner.models.sequences import Linear, Patches, Readout, ReadoutName, Vectors

POSITIONS = ("learned", "sinusoidal")


class Transformer(nn.Module):
    """x [B, *signature.inputs] → signature.output_shape(B).

    In language modelling every position is answered from itself and those before it, and `readout` is not used.
    Raises ValueError for a width that its heads do not divide and for an image that `patch` does not divide.
    """

    modalities: ClassVar = (IMAGE, SEQUENCE, TEXT)
    tasks: ClassVar = TASKS
    positions_together: ClassVar = 128

    def __init__(
        self,
        signature: Signature,
        width: Annotated[int, Setting("numbers that stand for one step, divisible by heads", low=1, high=65_536)] = 64,
        depth: Annotated[int, Setting("blocks of attention and feed-forward", low=1, high=96)] = 2,
        heads: Annotated[int, Setting("attention heads per block", low=1, high=256)] = 4,
        feedforward: Annotated[
            int, Setting("hidden units of a block's feed-forward per unit of width", low=1, high=64)
        ] = 4,
        patch: Annotated[int, Setting("images: side of a patch in pixels", low=1, high=256)] = 4,
        activation: Activation = "gelu",
        readout: ReadoutName = "mean",
        positions: Annotated[str, Setting("how a step's place is told", choices=POSITIONS)] = "learned",
        dropout: DropoutRate = 0.0,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width must be divisible by heads, got width {width} and heads {heads}")
        image, everywhere = signature.modality == IMAGE, signature.task == LANGUAGE
        self.vectors = Patches(signature, patch) if image else Vectors(signature, width)
        time = self.vectors.grid[0] * self.vectors.grid[1] if isinstance(self.vectors, Patches) else signature.inputs[0]
        self.inward = columns.Linear(self.vectors.features, width)
        if positions == "learned":  # and begun where the others stand
            self.places = nn.Parameter(sinusoids(time, width))
        else:
            self.register_buffer("places", sinusoids(time, width))
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(width, heads, feedforward * width, activation, dropout, causal=everywhere) for _ in range(depth)
        )
        self.norm = columns.LayerNorm(width)
        self.readout = None if everywhere else Readout(readout, width)
        self.output = Linear(width, signature.outputs)

    def forward(self, x: Tensor) -> Tensor:
        vectors, real = self.vectors(x)
        h = self.inward(vectors.permute(2, 0, 1))
        places = self.places if len(self.places) == h.shape[2] else self.places[: h.shape[2]]
        h = self.dropout(h + places.mT[:, None])
        for block in self.blocks:
            h = block(h, real)
        h = self.norm(h).permute(1, 2, 0)
        output: Tensor = self.output(h if self.readout is None else self.readout(h, real))
        return output
