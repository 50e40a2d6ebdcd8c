"""Tables of a person's own: columns told apart, so that every complaint and every note names row and column.

Knows columns and their kinds. Must never know what the table is for: targets, splits and
normalisation are told elsewhere.

A column is NUMBER (float64), DATE (float64, seconds since 1970) or CATEGORY (texts); `column_kinds` tells which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tuner.data import dates, streams
from tuner.data.text_columns import Texts
from tuner.errors import DataError
from tuner.models.interface import DATE, NUMBER

if TYPE_CHECKING:
    import pandas as pd


_EXAMPLES = 3  # unreadable cells of a column that are shown

Cells = np.ndarray | Texts


class Lines:
    """The lines of a file's rows (from 1), int [N], which may be looked for when somebody asks for some."""

    def __init__(self, found: np.ndarray | Callable[[int], np.ndarray], rows: np.ndarray | None = None) -> None:
        """`found` are, or gives of so many, those of the file's first rows; `rows` (from 0) of them are these."""
        self._find, self._rows = (found if callable(found) else None), rows
        self._known = [found if isinstance(found, np.ndarray) else np.empty(0, np.int64)]  # shared by who takes some

    def take(self, rows: np.ndarray) -> Lines:
        """Those of these rows (from 0)."""
        taken = Lines(self._known[0] if self._find is None else self._find, rows)
        taken._rows, taken._known = (rows if self._rows is None else self._rows[rows]), self._known
        return taken

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        rows = rows if self._rows is None else self._rows[rows]
        count = int(rows.max(initial=-1)) + 1
        if self._find is not None and count > len(self._known[0]):
            self._known[0] = self._find(2 * count)  # the file is read a few times, however many ask one by one
        found: np.ndarray = self._known[0][rows]
        return found


