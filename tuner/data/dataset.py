"""A data set ready for training: normalised splits, held-out test rows until the search is over.

Joins sources, splits and preprocessing. Must never know trials or search, nor open the test rows
for anybody who does not call `open_test`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tuner.data import columns as columns_of
from tuner.data import sources, splits, streams
from tuner.data.columns import ColumnChoices, Role
from tuner.data.preprocess import Preprocess
from tuner.data.raw import Raw
from tuner.data.splits import Rows
from tuner.data.tables import Table
from tuner.errors import DataError
from tuner.models.interface import TEXT, Signature

_CHUNK = 4_096  # rows preprocessed at once where they do not fit into memory


@dataclass(frozen=True)
class Split:
    """Some rows of a data set.

    `inputs` float32 [N, *signature.inputs], normalised, or int64 tokens of texts; `targets` int64 [N]
    (classes), float32 [N, T] (numbers in their own unit) or int64 [N, T] (the next token at each
    position); `rows` int64 [N], the rows' numbers in the source, from 0.
    """

    inputs: np.ndarray
    targets: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Dataset:
    """What a study trains and compares on.

    `digest` is sha256 over the source's content and meaning, `split_digest` over who is in which
    split, `rows` counts the rows of "train", "validation" and "test", `classes` names the classes
    (None in a regression and of texts to be continued), `notes`, and `roles` of a table's columns, are for a
    person to read.
    """

    name: str
    signature: Signature
    train: Split
    validation: Split
    digest: str
    split_digest: str
    rows: dict[str, int]
    preprocess: Preprocess
    classes: tuple[str, ...] | None
    notes: tuple[str, ...]
    roles: tuple[Role, ...]
    _sealed: tuple[Raw, np.ndarray, np.ndarray, float] = field(repr=False)  # the test rows, raw: see `_dataset`

    def without_test(self) -> Dataset:
        """The same for a worker elsewhere, which has no use for the test rows."""
        raw, none = self._sealed[0], np.arange(0)
        return replace(self, _sealed=(raw.only(none), none, none, 0.0))

    def open_test(self) -> Split:
        """The test rows, treated as the training rows were. Raises DataError where none were set aside."""
        raw, places, rows, room = self._sealed
        if not len(rows):
            raise DataError(f"data.test: expected a share above 0 to test on, got 0 for {self.name}")
        return _split(self.preprocess, raw, places, rows, room)


def load(
    source: str,
    *,
    target: str | Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    drop: Sequence[str] | None = None,
    types: Mapping[str, str] | None = None,
    missing: Sequence[str] | None = None,
    strict: bool = False,
    task: str | None = None,
    modality: str | None = None,
    length: int | None = None,
    size: int | None = None,
    memory: float | None = None,
    validation: float = 0.2,
    test: float = 0.2,
    split: Mapping[str, Any] | None = None,
    seed: int = 0,
    folder: str | Path = ".",
) -> Dataset:
    """Read `source`, split it by `seed` and normalise it by its training rows.

    `source` is the name of a built-in set, or a file, a pattern of files, a folder of pictures, or
    `file.py:function`, relative to `folder`. `target` names the column to predict (several for a regression; in
    an npz the array, `y` unless named), `columns` those to predict it from, all but `drop` unless named. `types`
    say what a column is (COLUMN_TYPES), `missing` which texts stand for nothing, and `strict` refuses a minority of
    cells that cannot be read. `task` and `modality` are told from the data unless given. `length` is the characters
    of a text that are read, `size` the side of pictures in pixels, `memory` the GiB that a Parquet file's or
    pictures' inputs may take (a quarter of the machine's unless given): more is mapped from a cache on disk.
    `validation` and `test` are shares of all rows; `split` says otherwise who is in which, see `SplitSection`.

    Raises DataError with every problem found, each with its file, row and column.
    """
    raw = sources.read(
        source,
        choices=ColumnChoices.told(target, columns, drop, types, missing, strict=strict, split=split),
        task=task,
        modality=modality,
        length=length,
        size=size,
        room=streams.room(memory),
        folder=Path(folder),
    )
    if length is not None and raw.modality != TEXT:
        raise DataError(f"data.length: expected none for {raw.modality}, got {length}; it is for text")
    labels, classes = raw.targets.values, raw.targets.classes
    rows = splits.split(
        len(labels),
        None if classes is None else labels,
        classes,
        validation=validation,
        test=test,
        seed=seed,
        source=source,
        groups=raw.groups,
        times=raw.times,
        parts_of=raw.parts_of,
        numbers=raw.numbers,
    )
    return _dataset(raw, rows, length, streams.room(memory))


def _dataset(raw: Raw, parts: Rows, length: int | None, room: float) -> Dataset:
    """Everything fitted on the training rows, and held-out test rows."""
    classes = raw.targets.classes
    preprocess = Preprocess.fit(
        raw.inputs,
        parts.train,
        modality=raw.modality,
        columns=raw.columns,
        masked=raw.masked,
        length=length,
        classes=classes,
        targets=raw.targets.names,
        missing=raw.missing,
    )
    if len(raw) * math.prod(preprocess.inputs) * 4 <= room:
        sealed = raw.only(parts.test), np.arange(len(parts.test)), raw.numbered(parts.test), math.inf
    else:
        sealed = raw, parts.test, raw.numbered(parts.test), 0.0
    rare = () if classes is None else splits.rare_classes(raw.targets.values, classes, parts)
    signature = Signature(
        task=raw.targets.task,
        modality=raw.modality,
        inputs=preprocess.inputs,
        outputs=raw.targets.outputs or preprocess.vocabulary or 0,
        vocabulary=preprocess.vocabulary,
        masked=raw.masked,
    )
    return Dataset(
        name=raw.name,
        signature=signature,
        train=_split(preprocess, raw, parts.train, raw.numbered(parts.train), sealed[3]),
        validation=_split(preprocess, raw, parts.validation, raw.numbered(parts.validation), sealed[3]),
        digest=raw.digest,
        split_digest=parts.digest,
        rows={"train": len(parts.train), "validation": len(parts.validation), "test": len(parts.test)},
        preprocess=preprocess,
        classes=classes,
        notes=raw.notes + rare + splits.thin(parts),
        roles=_roles(raw, preprocess),
        _sealed=sealed,
    )


def _roles(raw: Raw, preprocess: Preprocess) -> tuple[Role, ...]:
    """A table's columns in the order of its file."""
    if not isinstance(raw.inputs, Table):
        return raw.roles
    roles = [*raw.roles, *columns_of.inputs(raw.inputs, preprocess.cycles, preprocess.categories)]
    return tuple(sorted(roles, key=lambda role: raw.order.index(role.column)))


def _split(preprocess: Preprocess, raw: Raw, places: np.ndarray, rows: np.ndarray, room: float) -> Split:
    """The rows of `raw` at `places`, ready for training: inputs preprocessed, and targets too where they are text.

    Where there is no `room` the inputs are written to the cache, a few thousand rows at a time, and mapped.
    """
    targets = raw.targets.values[places]
    if targets.dtype.kind == "T":
        targets = preprocess.apply(targets)
    if room or raw.modality == TEXT or not len(places):
        return Split(preprocess.apply(raw.take(places)), targets, rows)

    def fill(out: np.ndarray) -> None:
        for start in range(0, len(places), _CHUNK):
            part = slice(start, start + _CHUNK)
            out[part] = preprocess.apply(raw.take(places[part]))

    meaning = json.dumps(preprocess.to_dict(), sort_keys=True).encode() + places.astype("<i8").tobytes()
    key = hashlib.sha256(raw.digest.encode() + meaning).hexdigest()
    inputs = streams.mapped(key, (len(places), *preprocess.inputs), np.float32, fill)
    return Split(inputs, targets, rows)
