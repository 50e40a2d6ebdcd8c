"""Excel workbooks as tables: the first sheet, its first filled row the header.

Knows openpyxl's cells. Must never know what a column is for.
"""

from __future__ import annotations

import datetime as dt
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tuner.data import streams
from tuner.data.csv_files import named
from tuner.data.tables import Lines, Table, number_name, positions_of
from tuner.data.text_columns import Texts
from tuner.errors import DataError


def read_excel(path: Path) -> Table:
    """The first sheet as a table of text, nothing judged yet; of formulas their values as Excel last saved them.

    Raises DataError for a file that is no workbook, and for a sheet without rows below a header.
    """
    import openpyxl

    try:
        with zipfile.ZipFile(path) as archive:
            content = sum(info.file_size for info in archive.infolist())
        if streams.packed(content, path):
            raise DataError(streams.too_packed(path, content, "CSV"))
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        sheet = book.worksheets[0]
        rows = [(line, row) for line, row in enumerate(sheet.iter_rows(values_only=True), 1) if any(_there(row))]
        others, title = len(book.worksheets) - 1, sheet.title
        book.close()
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, IndexError) as error:
        raise DataError(f"{path}: expected an Excel workbook, got one that cannot be read: {error}") from None
    if len(rows) < 2:
        raise DataError(f"{path}: expected a header and rows below it on sheet '{title}', got {len(rows)} rows")
    line, head = rows[0]
    width = max(len(_filled(row)) for _, row in rows)
    header, notes = named(path, [_text(cell) for cell in (*head, *[None] * width)[:width]], line)
    if others:
        notes.append(f"{path}: sheet '{title}' is read, {others} other{'s are' if others > 1 else ' is'} not")
    cells = [[_text(cell) for cell in (*row, *[None] * width)[:width]] for _, row in rows[1:]]
    columns: dict[str, Any] = {
        name: Texts.of(column) for name, column in zip(header, zip(*cells, strict=True), strict=True)
    }
    lines = Lines(np.array([line for line, _ in rows[1:]]))
    return Table(str(path), columns, lines=lines, positions=positions_of(header), notes=tuple(notes))


def _there(row: Sequence[Any]) -> list[bool]:
    return [cell is not None and cell != "" for cell in row]


def _filled(row: Sequence[Any]) -> Sequence[Any]:
    """Without empty cells at its end."""
    there = _there(row)
    return row[: max((i for i, one in enumerate(there, 1) if one), default=0)]


def _text(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, dt.datetime):
        return cell.isoformat(" ").removesuffix(" 00:00:00")
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        return number_name(float(cell)) if isinstance(cell, float) else str(cell)
    return str(cell)
