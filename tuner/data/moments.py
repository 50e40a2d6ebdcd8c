"""Mean and deviation of numbers, a few thousand rows at a time.

Knows arrays, which may be mapped from a file. Must never know what they mean.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_SMALLEST = float(np.finfo(np.float32).tiny)  # a column that spreads less is a constant to float32
_CHUNK = 4_096  # rows read at once in float64; keeps a large source from doubling in memory


def channel_moments(raw: np.ndarray, rows: np.ndarray, flat: bool, masked: bool) -> list[tuple[float, float]]:
    """Moments of each channel or feature of these rows, or of all pixels where there are no channels."""

    def read(part: slice, channel: int) -> np.ndarray:
        values: np.ndarray = raw[rows[part]] if flat else raw[rows[part], ..., channel]
        return values[~np.isnan(values)] if masked else values

    return [
        _moments(len(rows), lambda part, channel=channel: read(part, channel))  # type: ignore[misc]
        for channel in range(1 if flat else raw.shape[-1])
    ]


def moments_of(values: np.ndarray) -> tuple[float, float]:
    return _moments(len(values), lambda part: values[part]) if len(values) else (0.0, 0.0)


def _moments(count: int, read: Callable[[slice], np.ndarray]) -> tuple[float, float]:
    """Mean and standard deviation in float64 of `count` rows; the deviation of a constant is exactly 0."""
    parts = [slice(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    bounds = [(float(values.min()), float(values.max()), values.size) for values in map(read, parts)]
    low, high, size = min(b[0] for b in bounds), max(b[1] for b in bounds), sum(b[2] for b in bounds)
    spread = high - low
    if spread < _SMALLEST:
        return low, 0.0
    mean = sum(float(_relative(read(part), low, spread).sum()) for part in parts) / size
    variance = sum(float(np.square(_relative(read(part), low, spread) - mean).sum()) for part in parts) / size
    return low + spread * mean, spread * variance**0.5


def _relative(values: np.ndarray, low: float, spread: float) -> np.ndarray:
    """Within 0 … 1, so that no square leaves float64."""
    return (values.astype(np.float64) - low) / spread
