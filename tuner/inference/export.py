"""A network as a file that computes and runs no code: its weights, and its operators one after the other.

`pack` turns what torch.export makes of a network into the content of a safetensors file, in whose metadata the program
stands as JSON; `unpack` reads one and computes it, operator by operator. Nothing of it is imported, unpickled or
evaluated: what is read is tensors, numbers and names, and every name is looked up in `operators`. torch's own files
do not promise that (torch.export.load unpickles). Knows torch.export's graphs; never data, nor where files are.

A program is a graph: `{"inputs": 1, "nodes": [{"op": NAME, "args": [...], "kwargs": {...}}, …], "outputs": [...]}`. Its
values are numbered, inputs first, then one for each node. An argument is a number, a string, true, false or null, a
list, or an object with one key that says what it is, see `_KINDS`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from tuner.inference import operators

_PROGRAM = "program"  # in the file's metadata
_HEADER = 8  # bytes that hold the header's length, little-endian
_CHECKS = ("_assert", "sym_constrain")  # of torch.export's own, and answering nothing: the shapes are checked once

_DTYPES = {
    name: getattr(torch, name)
    for name in (
        *("bool", "uint8", "int8", "int16", "int32", "int64"),
        *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    )
}
_LAYOUTS = {"strided": torch.strided}
_DEVICES = {"cpu": torch.device("cpu")}
_FORMATS = {
    str(one).removeprefix("torch."): one
    for one in (torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d)
}
_FLOATS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}  # which JSON does not have
_KINDS: dict[str, Mapping[str, Any]] = {
    "dtype": _DTYPES,
    "layout": _LAYOUTS,
    "device": _DEVICES,
    "memory_format": _FORMATS,
    "float": _FLOATS,
}
"""What stands under such a key is a name in that table. Three kinds are no table's: `value`, the number of one computed
before; `tensor`, a name among the file's; and `graph`, a graph inside a graph, for `cond`."""

_COND, _GRAD = "cond", "set_grad_enabled"  # torch's higher-order operators that stand for `torch.cond`, `torch.no_grad`
_GRAPHS = {"cond": _COND, "wrap_with_set_grad_enabled": _GRAD}


# --- writing -------------------------------------------------------------------------------------


def pack(program: torch.export.ExportedProgram) -> bytes:
    """The content of a file that computes what `program` does: of one tensor, one tensor.

    Raises ValueError where it is made of what such a file cannot hold.
    """
    kinds = torch.export.graph_signature.InputKind
    named: dict[str, str] = {}
    tensors: dict[str, Tensor] = {}
    for spec in program.graph_signature.input_specs:
        if spec.kind == kinds.USER_INPUT:
            continue
        stored = program.state_dict.get(spec.target or "", program.constants.get(spec.target or ""))
        if not isinstance(stored, Tensor):
            raise ValueError(f"{spec.target} is no tensor, but a {type(stored).__name__}")  # noqa: TRY004
        assert spec.target is not None
        named[spec.arg.name] = spec.target
        tensors[spec.target] = stored
    outputs = [spec.kind.name for spec in program.graph_signature.output_specs]
    if outputs != ["USER_OUTPUT"]:
        raise ValueError(f"it answers {', '.join(outputs)}, where one tensor was expected")
    document = _Writer(program.graph_module, named, tensors).graph()
    used = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    return save(used, {_PROGRAM: json.dumps(document, allow_nan=False)})


