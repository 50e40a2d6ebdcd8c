"""Matrix products by the faster of the two BLAS libraries that are there: torch's own, or numpy's.

torch's MKL leaves half of an AMD processor's vectors unused; the OpenBLAS that numpy carries multiplies matrices of 64
to 512 rows at twice the rate there (docs/decisions/numerics.md). One call multiplies one pair of matrices after the
other, so a product's bits do not depend on how many there are. Which library it is follows from the machine, never from
a clock.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tuner.cpu import wide_amd
from tuner.training.replay import dispatch

aten = torch.ops.aten

# Of one product for each row of a stack: where the arguments have the two factors. What comes before them is added.
_FACTORS = {aten.bmm.default: 0, aten.bmm.out: 0, aten.baddbmm.default: 1, aten.baddbmm.out: 1}
PRODUCTS = {*_FACTORS, aten.mm.default, aten.addmm.default}

# OpenBLAS has kernels that read small matrices where they lie, at 1.2 to 1.5 times the rate of those that copy them
# first (docs/decisions/training-speed.md). Small are products of so many multiply-adds; where both factors lie along
# the sum, of results of about _TILE by _TILE.
_SMALL = 1_000_000
_TILE = 32
_LONG = 256  # of a sum that is worth tiles
_SHORT = 16  # rows or columns of a piece at least
_WIDE = 64  # columns of a result: from here on turning a factor costs less than it saves

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


@cache
def numpys() -> str:
    """The kernels of numpy's library, where it is the faster one, else nothing. It is limited to one thread there."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:  # a machine with torch and numpy alone
        return ""
    if not (dispatch.FOUND and wide_amd() and torch.backends.mkl.is_available()):  # type: ignore[no-untyped-call]
        return ""
    libraries = ThreadpoolController().select(internal_api="openblas").lib_controllers
    for one in libraries:
        if "numpy" in (one.filepath or ""):
            one.set_num_threads(1)
            return f"OpenBLAS, {one.architecture}"
    return ""


def calls(operation: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], result: Tensor) -> list[Call]:
    """The calls that leave the product in `result`; none where torch is to multiply.

    `operation` is one of PRODUCTS, `result` its answer's place, which overlaps with no argument.
    """
    at = _FACTORS.get(operation)
    if at is None or not numpys() or torch.get_num_threads() > 1 or result.device.type != "cpu":
        return []
    if len(arguments) != at + 2 or not keywords.keys() <= {"out"}:  # scaled, by alpha or beta
        return []
    *added, first, second = arguments
    if any(_memory(term) == _memory(result) for term in added):
        return []
    if not (result.is_floating_point() and result.numel() and all(map(_read_by_blas, (first, second, result)))):
        return []
    return [*_multiplied(first, second, result), *((torch.add, (result, term), {"out": result}) for term in added)]


