"""Whether networks of one structure can train as one, and whether one of them can go on without company.

Knows torch, and a stack from the outside. Ours fuse by construction, and are held to it by the tests of law 1; a
person's own are tried here bit by bit, and in `proof` against an ordinary loop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tuner.models import Signature, layers
from tuner.models.attention import SelfAttention
from tuner.models.interface import SEQUENCE, TEXT
from tuner.training.cohort import Stack
from tuner.training.replay import dispatch

EXAMPLES = 37  # to try a network on: an odd number, so that vector loops have a rest

# CPU kernels that round an element otherwise in the scalar rest of their vector loop than inside it (found by comparing
# arrays of many lengths with longer ones): what a row gets depends on where in memory it lies, unless there is no rest.
_UNSTEADY = frozenset(
    {
        "atan2", "atanh", "celu", "cosh", "elu", "exp2", "gelu", "mish",
        "selu", "sigmoid", "silu", "sinh", "softplus",
    }
)  # fmt: skip


def singular(stack: Stack, signature: Signature, splits: Iterable[tuple[int, int]]) -> bool:
    """Whether one of our networks multiplies matrices of one row or one column, on splits of (examples, batch size).

    MKL's batched products round as its single ones do (found on 3,000 shapes), but for vectors. So a row that is left
    alone needs a ghost beside it where a weight, a batch, a sequence or an attention head is of size 1.
    """
    sizes = [
        size for name, shape in stack.shapes.items() if "bias" not in name and len(shape) < 4 for size in shape[-2:]
    ]
    sizes += [m.width // m.heads for m in stack.base.modules() if isinstance(m, SelfAttention)]
    sizes += signature.inputs[:1] if signature.modality in (SEQUENCE, TEXT) else ()
    for examples, batch in splits:
        sizes += [min(examples, batch), examples % batch]
    return 1 in sizes


class _Operations(dispatch.DispatchMode):  # type: ignore[misc]
    """Counts the operations that run beneath it, by name, and notes those that round by place."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.unsteady: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        self.count[name] += 1
        # The number of examples is odd, so what is whole here is whole for any number of them.
        if name in _UNSTEADY and not all(layers.whole(x) for x in args if isinstance(x, Tensor)):
            self.unsteady.add(name)
        return func(*args, **(kwargs or {}))


_SMALL = 1_000_000  # parameters of all copies together: so many are tried in more than a pair


def unsteady(build: Callable[[int], nn.Module], example: Tensor, *, shared: bool) -> str:
    """Why a row's bits would depend on its neighbours on x [B, …] like `example`; empty where they do not.

    `build` makes the network of row 0 or 1. `shared`: all rows see the same x. Raises whatever an operation raises that
    does not run under vmap.
    """
    if not dispatch.FOUND:
        return f"torch {torch.__version__} does not show which operations a network is made of"
    return next((reason for training in (True, False) if (reason := _differs(build, example, training, shared))), "")


def _differs(build: Callable[[int], nn.Module], example: Tensor, training: bool, shared: bool) -> str:
    """What is not the same alone, in a pair, and among five where these are small."""
    dtype = example.dtype if example.is_floating_point() else torch.float32

    def answers(order: Sequence[int]) -> tuple[Tensor, Tensor]:
        stack = Stack([build(row) for row in order], example.device, dtype)
        x = example.clone() if shared else example.repeat(len(order), *(1,) * example.dim())
        output = stack.forward(x, training=training, shared=shared)  # a network may write into its input
        return output.detach(), stack.backward(output.double().sum(tuple(range(1, output.dim()))))

    def alone(row: int) -> Tensor:
        stack = Stack([build(row)], example.device, dtype)
        return stack.forward(example.clone(), training=training, shared=True)[0].detach()

    with _Operations() as lone:
        expected = [alone(row) for row in (0, 1)]
    with _Operations() as fused:
        pair = answers([0, 1])
    if example.device.type == "cpu":
        for name in sorted(lone.unsteady):
            instead = "use tuner.models.layers.nonlinearity where it has it"
            return f"{name} rounds by an element's place in memory; {instead}"
        if fused.count["convolution"] < lone.count["convolution"]:
            return "a convolution of several rows in one rounds by their number; use tuner.models.layers.Conv2d"
    both = zip(pair[0], expected, strict=True)
    if not all(torch.allclose(one, two, rtol=1e-3, atol=1e-4, equal_nan=True) for one, two in both):
        return "a row answers otherwise in company than alone; read what may differ from a buffer"
    order = [0, 1, 0, 1, 1] if 5 * pair[1][0].numel() <= _SMALL else [1, 0]
    for row, *many in zip(order, *answers(order), strict=True):
        if not all(torch.equal(two[row], one) for two, one in zip(pair, many, strict=True)):
            return "a row's last bits depend on its neighbours"
    return ""
