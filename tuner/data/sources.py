"""Where data come from: sets that packages carry, and a person's own tables, arrays, texts, pictures and functions.

Knows how each kind is told from its name. Must never know splits, normalisation or networks.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tuner.data import built_in, functions, images, texts
from tuner.data import targets as targets_of
from tuner.data.arrays import of_arrays
from tuner.data.built_in import BUILT_IN
from tuner.data.cells import like_numbers, numbers
from tuner.data.column_kinds import typed
from tuner.data.csv_files import read_csv
from tuner.data.npz import read_npz
from tuner.data.parquet import read_parquet
from tuner.data.raw import Raw
from tuner.data.tables import CATEGORY, DATE, NUMBER, Table, first
from tuner.data.text_columns import Texts
from tuner.errors import DataError
from tuner.home import expanded
from tuner.models.interface import IMAGE, LANGUAGE, MODALITIES, NUMBERS, TASKS, TEXT

_MOST_CATEGORIES = 1_000  # each becomes an input; beyond that a column is an identifier, or text
TABLES: dict[str, Callable[[Path, Collection[str]], Table]] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": lambda path, _: read_parquet(path),
}
ENDINGS = (*TABLES, ".npz", ".txt")
_FUNCTION = re.compile(r"(.+\.py):(\w+)")


def read(
    source: str,
    *,
    target: str | Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    task: str | None = None,
    modality: str | None = None,
    length: int | None = None,
    size: int | None = None,
    room: float = math.inf,
    folder: Path = Path(),
) -> Raw:
    """The source of that name, or the file, folder or function of that path (relative to `folder`).

    Raises DataError for an unknown source, a file that is missing or does not hold what it should,
    and for a target, task or modality that the source does not have. Numbers of a Parquet file and
    pictures that take more than `room` bytes are mapped from a cache.
    """
    problems = [
        f"data.{name}: expected one of {', '.join(known)}, got '{value}'"
        for name, value, known in (("task", task, TASKS), ("modality", modality, MODALITIES))
        if value is not None and value not in known
    ]
    if problems:
        raise DataError(problems)
    if source in BUILT_IN:
        _needless(f"the data set {source}", columns=columns, size=size)
        return built_in.read(source, target=target, task=task, modality=modality, length=length)
    if function := _FUNCTION.fullmatch(source):
        _needless(f"the function {source}", target=target, columns=columns, size=size)
        path = _there(folder / expanded(function[1]), "data.source: ")
        return functions.read_function(path, function[2], task, modality)
    path = folder / expanded(source)
    if path.suffix.lower() not in ENDINGS and _is_folder(path):
        _needless(f"the folder {path}", target=target, columns=columns, length=length)
        _only(f"the folder {path}", task, "classification", modality, IMAGE)
        return images.read_folder(path, size, room)
    path = _file(source, folder, "data.source: ")
    ending = path.suffix.lower()
    _needless(str(path), size=size)
    if ending == ".txt":
        _needless(f"the text {path}", target=target, columns=columns)
        _only(f"the text {path}", task, LANGUAGE, modality, TEXT)
        return texts.corpus(path.stem, str(path), texts.read_text(path), length)
    if task == LANGUAGE:
        raise DataError(f"data.task: expected classification or regression for {path}, got '{task}', which is for .txt")
    if ending == ".npz":
        _needless(f"the arrays {path}", columns=columns)
        return _npz(path, target, task, modality)
    return _table(path, target, columns, task, modality, room)


def read_inputs(path: Path, as_text: Collection[str] = ()) -> Table | dict[str, np.ndarray] | list[str]:
    """A new file's inputs: a table as read, the arrays x (and lengths) of an npz, a text's lines.

    `as_text` are columns of a table whose cells are text, whatever they look like. Raises DataError.
    """
    path = _file(str(path), Path(), "")
    ending = path.suffix.lower()
    if ending == ".txt":
        lines = texts.read_text(path).removesuffix("\n").split("\n")
        blank = [f"{path}:{n}: expected text, got an empty line; remove it" for n, x in enumerate(lines, 1) if not x]
        if blank:
            raise DataError(first(blank, 5, str(path)))
        return lines
    return read_npz(path, ["x"], ["lengths"]) if ending == ".npz" else TABLES[ending](path, as_text)


def _needless(what: str, **given: object) -> None:
    """Raises DataError for each key that `what` has no use for."""
    problems = [f"data.{name}: expected none for {what}, got {value!r}" for name, value in given.items() if value]
    if problems:
        raise DataError(problems)


def _only(what: str, task: str | None, the_task: str, modality: str | None, the_modality: str) -> None:
    problems = [
        f"data.{name}: expected {one} for {what}, got '{got}'"
        for name, got, one in (("task", task, the_task), ("modality", modality, the_modality))
        if got not in (None, one)
    ]
    if problems:
        raise DataError(problems)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _file(source: str, folder: Path, key: str) -> Path:
    """The file that `source` names, there and of a known ending; complaints begin with `key`."""
    path = folder / expanded(source)
    if path.suffix.lower() not in ENDINGS:
        from tuner.search_spaces.spelling import nearest  # pydantic comes with it: 0.15 s that only this mistake pays

        endings = f"a file that ends in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"
        known = f"{', '.join(BUILT_IN)}, " if key else ""
        others = ", a folder of pictures, or file.py:function" if key else ""
        close = nearest(source, BUILT_IN) if key else None
        meant = f"; did you mean {close}?" if close else ""
        raise DataError(f"{key}expected {known}{endings}{others}, got '{source}'{meant}")
    return _there(path, key)


def _there(path: Path, key: str) -> Path:
    """The path of a file that can be read, else DataError with a suggestion."""
    try:
        path.open("rb").close()
    except FileNotFoundError:
        from tuner.search_spaces.spelling import nearest  # pydantic comes with it: 0.15 s that only this mistake pays

        endings = (".py",) if path.suffix == ".py" else ENDINGS
        beside = {f.stem: f.name for f in path.parent.glob("*.*") if f.suffix.lower() in endings}
        close = nearest(path.stem, beside)
        meant = f"did you mean {beside[close]}?" if close else f"look in {path.parent}, or write the whole path"
        raise DataError(f"{key}expected a file, got nothing at {path}; {meant}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{key}expected a file that can be read, got {str(path)!r}: {reason}") from None
    return path


def _table(
    path: Path,
    target: str | Sequence[str] | None,
    columns: Sequence[str] | None,
    task: str | None,
    modality: str | None,
    room: float,
) -> Raw:
    if modality not in (None, NUMBERS, TEXT):
        raise DataError(f"data.modality: expected {NUMBERS} or {TEXT} for the table {path}, got '{modality}'")
    if target is not None and not isinstance(target, str) and len(set(target)) < len(target):
        raise DataError(f"data.target: expected different columns, got {', '.join(target)}")
    if not target:
        raise DataError(f"data.target: expected the name of the column to predict in {path}, got none")
    parquet = path.suffix.lower() == ".parquet"
    names = (target,) if isinstance(target, str) else tuple(target)
    as_text = (*names, *(columns or ())) if modality == TEXT else names
    table = read_parquet(path, room, (*names, *(columns or ()))) if parquet else read_csv(path, as_text)
    table.select(names)  # a wrong name is the first thing to say
    if both := sorted(set(columns or ()) & set(names)):
        raise DataError(f"data.columns: expected none of the target, got {', '.join(both)}")
    rows, notes = targets_of.present(table, names, task)
    numbered = None if rows.all() else np.flatnonzero(rows)
    table = table if numbered is None else table.take(numbered, mapped=True)
    given = table.drop(names) if columns is None else table.select(columns)
    problems: list[str] = []
    inputs, found = None, None
    if not given.columns:
        problems.append(f"{path}: expected columns beside the target {', '.join(names)}, got none")
    try:
        found = targets_of.of_table(table, names, task)
    except DataError as error:
        problems += error.problems
    try:
        inputs = _table_inputs(given, modality, named=columns is not None)
    except DataError as error:
        problems += error.problems
    if problems or inputs is None or found is None:
        raise DataError(problems)
    notes += found.notes + _class_notes(str(path), names[0], found.classes or ())
    if isinstance(inputs, Table):
        notes += inputs.notes + _empty_notes(inputs) + _category_notes(inputs)
        return Raw(path.stem, NUMBERS, inputs, found, tuple(inputs.columns), notes=notes, numbers=numbered)
    return Raw(path.stem, TEXT, inputs, found, tuple(given.columns), notes=notes, numbers=numbered)


def _table_inputs(given: Table, modality: str | None, named: bool) -> Table | np.ndarray:
    """The input columns as a typed table, or the one column of text; what is not `named` may be left out.

    Raises DataError."""
    if modality == TEXT:
        if len(given.columns) != 1:
            raise DataError(
                f"data.columns: expected the one column of text in {given.file}, got {', '.join(given.columns)}; "
                "name it: columns: [text]"
            )
        return _text_column(given)
    bare = [] if named or len(given.columns) < 2 else _bare(given)
    inputs = typed(given.drop(bare).stripped(), empty=True)
    notes = inputs.notes + tuple(f"{given.file}: column '{name}': all cells are empty: left out" for name in bare)
    problems = _category_problems(inputs)
    if problems and modality is None and len(given.columns) == 1:
        return _text_column(given)
    if problems and (named or len(problems) == len(inputs.columns)):
        remedy = "; remove the column, or write numbers with a decimal point; a text to be read is alone: "
        raise DataError([f"{told}{remedy}modality: text, columns: [{name}]" for name, told in problems.items()])
    for name in problems:
        different = len(inputs.texts(name).different)
        what = f"{different:,} different texts in {len(inputs):,} rows, such as '{inputs.columns[name][0]}'"
        way = f"a text to be read is alone: modality: text, columns: [{name}]"
        notes += (f"{given.file}: column '{name}': {what}: left out, as a name is; {way}",)
    return replace(inputs.drop(problems), notes=notes)


def _bare(given: Table) -> list[str]:
    """Columns without anything in them."""
    return [
        name
        for name, cells in given.columns.items()
        if bool(cells.stripped().are("").all() if isinstance(cells, Texts) else np.isnan(cells).all())
    ]


def _text_column(given: Table) -> np.ndarray:
    (column,) = given.columns
    return typed(given, {column: CATEGORY}).texts(column).array()


def _empty_notes(table: Table) -> tuple[str, ...]:
    """What is done about empty cells, a line for each column that has any."""
    filled = "filled with the mean of the training rows and marked in an input of their own"
    fates = {NUMBER: filled, DATE: filled, CATEGORY: "taken as a category of their own"}
    return tuple(
        f"{table.file}: column '{name}': {count:,} of {len(table):,} cells are empty: {fates[table.kinds[name]]}"
        for name in table.columns
        if (count := int(table.empty(name).sum()))
    )


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


def _category_problems(table: Table) -> dict[str, str]:
    """Columns of text that hardly repeats, and the complaint about each."""
    problems = {}
    for name, kind in table.kinds.items():
        if kind != CATEGORY:
            continue
        different = len(table.texts(name).different)
        if different > _MOST_CATEGORIES or (different > len(table) / 2 and len(table) >= 20):
            problems[name] = (
                f"{table.file}: column '{name}': expected numbers, or text that repeats, got {different} different "
                f"texts in {len(table)} rows such as '{table.columns[name][0]}'"
            )
    return problems


def _npz(path: Path, target: str | Sequence[str] | None, task: str | None, modality: str | None) -> Raw:
    label = "y" if target is None else target
    if not isinstance(label, str):
        raise DataError(f"data.target: expected the name of one array in {path}, got {', '.join(label)}")
    arrays = read_npz(path, ["x", label], ["lengths"])
    return of_arrays(
        str(path),
        path.stem,
        arrays["x"],
        arrays[label],
        lengths=arrays.get("lengths"),
        label=label,
        task=task,
        modality=modality,
    )
