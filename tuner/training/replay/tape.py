"""A step as the list of its kernel calls: recorded once beneath autograd and vmap, then played in fixed memory.

A small network's step is a hundred kernels of a microsecond each, and Python, vmap and autograd take several
microseconds to find each of them again. A `Program` remembers what was called on what, keeps every tensor in a
place of its own, and calls the same kernels on the same numbers: the same bits, without the way there.

Knows torch, and nothing of networks. A function that is recorded must read what changes from call to call out of
tensors that were there before, and leave there what it finds; its Python runs once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tuner.training.replay import blas, dispatch
from tuner.training.replay.blas import PRODUCTS, Call
from tuner.training.replay.out_variants import ALLOCATIONS, ELEMENTWISE, FILLS, in_place, into


class CannotRecord(Exception):
    """The function does what a recording does not see; the message names the operation."""


class _Place(NamedTuple):
    """A tensor, as a part of a storage."""

    storage: int
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


@dataclass(slots=True)
class _Entry:
    """One operation: what it was called with (places for tensors), what it answered, and the storages concerned."""

    operation: Any
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    results: list[_Place | None]
    reads: set[int]
    writes: set[int]
    makes: set[int]


class _Traits(NamedTuple):
    """What is known of an operation before it is called."""

    positions: tuple[int, ...]  # of the arguments that it writes into
    names: tuple[str, ...]  # of the same
    random: bool
    product: bool
    fill: Callable[..., float] | None


@cache
def _traits(operation: Any) -> _Traits:
    written = [(at, argument.name) for at, argument in enumerate(operation._schema.arguments) if argument.is_write]
    random = torch.Tag.nondeterministic_seeded in operation.tags
    positions, names = tuple(at for at, _ in written), tuple(name for _, name in written)
    return _Traits(positions, names, random, operation in PRODUCTS, FILLS.get(operation))


class _Recorder(dispatch.DispatchMode):  # type: ignore[misc]
    """Notes every operation that runs beneath it.

    No tensor is kept alive but those from outside; a weak reference keeps a freed storage's number from
    being given to another.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or the first call imports the whole compiler, which takes a second

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[_Entry] = []
        self.outside: dict[int, torch.UntypedStorage] = {}
        self.sizes: dict[int, int] = {}
        self.obstacle = ""
        self.shapes: set[tuple[int, ...]] = set()
        self._weak: dict[int, Any] = {}

    def _place(self, tensor: Tensor, *, made: bool) -> _Place:
        storage = tensor.untyped_storage()
        number = storage._cdata
        if number not in self._weak:
            self._weak[number] = dispatch.StorageWeakRef(storage)
            self.sizes[number] = storage.nbytes()
            if not made:
                self.outside[number] = storage
        return _Place(number, int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride(), tensor.dtype)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        keywords = kwargs or {}
        traits = _traits(func)
        found: list[_Place] = []

        def note(value: Any) -> Any:
            if isinstance(value, Tensor):
                found.append(self._place(value, made=False))
                return found[-1]
            return type(value)(map(note, value)) if isinstance(value, list | tuple) else value

        arguments = tuple(map(note, args))
        named = {name: note(value) for name, value in keywords.items()}
        reads = {place.storage for place in found}
        if traits.fill is not None:
            reads, arguments, named = set(), (traits.fill(*args),), {}
        result = blas.multiply(func, args, keywords) if traits.product else func(*args, **keywords)
        answers = result if isinstance(result, tuple | list) else [result]
        if traits.product:
            self.shapes.add(tuple(result.shape))
        results = [self._place(answer, made=True) if isinstance(answer, Tensor) else None for answer in answers]
        tensors = all(answer is None or isinstance(answer, Tensor) for answer in answers)
        if traits.random or not tensors:
            self.obstacle = self.obstacle or str(func)
        writes: set[int] = set()
        if traits.names:
            written = [arguments[at] for at in traits.positions if at < len(arguments)]
            written += [named.get(name) for name in traits.names]
            writes = {value.storage for value in written if isinstance(value, _Place)}
        makes = {place.storage for place in results if place} - reads
        if makes or writes:  # all others are views
            self.entries.append(_Entry(func, arguments, named, results, reads, writes, makes))
        return result


class Program:
    """What one call of a function did, to be done again by calling the program."""

    def __init__(self, function: Callable[[], None], device: torch.device, constant: Iterable[Tensor] = ()) -> None:
        """Run `function`, and remember it; what depends on nothing but `constant` tensors is computed here, once.

        Raises CannotRecord, after the function has run, for what cannot be played back.
        """
        recorder = _Recorder()
        with recorder:
            function()
        if recorder.obstacle:
            raise CannotRecord(recorder.obstacle)
        plan = _Plan(recorder, {tensor.untyped_storage()._cdata for tensor in constant}, device)
        with torch.inference_mode():
            for call, arguments, keywords in plan.calls(plan.once):
                call(*arguments, **keywords)
            self._calls = plan.calls(plan.always)
        self.storages = list(plan.storages.values())
        self.products = recorder.shapes  # of the matrices that were found by multiplying

    def __len__(self) -> int:
        """Kernel calls of one play."""
        return len(self._calls)

    def __call__(self) -> None:
        with torch.inference_mode():
            for call, arguments, keywords in self._calls:
                call(*arguments, **keywords)