@dataclass(frozen=True)
class Table:
    """Named columns of equal length: float64 [N] for NUMBER and DATE, otherwise Texts.

    A column that is not in `kinds` holds text that nobody has judged yet. `missing` marks the cells
    that the file leaves empty in its own way (Parquet's null). `lines` are the rows' line numbers in
    a CSV file, `positions` the columns' numbers in the file, all from 1; `separator` is what parts its
    fields. `notations` say how numbers and dates were written where it is not plainly, `marks` which
    texts stood for a missing one, `notes` for a person what was made of the cells. `row_numbers` are the
    rows' numbers in the file (from 1) where some were left out. Of several files `files` has each one's name and
    how many rows are above it.
    """

    file: str
    columns: dict[str, Cells]
    kinds: dict[str, str] = field(default_factory=dict)
    missing: dict[str, np.ndarray] = field(default_factory=dict)
    lines: Lines | None = None
    positions: dict[str, int] = field(default_factory=dict)
    separator: str = ","
    row_numbers: np.ndarray | None = None
    notations: dict[str, str] = field(default_factory=dict)
    marks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    files: tuple[tuple[str, int], ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    @classmethod
    def of_frame(cls, frame: pd.DataFrame) -> Table:
        """A DataFrame's columns; the index is no data."""
        columns: dict[str, Cells] = {}
        kinds, missing = {}, {}
        for label in frame.columns:
            name, series = str(label), frame[label]
            missing[name] = series.isna().to_numpy()
            if series.dtype.kind in "iuf":
                columns[name], kinds[name] = series.to_numpy(np.float64, na_value=np.nan), NUMBER
            else:
                columns[name] = Texts.of(
                    ["" if gone else str(v) for v, gone in zip(series, missing[name], strict=True)]
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
        taken: dict[str, Cells] = {
            name: streams.taken(cells, rows, name) if mapped and isinstance(cells, np.ndarray) else cells[rows]
            for name, cells in self.columns.items()
        }
        return replace(
            self,
            columns=taken,
            missing={name: values[rows] for name, values in self.missing.items()},
            lines=None if self.lines is None else self.lines.take(rows),
            row_numbers=self._row_numbers[rows],
        )

    @property
    def _row_numbers(self) -> np.ndarray:
        """The number of each row (from 1) in the file."""
        return np.arange(1, len(self) + 1) if self.row_numbers is None else self.row_numbers

    def stripped(self, names: Iterable[str] | None = None) -> Table:
        """Without spaces round the texts of these columns, of all unless named."""
        given = {name: self.columns[name] for name in (self.columns if names is None else names)}
        bare: dict[str, Cells] = {name: cells.stripped() for name, cells in given.items() if isinstance(cells, Texts)}
        return self._with(self.columns | bare)

    def without(self, missing: Sequence[str]) -> Table:
        """The same, with nothing where one of these texts stands."""
        gone = dict.fromkeys(missing, "")
        if not gone:
            return self
        columns: dict[str, Cells] = {n: x.replaced(gone) for n, x in self.columns.items() if isinstance(x, Texts)}
        return self._with(self.columns | columns)

    def numbers(self, name: str) -> np.ndarray:
        """The cells of a NUMBER or DATE column: float64 [N]."""
        cells = self.columns[name]
        assert isinstance(cells, np.ndarray)
        return cells

    def texts(self, name: str) -> Texts:
        """The cells of a CATEGORY column."""
        cells = self.columns[name]
        assert isinstance(cells, Texts)
        return cells

    def empty(self, name: str) -> np.ndarray:
        """Which cells of a NUMBER or DATE (NaN) or CATEGORY (the empty text) column hold nothing: bool [N]."""
        cells = self.columns[name]
        return cells.are("") if isinstance(cells, Texts) else np.isnan(cells)

    def matrix(self) -> np.ndarray:
        """All columns, which are NUMBER, as float64 [N, columns]."""
        return np.column_stack([self.numbers(name) for name in self.columns])

    def frame(self) -> pd.DataFrame:
        """As a pandas DataFrame."""
        import pandas as pd

        made: dict[str, Any] = {}
        for name, cells in self.columns.items():
            if isinstance(cells, Texts):
                made[name] = cells.tolist()
            else:
                dated = self.kinds.get(name) == DATE
                made[name] = pd.Series(dates.written(cells), dtype="object") if dated else cells
        return pd.DataFrame(made)

    def _with(self, columns: dict[str, Cells]) -> Table:
        return replace(self, columns=columns)

    def shown(self, name: str, rows: np.ndarray) -> str:
        """The first few texts of these rows that differ, each with its line: `'nil' (line 4), '?' (line 9)`."""
        texts = list(map(str, self.columns[name][rows].tolist()))
        firsts = dict(zip(reversed(texts), reversed(rows.tolist()), strict=True))
        different = list(dict.fromkeys(texts))[:_EXAMPLES]
        what, of = ("row", self._row_numbers) if self.lines is None else ("line", self.lines)
        if len(different) == 1 < len(texts):
            more = ", …" if len(rows) > _EXAMPLES else ""
            return f"'{different[0]}' ({what}s {', '.join(map(str, of[rows[:_EXAMPLES]].tolist()))}{more})"
        places = of[np.array([firsts[text] for text in different], np.intp)].tolist()
        return ", ".join(f"'{text}' ({what} {place})" for text, place in zip(different, places, strict=True))

    def place(self, row: int, name: str) -> str:
        """`file:line:column: row 41, column 'age'` (or without the line, where a file has none)."""
        position, number = self.positions.get(name), int(self._row_numbers[row])
        if self.files:
            file, above = next(one for one in reversed(self.files) if one[1] < number)
            return f"{file}: row {number - above}, column '{name}'"
        where = f"row {number}, column '{name}'"
        if self.lines is None:
            return f"{self.file}: {where}" + (f" (column {position})" if position else "")
        return f"{self.file}:{self.lines[np.array([row])][0]}:{position}: {where}"


def missing_column(table: Table, name: str) -> str:
    """The complaint that the table has no such column."""
    from tuner.search_spaces.spelling import nearest  # pydantic comes with it: 0.15 s that only this mistake pays

    close = nearest(name, table.columns)
    there = ", ".join(first(list(table.columns), 12))
    meant = f"; did you mean '{close}'?" if close else ""
    return f"{table.file}: expected a column '{name}', got {there}{meant}"


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
