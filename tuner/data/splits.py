"""Who is in training, validation and test: seeded, stratified, disjoint.

Knows row numbers and class labels. Must never know what stands in a row.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from tuner.errors import DataError
from tuner.seeds import derive

_FEW = 5


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
    numbers: np.ndarray | None = None,
) -> Rows:
    """Share `count` rows out by the shares `validation` and `test`; training gets the rest.

    With `labels` (int [count], numbers into `classes`) every class is shared out by itself. A split's
    part is its share, rounded, but no split stays empty. The test rows depend on the seed and the
    test share, not on the validation share. Rows of one number in `groups` (int [count]) stay together:
    whole groups are shared out, each by the class of its first row. `numbers` (int [count]) are the rows'
    own in the source, for messages.

    Raises DataError for shares that leave no training rows, and for a class, or a source, with fewer
    rows than there are splits.
    """
    problems = _share_problems(validation, test)
    if problems:
        raise DataError(problems)
    if groups is not None:
        _, firsts, group_of = np.unique(groups, return_index=True, return_inverse=True)
        labels = None if labels is None else labels[firsts]
        whole = split(len(firsts), labels, classes, validation=validation, test=test, seed=seed, source=source)
        return Rows(*(np.flatnonzero(np.isin(group_of, part)) for part in (whole.train, whole.validation, whole.test)))
    strata = [np.arange(count)] if labels is None else [np.flatnonzero(labels == c) for c in range(len(classes or ()))]
    parts = 2 if test == 0 else 3
    if classes is None and count < parts:
        raise DataError(f"{source}: expected {parts} rows or more, one for every split, got {count}; add rows")
    named = np.arange(count) if numbers is None else numbers
    rare = [
        f"'{classes[c]}' in {_rows(named[group])}" for c, group in enumerate(strata) if classes and len(group) < parts
    ]
    if rare:
        more = f" and {len(rare) - 5} more classes" if len(rare) > 5 else ""
        raise DataError(
            f"{source}: expected {parts} rows or more of every class, one for every split, "
            f"got {', '.join(rare[:5])}{more}; add rows or remove the class"
            + (", or set data.test: 0, which asks for two" if parts == 3 else "")
        )
    words = np.random.PCG64(derive(seed, "split")).random_raw(count)  # numpy promises never to change these
    train, held, tested = [], [], []
    for group in strata:
        shuffled = group[np.argsort(words[group], kind="stable")]
        size = len(shuffled)
        out = 0 if test == 0 else max(1, min(round(size * test), size - 2))
        kept = max(1, min(round(size * validation), size - out - 1))
        tested.append(shuffled[:out])
        held.append(shuffled[out : out + kept])
        train.append(shuffled[out + kept :])
    return Rows(*(np.sort(np.concatenate(part)).astype(np.int64) for part in (train, held, tested)))


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
