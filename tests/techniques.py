"""Networks as people write them, one for each common technique; read by test_techniques.py as a person's own file.

`ALONE` are those that cannot train as one with others, and why; the rest fuse.
"""

from __future__ import annotations

import random
from collections import deque

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint

from tuner.models.layers import Dropout, nonlinearity

WIDTH = 16

LATE = {"Unfreezing"}  # what a few steps do not show; the cohort ends when it happens, and its trials start over alone

ALONE = {
    "Dropping": "draws",
    "FunctionalDropout": "draws",
    "AlphaDropping": "draws",
    "StochasticDepth": "draws",
    "LayerDrop": "Python's generator",
    "NumpyNoise": "numpy's generator",
    "TorchNoise": "draws",
    "WeightNoise": "draws",
    "OwnGenerator": "draws",
    "OwnNumpyGenerator": "draws",
    "Permuting": "draws",
    "Sampling": "draws",
    "Alternating": "unused parameters",
    "Experts": "unused parameters",
    "Dead": "unused parameters",
    "Pretrained": "runs its trunk without gradients",
    "Recomputed": "recomputation",
    "RecomputedOld": "recomputation",
    "ParameterHook": "hooks on parameters",
    "ActivationHook": "hooks on activations",
    "AccumulationHook": "hooks on parameters",
    "BackwardHook": "hooks on modules",
    "Lazy": "the last bits of a bias before BatchNorm depend on the number of rows",
    "Doubles": "types of its own",
    "ActNorm": "reads values",
    "Remembering": "keeps tensors in plain attributes",
    "MovingAverage": "keeps tensors in plain attributes",
    "Lstm": "no batching rule",
    "Gru": "no batching rule",
    "Spectral": "in-place power iteration",
    "Conv": "convolutions round by the number of rows",
    "Conv2dBatchNorm": "convolutions round by the number of rows",
    "Gelu": "rounds by place",
    "Silu": "rounds by place",
    "Softplus": "rounds by place",
    "Encoder": "attention kernels",
    "Gated": "sigmoid rounds by place",
    "Squeezed": "sigmoid rounds by place",
}


class Net(nn.Module):
    """A hidden layer and an output; each technique changes something."""

    def __init__(self, signature):
        super().__init__()
        self.hidden = nn.Linear(signature.inputs[0], WIDTH)
        self.out = nn.Linear(WIDTH, signature.outputs)

    def middle(self, h):
        return h

    def forward(self, x):
        return self.out(self.middle(torch.relu(self.hidden(x))))


class Plain(Net):
    pass


class _With(Net):
    """A layer in the middle."""

    def __init__(self, signature):
        super().__init__(signature)
        self.layer = self.make()

    def middle(self, h):
        return self.layer(h)


class BatchNormed(_With):
    def make(self):
        return nn.BatchNorm1d(WIDTH)


class LayerNormed(_With):
    def make(self):
        return nn.LayerNorm(WIDTH)


class GroupNormed(_With):
    def make(self):
        return nn.GroupNorm(4, WIDTH)


class RmsNormed(_With):
    def make(self):
        return nn.RMSNorm(WIDTH)


class Prelu(_With):
    def make(self):
        return nn.PReLU(WIDTH)


class Gelu(_With):
    def make(self):
        return nn.GELU()


class Silu(_With):
    def make(self):
        return nn.SiLU()


class Softplus(_With):
    def make(self):
        return nn.Softplus()


class Dropping(_With):
    def make(self):
        return nn.Dropout(0.3)


class AlphaDropping(_With):
    def make(self):
        return nn.AlphaDropout(0.2)


class OurDropout(_With):
    def make(self):
        return Dropout(0.0)


class OurSilu(_With):
    def make(self):
        return nonlinearity("silu")


class Lazy(_With):
    def make(self):
        return nn.Sequential(nn.LazyLinear(WIDTH), nn.LazyBatchNorm1d(), nn.ReLU())


class WeightNormed(_With):
    def make(self):
        return parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH))


class OldWeightNorm(_With):
    def make(self):
        return nn.utils.weight_norm(nn.Linear(WIDTH, WIDTH))


class Spectral(_With):
    def make(self):
        return parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH))


class _Symmetric(nn.Module):
    def forward(self, x):
        return x.triu() + x.triu(1).transpose(-1, -2)


class Symmetric(_With):
    def make(self):
        layer = nn.Linear(WIDTH, WIDTH)
        parametrize.register_parametrization(layer, "weight", _Symmetric())
        return layer


