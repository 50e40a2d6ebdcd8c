"""Update rules for all rows of a cohort at once: torch.optim's SGD, Adam, AdamW and RMSprop, per-row coefficients.

Knows tensors and `TrainConfig`; never networks or losses. Coefficients are computed in float64 and
cast when applied. Rows of one rule stand side by side, so that a rule works on one slice of the stack.

Legend: K rows, P parameters of a row, S steps of an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tuner.training.config import OPTIMIZERS, TrainConfig


@dataclass(slots=True)
class Coefficients:
    """One slice's numbers, each [K, 1]; `rate`, `correction1` and `correction2` belong to one step."""

    momentum: Tensor
    lookahead: Tensor  # Nesterov's share of the plain gradient: 1 or 0
    carry: Tensor  # the share of the momentum buffer in a step of sgd: μ with Nesterov, else 1
    beta1: Tensor
    beta2: Tensor
    alpha: Tensor
    epsilon: Tensor
    weight_decay: Tensor
    rate: Tensor = field(init=False)
    correction1: Tensor = field(init=False)
    correction2: Tensor = field(init=False)


Rule = Callable[[Tensor, Tensor, Tensor, Tensor, Coefficients], None]


def sgd(w: Tensor, g: Tensor, m: Tensor, v: Tensor, c: Coefficients) -> None:  # noqa: ARG001 - one signature for all rules
    """b ← μb + g + λw;  w ← w − η(b, or g + λw + μb with Nesterov). torch.optim.SGD, dampening 0."""
    g.addcmul_(w, c.weight_decay)
    m.mul_(c.momentum).add_(g)
    w.sub_(g.mul_(c.lookahead).addcmul_(m, c.carry).mul_(c.rate))


def adam(w: Tensor, g: Tensor, m: Tensor, v: Tensor, c: Coefficients) -> None:
    """Kingma & Ba 2015, with λw added to the gradient. torch.optim.Adam."""
    g.addcmul_(w, c.weight_decay)
    _adam_step(w, g, m, v, c)


def adamw(w: Tensor, g: Tensor, m: Tensor, v: Tensor, c: Coefficients) -> None:
    """Loshchilov & Hutter 2019: w ← w(1 − ηλ), then Adam without λ. torch.optim.AdamW."""
    w.mul_(1.0 - c.rate * c.weight_decay)
    _adam_step(w, g, m, v, c)


def _adam_step(w: Tensor, g: Tensor, m: Tensor, v: Tensor, c: Coefficients) -> None:
    m.mul_(c.beta1).addcmul_(g, 1.0 - c.beta1)
    v.mul_(c.beta2).addcmul_(g.square_(), 1.0 - c.beta2)
    denominator = torch.sqrt(v, out=g).mul_(c.correction2).add_(c.epsilon)
    w.sub_(torch.div(m, denominator, out=g).mul_(c.rate * c.correction1))


def rmsprop(w: Tensor, g: Tensor, m: Tensor, v: Tensor, c: Coefficients) -> None:
    """v ← αv + (1 − α)g²;  b ← μb + g/(√v + ε);  w ← w − ηb. torch.optim.RMSprop, not centred."""
    g.addcmul_(w, c.weight_decay)
    v.mul_(c.alpha).add_(g.square().mul_(1.0 - c.alpha))
    m.mul_(c.momentum).add_(g.div_(v.sqrt().add_(c.epsilon)))
    w.sub_(m * c.rate)


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


def _coefficients(configs: Sequence[TrainConfig], like: Tensor) -> Coefficients:
    momenta = [(0.9 if c.optimizer == "sgd" else 0.0) if c.momentum is None else c.momentum for c in configs]
    return Coefficients(
        momentum=_column(momenta, like),
        lookahead=_column([float(c.nesterov) for c in configs], like),
        carry=_column([m if c.nesterov else 1.0 for c, m in zip(configs, momenta, strict=True)], like),
        beta1=_column([c.beta1 for c in configs], like),
        beta2=_column([c.beta2 for c in configs], like),
        alpha=_column([c.alpha for c in configs], like),
        epsilon=_column([c.epsilon for c in configs], like),
        weight_decay=_column([c.weight_decay for c in configs], like),
    )


