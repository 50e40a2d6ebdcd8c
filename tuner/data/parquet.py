"""Parquet files as tables: columns of numbers read piece by piece, mapped from a cache where they are large.

Knows pyarrow's types. Must never know what a table is for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tuner.data import streams
from tuner.data.streams import packed, too_packed
from tuner.data.tables import Cells, Table, header_problems, positions_of
from tuner.data.text_columns import Texts
from tuner.errors import DataError
from tuner.models.interface import CATEGORY, DATE, NUMBER

_CHUNK = 16_384  # rows held at a time, all columns of numbers


def read_parquet(path: Path, room: float = math.inf, named: Sequence[str] | None = None) -> Table:
    """A Parquet file's columns: integers, floats and decimals are numbers; text, dictionaries and booleans categories.

    Dates are told from their text, as those of a CSV file.
    A pandas index and columns of other types are left out with a note, unless they are `named`; of new rows, where
    nothing is, without one. Numbers that take more than `room` bytes are mapped from a cache. Raises DataError for a
    file that is no Parquet, a named column of another type, two columns of one name, and no rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        source = pq.ParquetFile(path)
        schema, rows = source.schema_arrow, source.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(_no_parquet(path, error)) from None
    header = [name for name in schema.names if not re.fullmatch(r"__index_level_\d+__", name)]
    problems = header_problems(path, header)
    if not problems and rows == 0:
        problems.append(f"{path}: expected rows, got none")
    kinds = {} if problems else {name: _arrow_kind(schema.field(name).type) for name in header}
    others = {name: str(schema.field(name).type) for name, kind in kinds.items() if kind is None}
    problems += [
        f"{path}: column '{name}': expected numbers, text, booleans or dates, got {type}; turn it into numbers"
        for name, type in others.items()
        if named is not None and name in named
    ]
    if problems:
        raise DataError(problems)
    index = [name for name in _index(schema) if named is not None and name in header and name not in named]
    notes = [f"{path}: column '{name}': {type} cannot be read: left out" for name, type in others.items()]
    notes += [
        f"{path}: column '{name}': the index of a DataFrame: left out, unless data.columns names it" for name in index
    ]
    header = [name for name in header if name not in others and name not in index]
    numbers = [name for name in header if kinds[name] == NUMBER]
    texts = [name for name in header if name not in numbers]
    _refuse_packed(path, source.metadata, len(header))
    shape = (len(numbers), rows)
    try:
        if math.prod(shape) * 8 <= room:
            matrix = np.empty(shape)
            _read_numbers(source, numbers, matrix)
        else:
            key = streams.identity([path], numbers)
            matrix = streams.mapped(key, shape, np.float64, lambda out: _read_numbers(source, numbers, out))
        table = source.read(columns=texts)
    except (pa.ArrowException, OSError) as error:
        raise DataError(_no_parquet(path, error)) from None
    columns: dict[str, Cells] = dict(zip(numbers, matrix, strict=True))
    missing = {}
    for name in texts:
        column = table.column(name).combine_chunks()
        missing[name] = column.is_null().to_numpy(zero_copy_only=False)
        column = column.cast(pa.string()) if kinds[name] == DATE else column
        columns[name] = Texts.of(["" if cell is None else str(cell) for cell in column.to_pylist()])
    ordered = {name: columns[name] for name in header}
    told = {name: kind for name, kind in kinds.items() if kind in (NUMBER, CATEGORY)}  # a date is told from its text
    table_notes = () if named is None else tuple(notes)
    return Table(str(path), ordered, told, missing, positions=positions_of(schema.names), notes=table_notes)


def _index(schema: Any) -> list[str]:
    """The columns that were a DataFrame's index, if they had names."""
    about = schema.pandas_metadata or {}
    return [name for name in about.get("index_columns", ()) if isinstance(name, str)]


def _arrow_kind(type: Any) -> str | None:
    """NUMBER, CATEGORY, DATE, or None for a type that is none of them."""
    import pyarrow.types as told

    if told.is_dictionary(type):
        type = type.value_type
    if told.is_integer(type) or told.is_floating(type) or told.is_decimal(type):
        return NUMBER
    if told.is_timestamp(type) or told.is_date(type):
        return DATE
    texts = told.is_string(type) or told.is_large_string(type) or told.is_boolean(type) or told.is_null(type)
    return CATEGORY if texts else None


def _read_numbers(source: Any, names: Sequence[str], out: np.ndarray) -> None:
    """These columns, some thousand rows at a time, into the rows of `out`; what is null is NaN."""
    import pyarrow as pa

    start = 0
    for batch in source.iter_batches(batch_size=_CHUNK, columns=list(names)) if names else ():
        for row, name in zip(out, names, strict=True):
            column = batch.column(batch.schema.get_field_index(name))
            if pa.types.is_dictionary(column.type):
                column = column.dictionary_decode()
            row[start : start + len(column)] = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        start += len(batch)


def _refuse_packed(path: Path, about: Any, columns: int) -> None:
    """Raises DataError where the columns, or their pages, are far larger than the file."""
    pages = sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))
    content = max(pages, about.num_rows * columns * 8)
    if packed(content, path):
        raise DataError(too_packed(path, content, "frame.to_parquet(path, compression=None, use_dictionary=False)"))


def _no_parquet(path: Path, error: Exception) -> str:
    return f"{path}: expected a Parquet file, got one that cannot be read: {error}"
