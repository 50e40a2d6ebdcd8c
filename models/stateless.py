"""Random numbers without a state: a hash of (key, counter), equal on every device and in any company.

A cohort's rows must not share a stream (law 1), so nothing here draws: whoever needs randomness
builds a key from (seed, epoch or step, purpose) and reads as many values as wanted under that key.

The mixer is a 32-bit multiply-xorshift finaliser with the constants of Chris Wellons' hash-prospector
("lowbias32"). torch has no unsigned 32-bit shifts on every device, so the arithmetic is done on int32
with the sign bits masked away after each shift.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

_MULTIPLY = (0x7FEB352D, 0x846CA68B - (1 << 32))  # lowbias32's two odd factors, as signed 32-bit
_SHIFTS = ((16, 0xFFFF), (15, 0x1FFFF), (16, 0xFFFF))


def mix(x: Tensor) -> Tensor:
    """Scramble int32 values, one to one. Any shape; returns a new tensor of the same shape."""
    for factor, (shift, mask) in zip((*_MULTIPLY, None), _SHIFTS, strict=True):
        x = x ^ ((x >> shift) & mask)
        if factor is not None:
            x = x * factor
    return x


@lru_cache(maxsize=256)
def counters(count: int, device: torch.device) -> Tensor:
    """`mix(0 … count-1)` as int32 [count]: the part of a draw that no key changes, kept between steps."""
    return mix(torch.arange(count, dtype=torch.int32, device=device))


def bits(key: Tensor, count: int) -> Tensor:
    """`count` int32 values for every key; key [...] → [..., count]."""
    return mix(counters(count, key.device) ^ key.to(torch.int32)[..., None])


def shorts(key: Tensor, count: int) -> Tensor:
    """`count` int16 values for every key, over their whole range; key [...] → [..., count].

    Two to every int32, from half of the mixer's work: counters and keys come mixed already.
    """
    x = counters((count + 1) // 2, key.device) ^ key.to(torch.int32)[..., None]
    x = x * _MULTIPLY[0]
    x = x ^ (x >> _SHIFTS[1][0])
    return (x * _MULTIPLY[1]).view(torch.int16)[..., :count]


def uniform(key: Tensor, count: int) -> Tensor:
    """`count` float32 values in [0, 1) for every key, multiples of 2⁻²⁴; key [...] → [..., count]."""
    return ((bits(key, count) >> 8) & 0xFFFFFF).to(torch.float32) * 2.0**-24


def normal(key: Tensor, count: int) -> Tensor:
    """`count` standard normal float32 values for every key (Box–Muller); key [...] → [..., count]."""
    half = (count + 1) // 2
    u = uniform(key, 2 * half)
    radius = torch.sqrt(-2.0 * torch.log1p(-u[..., :half]))
    angle = 2.0 * torch.pi * u[..., half:]
    return torch.cat((radius * torch.cos(angle), radius * torch.sin(angle)), -1)[..., :count]
