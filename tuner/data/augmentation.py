"""Random changes of training inputs, their strength different in every row of a cohort.

Knows torch alone. Must never draw from a stream: the draws of a step are keyed by (seed, epoch,
step, purpose) and shared by all rows, and each row scales them by its own strength. So rows are
compared on paired draws, and a row's inputs are equal to the bit in any company (law 1).

Shapes: K rows of the cohort, B batch, C channels, H×W an image's sides, F features, P pixels (H·W).
"""

from __future__ import annotations

import torch
from torch import Tensor

from models import stateless
from tuner.trial import derive

_PURPOSES = ("shift", "flip", "noise")


def keys(seed: int, epoch: int, step: int) -> Tensor:
    """The keys of one step's draws: int32 [3], for shift, flip and noise, on the CPU."""
    return torch.tensor([derive(seed, "augmentation", epoch, step, purpose) for purpose in _PURPOSES]).to(torch.int32)


def augment(
    x: Tensor,
    keys: Tensor,
    *,
    shift_K: Tensor | None = None,
    flip_K: Tensor | None = None,
    noise_K: Tensor | None = None,
) -> Tensor:
    """x [B, C, H, W] → [K, B, C, H, W], or x [B, F] → [K, B, F]; float32, K ≥ 1 rows.

    `keys` come from `keys(seed, epoch, step)`. A strength is a tensor [K], or None where no row has any:

    - `shift_K`: the largest shift in whole pixels, up, down, left and right alike; every shift is as
      likely as any other. A fraction is the chance of one pixel more. Border pixels are repeated.
    - `flip_K`: the chance of a left-right mirror image.
    - `noise_K`: the standard deviation of normal noise, in the unit of x.

    A strength of 0 leaves its row untouched to the bit. Raises ValueError where all strengths are
    None, and where examples that are no images are to be shifted or flipped.
    """
    strengths = [strength for strength in (shift_K, flip_K, noise_K) if strength is not None]
    if not strengths:
        raise ValueError("augment() needs at least one strength, to know the number of rows")
    rows = len(strengths[0])
    key_shift, key_flip, key_noise = keys.to(x.device)
    if x.dim() == 4 and (shift_K is not None or flip_K is not None):
        x_KB = _move(x, rows, (key_shift, key_flip), shift_K, flip_K)
    elif any(strength is not None and bool(strength.any()) for strength in (shift_K, flip_K)):
        raise ValueError(f"only images [B, C, H, W] can be shifted or flipped, got examples {tuple(x.shape)}")
    else:
        x_KB = x.expand(rows, *x.shape)
    if noise_K is None:
        return x_KB
    noise = stateless.normal(key_noise, x.numel()).view(x.shape)
    strength = noise_K.to(x.dtype).view(-1, *(1 for _ in x.shape))
    return torch.where(strength > 0, x_KB + strength * noise, x_KB)  # -0.0 + 0.0 would lose its sign


def _move(
    x_BCHW: Tensor, rows: int, keys: tuple[Tensor, Tensor], shift_K: Tensor | None, flip_K: Tensor | None
) -> Tensor:
    """Shift and mirror by gathering: out[k, b, c, i, j] = x[b, c, i - down, ±(j - right)], [K, B, C, H, W]."""
    key_shift, key_flip = keys
    batch, channels, height, width = x_BCHW.shape
    i_H, j_W = (torch.arange(side, device=x_BCHW.device) for side in (height, width))
    i_KBH, j_KBW = i_H.expand(rows, batch, -1), j_W.expand(rows, batch, -1)
    if shift_K is not None:
        down_KB, right_KB = _offsets(key_shift, batch, shift_K)
        i_KBH = (i_KBH - down_KB[..., None]).clamp(0, height - 1)
        j_KBW = (j_KBW - right_KB[..., None]).clamp(0, width - 1)
    if flip_K is not None:
        mirror_KB = stateless.uniform(key_flip, batch) < flip_K[:, None]
        j_KBW = torch.where(mirror_KB[..., None], width - 1 - j_KBW, j_KBW)
    pixel_KBP = (i_KBH[..., :, None] * width + j_KBW[..., None, :]).view(rows, batch, 1, height * width)
    x_KBCP = x_BCHW.reshape(1, batch, channels, height * width).expand(rows, -1, -1, -1)
    return x_KBCP.gather(3, pixel_KBP.expand(-1, -1, channels, -1)).view(rows, *x_BCHW.shape)


def _offsets(key: Tensor, batch: int, shift_K: Tensor) -> tuple[Tensor, Tensor]:
    """Whole pixels down and right, int64 [K, B] each, uniform over -n … n with n = ⌊shift⌋ or ⌈shift⌉."""
    u_3B = stateless.uniform(key, 3 * batch).view(3, batch)
    whole_K1 = shift_K.floor()[:, None]
    n_KB = whole_K1 + (u_3B[2] < shift_K[:, None] - whole_K1)
    down_KB, right_KB = ((u_B * (2 * n_KB + 1)).floor().minimum(2 * n_KB) - n_KB for u_B in u_3B[:2])
    return down_KB.long(), right_KB.long()
