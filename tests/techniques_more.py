"""More networks as people write them: frozen parts, hooks, buffers, dtypes, layers of all kinds; see techniques.py."""

from __future__ import annotations

from collections import deque

import torch
import torch.nn.functional as F
from torch import nn

from tests.techniques import WIDTH, Net, Residual, _With


class FrozenLayer(Net):
    def __init__(self, signature):
        super().__init__(signature)
        self.hidden.requires_grad_(False)


class Unfreezing(Net):
    """The trunk joins after some steps."""

    def __init__(self, signature):
        super().__init__(signature)
        self.hidden.requires_grad_(False)
        self.steps = 0

    def forward(self, x):
        self.steps += self.training
        if self.steps == 4:
            self.hidden.requires_grad_(True)
        return super().forward(x)


class Pretrained(Net):
    def forward(self, x):
        with torch.no_grad():
            h = torch.relu(self.hidden(x))
        return self.out(h)


class ParameterHook(Net):
    """A gradient mask, by a hook on the parameter."""

    def __init__(self, signature):
        super().__init__(signature)
        self.hidden.weight.register_hook(lambda gradient: gradient * 0.5)


class AccumulationHook(Net):
    def __init__(self, signature):
        super().__init__(signature)

        def clamp(parameter):
            parameter.grad.clamp_(-1e-3, 1e-3)

        self.hidden.weight.register_post_accumulate_grad_hook(clamp)


class ActivationHook(Net):
    def middle(self, h):
        if h.requires_grad:
            h.register_hook(lambda gradient: gradient * 2.0)
        return h


class ForwardHook(Net):
    def __init__(self, signature):
        super().__init__(signature)
        self.hidden.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 1.5,))
        self.hidden.register_forward_hook(lambda _, __, output: output + 0.1)


class BackwardHook(Net):
    def __init__(self, signature):
        super().__init__(signature)
        self.out.register_full_backward_hook(lambda _, inputs, __: (inputs[0] * 0.5,))


class Reversed(Net):
    """Ganin & Lempitsky 2015, by arithmetic on a detached value."""

    def middle(self, h):
        return 2.0 * h.detach() - h


class StraightThrough(Net):
    def middle(self, h):
        return h + ((h > 0.5).to(h.dtype) - h).detach()


class StopGradient(Residual):
    def middle(self, h):
        return h + self.layer(h.detach())


class Tied(Net):
    def __init__(self, signature):
        super().__init__(signature)
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.second.weight = self.first.weight

    def middle(self, h):
        return self.second(torch.relu(self.first(h)))


class Listed(Net):
    def __init__(self, signature):
        super().__init__(signature)
        self.scales = nn.ParameterList(nn.Parameter(torch.full((WIDTH,), 1.0 + i)) for i in range(2))
        self.named = nn.ParameterDict({"shift": nn.Parameter(torch.zeros(WIDTH))})
        self.branches = nn.ModuleDict({"a": nn.Linear(WIDTH, WIDTH)})

    def middle(self, h):
        return self.branches["a"](h * self.scales[0] * self.scales[1]) + self.named["shift"]


class Temperature(Net):
    def __init__(self, signature):
        super().__init__(signature)
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return super().forward(x) / self.temperature


class Warming(Net):
    """A plain counter scales a branch up over the first steps."""

    def __init__(self, signature):
        super().__init__(signature)
        self.steps = 0

    def middle(self, h):
        self.steps += self.training
        return h * min(1.0, self.steps / 6)


class Remembering(Net):
    """The mean of the last batches, in a deque."""

    def __init__(self, signature):
        super().__init__(signature)
        self.last = deque(maxlen=3)

    def middle(self, h):
        if self.training:
            self.last.append(h.detach().mean(0))
        return h - 0.1 * sum(self.last) / len(self.last) if self.last else h


class MovingAverage(Net):
    """A plain tensor that nothing registers."""

    def __init__(self, signature):
        super().__init__(signature)
        self.average = torch.zeros(WIDTH)

    def middle(self, h):
        if self.training:
            self.average = 0.9 * self.average.to(h) + 0.1 * h.detach().mean(0)
        return h - self.average.to(h)


class BufferedAverage(Net):
    def __init__(self, signature):
        super().__init__(signature)
        self.register_buffer("average", torch.zeros(WIDTH))

    def middle(self, h):
        if self.training:
            self.average = 0.9 * self.average + 0.1 * h.detach().mean(0)
        return h - self.average


