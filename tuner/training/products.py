"""Matrix products by the faster of the two BLAS libraries that are there: torch's own, or numpy's.

torch's MKL leaves half of an AMD processor's vectors unused; the OpenBLAS that numpy carries multiplies matrices of 64
to 512 rows at twice the rate there (docs/performance.md). One call multiplies one pair of matrices behind the other, so
a product's bits do not depend on how many there are. Which library it is follows from the machine, never from a clock.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tuner.processor import wide_amd

aten = torch.ops.aten

# Of one product for each row of a stack: where the arguments have the two factors. What comes before them is added.
_FACTORS = {aten.bmm.default: 0, aten.bmm.out: 0, aten.baddbmm.default: 1, aten.baddbmm.out: 1}
PRODUCTS = {*_FACTORS, aten.mm.default, aten.addmm.default}

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


@cache
def numpys() -> str:
    """The kernels of numpy's library, where it is the faster one, else nothing. It is limited to one thread there."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:  # a machine with torch and numpy alone
        return ""
    if not (wide_amd() and torch.backends.mkl.is_available()):  # type: ignore[no-untyped-call]
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
    product: Call = np.matmul, (_array(first), _array(second)), {"out": _array(result)}
    return [product, *((torch.add, (result, term), {"out": result}) for term in added)]


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


class Multiplied(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Beneath it everything is multiplied as `multiply` does it."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or the first call imports the whole compiler, which takes a second

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return multiply(func, args, kwargs or {}) if func in PRODUCTS else func(*args, **(kwargs or {}))


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
