"""Dates of a column as numbers: seconds since 1970, and the places in the year, the week and the day.

Knows how people write dates. Must never know files or what a column is for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product

import numpy as np

ISO = "ISO8601"
_DAYS = ("%Y/%m/%d", "%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%m/%d/%y", "%d/%m/%y", "%d.%m.%y")
_COMPACT = ("%Y%m%d", "%Y%m", "%Y")
_WORDS = ("%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%d-%b-%Y", "%d-%b-%y", "%a %b %d %Y", "%Y %b %d")
_TIMES = (" %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p", ", %H:%M", " %H:%M:%S.%f")
_LOOKS = re.compile(r".*\d{1,4}[-/.]\d{1,2}.*|.*\d.*[A-Za-z]{3}.*\d{2}.*|.*[A-Za-z]{3}.*\d.*\d{4}.*")
_LONGEST = 100  # characters of a date; the search for its look takes the cube of them
SAMPLE = 500  # cells that each format is tried on
_DAY = 86_400.0
_FIRST = -62_135_596_800.0  # of the year 1: what is read as an earlier one is no date
PERIODS = {
    "year": 365.2425 * _DAY,
    "week": 7 * _DAY,
    "day": _DAY,
}  # seconds; the week begins on a Thursday, as 1970 did


def format_of(texts: Sequence[str], *, told: bool = False) -> str | None:
    """The format that reads most of these texts, more than half of them; None where none does.

    Where a person has `told` that they are dates, 20240131 and 2024 may be some.

    Where day and month may be either, it is the order in which the dates ascend, else the month first.
    """
    sample = [text.strip() for text in texts[:: max(1, len(texts) // SAMPLE)][:SAMPLE]]  # from everywhere, in order
    if not sample or (
        not told and 2 * sum(len(text) <= _LONGEST and bool(_LOOKS.fullmatch(text)) for text in sample) <= len(sample)
    ):
        return None
    timed = sum(":" in text for text in sample) * 2 > len(sample)
    others = [day + time for day, time in product((*_DAYS, *_WORDS), _TIMES if timed else ("",))]
    best, score = None, (len(sample) / 2, False)
    for name in (*(_COMPACT if told else ()), ISO, *others):
        read = seconds(sample, name)
        real = read[~np.isnan(read)]
        reached = float(len(real)), bool(len(real) > 1 and (np.diff(real) >= 0).all())
        if reached[0] > len(sample) / 2 and reached > score:
            best, score = name, reached
    return best


def seconds(texts: Sequence[str], name: str) -> np.ndarray:
    """Seconds since 1970 in UTC, float64 [N], of texts in that format or in ISO 8601; NaN for what is no date."""
    import pandas as pd

    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}  # a day of many rows is read once
    series = pd.Series(list(places), dtype="object").str.strip()

    def read(format: str) -> np.ndarray:
        found = pd.to_datetime(series, format=format, errors="coerce", utc=True).dt.tz_convert(None)
        moments = found.to_numpy().astype("datetime64[us]")
        values = np.where(np.isnat(moments), np.nan, moments.astype(np.int64) / 1e6)
        return np.where(values < _FIRST, np.nan, values)

    found = read(name)
    if name != ISO and np.isnan(found).any():
        found = np.where(np.isnan(found), read(ISO), found)
    return found[[places[text] for text in texts]]


def cycles(values: np.ndarray) -> tuple[str, ...]:
    """The periods of which these seconds, NaN aside, cover a half or more; the day where there are times of day."""
    real = values[~np.isnan(values)]
    span = float(real.max() - real.min()) if len(real) else 0.0
    timed = bool((real % _DAY).any())
    return tuple(name for name, period in PERIODS.items() if span >= period / 2 and (timed or name != "day"))


def places(values: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
    """Sine and cosine of the place in each of these periods, float64 [N] each; 0 and 0 where there is no date."""
    angles = [2 * np.pi * ((values % PERIODS[name]) / PERIODS[name]) for name in names]
    return [np.nan_to_num(wave(angle)) for angle in angles for wave in (np.sin, np.cos)]


def written(values: np.ndarray) -> list[str | None]:
    """Seconds as ISO 8601, to the second or, where one has a fraction, to the microsecond; None where there is none."""
    real = np.where(np.isnan(values), 0.0, values)
    scale, unit = (1e6, "us") if (real % 1).any() else (1.0, "s")
    whole = np.round(real * scale).astype(np.int64).astype(f"datetime64[{unit}]")
    texts = np.datetime_as_string(whole).tolist()
    return [None if gone else text.replace("T", " ") for text, gone in zip(texts, np.isnan(values), strict=True)]
