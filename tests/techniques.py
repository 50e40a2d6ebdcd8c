"""Networks as people write them, one for each common technique; read by test_techniques.py as a person's own file.

`ALONE` are those that cannot train as one with others, and why; the rest fuse.
"""

from __future__ import annotations

import random

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


TECHNIQUES = [
    name
    for name, value in list(globals().items())
    if isinstance(value, type)
    and issubclass(value, Net | FrozenTrunk)
    and not name.startswith("_")
    and value is not Net
]
