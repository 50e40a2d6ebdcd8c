"""Who is in training, validation and test: seeded, stratified, disjoint.

Knows row numbers and class labels. Must never know what stands in a row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tuner.errors import DataError
from tuner.seeds import derive

_FEW = 5
TRAIN, VALIDATION, TEST = 0, 1, 2  # what a row is for, where the data say it


@dataclass(frozen=True)
class Rows:
    """Row numbers of the three splits, from 0, ascending: int64 arrays that share no row."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    @property
    def digest(self) -> str:
        """sha256 over the three lists."""
        whole = hashlib.sha256()
        for rows in (self.train, self.validation, self.test):
            whole.update(len(rows).to_bytes(8, "little") + rows.astype("<i8").tobytes())
        return whole.hexdigest()


def split(
    count: int,
    labels: np.ndarray | None,
    classes: tuple[str, ...] | None,
    *,
    validation: float,
    test: float,
    seed: int,
    source: str,
    groups: np.ndarray | None = None,
    times: np.ndarray | None = None,
    parts_of: np.ndarray | None = None,
    numbers: np.ndarray | None = None,
) -> Rows:
    """Share `count` rows out by the shares `validation` and `test`; training gets the rest.

    With `labels` (int [count], numbers into `classes`) every class is shared out by itself. A split's
    part is its share, rounded, but no split stays empty; a class with fewer rows than there are splits is in
    training alone (`rare_classes`). The test rows depend on the seed and the test share, not on the validation
    share. Rows of one number in `groups` (int [count]) stay together: whole groups are shared out, each by the
    class of its first row. With `times` (float [count]) the newest rows are test and the next validation, rows of
    one time together. With `parts_of` (int [count]: TRAIN, VALIDATION, TEST) a split is what it names; one that it
    does not name is shared out of the training rows. `numbers` (int [count]) are the rows' own in the source, for
    messages.

    Raises DataError for shares that leave no training rows, and where every class, or the source, has fewer
    rows than there are splits.
    """
    problems = _share_problems(validation, test)
    if problems:
        raise DataError(problems)
    if parts_of is not None:
        return _as_named(parts_of, labels, classes, validation=validation, test=test, seed=seed, source=source)
    if times is not None:
        return _by_time(times, validation, test, source)
    if groups is not None:
        _, firsts, group_of = np.unique(groups, return_index=True, return_inverse=True)
        labels = None if labels is None else labels[firsts]
        whole = split(len(firsts), labels, classes, validation=validation, test=test, seed=seed, source=source)
        return Rows(*(np.flatnonzero(np.isin(group_of, part)) for part in (whole.train, whole.validation, whole.test)))
    strata = [np.arange(count)] if labels is None else [np.flatnonzero(labels == c) for c in range(len(classes or ()))]
    parts = 2 if test == 0 else 3
    if classes is None and count < parts:
        raise DataError(f"{source}: expected {parts} rows or more, one for every split, got {count}; add rows")
    if classes and all(len(group) < parts for group in strata):
        raise DataError(_too_few(source, classes, strata, np.arange(count) if numbers is None else numbers, parts))
    words = np.random.PCG64(derive(seed, "split")).random_raw(count)  # numpy promises never to change these
    train, held, tested = [], [], []
    for group in strata:
        if classes and len(group) < parts:
            train.append(group)
            continue
        shuffled = group[np.argsort(words[group], kind="stable")]
        size = len(shuffled)
        out = 0 if test == 0 else max(1, min(round(size * test), size - 2))
        kept = max(1, min(round(size * validation), size - out - 1))
        tested.append(shuffled[:out])
        held.append(shuffled[out : out + kept])
        train.append(shuffled[out + kept :])
    return Rows(*(np.sort(np.concatenate(part)).astype(np.int64) for part in (train, held, tested)))


