"""What is to be predicted: classes or numbers, told from the target column unless the study says.

Knows one column of labels, or several of numbers. Must never know inputs, splits or networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tuner.data.cells import has_leading_zeros, numbers
from tuner.data.column_kinds import class_kind, typed
from tuner.data.tables import Table, number_name
from tuner.data.text_columns import Texts
from tuner.errors import DataError
from tuner.models.interface import CATEGORY, CLASSIFICATION, LANGUAGE, NUMBER, REGRESSION

_EXACT = 2**53  # the largest whole number up to which float64 tells all of them apart
_UNHOT = "one column with the classes' names or numbers (of an array y.argmax(1)) is enough"
_COARSEST = 1e-3  # of the targets' range: what may be lost by keeping them in float32
_FEW = 20  # whole numbers with at most so many different values, each five times on average, are classes


@dataclass(frozen=True)
class Targets:
    """`values` are int64 [N], numbers into `classes`, or float32 [N, T] in their own unit with `classes` None.

    Of texts to be continued they are texts [N], each an input one character on; what they become depends
    on the characters that training knows, so `outputs` is 0.
    """

    task: str
    values: np.ndarray
    classes: tuple[str, ...] | None
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()  # for a person: how the target was read

    @property
    def outputs(self) -> int:
        """Classes, or targets."""
        if self.task == LANGUAGE:
            return 0
        return self.values.shape[1] if self.classes is None else len(self.classes)


def of_table(table: Table, names: Sequence[str], task: str | None) -> Targets:
    """The target columns `names` of a table as read.

    Unless `task` is given: text, and whole numbers of few different values, are classes; other
    numbers, and several columns, a regression. Classes are sorted, by number or by letter.
    Raises DataError for missing cells, text among numbers, a single value, and classes that hardly repeat.
    """
    table = table.select(names).stripped()
    if len(names) > 1 and task == CLASSIFICATION:
        raise DataError(f"{table.file}: expected one target column for a classification, got {', '.join(names)}")
    codes = task is None and len(names) == 1 and bool(has_leading_zeros(table.columns[names[0]]))
    if codes or (task == CLASSIFICATION and any(class_kind(table, name) == CATEGORY for name in names)):
        columns = typed(table, dict.fromkeys(names, CATEGORY))
    elif task == REGRESSION or len(names) > 1:
        columns = typed(table, dict.fromkeys(names, NUMBER))
    else:
        columns = typed(table)
    if len(names) > 1 or columns.kinds[names[0]] == NUMBER:
        return replace(of_numbers(columns.matrix(), task, tuple(names), table.file), notes=columns.notes)
    return _classes(columns.texts(names[0]), tuple(names), table.file)


def present(table: Table, names: Sequence[str], task: str | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Which rows have all of the target: bool [N]; and for a person, how many others there are."""
    there, notes = np.ones(len(table), bool), []
    table = table.select(names).stripped()
    for name in names:
        gone, unreadable = _absent(table, name, task)
        place = f"{table.file}: target '{name}'"
        if gone.any():
            firsts = np.flatnonzero(gone)[:3]
            lines = [] if table.lines is None else [f"line {line}" for line in table.lines[firsts].tolist()]
            where = f" ({', '.join([*lines, *(['…'] if gone.sum() > len(lines) else [])])})" if lines else ""
            notes.append(f"{place}: {gone.sum():,} of {len(table):,} rows have none and are left out{where}")
        if unreadable.any():
            notes.append(
                f"{place}: {unreadable.sum():,} of {len(table):,} rows have no number and are left out, such as "
                f"{table.shown(name, np.flatnonzero(unreadable))}; task: classification keeps them as classes"
            )
        there &= ~(gone | unreadable)
    if not there.any():
        raise DataError(f"{table.file}: target {', '.join(names)}: expected values, got empty cells alone")
    return there, tuple(notes)


