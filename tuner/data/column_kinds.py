"""What stands in a table's columns, told from their cells: numbers, dates or categories; and cells that do not fit.

Knows cells and how people write numbers and dates. Must never know what a column is for.

All numbers or dates, or all but a minority, which then count as missing, is NUMBER or DATE; otherwise CATEGORY. In a
column of numbers an empty cell, `NA`, `NaN`, `null`, `none`, `?`, `-` and `#N/A` are missing; in a column of text only
the empty cell is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tuner.data import dates
from tuner.data.cells import MISSING, Numbers, are_codes, has_leading_zeros, numbers
from tuner.data.tables import Cells, Table, number_name
from tuner.data.text_columns import Texts
from tuner.errors import DataError
from tuner.models.interface import CATEGORY, DATE, NUMBER

LARGEST = float(np.finfo(np.float32).max)
_SHOWN = 5  # complaints listed per column; the rest are counted
_MARKS = 100  # texts for a missing number that are remembered of a column


def typed(
    table: Table,
    kinds: Mapping[str, str] | None = None,
    *,
    empty: bool = False,
    told: Mapping[str, str] | None = None,
    minority: bool | None = None,
    notations: Mapping[str, str] | None = None,
    marks: Mapping[str, tuple[str, ...]] | None = None,
) -> Table:
    """The table with every column of a kind: as `kinds` says; where that is None, as `told` says or the cells do.

    `notations` and `marks` are what an earlier table's were. Raises DataError for cells that do not fit,
    the first few of every column, and for empty ones unless `empty` allows them: they are NaN, or the
    empty text. Where `minority` holds (as where all is told from the cells, unless said), fewer unreadable
    cells than readable ones in a column are missing ones, and noted.
    """
    fresh = empty and kinds is None
    minority = fresh if minority is None else minority
    columns = []
    for name in table.columns:
        kind = (told or {}).get(name, table.kinds.get(name)) if kinds is None else kinds[name]
        notation, known = (notations or {}).get(name), (marks or {}).get(name, ())
        columns.append(_column(table, name, kind, _ColumnOptions(fresh, empty, minority, notation, known)))
    if problems := [problem for column in columns for problem in column.problems]:
        raise DataError(problems)
    named = dict(zip(table.columns, columns, strict=True))
    return replace(
        table,
        columns={name: column.cells for name, column in named.items()},
        kinds={name: column.kind for name, column in named.items()},
        missing={},
        notations={name: column.notation for name, column in named.items() if column.notation},
        marks={name: column.marks for name, column in named.items() if column.marks},
        notes=(*table.notes, *(note for column in columns for note in column.notes)),
    )


@dataclass(frozen=True)
class _ColumnOptions:
    """What `typed` was told of a column."""

    fresh: bool
    empty: bool
    minority: bool
    notation: str | None
    marks: tuple[str, ...]


@dataclass(frozen=True)
class _Column:
    kind: str
    cells: Cells
    problems: Sequence[str] = ()
    notation: str = ""
    marks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def _column(table: Table, name: str, kind: str | None, how: _ColumnOptions) -> _Column:
    cells = table.columns[name]
    if kind not in {CATEGORY, DATE}:
        read = numbers(cells, table.separator, how.notation, how.marks)
        if kind == NUMBER or read.mostly:
            return _numbers(table, name, read, how)
    if kind == DATE and isinstance(cells, np.ndarray):
        return _Column(DATE, cells, _not_dates(table, name))
    if kind == DATE or (how.fresh and (kind is None or kind == CATEGORY)):
        format = how.notation or dates.format_of(_sample(cells), told=kind == DATE)
        if format is not None:
            return _dates(table, name, format, how)
        if kind == DATE:
            return _dates(table, name, dates.ISO, how)
    texts, empty = _texts(table, name)
    complaints: list[str] = []
    if how.fresh and texts.are("").all():
        complaints = [f"{table.file}: column '{name}': expected values, got empty cells alone; remove it"]
    elif not how.empty:
        what = "expected text, got an empty cell; fill it or remove the row"
        complaints = _complaints(table, name, np.flatnonzero(empty), lambda _: what)
    return _Column(CATEGORY, texts, complaints)


def _complaints(table: Table, name: str, rows: np.ndarray, tell: Callable[[int], str]) -> list[str]:
    """What is wrong with the first few of these rows, and how many more there are."""
    told = [f"{table.place(row, name)}: {tell(row)}" for row in rows[:_SHOWN].tolist()]
    more = len(rows) - _SHOWN
    return told if more <= 0 else [*told, f"{table.file}: column '{name}': and {more} more"]


def _sample(cells: Cells) -> list[str]:
    """Some of a column's texts that are not missing, from everywhere, in order."""
    assert isinstance(cells, Texts)
    there = np.array([text.strip().lower() not in MISSING for text in cells.different.tolist()], bool)
    rows = np.flatnonzero(there[cells.places])
    return cells[rows[:: max(1, len(rows) // dates.SAMPLE)][: dates.SAMPLE]].tolist()


def _numbers(table: Table, name: str, read: Numbers, how: _ColumnOptions) -> _Column:
    where = f"{table.file}: column '{name}'"
    notes, texts = [], np.flatnonzero(read.is_text)
    marks = how.marks
    if how.minority and len(texts) and read.mostly:
        notes.append(_unreadable(table, name, texts, "numbers"))
        marks = (*marks, *sorted({text.strip() for text in table.columns[name][texts].tolist()} - {*marks}))
        read = replace(read, is_text=np.zeros(len(read.values), bool))
    if read.notation and read.notation != how.notation:
        row = int(np.flatnonzero(np.isfinite(read.values) & (numbers_as_written(table, name)))[0])
        notes.append(
            f"{where}: numbers are written like {table.shown(name, np.array([row]))}: "
            f"read as {number_name(float(read.values[row]))}"
        )
    if how.fresh and (code := has_leading_zeros(table.columns[name])):
        notes.append(
            f"{where}: numbers with leading zeros, such as '{code}', are read as {number_name(float(code))}; "
            "put a letter before them where they are names"
        )
    complaints = _number_complaints(table, name, read, how.empty)
    return _Column(NUMBER, read.values, complaints, read.notation, marks[:_MARKS], tuple(notes))


def numbers_as_written(table: Table, name: str) -> np.ndarray:
    """Which cells are no numbers as a program writes them: bool [N]."""
    return numbers(table.columns[name], notation="plain").is_text


def _dates(table: Table, name: str, format: str, how: _ColumnOptions) -> _Column:
    where, cells = f"{table.file}: column '{name}'", table.columns[name]
    assert isinstance(cells, Texts)
    known = MISSING | {mark.lower() for mark in how.marks}
    different = cells.different.tolist()
    there = np.array([text.strip().lower() not in known for text in different], bool)
    real, texts = there[cells.places], cells
    values = np.where(there, dates.seconds(different, format), np.nan)[cells.places]
    wrong = np.flatnonzero(real & np.isnan(values))
    marks, notes = how.marks, []
    if how.fresh and not format.startswith((dates.ISO, "%Y")):  # day and month may be meant otherwise
        shown = table.shown(name, np.flatnonzero(~np.isnan(values)))
        notes.append(f"{where}: dates, such as {shown}, are read as {format}")
    if len(wrong) and how.minority and len(wrong) < np.isfinite(values).sum():
        notes.append(_unreadable(table, name, wrong, "dates"))
        marks = (*marks, *sorted({text.strip() for text in texts[wrong].tolist()} - {*marks}))
        wrong = wrong[:0]

    def tell(row: int) -> str:
        return f"expected a date, got '{texts[row]}'; correct it, or leave the cell empty"

    return _Column(DATE, values, _complaints(table, name, wrong, tell), format, marks[:_MARKS], tuple(notes))


def _not_dates(table: Table, name: str) -> list[str]:
    """A complaint where numbers stand in the place of dates: seconds, days and 20240105 look alike."""
    cells = table.numbers(name)
    rows = np.flatnonzero(~np.isnan(cells))
    if table.kinds.get(name) != NUMBER or not len(rows):
        return []
    got = number_name(float(cells[rows[0]]))
    return [f"{table.place(int(rows[0]), name)}: expected a date, got the number {got}; write it as 2024-01-31"]


def _unreadable(table: Table, name: str, rows: np.ndarray, what: str) -> str:
    return (
        f"{table.file}: column '{name}': {len(rows):,} of {len(table):,} cells are no {what}, such as "
        f"{table.shown(name, rows)}: taken as empty"
    )


def class_kind(table: Table, name: str) -> str:
    """What a column of class names is: NUMBER, or CATEGORY as soon as a cell is text, or names would be lost."""
    known, cells = table.kinds.get(name), table.columns[name]
    text = numbers(cells, notation="plain").is_text.any() or are_codes(cells)
    return known or (CATEGORY if text else NUMBER)


def _number_complaints(table: Table, name: str, read: Numbers, empty: bool) -> list[str]:
    """Complaints about cells that are no finite numbers; `empty` ones may be allowed."""
    others = " as in the column's other rows" if read.mostly else ""
    wrong = ~(np.abs(read.values) <= LARGEST)
    if empty:
        wrong &= read.is_text | ~np.isnan(read.values)

    def tell(row: int) -> str:
        if read.is_text[row]:
            got = table.columns[name][row]
            return f"expected a number{others}, got '{got}'; correct it, or leave the cell empty"
        if np.isnan(read.values[row]):
            return "expected a number, got none (NaN); fill the cell or remove the row"
        return f"expected a number up to 3.4e38, got {read.values[row]:g}; correct it or remove the row"

    return _complaints(table, name, np.flatnonzero(wrong), tell)


def _texts(table: Table, name: str) -> tuple[Texts, np.ndarray]:
    """The column as text, and which cells are empty."""
    cells = table.columns[name]
    if isinstance(cells, np.ndarray):
        empty = np.isnan(cells)
        cells = Texts.of(["" if gone else number_name(x) for x, gone in zip(cells.tolist(), empty, strict=True)])
    else:
        empty = table.missing.get(name, np.zeros(len(cells), bool)) | cells.are("")
    return cells, empty
