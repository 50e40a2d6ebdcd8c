"""Large CSV files read by Arrow, column by column, into the table that `csv_files` would read line by line.

It gives up (None) wherever the other one would complain or read something else, and never complains itself. Knows
pyarrow; must never know what a cell means beyond being a plain number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tuner.data.cells import MISSING
from tuner.data.tables import Cells, Lines, Table, positions_of
from tuner.data.text_columns import TEXT_DTYPE, Texts
from tuner.models.interface import NUMBER

LEAST = 2**20  # bytes from which on it is worth its import
_BLOCK = 2**22  # bytes parsed at a time
_SLICE = 2**20  # bytes looked at at once, so that they stay in the cache
_NUMBER = re.compile(r"CSV column #(\d+)")
_NULLS = sorted({form for word in MISSING for form in (word, word.upper(), word.title(), "NaN", "Nan", "<NA>")})


def read_columns(
    path: Path,
    written: Sequence[str],
    header: Sequence[str],
    *,
    separator: str,
    skipped: int,
    texts: Collection[str],
    lines: Callable[[int], Any],
) -> Table | None:
    """The table below a header, `written` behind `skipped` lines, its columns called `header`; None: not read.

    Columns of plain numbers and missing cells are float64, but for those among `texts`; all others Texts. `lines`
    gives those of the first so many rows.
    """
    import pyarrow as pa

    content = np.memmap(path, np.uint8, "r")
    if len(written) != len(set(written)) or not _quoted_well(content, separator):
        return None
    try:
        table = _read(path, written, header, separator, skipped, set(texts) & set(header))
        if table is None:
            return None
        if codes := _columns_of_codes(content, table, path, written, header, separator, skipped):
            table = _read(path, written, header, separator, skipped, {*texts, *codes} & set(header))
    except pa.ArrowException:
        return None
    if table is None or not len(table):
        return None
    columns: dict[str, Cells] = {}
    for name in header:
        column = table.column(name)
        columns[name] = _texts(column) if pa.types.is_dictionary(column.type) else _numbers(column)
    if any(_quoted_late(x) if isinstance(x, Texts) else bool(np.isinf(x).any()) for x in columns.values()):
        return None
    kinds = {name: NUMBER for name, cells in columns.items() if isinstance(cells, np.ndarray)}
    return Table(str(path), columns, kinds, lines=Lines(lines), positions=positions_of(header), separator=separator)


def _read(
    path: Path, written: Sequence[str], header: Sequence[str], separator: str, skipped: int, texts: set[str]
) -> Any:
    """Arrow's table of float64 and dictionaries of text; None where the header is another."""
    import pyarrow as pa
    from pyarrow import csv

    reading = csv.ReadOptions(use_threads=False, block_size=_BLOCK, skip_rows=skipped)
    parsing = csv.ParseOptions(delimiter=separator, newlines_in_values=True)
    text, number = pa.dictionary(pa.int32(), pa.string()), pa.float64()
    with csv.open_csv(path, reading, parsing, csv.ConvertOptions(null_values=_NULLS)) as stream:
        found = stream.schema
    if [name.lstrip(" ") for name in found.names] != list(written):
        return None
    kinds = {
        name: number if _is_number(field.type) and told not in texts else text
        for name, field, told in zip(found.names, found, header, strict=True)
    }
    while True:
        how = csv.ConvertOptions(column_types=kinds, null_values=_NULLS, strings_can_be_null=False)
        try:
            return csv.read_csv(path, reading, parsing, how).rename_columns(list(header))
        except pa.ArrowInvalid as error:  # text where the first block has none
            column = _NUMBER.search(str(error))
            if column is None or kinds[found.names[int(column[1])]] is text:
                raise
            kinds[found.names[int(column[1])]] = text


def _is_number(type: Any) -> bool:
    import pyarrow.types as told

    return bool(told.is_integer(type) or told.is_floating(type))


def _numbers(column: Any) -> np.ndarray:
    found: np.ndarray = column.combine_chunks().to_numpy(zero_copy_only=False)
    return found if found.flags.writeable else found.copy()


def _texts(column: Any) -> Texts:
    whole = column.unify_dictionaries().combine_chunks()
    different = np.strings.lstrip(np.array(whole.dictionary.to_pylist(), TEXT_DTYPE), " ")
    texts = Texts.of(different)  # some may be equal now
    return Texts(texts.different, texts.places[whole.indices.to_numpy()])


def _quoted_late(cells: Texts) -> bool:
    """Whether a quote stands behind spaces, where it is one to Python's reader and none to Arrow's."""
    return bool(np.strings.startswith(cells.different, '"').any())


def _columns_of_codes(
    content: np.ndarray,
    table: Any,
    path: Path,
    written: Sequence[str],
    header: Sequence[str],
    separator: str,
    skipped: int,
) -> set[str]:
    """Columns of numbers in which one begins with a zero, as 007 does: it may be a name."""
    import pyarrow as pa
    import pyarrow.compute as pc

    numbers = [name for name in header if not pa.types.is_dictionary(table.column(name).type)]
    if not numbers or not _has_codes(content, separator):
        return set()
    texts = _read(path, written, header, separator, skipped, set(header))
    return {name for name in numbers if _any_code(pc, texts.column(name))}


def _any_code(pc: Any, column: Any) -> bool:
    return any(bool(pc.any(pc.match_substring_regex(part.dictionary, r"^\s*0\d")).as_py()) for part in column.chunks)


def _has_codes(content: np.ndarray, separator: str) -> bool:
    """Whether some cell begins with a zero and another digit."""
    begins = np.zeros(256, bool)
    begins[[ord(separator), *b'\n\r" ']] = True
    for start in range(0, len(content), _SLICE):
        part = np.asarray(content[max(0, start - 2) : start + _SLICE])
        zeros = np.flatnonzero(part == ord("0"))
        zeros = zeros[(zeros > 0) & (zeros < len(part) - 1)]
        digit = part[zeros + 1] - np.uint8(ord("0")) < 10
        if (begins[part[zeros - 1]] & digit).any():
            return True
    return False


def _quoted_well(content: np.ndarray, separator: str) -> bool:
    """Whether each quote opens a cell, closes one, or is doubled within one, as Python's strict reader wants it."""
    quotes = np.concatenate(
        [
            start + np.flatnonzero(content[start : start + _SLICE] == ord('"'))
            for start in range(0, len(content), _SLICE)
        ]
    )
    if len(quotes) % 2:
        return False
    opening, closing = quotes[::2], quotes[1::2]
    edges = np.zeros(256, bool)
    edges[[ord(separator), *b"\n\r"]] = True
    before = content[np.maximum(opening - 1, 0)]
    opens = edges[before] | (opening == 0) | (before == ord(" "))
    doubled = np.append(False, opening[1:] == closing[:-1] + 1) if len(opening) else np.zeros(0, bool)
    behind = content[np.minimum(closing + 1, len(content) - 1)]
    closes = edges[behind] | (closing == len(content) - 1)
    doubling = np.append(doubled[1:], False) if len(doubled) else doubled
    return bool((opens | doubled).all() and (closes | doubling).all())