class Pruned(_With):
    def make(self):
        return prune.l1_unstructured(nn.Linear(WIDTH, WIDTH), "weight", amount=0.3)


class FunctionalDropout(Net):
    def middle(self, h):
        return F.dropout(h, 0.3, self.training)


class Residual(_With):
    def make(self):
        return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))

    def middle(self, h):
        return h + self.layer(h)


class StochasticDepth(Residual):
    """Huang et al. 2016: a block takes no part in some steps, and its parameters have no gradient then."""

    def middle(self, h):
        if not self.training:
            return h + 0.5 * self.layer(h)
        return h + self.layer(h) if float(torch.rand(())) < 0.5 else h


class LayerDrop(Residual):
    def middle(self, h):
        return h if self.training and random.random() < 0.5 else h + self.layer(h)


class NumpyNoise(Net):
    def middle(self, h):
        return h + float(np.random.normal()) if self.training else h  # noqa: NPY002 - as people do


class TorchNoise(Net):
    def middle(self, h):
        return h + 0.1 * torch.randn_like(h) if self.training else h


class OwnGenerator(Net):
    def __init__(self, signature):
        super().__init__(signature)
        self.generator = torch.Generator().manual_seed(3)

    def middle(self, h):
        return h + 0.1 * torch.randn(h.shape, generator=self.generator).to(h) if self.training else h


class OwnNumpyGenerator(Net):
    def __init__(self, signature):
        super().__init__(signature)
        self.generator, self.python = np.random.default_rng(3), random.Random(4)

    def middle(self, h):
        if not self.training:
            return h
        return h * (1.0 + 0.1 * self.generator.random() + 0.1 * self.python.random()) + torch.rand(())


class WeightNoise(Net):
    def forward(self, x):
        weight = self.hidden.weight
        if self.training:
            weight = weight + 0.01 * torch.randn_like(weight)
        return self.out(torch.relu(F.linear(x, weight, self.hidden.bias)))


class Permuting(Net):
    """Manifold mixup of features with a shuffled batch."""

    def middle(self, h):
        return 0.9 * h + 0.1 * h[torch.randperm(len(h))] if self.training else h


class Sampling(Net):
    """A variational bottleneck, by the reparametrisation trick."""

    def __init__(self, signature):
        super().__init__(signature)
        self.mean, self.log_scale = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def middle(self, h):
        mean = self.mean(h)
        return mean + torch.randn_like(mean) * self.log_scale(h).exp() if self.training else mean


class Alternating(Net):
    """Two heads in turns: a counter, and parameters that take no part in every other step."""

    def __init__(self, signature):
        super().__init__(signature)
        self.other, self.count = nn.Linear(WIDTH, signature.outputs), 0

    def forward(self, x):
        h = torch.relu(self.hidden(x))
        self.count += self.training
        return self.out(h) if self.count % 2 else self.other(h)


class Experts(Net):
    def __init__(self, signature):
        super().__init__(signature)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.turn = 0

    def middle(self, h):
        self.turn = (self.turn + 1) % 4 if self.training else 0
        return torch.relu(self.experts[self.turn](h))


class SoftExperts(Net):
    def __init__(self, signature):
        super().__init__(signature)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.gate = nn.Linear(WIDTH, 3)

    def middle(self, h):
        weights = torch.softmax(self.gate(h), -1)
        return sum(weights[..., i, None] * expert(h) for i, expert in enumerate(self.experts))


class Dead(Net):
    def __init__(self, signature):
        super().__init__(signature)
        self.never = nn.Linear(3, 3)


class Recomputed(Residual):
    def middle(self, h):
        return checkpoint(self.layer, h, use_reentrant=False)


class RecomputedOld(Residual):
    def middle(self, h):
        return checkpoint(self.layer, h, use_reentrant=True) if self.training else self.layer(h)


class FrozenTrunk(nn.Module):
    """Fine-tuning as everybody does it: the trunk's BatchNorm stays in evaluation."""

    def __init__(self, signature):
        super().__init__()
        layers = nn.Linear(signature.inputs[0], WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU()
        self.trunk = nn.Sequential(*layers).requires_grad_(False)
        self.head = nn.Linear(WIDTH, signature.outputs)

    def train(self, mode=True):
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, x):
        return self.head(self.trunk(x))


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
    if isinstance(value, type)
    and issubclass(value, Net | FrozenTrunk)
    and not name.startswith("_")
    and value is not Net
]
