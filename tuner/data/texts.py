"""Texts: one long text as windows of characters, each with those that follow, and characters as tokens.

Knows strings. Must never know files of tables, nor networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tuner.data.raw import Raw
from tuner.data.tables import not_utf8
from tuner.data.targets import Targets
from tuner.data.text_columns import TEXT_DTYPE
from tuner.errors import DataError
from tuner.models.interface import LANGUAGE, TEXT, UNKNOWN

LENGTH = 64  # characters of a window unless the study says
_WINDOWS = 16  # of a block; neighbours are alike, so whole blocks are shared out among the splits
_BLOCKS = 20  # at least, where the text is long enough, so that each split gets its share


def read_text(path: Path) -> str:
    """A file of UTF-8 text, its lines ended by newlines alone. Raises DataError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(not_utf8(path)) from None


def corpus(name: str, where: str, text: str, length: int | None) -> Raw:
    """Windows of `length` characters (64 unless named), each predicted one character on.

    The text is cut into blocks of up to 16 windows and one character more, which no two blocks share,
    and a split takes whole blocks. What is left over behind the last whole window is left out.
    Raises DataError for a text with fewer than three windows.
    """
    length = LENGTH if length is None else length
    whole = len(text) // (length + 1)
    if whole < 3:
        raise DataError(
            f"{where}: expected at least {3 * (length + 1):,} characters, three windows of data.length + 1, "
            f"got {len(text):,}; use a longer text or a smaller data.length"
        )
    per_block = max(1, min(_WINDOWS, whole // _BLOCKS))
    block = per_block * length + 1
    starts = [
        (number, at)
        for number, start in enumerate(range(0, len(text), block))
        for at in range(start, start + per_block * length, length)
        if at + length < len(text)
    ]
    inputs = np.array([text[at : at + length] for _, at in starts], TEXT_DTYPE)
    following = np.array([text[at + 1 : at + length + 1] for _, at in starts], TEXT_DTYPE)
    groups = np.array([number for number, _ in starts])
    return Raw(name, TEXT, inputs, Targets(LANGUAGE, following, None, ("next",)), ("text",), groups=groups)


def codes(texts: Sequence[str]) -> np.ndarray:
    """The code points of all characters of all texts, one after the other: uint32."""
    return np.frombuffer("".join(texts).encode("utf-32-le"), "<u4")


def tokens(texts: np.ndarray, characters: str, longest: int, *, end: bool) -> np.ndarray:
    """Texts [N] → int64 [N, longest]: the first characters of each, or those at its `end`; padding behind shorter ones.

    `characters` are known, in order: the first is token 2.
    """
    cut = [text[-longest:] if end else text[:longest] for text in texts.tolist()]
    known = np.array([ord(character) for character in characters], "<u4")
    given = codes(cut)
    places = np.searchsorted(known, given).clip(max=max(len(known) - 1, 0))
    found = known[places] == given if len(known) else np.zeros(len(given), bool)
    made = np.zeros((len(cut), longest), np.int64)
    real = np.arange(longest) < np.array([len(text) for text in cut])[:, None]
    made[real] = np.where(found, places + UNKNOWN + 1, UNKNOWN)
    return made
