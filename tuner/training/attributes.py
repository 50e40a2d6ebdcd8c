"""What the modules of a person's network keep in plain attributes, over a restart: counters, averages, lists, modes.

Knows torch's modules; never training. A plain loop that goes on in one process keeps such attributes by itself, and
nn.Module's state_dict does not hold them. What is made of numbers, text, tensors, arrays, containers and random
generators is kept; what holds parameters, modules or other objects is left as the constructor made it.
"""

from __future__ import annotations

import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_OF_MODULES = frozenset(vars(nn.Module()))  # what every module has: hooks, parameters, the mode
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_SEQUENCES: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
}
_MAPPINGS: dict[str, type] = {"dict": dict, "OrderedDict": OrderedDict, "Counter": Counter}


class _OpaqueError(TypeError):
    """A value that is not made of plain ones."""


def state(network: nn.Module) -> dict[str, Any]:
    """By module: its mode, its frozen parameters and, of one that is not torch's own, its plain attributes."""
    registered = {id(tensor) for tensor in (*network.parameters(), *network.buffers())}
    found: dict[str, Any] = {}
    for name, module in network.named_modules():
        attributes = {}
        if not type(module).__module__.startswith("torch."):
            for key, value in vars(module).items():
                if key not in _OF_MODULES:
                    try:
                        attributes[key] = _packed(value, registered)
                    except _OpaqueError:
                        continue
        frozen = [key for key, value in module.named_parameters(recurse=False) if not value.requires_grad]
        found[name] = {"training": module.training, "frozen": frozen, "attributes": attributes}
    return found


def wrapped(network: nn.Module) -> str:
    """A plain attribute that a call under vmap has left one of its own tensors in, which only that call understands.

    The name of its module and its own; empty where there is none.
    """
    for name, module in network.named_modules():
        if not type(module).__module__.startswith("torch."):
            for key, value in vars(module).items():
                if key not in _OF_MODULES and any(map(_of_vmap, _tensors(value))):
                    return f"{name}.{key}" if name else key
    return ""


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested containers."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple | set | frozenset | deque):
        for item in value:
            yield from _tensors(item)


def _of_vmap(tensor: Tensor) -> bool:
    """Whether it has no memory of its own: what torch's functions transforms hand out is a view of all rows."""
    try:
        tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return True
    return False


def restore(network: nn.Module, kept: dict[str, Any], device: torch.device) -> None:
    """Put back what `state` found; a module that is not there any more is passed over."""
    for name, module in network.named_modules():
        if name in kept:
            module.training = kept[name]["training"]
            for key, parameter in module.named_parameters(recurse=False):
                parameter.requires_grad_(key not in kept[name]["frozen"])
            for key, packed in kept[name]["attributes"].items():
                vars(module)[key] = _unpacked(packed, vars(module).get(key), device)


def _packed(value: Any, registered: set[int]) -> Any:
    """As [kind, …] of what a file of weights may hold. Raises _OpaqueError."""
    kind = type(value)
    if kind in _PLAIN:
        return ["plain", value]
    if isinstance(value, Tensor):
        if id(value) in registered:
            raise _OpaqueError
        return ["tensor", value.detach().clone(), value.device.type == "cpu", value.requires_grad and value.is_leaf]
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return ["array", torch.from_numpy(np.array(value))]
    if isinstance(value, np.generic) and value.dtype.kind in "biufc":
        return ["number", value.item(), value.dtype.str]
    if kind in (list, tuple, set, frozenset):
        return [kind.__name__, [_packed(item, registered) for item in value]]
    if kind is deque:
        return ["deque", [_packed(item, registered) for item in value], value.maxlen]
    if kind in _MAPPINGS.values():
        return [kind.__name__, [[_packed(k, registered), _packed(v, registered)] for k, v in value.items()]]
    if kind is defaultdict:
        return ["defaultdict", [[_packed(k, registered), _packed(v, registered)] for k, v in value.items()]]
    return _packed_generator(value, registered)


def _packed_generator(value: Any, registered: set[int]) -> Any:
    if isinstance(value, torch.Generator):
        return ["torch", value.get_state()]
    if isinstance(value, random.Random):
        return ["random", _packed(value.getstate(), registered)]
    if isinstance(value, np.random.Generator):
        return ["numpy", _packed(dict(value.bit_generator.state), registered)]
    if isinstance(value, np.random.RandomState):
        return ["numpy-old", _packed(dict(value.get_state(legacy=False)), registered)]
    raise _OpaqueError


def _unpacked(packed: Any, now: Any, device: torch.device) -> Any:
    """The value again; `now` is what the constructor made in its place, for what cannot be made from nothing."""
    kind, content, *more = packed
    if kind == "plain":
        return content
    if kind == "tensor":
        on_cpu, trains = more
        return content.to("cpu" if on_cpu else device).requires_grad_(trains)
    if kind == "array":
        return content.numpy().copy()
    if kind == "number":
        return np.dtype(more[0]).type(content)
    if kind in _SEQUENCES:
        return _SEQUENCES[kind]([_unpacked(item, None, device) for item in content])
    if kind == "deque":
        return deque((_unpacked(item, None, device) for item in content), more[0])
    if kind in _MAPPINGS or kind == "defaultdict":
        pairs = {_unpacked(k, None, device): _unpacked(v, None, device) for k, v in content}
        return (
            defaultdict(getattr(now, "default_factory", None), pairs)
            if kind == "defaultdict"
            else _MAPPINGS[kind](pairs)
        )
    inner = content if kind == "torch" else _unpacked(content, None, device)
    if kind == "torch":
        now.set_state(inner)
    elif kind == "random":
        now.setstate(inner)
    elif kind == "numpy":
        now.bit_generator.state = inner
    else:
        now.set_state(inner)
    return now
