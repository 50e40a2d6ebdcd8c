"""Update rules for all rows of a cohort at once: torch.optim's SGD, Adam, AdamW and RMSprop, per-row coefficients.

Knows tensors and `TrainConfig`; never networks or losses. Coefficients are computed in float64 and
cast when applied. Rows of one rule stand side by side, so that a rule works on one slice of the stack.

Legend: K rows, P parameters of a row, S steps of an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tuner.training.config import OPTIMIZERS, TrainConfig


@dataclass(slots=True)
class Coefficients:
    """One slice's numbers, each [K, 1]; those without a value at first belong to one step."""

    momentum: Tensor
    lookahead: Tensor  # Nesterov's share of the plain gradient: 1 or 0
    carry: Tensor  # the share of the momentum buffer in a step of sgd: μ with Nesterov, else 1
    fresh1: Tensor  # 1 − β₁
    fresh2: Tensor  # 1 − β₂, or 1 − α
    epsilon: Tensor
    weight_decay: Tensor
    descent: Tensor = field(init=False)  # −η
    shrink: Tensor = field(init=False)  # 1 − ηλ
    slope: Tensor = field(init=False)  # adam's step is m / (slope · √v + floor)
    floor: Tensor = field(init=False)


@dataclass(frozen=True)
class EnabledTerms:
    """What the arithmetic of a study needs; the rest is left out for all of its trials alike."""

    decay: bool
    nesterov: bool
    l1: bool
    clip: bool

    @classmethod
    def of(cls, named: frozenset[str] | set[str]) -> EnabledTerms:
        return cls("weight_decay" in named, "nesterov" in named, "l1" in named, "gradient_clip" in named)


Rule = Callable[[Tensor, Tensor, Tensor, Tensor, Coefficients, EnabledTerms], None]


def sgd(w: Tensor, g: Tensor, m: Tensor, v: Tensor, c: Coefficients, wanted: EnabledTerms) -> None:  # noqa: ARG001 - one signature for all rules
    """b ← μb + g + λw;  w ← w − η(b, or g + λw + μb with Nesterov). torch.optim.SGD, dampening 0."""
    if wanted.decay:
        g.addcmul_(w, c.weight_decay)
    torch.addcmul(g, m, c.momentum, out=m)
    w.addcmul_(g.mul_(c.lookahead).addcmul_(m, c.carry) if wanted.nesterov else m, c.descent)


def adam(w: Tensor, g: Tensor, m: Tensor, v: Tensor, c: Coefficients, wanted: EnabledTerms) -> None:
    """Kingma & Ba 2015, with λw added to the gradient. torch.optim.Adam."""
    if wanted.decay:
        g.addcmul_(w, c.weight_decay)
    _adam_step(w, g, m, v, c)


def adamw(w: Tensor, g: Tensor, m: Tensor, v: Tensor, c: Coefficients, wanted: EnabledTerms) -> None:
    """Loshchilov & Hutter 2019: w ← w(1 − ηλ), then Adam without λ. torch.optim.AdamW."""
    if wanted.decay:
        w.mul_(c.shrink)
    _adam_step(w, g, m, v, c)


def _adam_step(w: Tensor, g: Tensor, m: Tensor, v: Tensor, c: Coefficients) -> None:
    m.lerp_(g, c.fresh1)
    v.lerp_(g.square_(), c.fresh2)
    # Not in the gradient's own memory: the padding between its parameters stays 0, or a norm would count it.
    w.addcdiv_(m, v.sqrt().mul_(c.slope).add_(c.floor), value=-1.0)


def rmsprop(w: Tensor, g: Tensor, m: Tensor, v: Tensor, c: Coefficients, wanted: EnabledTerms) -> None:
    """v ← αv + (1 − α)g²;  b ← μb + g/(√v + ε);  w ← w − ηb. torch.optim.RMSprop, not centred."""
    if wanted.decay:
        g.addcmul_(w, c.weight_decay)
    v.lerp_(g.square(), c.fresh2)
    m.mul_(c.momentum).addcdiv_(g, v.sqrt().add_(c.epsilon))
    w.addcmul_(m, c.descent)


RULES: dict[str, Rule] = {"sgd": sgd, "adam": adam, "adamw": adamw, "rmsprop": rmsprop}


def rank(config: TrainConfig) -> int:
    """Where a row of that configuration stands in the stack: rows of one rule side by side."""
    return OPTIMIZERS.index(config.optimizer)


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """The step size at `step` (from 0) where an epoch has `steps` steps.

    Warm-up rises linearly over `warmup` epochs. After it, cosine falls to 0 at the last epoch's end
    (Loshchilov & Hutter 2017, one cycle), step multiplies by `decay_factor` every `decay_every` epochs.
    """
    warm = config.warmup * steps
    if step < warm:
        return config.learning_rate * (step + 1) / math.ceil(warm)
    factor = 1.0
    if config.schedule == "cosine":
        factor = 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(config.epochs * steps - warm, 1.0)))
    elif config.schedule == "step":
        factor = config.decay_factor ** math.floor(step / steps / config.decay_every)
    return config.learning_rate * factor


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).to(like)[:, None]


def momentum_of(config: TrainConfig) -> float:
    """The momentum of sgd and rmsprop; where none is set, sgd's is 0.9."""
    if config.momentum is None:
        return 0.9 if config.optimizer == "sgd" else 0.0
    return config.momentum


