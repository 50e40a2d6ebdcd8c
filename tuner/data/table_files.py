"""Files of tables of any kind: CSV, Parquet, Excel and JSON lines, compressed or not, and several by a pattern.

Knows how a kind is told from a name. Must never know what a column means.
"""

from __future__ import annotations

import bz2
import contextlib
import glob
import gzip
import lzma
import math
import re
import tempfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tuner.data import streams
from tuner.data.csv_files import read_csv, row_lines
from tuner.data.excel import read_excel
from tuner.data.json_files import read_json
from tuner.data.parquet import read_parquet
from tuner.data.tables import Cells, Lines, Table
from tuner.data.text_columns import Texts
from tuner.errors import DataError

_PLAIN: dict[str, Callable[[Path, Collection[str]], Table]] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".jsonl": lambda path, _: read_json(path),
    ".ndjson": lambda path, _: read_json(path),
    ".json": lambda path, _: read_json(path),
    ".xlsx": lambda path, _: read_excel(path),
}
ENDINGS = (*_PLAIN, ".parquet")
_PACKERS: dict[str, Any] = {".gz": gzip, ".bz2": bz2, ".xz": lzma}
_PIECE = 2**20  # bytes unpacked at a time


def ending(path: Path) -> str:
    """What a file is by its name: `.csv` of `a.csv` and of `a.csv.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return suffixes[-2] if len(suffixes) > 1 and suffixes[-1] in _PACKERS else path.suffix.lower()


def name(path: Path) -> str:
    """What data of that file, or of that pattern, are called: its name without endings."""
    stem = path.name.removesuffix("".join(path.suffixes[-2:])) if path.suffix.lower() in _PACKERS else path.stem
    return re.sub(r"[*?\[\]]", "", stem).strip("-_. ") or path.parent.name or "table"


def is_pattern(path: Path) -> bool:
    """Whether it names several files."""
    with contextlib.suppress(OSError, ValueError):  # no name at all
        return glob.has_magic(str(path)) and not path.exists()
    return False


def read(
    path: Path, as_text: Collection[str] = (), room: float = math.inf, named: Sequence[str] | None = None
) -> Table:
    """The table in a file, or in all files of a pattern, one below the other in the order of their names.

    `as_text` are columns whose cells are text, whatever they look like; `room` and `named` see `read_parquet`.
    Raises DataError for a file that is no such table, and for files of one pattern whose columns differ.
    """
    if is_pattern(path):
        return _joined(path, as_text, room, named)
    kind = ending(path)
    if kind == ".parquet":
        return read_parquet(path, room, named)
    if path.suffix.lower() not in _PACKERS:
        return _PLAIN[kind](path, as_text)
    with _unpacked(path) as plain:
        try:
            table = _PLAIN[kind](plain, as_text)
        except DataError as error:
            raise DataError([line.replace(str(plain), str(path)) for line in error.problems]) from None
        notes = tuple(note.replace(str(plain), str(path)) for note in table.notes)
        lines = None if table.lines is None else Lines(partial(_packed_lines, path))
        return replace(table, file=str(path), notes=notes, lines=lines if kind in (".csv", ".tsv") else table.lines)


@contextlib.contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """A plain copy of a compressed file."""
    with tempfile.TemporaryDirectory(prefix="tuner-") as folder:
        plain = Path(folder) / path.stem
        most = max(streams.SURPRISE, streams.RATIO * path.stat().st_size)
        try:
            with _PACKERS[path.suffix.lower()].open(path, "rb") as stream, plain.open("wb") as out:
                while piece := stream.read(_PIECE):
                    out.write(piece)
                    if out.tell() > most:
                        raise DataError(streams.too_packed(path, out.tell(), "less compression"))
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            what = path.suffix.lower().removeprefix(".")
            raise DataError(f"{path}: expected a {what} file, got one that cannot be unpacked: {error}") from None
        yield plain


def _packed_lines(path: Path, count: int) -> np.ndarray:
    with _unpacked(path) as plain:
        return row_lines(plain, count)


def matching(pattern: Path) -> list[Path]:
    """The files of a pattern, in the order of their names."""
    found = sorted(glob.glob(str(pattern), recursive=True))  # noqa: PTH207 - Path's own takes no absolute pattern
    return [Path(name) for name in found if Path(name).is_file()]


def _joined(path: Path, as_text: Collection[str], room: float, named: Sequence[str] | None) -> Table:
    files = matching(path)
    if not files:
        raise DataError(f"expected files, got none like {path}; look in {path.parent}, or write the whole path")
    return joined(str(path), [read(file, as_text, room, named) for file in files], as_text)


def joined(name: str, tables: Sequence[Table], as_text: Collection[str] = ()) -> Table:
    """One table of several, each below the one before. Raises DataError where their columns differ."""
    problems = [
        f"{table.file}: expected the columns of {tables[0].file}, got {_difference(tables[0], table)}"
        for table in tables[1:]
        if table.columns.keys() != tables[0].columns.keys()
    ]
    if problems:
        raise DataError(problems[:5])
    mixed = {n for n in tables[0].columns if len({isinstance(table.columns[n], Texts) for table in tables}) > 1}
    if mixed:  # numbers in one file, text in another
        tables = [read(Path(table.file), {*as_text, *mixed}) for table in tables]
    columns: dict[str, Cells] = {n: _below([table.columns[n] for table in tables]) for n in tables[0].columns}
    missing = {
        n: np.concatenate([table.missing[n] for table in tables])
        for n in tables[0].missing
        if all(n in table.missing for table in tables)
    }
    starts = np.cumsum([0, *map(len, tables[:-1])]).tolist()
    return Table(
        name,
        columns,
        {n: kind for n, kind in tables[0].kinds.items() if n not in mixed},
        missing,
        positions=tables[0].positions,
        separator=tables[0].separator,
        notes=tuple(note for table in tables for note in table.notes),
        files=tuple(zip((table.file for table in tables), starts, strict=True)),
    )


def _below(parts: Sequence[Cells]) -> Cells:
    texts = [part for part in parts if isinstance(part, Texts)]
    return Texts.joined(texts) if texts else np.concatenate([part for part in parts if isinstance(part, np.ndarray)])


def _difference(one: Table, other: Table) -> str:
    less = [f"no '{column}'" for column in one.columns if column not in other.columns]
    more = [f"'{column}' as well" for column in other.columns if column not in one.columns]
    return ", ".join([*less, *more][:3])
