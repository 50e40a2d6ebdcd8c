"""What each column of a table is for: an input of some kind, the target, or left out, and why.

Knows a table's cells and what a person has said of its columns. Must never know splits, nor how inputs are encoded.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tuner.data.tables import Cells, Table, missing_column, number_name
from tuner.data.text_columns import Texts
from tuner.errors import DataError
from tuner.models.interface import CATEGORY, DATE, ID, NUMBER

TARGET, SPLIT, CONSTANT, EMPTY, DROPPED = "target", "split", "constant", "empty", "dropped"
MOST_CATEGORIES = 1_000  # each becomes an input; beyond that a column is an identifier, or text
_SHOWN = 40  # columns that are all shown
_FEW = 20  # rows, of which all may differ in a column that is no name
_ID = re.compile(
    r"(.*[_\W])?(id|uuid|guid|index|idx|rownames|row ?(nr|no|number))|unnamed: \d+|.*[a-z](?-i:I[Dd])", re.IGNORECASE
)


@dataclass(frozen=True)
class ColumnChoices:
    """What a person has said of a table's columns; `strict` refuses cells that else count as missing."""

    target: tuple[str, ...]
    columns: tuple[str, ...] | None = None  # to predict from; all others unless named
    drop: tuple[str, ...] = ()
    types: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()  # texts that stand for nothing
    strict: bool = False
    split: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def told(
        cls,
        target: str | Sequence[str] | None,
        columns: Sequence[str] | None = None,
        drop: Sequence[str] | None = None,
        types: Mapping[str, str] | None = None,
        missing: Sequence[str] | None = None,
        *,
        strict: bool = False,
        split: Mapping[str, Any] | None = None,
    ) -> ColumnChoices:
        """As a study file has them."""
        targets = (target,) if isinstance(target, str) else tuple(target or ())
        named = None if columns is None else tuple(columns)
        return cls(
            targets, named, tuple(drop or ()), dict(types or {}), tuple(missing or ()), strict, dict(split or {})
        )

    @property
    def split_columns(self) -> dict[str, str]:
        """Columns that say who is in which split, and no inputs: what for, and which."""
        return {how: self.split[how] for how in ("group", "column") if self.split.get(how)}

    @property
    def as_text(self) -> tuple[str, ...]:
        """Columns whose cells are wanted as they are written, though they may look like numbers."""
        return (
            *self.target,
            *self.split_columns.values(),
            *(name for name, kind in self.types.items() if kind in (CATEGORY, DATE)),
        )

    def check(self, table: Table) -> None:
        """Raises DataError for columns that are not there, or are asked for and left out at once."""
        problems = [
            f"data.{key}: {missing_column(table, name).partition(': ')[2]}"
            for key, names in (("drop", self.drop), ("types", self.types), ("columns", self.columns or ()))
            for name in names
            if name not in table.columns
        ]
        by = [self.split[how] for how in ("group", "time", "column") if self.split.get(how)]
        problems += [f"data.split: {missing_column(table, x).partition(': ')[2]}" for x in by if x not in table.columns]
        if both := sorted(set(self.split_columns.values()) & {*self.target, *(self.columns or ())}):
            problems.append(f"data.split: expected a column that is neither target nor input, got {', '.join(both)}")
        for key, names in (("drop", self.drop), ("types", self.types), ("columns", self.columns or ())):
            if both := sorted(set(names) & set(self.target)):
                problems.append(f"data.{key}: expected none of the target, got {', '.join(both)}")
        if both := sorted(set(self.columns or ()) & set(self.drop)):
            problems.append(f"data.drop: expected none of data.columns, got {', '.join(both)}")
        if problems:
            raise DataError(problems)


@dataclass(frozen=True)
class Role:
    """One column: what it is, how many of its cells are missing, and what is made of it, for a person."""

    column: str
    role: str
    missing: int = 0
    about: str = ""

    @property
    def used(self) -> bool:
        """Whether the column is an input."""
        return self.role in (NUMBER, CATEGORY, DATE)