def _too_few(
    source: str, classes: tuple[str, ...], strata: Sequence[np.ndarray], numbers: np.ndarray, parts: int
) -> str:
    found = [f"'{classes[c]}' in {_rows(numbers[group])}" for c, group in enumerate(strata)]
    more = f" and {len(found) - 5} more classes" if len(found) > 5 else ""
    got = f"got {', '.join(found[:5])}{more}; add rows"
    told = f"{source}: expected {parts} rows or more of a class, one for every split, {got}"
    return told + (", or set data.test: 0, which asks for two" if parts == 3 else "")


def _as_named(
    parts_of: np.ndarray,
    labels: np.ndarray | None,
    classes: tuple[str, ...] | None,
    *,
    validation: float,
    test: float,
    seed: int,
    source: str,
) -> Rows:
    """What a column or a file names; the rest from the training rows, by its share of them."""
    train, held, tested = (np.flatnonzero(parts_of == part) for part in (TRAIN, VALIDATION, TEST))
    if not len(train):
        raise DataError(f"{source}: expected rows to train on, got validation and test rows alone")

    def shared(share: float) -> tuple[np.ndarray, np.ndarray]:
        own = None if labels is None else labels[train]
        rows = split(len(train), own, classes, validation=share, test=0, seed=seed, source=source)
        return train[rows.train], train[rows.validation]

    if not len(tested) and test:
        train, tested = shared(test)
    if not len(held):
        train, held = shared(validation)
    return Rows(train, held, tested)


def _by_time(times: np.ndarray, validation: float, test: float, source: str) -> Rows:
    """The oldest rows for training, then validation, the newest for the test."""
    order = np.argsort(times, kind="stable")
    count, sizes = len(order), ([validation, test] if test else [validation])
    borders = np.flatnonzero(np.diff(times[order]) > 0) + 1  # where a later time begins
    if len(borders) < len(sizes):
        raise DataError(f"{source}: expected {len(sizes) + 1} different times or more, got {len(borders) + 1}")
    cuts: list[int] = []
    for place in range(len(sizes)):
        free = borders[place : len(borders) - len(sizes) + place + 1]
        free = free[free > (cuts[-1] if cuts else 0)]
        cuts.append(int(free[np.abs(free - round(count * (1 - sum(sizes[place:])))).argmin()]))
    train, held, tested = np.split(order, cuts) if test else (*np.split(order, cuts), order[:0])
    return Rows(*(np.sort(part).astype(np.int64) for part in (train, held, tested)))


def rare_classes(labels: np.ndarray, classes: tuple[str, ...], rows: Rows) -> tuple[str, ...]:
    """For a person: classes of which no row is trained on, or none validated on."""
    notes = []
    for part, what in ((rows.train, "trained on"), (rows.validation, "validated on")):
        if lost := [c for c in range(len(classes)) if not (labels[part] == c).any()]:
            shown = ", ".join(f"'{classes[c]}' ({int((labels == c).sum())})" for c in lost[:5])
            more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
            notes.append(f"classes of which no row is {what} (and how many rows they have): {shown}{more}")
    return tuple(notes)


def thin(rows: Rows) -> tuple[str, ...]:
    """For a person: splits of so few rows that a score on them says little."""
    return tuple(
        f"data.{name}: expected {_FEW} rows or more to score on, got {len(part)}; add rows, or name a larger share"
        for name, part in (("validation", rows.validation), ("test", rows.test))
        if 0 < len(part) < _FEW
    )


def _share_problems(validation: float, test: float) -> list[str]:
    problems = [
        f"data.{name}: expected a share from 0 to below 1, got {share}"
        for name, share in (("validation", validation), ("test", test))
        if not 0 <= share < 1
    ]
    if validation == 0:
        problems.append("data.validation: expected a share above 0, got 0; the search needs rows to compare trials on")
    if not problems and validation + test >= 1:
        problems.append(f"data.validation: expected less than 1 together with data.test, got {validation:g} + {test:g}")
    return problems


def _rows(group: np.ndarray) -> str:
    """`row 3` or `rows 3, 7`, from 1 as a person counts."""
    return f"row{'' if len(group) == 1 else 's'} {', '.join(str(row + 1) for row in group)}"
