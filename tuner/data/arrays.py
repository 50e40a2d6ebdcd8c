"""Arrays of a person's own, from an npz file or a function: what they must be, and what they mean.

Knows arrays and where they came from. Must never know splits or normalisation.
"""

from __future__ import annotations

import numpy as np

from tuner.data import targets as targets_of
from tuner.data.column_kinds import LARGEST
from tuner.data.raw import Raw
from tuner.data.tables import first
from tuner.data.text_columns import TEXT_DTYPE
from tuner.errors import DataError
from tuner.models.interface import IMAGE, NUMBERS, SEQUENCE, TEXT

_DIMENSIONS = {NUMBERS: (2, 3, 4), IMAGE: (3, 4), SEQUENCE: (2, 3), TEXT: (1, 2)}
_EXPECTED = {
    NUMBERS: "[N, features], [N, H, W] or [N, H, W, channels]",
    IMAGE: "images [N, H, W] or [N, H, W, channels]",
    SEQUENCE: "sequences [N, T, features] or [N, T]",
    TEXT: "numbers, or texts [N]",
}


def named(name: str, values: np.ndarray) -> tuple[str, ...]:
    """`name` for a vector [N] or [N, 1], `name0 … nameF-1` for [N, F]."""
    width = 1 if values.ndim == 1 else values.shape[1]
    return (name,) if width == 1 else tuple(f"{name}{i}" for i in range(width))


def of_arrays(
    where: str,
    name: str,
    x: np.ndarray,
    y: np.ndarray,
    *,
    lengths: np.ndarray | None = None,
    label: str = "y",
    task: str | None = None,
    modality: str | None = None,
) -> Raw:
    """Inputs `x` with their targets `y`; `lengths` [N] are the real steps of sequences that differ in length.

    Raises DataError that begins with `where` for arrays of other shapes or types, numbers that are not
    finite, and lengths beyond the array. What stands behind a sequence's length is never looked at.
    """
    x, y = decoded(where, "x", x), decoded(where, label, y)
    told = modality or _told(x, lengths)
    problems = [*_input_problems(where, x, lengths, told, modality), *_label_problems(where, x, y, label)]
    if problems:
        raise DataError(problems)
    masked = lengths is not None and bool((lengths != lengths.max()).any())
    if told == SEQUENCE:
        x = x if x.ndim == 3 else x[..., None]
        if lengths is not None:
            x = x[:, : lengths.max()]
            real = np.arange(x.shape[1]) < lengths[:, None]
            x = np.where(real[..., None], x, np.nan).astype(np.result_type(x.dtype, np.float32)) if masked else x
    problems = [*finite_problems(where, "x", x, lengths), *finite_problems(where, label, y, None)]
    if problems:
        raise DataError(problems)
    if y.dtype.kind in "iuf":
        found = targets_of.of_numbers(y.astype(np.float64), task, named(label, y), where)
    else:
        found = targets_of.of_labels(y.reshape(-1), task, label, where)
    if told == TEXT:
        return Raw(name, TEXT, x.reshape(-1).astype(TEXT_DTYPE), found, ("x",))
    if told == NUMBERS:
        x = x.reshape(len(x), -1)
    return Raw(name, told, x, found, named("x", x) if told == NUMBERS else (), masked)


def of_steps(where: str, x: np.ndarray, lengths: np.ndarray | None) -> np.ndarray:
    """New sequences, checked, the steps behind their lengths NaN. Raises DataError."""
    problems = _input_problems(where, x, lengths, SEQUENCE, SEQUENCE)
    if not problems and lengths is not None:
        problems = finite_problems(where, "x", x, lengths)
    if problems:
        raise DataError(problems)
    if lengths is None:
        return x
    x = x[:, : lengths.max()]
    real = np.arange(x.shape[1]) < lengths[:, None]
    return np.where(real if x.ndim == 2 else real[..., None], x, np.nan)


def _told(x: np.ndarray, lengths: np.ndarray | None) -> str:
    """What the arrays look like where nobody says."""
    if x.dtype.kind in "UT":
        return TEXT
    if lengths is not None:
        return SEQUENCE
    return NUMBERS if x.ndim == 2 else IMAGE


