"""A column of text: its different texts, and which of them stands in each row.

Most columns of text hold few different ones, so that what is asked of a text is asked of each different one once. Knows
texts alone; must never know files or tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import overload

import numpy as np

TEXT_DTYPE = np.dtypes.StringDType()


class Texts:
    """Texts of N rows: `different` [D], numpy's variable-length text, and each row's place among them, `places` [N]."""

    def __init__(self, different: np.ndarray, places: np.ndarray) -> None:
        self.different, self.places = different, places

    @classmethod
    def of(cls, cells: Sequence[str] | np.ndarray) -> Texts:
        """Those of a list, or of an array of text; the different ones in the order in which they appear."""
        listed = cells.tolist() if isinstance(cells, np.ndarray) else cells
        known: dict[str, int] = {}
        places = np.fromiter((known.setdefault(text, len(known)) for text in listed), np.intp, len(listed))
        return cls(np.array(list(known), TEXT_DTYPE), places)

    @classmethod
    def joined(cls, parts: Sequence[Texts]) -> Texts:
        """One column below the other."""
        known: dict[str, int] = {}
        places = []
        for part in parts:
            there = np.array([known.setdefault(text, len(known)) for text in part.different.tolist()], np.intp)
            places.append(there[part.places])
        return cls(np.array(list(known), TEXT_DTYPE), np.concatenate(places))

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, rows: int | np.integer) -> str: ...
    @overload
    def __getitem__(self, rows: np.ndarray | slice) -> Texts: ...
    def __getitem__(self, rows: int | np.integer | np.ndarray | slice) -> str | Texts:
        if isinstance(rows, int | np.integer):
            return str(self.different[self.places[rows]])
        places = self.places[rows]
        there = np.flatnonzero(np.bincount(places, minlength=len(self.different)))
        new = np.zeros(len(self.different), np.intp)
        new[there] = np.arange(len(there))
        return Texts(self.different[there], new[places])

    def tolist(self) -> list[str]:
        """Each row's."""
        texts = self.different.tolist()
        return [texts[place] for place in self.places.tolist()]

    def array(self) -> np.ndarray:
        """Each row's, numpy's variable-length text [N]."""
        found: np.ndarray = self.different[self.places]
        return found

    @property
    def counts(self) -> np.ndarray:
        """In how many rows each of `different` stands: int [D]."""
        found: np.ndarray = np.bincount(self.places, minlength=len(self.different))
        return found

    def sorted(self) -> list[str]:
        """The different ones in order."""
        return sorted(self.different.tolist())

    def stripped(self) -> Texts:
        """Without spaces round them."""
        return self._written(np.strings.strip(self.different))

    def replaced(self, others: Mapping[str, str]) -> Texts:
        """With others in the place of some texts, spaces round them aside."""
        return self._written([others.get(text.strip(), text) for text in self.different.tolist()])

    def _written(self, different: Sequence[str] | np.ndarray) -> Texts:
        """With the different texts written otherwise, so that some may be equal now."""
        new = Texts.of(different)
        return Texts(new.different, new.places[self.places])

    def places_in(self, known: Sequence[str]) -> np.ndarray:
        """Each row's place among these texts, −1 where it is none of them: int [N]."""
        there = {text: place for place, text in enumerate(known)}
        found: np.ndarray = np.array([there.get(text, -1) for text in self.different.tolist()], np.intp)[self.places]
        return found

    def are(self, text: str) -> np.ndarray:
        """Which rows hold that text: bool [N]."""
        found: np.ndarray = np.asarray(self.different == text)[self.places]
        return found
