"""How to call torch's operations so that their results lie where they are told to.

Knows torch's operations by name; never who calls them. An operation that is in no table here is still called: by its
own variant that writes into given tensors, or else with a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tuner.training.replay.blas import Call

aten = torch.ops.aten

ALLOCATIONS = {
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
}
# Of what is given to them they read the shape alone; the value that they fill with.
FILLS: dict[Any, Callable[..., Any]] = {
    aten.full_like.default: lambda _, value, *__: value,
    aten.new_full.default: lambda _, __, value, *___: value,
    aten.new_ones.default: lambda *_: 1,
    aten.new_zeros.default: lambda *_: 0,
    aten.ones_like.default: lambda *_: 1,
    aten.zeros_like.default: lambda *_: 0,
}
# Of which every number is made of the numbers in its own place alone: the result may lie where an argument does.
ELEMENTWISE = {
    aten.add.Tensor,
    aten.addcmul.default,
    aten.bitwise_and.Scalar,
    aten.bitwise_and.Tensor,
    aten.bitwise_xor.Tensor,
    aten.clamp.default,
    aten.div.Tensor,
    aten.erf.default,
    aten.exp.default,
    aten.gelu.default,
    aten.gelu_backward.default,
    aten.maximum.default,
    aten.mul.Tensor,
    aten.neg.default,
    aten.relu.default,
    aten.rsqrt.default,
    aten.sigmoid.default,
    aten.sigmoid_backward.default,
    aten.silu.default,
    aten.silu_backward.default,
    aten.sqrt.default,
    aten.sub.Tensor,
    aten.tanh.default,
    aten.tanh_backward.default,
    aten.threshold_backward.default,
    aten.__rshift__.Scalar,
}
_COPIES = {aten.clone.default, aten._to_copy.default}
# torch's own functions are found in half the time that an overload takes.
_QUICK: dict[Any, Callable[..., Any]] = {
    aten.add.Tensor: torch.add,
    aten.addcmul.default: torch.addcmul,
    aten.baddbmm.default: torch.baddbmm,
    aten.bitwise_and.Scalar: torch.bitwise_and,
    aten.bitwise_and.Tensor: torch.bitwise_and,
    aten.bitwise_xor.Tensor: torch.bitwise_xor,
    aten.bmm.default: torch.bmm,
    aten.cat.default: torch.cat,
    aten.div.Tensor: torch.div,
    aten.erf.default: torch.erf,
    aten.exp.default: torch.exp,
    aten.gather.default: torch.gather,
    aten.ge.Tensor: torch.ge,
    aten.index_select.default: torch.index_select,
    aten.maximum.default: torch.maximum,
    aten.mm.default: torch.mm,
    aten.mul.Tensor: torch.mul,
    aten.neg.default: torch.neg,
    aten.mean.dim: torch.mean,
    aten.rsqrt.default: torch.rsqrt,
    aten.sqrt.default: torch.sqrt,
    aten.stack.default: torch.stack,
    aten.sub.Tensor: torch.sub,
    aten.tanh.default: torch.tanh,
    aten.sum.dim_IntList: torch.sum,
    aten.where.self: torch.where,
    aten.__rshift__.Scalar: torch.bitwise_right_shift,
}
_WITH_NUMBERS = {aten.bitwise_and.Scalar, aten.mul.Tensor, aten.__rshift__.Scalar}
_QUICK_IN_PLACE: dict[Any, Callable[..., Any]] = {
    aten.add_.Tensor: torch.add,
    aten.addcmul_.default: torch.addcmul,
    aten.div_.Tensor: torch.div,
    aten.mul_.Tensor: torch.mul,
    aten.sqrt_.default: torch.sqrt,
    aten.sub_.Tensor: torch.sub,
    aten.tanh_.default: torch.tanh,
}
_QUICK_OUT: dict[Any, Callable[..., Any]] = {
    aten.add.out: torch.add,
    aten.baddbmm.out: torch.baddbmm,
    aten.bmm.out: torch.bmm,
    aten.div.out: torch.div,
    aten.lerp.Tensor_out: torch.lerp,
    aten.mul.out: torch.mul,
    aten.sigmoid.out: torch.sigmoid,
    aten.sqrt.out: torch.sqrt,
    aten.sub.out: torch.sub,
    aten.tanh.out: torch.tanh,
    aten.where.self_out: torch.where,
}


def in_place(operation: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Call:
    """A call of an operation that writes into its arguments."""
    if operation is aten.copy_.default:
        return Tensor.copy_, arguments, {}
    if operation is aten.pow_.Scalar and arguments[1] == 2:
        return torch.square, arguments[:1], {"out": arguments[0]}
    if operation in _QUICK_IN_PLACE:
        return _QUICK_IN_PLACE[operation], arguments, {**keywords, "out": arguments[0]}
    return _QUICK_OUT.get(operation, operation), arguments, keywords


def into(operation: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], results: list[Tensor | None]) -> Call:
    """A call that leaves `results` where they are to be; the operation's own way of doing so, else a copy."""
    if operation in FILLS:
        return Tensor.fill_, (results[0], *arguments), {}
    if operation in _COPIES:
        assert results[0] is not None
        return Tensor.copy_, (results[0], arguments[0]), {}
    if operation in _WITH_NUMBERS:  # a number is made a tensor of in every call
        first, second = arguments
        if not isinstance(second, Tensor):
            second = torch.tensor(second, dtype=torch.float64 if isinstance(second, float) else None)
        arguments = first, second
    if operation in _QUICK:
        return _QUICK[operation], arguments, {**keywords, "out": results[0]}
    if operation is aten.relu.default:
        return torch.clamp_min, (*arguments, 0), {"out": results[0]}
    variant = _out_variant(operation)
    if variant is not None and None not in results:
        overload, names = variant
        return overload, arguments, {**keywords, **dict(zip(names, results, strict=True))}

    def copied() -> None:
        answer = operation(*arguments, **keywords)
        for place, value in zip(results, answer if isinstance(answer, tuple | list) else [answer], strict=True):
            if place is not None:
                place.copy_(value)

    return copied, (), {}


@cache
def _out_variant(operation: Any) -> tuple[Any, tuple[str, ...]] | None:
    """The overload with the same arguments that writes into given tensors, and what it calls these."""
    wanted = [(argument.name, str(argument.type)) for argument in operation._schema.arguments]
    packet = operation.overloadpacket
    for name in packet.overloads():
        overload = getattr(packet, name)
        arguments = overload._schema.arguments
        places = tuple(argument.name for argument in arguments if argument.is_out)
        if len(places) == len(operation._schema.returns) and wanted == [
            (argument.name, str(argument.type)) for argument in arguments if not argument.is_out
        ]:
            return overload, places
    return None
