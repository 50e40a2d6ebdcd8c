"""How answers are printed on stdout: an aligned table for people, JSON for programs, CSV for spreadsheets.

It knows rows and cells. It must never know what they mean, and never write anything that was not asked for: what it
prints may be read by another program.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import zip_longest
from typing import Any

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")
_GAP = "  "  # between two columns
_EASY, _NARROW = 24, 12  # characters of a column of text that is wrapped or cut: to be read easily, and at least


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
    name for {"metrics": {…}}. Columns stand in the order of their first appearance, those of one mapping together. In
    a table long text is wrapped so that it fits the terminal.
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
        sys.stdout.flush()  # here, where what goes wrong is told, and not at the end of the process
        return
    table = [[name, *(cell(line.get(name)) for line in lines)] for name in columns]
    _print_columns(table, _room(table), wrapped=True)


def print_table(rows: Sequence[Mapping[str, Any]], *, wide: bool) -> list[str]:
    """Rows whose most important columns stand first, as a table of one line each; returns the columns left out.

    Unless `wide`, it fits the terminal: columns are left out where there is no room for them, or nothing in them, and
    long text is cut. `params.width` is called `width` unless another column is.
    """
    columns, lines = _spread(rows)
    plain = [name.removeprefix("params.") for name in columns]
    titles = [short if plain.count(short) == 1 else name for name, short in zip(columns, plain, strict=True)]
    table = [[title, *(cell(line.get(name)) for line in lines)] for title, name in zip(titles, columns, strict=True)]
    if wide:
        _print_columns(table, None, wrapped=False)
        return []
    kept: list[list[str]] = []
    left_out: list[str] = []
    used = 0
    for column in table:
        needed = _least(column, _EASY) + (len(_GAP) if kept else 0)
        if kept and not any(column[1:]):
            continue
        if kept and used + needed > terminal_width():
            left_out.append(column[0])
            continue
        kept.append(column)
        used += needed
    _print_columns(kept, _room(kept), wrapped=False)
    return left_out


def terminal_width() -> int:
    """Columns of the terminal, or as COLUMNS says; 80 where stdout is none."""
    return shutil.get_terminal_size((80, 24)).columns


def _room(table: Sequence[object]) -> int:
    return terminal_width() - len(_GAP) * (len(table) - 1)


def _least(column: Sequence[str], shortest: int) -> int:
    """The characters that a column needs: text of several words may be wrapped or cut, anything else may not."""
    words = max(len(text) if " " not in text.strip() else min(len(text), shortest) for text in column)
    return max(words, len(column[0]))


def _widths(table: Sequence[Sequence[str]], room: int) -> list[int]:
    """As wide as the text is, as far as there is room: first every column comfortably, then the left ones in full."""
    widths = [_least(column, _NARROW) for column in table]
    for wanted in ([_least(column, _EASY) for column in table], [max(map(len, column)) for column in table]):
        for at, width in enumerate(wanted):
            widths[at] += max(min(width - widths[at], room - sum(widths)), 0)
    return widths


def _print_columns(table: Sequence[Sequence[str]], room: int | None, *, wrapped: bool) -> None:
    """Columns, each with its title first, `room` characters without the gaps, or what they need."""
    widths = [max(map(len, column)) for column in table] if room is None else _widths(table, room)

    def lines() -> Iterator[str]:
        for row in zip(*table, strict=True):
            cells = zip(row, widths, strict=True)
            parts = [_wrap(text, width) if wrapped else [_cut(text, width)] for text, width in cells]
            yield from (_GAP.join(map(str.ljust, line, widths)).rstrip() for line in zip_longest(*parts, fillvalue=""))

    print_lines(lines())


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


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
    """A value for a person: four significant digits, nothing for None, one line of text."""
    if value is None:
        return ""
    if not isinstance(value, float):
        return printable(str(value))
    whole = math.isfinite(value) and 1e4 <= abs(value) < 1e15  # which would get an exponent and lose digits
    return f"{value:.0f}" if whole else f"{value:.4g}"


def printable(text: str) -> str:
    """`text` as one line that cannot move a terminal's cursor: it may come from somebody's data file."""
    return "".join(character if character.isprintable() else " " for character in text)


def neutral(value: Any) -> Any:
    """A CSV cell that no spreadsheet takes for a formula; numbers, negative ones too, stay numbers, also as text."""
    risky = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if risky and not _NUMBER.fullmatch(value) else value


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
