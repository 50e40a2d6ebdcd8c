"""How answers are printed on stdout: an aligned table for people, JSON for programs, CSV for spreadsheets.

It knows rows and cells. It must never know what they mean, and never write anything that was not asked for: what it
prints may be read by another program.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any


class Output(StrEnum):
    """The three forms."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def tolerate_any_text() -> None:
    """Let stdout and stderr write what their encoding lacks as an escape (× as \\xd7) instead of failing on it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_rows(rows: Sequence[Mapping[str, Any]], output: Output, document: Any) -> None:
    """Rows as an aligned table or as CSV; as JSON, the whole `document`.

    A value that is a mapping becomes a column per key: {"params": {"width": 8}} → `params.width`, and a metric's own
    name for {"metrics": {…}}. Columns stand in the order of their first appearance, those of one mapping together.
    """
    if output is Output.JSON:
        print_json(document)
        return
    columns, lines = _spread(rows)
    if not columns:
        return
    if output is Output.CSV:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(map(neutral, columns))
        writer.writerows([neutral(line.get(name)) for name in columns] for line in lines)
        return
    cells = [columns, *([cell(line.get(name)) for name in columns] for line in lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print_lines("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


def print_pairs(row: Mapping[str, Any]) -> None:
    """One row as a name and a value a line, without what is None or empty."""
    (line,) = _spread([row])[1]
    width = max(map(len, line), default=0)
    print_lines(f"{name:<{width}}  {cell(value)}".rstrip() for name, value in line.items() if cell(value))


def print_json(document: Any) -> None:
    """Raises ValueError for NaN and infinity, which are no JSON: whoever built the document left them out."""
    print_lines([json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)])


def print_lines(lines: Iterable[str]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


def cell(value: Any) -> str:
    """A value for a person: six significant digits, nothing for None, one line of text."""
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else printable(str(value))


def printable(text: str) -> str:
    """`text` as one line that cannot move a terminal's cursor: it may come from somebody's data file."""
    return "".join(character if character.isprintable() else " " for character in text)


def neutral(value: Any) -> Any:
    """A CSV cell that no spreadsheet takes for a formula; numbers, negative ones too, stay numbers."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _spread(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[dict[str, Any]]]:
    """The column names, and the rows without mappings in them."""
    groups: dict[str, dict[str, None]] = {}
    lines = []
    for row in rows:
        line: dict[str, Any] = {}
        for name, item in row.items():
            inner = {name: item}
            if isinstance(item, Mapping):
                inner = {key if name == "metrics" else f"{name}.{key}": value for key, value in item.items()}
            groups.setdefault(name, {}).update(dict.fromkeys(inner))
            line |= inner
        lines.append(line)
    return [column for group in groups.values() for column in group], lines
