"""Random changes of training inputs, their strength different in every row of a cohort.

Knows torch alone. Must never draw from a stream: the draws of a step are keyed by (seed, epoch,
step, purpose) and shared by all rows, and each row scales them by its own strength. So rows are
compared on paired draws, and a row's inputs are equal to the bit in any company (law 1).

Shapes: K rows of the cohort, B batch, C channels, H×W an image's sides, T steps, F features, P pixels (H·W).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tuner.models import stateless
from tuner.models.interface import IMAGE, NUMBERS, SEQUENCE, TEXT
from tuner.seeds import derive

OF = {  # what may be done to examples of each kind
    NUMBERS: ("noise",),
    IMAGE: ("shift", "flip", "noise", "rotation", "cutout"),
    SEQUENCE: ("noise", "time_mask"),
    TEXT: (),
}
PURPOSES = ("shift", "flip", "noise", "rotation", "cutout", "time_mask")


def keys(seed: int, epoch: int, step: int) -> Tensor:
    """The keys of one step's draws: int32 [6], in the order of `PURPOSES`, on the CPU."""
    return torch.tensor([derive(seed, "augmentation", epoch, step, purpose) for purpose in PURPOSES]).to(torch.int32)


def augment(
    x: Tensor,
    keys: Tensor,
    *,
    masked: bool = False,
    shift_K: Tensor | None = None,
    flip_K: Tensor | None = None,
    noise_K: Tensor | None = None,
    rotation_K: Tensor | None = None,
    cutout_K: Tensor | None = None,
    time_mask_K: Tensor | None = None,
) -> Tensor:
    """x [B, C, H, W] → [K, B, C, H, W], and so for [B, T, F] and [B, F]; float32, K ≥ 1 rows.

    `keys` come from `keys(seed, epoch, step)`. A strength is a tensor [K], or None where no row has any:

    - `shift_K`: the largest shift in whole pixels, up, down, left and right alike; every shift is as
      likely as any other. A fraction is the chance of one pixel more. Border pixels are repeated.
    - `flip_K`: the chance of a left-right mirror image.
    - `rotation_K`: the largest turn in degrees, to both sides; every angle is as likely as any other.
      Pixels are interpolated bilinearly, border pixels repeated.
    - `noise_K`: the standard deviation of normal noise, in the unit of x.
    - `cutout_K`: the side of a square that is set to 0, the mean, as a share of the image's shorter
      side; its centre is anywhere in the image. DeVries and Taylor 2017.
    - `time_mask_K`: the share of an example's steps, one behind the other, that are set to 0. Park et
      al. 2019.

    The last feature of `masked` sequences, which tells the real steps from the padding, and the padding
    itself are left alone. A strength of 0 leaves its row untouched to the bit. Raises ValueError where all
    strengths are None, and where examples are to be changed as only images or sequences can be.
    """
    images, steps = (shift_K, flip_K, rotation_K, cutout_K), (time_mask_K,)
    given = [strength for strength in (*images, *steps, noise_K) if strength is not None]
    if not given:
        raise ValueError("augment() needs at least one strength, to know the number of rows")
    rows = len(given[0])
    key = dict(zip(PURPOSES, keys.to(x.device), strict=True))
    _refuse(x, 4, images, "images [B, C, H, W] can be shifted, flipped, rotated or cut out")
    _refuse(x, 3, steps, "sequences [B, T, F] can be masked in time")
    x_KB = x.expand(rows, *x.shape)
    if x.dim() == 4 and (shift_K is not None or flip_K is not None):
        x_KB = _move(x, rows, (key["shift"], key["flip"]), shift_K, flip_K)
    if x.dim() == 4 and rotation_K is not None:
        x_KB = _turn(x_KB, key["rotation"], rotation_K)
    if noise_K is not None:
        noise = stateless.normal(key["noise"], x.numel()).view(x.shape)
        strength = noise_K.to(x.dtype).view(-1, *(1 for _ in x.shape))
        x_KB = torch.where(strength > 0, x_KB + strength * noise, x_KB)  # -0.0 + 0.0 would lose its sign
    if x.dim() == 4 and cutout_K is not None:
        x_KB = x_KB.masked_fill(_square(x, key["cutout"], cutout_K), 0.0)
    real_BT1 = x[..., -1:] > 0 if masked else torch.ones_like(x[..., :1], dtype=torch.bool)
    if x.dim() == 3 and time_mask_K is not None:
        x_KB = x_KB.masked_fill(_span(real_BT1, key["time_mask"], time_mask_K), 0.0)
    if masked:
        features = torch.arange(x.shape[-1], device=x.device) < x.shape[-1] - 1
        x_KB = torch.where(real_BT1 & features, x_KB, x)
    return x_KB