def _input_problems(
    where: str, x: np.ndarray, lengths: np.ndarray | None, told: str, modality: str | None
) -> list[str]:
    certain = modality is not None or told == SEQUENCE
    dimensions = _DIMENSIONS[told if certain else NUMBERS]
    expected = _EXPECTED[told if certain else NUMBERS]
    if told == TEXT:
        return _text_problems(where, x)
    if x.dtype.kind not in "biuf":
        return [f"{where}: x: expected numbers, got {x.dtype}"]
    if x.ndim not in dimensions or x.size == 0:
        images = lengths is not None and x.ndim == 4
        remedy = "; it has lengths: images are of one size, and have none" if images else ""
        return [f"{where}: x: expected {expected}, got {list(x.shape)}{remedy}"]
    if told != SEQUENCE and x.ndim == 4 and _channels_first(x.shape, certain):
        got = f"got {list(x.shape)}, which looks like channels first; save x.transpose(0, 2, 3, 1)"
        other = ", or say data.modality: image if the channels are last" if x.shape[1] not in (1, 3) else ""
        return [f"{where}: x: expected images [N, H, W, channels], {got}{other}"]
    if lengths is None:
        return []
    if told != SEQUENCE:
        return [f"data.modality: expected sequence, because {where} has lengths, got {told}"]
    if lengths.shape != x.shape[:1] or lengths.dtype.kind not in "iu":
        return [f"{where}: lengths: expected a whole number for each of {len(x)} sequences, got {_seen(lengths)}"]
    complaints = [
        f"{where}: lengths[{row}] (row {row + 1}): expected from 1 to {x.shape[1]} steps, got {lengths[row]}"
        for row in np.flatnonzero((lengths < 1) | (lengths > x.shape[1])).tolist()
    ]
    return first(complaints, 5, f"{where}: lengths")


def _channels_first(shape: tuple[int, ...], certain: bool) -> bool:
    """Whether [N, …] of four axes looks like [N, channels, H, W]; what a person has named is doubted less."""
    first_axis, height, width = shape[1:]
    if first_axis in (1, 3):
        return width > 4
    fewer = first_axis < height == width or 2 * first_axis <= min(height, width) >= max(height, width) / 2
    return width > 4 and fewer and not certain


def decoded(where: str, name: str, values: np.ndarray) -> np.ndarray:
    """Bytes as the text that they are; anything else as it is. Raises DataError for bytes that are no UTF-8."""
    if values.dtype.kind != "S":
        return values
    try:
        return np.strings.decode(values, "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: {name}: expected text in UTF-8, got other bytes ({error.reason}); decode it"
        ) from None


def _text_problems(where: str, x: np.ndarray) -> list[str]:
    if x.dtype.kind not in "UT" or x.size == 0 or x.size != len(x):
        return [f"{where}: x: expected {_EXPECTED[TEXT]}, got {_seen(x)}"]
    empty = np.flatnonzero(np.strings.str_len(x.reshape(-1)) == 0).tolist()
    return first([f"{where}: x[{row}] (row {row + 1}): expected text, got none" for row in empty], 5, f"{where}: x")


def _label_problems(where: str, x: np.ndarray, y: np.ndarray, label: str) -> list[str]:
    texts = y.dtype.kind not in "iuf"
    if y.ndim not in (1, 2) or (y.ndim == 2 and texts and y.shape[1] > 1) or y.dtype.kind not in "biufUT" or not y.size:
        return [f"{where}: {label}: expected labels [N] or numbers [N, targets], got {_seen(y)}"]
    if x.ndim and len(x) != len(y):
        return [f"{where}: expected as many rows in {label} as in x, got {len(y)} and {len(x)}"]
    return []


def finite_problems(where: str, name: str, values: np.ndarray, lengths: np.ndarray | None) -> list[str]:
    """A complaint for each number that is none, or too large; not about the padding behind `lengths`."""
    if values.dtype.kind != "f":
        return []
    wide = values.dtype.itemsize > 4  # narrower ones hold nothing larger, and would take the bound for infinity
    bad = ~(np.abs(values) <= LARGEST) if wide else ~np.isfinite(values)
    if lengths is not None:
        real = np.arange(values.shape[1]) < lengths[:, None]
        bad &= real if values.ndim == 2 else real[..., None]
    complaints = [
        f"{where}: {name}{at} (row {at[0] + 1}): expected a number up to 3.4e38, got {values[tuple(at)]}; "
        "correct it or remove the row"
        for at in np.argwhere(bad).tolist()
    ]
    return first(complaints, 5, f"{where}: {name}")


def _seen(values: np.ndarray) -> str:
    return f"{values.dtype} {list(values.shape)}"