class _Writer:
    """One graph of torch.fx on its way to JSON; `tensors` gains what inner graphs bring along."""

    def __init__(self, module: torch.fx.GraphModule, named: Mapping[str, str], tensors: dict[str, Tensor]) -> None:
        self._module, self._named, self._tensors = module, named, tensors
        self._values: dict[torch.fx.Node, int] = {}

    def graph(self) -> dict[str, Any]:
        inputs = [
            node for node in self._module.graph.nodes if node.op == "placeholder" and node.name not in self._named
        ]
        self._values = {node: place for place, node in enumerate(inputs)}
        nodes: list[dict[str, Any]] = []
        outputs: list[Any] = []
        for node in self._module.graph.nodes:
            if node.op == "output":
                outputs = [self._argument(one) for one in node.args[0]]
            elif node.op == "call_function" and not self._is_check(node):
                nodes.append(self._node(node))
                self._values[node] = len(inputs) + len(nodes) - 1
            elif node.op not in ("placeholder", "get_attr", "call_function"):
                raise ValueError(f"it holds a {node.op} of {node.target}")
        return {"inputs": len(inputs), "nodes": nodes, "outputs": outputs}

    def _is_check(self, node: torch.fx.Node) -> bool:
        return not node.users and str(node.target).removeprefix("aten.").startswith(_CHECKS)

    def _node(self, node: torch.fx.Node) -> dict[str, Any]:
        args: tuple[Any, ...] = node.args
        name = _GRAPHS.get(str(node.target), "")
        if name == _GRAD:
            args = (*node.args[:2], node.args[2:])
        elif not name:
            try:
                name = operators.name_of(node.target)
            except LookupError as error:
                raise ValueError(str(error)) from None
        kwargs = {key: self._argument(one) for key, one in node.kwargs.items()}
        return {"op": name, "args": [self._argument(one) for one in args], "kwargs": kwargs}

    def _argument(self, one: Any) -> Any:
        if isinstance(one, torch.fx.Node):
            if one.op == "get_attr":
                return self._attribute(str(one.target))
            return {"tensor": self._named[one.name]} if one.name in self._named else {"value": self._values[one]}
        if isinstance(one, list | tuple):
            return [self._argument(part) for part in one]
        if one is None or isinstance(one, bool | str):
            return one
        if type(one) in (int, float):
            return one if math.isfinite(one) else {"float": str(one)}
        for kind, table in _KINDS.items():
            for name, known in table.items():
                if type(one) is type(known) and one == known:
                    return {kind: name}
        raise ValueError(f"it holds {one!r}, a {type(one).__name__}")

    def _attribute(self, name: str) -> dict[str, Any]:
        found = self._module.get_submodule(name) if name in dict(self._module.named_modules()) else None
        if isinstance(found, torch.fx.GraphModule):
            return {"graph": _Writer(found, {}, self._tensors).graph()}
        tensor = getattr(self._module, name, None)
        if not isinstance(tensor, Tensor):
            raise ValueError(f"it holds {name}, a {type(found or tensor).__name__}")  # noqa: TRY004
        key = f"{name}#{len(self._tensors)}"
        self._tensors[key] = tensor
        return {"tensor": key}


# --- reading -------------------------------------------------------------------------------------


def unpack(content: bytes) -> Network:
    """The network that `pack` wrote. Raises ValueError, with a reason, for what it could not have written.

    Of what is read nothing is run before all of it was found allowed.
    """
    try:
        tensors = load(content)
        header = json.loads(content[_HEADER : _HEADER + int.from_bytes(content[:_HEADER], "little")])
        graph = _graph(json.loads(header["__metadata__"][_PROGRAM]), tensors)
    except RecursionError:
        raise ValueError("its program is nested too deeply") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its program is none ({error!r})") from error
    except Exception as error:
        if isinstance(error, ValueError):
            raise
        raise ValueError(f"it is no file of tensors ({error})") from error  # SafetensorError knows no better base
    if (graph.inputs, len(graph.outputs)) != (1, 1):
        raise ValueError(f"it takes {graph.inputs} and answers {len(graph.outputs)}, where one tensor was expected")
    return Network(graph)


@dataclass(frozen=True)
class _Value:
    """What was computed at that place."""

    place: int


@dataclass(frozen=True)
class _Step:
    """One node: what to call, with what, and which values nobody needs behind it."""

    name: str
    call: Callable[..., Any]
    args: list[Any]
    kwargs: dict[str, Any]
    done: tuple[int, ...]


@dataclass(frozen=True)
class _Graph:
    inputs: int
    steps: tuple[_Step, ...]
    outputs: list[Any]

    def __call__(self, *inputs: Any) -> list[Any]:
        if len(inputs) != self.inputs:
            raise ValueError(f"expected {self.inputs} inputs, got {len(inputs)}")
        values: list[Any] = list(inputs)
        for step in self.steps:
            values.append(step.call(*_filled(step.args, values), **_filled(step.kwargs, values)))
            for place in step.done:
                values[place] = None
        found: list[Any] = _filled(self.outputs, values)
        return found


class Lookup(nn.Embedding):
    """One `aten.embedding` of a program: a module, so that gradients can be asked for what it looked up."""

    def __init__(self, call: Callable[..., Any]) -> None:
        nn.Module.__init__(self)  # the weights are an argument
        self._call = call

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        found: Tensor = self._call(*args, **kwargs)
        return found


