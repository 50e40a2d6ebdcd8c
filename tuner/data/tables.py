"""Tables of a person's own: read so that every complaint names row and column; CSV here, Parquet beside.

Knows files, columns and what a cell may hold. Must never know what the table is for: targets,
splits and normalisation are told elsewhere.

A column is NUMBER (float64) or CATEGORY (text). Told from a CSV's cells: all numbers, or all but a
minority (which are then complained of), is NUMBER; otherwise CATEGORY. In a column of numbers an
empty cell, `NA`, `NaN`, `null` and `none` are missing; in a column of text only the empty cell is.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tuner.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

NUMBER, CATEGORY = "number", "category"
TEXT_DTYPE = np.dtypes.StringDType()

_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none"})
LARGEST = float(np.finfo(np.float32).max)
_SHOWN = 5  # complaints listed per column; the rest are counted
_CHUNK = 16_384  # CSV rows held as Python strings at a time


@dataclass(frozen=True)
class Table:
    """Named columns of equal length: float64 for NUMBER, numpy's variable-length text otherwise.

    A column that is not in `kinds` holds text that nobody has judged yet. `missing` marks the cells
    that the file leaves empty in its own way (Parquet's null). `lines` are the rows' line numbers in
    a CSV file, `positions` the columns' numbers in the file, all from 1.
    """

    file: str
    columns: dict[str, np.ndarray]
    kinds: dict[str, str] = field(default_factory=dict)
    missing: dict[str, np.ndarray] = field(default_factory=dict)
    lines: np.ndarray | None = None
    positions: dict[str, int] = field(default_factory=dict)

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
        problems = [missing_column(self, name) for name in names if name not in self.columns]
        if problems:
            raise DataError(first(problems, 10))
        return self._with({name: self.columns[name] for name in names})

    def drop(self, names: Iterable[str]) -> Table:
        """All columns but these."""
        gone = set(names)
        return self._with({name: values for name, values in self.columns.items() if name not in gone})

    def take(self, rows: np.ndarray) -> Table:
        """These rows (from 0)."""
        return Table(
            self.file,
            {name: values[rows] for name, values in self.columns.items()},
            self.kinds,
            {name: values[rows] for name, values in self.missing.items()},
            None if self.lines is None else self.lines[rows],
            self.positions,
        )

    def empty(self, name: str) -> np.ndarray:
        """Which cells of a NUMBER (NaN) or CATEGORY (the empty text) column hold nothing: bool [N]."""
        cells = self.columns[name]
        return np.isnan(cells) if self.kinds.get(name) == NUMBER else np.asarray(cells == "")

    def matrix(self) -> np.ndarray:
        """All columns, which are NUMBER, as float64 [N, columns]."""
        return np.column_stack(list(self.columns.values()))

    def frame(self) -> pd.DataFrame:
        """As a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(
            {n: v if self.kinds.get(n) == NUMBER else v.tolist() for n, v in self.columns.items()},
        )

    def _with(self, columns: dict[str, np.ndarray]) -> Table:
        return Table(self.file, columns, self.kinds, self.missing, self.lines, self.positions)

    def place(self, row: int, name: str) -> str:
        """`file:line:column: row 41, column 'age'` (or without the line, where a file has none)."""
        position = self.positions.get(name)
        where = f"row {row + 1}, column '{name}'"
        if self.lines is None:
            return f"{self.file}: {where}" + (f" (column {position})" if position else "")
        return f"{self.file}:{self.lines[row]}:{position}: {where}"


def missing_column(table: Table, name: str) -> str:
    """The complaint that the table has no such column."""
    close = get_close_matches(name, table.columns, n=1)
    there = ", ".join(first(list(table.columns), 12))
    meant = f"; did you mean '{close[0]}'?" if close else ""
    return f"{table.file}: expected a column '{name}', got {there}{meant}"


def read_csv(path: Path) -> Table:
    """A CSV file with a header line, UTF-8, its fields split by comma, semicolon or tab; nothing judged yet.

    Blank lines are skipped. Raises DataError for a file that is no such table: ragged rows, a column
    without a name or two of one name, a quote that never ends, other bytes than UTF-8, no rows.
    """
    problems: list[str] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            header_line = stream.readline()
            stream.seek(0)
            reader = csv.reader(stream, delimiter=_delimiter(header_line), skipinitialspace=True, strict=True)
            records = _records(path, reader)
            _, header = next(records, (1, []))
            problems += header_problems(path, header)
            chunks, lines = _chunks(path, records, len(header), problems)
    except UnicodeDecodeError:
        raise DataError(not_utf8(path)) from None
    if not problems and not lines:
        problems.append(f"{path}: expected a header line and rows below it, got no rows")
    if problems:
        raise DataError(first(problems, 20))
    columns = {name: np.concatenate([chunk[i] for chunk in chunks]) for i, name in enumerate(header)}
    return Table(str(path), columns, lines=np.array(lines), positions=positions_of(header))


def typed(table: Table, kinds: Mapping[str, str] | None = None, *, empty: bool = False) -> Table:
    """The table with every column NUMBER or CATEGORY: as `kinds` says, or told from the cells where it is None.

    Raises DataError for cells that do not fit, the first few of every column, and for empty ones unless
    `empty` allows them: they are NaN, or the empty text.
    """
    columns, found, problems = {}, {}, []
    for name, cells in table.columns.items():
        known = table.kinds.get(name) if kinds is None else kinds[name]
        read = None if known == CATEGORY else _Numbers.of(cells)
        if read is not None and (known == NUMBER or read.mostly):
            found[name], columns[name] = NUMBER, read.values
            complaints = _number_complaints(table, name, read, empty)
        else:
            found[name] = CATEGORY
            columns[name], complaints = _texts(table, name)
            if empty and kinds is None and (columns[name] == "").all():
                complaints = [f"{table.file}: column '{name}': expected values, got empty cells alone; remove it"]
            elif empty:
                complaints = []
        problems += first(complaints, _SHOWN, f"{table.file}: column '{name}'")
    if problems:
        raise DataError(problems)
    return Table(table.file, columns, found, {}, table.lines, table.positions)


def class_kind(table: Table, name: str) -> str:
    """What a column of class names is: NUMBER throughout, or CATEGORY as soon as one cell is text."""
    known = table.kinds.get(name)
    return known or (CATEGORY if _Numbers.of(table.columns[name]).is_text.any() else NUMBER)


@dataclass(frozen=True)
class _Numbers:
    """Cells read as numbers: float64, NaN where there is none, because the cell is missing or because it is text."""

    values: np.ndarray
    is_text: np.ndarray

    @property
    def mostly(self) -> bool:
        """Whether more cells are numbers than are text."""
        return bool(self.is_text.sum() < np.isfinite(self.values).sum())

    @classmethod
    def of(cls, cells: np.ndarray) -> _Numbers:
        if cells.dtype.kind == "f":
            return cls(cells, np.zeros(len(cells), bool))
        try:
            values, is_text = cells.astype(np.float64), np.zeros(len(cells), bool)
        except ValueError:  # some cell is text or missing
            values, is_text = cls._one_by_one(cells)
        underlined = np.strings.find(cells, "_") >= 0  # 1_000 is a number to Python alone
        return cls(np.where(underlined, np.nan, values), is_text | underlined)

    @staticmethod
    def _one_by_one(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, is_text = np.full(len(cells), np.nan), np.zeros(len(cells), bool)
        for row, text in enumerate(cells.tolist()):
            try:
                values[row] = float(text)
            except ValueError:
                is_text[row] = text.strip().lower() not in _MISSING
        return values, is_text


def _number_complaints(table: Table, name: str, read: _Numbers, empty: bool) -> list[str]:
    """A complaint for each cell that is no finite number; an `empty` one may be allowed."""
    complaints = []
    others = " as in the column's other rows" if read.mostly else ""
    wrong = ~(np.abs(read.values) <= LARGEST)
    if empty:
        wrong &= read.is_text | ~np.isnan(read.values)
    for row in np.flatnonzero(wrong).tolist():
        if read.is_text[row]:
            got = table.columns[name][row]
            what = f"expected a number{others}, got '{got}'; correct it or remove the row"
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
        cells = np.array([number_name(value) for value in cells.tolist()], TEXT_DTYPE)
    else:
        empty = table.missing.get(name, np.zeros(len(cells), bool)) | (cells == "")
    return cells, [
        f"{table.place(int(row), name)}: expected text, got an empty cell; fill it or remove the row"
        for row in np.flatnonzero(empty)
    ]


def number_name(value: float) -> str:
    """A number as a person writes it: 3, not 3.0."""
    return str(int(value)) if value.is_integer() else repr(value)


def _records(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """(line on which the record begins, its fields), blank lines left out."""
    while True:
        line = reader.line_num + 1
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
    path: Path, records: Iterator[tuple[int, list[str]]], width: int, problems: list[str]
) -> tuple[list[list[np.ndarray]], list[int]]:
    """The records as columns of text, some thousand rows at a time, and their lines; ragged rows are complained of."""
    chunks: list[list[np.ndarray]] = []
    lines: list[int] = []
    held: list[list[str]] = []
    rows = 0
    for rows, (line, fields) in enumerate(records, start=1):
        if len(fields) != width:
            problems.append(
                f"{path}:{line}:{min(len(fields), width) + 1}: row {rows}: expected {width} fields as in the header, "
                f"got {len(fields)}; quote fields that contain the separator"
            )
            continue
        lines.append(line)
        held.append(fields)
        if len(held) == _CHUNK:
            chunks.append([np.array(column, TEXT_DTYPE) for column in zip(*held, strict=True)])
            held = []
    if held:
        chunks.append([np.array(column, TEXT_DTYPE) for column in zip(*held, strict=True)])
    return chunks, lines


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)  # the first of them on a tie


def header_problems(path: Path, header: Sequence[str]) -> list[str]:
    """Complaints about columns without a name, or of one name."""
    if not header:
        return [f"{path}: expected a table with a header line, got an empty file"]
    problems = []
    for i, name in enumerate(header):
        if not name.strip():
            problems.append(
                f"{path}:1:{i + 1}: expected a column name, got none; "
                "name it, or write the file without its index (pandas: index=False)"
            )
        elif name in header[:i]:
            problems.append(
                f"{path}:1:{i + 1}: expected different column names, got '{name}' again "
                f"(also column {header.index(name) + 1}); rename one"
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
