"""Layers over columns: torch's own numbers and gradients, from memory that lies feature by feature."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tuner.models import columns

torch.set_num_threads(1)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (columns.Linear(6, 5), nn.Linear(6, 5)),
        (columns.Linear(6, 9, bias=False), nn.Linear(6, 9, bias=False)),
        (columns.LayerNorm(6), nn.LayerNorm(6)),
    ],
    ids=["narrowing", "widening", "layer norm"],
)
def test_a_layer_and_its_gradients_are_torchs(ours: nn.Module, theirs: nn.Module) -> None:
    for seed, (mine, other) in enumerate(zip(ours.double().parameters(), theirs.double().parameters(), strict=True)):
        for parameter in (mine, other):
            parameter.data.copy_(normal(*parameter.shape, seed=seed))
    x = normal(4, 7, 6, seed=9).requires_grad_()
    found, expected = ours(x.permute(2, 0, 1)).permute(1, 2, 0), theirs(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weighing = normal(*expected.shape, seed=10)
    gradients = [
        torch.autograd.grad((output * weighing).sum(), [x, *module.parameters()])
        for output, module in ((found, ours), (expected, theirs))
    ]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
