"""Cells of a column as numbers: plain ones, and those of other notations, such as 1,5 or $1,250 or 45%.

Knows how people write numbers. Must never know files or what a column is for.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from tuner.data.text_columns import TEXT_DTYPE, Texts

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "-", "#n/a", "<na>"})  # in a column of numbers
_SPACES = " \u00a0\u202f"
_STYLES: Mapping[str, tuple[re.Pattern[str], Callable[[str], str]]] = {
    "decimal comma": (
        re.compile(r"[+-]?(\d{1,3}(\.\d{3})+(,\d+)?|\d+(,\d+)?|,\d+)([eE][+-]?\d+)?"),
        lambda text: text.replace(".", "").replace(",", "."),
    ),
    "thousands comma": (
        re.compile(r"[+-]?(\d{1,3}(,\d{3})+|\d+)(\.\d*)?"),
        lambda text: text.replace(",", ""),
    ),
    "thousands space": (
        re.compile(rf"[+-]?(\d{{1,3}}([{_SPACES}]\d{{3}})+|\d+)([.,]\d*)?"),
        lambda text: re.sub(rf"[{_SPACES}]", "", text).replace(",", "."),
    ),
    "thousands apostrophe": (
        re.compile(r"[+-]?(\d{1,3}(['’]\d{3})+|\d+)(\.\d*)?"),
        lambda text: re.sub("['’]", "", text),
    ),
    "plain": (re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"), str),
}
_PLAIN, _COMMA = "plain", "decimal comma"
_LONGEST = 64  # characters of a number
_SIGN = "$€£¥₹₽₩%"
_SIGNED = re.compile(rf"([+-]?)\s*([{_SIGN}])?\s*(.*?)\s*([{_SIGN}])?", re.DOTALL)
_LIKE_A_NUMBER = re.compile(r"[^\w\s]{0,2}\s*\d[\d\s.,'’]*\s*(?P<unit>[^\W\d_]{1,3}[²³]?|[^\w\s]{1,2})?")
_ORDINALS = frozenset({"st", "nd", "rd", "th"})
_CODE = re.compile(r"0\d+")


@dataclass(frozen=True)
class Numbers:
    """Cells read as numbers: float64, NaN where there is none, because the cell is missing or because it is text.

    `notation` is empty where they are as a program writes them.
    """

    values: np.ndarray
    is_text: np.ndarray
    notation: str = ""

    @property
    def mostly(self) -> bool:
        """Whether more cells are numbers than are text."""
        return bool(self.is_text.sum() < np.isfinite(self.values).sum())


def numbers(
    cells: np.ndarray | Texts, separator: str = ",", notation: str | None = None, marks: Iterable[str] = ()
) -> Numbers:
    """Texts, or float64 [N], as numbers; `marks` are texts that stand for a missing one.

    Where `notation` is None it is the one that reads most of the column, if more than without any: behind other
    separators than a comma a comma is a decimal one rather than one of thousands. A column that was read in a
    `notation` before is read in it again, whatever its cells; unless it has numbers with a point alone, of which some
    are none in that notation: then another program wrote it.
    """
    if isinstance(cells, np.ndarray):
        return Numbers(cells, np.zeros(len(cells), bool))
    read = _of_distinct(cells.different, cells.counts, separator, notation, frozenset(marks))
    return Numbers(read.values[cells.places], read.is_text[cells.places], read.notation)


def _of_distinct(
    texts: np.ndarray, counts: np.ndarray, separator: str, notation: str | None, marks: frozenset[str]
) -> Numbers:
    """Different texts [D], each in so many cells, as numbers."""
    read = _plain(texts, marks)
    if notation:
        return read if notation == _PLAIN else _as_before(texts, read, notation)
    others = {text: int(count) for text, count in zip(texts[read.is_text].tolist(), counts[read.is_text], strict=True)}
    if not any(character.isdigit() for text in others for character in text):
        return read
    styles = [style for style in _STYLES if style != "plain"]
    if separator == ",":
        styles[:2] = styles[1::-1]
    best, most = read, 0
    for name in [f"{style}{sign}" for sign in _signs(others) for style in (_PLAIN, *styles)]:
        parsed = {text: _number(text, name) for text in others}
        count = sum(others[text] for text, value in parsed.items() if value is not None)
        pointed = np.isfinite(read.values) & (np.strings.find(texts, ".") >= 0)
        if count > most and _certain(int(counts[pointed].sum()), others, parsed, name):
            best, most = _in_notation(texts, read, name, parsed), count
    return best


def _as_before(texts: np.ndarray, read: Numbers, notation: str) -> Numbers:
    """In the notation of an earlier column."""
    parsed = {text: _number(text, notation) for text in texts[read.is_text].tolist()}
    made = _in_notation(texts, read, notation, parsed)
    lost = np.isfinite(read.values) & made.is_text
    return read if lost.any() and not (np.strings.find(texts, ",") >= 0).any() else made


def _certain(pointed: int, texts: Mapping[str, int], parsed: Mapping[str, float | None], notation: str) -> bool:
    """Whether a comma is a decimal one where the notation says so: 3,5 among many like 5.125 does not tell.

    `pointed` cells are numbers with a point; `texts` are those that are no plain numbers, each with its cells.
    """
    found = [text for text, value in parsed.items() if value is not None and "," in text]
    if not found or not notation.startswith((_COMMA, "thousands space")):
        return True
    if any(set(text) & set(f".{_SPACES}") for text in found):
        return True  # 1.250,50
    return sum(texts[text] for text in found) >= pointed


def _plain(texts: np.ndarray, marks: frozenset[str]) -> Numbers:
    if not (np.strings.find(texts, "_") >= 0).any():  # 1_000 is a number to Python alone
        with contextlib.suppress(ValueError):  # some text is none
            return Numbers(texts.astype(np.float64), np.zeros(len(texts), bool))
    values, is_text = np.full(len(texts), np.nan), np.zeros(len(texts), bool)
    for place, text in enumerate(texts.tolist()):
        try:
            values[place] = float(text.replace("_", "no number"))
        except ValueError:
            is_text[place] = text.strip().lower() not in MISSING and text.strip() not in marks
    return Numbers(values, is_text)


def _signs(texts: Iterable[str]) -> list[str]:
    """What stands before or behind the numbers: nothing, or `, $` and the like where a text has one."""
    found = sorted({character for text in texts if len(text) <= _LONGEST for character in text} & set(_SIGN))
    return ["", *(f", {sign}" for sign in found)]


def _number(text: str, notation: str) -> float | None:
    """`text` in a notation, `decimal comma` or `plain, %`; None where it is none."""
    if len(text) > _LONGEST:
        return None
    style, _, sign = notation.partition(", ")
    pattern, plain = _STYLES[style]
    minus, before, rest, behind = _SIGNED.fullmatch(text.strip()).groups()  # type: ignore[union-attr] # takes any text
    if {before, behind} - {None, sign} or (before and behind) or not pattern.fullmatch(minus + rest):
        return None
    return float(plain(minus + rest))


def _in_notation(texts: np.ndarray, read: Numbers, notation: str, parsed: Mapping[str, float | None]) -> Numbers:
    """A number without a point may stand in any of them; 1.5 where most write 1,5 may be either, and is text."""
    values, is_text = read.values.copy(), read.is_text.copy()
    for place in np.flatnonzero(read.is_text).tolist():
        value = parsed[texts[place]]
        values[place], is_text[place] = (np.nan, True) if value is None else (value, False)
    if notation.startswith(_COMMA):
        for place in np.flatnonzero(np.strings.find(texts, ".") >= 0).tolist():
            value = _number(texts[place], notation)
            values[place], is_text[place] = (np.nan, True) if value is None else (value, False)
    return Numbers(values, is_text, "" if notation == _PLAIN else notation)


def like_numbers(texts: Iterable[str]) -> bool:
    """Whether texts, each different, are nearly all a number with one and the same thing behind it."""
    matches = [_LIKE_A_NUMBER.fullmatch(text) for text in texts]
    units = Counter(match["unit"] or "" for match in matches if match)
    unit, count = units.most_common(1)[0] if units else ("", 0)
    return count >= max(5, 0.9 * len(matches)) and unit.lower() not in _ORDINALS


def has_leading_zeros(cells: np.ndarray | Texts) -> str:
    """A text such as 007, which another program takes for a name; empty where there is none."""
    texts = cells.sorted() if isinstance(cells, Texts) else []
    return next((text for text in texts if _CODE.fullmatch(text)), "")


def are_codes(cells: np.ndarray | Texts) -> bool:
    """Whether names would be lost by reading them as numbers: 007 would be 7, and 1.10 the same as 1.1."""
    if isinstance(cells, np.ndarray):
        return False
    texts = {text.strip() for text in cells.different.tolist()}
    if any(map(_CODE.fullmatch, texts)):
        return True
    read = _plain(np.array(sorted(texts), TEXT_DTYPE), frozenset())
    finite = read.values[np.isfinite(read.values)]
    written = {re.sub(r"\.0*$", "", text).lstrip("+") for text in texts if text and text.lower() not in MISSING}
    return len(written) - int(read.is_text.sum()) > len(np.unique(finite))