class RandomFeatures(Net):
    def __init__(self, signature):
        super().__init__(signature)
        self.register_buffer("projection", torch.randn(WIDTH, WIDTH), persistent=False)

    def middle(self, h):
        return torch.cos(h @ self.projection)


class Masked(Net):
    def __init__(self, signature):
        super().__init__(signature)
        self.register_buffer("mask", (torch.rand(WIDTH) < 0.7).float())

    def middle(self, h):
        return h * self.mask


class Doubles(_With):
    def make(self):
        return nn.Linear(WIDTH, WIDTH).double()

    def middle(self, h):
        return self.layer(h.double()).float()


class DoubleAnswer(Net):
    def forward(self, x):
        return super().forward(x).double()


class Clamped(Net):
    """Weights kept within bounds, as in a Wasserstein critic."""

    def forward(self, x):
        with torch.no_grad():
            self.hidden.weight.clamp_(-0.1, 0.1)
        return super().forward(x)


class ActNorm(Net):
    """Parameters that the first batch sets."""

    def __init__(self, signature):
        super().__init__(signature)
        self.scale, self.ready = nn.Parameter(torch.ones(WIDTH)), False

    def middle(self, h):
        if self.training and not self.ready:
            self.scale.data.copy_(1.0 / (h.detach().std(0) + 1e-3))
            self.ready = True
        return h * self.scale


class Hyper(Net):
    """A network whose weights another one makes."""

    def __init__(self, signature):
        super().__init__(signature)
        self.maker = nn.Linear(4, WIDTH * WIDTH)
        self.code = nn.Parameter(torch.ones(4))

    def middle(self, h):
        return F.linear(h, self.maker(self.code).view(WIDTH, WIDTH))


class Embedded(Net):
    """Numbers as buckets with an embedding each."""

    def __init__(self, signature):
        super().__init__(signature)
        self.embedding = nn.Embedding(8, 4, padding_idx=0)
        self.hidden = nn.Linear(signature.inputs[0] * 4, WIDTH)

    def forward(self, x):
        return super().forward(self.embedding(((x + 3.0).clamp(0.0, 6.9)).long()).flatten(-2))


class InPlace(Net):
    def forward(self, x):
        x /= 2.0
        return super().forward(x.mul_(1.5))


class Gated(_With):
    def make(self):
        return nn.Linear(WIDTH, WIDTH)

    def middle(self, h):
        gate = torch.sigmoid(self.layer(h))
        return gate * h + (1.0 - gate) * torch.tanh(h)


class Squeezed(_With):
    def make(self):
        return nn.Sequential(nn.Linear(WIDTH, 4), nn.ReLU(), nn.Linear(4, WIDTH), nn.Sigmoid())

    def middle(self, h):
        return h * self.layer(h)


class Attending(_With):
    """Hand-written attention over four pieces of the features."""

    def make(self):
        return nn.Linear(4, 12, bias=False)

    def middle(self, h):
        q, k, v = self.layer(h.unflatten(-1, (4, 4))).chunk(3, -1)
        return (torch.softmax(q @ k.mT / 2.0, -1) @ v).flatten(-2)


class Encoder(_With):
    def make(self):
        return nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)

    def middle(self, h):
        return self.layer(h.unflatten(-1, (4, 4))).flatten(-2)


class Lstm(_With):
    def make(self):
        return nn.LSTM(4, 4, batch_first=True)

    def middle(self, h):
        return self.layer(h.unflatten(-1, (4, 4)))[0].flatten(-2)


class Gru(Lstm):
    def make(self):
        return nn.GRU(4, 4, batch_first=True)


class Conv(_With):
    def make(self):
        return nn.Conv1d(1, 2, 3, padding=1)

    def middle(self, h):
        return self.layer(h[:, None])[:, 0]


class Conv2dBatchNorm(_With):
    def make(self):
        return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 1, 3, padding=1))

    def middle(self, h):
        return self.layer(h.unflatten(-1, (1, 4, 4))).flatten(1)


TECHNIQUES = [
    name
    for name, value in list(globals().items())
    if isinstance(value, type) and issubclass(value, Net) and not name.startswith("_") and value not in (Net, Residual)
]
