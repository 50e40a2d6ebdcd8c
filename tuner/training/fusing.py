"""Whether networks of one structure can train as one, and whether one of them can go on without company.

Knows torch, and a stack from the outside. Ours fuse by construction, and are held to it by the tests of law 1; a
person's own are tried.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tuner.errors import told
from tuner.models import Signature, layers
from tuner.models.attention import SelfAttention
from tuner.models.interface import SEQUENCE, TEXT
from tuner.training.cohort import Stack

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


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that run beneath it, by name, and notes those that round by place."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
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


def fuses(networks: Sequence[nn.Module], example: Tensor) -> str:
    """Why these two networks of one structure cannot train as one on x [B, …] like `example`; empty where they can.

    They fuse where the stack runs under vmap, where every row answers what it answers alone (a number read as a
    plain attribute would be the first row's in all of them), and where a row's bits are the same in any company.
    """
    try:
        return next((reason for training in (True, False) if (reason := _differs(networks, example, training))), "")
    except Exception as error:  # noqa: BLE001 - functorch raises whatever the operation that does not fuse raises
        return told(error)


def _differs(networks: Sequence[nn.Module], example: Tensor, training: bool) -> str:
    """What is not the same alone, in a pair, and among five."""

    def forward(stack: Stack) -> Tensor:
        return stack.forward(example.clone(), training=training, shared=True)  # a network may write into its input

    dtype = example.dtype if example.is_floating_point() else torch.float32
    order = [0, 1, 0, 1, 1]
    alone, pair, five = (
        [Stack(deepcopy([networks[row] for row in rows]), example.device, dtype) for rows in group]
        for group in ([[0], [1]], [[0, 1]], [order])
    )
    with _Operations() as lone:
        expected = [forward(stack)[0] for stack in alone]
    with _Operations() as fused:
        answers = [forward(stack) for stack in (*pair, *five)]
    if example.device.type == "cpu":
        for name in sorted(lone.unsteady):
            instead = "use tuner.models.layers.nonlinearity where it has it"
            return f"{name} rounds by an element's place in memory; {instead}"
        if fused.count["convolution"] < lone.count["convolution"] // 2 * 7:
            return "a convolution of several rows in one rounds by their number; use tuner.models.layers.Conv2d"
    for row, answer in enumerate(expected):
        if not torch.allclose(answers[0][row], answer, rtol=1e-3, atol=1e-4, equal_nan=True):
            return "a row answers otherwise in company than alone; read what may differ from a buffer"
    gradients = [
        stack.backward(answer.double().sum(tuple(range(1, answer.dim()))))
        for stack, answer in zip((*pair, *five), answers, strict=True)
    ]
    for place, row in enumerate(order):
        if not all(torch.equal(two[row], many[place]) for two, many in (answers, gradients)):
            return "a row's last bits depend on its neighbours"
    return ""
