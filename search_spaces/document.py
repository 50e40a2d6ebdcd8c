"""Strict YAML with positions: plain values that remember on which line and column they were written.

Knows YAML and files; must never know what a study or a search space is. Stricter than YAML where
leniency hides mistakes: duplicate keys, anchors, aliases, tags, directives, tabs as indentation and
integers with a leading zero are refused, and a bare word is text unless it is a number, `true`,
`false` or `null` (YAML 1.2's core schema, so `1e-4` is a number and `no` is text).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    DocumentStartEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceStartEvent,
)

from tuner.search_spaces.spelling import nearest

Keys = tuple[str | int, ...]

MOST_BYTES = 1_000_000  # a study file is some kilobytes; more is a data file named by mistake
_MOST_DEPTH = 32  # the deepest legal nesting is about 6
_HOPELESS = 1_000  # after so many problems the rest of the file is not looked at
_MOST_PROBLEMS = 50  # more lines than this and nobody reads the first
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TABBED = re.compile(r"^ *\t[\t ]*(?=[^\s#])", re.MULTILINE)
_DIRECTIVE = re.compile(r"^%.*$", re.MULTILINE)
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
_BASED = {re.compile(r"0x[0-9a-fA-F]+"): 16, re.compile(r"0o[0-7]+"): 8}
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)")
_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}
_ADVICE = {  # what YAML's scanner says, and what a person should do about it
    "mapping values are not allowed here": "indent this line like its neighbours, or quote text that holds a colon",
    "could not find expected ':'": "write `key: value`",
    "found unexpected end of stream": "close the quotes",
    "expected ',' or": "close the bracket or add the comma",
    "expected <block end>": "indent this line like the other lines of its block",
    "found unknown escape character": "use single quotes, or write the backslash twice",
    "that cannot start any token": "put the text in quotes",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in one file. `line` and `column` count from 1; `message` is "expected …, got …; do …"."""

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        path = f"{self.path}: " if self.path else ""
        return f"{self.file}:{self.line}:{self.column}: {path}{self.message}"


class DocumentError(ValueError):
    """A file that cannot be read as strict YAML; `problems` holds every mistake that could be found at once.

    `document` is there where the file could be read to its end in spite of them, so that whoever
    knows what should stand in it can tell of further mistakes in the same breath.
    """

    def __init__(self, problems: Iterable[Problem], document: Document | None = None) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        self.document = document
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True, slots=True)
class Document:
    """Plain Python values and where each of them was written. `data` of a whole file is a dict; `text` its text."""

    file: str
    data: Any
    text: str = field(repr=False, default="")
    positions: dict[Keys, tuple[int, int]] = field(repr=False, default_factory=dict)

    def where(self, path: Keys) -> tuple[int, int]:
        """Line and column, from 1, of the key or list item at `path`, else of its nearest parent that exists."""
        while path and path not in self.positions:
            path = path[:-1]
        return self.positions.get(path, (1, 1))

    def problem(self, path: Keys, message: str) -> Problem:
        """A mistake at `path`."""
        return Problem(self.file, *self.where(path), dotted(path), message)


def dotted(path: Keys) -> str:
    """A path as people write it: `search.start_with[2].width`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{shorten(key)}" for key in path)
    return text.removeprefix(".")


def shorten(text: str, most: int = 60) -> str:
    """Text on one line of at most `most` characters, control characters escaped."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return line if len(line) <= most else f"{line[: most - 1]}…"


def describe(value: object) -> str:
    """A value as a message names it: `the text '10'`, `the number 0.5`, `true`, `null`, `a list`."""
    if value is None:
        return "null (nothing)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"the integer {value}"
    if isinstance(value, float):
        return f"the number {value:.12g}" if math.isfinite(value) else {"nan": "NaN"}.get(str(value), "infinity")
    if isinstance(value, str):
        return f"the text '{shorten(value)}'" if value else "empty text"
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, (list, tuple)):
        return "a list" if value else "an empty list"
    return f"a {type(value).__name__}"


def suggest(name: object, known: Iterable[str]) -> str:
    """`; did you mean 'sampler'?` where a known name is near, else empty."""
    near = nearest(name, known)
    return f"; did you mean '{near}'?" if near is not None else ""


def read(path: Path) -> Document:
    """The document in a file. Raises DocumentError with every problem, a missing or unreadable file included."""
    file = str(path)
    try:
        content = _content(path)
    except _Unfit as error:
        raise DocumentError([Problem(shorten(file, 200), 1, 1, "", str(error))]) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        message = f"expected a file that can be read, got the error '{reason}'; check the path"
        raise DocumentError([Problem(shorten(file, 200), 1, 1, "", message)]) from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        message = f"expected UTF-8 text, got the byte 0x{content[error.start]:02x}; save the file as UTF-8"
        raise DocumentError([Problem(file, line, column, "", message)]) from None
    return parse(text, file)


