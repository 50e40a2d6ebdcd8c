"""Who is in training, validation and test, as a table's columns or files say it.

Knows tables; must never know shares or seeds: who is not told here is shared out by `splits`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tuner.data import table_files
from tuner.data.column_kinds import typed
from tuner.data.columns import ColumnChoices
from tuner.data.splits import TEST, TRAIN, VALIDATION
from tuner.data.tables import Table
from tuner.data.text_columns import Texts
from tuner.errors import DataError
from tuner.models.interface import CATEGORY

_WORDS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("validation", "valid", "val", "dev"), VALIDATION),
    **dict.fromkeys(("test", "testing", "holdout"), TEST),
}
_FILES = {"validation": VALIDATION, "test": TEST}


@dataclass(frozen=True)
class Order:
    """What is told of N rows: groups (int), times (float, NaN where there is none) or parts (int, see `splits`)."""

    groups: np.ndarray | None = None
    times: np.ndarray | None = None
    parts_of: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> Order:
        """The same of these rows."""
        parts = (None if one is None else one[rows] for one in (self.groups, self.times, self.parts_of))
        return Order(*parts)


def with_files(table: Table, files: Mapping[str, Path], as_text: tuple[str, ...]) -> tuple[Table, np.ndarray]:
    """The rows of these files below the table's, and which part each row is: int [N]."""
    tables, parts = [table], [np.full(len(table), TRAIN)]
    for key, path in files.items():
        tables.append(table_files.read(path, as_text))
        parts.append(np.full(len(tables[-1]), _FILES[key]))
    return table_files.joined(table.file, tables, as_text), np.concatenate(parts)


def told(table: Table, choices: ColumnChoices) -> Order:
    """What the columns of `data.split` say. Raises DataError for cells that say nothing of the kind."""
    if name := choices.split.get("group"):
        cells = table.columns[name]
        texts = cells.stripped() if isinstance(cells, Texts) else None
        numbers = np.unique(np.asarray(cells), return_inverse=True)[1] if texts is None else texts.places
        gone = table.empty(name) if texts is None else texts.are("")
        alone = np.where(gone, numbers.max(initial=0) + 1 + np.arange(len(table)), numbers)  # a row of nobody's
        return Order(groups=alone)
    if name := choices.split.get("time"):
        column = typed(table.select([name]).stripped(), empty=True, told=choices.types)
        if column.kinds[name] == CATEGORY:
            shown = table.shown(name, np.arange(min(len(table), 1)))
            raise DataError(
                f"{table.file}: column '{name}': expected dates or numbers to put rows in order, got {shown}"
            )
        return Order(times=column.numbers(name))
    if name := choices.split.get("column"):
        texts = table.texts(name).stripped()
        parts = np.array([_WORDS.get(text.lower(), -1) for text in texts.different.tolist()], np.intp)[texts.places]
        if (parts < 0).any():
            shown = table.shown(name, np.flatnonzero(parts < 0))
            raise DataError(f"{table.file}: column '{name}': expected train, validation or test, got {shown}")
        return Order(parts_of=parts)
    return Order()
