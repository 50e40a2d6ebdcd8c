"""Products by numpy's BLAS: torch's values, and bits that do not depend on how many matrices there are."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from tuner import cpu
from tuner.training.replay import blas
from tuner.training.replay.out_variants import aten
from tuner.training.replay.tape import Program

BMM, BADDBMM = aten.bmm.default, aten.baddbmm.default


@pytest.fixture(autouse=True)
def _numpy_multiplies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """On every machine, whichever library is the faster one there."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(blas, "numpys", lambda: "numpy's own")
    yield
    torch.set_num_threads(before)


def matrices(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


def by_numpy(operation: object, *arguments: Tensor) -> Tensor:
    first, second = arguments[-2:]
    result = torch.full((first.shape[0], first.shape[1], second.shape[2]), torch.nan, dtype=first.dtype)
    calls = blas.calls(operation, arguments, {}, result)
    assert calls and calls[0][0] is np.matmul
    for call, given, keywords in calls:
        call(*given, **keywords)
    return result


LAID = {
    "as they are": (lambda: (matrices(3, 8, 5), matrices(3, 5, 7))),
    "transposed": (lambda: (matrices(3, 5, 8).mT, matrices(3, 7, 5).mT)),
    "one for all": (lambda: (matrices(8, 5).expand(3, 8, 5), matrices(3, 5, 7))),
    "parts of larger ones": (lambda: (matrices(3, 8, 9)[:, :, 2:7], matrices(3, 11, 7)[:, 4:9])),
    "rows of a stack side by side": (lambda: (matrices(8, 3, 5).transpose(0, 1), matrices(5, 3, 7).transpose(0, 1))),
    "a vector": (lambda: (matrices(3, 1, 5), matrices(3, 5, 7))),
}


@pytest.mark.parametrize("laid", LAID)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numpy_finds_torchs_products(laid: str, dtype: torch.dtype) -> None:
    first, second = (factor.to(dtype) for factor in LAID[laid]())
    added = matrices(7).to(dtype)
    torch.testing.assert_close(by_numpy(BMM, first, second), torch.bmm(first, second))
    expected = torch.baddbmm(added, first, second)
    torch.testing.assert_close(by_numpy(BADDBMM, added.expand(3, 1, 7), first, second), expected)


@pytest.mark.parametrize("shape", [(61, 64, 128), (64, 64, 64), (3, 7, 64)])
def test_a_factor_is_turned_beside_one_that_lies_turned(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blas, "numpys", lambda: "OpenBLAS, SkylakeX")
    rows, inner, columns = shape
    first, second = matrices(5, rows, inner), matrices(5, columns, inner).mT
    result = torch.empty(5, rows, columns)

    def multiply(first: Tensor, second: Tensor, result: Tensor) -> list[object]:
        calls = blas.calls(BMM, (first, second), {}, result)
        for call, given, keywords in calls:
            call(*given, **keywords)
        return [call for call, *_ in calls]

    assert multiply(first, second, result) == [np.copyto, np.matmul]
    torch.testing.assert_close(result, torch.bmm(first, second))
    alone = torch.empty(1, rows, columns)
    multiply(first[3:4], second[3:4], alone)
    assert torch.equal(alone[0], result[3])  # in any company


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (matrices(5, 61, 64), matrices(5, 64, 128)),
        (matrices(5, 64, 61).mT, matrices(5, 128, 64).mT),
        (matrices(5, 61, 64), matrices(5, 10, 64).mT),  # too narrow
        (matrices(5, 128, 128), matrices(5, 128, 128).mT),  # too large
        (matrices(5, 61, 64).double(), matrices(5, 128, 64).double().mT),
    ],
)
def test_no_factor_is_turned_that_gains_nothing(first: Tensor, second: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "numpys", lambda: "OpenBLAS, SkylakeX")
    result = torch.empty(5, first.shape[1], second.shape[2], dtype=first.dtype)
    assert [call for call, *_ in blas.calls(BMM, (first, second), {}, result)] == [np.matmul]


SIZES = [(64, 64, 64), (37, 13, 5), (128, 128, 128), (1, 64, 10), (2048, 32, 128), (1184, 128, 32), (1009, 96, 32)]


@pytest.mark.parametrize(("batch", "inputs", "outputs"), SIZES)
def test_a_products_bits_do_not_depend_on_how_many_there_are(batch: int, inputs: int, outputs: int) -> None:
    x, weights = matrices(9, batch, inputs), matrices(9, outputs, inputs)
    together = by_numpy(BMM, x, weights.mT)
    gradients = by_numpy(BMM, together.mT, x)
    for row in (0, 4, 8):
        alone = by_numpy(BMM, x[row : row + 1].clone(), weights[row : row + 1].clone().mT)
        assert torch.equal(alone[0], together[row])
        assert torch.equal(by_numpy(BMM, alone.mT, x[row : row + 1].clone())[0], gradients[row])