def _refuse(x: Tensor, dimensions: int, strengths: tuple[Tensor | None, ...], what: str) -> None:
    if x.dim() != dimensions and any(strength is not None and bool(strength.any()) for strength in strengths):
        raise ValueError(f"only {what}, got examples {tuple(x.shape)}")


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


def _turn(x_KBCHW: Tensor, key: Tensor, rotation_K: Tensor) -> Tensor:
    """Turn about the middle: each pixel is read, between its four neighbours, where it was before the turn."""
    rows, batch, channels, height, width = x_KBCHW.shape
    turn_B = 2.0 * stateless.uniform(key, batch) - 1.0
    angle_KB11 = (torch.deg2rad(rotation_K.to(torch.float32))[:, None] * turn_B)[..., None, None]
    cosine, sine = torch.cos(angle_KB11), torch.sin(angle_KB11)
    down_H1 = torch.arange(height, device=key.device)[:, None] - (height - 1) / 2
    right_W = torch.arange(width, device=key.device) - (width - 1) / 2
    i = (cosine * down_H1 - sine * right_W + (height - 1) / 2).clamp(0, height - 1)  # [K, B, H, W]
    j = (sine * down_H1 + cosine * right_W + (width - 1) / 2).clamp(0, width - 1)
    top, left = i.floor(), j.floor()
    i_part, j_part = (i - top).to(x_KBCHW.dtype), (j - left).to(x_KBCHW.dtype)
    flat = x_KBCHW.reshape(rows, batch, channels, height * width)

    def read(i: Tensor, j: Tensor) -> Tensor:
        pixel = (i.clamp(max=height - 1) * width + j.clamp(max=width - 1)).long()
        pixel_KBCP = pixel.view(rows, batch, 1, -1).expand(-1, -1, channels, -1)
        return flat.gather(3, pixel_KBCP).view(x_KBCHW.shape)

    def between(one: Tensor, other: Tensor, part: Tensor) -> Tensor:
        mixed: Tensor = one + (other - one) * part[:, :, None]
        return mixed

    turned: Tensor = between(
        between(read(top, left), read(top, left + 1), j_part),
        between(read(top + 1, left), read(top + 1, left + 1), j_part),
        i_part,
    )
    return torch.where(rotation_K.view(-1, 1, 1, 1, 1) > 0, turned, x_KBCHW)


def _square(x_BCHW: Tensor, key: Tensor, cutout_K: Tensor) -> Tensor:
    """Which pixels are cut out: bool [K, B, 1, H, W], those whose middle lies in the square."""
    batch, _, height, width = x_BCHW.shape
    centre_2B1 = stateless.uniform(key, 2 * batch).view(2, batch, 1)
    half_K11 = (cutout_K.to(torch.float32) * (min(height, width) / 2))[:, None, None]
    in_KBH, in_KBW = (
        (torch.arange(side, device=key.device) + 0.5 - centre_B1 * side).abs() < half_K11
        for side, centre_B1 in zip((height, width), centre_2B1, strict=True)
    )
    inside_KBHW: Tensor = in_KBH[..., :, None] & in_KBW[..., None, :]
    return inside_KBHW[:, :, None]


def _span(real_BT1: Tensor, key: Tensor, time_mask_K: Tensor) -> Tensor:
    """Which steps are silenced: bool [K, B, T, 1], those whose middle lies in a span among the real steps."""
    batch, time, _ = real_BT1.shape
    length_B = real_BT1.sum((1, 2)).to(torch.float32)
    span_KB = time_mask_K.to(torch.float32)[:, None] * length_B
    start_KB = stateless.uniform(key, batch) * (length_B - span_KB)
    middle_T = torch.arange(time, device=key.device) + 0.5
    inside = (middle_T >= start_KB[..., None]) & (middle_T < (start_KB + span_KB)[..., None])
    return inside[..., None]