class Optimizer:
    """The update of a stack whose rows are sorted by `rank`. State: `m_KP` and `v_KP`, zero at first."""

    def __init__(self, configs: Sequence[TrainConfig], flat_KP: Tensor, named: frozenset[str] | set[str]) -> None:
        """`named`: the training settings that the study sets or searches, whatever these rows' values.

        What a study never names is left out of the arithmetic for all of its trials alike.
        """
        self.m_KP = torch.zeros_like(flat_KP)
        self.v_KP = torch.zeros_like(flat_KP)
        self._clips = "gradient_clip" in named
        self._shrinks = "l1" in named
        self._configure(configs, flat_KP)

    def _configure(self, configs: Sequence[TrainConfig], like: Tensor) -> None:
        self.configs = tuple(configs)
        ranks = [rank(config) for config in configs]
        assert ranks == sorted(ranks), "rows of one rule must stand side by side"
        self._clip = _column([math.inf if c.gradient_clip is None else c.gradient_clip for c in configs], like)
        self._l1 = _column([c.l1 for c in configs], like)
        self._slices: list[tuple[Rule, slice, Coefficients]] = []
        for name, rule in RULES.items():
            rows = [row for row, config in enumerate(configs) if config.optimizer == name]
            if rows:
                group = [configs[row] for row in rows]
                self._slices.append((rule, slice(rows[0], rows[-1] + 1), _coefficients(group, like)))

    def begin_epoch(self, epoch: int, steps: int) -> None:
        """Prepare the coefficients of the steps of one epoch (from 0)."""
        numbers = range(epoch * steps, (epoch + 1) * steps)

        def table(value: Callable[[TrainConfig, int], float]) -> Tensor:
            rows = [[[value(config, step)] for config in self.configs] for step in numbers]
            return torch.tensor(rows, dtype=torch.float64).to(self.m_KP)  # [S, K, 1]

        # Python's own powers: a vector library's may round differently at another place in the array.
        self._rate = table(lambda c, step: learning_rate(c, step, steps))
        self._correction1 = table(lambda c, step: 1.0 / (1.0 - c.beta1 ** (step + 1)))
        self._correction2 = table(lambda c, step: 1.0 / math.sqrt(1.0 - c.beta2 ** (step + 1)))

    def step(self, flat_KP: Tensor, gradient_KP: Tensor, step: int) -> None:
        """Update `flat_KP` in place at that step of the epoch (from 0); the gradient is used up."""
        if self._shrinks:
            gradient_KP.addcmul_(flat_KP.sign(), self._l1)
        if self._clips:
            # torch.nn.utils.clip_grad_norm_: scale by min(1, clip / (norm + 1e-6))
            norm = gradient_KP.square().sum(1, keepdim=True).sqrt_()
            gradient_KP.mul_((self._clip / (norm + 1e-6)).clamp_(max=1.0))
        for rule, rows, coefficients in self._slices:
            coefficients.rate = self._rate[step, rows]
            coefficients.correction1 = self._correction1[step, rows]
            coefficients.correction2 = self._correction2[step, rows]
            rule(flat_KP[rows], gradient_KP[rows], self.m_KP[rows], self.v_KP[rows], coefficients)

    def take(self, rows: Tensor) -> None:
        """Keep these rows, in this order."""
        self.m_KP, self.v_KP = self.m_KP[rows], self.v_KP[rows]
        self._configure([self.configs[row] for row in rows.tolist()], self.m_KP)
        if hasattr(self, "_rate"):
            for name in ("_rate", "_correction1", "_correction2"):
                setattr(self, name, getattr(self, name)[:, rows])

    def state(self) -> dict[str, Tensor]:
        return {"m": self.m_KP, "v": self.v_KP}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.m_KP, self.v_KP = state["m"].to(self.m_KP), state["v"].to(self.v_KP)
