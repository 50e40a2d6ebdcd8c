"""What may vary: search spaces by name, from files, and put together from pieces.

Knows the YAML files beside it and how one includes another; must never know models, training or
studies. A space is a mapping name → {type, …}. Under `include` it may name others (`optimizer`, or
`./mine.yaml` relative to the file that says so), whose parameters come first; a key written again
replaces what was included, and `name: null` removes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tuner.search_spaces.document import Document, DocumentError, Keys, Problem, describe, read, shorten, suggest
from tuner.search_spaces.parameters import Choice, Float, Int, Mistake, Parameter, SpaceError, Value, parse
from tuner.search_spaces.space import SearchSpace

__all__ = [
    "Choice",
    "Float",
    "Int",
    "Parameter",
    "SearchSpace",
    "SpaceError",
    "Value",
    "build",
    "load",
    "names",
    "resolve",
]

_HERE = Path(__file__).parent


def names() -> tuple[str, ...]:
    """The spaces and pieces that come with Tuner."""
    return tuple(sorted(path.stem for path in _HERE.glob("*.yaml")))


def build(written: object, folder: Path) -> SearchSpace:
    """The space that a study writes: a name, a path relative to `folder`, or a mapping.

    Raises SpaceError with every mistake: `problems` with paths inside `written`, `foreign` with the
    file, line and column of those inside the files that it names.
    """
    composition = _Composition()
    if isinstance(written, str):
        composition.include(written, None, (), folder, ())
    elif isinstance(written, Mapping):
        composition.add(written, None, folder, ())
    else:
        message = f"expected a search space's name or a mapping of parameters, got {describe(written)}"
        raise SpaceError([((), message)])
    return composition.space()


def load(name_or_path: str | Path, folder: Path | None = None) -> SearchSpace:
    """A space by name, or from a file (relative to `folder`). Raises DocumentError with every mistake, placed."""
    try:
        return build(str(name_or_path), folder or Path())
    except SpaceError as error:
        own = [Problem(str(name_or_path), 1, 1, "", text) for _, text in error.problems]
        raise DocumentError([*own, *error.foreign]) from None


def resolve(written: Mapping[str, object], folder: Path) -> dict[str, object]:
    """A mapping with everything it includes merged in and nothing checked that is inside a parameter.

    Raises SpaceError where a piece is missing or cannot be read.
    """
    composition = _Composition()
    composition.add(written, None, folder, ())
    return composition.merged()


class _Composition:
    """Definitions gathered from pieces, later layers over earlier ones, each remembering its document.

    The document None is the mapping that `build` was given.
    """

    def __init__(self) -> None:
        self.definitions: dict[str, object] = {}
        self.origins: dict[str, Document | None] = {}
        self.layers: dict[str, int] = {}
        self.layer = 0
        self.written_here: set[str] = set()
        self.complete = True  # every piece was found and read
        self.problems: list[Mistake] = []
        self.foreign: list[Problem] = []

    def add(
        self, mapping: Mapping[str, object], document: Document | None, folder: Path, trail: tuple[str, ...]
    ) -> None:
        """Lay a mapping over what is there, the pieces that it includes first."""
        pieces = mapping.get("include", ())
        if isinstance(pieces, (list, tuple)):
            for index, piece in enumerate(pieces):
                self.include(piece, document, ("include", index), folder, trail)
        else:
            self.include(pieces, document, ("include",), folder, trail)
        self.layer += 1
        for name, definition in mapping.items():
            if name == "include":
                continue
            if document is None:
                self.written_here.add(name)
            if definition is not None:
                self.definitions[name], self.origins[name], self.layers[name] = definition, document, self.layer
            elif self.definitions.pop(name, None) is None and self.complete:
                hint = suggest(name, self.definitions) or "; remove the line"
                text = f"expected `null` to remove an included parameter, got none of the name '{name}'{hint}"
                self._tell(document, (name,), text)

    def include(
        self, piece: object, document: Document | None, path: Keys, folder: Path, trail: tuple[str, ...]
    ) -> None:
        """Add the space of that name or file; `path` is where it is named."""
        if not isinstance(piece, str) or not piece:
            self._missing(document, path, f"expected the name of a search space or a path, got {describe(piece)}")
            return
        file = _file(piece, folder)
        if file is None:
            known = ", ".join(names())
            text = f"expected {known} or the path of a YAML file, got '{shorten(piece)}'{suggest(piece, names())}"
            self._missing(document, path, text)
        elif str(file) in trail:
            circle = " → ".join(Path(one).name for one in (*trail[trail.index(str(file)) :], str(file)))
            self._missing(document, path, f"expected no circle of includes, got {circle}; remove one of them")
        else:
            try:
                found = read(file)
            except DocumentError as error:
                self._unreadable(error, document, path, file)
                return
            self.add(found.data, found, file.parent, (*trail, str(file)))

    def merged(self) -> dict[str, object]:
        """The definitions, conditions narrowed. Raises SpaceError with every mistake of the putting together."""
        if self.problems or self.foreign:
            raise SpaceError(self.problems, self.foreign)
        return _narrowed(self.definitions, self.layers)

    def space(self) -> SearchSpace:
        """The space. Raises SpaceError with every mistake."""
        try:
            if self.complete:
                space = SearchSpace.from_dict(_narrowed(self.definitions, self.layers))
            else:
                self._parse_each()
        except SpaceError as error:
            for path, text in error.problems:
                self._place(path, text)
        if self.problems or self.foreign:
            raise SpaceError(self.problems, self.foreign)
        return space

    def _parse_each(self) -> None:
        """Each parameter alone, where a piece is missing and nothing can be said of them together."""
        for name, definition in self.definitions.items():
            try:
                parse(definition)
            except SpaceError as error:
                for path, text in error.problems:
                    self._place((name, *path), text)

    def _place(self, path: Keys, text: str) -> None:
        """Note a mistake where the person who made it will look for it."""
        document = self.origins.get(str(path[0])) if path else None
        parent = path[2] if len(path) > 2 and path[1] == "when" else None
        if document is not None and parent in self.written_here:
            # an included parameter depends on one that was changed or removed here: the change is the mistake
            name = path[0]
            cause = text.partition(";")[0]
            self.problems.append(((str(parent),), f"{name} depends on it: {cause}; write `{name}: null` too"))
        else:
            self._tell(document, path, text)

    def _tell(self, document: Document | None, path: Keys, text: str) -> None:
        if document is None:
            self.problems.append((path, text))
        else:
            self.foreign.append(document.problem(path, text))

    def _missing(self, document: Document | None, path: Keys, text: str) -> None:
        self.complete = False
        self._tell(document, path, text)

    def _unreadable(self, error: DocumentError, document: Document | None, path: Keys, file: Path) -> None:
        """What `read` says of a broken file; of a missing one it is said where the file is named."""
        self.complete = False
        if file.is_file():
            self.foreign += error.problems
            return
        for problem in error.problems:
            self._tell(document, path, problem.message)


def _file(piece: str, folder: Path) -> Path | None:
    """The file that a name or a path means, None for a name that we do not have."""
    if "/" in piece or piece.endswith((".yaml", ".yml")):
        return (folder / piece).resolve()
    return _HERE / f"{piece}.yaml" if piece in names() else None


def _narrowed(definitions: Mapping[str, object], layers: Mapping[str, int]) -> dict[str, object]:
    """Without what an override made impossible.

    Where a parent was replaced in a later layer than a condition on it (`optimizer` narrowed to adam over
    an included `momentum` for sgd and rmsprop), values that it takes no longer leave the condition,
    and a parameter that can never be active any more leaves the space with those that depend on it.
    """
    result = dict(definitions)
    dropped: set[str] = set()
    while True:
        before = len(dropped)
        for name, definition in list(result.items()):
            when = definition.get("when") if isinstance(definition, Mapping) else None
            if not isinstance(when, Mapping) or not isinstance(definition, Mapping):
                continue
            younger = [p for p in when if p in dropped or (p in result and layers[p] > layers[name])]
            narrowed = {p: _left(when[p], None if p in dropped else result[p]) for p in younger}
            if any(values == [] for values in narrowed.values()):
                dropped.add(name)
                del result[name]
            elif narrowed:
                result[name] = {**definition, "when": {**when, **narrowed}}
        if len(dropped) == before:
            return result


def _left(wanted: object, parent: object) -> object:
    """Those of the wanted values that the parent takes; all of them where that cannot be told."""
    values = list(wanted) if isinstance(wanted, (list, tuple)) else [wanted]
    if parent is None:
        return []
    try:
        giver = parse(parent)
    except SpaceError:
        return values
    if giver.count is None:
        return values
    return [value for value in values if giver.contains(value)]
