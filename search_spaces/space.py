"""A search space: parameters, the conditions under which each exists, and the grid they span.

Knows how parameters depend on one another; must never know which hyperparameters a model or a
training has, where the space was written, or how its points are chosen. Conversions to a library's
own distributions live where that library is imported.

A parameter with `when` is *active* if every parent it names is active and has one of the values
listed there. An assignment holds the active parameters and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache, cached_property
from typing import Any

from tuner.search_spaces.document import Keys, describe, suggest
from tuner.search_spaces.parameters import Choice, Float, Int, Mistake, SpaceError, Value, parse

Known = tuple[tuple[str, Value], ...]  # the values chosen so far that some later condition names


class SearchSpace:
    """Named parameters, parents before children, otherwise in the order written, which is part of what they mean.

    Raises SpaceError with every mistake: no parameter at all, a condition on an unknown parent, on
    itself, in a circle, on a continuum, on a value the parent never takes, or one that cannot come true.
    """

    parameters: dict[str, Float | Int | Choice]

    def __init__(self, parameters: Mapping[str, Float | Int | Choice]) -> None:
        problems = _contradictions(parameters)
        if problems:
            raise SpaceError(problems)
        self.parameters = _parents_first(parameters)

    @classmethod
    def from_dict(cls, mapping: object) -> SearchSpace:
        """The space that a mapping name → {type, …} describes. Raises SpaceError with every mistake at once."""
        if not isinstance(mapping, Mapping):
            raise SpaceError([((), f"expected a mapping of parameters, got {describe(mapping)}")])
        parameters: dict[str, Float | Int | Choice] = {}
        problems: list[Mistake] = []
        broken: dict[str, object] = {}
        for name, definition in mapping.items():
            if not isinstance(name, str) or not name.isidentifier():
                problems.append(((str(name),), f"expected a hyperparameter's name, got {describe(name)}"))
                continue
            try:
                parameters[name] = parse(definition)
            except SpaceError as error:
                broken[name] = definition
                problems += [((name, *path), text) for path, text in error.problems]
        problems += _contradictions(parameters, broken)
        if problems:
            raise SpaceError(problems)
        return cls(parameters)

    def to_dict(self) -> dict[str, Any]:
        """Canonical JSON: name → {type, …} without defaults; `from_dict` gives an equal space."""
        return {name: parameter.to_dict() for name, parameter in self.parameters.items()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SearchSpace) and list(self.parameters.items()) == list(other.parameters.items())

    __hash__ = None  # type: ignore[assignment]  # holds a dict

    def __repr__(self) -> str:
        return f"SearchSpace({self.to_dict()})"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is legal but hardly meant, each as `name: what`."""
        return tuple(
            f"{name}: is constant, there is only {describe(parameter.nth(0))}; fix it outside the search space"
            for name, parameter in self.parameters.items()
            if parameter.count == 1
        )

    def active(self, name: str, values: Mapping[str, Value]) -> bool:
        """Whether `name` exists beside `values`; a parent missing from `values` counts as inactive."""
        return all(
            parent in values and values[parent] in wanted and self.active(parent, values)
            for parent, wanted in (self.parameters[name].when or {}).items()
        )

    def smallest(self) -> dict[str, Value]:
        """The active assignment of every parameter's lowest value, or first one of a choice that is no number."""
        values: dict[str, Value] = {}
        for name, parameter in self.parameters.items():
            if self.active(name, values):
                values[name] = parameter.low_value
        return values

    def validate(self, values: Mapping[str, object]) -> list[str]:
        """What is wrong with an assignment that a person wrote, `name: what`; active parameters may be missing."""
        return [f"{path[0]}: {text}" for path, text in self.misfits(values)]

    def misfits(self, values: Mapping[str, object]) -> list[Mistake]:
        """`validate` with the place of each mistake."""
        found: list[Mistake] = []
        for name, value in values.items():
            if name not in self.parameters:
                names = ", ".join(self.parameters)
                found.append(((name,), f"expected a parameter of the space ({names}){suggest(name, self.parameters)}"))
            elif not self.parameters[name].contains(value):
                found.append(((name,), f"expected {told(self.parameters[name])}, got {describe(value)}"))
            else:
                found += [((name,), text) for text in self._inactive(name, values)]
        return found

    def _inactive(self, name: str, values: Mapping[str, object]) -> list[str]:
        for parent, wanted in (self.parameters[name].when or {}).items():
            terms = " or ".join(map(str, wanted))
            if parent not in values:
                return [f"expected {parent}: {terms} beside it, got no {parent}; write it too, or remove {name}"]
            if values[parent] not in wanted:
                got = describe(values[parent])
                return [f"expected nothing, because {name} exists only when {parent} is {terms}, got {parent} = {got}"]
        return []

    def size(self) -> int | None:
        """How many distinct active assignments there are; None where infinitely many."""
        if any(parameter.count is None for parameter in self.parameters.values()):
            return None
        return self._ways(0, ())

    def grid(self) -> Iterator[dict[str, Value]]:
        """Every distinct active assignment, lazily, in a fixed order. Raises ValueError for a continuum."""
        size = self.size()
        if size is None:
            loose = ", ".join(name for name, parameter in self.parameters.items() if parameter.count is None)
            raise ValueError(f"no grid over a continuous range; give a step or values to {loose}")
        return map(self.point, range(size))

    def point(self, index: int) -> dict[str, Value]:
        """The grid's assignment at that place, computed without the ones before it. The space must be finite."""
        if not 0 <= index < (self.size() or 0):
            raise IndexError(f"point {index} of a grid of {self.size()}")
        values: dict[str, Value] = {}
        known: Known = ()
        for place, (name, parameter) in enumerate(self._items):
            known = self._still_needed(place, known)
            if not self._holds(name, known):
                continue
            for digits, ways, after in self._branches(place, known):
                if index < len(digits) * ways:
                    values[name] = parameter.nth(digits[index // ways])
                    index, known = index % ways, after
                    break
                index -= len(digits) * ways
        return values

    @cached_property
    def _items(self) -> tuple[tuple[str, Float | Int | Choice], ...]:
        return tuple(self.parameters.items())

    @cached_property
    def _named(self) -> dict[str, tuple[int, ...]]:
        """Parent → the places in its list of values that some condition names, ascending."""
        wanted: dict[str, set[Value]] = {}
        for parameter in self.parameters.values():
            for parent, values in (parameter.when or {}).items():
                wanted.setdefault(parent, set()).update(values)
        return {parent: tuple(sorted(_place(self.parameters[parent], v) for v in vs)) for parent, vs in wanted.items()}

    @cached_property
    def _last_need(self) -> dict[str, int]:
        """Parent → the place in the order of its last child."""
        return {
            parent: place for place, parameter in enumerate(self.parameters.values()) for parent in parameter.when or ()
        }

    def _still_needed(self, place: int, known: Known) -> Known:
        return tuple((name, value) for name, value in known if self._last_need[name] >= place)

    def _holds(self, name: str, known: Known) -> bool:
        """`active` from the known named values alone: an inactive parent, or one with an unnamed value, is absent."""
        values = dict(known)
        when = self.parameters[name].when or {}
        return all(parent in values and values[parent] in wanted for parent, wanted in when.items())

    def _branches(self, place: int, known: Known) -> Iterator[tuple[_Places, int, Known]]:
        """For an active parameter: groups of its values that leave equally many ways, and what is known after each."""
        name, parameter = self._items[place]
        named = self._named.get(name, ())
        for index in named:
            after = (*known, (name, parameter.nth(index)))
            yield _Places((), index, 1), self._ways(place + 1, after), after
        others = (parameter.count or 0) - len(named)
        if others:
            yield _Places(named, 0, others), self._ways(place + 1, known), known

    def _ways(self, place: int, known: Known) -> int:
        """How many assignments of the parameters from `place` on there are."""
        return self._memory(place, self._still_needed(place, known))

    @cached_property
    def _memory(self) -> Callable[[int, Known], int]:
        @cache
        def ways(place: int, known: Known) -> int:
            if place == len(self._items):
                return 1
            name = self._items[place][0]
            if not self._holds(name, known):
                return self._ways(place + 1, known)
            return sum(len(digits) * after for digits, after, _ in self._branches(place, known))

        return ways


class _Places:
    """The places start, start + 1, … of a list of values without those that are left out; never materialised."""

    __slots__ = ("count", "out", "start")

    def __init__(self, out: tuple[int, ...], start: int, count: int) -> None:
        self.out, self.start, self.count = out, start, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        index += self.start
        for skipped in self.out:
            index += skipped <= index
        return index


def _place(parameter: Float | Int | Choice, value: Value) -> int:
    """Where a legal value stands in the list of values."""
    if isinstance(parameter, Choice):
        return parameter.values_.index(value)
    assert not isinstance(value, str), value
    return round((value - parameter.low) / (parameter.step or 1))


def told(parameter: Float | Int | Choice) -> str:
    """What a parameter may be, for a person: `an integer from 1 to 3`, `sgd, adam or adamw`."""
    if isinstance(parameter, Choice):
        *rest, last = map(str, parameter.values_)
        return f"{', '.join(rest)} or {last}" if rest else last
    kind = "an integer" if isinstance(parameter, Int) else "a number"
    step = f" in steps of {parameter.step:.12g}" if parameter.step else ""
    return f"{kind} from {parameter.low:.12g} to {parameter.high:.12g}{step}"


def _parents_first(parameters: Mapping[str, Float | Int | Choice]) -> dict[str, Float | Int | Choice]:
    """The same parameters, each after its parents and otherwise where it was; there is no circle."""
    ordered: dict[str, Float | Int | Choice] = {}

    def add(name: str) -> None:
        if name not in ordered:
            for parent in parameters[name].when or ():
                add(parent)
            ordered[name] = parameters[name]

    for name in parameters:
        add(name)
    return ordered


def _contradictions(
    parameters: Mapping[str, Float | Int | Choice], broken: Mapping[str, object] | None = None
) -> list[Mistake]:
    """Mistakes that concern several parameters. `broken` ones exist, but nothing can be said of them."""
    if not parameters and not broken:
        return [((), "expected at least one parameter, got an empty space; a study needs something to search")]
    problems: list[Mistake] = []
    for name, parameter in parameters.items():
        for parent, wanted in (parameter.when or {}).items():
            path: Keys = (name, "when", parent)
            if parent in parameters:
                problems += [((*path, *inner), text) for inner, text in _unreachable(name, parent, parameters, wanted)]
            elif parent not in (broken or ()):
                remedy = suggest(parent, parameters) or "; search it too, or remove this condition"
                problems.append((path, f"expected a parameter of this space, got '{parent}'{remedy}"))
    if problems or broken:
        return problems
    return _circles(parameters) or _impossible(parameters)


def _unreachable(
    name: str, parent: str, parameters: Mapping[str, Float | Int | Choice], wanted: tuple[Value, ...]
) -> list[Mistake]:
    """Why a condition on this parent can never hold."""
    if name == parent:
        return [((), f"expected another parameter, got {name} itself")]
    giver = parameters[parent]
    if giver.count is None:
        return [((), f"expected a parent with countable values, got {parent}, a continuous range; give it a step")]
    never = [value for value in wanted if not giver.contains(value)]
    known = [str(value) for value in giver.values_] if isinstance(giver, Choice) else []
    return [
        ((), f"expected a value that {parent} takes ({told(giver)}), got {describe(value)}{suggest(value, known)}")
        for value in never
    ]


def _circles(parameters: Mapping[str, Float | Int | Choice]) -> list[Mistake]:
    """Conditions that lead back to where they began."""
    done: set[str] = set()
    for start in parameters:
        path = [start]
        trails = [iter(parameters[start].when or ())]
        while trails:
            parent = next(trails[-1], None)
            if parent is None:
                trails.pop()
                done.add(path.pop())
            elif parent in path:
                circle = [*path[path.index(parent) :], parent]
                text = f"expected conditions without a circle, got {' → '.join(circle)}; remove one of them"
                return [((circle[0], "when"), text)]
            elif parent not in done:
                path.append(parent)
                trails.append(iter(parameters[parent].when or ()))
    return []


def _impossible(parameters: Mapping[str, Float | Int | Choice]) -> list[Mistake]:
    """Parameters whose parents' own conditions exclude one another."""
    needs: dict[str, dict[str, frozenset[Value]]] = {}
    problems: list[Mistake] = []
    for name, parameter in _parents_first(parameters).items():
        need: dict[str, frozenset[Value]] = {}
        for parent, wanted in (parameter.when or {}).items():
            for ancestor, values in [(parent, frozenset(wanted)), *needs[parent].items()]:
                need[ancestor] = need.get(ancestor, values) & values
        dead = [ancestor for ancestor, values in need.items() if not values]
        if dead:
            text = f"expected conditions that can hold together, got none that leaves '{dead[0]}' a value; change them"
            problems.append(((name, "when"), text))
        needs[name] = {ancestor: values for ancestor, values in need.items() if values}
    return problems