class _Unfit(Exception):
    """A path that is no study file, in words for people."""


def _content(path: Path) -> bytes:
    if not path.exists():
        folder = path.parent
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        remedy = suggest(path.name, names) or (
            "; check the path" if folder.is_dir() else f"; there is no folder {folder} either"
        )
        raise _Unfit(f"expected the path of a file, found nothing there{remedy}")
    if not path.is_file():
        kind = "a directory" if path.is_dir() else "something that is not a plain file"
        inside = sorted(path.glob("*.y*ml"))[:5] if path.is_dir() else []
        remedy = f"name a file in it, such as {', '.join(map(str, inside))}" if inside else "name a YAML file"
        raise _Unfit(f"expected a file, got {kind}; {remedy}")
    with path.open("rb") as stream:
        content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise _Unfit(
            f"expected at most {MOST_BYTES // 1_000_000} MB, got {path.stat().st_size / 1e6:.1f} MB; "
            "is this a data file? Data are named in the study file under data.source"
        )
    return content


def parse(text: str, file: str) -> Document:
    """The mapping that a whole file holds. Raises DocumentError with every problem."""
    if len(text) > MOST_BYTES:
        raise DocumentError([Problem(file, 1, 1, "", f"expected at most 1 MB, got {len(text) / 1e6:.1f} MB")])
    problems: tuple[Problem, ...] = ()
    try:
        document = parse_value(text, file)
    except DocumentError as error:
        if error.document is None:
            raise
        document, problems = error.document, error.problems
    if not isinstance(document.data, dict):
        got = "an empty file" if document.data is None else f"{describe(document.data)} at the top"
        raise DocumentError([*problems, document.problem((), f"expected lines of `key: value`, got {got}")])
    if problems:
        raise DocumentError(problems, document)
    return document


def parse_value(text: str, file: str) -> Document:
    """A piece of YAML that may be of any type, as in `--set path=value`. Raises DocumentError."""
    builder = _Builder(file)
    builder.refuse(text, _UNPRINTABLE, "expected text, got the control character {}; remove it")
    builder.refuse(text, _TABBED, "expected spaces as indentation, got a tab; replace it with spaces")
    builder.refuse(text, _DIRECTIVE, "expected plain YAML, got the directive {}; remove the line")
    if builder.problems:
        raise DocumentError(builder.listed())
    document = Document(file, builder.build(text), text, builder.positions)
    if builder.problems:
        raise DocumentError(builder.listed(), document if builder.whole else None)
    return document


def _tag(tag: object) -> str:
    return shorten(str(tag).replace("tag:yaml.org,2002:", "!!", 1))


class _UnreadableError(Exception):
    """Nothing after this can be read; the problem is in the builder's list already."""