def multiply(operation: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor:
    """What the operation answers, computed as `calls` says."""
    result: Tensor | None = keywords.get("out")
    if result is None:
        first, second = arguments[-2:]
        result = first.new_empty((*first.shape[:-1], second.shape[-1]))
    found = calls(operation, arguments, keywords, result)
    if not found:
        answer: Tensor = operation(*arguments, **keywords)
        return answer
    for call, given, named in found:
        call(*given, **named)
    return result


class Multiplied(dispatch.DispatchMode):  # type: ignore[misc]
    """Beneath it everything is multiplied as `multiply` does it."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or the first call imports the whole compiler, which takes a second

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return multiply(func, args, kwargs or {}) if func in PRODUCTS else func(*args, **(kwargs or {}))


def _multiplied(first: Tensor, second: Tensor, result: Tensor) -> list[Call]:
    """first [..., M, K] times second [..., K, N] into result [..., M, N], in pieces where OpenBLAS is faster so."""
    work = first.shape[-2] * first.shape[-1] * second.shape[-1]
    if _along_inner(first, second):
        turned = second.shape[-1] >= _WIDE and work <= _SMALL and first.stride(-2) > 1
        if turned and first.dtype == torch.float32 and numpys().endswith("SkylakeX"):
            return _turned(first, second, result)
        return _in_tiles(first, second, result)
    if work <= _SMALL:
        return [_matmul(first, second, result)]
    if first.shape[-2] > second.shape[-1]:
        count = _pieces(first.shape[-2], work)
        return [_matmul(_rows(first, count), second.unsqueeze(-3), _rows(result, count))]
    count = _pieces(second.shape[-1], work)
    return [_matmul(first.unsqueeze(-3), _columns(second, count), _columns(result, count))]


def _turned(first: Tensor, second: Tensor, result: Tensor) -> list[Call]:
    """The same where the second factor alone lies turned: the first is turned, too.

    OpenBLAS's kernels for small matrices and vectors of 512 bits leave that one case to those for large ones, which
    take twice the time.
    """
    (rows, inner), array = first.shape[-2:], _array(first)
    room = _room((*first.shape[:-2], inner, rows)).swapaxes(-1, -2)
    return [(np.copyto, (room, array), {}), (np.matmul, (room, _array(second)), {"out": _array(result)})]


@lru_cache(maxsize=64)
def _room(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Memory for one call to write and the next to read; a process trains in one thread."""
    return np.empty(shape, dtype=np.float32)


def _in_tiles(first: Tensor, second: Tensor, result: Tensor) -> list[Call]:
    """The same where both lie along K: tiles of the result, for parts of K that make them small; then the sum."""
    (high, inner), wide = first.shape[-2:], second.shape[-1]
    above, beside = max(1, high // _TILE), max(1, wide // _TILE)
    count = _pieces(inner, (high // above) * (wide // beside) * inner)
    if inner < _LONG or (high % above) or (wide % beside) or high // above * (wide // beside) > _TILE**2:
        return [_matmul(first, second, result)]
    parts = result.new_empty((*result.shape[:-2], count, high, wide)) if count > 1 else result.unsqueeze(-3)
    # [..., parts of K, tiles down, tiles across, rows, columns]
    left = _rows(_columns(first, count), above).unsqueeze(-3)
    right = _columns(_rows(second, count), beside).unsqueeze(-4)
    found = [_matmul(left, right, _columns(_rows(parts, above), beside))]
    return [*found, (torch.sum, (parts, -3), {"out": result})] if count > 1 else found


def _along_inner(first: Tensor, second: Tensor) -> bool:
    """Whether both factors lie in memory along the dimension that is summed over."""
    return first.stride(-1) == 1 and second.stride(-2) == 1 and second.stride(-1) != 1


def _pieces(length: int, work: int) -> int:
    """Into how many equal pieces of a dimension so much work is to be cut; 1 where none are small enough."""
    fewest = -(-work // _SMALL)
    return next((count for count in range(fewest, length // _SHORT + 1) if length % count == 0), 1)


def _rows(matrices: Tensor, count: int) -> Tensor:
    """[..., M, N] as [..., count, M / count, N], in the same memory."""
    found: Tensor = matrices.unflatten(-2, (count, -1))  # type: ignore[no-untyped-call]
    return found


def _columns(matrices: Tensor, count: int) -> Tensor:
    """[..., M, N] as [..., count, M, N / count], in the same memory."""
    found: Tensor = matrices.unflatten(-1, (count, -1))  # type: ignore[no-untyped-call]
    return found.movedim(-2, -3)


def _matmul(first: Tensor, second: Tensor, result: Tensor) -> Call:
    return np.matmul, (_array(first), _array(second)), {"out": _array(result)}


def _read_by_blas(matrices: Tensor) -> bool:
    """Whether BLAS can read the last two dimensions [rows, columns] where they lie; numpy would be slow otherwise."""
    rows, columns = matrices.shape[-2:]
    down, across = matrices.stride()[-2:]
    return (across == 1 and down >= columns) or (down == 1 and across >= rows)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    """The same memory, as numpy sees it."""
    return tensor.detach().numpy()
