"""A recurrent network for sequences and text: RNN, LSTM or GRU layers, then a readout, or an answer at every step."""

from __future__ import annotations

from typing import Annotated, ClassVar

from torch import Tensor, nn

from tuner.models.cells import CELLS
from tuner.models.interface import LANGUAGE, SEQUENCE, TASKS, TEXT, Setting, Signature
from tuner.models.layers import Dropout, DropoutRate
from tuner.models.recurrent import Recurrent
from tuner.models.sequences import Embedded, LayerNorm, Linear, Readout, ReadoutName, StepNorm, Vectors


class RNN(nn.Module):
    """x [B, *signature.inputs] → signature.output_shape(B).

    In language modelling every position is answered from itself and those before it, and `readout` is not used.
    Raises ValueError for a bidirectional network that is to continue text.
    """

    modalities: ClassVar = (SEQUENCE, TEXT)
    tasks: ClassVar = TASKS
    rows_together: ClassVar = 16

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
        self.last = readout == "last" and signature.task != LANGUAGE
        averages = not self.last and signature.task != LANGUAGE
        self.readout = Readout(readout, features) if averages else None
        self.output = Linear(features, signature.outputs)

    def forward(self, x: Tensor) -> Tensor:
        h, real = self.vectors(x)
        h = h.transpose(0, 1)
        by_time = None if real is None else real.T
        *lower, (layer, norm, dropout) = zip(self.layers, self.norms, self.dropouts, strict=True)
        for below, norm_below, dropout_below in lower:
            h = dropout_below(norm_below(below(h, by_time)[0]))
        states, last = layer(h, by_time)
        found = norm(last) if self.last else norm(states).transpose(0, 1)
        if self.readout is not None:
            found = self.readout(found, real)
        output: Tensor = self.output(dropout(found))
        return output