class _Builder:
    """Turns YAML's events into plain values, collecting positions and problems on the way."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.positions: dict[Keys, tuple[int, int]] = {}
        self.problems: list[Problem] = []
        self.whole = True

    def listed(self) -> list[Problem]:
        """The problems in the order of the file, cut where nobody would read on."""
        ordered = sorted(self.problems, key=lambda problem: (problem.line, problem.column))
        left = len(ordered) - _MOST_PROBLEMS
        if left > 0:
            first = ordered[_MOST_PROBLEMS]
            ordered[_MOST_PROBLEMS:] = [Problem(self.file, first.line, first.column, "", f"and {left} more problems")]
        return ordered

    def refuse(self, text: str, pattern: re.Pattern[str], message: str) -> None:
        """A problem for every place in the raw text where `pattern` matches."""
        for match in pattern.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            column = match.start() - (text.rfind("\n", 0, match.start()) + 1) + 1
            self.problems.append(Problem(self.file, line, column, "", message.format(shorten(ascii(match[0])))))
            if len(self.problems) > 2 * _MOST_PROBLEMS:
                return

    def add(self, event: Any, path: Keys, message: str) -> None:
        mark = event.start_mark
        self.problems.append(Problem(self.file, mark.line + 1, mark.column + 1, dotted(path), message))
        if len(self.problems) >= _HOPELESS:
            raise _UnreadableError

    def build(self, text: str) -> Any:
        events = YAML(typ="safe", pure=True).parse(text)
        data, seen = None, 0
        try:
            for event in events:
                if isinstance(event, DocumentStartEvent):
                    seen += 1
                    if seen > 1:
                        self.add(event, (), "expected one document, got a second one after `---`; remove it")
                        self.whole = False
                        break
                elif isinstance(event, (AliasEvent, ScalarEvent, MappingStartEvent, SequenceStartEvent)):
                    data = self._value(event, events, ())
        except _UnreadableError:
            self.whole = False
        except MarkedYAMLError as error:
            self.whole = False
            self._syntax(error)
        except (YAMLError, ValueError, OverflowError) as error:  # ruamel lets chr()'s ValueError through
            self.whole = False
            self.problems.append(Problem(self.file, 1, 1, "", f"expected YAML, got text it refuses: {error}"))
        return data

    def _syntax(self, error: MarkedYAMLError) -> None:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        told = error.problem or error.context or "text that is no YAML"
        begun = error.context_mark
        if error.context and begun is not None and begun.line + 1 != line:
            told += f" ({error.context} that begins on line {begun.line + 1})"
        advice = next((remedy for part, remedy in _ADVICE.items() if part in told), "compare with an example file")
        message = f"expected YAML, got a line that does not parse: {shorten(told, 150)}; {advice}"
        self.problems.append(Problem(self.file, line, column, "", message))

    def _value(self, event: Any, events: Iterator[Any], path: Keys) -> Any:
        mark = event.start_mark
        self.positions.setdefault(path, (mark.line + 1, mark.column + 1))
        if isinstance(event, AliasEvent):
            self.add(event, path, f"expected a value, got the alias *{shorten(event.anchor)}; write the value again")
            return None
        if event.anchor is not None:
            self.add(event, path, f"expected no anchor, got &{shorten(event.anchor)}; remove it")
        if event.tag is not None:
            self.add(event, path, f"expected a plain value, got the tag {_tag(event.tag)}; remove it")
        if isinstance(event, ScalarEvent):
            return self._scalar(event, path)
        if len(path) >= _MOST_DEPTH:
            self.add(event, path[:3], f"expected at most {_MOST_DEPTH} levels, got more; flatten it")
            raise _UnreadableError
        if isinstance(event, SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(event := next(events), CollectionEndEvent):
                items.append(self._value(event, events, (*path, len(items))))
            return items
        return self._mapping(events, path)

    def _mapping(self, events: Iterator[Any], path: Keys) -> dict[str, Any]:
        found: dict[str, Any] = {}
        first: dict[str, int] = {}
        while not isinstance(event := next(events), CollectionEndEvent):
            if not isinstance(event, ScalarEvent) or not event.value:
                self.add(event, path, "expected a name before the colon, got something else; write `key: value`")
                raise _UnreadableError
            key = self._text(event, (*path, event.value))
            if event.anchor is not None or event.tag is not None:
                self.add(event, (*path, key), "expected a plain key, got an anchor or a tag; remove it")
            line = event.start_mark.line + 1
            repeated = key in found
            if repeated:
                places = f"on lines {first[key]} and {line}" if first[key] != line else f"twice on line {line}"
                message = f"expected each key once, got '{shorten(key)}' {places}; remove one of them"
                self.add(event, (*path, key), message)
            else:
                first[key] = line
                self.positions[*path, key] = (line, event.start_mark.column + 1)
            value = self._value(next(events), events, (*path, key))
            if not repeated:
                found[key] = value
        return found

    def _text(self, event: ScalarEvent, path: Keys) -> str:
        text: str = event.value
        if any("\ud800" <= character <= "\udfff" for character in text):
            self.add(event, path, "expected text, got half a surrogate pair; remove the escape")
            return ascii(text)
        return text

    def _scalar(self, event: ScalarEvent, path: Keys) -> Any:
        text = self._text(event, path)
        if event.style is not None:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _LEADING_ZERO.fullmatch(text):
            plain = text.lstrip("+-").lstrip("0") or "0"
            remedy = f'write {plain} for a number, "{text}" for text'
            self.add(event, path, f"expected an integer without a leading zero, got {shorten(text)}; {remedy}")
            return int(text[:19])
        base = next((base for pattern, base in _BASED.items() if pattern.fullmatch(text)), None)
        if base is not None or _INTEGER.fullmatch(text):
            if len(text) > 19:  # beyond 64 bits, which no setting needs and Python may refuse to print
                self.add(event, path, f"expected at most 18 digits, got {len(text)}; quote it where it is text")
                return None
            return int(text, base or 10)
        if _FLOAT.fullmatch(text):
            return float(text)
        if _INFINITE.fullmatch(text):
            return -math.inf if text.startswith("-") else math.inf
        return text
