"""Whether a person's own network can train as one with others of its structure, and if not, why.

Knows torch, and a stack from the outside. Ours fuse by construction, and are held to it by the tests of law 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from models import layers
from tuner.errors import told
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
            return f"{name} rounds by an element's place in memory; use models.layers.nonlinearity where it has it"
        if fused.count["convolution"] < lone.count["convolution"] // 2 * 7:
            return "a convolution of several rows in one rounds by their number; use models.layers.Conv2d"
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
