"""Augmentation: a row's inputs depend on its own strengths and the step's keys, on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tuner.data.augmentation import augment, keys
from tuner.models import stateless

STRENGTHS = {
    "shift_K": (0.0, 3.0),
    "flip_K": (0.0, 1.0),
    "noise_K": (0.0, 0.5),
    "rotation_K": (0.0, 90.0),
    "cutout_K": (0.0, 0.9),
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def images(batch: int = 6, channels: int = 2, height: int = 7, width: int = 5) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(batch, channels, height, width)).astype(np.float32))


def strengths(rows: int) -> dict[str, Tensor]:
    return {name: torch.linspace(low, high, rows) for name, (low, high) in STRENGTHS.items()}


def bits(x: Tensor) -> Tensor:
    """So that -0.0 and 0.0 differ."""
    return x.contiguous().view(torch.int32)


@pytest.mark.parametrize("rows", [1, 2, 5, 16])
@pytest.mark.parametrize("names", [*((name,) for name in STRENGTHS), tuple(STRENGTHS)])
def test_a_row_is_equal_to_the_bit_in_any_company_and_place(rows: int, names: tuple[str, ...]) -> None:
    x, key = images(), keys(7, 2, 11)
    whole = {name: value for name, value in strengths(16).items() if name in names}
    company = augment(x, key, **whole)
    chosen = torch.from_numpy(np.random.default_rng(rows).permutation(16)[:rows])
    fewer = augment(x, key, **{name: value[chosen] for name, value in whole.items()})
    assert torch.equal(bits(fewer), bits(company[chosen]))


@pytest.mark.parametrize("shape", [(6, 2, 7, 5), (6, 9)])
def test_strength_zero_leaves_a_row_untouched_to_the_bit(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x.view(-1)[:4] = torch.tensor([0.0, -0.0, 1e-40, -1e-40])
    off_and_on = {name: torch.tensor([0.0, 0.7]) for name in STRENGTHS if len(shape) == 4 or name == "noise_K"}
    off, on = augment(x, keys(1, 2, 3), **off_and_on)
    assert torch.equal(bits(off), bits(x))
    assert not torch.equal(on, x)


def test_every_row_of_a_step_gets_the_same_draws_and_scales_them() -> None:
    x = images()
    one, two = augment(x, keys(1, 0, 0), noise_K=torch.tensor([0.25, 0.5]))
    torch.testing.assert_close((two - x), 2 * (one - x), rtol=0, atol=1e-6)
    x = images(batch=60)
    rare, often = augment(x, keys(1, 0, 0), flip_K=torch.tensor([0.3, 0.6]))
    mirrored = x.flip(-1)
    flipped_rarely, flipped_often = ((y == mirrored).flatten(1).all(1) for y in (rare, often))
    assert not (flipped_rarely & ~flipped_often).any()
    assert 0 < flipped_rarely.sum() < flipped_often.sum() < 60


@pytest.mark.parametrize("other", [(8, 2, 11), (7, 3, 11), (7, 2, 12)])
def test_seed_epoch_and_step_each_change_every_draw(other: tuple[int, int, int]) -> None:
    first, second = keys(7, 2, 11), keys(*other)
    assert torch.equal(first, keys(7, 2, 11))
    assert first.dtype == torch.int32
    assert len(first.unique()) == 6
    assert (first != second).all()


def test_images_are_moved_as_the_plain_definition_says() -> None:
    x, key = images(batch=9), keys(3, 1, 4)
    shift_K, flip_K = torch.tensor([0.0, 1.0, 2.5, 9.0]), torch.tensor([0.0, 0.4, 0.6, 1.0])
    moved = augment(x, key, shift_K=shift_K, flip_K=flip_K).numpy()
    batch, _, height, width = x.shape
    u = stateless.uniform(key[0], 3 * batch).view(3, batch).numpy()
    mirror = stateless.uniform(key[1], batch).numpy()
    for k, (shift, flip) in enumerate(zip(shift_K.tolist(), flip_K.tolist(), strict=True)):
        for b in range(batch):
            n = int(shift) + int(u[2, b] < shift - int(shift))
            down, right = (int(u[axis, b] * np.float32(2 * n + 1)) - n for axis in (0, 1))
            assert abs(down) <= n
            assert abs(right) <= n
            rows = np.clip(np.arange(height) - down, 0, height - 1)
            columns = np.clip(np.arange(width) - right, 0, width - 1)
            if mirror[b] < flip:
                columns = width - 1 - columns
            np.testing.assert_array_equal(moved[k, b], x[b].numpy()[:, rows][:, :, columns])


def test_shifts_are_uniform_flips_and_noise_have_their_rates() -> None:
    """Over 20,000 examples; bounds at 5 standard errors."""
    count = 20_000
    x = torch.arange(9.0).expand(count, 1, 9, 9).contiguous()  # each pixel holds its column
    moved = augment(x, keys(0, 0, 0), shift_K=torch.tensor([2.0, 0.25]))
    for row, expected in ((0, [0.2] * 5), (1, [0.0, 1 / 12, 10 / 12, 1 / 12, 0.0])):
        right = 4 - moved[row, :, 0, 4, 4].long()
        shares = torch.bincount(right + 2, minlength=5) / count
        np.testing.assert_allclose(shares, expected, atol=5 * (0.25 / count) ** 0.5)
    flipped = augment(x, keys(0, 0, 0), flip_K=torch.tensor([0.3]))[0, :, 0, 0, 0] == 8
    assert abs(flipped.double().mean().item() - 0.3) < 5 * (0.21 / count) ** 0.5
    noise = (augment(x, keys(0, 0, 0), noise_K=torch.tensor([0.5]))[0] - x).double()
    assert abs(noise.mean().item()) < 5 * 0.5 / noise.numel() ** 0.5
    assert abs(noise.std().item() - 0.5) < 5 * 0.5 / (2 * noise.numel()) ** 0.5


def test_numbers_take_noise_alone_and_say_so() -> None:
    x = torch.ones(4, 3)
    zero, some = torch.zeros(2), torch.tensor([0.0, 0.5])
    for name in ("rotation_K", "cutout_K", "time_mask_K"):
        assert torch.equal(augment(x, keys(0, 0, 0), **{name: zero}), x.expand(2, 4, 3))
        with pytest.raises(ValueError, match=r"only .* got examples \(4, 3\)"):
            augment(x, keys(0, 0, 0), **{name: some})
    assert augment(x, keys(0, 0, 0), shift_K=zero, flip_K=zero, noise_K=some).shape == (2, 4, 3)
    with pytest.raises(ValueError, match=r"only images .* got examples \(4, 3\)"):
        augment(x, keys(0, 0, 0), shift_K=some)
    with pytest.raises(ValueError, match="at least one strength"):
        augment(x, keys(0, 0, 0))


def test_images_are_turned_as_bilinear_interpolation_says() -> None:
    x, key = images(batch=9), keys(3, 1, 4)
    rotation_K = torch.tensor([0.0, 15.0, 180.0])
    turned = augment(x, key, rotation_K=rotation_K).double().numpy()
    batch, _, height, width = x.shape
    share = 2 * stateless.uniform(key[3], batch).double().numpy() - 1
    for k, degrees in enumerate(rotation_K.tolist()):
        for b in range(batch):
            angle = np.deg2rad(degrees * share[b])
            for row in range(height):
                for column in range(width):
                    down, right = row - (height - 1) / 2, column - (width - 1) / 2
                    i = np.clip(np.cos(angle) * down - np.sin(angle) * right + (height - 1) / 2, 0, height - 1)
                    j = np.clip(np.sin(angle) * down + np.cos(angle) * right + (width - 1) / 2, 0, width - 1)
                    near = [(min(int(i) + a, height - 1), min(int(j) + c, width - 1)) for a in (0, 1) for c in (0, 1)]
                    weights = [
                        (1 - i % 1) * (1 - j % 1),
                        (1 - i % 1) * (j % 1),
                        (i % 1) * (1 - j % 1),
                        (i % 1) * (j % 1),
                    ]
                    expected = sum(w * x[b, :, r, c].double() for w, (r, c) in zip(weights, near, strict=True))
                    np.testing.assert_allclose(turned[k, b, :, row, column], expected, atol=2e-5)


def test_a_quarter_turn_is_a_quarter_turn() -> None:
    x = images(batch=4_000, height=6, width=6)
    share = 2 * stateless.uniform(keys(0, 0, 0)[3], 4_000) - 1
    nearest = int((share - 0.5).abs().argmin())
    turned = augment(x, keys(0, 0, 0), rotation_K=torch.tensor([180.0]))[0, nearest]
    torch.testing.assert_close(turned, x[nearest].rot90(-1, (1, 2)), atol=0.05, rtol=0)


def test_cut_out_squares_have_their_size_and_lie_anywhere() -> None:
    """Where a square lies in the image whole it has its side; over 4,000 examples each pixel is hit."""
    x = torch.ones(4_000, 2, 10, 14)
    whole = augment(x, keys(0, 0, 0), cutout_K=torch.tensor([0.4, 1.0]))
    blank = (whole == 0).all(2)
    assert torch.equal(blank, (whole == 0).any(2))  # all channels alike
    assert blank[0].sum((1, 2)).max() == 16
    assert blank[0].any(0).all()
    assert not (blank[0] & ~blank[1]).any()  # a weaker row's square lies in a stronger one's
    inner = blank[0, :, 0].logical_or(blank[0, :, -1]).any(1) | (blank[0, :, :, 0] | blank[0, :, :, -1]).any(1)
    assert (blank[0][~inner].sum((1, 2)) == 16).all()


@pytest.mark.parametrize("masked", [False, True])
def test_time_masks_silence_their_share_of_the_real_steps_in_one_span(masked: bool) -> None:
    count, time = 3_000, 20
    x = torch.ones(count, time, 3)
    length = torch.full((count,), time)
    if masked:
        length = torch.arange(count) % time + 1
        x = x * (torch.arange(time) < length[:, None])[..., None]
    out = augment(x, keys(0, 0, 0), masked=masked, time_mask_K=torch.tensor([0.0, 0.25, 1.0]))
    assert torch.equal(out[0], x)
    if masked:
        assert torch.equal(out[..., -1], x[..., -1].expand(3, -1, -1))
    silent = (x[..., 0] > 0) & (out[..., 0] == 0)
    assert ((silent[1].sum(1) - 0.25 * length).abs() < 1).all()
    assert torch.equal(silent[2], x[..., 0] > 0)
    edges = silent[1].int().diff(dim=1, prepend=torch.zeros(count, 1), append=torch.zeros(count, 1)).abs().sum(1)
    assert edges.max() <= 2
    assert silent[1].any(0).all()


def test_noise_spares_the_padding_and_the_mark_of_real_steps() -> None:
    x = torch.randn(5, 7, 3, generator=torch.Generator().manual_seed(0))
    x[..., -1] = (torch.arange(7) < torch.tensor([[7], [1], [3], [4], [6]])).float()
    x = x * x[..., -1:]
    off, on = augment(x, keys(0, 0, 0), masked=True, noise_K=torch.tensor([0.0, 0.5]), time_mask_K=torch.zeros(2))
    assert torch.equal(bits(off), bits(x))
    assert torch.equal(on[..., -1], x[..., -1])
    assert (on[x[..., -1] == 0] == 0).all()
    assert (on[..., :-1] != x[..., :-1])[x[..., -1] > 0].all()


@pytest.mark.parametrize("rows", [1, 3])
def test_a_row_of_sequences_is_equal_to_the_bit_in_any_company(rows: int) -> None:
    x = torch.randn(6, 9, 4, generator=torch.Generator().manual_seed(0))
    whole = {"noise_K": torch.linspace(0, 0.5, 8), "time_mask_K": torch.linspace(0, 0.7, 8)}
    company = augment(x, keys(7, 2, 11), **whole)
    fewer = augment(x, keys(7, 2, 11), **{name: value[-rows:] for name, value in whole.items()})
    assert torch.equal(bits(fewer), bits(company[-rows:]))


def test_augmentation_draws_nothing_from_torchs_generator() -> None:
    before = torch.random.get_rng_state()
    augment(images(), keys(0, 0, 0), **strengths(3))
    assert torch.equal(before, torch.random.get_rng_state())
