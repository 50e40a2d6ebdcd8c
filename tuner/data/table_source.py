"""A table as data: its columns read, those that tell nothing left out, the target told from the rest.

Knows what a person has said of the columns. Must never know splits, normalisation or networks.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from tuner.data import columns as roles_of
from tuner.data import table_files, table_splits
from tuner.data import targets as targets_of
from tuner.data.cells import like_numbers, numbers
from tuner.data.column_kinds import typed
from tuner.data.columns import DROPPED, SPLIT, TARGET, ColumnChoices, Role
from tuner.data.raw import Raw
from tuner.data.tables import Table
from tuner.data.text_columns import Texts
from tuner.errors import DataError
from tuner.models.interface import CATEGORY, ID, NUMBERS, TEXT


def read_table(path: Path, choices: ColumnChoices, *, task: str | None, modality: str | None, room: float) -> Raw:
    """The rows that have a target. Raises DataError for all that cannot be read, or would be read wrongly."""
    names = choices.target
    if modality not in (None, NUMBERS, TEXT):
        raise DataError(f"data.modality: expected {NUMBERS} or {TEXT} for the table {path}, got '{modality}'")
    if len(set(names)) < len(names):
        raise DataError(f"data.target: expected different columns, got {', '.join(names)}")
    if not names:
        raise DataError(f"data.target: expected the name of the column to predict in {path}, got none")
    as_text = (*choices.as_text, *((choices.columns or ()) if modality == TEXT else ()))
    table = table_files.read(path, as_text, room, (*names, *(choices.columns or ()), *choices.types))
    part_of = None
    if files := choices.split.get("files"):
        table, part_of = table_splits.with_files(table, files, as_text)
    table.select(names)  # a wrong name is the first thing to say
    choices.check(table)
    table = table.without(choices.missing)
    rows, notes = targets_of.present(table, names, task)
    order = replace(table_splits.told(table, choices), **({} if part_of is None else {"parts_of": part_of}))
    if order.times is not None and (lost := np.isnan(order.times) & rows).any():
        notes += (f"{path}: column '{choices.split['time']}': {lost.sum():,} rows without a time are left out",)
        rows &= ~lost
    numbered = None if rows.all() else np.flatnonzero(rows)
    if numbered is not None:
        table, order = table.take(numbered, mapped=True), order.take(numbered)
    by = choices.split_columns
    given = (
        table.drop((*names, *choices.drop, *by.values())) if choices.columns is None else table.select(choices.columns)
    )
    problems: list[str] = []
    inputs, found = None, None
    left: list[Role] = [Role(name, DROPPED, about="left out, as data.drop says") for name in choices.drop]
    fates = {"group": "its rows stay together in one split", "column": "says which split a row is in"}
    left += [Role(name, SPLIT, about=fates[how]) for how, name in by.items()]
    if not given.columns:
        problems.append(f"{path}: expected columns beside the target {', '.join(names)}, got none")
    try:
        found = targets_of.of_table(table, names, task)
    except DataError as error:
        problems += error.problems
    try:
        inputs, more = table_inputs(given, modality, choices)
        left += more
    except DataError as error:
        problems += error.problems
    if problems or inputs is None or found is None:
        raise DataError(problems)
    notes += found.notes + _class_notes(str(path), names[0], found.classes or ())
    what = f"{len(found.classes)} classes" if found.classes else "a number"
    left += [Role(name, TARGET, int((~rows).sum()), what) for name in names]
    made = partial(
        Raw, table_files.name(path), targets=found, roles=tuple(left), order=tuple(table.columns), numbers=numbered,
        missing=choices.missing, groups=order.groups, times=order.times, parts_of=order.parts_of,
    )  # fmt: skip
    if isinstance(inputs, Table):
        notes += inputs.notes + _category_notes(inputs)
        return made(modality=NUMBERS, inputs=inputs, columns=tuple(inputs.columns), notes=notes)
    return made(modality=TEXT, inputs=inputs, columns=tuple(given.columns), notes=notes)


def table_inputs(
    given: Table, modality: str | None, choices: ColumnChoices
) -> tuple[Table | np.ndarray, Sequence[Role]]:
    """The input columns as a typed table, or the one column of text; and the columns that are left out.

    Raises DataError."""
    if modality == TEXT:
        if len(given.columns) != 1:
            raise DataError(
                f"data.columns: expected the one column of text in {given.file}, got {', '.join(given.columns)}; "
                "name it: columns: [text]"
            )
        return _text_column(given), ()
    left = list(roles_of.unwanted(given, choices)) if len(given.columns) > 1 else []
    kept = given.drop(role.column for role in left)
    if given.columns and not kept.columns:
        why = "; ".join(f"{role.column} is {role.role}" for role in left)
        raise DataError(f"{given.file}: expected columns that tell something of the target, got none: {why}")
    inputs = typed(kept.stripped(), empty=True, minority=not choices.strict, told=choices.types)
    problems = {name: told for name, told in roles_of.names(inputs).items() if choices.types.get(name) != CATEGORY}
    named = choices.columns is not None
    if problems and modality is None and len(kept.columns) == 1:
        return _text_column(kept), left
    if problems and (named or len(problems) == len(inputs.columns)):
        remedy = "; remove the column, or write numbers with a decimal point; a text to be read is alone: "
        raise DataError([f"{told}{remedy}modality: text, columns: [{name}]" for name, told in problems.items()])
    for name in problems:
        texts = inputs.texts(name)
        about = f"left out: {len(texts.different):,} different texts, such as '{texts[0]}'"
        if sum(text.count(" ") for text in texts.different.tolist()) > 2 * len(texts.different):
            about += f"; read alone with modality: text, columns: [{name}]"
        left.append(Role(name, ID, int(inputs.empty(name).sum()), about))
    return inputs.drop(problems), left


def _text_column(given: Table) -> np.ndarray:
    (column,) = given.columns
    return typed(given, {column: CATEGORY}).texts(column).array()


def _category_notes(table: Table) -> tuple[str, ...]:
    """What may be meant otherwise, a line for each column: numbers with a unit, and texts that differ in case alone."""
    notes: tuple[str, ...] = ()
    for name, kind in table.kinds.items():
        if kind != CATEGORY or name not in table.columns:
            continue
        different = table.texts(name).sorted()
        if like_numbers(filter(None, different)):
            what = f"{len(different):,} different texts that look like numbers, such as '{different[-1]}'"
            notes += (f"{table.file}: column '{name}': {what}: taken as categories; write the numbers alone",)
        notes += _alike_notes(table.file, "column", name, different)
    return notes


def _class_notes(file: str, name: str, classes: Sequence[str]) -> tuple[str, ...]:
    """The same of a target's classes; those that are plain numbers are meant to be what they are."""
    notes: tuple[str, ...] = ()
    if like_numbers(classes) and numbers(Texts.of(classes), notation="plain").is_text.all():
        what = f"{len(classes):,} different texts that look like numbers, such as '{classes[-1]}'"
        notes = (f"{file}: target '{name}': {what}: taken as classes; write the numbers alone",)
    return notes + _alike_notes(file, "target", name, classes)


def _alike_notes(file: str, what: str, name: str, different: Sequence[str]) -> tuple[str, ...]:
    seen: dict[str, str] = {}
    for text in different:
        key = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
        if key in seen:
            return (f"{file}: {what} '{name}': '{seen[key]}' and '{text}' are taken as different; are they?",)
        seen[key] = text
    return ()