def _absent(table: Table, name: str, task: str | None) -> tuple[np.ndarray, np.ndarray]:
    """(cells without a value, cells of text among numbers), bool [N] each."""
    cells, none = table.columns[name], np.zeros(len(table), bool)
    if isinstance(cells, np.ndarray):
        return np.isnan(cells), none
    empty = table.missing.get(name, none) | cells.are("")
    if table.kinds.get(name) == CATEGORY:
        return empty, none
    read = numbers(cells, table.separator)
    if not read.mostly or (task == CLASSIFICATION and read.is_text.any()):
        return empty, none
    return np.isnan(read.values) & ~read.is_text, read.is_text


def of_numbers(values: np.ndarray, task: str | None, names: tuple[str, ...], where: str) -> Targets:
    """Targets from finite numbers [N] or [N, T]."""
    column = values.reshape(len(values), -1)
    if column.shape[1] == 1 and task != REGRESSION:
        different = np.unique(column)
        whole = bool((different == np.floor(different)).all())
        if task == CLASSIFICATION or (whole and len(different) <= max(2, min(_FEW, len(column) // 5))):
            if np.abs(different).max() > _EXACT:
                largest = different[np.abs(different).argmax()]
                raise DataError(
                    f"{where}: target '{names[0]}': expected labels up to {_EXACT:,}, where numbers begin to run "
                    f"together, got {largest:.0f}; put a letter before them, so that they are text"
                )
            return _classes(column[:, 0], names, where)
    elif task == CLASSIFICATION or (task is None and _one_hot(column)):
        hot = f" that look one-hot; {_UNHOT}" if _one_hot(column) else ""
        other = ", or say data.task: regression" if task is None else ""
        got = f"got {column.shape[1]} columns{hot}{other}"
        raise DataError(f"{where}: expected one label per row for a classification, {got}")
    constant = [name for name, one in zip(names, column.T, strict=True) if one.min() == one.max()]
    if constant:
        raise DataError(
            [
                f"{where}: target '{name}': expected different values, got {column[0, 0]:g} in all rows"
                for name in constant
            ]
        )
    kept = column.astype(np.float32)
    coarse = np.abs(kept - column).max(0) > _COARSEST * np.ptp(column, axis=0)
    if coarse.any():
        raise DataError(
            [
                f"{where}: target '{name}': expected numbers that float32 tells apart, got {one.min():.10g} to "
                f"{one.max():.10g}; subtract a constant"
                for name, one, lost in zip(names, column.T, coarse, strict=True)
                if lost
            ]
        )
    return Targets(REGRESSION, kept, None, names)


def _one_hot(columns: np.ndarray) -> bool:
    """Whether every row [T] is one 1 among zeros."""
    return bool(((columns == 0) | (columns == 1)).all() and (columns.sum(axis=1) == 1).all())


def of_labels(labels: np.ndarray, task: str | None, name: str, where: str) -> Targets:
    """Targets from an array of text or booleans [N]."""
    if task == REGRESSION:
        raise DataError(f"{where}: expected numbers for a regression, got {labels.dtype} such as '{labels[0]}'")
    return _classes(labels, (name,), where)


def _classes(labels: np.ndarray | Texts, names: tuple[str, ...], where: str) -> Targets:
    if isinstance(labels, Texts):
        classes = tuple(labels.sorted())
        values = np.argsort(np.argsort(labels.different))[labels.places]
    else:
        different, values = np.unique(labels, return_inverse=True)
        classes = tuple(number_name(float(v)) if different.dtype.kind in "iuf" else str(v) for v in different)
    rows, count = len(labels), len(classes)
    target = f"{where}: target '{names[0]}'"
    if count == 1:
        raise DataError(f"{target}: expected two classes or more, got '{classes[0]}' in all {rows} rows")
    if count > 2 and count > rows / 3:
        raise DataError(
            f"{target}: expected classes that repeat, got {count} different values in {rows} rows; "
            "name another target, or task: regression where it is a number"
        )
    return Targets(CLASSIFICATION, values.reshape(-1).astype(np.int64), classes, names)
