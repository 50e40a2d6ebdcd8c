"""JSON as tables: an object on each line, or a list of objects. Their keys are columns.

Knows one kind of file. Must never know what a cell means.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tuner.data.tables import Lines, Table, first, not_utf8
from tuner.data.text_columns import Texts
from tuner.errors import DataError

_SHOWN = 20


def read_json(path: Path) -> Table:
    """A table of text, nothing judged yet: null and a key that is not there are empty cells.

    Columns of lists and objects are left out with a note. Raises DataError for what is no object, by line.
    """
    records, lines, problems = [], [], []
    try:
        for line, value in _values(path):
            if isinstance(value, dict):
                records.append(value)
                lines.append(line)
            else:
                problems.append(f'{path}:{line}: expected an object such as {{"age": 3}}, got {_told(value)}')
    except UnicodeDecodeError:
        raise DataError(not_utf8(path)) from None
    if not problems and not records:
        problems = [f"{path}: expected an object on each line, got none"]
    if problems:
        raise DataError(first(problems, _SHOWN, str(path)))
    names = list(dict.fromkeys(name for record in records for name in record))
    nested = [name for name in names if any(isinstance(record.get(name), list | dict) for record in records)]
    notes = tuple(f"{path}: column '{name}': lists and objects cannot be read: left out" for name in nested)
    kept = [name for name in names if name not in nested]
    columns: dict[str, Any] = {name: Texts.of([_text(record.get(name)) for record in records]) for name in kept}
    whole = lines[0] == lines[-1] < len(lines)  # a list on one line
    return Table(str(path), columns, lines=None if whole else Lines(np.array(lines)), notes=notes)


def _values(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, value) of each; numbers as they are written."""
    text = path.read_text(encoding="utf-8-sig")
    decode = json.JSONDecoder(parse_float=_Number, parse_int=_Number, parse_constant=_Number).decode
    if text.lstrip().startswith("["):
        try:
            yield from ((1, value) for value in decode(text))
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{error.lineno}:{error.colno}: expected JSON, got {error.msg}") from None
        return
    for line, part in enumerate(text.split("\n"), start=1):
        if part.strip():
            try:
                yield line, decode(part)
            except json.JSONDecodeError as error:
                told = f"{path}:{line}:{error.colno}: expected a JSON object on each line, got {error.msg}"
                raise DataError(told) from None


class _Number(str):
    """A number as it is written."""

    __slots__ = ()


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _told(value: Any) -> str:
    return {"list": "a list", "str": f"the text {value!r:.40}", "NoneType": "null"}.get(
        type(value).__name__, f"{value}"
    )