@pytest.mark.parametrize(
    ("high", "inner", "broad", "pieces"),
    [(128, 32, 2048, 16), (2048, 96, 32, 8), (128, 32, 128, 1), (128, 32, 2011, 1), (32, 2048, 128, 1)],
)
@pytest.mark.parametrize("transposed", [False, True], ids=["as it lies", "transposed"])
def test_a_large_product_is_multiplied_in_pieces(
    high: int, inner: int, broad: int, pieces: int, transposed: bool
) -> None:
    """And not where no number of pieces divides it."""
    first, second = matrices(3, inner, high).mT if transposed else matrices(3, high, inner), matrices(3, inner, broad)
    result = torch.empty(3, high, broad)
    ((_, factors, _),) = blas.calls(BMM, (first, second), {}, result)
    assert max(math.prod(factor.shape[1:-2]) for factor in factors) == pieces
    torch.testing.assert_close(by_numpy(BMM, first, second), torch.bmm(first, second), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("high", "inner", "broad", "parts"), [(128, 2048, 32, 4), (96, 1024, 64, 2), (32, 512, 32, 0)])
def test_where_both_lie_along_a_long_sum_its_parts_are_added_up(high: int, inner: int, broad: int, parts: int) -> None:
    first, second, result = matrices(3, high, inner), matrices(3, broad, inner).mT, torch.empty(3, high, broad)
    made = [call for call, _, _ in blas.calls(BMM, (first, second), {}, result)]
    assert made == ([np.matmul, torch.sum] if parts else [np.matmul])
    torch.testing.assert_close(by_numpy(BMM, first, second), torch.bmm(first, second), rtol=1e-4, atol=1e-4)


def test_torch_multiplies_what_numpy_would_be_slow_or_wrong_with() -> None:
    x, y, result = matrices(3, 8, 5), matrices(3, 5, 7), torch.empty(3, 8, 7)
    assert blas.calls(BMM, (x, y), {}, result)
    assert not blas.calls(BMM, (matrices(3, 8, 10)[:, :, ::2], y), {}, result), "columns apart from each other"
    assert not blas.calls(BMM, (x, y), {}, torch.empty(3, 8, 14)[:, :, ::2])
    assert not blas.calls(BMM, (x.int(), y.int()), {}, result.int())
    assert not blas.calls(BADDBMM, (result, x, y), {"beta": 0.5}, torch.empty(3, 8, 7))
    assert not blas.calls(aten.baddbmm.out, (result, x, y), {"out": result}, result), "added to itself"
    assert not blas.calls(aten.mm.default, (x[0], y[0]), {}, result[0]), "rows may have been laid side by side"


def test_more_threads_than_one_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, result = matrices(3, 8, 5), matrices(3, 5, 7), torch.empty(3, 8, 7)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert not blas.calls(BMM, (x, y), {}, result)


def test_a_program_multiplies_as_its_recording_did() -> None:
    x, y, answer = matrices(3, 64, 64), matrices(3, 64, 64), torch.zeros(3, 64, 64)
    program = Program(lambda: answer.copy_(torch.baddbmm(x, x, y.mT).bmm(y)), torch.device("cpu"))
    recorded = answer.clone()
    assert torch.equal(recorded, by_numpy(BMM, x + by_numpy(BMM, x, y.mT), y))
    answer.zero_()
    program()
    assert torch.equal(answer, recorded)
    with blas.Multiplied():
        assert torch.equal(torch.baddbmm(x, x, y.mT).bmm(y), recorded)


@pytest.mark.parametrize(
    ("wide", "before", "after"), [(True, None, "SkylakeX"), (True, "Zen", "Zen"), (False, None, None)]
)
def test_a_wide_amd_is_told_of_unless_a_person_has_said_something(
    monkeypatch: pytest.MonkeyPatch, wide: bool, before: str | None, after: str | None
) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", before or "")
    if before is None:
        monkeypatch.delenv("OPENBLAS_CORETYPE")
    monkeypatch.setattr(cpu, "wide_amd", lambda: wide)
    cpu.tell()
    assert os.environ.get("OPENBLAS_CORETYPE") == after


@pytest.mark.skipif(not cpu.wide_amd(), reason="an AMD processor with vectors of 512 bits")
def test_it_is_told_before_numpy_is_loaded() -> None:
    script = (
        "import sys, tuner; assert 'numpy' not in sys.modules; from tuner.training.replay import blas;"
        "print(blas.numpys())"
    )
    around = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    done = subprocess.run([sys.executable, "-c", script], env=around, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "OpenBLAS, SkylakeX"
