"""A recurrent network for sequences and text: RNN, LSTM or GRU layers, then a readout, or an answer at every step."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from models.interface import LANGUAGE, Setting, Signature
from models.layers import Dropout, DropoutRate
from models.recurrent import CELLS, Recurrent
from models.sequences import Embedded, LayerNorm, Linear, Readout, ReadoutName, StepNorm, Vectors


class RNN(nn.Module):
    """x [B, *signature.inputs] → signature.output_shape(B).

    In language modelling every position is answered from itself and those before it, and `readout` is not used.
    Raises ValueError for a bidirectional network that is to continue text.
    """

    def __init__(
        self,
        signature: Signature,
        cell: Annotated[str, Setting("what a layer is made of", choices=tuple(CELLS))] = "gru",
        width: Annotated[int, Setting("units per layer and direction", low=1, high=65_536)] = 64,
        depth: Annotated[int, Setting("recurrent layers", low=1, high=64)] = 1,
        bidirectional: Annotated[bool, Setting("each layer also reads backwards, at twice the width")] = False,
        readout: ReadoutName = "last",
        embedding: Embedded = 32,
        norm: StepNorm = "none",
        dropout: DropoutRate = 0.0,
    ) -> None:
        super().__init__()
        if bidirectional and signature.task == LANGUAGE:
            raise ValueError("bidirectional must be false where text is continued: to read backwards is to see the end")
        self.vectors = Vectors(signature, embedding)
        self.layers, self.norms, self.dropouts = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        features = self.vectors.features
        for _ in range(depth):
            self.layers.append(Recurrent(cell, features, width, bidirectional=bidirectional))
            features = width * (2 if bidirectional else 1)
            self.norms.append(LayerNorm(features) if norm == "layer" else nn.Identity())
            self.dropouts.append(Dropout(dropout))
        everywhere = signature.task == LANGUAGE
        self.readout = None if everywhere else Readout(readout, features, width if bidirectional else 0)
        self.output = Linear(features, signature.outputs)

    def forward(self, x: Tensor) -> Tensor:
        h, real = self.vectors(x)
        h = h.transpose(0, 1)
        by_time = None if real is None else real.T
        for layer, norm, dropout in zip(self.layers, self.norms, self.dropouts, strict=True):
            h = dropout(norm(layer(h, by_time)))
        h = h.transpose(0, 1)
        output: Tensor = self.output(h if self.readout is None else self.readout(h, real))
        return output
