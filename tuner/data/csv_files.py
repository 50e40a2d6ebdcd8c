"""CSV files as tables of text: which separator, which line is the header, which rows are ragged.

Knows one kind of file. Must never know what a cell means: that is told in `tuner.data.cells`.
"""

from __future__ import annotations

import contextlib
import csv
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tuner.data import csv_arrow
from tuner.data.tables import Cells, Lines, Table, first, not_utf8, positions_of
from tuner.data.text_columns import Texts
from tuner.errors import DataError

_CHUNK = 16_384  # rows held as Python strings at a time
_SEPARATORS = ",;\t"  # the first of them on a tie; | where none of them parts a header
_LONGEST = min(sys.maxsize, 2**31 - 1)  # characters of a cell: as many as a C long holds everywhere
_LOOKED_AT = 20  # rows


def read_csv(path: Path, texts: Collection[str] = ()) -> Table:
    """A CSV file with a header line, UTF-8, its fields split by comma, semicolon, tab or |; nothing judged yet.

    Blank lines are skipped, and above the header Excel's `sep=;` and lines of # that are none. Columns of plain numbers
    in a large file are told already, but for those among `texts`. Raises
    DataError for a file that is no such table: ragged rows, a column without a name or two of one name,
    a quote that never ends, other bytes than UTF-8, no rows.
    """
    problems: list[str] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream, _cells_of_any_length():
            skipped, separator = _preamble(stream)
            reader = csv.reader(stream, delimiter=separator, skipinitialspace=True, strict=True)
            records = _records(path, reader, skipped)
            line, written = next(records, (1, []))
            if not written:
                problems.append(f"{path}: expected a table with a header line, got an empty file")
            header, notes = named(path, written, line)
            if not problems and path.stat().st_size >= csv_arrow.LEAST:
                lines_of = partial(row_lines, path)
                table = csv_arrow.read_columns(
                    path, written, header, separator=separator, skipped=skipped, texts=texts, lines=lines_of
                )
                if table is not None:
                    return replace(table, notes=tuple(notes))
            chunks, lines, ragged = _chunks(path, records, len(header))
    except UnicodeDecodeError:
        raise DataError(not_utf8(path)) from None
    problems += ragged
    if not problems and not lines:
        problems.append(f"{path}: expected a header line and rows below it, got no rows")
    if problems:
        raise DataError(first(problems, 20))
    columns: dict[str, Cells] = {name: Texts.joined([chunk[i] for chunk in chunks]) for i, name in enumerate(header)}
    return Table(
        str(path),
        columns,
        lines=Lines(np.array(lines)),
        positions=positions_of(header),
        separator=separator,
        notes=tuple(notes),
    )


def named(path: Path, header: Sequence[str], line: int) -> tuple[list[str], list[str]]:
    """The columns' names, each another one: a second `age` is `age.1`, one without a name `Unnamed: 0`; and notes."""
    names: list[str] = []
    notes = []
    for position, written in enumerate(header):
        base = written if written.strip() else f"Unnamed: {position}"
        name, count = base, 0
        while name in names or (count and name in header):
            count += 1
            name = f"{base}.{count}"
        if not written.strip() and position:  # the first is the index that pandas writes
            notes.append(f"{path}:{line}:{position + 1}: a column without a name is called '{name}'")
        elif count:
            notes.append(f"{path}:{line}:{position + 1}: a further column '{base}' is called '{name}'")
        names.append(name)
    return names, notes


def row_lines(path: Path, count: int) -> np.ndarray:
    """The line (from 1) on which each of the first `count` rows of a CSV file begins: int [count]."""
    with path.open(encoding="utf-8-sig", newline="") as stream, _cells_of_any_length():
        skipped, separator = _preamble(stream)
        reader = csv.reader(stream, delimiter=separator, skipinitialspace=True, strict=True)
        return np.array([line for line, _ in islice(_records(path, reader, skipped), 1, count + 1)])