class Programs:
    """The programs of one stack, by name and number of examples, each recorded when it is first played."""

    def __init__(self, device: torch.device, constant: Sequence[Tensor], *, recorded: bool) -> None:
        self._device, self._constant, self._recorded = device, constant, recorded and dispatch.FOUND
        self._known: dict[tuple[str, int], tuple[Program, tuple[Tensor, ...]]] = {}

    def play(self, name: str, function: Callable[..., None], *inputs: Tensor) -> None:
        """Call `function` on `inputs`, by its program where there is one; all [B, …] of one B.

        A program reads its inputs from places of its own. The function under one name must be the same each time.
        """
        if not self._recorded:
            function(*inputs)
            return
        known = self._known.get((name, len(inputs[0])))
        if known is not None:
            program, places = known
            for place, value in zip(places, inputs, strict=True):
                place.copy_(value)
            program()
            return
        places = tuple(value.clone() for value in inputs)
        try:
            program = Program(lambda: function(*places), self._device, self._constant)
        except CannotRecord:
            self._recorded = False
        else:
            self._known[name, len(inputs[0])] = program, places


class _Plan:
    """Which entries run `once`, which `always`, and where each storage lies."""

    def __init__(self, recorder: _Recorder, constant: set[int], device: torch.device) -> None:
        self._device = device
        self.storages: dict[int, torch.UntypedStorage] = dict(recorder.outside)
        self._tensors: dict[_Place, Tensor] = {}
        entries = _needed(recorder.entries, set(recorder.outside))
        mutated = {number for entry in entries for number in entry.writes}
        constant = constant - mutated
        self.once: list[_Entry] = []
        self.always: list[_Entry] = []
        for entry in entries:
            if not entry.writes and entry.reads <= constant and not entry.makes & mutated:
                constant = constant | entry.makes
                self.once.append(entry)
            else:
                self.always.append(entry)
        for entry in self.once:
            for number in entry.makes:
                self.storages[number] = self._memory(recorder.sizes[number])
        self._assign(recorder.sizes)

    def _memory(self, size: int) -> torch.UntypedStorage:
        return torch.empty(size, dtype=torch.uint8, device=self._device).untyped_storage()

    def _assign(self, sizes: dict[int, int]) -> None:
        """Give each storage memory from its first use to its last; what was just let go is taken first: it is warm."""
        last: dict[int, int] = {}
        for index, entry in enumerate(self.always):
            last.update(dict.fromkeys(entry.reads | entry.writes | entry.makes, index))
        ends: dict[int, list[int]] = {}
        for number, index in last.items():
            if number not in self.storages:
                ends.setdefault(index, []).append(number)
        free: list[torch.UntypedStorage] = []
        for index, entry in enumerate(self.always):
            for number in entry.makes:
                given = _given_up(entry, number, ends.get(index, []))
                if given is not None:  # and nothing is fetched to be written over
                    ends[index].remove(given)
                    self.storages[number] = self.storages[given]
                    continue
                need = sizes[number]
                fits = [at for at, block in enumerate(free) if need <= block.nbytes() <= 2 * need + 4_096]
                best = min(fits, key=lambda at: (free[at].nbytes(), -at), default=None)
                self.storages[number] = self._memory(need) if best is None else free.pop(best)
            free += [self.storages[number] for number in ends.get(index, ())]

    def _tensor(self, place: _Place) -> Tensor:
        if place not in self._tensors:
            empty = torch.empty(0, dtype=place.dtype, device=self._device)
            storage = self.storages[place.storage]
            if storage.device != self._device:
                empty = torch.empty(0, dtype=place.dtype, device=storage.device)
            self._tensors[place] = empty.set_(storage, place.offset, place.size, place.stride)
        return self._tensors[place]

    def _bound(self, value: Any) -> Any:
        if isinstance(value, _Place):
            return self._tensor(value)
        return type(value)(map(self._bound, value)) if isinstance(value, list | tuple) else value

    def calls(self, entries: Iterable[_Entry]) -> list[Call]:
        """The entries, ready to be called."""
        found = []
        for entry in entries:
            if entry.operation in ALLOCATIONS:
                continue
            arguments: tuple[Any, ...] = self._bound(entry.arguments)
            keywords = {name: self._bound(value) for name, value in entry.keywords.items()}
            multiplied = self._multiplied(entry, arguments, keywords) if entry.operation in PRODUCTS else []
            if multiplied:
                found += multiplied
            elif entry.writes:
                found.append(in_place(entry.operation, arguments, keywords))
            else:
                found.append(into(entry.operation, arguments, keywords, self._bound(entry.results)))
        return found

    def _multiplied(self, entry: _Entry, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> list[Call]:
        """A product as `blas` computes it; nothing where torch does."""
        result = keywords["out"] if entry.writes else self._bound(entry.results[0])
        return blas.calls(entry.operation, arguments, keywords, result)


def _given_up(entry: _Entry, made: int, ending: Sequence[int]) -> int | None:
    """Of the storages whose last use this entry is, one that its result can lie in, number by number as it is read."""
    if entry.operation not in ELEMENTWISE:
        return None
    (result,) = entry.results
    assert result is not None and result.storage == made
    places = [value for value in entry.arguments if isinstance(value, _Place)]
    for place in places:
        alike = place._replace(storage=made) == result
        if alike and place.storage in ending and all(o == place for o in places if o.storage == place.storage):
            return place.storage
    return None


def _needed(entries: Sequence[_Entry], outside: set[int]) -> list[_Entry]:
    """Without those whose results nobody reads."""
    wanted = set(outside)
    found = []
    for entry in reversed(entries):
        if (entry.writes | entry.makes) & wanted:
            wanted |= entry.reads
            found.append(entry)
    # A storage's first entry makes it; where that one was left out, nothing else of it is here either.
    return found[::-1]
