"""What makes a score look better than it is: rows on both sides of a split, and a column that gives the target away.

Knows a data set's training and validation rows as they are encoded. Never opens the test rows.
"""

from __future__ import annotations

import numpy as np

from tuner.data.dataset import Dataset
from tuner.models.interface import NUMBERS

_MOST_ROWS = 500_000
_BINS = 64
_SURE, _EASY = 0.99, 0.95  # shares of rows: told by one column alone; told by the commonest class
_EXPLAINED = 0.999  # of a number's variance


def warnings(dataset: Dataset) -> list[str]:
    """A line each; none for data other than tables of numbers and categories, or for more rows than are looked at."""
    train, validation = dataset.train, dataset.validation
    columns = dataset.preprocess.columns
    if dataset.signature.modality != NUMBERS or not columns or len(train) + len(validation) > _MOST_ROWS:
        return []
    return [*_repeated(train.inputs, validation.inputs), *_telling(dataset)]


def _repeated(train: np.ndarray, validation: np.ndarray) -> list[str]:
    known = set(_rows(train))
    count = sum(row in known for row in _rows(validation))
    if not count or len(known) < len(train) / 2:  # a few categories repeat by themselves
        return []
    return [f"{count:,} of {len(validation):,} validation rows have the inputs of a training row; split by group?"]


def _rows(inputs: np.ndarray) -> list[bytes]:
    whole = np.ascontiguousarray(inputs)
    return [row.tobytes() for row in whole.view(np.dtype((np.void, whole.strides[0]))).ravel()]


def _telling(dataset: Dataset) -> list[str]:
    """Columns of which one alone tells nearly every validation row's target."""
    sources = np.array(dataset.preprocess.sources)
    found = []
    for name in dataset.preprocess.columns:
        at = np.flatnonzero(sources == name)
        train, validation = _values(dataset.train.inputs[:, at]), _values(dataset.validation.inputs[:, at])
        share = _told(train, validation, dataset)
        if share is not None:
            found.append(f"column '{name}' alone tells the target of {share}; is it known when a prediction is wanted?")
    return found


def _values(inputs: np.ndarray) -> np.ndarray:
    """One number a row of a column's inputs [N, F]: the number itself, or which category."""
    hot = inputs.shape[1] > 1 and bool(np.isin(inputs, (0, 1)).all())
    return inputs.argmax(axis=1) + inputs.any(axis=1) if hot else inputs[:, 0]


def _told(train: np.ndarray, validation: np.ndarray, dataset: Dataset) -> str | None:
    edges = np.unique(train)
    if len(edges) > _BINS:
        edges = np.unique(np.quantile(train, np.linspace(0, 1, _BINS + 1)))
    if len(edges) < 2:
        return None
    bins, new = (np.searchsorted(edges, values, side="right") for values in (train, validation))
    y, wanted = dataset.train.targets, dataset.validation.targets
    if dataset.classes is None:
        if y.shape[1] > 1:
            return None
        spread = float(((wanted - y.mean()) ** 2).sum())
        slope, start = np.polyfit(train, y[:, 0], 1)
        sums = np.bincount(bins, y[:, 0], len(edges) + 1) / np.maximum(np.bincount(bins, minlength=len(edges) + 1), 1)
        errors = [float(((wanted[:, 0] - guess) ** 2).sum()) for guess in (sums[new], slope * validation + start)]
        explained = 1 - min(errors) / spread if spread else 0.0
        return f"the validation rows to {explained:.2%} of its variance" if explained >= _EXPLAINED else None
    counts = np.zeros((len(edges) + 1, len(dataset.classes)), np.int64)
    np.add.at(counts, (bins, y), 1)
    share = float((counts.argmax(axis=1)[new] == wanted).mean())
    common = float((np.bincount(y).argmax() == wanted).mean())
    return f"{share:.1%} of the validation rows" if share >= _SURE and common < _EASY else None
