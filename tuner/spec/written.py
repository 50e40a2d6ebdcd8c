"""A study as a person wrote it: values, where each of them stands, and what the command line put over them.

Knows the file and its lines; never what a key means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tuner import search_spaces
from tuner.search_spaces import SearchSpace, SpaceError
from tuner.search_spaces.document import Document, Keys, Problem, describe, dotted, shorten

_LONGEST = 1_500  # characters of a message; the longest of ours lists every hyperparameter


@dataclass
class Written:
    """A study as it was written: values, and where each of them stands."""

    data: dict[str, Any]
    folder: Path
    text: str = ""
    document: Document | None = None
    flags: dict[Keys, str] = field(default_factory=dict)  # what the command line set, by path
    unread: tuple[Problem, ...] = ()  # where the YAML itself is wrong

    def _flag(self, path: Keys) -> tuple[Keys, str] | None:
        """What the command line set at, above or, where the file says nothing of it, below `path`."""
        for length in range(len(path), 0, -1):
            start = path[:length]
            if start in self.flags:
                return start, self.flags[start]
        for length in range(len(path), 0, -1):
            start = path[:length]
            if self.document is None or start in self.document.positions:
                return None
            for place, flag in self.flags.items():
                if place[:length] == start:
                    return place, flag
        return None

    def line(self, path: Keys, message: str) -> str:
        """One printable problem: one line, whatever a person's text or a network's error holds."""
        message = shorten(message, _LONGEST)
        found = self._flag(path)
        if found is not None:
            place, flag = found
            return f"{flag}: {message}" if place == path else f"{flag}: {dotted(path)}: {message}"
        if self.document is not None:
            return str(self.document.problem(path, message))
        return f"{dotted(path)}: {message}" if path else message

    def place(self, path: Keys) -> tuple[int, int]:
        """Sorts problems in the order of the file, the command line's first."""
        if self._flag(path) is not None:
            return (0, 0)
        return self.document.where(path) if self.document is not None else (1, 1)

    def lines(self, mistakes: Iterable[tuple[Keys, str]]) -> list[str]:
        """Printable problems in the order of the file; nothing more is said of what could not be read."""
        unread = {problem.path for problem in self.unread}
        placed = [((problem.line, problem.column), str(problem)) for problem in self.unread]
        placed += [
            (self.place(path), self.line(path, message))
            for path, message in mistakes
            if not any(dotted(path[:length]) in unread for length in range(1, len(path) + 1))
        ]
        return [line for _, line in sorted(placed, key=lambda one: one[0])]

    def set(self, path: Keys, value: Any, flag: str) -> str | None:
        """Put one value; the message of what is wrong, if anything."""
        if path[:2] == ("search", "space") and len(path) > 2:
            self._write_out(str(path[2]), whole=len(path) == 3)
        inner = self.data
        for depth, key in enumerate(path[:-1], 1):
            inner = inner.setdefault(str(key), {})
            if not isinstance(inner, dict):
                return f"expected a mapping at {dotted(path[:depth])}, got {describe(inner)}"
        inner[str(path[-1])] = value
        self.flags[path] = flag
        return None

    def _write_out(self, name: str, whole: bool) -> None:
        """Make room for a change inside a space that the file only names, or whose parameter it only includes."""
        search = self.data.get("search")
        if not isinstance(search, dict):
            return
        if isinstance(search.get("space"), str):
            search["space"] = {"include": search["space"]}
        space = search.get("space")
        if isinstance(space, dict) and not whole and name not in space:
            try:
                included = search_spaces.resolve(space, self.folder)
            except SpaceError:  # told when the whole file is checked
                return
            if name in included:
                space[name] = plain(included[name])


def plain(value: Any) -> Any:
    """Values as a file would hold them: fresh dicts and lists, sections as mappings, paths as text."""
    if isinstance(value, BaseModel):
        return plain(value.model_dump(exclude_unset=True))
    if isinstance(value, SearchSpace):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value
