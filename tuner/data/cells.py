"""Cells of a column as numbers: plain ones, and those of other notations, such as 1,5 or $1,250 or 45%.

Knows how people write numbers. Must never know files or what a column is for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

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
_SIGN = r"[$€£¥₹₽₩%]"
_SIGNED = re.compile(rf"([+-]?)\s*({_SIGN})?\s*(.*?)\s*({_SIGN})?", re.DOTALL)
_LIKE_A_NUMBER = re.compile(r"[^\w\s]{0,2}\s*\d[\d\s.,'’]*\s*(?P<unit>[^\W\d_]{1,3}[²³]?|[^\w\s]{1,2})?")
_ORDINALS = frozenset({"st", "nd", "rd", "th"})
_CODE = re.compile(r"[+-]?0\d+")


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


def numbers(cells: np.ndarray, separator: str = ",", notation: str | None = None, marks: Iterable[str] = ()) -> Numbers:
    """Cells [N] of text, or of float64, as numbers; `marks` are texts that stand for a missing one.

    A cell that is no number as it stands is read in `notation`, or where it is None in the one that reads
    most: behind other separators than a comma a comma is a decimal one rather than one of thousands.
    """
    if cells.dtype.kind == "f":
        return Numbers(cells, np.zeros(len(cells), bool))
    read = _plain(cells, frozenset(marks))
    texts = Counter(cells[read.is_text].tolist())
    if not texts or not (notation or any(character.isdigit() for text in texts for character in text)):
        return read
    styles = [style for style in _STYLES if style != "plain"]
    if separator == ",":
        styles[:2] = styles[1::-1]
    best, most = read, 0
    for name in (
        [notation] if notation else [f"{style}{sign}" for sign in _signs(texts) for style in ("plain", *styles)]
    ):
        parsed = {text: _number(text, name) for text in texts}
        count = sum(texts[text] for text, value in parsed.items() if value is not None)
        if count > most:
            best, most = _in_notation(cells, read, name, parsed), count
    return best


def _plain(cells: np.ndarray, marks: frozenset[str]) -> Numbers:
    try:
        values, is_text = cells.astype(np.float64), np.zeros(len(cells), bool)
    except ValueError:  # some cell is text or missing
        values, is_text = np.full(len(cells), np.nan), np.zeros(len(cells), bool)
        for row, text in enumerate(cells.tolist()):
            try:
                values[row] = float(text)
            except ValueError:
                is_text[row] = text.strip().lower() not in MISSING and text.strip() not in marks
    underlined = np.strings.find(cells, "_") >= 0  # 1_000 is a number to Python alone
    return Numbers(np.where(underlined, np.nan, values), is_text | underlined)


def _signs(texts: Iterable[str]) -> list[str]:
    """What stands before or behind the numbers: nothing, or `, $` and the like where a text has one."""
    found = sorted({character for text in texts for character in text if re.fullmatch(_SIGN, character)})
    return ["", *(f", {sign}" for sign in found)]


def _number(text: str, notation: str) -> float | None:
    """`text` in a notation, `decimal comma` or `plain, %`; None where it is none."""
    style, _, sign = notation.partition(", ")
    pattern, plain = _STYLES[style]
    minus, before, rest, behind = _SIGNED.fullmatch(text.strip()).groups()  # type: ignore[union-attr] # takes any text
    if {before, behind} - {None, sign} or (before and behind) or not pattern.fullmatch(minus + rest):
        return None
    return float(plain(minus + rest))


def _in_notation(cells: np.ndarray, read: Numbers, notation: str, parsed: Mapping[str, float | None]) -> Numbers:
    """A number without a point may stand in any of them; 1.5 where most write 1,5 may be either, and is text."""
    values, is_text = read.values.copy(), read.is_text.copy()
    for row in np.flatnonzero(read.is_text).tolist():
        value = parsed[cells[row]]
        values[row], is_text[row] = (np.nan, True) if value is None else (value, False)
    if notation.startswith("decimal comma"):
        for row in np.flatnonzero(np.strings.find(cells, ".") >= 0).tolist():
            value = _number(cells[row], notation)
            values[row], is_text[row] = (np.nan, True) if value is None else (value, False)
    return Numbers(values, is_text, notation)


def like_numbers(texts: Iterable[str]) -> bool:
    """Whether texts, each different, are nearly all a number with one and the same thing behind it."""
    matches = [_LIKE_A_NUMBER.fullmatch(text) for text in texts]
    units = Counter(match["unit"] or "" for match in matches if match)
    unit, count = units.most_common(1)[0] if units else ("", 0)
    return count >= max(5, 0.9 * len(matches)) and unit.lower() not in _ORDINALS


def has_leading_zeros(cells: np.ndarray) -> str:
    """The first text such as 007, which another program takes for a name; empty where there is none."""
    if cells.dtype.kind == "f":
        return ""
    return next((text for text in cells.tolist() if _CODE.fullmatch(text)), "")


def are_codes(cells: np.ndarray) -> bool:
    """Whether names would be lost by reading them as numbers: 007 would be 7, and 1.10 the same as 1.1."""
    if cells.dtype.kind == "f":
        return False
    texts = set(np.strings.strip(cells).tolist())
    if any(map(_CODE.fullmatch, texts)):
        return True
    read = _plain(np.array(sorted(texts), cells.dtype), frozenset())
    finite = read.values[np.isfinite(read.values)]
    written = {re.sub(r"\.0*$", "", text).lstrip("+") for text in texts if text and text.lower() not in MISSING}
    return len(written) - int(read.is_text.sum()) > len(np.unique(finite))
