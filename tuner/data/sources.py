"""Where data come from: sets that packages carry, and a person's own tables, arrays, texts, pictures and functions.

Knows how each kind is told from its name. Must never know splits, normalisation or networks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tuner.data import built_in, functions, images, table_files, texts
from tuner.data.arrays import of_arrays
from tuner.data.built_in import BUILT_IN
from tuner.data.columns import ColumnChoices
from tuner.data.npz import read_npz
from tuner.data.raw import Raw
from tuner.data.table_source import read_table
from tuner.data.tables import Table, first
from tuner.errors import DataError
from tuner.home import expanded
from tuner.models.interface import IMAGE, LANGUAGE, MODALITIES, TASKS, TEXT

ENDINGS = (*table_files.ENDINGS, ".npz", ".txt")
_FUNCTION = re.compile(r"(.+\.py):(\w+)")


def read(
    source: str,
    *,
    choices: ColumnChoices | None = None,
    task: str | None = None,
    modality: str | None = None,
    length: int | None = None,
    size: int | None = None,
    room: float = math.inf,
    folder: Path = Path(),
) -> Raw:
    """The source of that name, or the file, folder or function of that path (relative to `folder`).

    `choices` are of a table; others take at most the target from it. Raises DataError for an unknown
    source, a file that is missing or does not hold what it should, and for a target, task or modality that
    the source does not have. Numbers of a Parquet file and pictures that take more than `room` bytes are
    mapped from a cache.
    """
    problems = [
        f"data.{name}: expected one of {', '.join(known)}, got '{value}'"
        for name, value, known in (("task", task, TASKS), ("modality", modality, MODALITIES))
        if value is not None and value not in known
    ]
    if problems:
        raise DataError(problems)
    choices = choices or ColumnChoices(())
    of_tables = {name: getattr(choices, name) for name in ("columns", "drop", "types", "missing", "strict", "split")}
    target = choices.target[0] if len(choices.target) == 1 else choices.target or None
    if source in BUILT_IN:
        _needless(f"the data set {source}", **of_tables, size=size)
        return built_in.read(source, target=target, task=task, modality=modality, length=length)
    if function := _FUNCTION.fullmatch(source):
        _needless(f"the function {source}", target=target, **of_tables, size=size)
        path = _there(folder / expanded(function[1]), "data.source: ")
        return functions.read_function(path, function[2], task, modality)
    path = folder / expanded(source)
    if table_files.ending(path) not in ENDINGS and _is_folder(path):
        _needless(f"the folder {path}", target=target, **of_tables, length=length)
        _only(f"the folder {path}", task, "classification", modality, IMAGE)
        return images.read_folder(path, size, room)
    path = _file(source, folder, "data.source: ")
    ending = table_files.ending(path)
    _needless(str(path), size=size)
    if ending == ".txt":
        _needless(f"the text {path}", target=target, **of_tables)
        _only(f"the text {path}", task, LANGUAGE, modality, TEXT)
        return texts.corpus(path.stem, str(path), texts.read_text(path), length)
    if task == LANGUAGE:
        raise DataError(f"data.task: expected classification or regression for {path}, got '{task}', which is for .txt")
    if ending == ".npz":
        _needless(f"the arrays {path}", **of_tables)
        return _npz(path, target, task, modality)
    if files := choices.split.get("files"):
        paths = {key: _file(name, folder, f"data.split.files.{key}: ") for key, name in files.items() if name}
        choices = replace(choices, split={"files": paths})
    return read_table(path, choices, task=task, modality=modality, room=room)


def read_inputs(path: Path, as_text: Collection[str] = ()) -> Table | dict[str, np.ndarray] | list[str]:
    """A new file's inputs: a table as read, the arrays x (and lengths) of an npz, a text's lines.

    `as_text` are columns of a table whose cells are text, whatever they look like. Raises DataError.
    """
    path = _file(str(path), Path(), "")
    ending = table_files.ending(path)
    if ending == ".txt":
        lines = texts.read_text(path).removesuffix("\n").split("\n")
        blank = [f"{path}:{n}: expected text, got an empty line; remove it" for n, x in enumerate(lines, 1) if not x]
        if blank:
            raise DataError(first(blank, 5, str(path)))
        return lines
    return read_npz(path, ["x"], ["lengths"]) if ending == ".npz" else table_files.read(path, as_text)


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
    if table_files.ending(path) not in ENDINGS:
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
    if table_files.is_pattern(path):
        return path
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
