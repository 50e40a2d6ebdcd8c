"""Tables of a person's own: columns told apart, so that every complaint and every note names row and column.

Knows columns and their kinds. Must never know what the table is for: targets, splits and
normalisation are told elsewhere.

A column is NUMBER (float64), DATE (float64, seconds since 1970) or CATEGORY (text). Told from its
cells: all numbers or dates, or all but a minority, which then count as missing, is NUMBER or DATE;
otherwise CATEGORY. In a column of numbers an empty cell, `NA`, `NaN`, `null`, `none`, `?`, `-` and
`#N/A` are missing; in a column of text only the empty cell is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tuner.data import dates, streams
from tuner.data.cells import MISSING, Numbers, are_codes, has_leading_zeros, numbers
from tuner.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

NUMBER, CATEGORY, DATE = "number", "category", "date"
TEXT_DTYPE = np.dtypes.StringDType()

LARGEST = float(np.finfo(np.float32).max)
_SHOWN = 5  # complaints listed per column; the rest are counted
_MARKS = 100  # texts for a missing number that are remembered of a column
_EXAMPLES = 3  # unreadable cells of a column that are shown


@dataclass(frozen=True)
class Table:
    """Named columns of equal length: float64 for NUMBER and DATE, numpy's variable-length text otherwise.

    A column that is not in `kinds` holds text that nobody has judged yet. `missing` marks the cells
    that the file leaves empty in its own way (Parquet's null). `lines` are the rows' line numbers in
    a CSV file, `positions` the columns' numbers in the file, all from 1; `separator` is what parts its
    fields. `notations` say how numbers and dates were written where it is not plainly, `marks` which
    texts stood for a missing one, `notes` for a person what was made of the cells. `numbers` are the
    rows' numbers in the file (from 1) where some were left out.
    """

    file: str
    columns: dict[str, np.ndarray]
    kinds: dict[str, str] = field(default_factory=dict)
    missing: dict[str, np.ndarray] = field(default_factory=dict)
    lines: np.ndarray | None = None
    positions: dict[str, int] = field(default_factory=dict)
    separator: str = ","
    numbers: np.ndarray | None = None
    notations: dict[str, str] = field(default_factory=dict)
    marks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    @classmethod
    def of_frame(cls, frame: pd.DataFrame) -> Table:
        """A DataFrame's columns; the index is no data."""
        columns, kinds, missing = {}, {}, {}
        for label in frame.columns:
            name, series = str(label), frame[label]
            missing[name] = series.isna().to_numpy()
            if series.dtype.kind in "iuf":
                columns[name], kinds[name] = series.to_numpy(np.float64, na_value=np.nan), NUMBER
            else:
                columns[name] = np.array(
                    ["" if gone else str(v) for v, gone in zip(series, missing[name], strict=True)], TEXT_DTYPE
                )
        return cls("the inputs", columns, kinds, missing)

    def select(self, names: Sequence[str]) -> Table:
        """These columns, in this order. Raises DataError for those that are not there."""
        lost = [name for name in names if name not in self.columns]
        if lost:
            more = [f"and {len(lost) - 10} more"] if len(lost) > 10 else []
            raise DataError([*(missing_column(self, name) for name in lost[:10]), *more])
        return self._with({name: self.columns[name] for name in names})

    def drop(self, names: Iterable[str]) -> Table:
        """All columns but these."""
        gone = set(names)
        return self._with({name: values for name, values in self.columns.items() if name not in gone})

    def take(self, rows: np.ndarray, *, mapped: bool = False) -> Table:
        """These rows (from 0); where `mapped`, columns that are mapped from a file stay so."""
        taken = {name: streams.taken(x, rows, name) if mapped else x[rows] for name, x in self.columns.items()}
        return replace(
            self,
            columns=taken,
            missing={name: values[rows] for name, values in self.missing.items()},
            lines=None if self.lines is None else self.lines[rows],
            numbers=self._numbers[rows],
        )

    @property
    def _numbers(self) -> np.ndarray:
        """The number of each row (from 1) in the file."""
        return np.arange(1, len(self) + 1) if self.numbers is None else self.numbers

    def stripped(self, names: Iterable[str] | None = None) -> Table:
        """Without spaces round the texts of these columns, of all unless named."""
        texts = [n for n in (self.columns if names is None else names) if self.columns[n].dtype.kind == "T"]
        return self._with(self.columns | {name: np.strings.strip(self.columns[name]) for name in texts})

    def empty(self, name: str) -> np.ndarray:
        """Which cells of a NUMBER or DATE (NaN) or CATEGORY (the empty text) column hold nothing: bool [N]."""
        cells = self.columns[name]
        return np.isnan(cells) if cells.dtype.kind == "f" else np.asarray(cells == "")

    def matrix(self) -> np.ndarray:
        """All columns, which are NUMBER, as float64 [N, columns]."""
        return np.column_stack(list(self.columns.values()))

    def frame(self) -> pd.DataFrame:
        """As a pandas DataFrame."""
        import pandas as pd

        makers: dict[str, Callable[[np.ndarray], Any]] = {
            NUMBER: np.asarray,
            DATE: lambda cells: pd.Series(dates.written(cells), dtype="object"),
            CATEGORY: lambda cells: cells.tolist(),
        }
        return pd.DataFrame({n: makers[self.kinds.get(n, CATEGORY)](v) for n, v in self.columns.items()})

    def _with(self, columns: dict[str, np.ndarray]) -> Table:
        return replace(self, columns=columns)

    def shown(self, name: str, rows: np.ndarray) -> str:
        """The first few texts of these rows that differ, each with its line: `'nil' (line 4), '?' (line 9)`."""
        texts = self.columns[name][rows].tolist()
        firsts = dict(zip(reversed(texts), reversed(rows.tolist()), strict=True))
        different = list(dict.fromkeys(texts))[:_EXAMPLES]
        what, of = ("row", self._numbers) if self.lines is None else ("line", self.lines)
        if len(different) == 1 < len(texts):
            more = ", …" if len(rows) > _EXAMPLES else ""
            return f"'{different[0]}' ({what}s {', '.join(map(str, of[rows[:_EXAMPLES]].tolist()))}{more})"
        return ", ".join(f"'{text}' ({what} {of[firsts[text]]})" for text in different)

    def place(self, row: int, name: str) -> str:
        """`file:line:column: row 41, column 'age'` (or without the line, where a file has none)."""
        position = self.positions.get(name)
        where = f"row {self._numbers[row]}, column '{name}'"
        if self.lines is None:
            return f"{self.file}: {where}" + (f" (column {position})" if position else "")
        return f"{self.file}:{self.lines[row]}:{position}: {where}"


def missing_column(table: Table, name: str) -> str:
    """The complaint that the table has no such column."""
    from tuner.search_spaces.spelling import nearest  # pydantic comes with it: 0.15 s that only this mistake pays

    close = nearest(name, table.columns)
    there = ", ".join(first(list(table.columns), 12))
    meant = f"; did you mean '{close}'?" if close else ""
    return f"{table.file}: expected a column '{name}', got {there}{meant}"


def typed(
    table: Table,
    kinds: Mapping[str, str] | None = None,
    *,
    empty: bool = False,
    minority: bool | None = None,
    notations: Mapping[str, str] | None = None,
    marks: Mapping[str, tuple[str, ...]] | None = None,
) -> Table:
    """The table with every column of a kind: as `kinds` says, or told from the cells where it is None.

    `notations` and `marks` are what an earlier table's were. Raises DataError for cells that do not fit,
    the first few of every column, and for empty ones unless `empty` allows them: they are NaN, or the
    empty text. Where `minority` holds (as where all is told from the cells, unless said), fewer unreadable
    cells than readable ones in a column are missing ones, and noted.
    """
    fresh = empty and kinds is None
    minority = fresh if minority is None else minority
    columns = []
    for name in table.columns:
        kind = table.kinds.get(name) if kinds is None else kinds[name]
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
    cells: np.ndarray
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
    if kind == DATE and cells.dtype.kind == "f":
        return _Column(DATE, cells, _not_dates(table, name))
    if kind == DATE or (how.fresh and (kind is None or kind == CATEGORY)):
        present = [text for text in cells.tolist() if text.strip().lower() not in MISSING]
        format = how.notation or dates.format_of(present)
        if format is not None:
            return _dates(table, name, format, how)
        if kind == DATE:
            return _dates(table, name, dates.ISO, how)
    texts, complaints = _texts(table, name)
    if how.fresh and (texts == "").all():
        complaints = [f"{table.file}: column '{name}': expected values, got empty cells alone; remove it"]
    elif how.empty:
        complaints = []
    return _Column(CATEGORY, texts, first(complaints, _SHOWN, f"{table.file}: column '{name}'"))


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
    complaints = first(_number_complaints(table, name, read, how.empty), _SHOWN, where)
    return _Column(NUMBER, read.values, complaints, read.notation, marks[:_MARKS], tuple(notes))


def numbers_as_written(table: Table, name: str) -> np.ndarray:
    """Which cells are no numbers as a program writes them: bool [N]."""
    return numbers(table.columns[name], notation="plain").is_text


def _dates(table: Table, name: str, format: str, how: _ColumnOptions) -> _Column:
    where, cells = f"{table.file}: column '{name}'", table.columns[name]
    texts = cells.tolist()
    known = MISSING | {mark.lower() for mark in how.marks}
    real = np.array([text.strip().lower() not in known for text in texts], bool)
    values = np.where(real, dates.seconds(texts, format), np.nan)
    wrong = np.flatnonzero(real & np.isnan(values))
    marks, notes = how.marks, []
    if how.fresh:
        shown = table.shown(name, np.flatnonzero(~np.isnan(values)))
        written = "" if format == dates.ISO else f" as {format}"
        notes.append(f"{where}: dates, such as {shown}, are read{written}: time passed, and the place in its cycles")
    if len(wrong) and how.minority and len(wrong) < np.isfinite(values).sum():
        notes.append(_unreadable(table, name, wrong, "dates"))
        marks = (*marks, *sorted({texts[row].strip() for row in wrong.tolist()} - {*marks}))
        wrong = wrong[:0]
    complaints = [
        f"{table.place(row, name)}: expected a date, got '{texts[row]}'; correct it, or leave the cell empty"
        for row in wrong.tolist()
    ]
    return _Column(DATE, values, first(complaints, _SHOWN, where), format, marks[:_MARKS], tuple(notes))


def _not_dates(table: Table, name: str) -> list[str]:
    """A complaint where numbers stand in the place of dates: seconds, days and 20240105 look alike."""
    rows = np.flatnonzero(~np.isnan(table.columns[name]))
    if table.kinds.get(name) != NUMBER or not len(rows):
        return []
    got = number_name(float(table.columns[name][rows[0]]))
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
    """A complaint for each cell that is no finite number; an `empty` one may be allowed."""
    complaints = []
    others = " as in the column's other rows" if read.mostly else ""
    wrong = ~(np.abs(read.values) <= LARGEST)
    if empty:
        wrong &= read.is_text | ~np.isnan(read.values)
    for row in np.flatnonzero(wrong).tolist():
        if read.is_text[row]:
            got = table.columns[name][row]
            what = f"expected a number{others}, got '{got}'; correct it, or leave the cell empty"
        elif np.isnan(read.values[row]):
            what = "expected a number, got none (NaN); fill the cell or remove the row"
        else:
            what = f"expected a number up to 3.4e38, got {read.values[row]:g}; correct it or remove the row"
        complaints.append(f"{table.place(row, name)}: {what}")
    return complaints


def _texts(table: Table, name: str) -> tuple[np.ndarray, list[str]]:
    """The column as text, and a complaint for each empty cell."""
    cells = table.columns[name]
    if cells.dtype.kind == "f":
        empty = np.isnan(cells)
        names = ["" if gone else number_name(value) for value, gone in zip(cells.tolist(), empty, strict=True)]
        cells = np.array(names, TEXT_DTYPE)
    else:
        empty = table.missing.get(name, np.zeros(len(cells), bool)) | (cells == "")
    return cells, [
        f"{table.place(int(row), name)}: expected text, got an empty cell; fill it or remove the row"
        for row in np.flatnonzero(empty)
    ]


def number_name(value: float) -> str:
    """A number as a person writes it: 3, not 3.0."""
    return str(int(value)) if value.is_integer() else repr(value)


def header_problems(path: Path, header: Sequence[str], line: int = 1) -> list[str]:
    """Complaints about columns without a name, or of one name."""
    if not header:
        return [f"{path}: expected a table with a header line, got an empty file"]
    problems, firsts = [], dict(zip(reversed(header), range(len(header), 0, -1), strict=True))
    for i, name in enumerate(header):
        if not name.strip():
            problems.append(
                f"{path}:{line}:{i + 1}: expected a column name, got none; "
                "name it, or write the file without its index (pandas: index=False)"
            )
        elif firsts[name] <= i:
            problems.append(
                f"{path}:{line}:{i + 1}: expected different column names, got '{name}' again "
                f"(also column {firsts[name]}); rename one"
            )
    return problems


def positions_of(header: Sequence[str]) -> dict[str, int]:
    return {name: i for i, name in enumerate(header, start=1)}


def not_utf8(path: Path) -> str:
    content = path.read_bytes()
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return f"{path}:{line}: expected UTF-8 text, got the byte 0x{content[error.start]:02x}; save the file as UTF-8"
    raise AssertionError(path)


def first(lines: list[str], count: int, where: str = "") -> list[str]:
    """The first `count` lines, and one that says how many more there are."""
    more = len(lines) - count
    return lines if more <= 0 else [*lines[:count], f"{where + ': ' if where else ''}and {more} more"]
