"""Data made by a person's own function, `file.py:function`: called, and its answer checked.

Knows Python files and what their functions may return. Must never know splits or normalisation.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tuner.data.arrays import of_arrays
from tuner.data.raw import Raw
from tuner.errors import LEAVES, DataError
from tuner.models import code

_RETURNS = "(x, y), {'x': x, 'y': y} or a torch Dataset of such pairs"


def read_function(path: Path, function: str, task: str | None, modality: str | None) -> Raw:
    """What `function` of the file `path` returns, as if its arrays came from an npz.

    It is called without arguments, in each worker again, and must return the same each time. Examples
    of unequal length, in a list or a torch Dataset, are sequences. The file, and what it imports from
    beside it, belong to the data's digest. Raises DataError, with file and line, for whatever the function raises.
    """
    where = f"{path}:{function}"
    content = path.read_bytes()
    made = _call(path, function, content)
    x, y, lengths = _parts(where, made)
    raw = of_arrays(where, function, x, y, lengths=lengths, task=task, modality=modality)
    return replace(raw, origin=code.digest(path.resolve(), whole=False))


def _call(path: Path, function: str, content: bytes) -> Any:
    name = f"tuner_data_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise DataError(f"data.source: expected a Python file, got {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    try:
        code.beside(path.resolve())
        spec.loader.exec_module(module)
        chosen = getattr(module, function, None)
        if callable(chosen):
            return _items(f"{path}:{function}", chosen())
    except (KeyboardInterrupt, DataError):
        raise
    except BaseException as error:  # noqa: BLE001 - a person's own code may raise anything, and may end the program
        raise DataError(_said(path, error)) from None
    raise DataError(_no_function(path, function, content))


def _items(where: str, made: Any) -> Any:
    """The answer, a torch Dataset read to its end as (list of inputs, list of targets). Raises DataError."""
    if hasattr(made, "to_numpy") or hasattr(made, "dtype"):  # one table or array, which has items as well
        named = hasattr(made, "columns")
        remedy = "; return (frame[[…inputs]].to_numpy(), frame[target].to_numpy())" if named else "; return it with y"
        raise DataError(f"{where}: expected it to return {_RETURNS}, got one {_kind(made)}{remedy}")
    if isinstance(made, Mapping | list | tuple | str) or not (
        hasattr(made, "__getitem__") and hasattr(made, "__len__")
    ):
        return made
    pairs = [made[i] for i in range(len(made))]
    for number, pair in enumerate(pairs):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            remedy = ""
            if isinstance(pair, Mapping):
                keys = list(map(str, pair))
                remedy = (
                    f" with the keys {', '.join(keys)}; return a pair, as in (item['{keys[0]}'], item['{keys[-1]}'])"
                )
            raise DataError(f"{where}: item {number}: expected a pair (input, target), got {_kind(pair)}{remedy}")
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _parts(where: str, made: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The arrays x, y and lengths of an answer. Raises DataError."""
    if isinstance(made, Mapping):
        lost = [name for name in ("x", "y") if name not in made]
        extra = sorted(str(name) for name in made if name not in ("x", "y", "lengths"))
        if lost or extra:
            got = ", ".join(map(str, made)) or "no arrays"
            raise DataError(f"{where}: expected the arrays x and y, and lengths where they differ, got {got}")
        parts = [made["x"], made["y"], made.get("lengths")]
    elif isinstance(made, Sequence) and not isinstance(made, str) and len(made) == 2:
        parts = [*made, None]
    else:
        raise DataError(f"{where}: expected it to return {_RETURNS}, got {_kind(made)}")
    x, lengths = _inputs(where, parts[0])
    if parts[2] is not None:
        lengths = _array(where, "lengths", parts[2])
    return x, _array(where, "y", parts[1]), lengths


def _inputs(where: str, x: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """The inputs as one array; of a list of unequal lengths padded with zeros, and the lengths."""
    if not isinstance(x, list | tuple) or not x or isinstance(x[0], str):
        return _array(where, "x", x), None
    rows = [_array(where, f"x[{i}]", one) for i, one in enumerate(x)]
    shapes = {row.shape for row in rows}
    if len(shapes) == 1:
        return np.stack(rows), None
    if len({shape[1:] for shape in shapes}) > 1 or () in shapes:
        some = " and ".join(str(list(shape)) for shape in sorted(shapes)[:2])
        raise DataError(f"{where}: x: expected examples that differ in their first axis alone, got shapes {some}")
    lengths = np.array([len(row) for row in rows])
    padded = np.zeros((len(rows), lengths.max(), *rows[0].shape[1:]), np.result_type(*rows))
    for row, one in zip(padded, rows, strict=True):
        row[: len(one)] = one
    return padded, lengths


def _array(where: str, name: str, values: Any) -> np.ndarray:
    """A numpy array of a tensor, a pandas object, an array or a list. Raises DataError."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    if isinstance(values, list | tuple) and values and hasattr(values[0], "detach"):
        values = [one.detach().cpu().numpy() for one in values]
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: {name}: expected an array, got {_kind(values)}: {error}") from None
    if array.dtype.kind == "O" and all(isinstance(one, str) for one in array.ravel()):
        array = array.astype(np.dtypes.StringDType())
    return array


def _no_function(path: Path, function: str, content: bytes) -> str:
    from tuner.search_spaces.spelling import nearest  # pydantic comes with it: 0.15 s that only this mistake pays

    there = [node.name for node in ast.parse(content).body if isinstance(node, ast.FunctionDef)]
    close = nearest(function, there)
    meant = f"; did you mean {close}?" if close else ""
    return f"data.source: expected a function of {path}, got '{function}'; it has {', '.join(there) or 'none'}{meant}"


def _said(path: Path, error: BaseException) -> str:
    """`file:line: what was raised`, at the deepest line of the person's own file."""
    mine = path.resolve()
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).resolve() == mine]
    line = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else None
    text = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    if isinstance(error, SystemExit):
        text += LEAVES
    return f"{path}{f':{line}' if line else ''}: expected data, got {type(error).__name__}: {text}"


def _kind(value: Any) -> str:
    length = f" of {len(value)}" if isinstance(value, list | tuple) else ""
    return f"{type(value).__name__}{length}"
