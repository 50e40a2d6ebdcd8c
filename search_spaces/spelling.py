"""Near names: what a person may have meant, where one or two letters are wrong, missing, added or exchanged.

Knows text alone.
"""

from __future__ import annotations

from collections.abc import Iterable

_LONGEST = 100  # characters that are compared
_LETTERS = 3  # for each so many letters one may be wrong: more, and another word was meant


def nearest(name: object, known: Iterable[str]) -> str | None:
    """The known name with the fewest letters wrong, the first of equals; None where too many are."""
    mine = str(name).lower()[:_LONGEST]
    best, fewest = None, _LONGEST
    for candidate in known:
        other = candidate.lower()[:_LONGEST]
        allowed = max(len(mine), len(other)) // _LETTERS
        if abs(len(mine) - len(other)) <= allowed and (wrong := distance(mine, other)) <= allowed and wrong < fewest:
            best, fewest = candidate, wrong
    return best


def distance(one: str, two: str) -> int:
    """How many letters to change, add, remove or exchange with their neighbours until one is the other."""
    before: list[int] = []
    row = list(range(len(two) + 1))
    for at, letter in enumerate(one, start=1):
        earlier, before, row = before, row, [at]
        for to, other in enumerate(two, start=1):
            cost = min(before[to] + 1, row[to - 1] + 1, before[to - 1] + (letter != other))
            if at > 1 and to > 1 and letter == two[to - 2] and one[at - 2] == other:
                cost = min(cost, earlier[to - 2] + 1)
            row.append(cost)
    return row[-1]