@contextlib.contextmanager
def _cells_of_any_length() -> Iterator[None]:
    """Python's reader takes 131,072 characters a cell unless told, for all of a process."""
    before = csv.field_size_limit(_LONGEST)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _preamble(stream: Any) -> tuple[int, str]:
    """(lines above the header, the separator); the stream stands at the header then."""
    skipped, named = 0, None
    while True:
        start = stream.tell()
        line = stream.readline()
        if line.lower().startswith("sep=") and len(line.strip()) in (4, 5) and named is None:
            named = line.rstrip("\r\n")[4:5] or "\t"
        elif not (line.startswith("#") and _is_comment(stream, line)):
            stream.seek(start)
            separator = named or _separator(stream)
            stream.seek(start)
            return skipped, separator
        skipped += 1


def _is_comment(stream: Any, line: str) -> bool:
    """Whether a line that begins with # heads no columns: the one below has other fields, or is itself the header."""
    place = stream.tell()
    below, second = stream.readline(), stream.readline()
    stream.seek(place)
    alike = any(1 < _fields(line, one) == _fields(below, one) for one in (*_SEPARATORS, "|"))
    return bool(below) and (not alike or below.startswith("#") or (not _has_number(below) and _has_number(second)))


def _fields(line: str, separator: str) -> int:
    """How many a line has; 0 where its quotes do not close in it."""
    with contextlib.suppress(csv.Error):
        return len(next(csv.reader([line], delimiter=separator, skipinitialspace=True), []))
    return 0


def _has_number(line: str) -> bool:
    for cell in re.split("[,;\t|]", line):
        with contextlib.suppress(ValueError):
            float(cell.strip(' "\r\n'))
            return True
    return False


def _separator(stream: Any) -> str:
    """The one that parts the header into most fields; another where it alone gives all rows as many as the header."""
    start = stream.tell()
    widths: dict[str, list[int]] = {}
    for separator in (*_SEPARATORS, "|"):
        stream.seek(start)
        rows = csv.reader(stream, delimiter=separator, skipinitialspace=True)
        with contextlib.suppress(csv.Error):  # said when the file is read for good
            widths[separator] = [len(row) for row in islice(rows, _LOOKED_AT) if row]
    heads = {separator: counts[0] if counts else 0 for separator, counts in widths.items()}
    best = max(_SEPARATORS, key=lambda one: heads.get(one, 0))
    even = [one for one, counts in widths.items() if heads[one] > 1 and len(counts) > 1 and len(set(counts)) == 1]
    if best not in even and len(set(widths.get(best, ()))) != 1 and even:
        return max(even, key=heads.__getitem__)
    return "|" if heads.get(best, 0) < 2 and "|" in even else best


def _records(path: Path, reader: Any, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """(line on which the record begins, its fields), blank lines left out."""
    while True:
        line = skipped + reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{path}:{line}: expected a CSV record, got one that cannot be read ({error}); "
                'a quote " must be closed, and doubled inside quotes'
            ) from None
        if fields:
            yield line, fields


def _chunks(
    path: Path, records: Iterator[tuple[int, list[str]]], width: int
) -> tuple[list[list[Texts]], list[int], list[str]]:
    """The records as columns of text, some thousand rows at a time, their lines, and complaints about ragged rows."""
    chunks: list[list[Texts]] = []
    problems: list[str] = []
    widths: Counter[int] = Counter()
    lines: list[int] = []
    held: list[list[str]] = []
    rows = 0
    for rows, (line, fields) in enumerate(records, start=1):
        widths[len(fields)] += 1
        if len(fields) != width:
            problems.append(
                f"{path}:{line}:{min(len(fields), width) + 1}: row {rows}: expected {width} fields as in the header, "
                f"got {len(fields)}; quote fields that contain the separator"
            )
            continue
        lines.append(line)
        held.append(fields)
        if len(held) == _CHUNK:
            chunks.append([Texts.of(column) for column in zip(*held, strict=True)])
            held = []
    if held:
        chunks.append([Texts.of(column) for column in zip(*held, strict=True)])
    if len(widths) == 1 < rows and problems:
        got = next(iter(widths))
        index = "; the first column may have no name: name it" if got == width + 1 else ""
        told = f"expected rows of {width} fields as in the header, got {got} in all {rows:,} of them{index}"
        problems = [f"{path}: {told}; the names of the columns are to be the first line"]
    return chunks, lines, problems