def _coefficients(configs: Sequence[TrainConfig], like: Tensor) -> Coefficients:
    momenta = [momentum_of(config) for config in configs]
    return Coefficients(
        momentum=_column(momenta, like),
        lookahead=_column([float(c.nesterov) for c in configs], like),
        carry=_column([m if c.nesterov else 1.0 for c, m in zip(configs, momenta, strict=True)], like),
        fresh1=_column([1.0 - c.beta1 for c in configs], like),
        fresh2=_column([1.0 - (c.alpha if c.optimizer == "rmsprop" else c.beta2) for c in configs], like),
        epsilon=_column([c.epsilon for c in configs], like),
        weight_decay=_column([c.weight_decay for c in configs], like),
    )


_PER_STEP = ("descent", "shrink", "slope", "floor")
_LEAST_RATE = 1e-30  # far below any step that changes a number, and large enough to divide by


@lru_cache(maxsize=256)
def _powers(base: float, first: int, steps: int) -> np.ndarray[Any, Any]:
    """base to the powers of `steps` steps, `first` (from 0) being the first power, float64 [S].

    By Python: a vector library's powers may round differently at another place in the array.
    """
    return np.array([base ** (step + 1) for step in range(first, first + steps)])


def _rates(config: TrainConfig, first: int, steps: int) -> list[float]:
    """The step sizes of the epoch whose first step that is."""
    if config.schedule == "constant" and first >= config.warmup * steps:
        return [config.learning_rate] * steps
    return [learning_rate(config, step, steps) for step in range(first, first + steps)]


def _per_step(configs: Sequence[TrainConfig], first: int, steps: int) -> np.ndarray[Any, Any]:
    """`_PER_STEP` of every row in the epoch whose first step (from 0) that is, float64 [S, values, K].

    Sums, products, quotients and roots alone, which round alike at any place.
    """
    rates_SK = np.array([_rates(config, first, steps) for config in configs]).T
    fading1_SK = np.stack([_powers(config.beta1, first, steps) for config in configs], 1)
    fading2_SK = np.stack([_powers(config.beta2, first, steps) for config in configs], 1)
    weight_decay_K = np.array([config.weight_decay for config in configs])
    epsilon_K = np.array([config.epsilon for config in configs])
    # Adam's η · m / (1 − β₁ᵗ) / (√(v / (1 − β₂ᵗ)) + ε) with η and its two corrections in the denominator.
    whole_SK = np.maximum(rates_SK / (1.0 - fading1_SK), _LEAST_RATE)
    slope_SK = 1.0 / (np.sqrt(1.0 - fading2_SK) * whole_SK)
    return np.stack((-rates_SK, 1.0 - rates_SK * weight_decay_K, slope_SK, epsilon_K / whole_SK), 1)


class Optimizer:
    """The update of a stack whose rows are sorted by `rank`. State: `m_KP` and `v_KP`, zero at first."""

    def __init__(self, configs: Sequence[TrainConfig], flat_KP: Tensor, named: frozenset[str] | set[str]) -> None:
        """`named`: the training settings that the study sets or searches, whatever these rows' values.

        What a study never names is left out of the arithmetic for all of its trials alike.
        """
        self.m_KP = torch.zeros_like(flat_KP)
        self.v_KP = torch.zeros_like(flat_KP)
        self._wanted = EnabledTerms.of(named)
        self._configure(configs, flat_KP)

    def _configure(self, configs: Sequence[TrainConfig], like: Tensor) -> None:
        self.configs = tuple(configs)
        ranks = [rank(config) for config in configs]
        assert ranks == sorted(ranks), "rows of one rule must stand side by side"
        self._clip = _column([math.inf if c.gradient_clip is None else c.gradient_clip for c in configs], like)
        self._l1 = _column([c.l1 for c in configs], like)
        self._table = like.new_empty(0)
        self._slices: list[tuple[Rule, slice, Coefficients]] = []
        for name, rule in RULES.items():
            rows = [row for row, config in enumerate(configs) if config.optimizer == name]
            if rows:
                group = [configs[row] for row in rows]
                self._slices.append((rule, slice(rows[0], rows[-1] + 1), _coefficients(group, like)))

    def begin_epoch(self, epoch: int, steps: int) -> None:
        """Prepare the coefficients of the steps of one epoch (from 0)."""
        table = torch.from_numpy(_per_step(self.configs, epoch * steps, steps))
        if self._table.shape != table.shape:
            self._table = torch.empty_like(table, dtype=self.m_KP.dtype, device=self.m_KP.device)
        self._table.copy_(table)

    def step(self, flat_KP: Tensor, gradient_KP: Tensor, at: Tensor) -> None:
        """Update `flat_KP` in place at step `at` (int64 [1]) of the epoch, from 0; the gradient is used up."""
        if self._wanted.l1:
            gradient_KP.addcmul_(flat_KP.sign(), self._l1)
        if self._wanted.clip:
            # torch.nn.utils.clip_grad_norm_: scale by min(1, clip / (norm + 1e-6))
            norm = gradient_KP.square().sum(1, keepdim=True).sqrt_()
            gradient_KP.mul_((self._clip / (norm + 1e-6)).clamp_(max=1.0))
        now = self._table.index_select(0, at)[0, :, :, None]
        for rule, rows, coefficients in self._slices:
            for name, values in zip(_PER_STEP, now, strict=True):
                setattr(coefficients, name, values[rows])
            rule(flat_KP[rows], gradient_KP[rows], self.m_KP[rows], self.v_KP[rows], coefficients, self._wanted)

    def take(self, rows: Tensor) -> None:
        """Keep these rows, in this order."""
        self.m_KP, self.v_KP = self.m_KP[rows], self.v_KP[rows]
        self._configure([self.configs[row] for row in rows.tolist()], self.m_KP)

    def state(self) -> dict[str, Tensor]:
        return {"m": self.m_KP, "v": self.v_KP}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.m_KP, self.v_KP = state["m"].to(self.m_KP), state["v"].to(self.v_KP)