class Network(nn.Module):
    """A program that was read; computes as the network did in evaluation, gradients of its inputs included."""

    def __init__(self, graph: _Graph) -> None:
        super().__init__()
        self._graph = graph
        self._lookups = nn.ModuleList(step.call for step in graph.steps if isinstance(step.call, Lookup))

    def forward(self, x: Tensor) -> Tensor:
        (answer,) = self._graph(x)
        if not isinstance(answer, Tensor):
            raise TypeError(f"expected a tensor, got {type(answer).__name__}")
        return answer


def _filled(argument: Any, values: list[Any]) -> Any:
    """An argument with the values that it names."""
    if type(argument) is _Value:
        return values[argument.place]
    if type(argument) is list:
        return [_filled(one, values) for one in argument]
    if type(argument) is dict:
        return {name: _filled(one, values) for name, one in argument.items()}
    return argument


def _cond(chosen: Any, yes: _Graph, no: _Graph, operands: list[Any]) -> list[Any]:
    return (yes if bool(chosen) else no)(*operands)


def _set_grad_enabled(enabled: bool, graph: _Graph, operands: list[Any]) -> list[Any]:
    with torch.set_grad_enabled(enabled):
        return graph(*operands)


def _graph(document: Any, tensors: Mapping[str, Tensor]) -> _Graph:
    inputs, nodes, outputs = (document[key] for key in ("inputs", "nodes", "outputs"))
    if type(inputs) is not int or not 0 <= inputs <= 10_000 or type(nodes) is not list or type(outputs) is not list:
        raise ValueError("its program is none")
    calls: list[tuple[str, list[Any], dict[str, Any]]] = []
    last: dict[int, int] = {}  # where a value is needed for the last time
    for place, node in enumerate(nodes):
        name, args, kwargs = node["op"], node["args"], node["kwargs"]
        if type(name) is not str or type(args) is not list or type(kwargs) is not dict:
            raise ValueError(f"node {place} is none")
        seen: list[int] = []
        read = [_argument(one, inputs + place, tensors, seen) for one in args]
        named = {key: _argument(one, inputs + place, tensors, seen) for key, one in kwargs.items()}
        calls.append((name, read, named))
        last |= dict.fromkeys(seen, place)
    kept: list[int] = []
    answers = [_argument(one, inputs + len(nodes), tensors, kept) for one in outputs]
    done: dict[int, list[int]] = {}
    for value in last.keys() - set(kept):
        done.setdefault(last[value], []).append(value)
    steps = [
        _Step(name, _call(name, args), args, kwargs, tuple(done.get(place, ())))
        for place, (name, args, kwargs) in enumerate(calls)
    ]
    return _Graph(inputs, tuple(steps), answers)


def _call(name: str, args: list[Any]) -> Callable[..., Any]:
    """What a node calls. Graphs go to the operators that stand for Python's control flow, and to no others."""
    expected = {_COND: (_Value, _Graph, _Graph, list), _GRAD: (bool, _Graph, list)}.get(name)
    if expected is None:
        if any(isinstance(one, _Graph) for one in args):
            raise ValueError(f"{name[:80]!r} takes no graph")
        try:
            found = operators.find(name)
        except LookupError as error:
            raise ValueError(str(error)) from None
        return Lookup(found) if name == "aten.embedding.default" else found
    if len(args) != len(expected) or not all(map(isinstance, args, expected)):
        raise ValueError(f"{name} takes other arguments")
    return _cond if name == _COND else _set_grad_enabled


def _argument(one: Any, before: int, tensors: Mapping[str, Tensor], seen: list[int]) -> Any:
    """An argument as it is called with; `seen` gains the places that it names, all of them `before` that place."""
    if one is None or type(one) in (bool, int, float, str):
        return one
    if type(one) is list:
        return [_argument(part, before, tensors, seen) for part in one]
    if type(one) is not dict or len(one) != 1:
        raise ValueError(f"an argument is {str(one)[:80]!r}")
    ((kind, content),) = one.items()
    if kind == "graph":
        return _graph(content, tensors)
    if kind == "value":
        if type(content) is not int or not 0 <= content < before:
            raise ValueError(f"an argument names the value {str(content)[:80]!r}, of {before}")
        seen.append(content)
        return _Value(content)
    table: Mapping[str, Any] = tensors if kind == "tensor" else _KINDS.get(kind, {})
    if type(content) is not str or content not in table:
        raise ValueError(f"an argument names the {str(kind)[:80]} {str(content)[:80]!r}")
    return table[content]