def unwanted(table: Table, choices: ColumnChoices) -> Iterator[Role]:
    """Columns that tell nothing, or name their rows; of those that a person has named, only what they left out."""
    named = {*(choices.columns or ()), *choices.types}
    for name, cells in table.columns.items():
        if choices.types.get(name) == ID:
            yield Role(name, ID, about="left out, as data.types says")
        elif name in named:
            continue
        elif reason := _useless(name, cells):
            yield Role(name, *reason)


def _useless(name: str, cells: Cells) -> tuple[str, int, str] | None:
    """(role, missing cells, why it is left out)."""
    missing = int(cells.stripped().are("").sum() if isinstance(cells, Texts) else np.isnan(cells).sum())
    if missing == len(cells):
        return EMPTY, missing, "left out: there is nothing in it"
    different = cells.different.tolist() if isinstance(cells, Texts) else np.unique(cells).tolist()
    if len(different) == 1:
        return CONSTANT, 0, f"left out: {_shown(different[0])} in every row"
    if len(different) == len(cells) >= _FEW and _ID.fullmatch(name) and _whole(cells):
        return ID, 0, "left out: another number in every row, by name an identifier"
    return None


def _shown(value: float | str) -> str:
    """A cell for a person, the same whether it was read as a number or as text."""
    with contextlib.suppress(ValueError):
        return number_name(float(value))
    return repr(value)


def _whole(cells: Cells) -> bool:
    """Whether all are whole numbers."""
    if isinstance(cells, Texts):
        return all(re.fullmatch(r"\s*\d+(\.0)?\s*", text) for text in cells.different.tolist())
    return bool((cells == np.floor(cells)).all())


def names(table: Table) -> dict[str, str]:
    """Columns of text that hardly repeats, and the complaint about each."""
    problems = {}
    for name, kind in table.kinds.items():
        if kind != CATEGORY or name not in table.columns:
            continue
        different = len(table.texts(name).different)
        if different > MOST_CATEGORIES or (different > len(table) / 2 and len(table) >= _FEW):
            problems[name] = (
                f"{table.file}: column '{name}': expected numbers, or text that repeats, got {different} different "
                f"texts in {len(table)} rows such as '{table.texts(name)[0]}'"
            )
    return problems


def lines(roles: Sequence[Role]) -> list[str]:
    """A table of them for a person: name, role, missing cells, what is made of it. Of very many, those with a story."""
    shown = [role for role in roles if len(roles) <= _SHOWN or role.about or role.missing]
    cells = [(_flat(x.column), x.role, f"{x.missing:,} missing" if x.missing else "", _flat(x.about)) for x in shown]
    widths = [max((len(row[i]) for row in cells), default=0) for i in range(3)]
    found = ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[3]]).rstrip() for row in cells]
    rest = len(roles) - len(shown)
    return [*found, *([f"and {rest:,} columns of numbers without a missing cell"] if rest else [])]


def _flat(text: str) -> str:
    """On one line: a column may have any name, and a cell any text."""
    return " ".join(text.split())


def inputs(table: Table, cycles: Mapping[str, Sequence[str]], categories: Mapping[str, Sequence[str]]) -> list[Role]:
    """The columns of a typed table, as they were encoded."""
    found = []
    for name in table.columns:
        missing, kind = int(table.empty(name).sum()), table.kinds[name]
        filled = "; filled with the training rows' mean, and marked" if missing else ""
        if kind == CATEGORY:
            about = f"{len(categories[name])} values, an input each" + ("; missing is one of them" if missing else "")
        elif kind == DATE:
            about = "time passed" + "".join(f", place in the {period}" for period in cycles.get(name, ())) + filled
        else:
            about = filled.removeprefix("; ")
        found.append(Role(name, kind, missing, about))
    return found
