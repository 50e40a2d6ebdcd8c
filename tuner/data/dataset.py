"""A data set ready for training: normalised splits, the test rows shut away until the search is over.

Joins sources, splits and preprocessing. Must never know trials or search, nor open the test rows
for anybody who does not call `open_test`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from models.interface import Signature
from tuner.data import sources, splits
from tuner.data.preprocess import Preprocess
from tuner.data.tables import Table
from tuner.errors import DataError


@dataclass(frozen=True)
class Split:
    """Some rows of a data set.

    `inputs` float32 [N, *signature.inputs], normalised; `targets` int64 [N] (classes) or float32
    [N, T] (numbers in their own unit); `rows` int64 [N], the rows' numbers in the source, from 0.
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
    (None in a regression).
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
    _sealed: tuple[Table | np.ndarray, np.ndarray, np.ndarray] = field(repr=False)  # test: raw inputs, targets, rows

    def open_test(self) -> Split:
        """The test rows, treated as the training rows were. Raises DataError where none were set aside."""
        raw, targets, rows = self._sealed
        if not len(rows):
            raise DataError(f"data.test: expected a share above 0 to test on, got 0 for {self.name}")
        return Split(self.preprocess.apply(raw), targets, rows)


def load(
    source: str,
    *,
    target: str | Sequence[str] | None = None,
    task: str | None = None,
    modality: str | None = None,
    validation: float = 0.2,
    test: float = 0.2,
    seed: int = 0,
    folder: str | Path = ".",
) -> Dataset:
    """Read `source`, split it by `seed` and normalise it by its training rows.

    `source` is `mnist`, `digits`, `breast_cancer`, or a .csv, .parquet or .npz file, relative to
    `folder`. `target` names the column to predict (several for a regression; in an npz the array,
    `y` unless named). `task` and `modality` are told from the data unless given. `validation` and
    `test` are shares of all rows.

    Raises DataError with every problem found, each with its file, row and column.
    """
    raw = sources.read(source, target=target, task=task, modality=modality, folder=Path(folder))
    labels, classes = raw.targets.values, raw.targets.classes
    parts = splits.split(
        len(labels),
        None if classes is None else labels,
        classes,
        validation=validation,
        test=test,
        seed=seed,
        source=source,
    )
    train = raw.take(parts.train)
    preprocess = Preprocess.fit(
        train, modality=raw.modality, columns=raw.columns, classes=classes, targets=raw.targets.names
    )
    return Dataset(
        name=raw.name,
        signature=Signature(raw.targets.task, raw.modality, preprocess.inputs, raw.targets.outputs),
        train=Split(preprocess.apply(train), labels[parts.train], parts.train),
        validation=Split(preprocess.apply(raw.take(parts.validation)), labels[parts.validation], parts.validation),
        digest=raw.digest,
        split_digest=parts.digest,
        rows={"train": len(parts.train), "validation": len(parts.validation), "test": len(parts.test)},
        preprocess=preprocess,
        classes=classes,
        _sealed=(raw.take(parts.test), labels[parts.test], parts.test),
    )
