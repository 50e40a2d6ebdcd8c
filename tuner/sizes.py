"""How large networks are, and whether they run: at the ends of a search space, and for one trial.

Knows the spec, the data's signature and how networks are built; trains nothing and stores nothing. Large networks are
built on torch's meta device, which has shapes and no memory, so that a range that cannot work fails in milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn

from tuner import models
from tuner.errors import told
from tuner.models.interface import Signature
from tuner.search_spaces.document import Keys
from tuner.search_spaces.parameters import Choice
from tuner.spec import StudySpec
from tuner.spec.checks import PARAMETERS
from tuner.trial import Params, Value

_MOST_VALUES = 64  # of one structural hyperparameter, each built once: about 5 ms each
_SMALL = 2_000_000  # parameters, or numbers in an example, that run for real in some 10 ms


class Sizes:
    """`{"parameters": trainable numbers}` of a trial, where the study has it as an objective, else nothing."""

    def __init__(self, spec: StudySpec, signature: Signature) -> None:
        self._spec, self._signature = spec, signature
        self._wanted = any(metric == PARAMETERS for metric, _ in spec.objectives)
        self._known: dict[tuple[tuple[str, Value | None], ...], int] = {}  # by structure

    def __call__(self, params: Params) -> dict[str, float]:
        if not self._wanted:
            return {}
        keywords = self._spec.network(params)
        structure = tuple((name, value) for name, value in keywords.items() if self._spec.is_structural(name))
        if structure not in self._known:
            self._known[structure] = size_of(self._spec, self._signature, params)
        return {PARAMETERS: self._known[structure]}


def _corner(spec: StudySpec, high: bool, fixed: Params) -> dict[str, Value]:
    """The active parameters at one end of their ranges, except those that are `fixed`."""
    values: dict[str, Value] = {}
    for name, parameter in spec.space.parameters.items():
        if spec.space.active(name, values):
            values[name] = fixed.get(name, parameter.high_value if high else parameter.low_value)
    return values


def corners(spec: StudySpec, signature: Signature) -> tuple[tuple[int, int], list[tuple[Keys, str]]]:
    """Parameters of the smallest and largest network, and what cannot be built.

    Besides the two corners every value of every structural hyperparameter is built once, the others
    at their smallest, so that a message can name the value that does not work.
    """
    try:
        smallest = size_of(spec, signature, _corner(spec, False, {}))
    except _UnfitError as error:
        return (0, 0), [(_culprit(spec, error), f"expected a network that runs at {error}")]
    problems = [problem for name in spec.space.parameters for problem in _unfit_values(spec, signature, name)]
    if problems:
        return (0, 0), problems
    try:
        largest = size_of(spec, signature, _corner(spec, True, {}))
    except _UnfitError as error:
        return (0, 0), [(("search", "space"), f"expected a network that runs at {error}")]
    return (min(smallest, largest), max(smallest, largest)), []


def _unfit_values(spec: StudySpec, signature: Signature, name: str) -> Iterator[tuple[Keys, str]]:
    """Which values of one searched hyperparameter no network can be built with, the others at their smallest."""
    parameter = spec.space.parameters[name]
    count = parameter.count
    if count is None or count > _MOST_VALUES or not _shapes_network(spec, name):
        return
    unfit: dict[int, str] = {}
    for index, value in enumerate(parameter.values()):
        params = _corner(spec, False, _ancestors(spec, name, value))
        if params.get(name) != value:  # its parents' own conditions exclude one another here
            continue
        try:
            size_of(spec, signature, params)
        except _UnfitError as error:
            unfit[index] = error.reason
    if isinstance(parameter, Choice):
        for index, reason in unfit.items():
            place: Keys = ("search", "space", name, "values", index)
            yield place, f"expected values that work, got {parameter.nth(index)}: {reason}"
    elif unfit:
        first = min(unfit)
        top = list(unfit) == list(range(first, count))
        hint = f"; lower high to {parameter.nth(first - 1)}" if top and first else ""
        got = f"{parameter.nth(first)}: {unfit[first]}"
        yield ("search", "space", name, *(["high"] if hint else [])), f"expected a range that works, got {got}{hint}"


def _shapes_network(spec: StudySpec, name: str) -> bool:
    return name in spec.network_rules and spec.is_structural(name)


def _ancestors(spec: StudySpec, name: str, value: Value) -> dict[str, Value]:
    """`value` for `name`, and values for its parents under which it is active."""
    chosen = {name: value}
    waiting = [name]
    while waiting:
        for parent, wanted in (spec.space.parameters[waiting.pop()].when or {}).items():
            if parent not in chosen:
                chosen[parent] = wanted[0]
                waiting.append(parent)
    return chosen


def _culprit(spec: StudySpec, error: _UnfitError) -> Keys:
    """The key to look at first: a hyperparameter that the constructor's own words name, else the family."""
    words = set(error.reason.replace("=", " ").replace("'", " ").split())
    for name in spec.network_rules:
        if name in words and (name in spec.space.parameters or name in spec.model):
            return spec.place(name, "model")
    return ("model", "family")


class _UnfitError(Exception):
    """A network that cannot be built or does not run; `reason` is what it said."""

    def __init__(self, params: Params, reason: str) -> None:
        self.reason = reason
        values = ", ".join(f"{name} {value}" for name, value in params.items()) or "its defaults"
        super().__init__(f"{values}, got: {reason}")


def size_of(spec: StudySpec, signature: Signature, params: Params) -> int:
    """Build, run two examples through, and count the parameters. Raises _UnfitError.

    Shapes alone on the meta device; for real where the network is small, which saves the second that
    torch takes to load the meta device's kernels.
    """
    family, keywords = spec.model["family"], spec.network(params)
    shown = {name: value for name, value in params.items() if name in spec.network_rules}

    def made(device: str) -> nn.Module:
        with torch.device(device), torch.random.fork_rng(devices=()):
            return models.build(family, signature, keywords, spec.folder)

    try:
        network = made("meta")
        small = count(network) <= _SMALL and math.prod(signature.inputs) <= _SMALL
        if not small:
            _run(network, signature, "meta")
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a person's own network may raise anything
        if family in models.FAMILIES or isinstance(error, ValueError):
            raise _UnfitError(shown, _said(error)) from None
        small = True  # it looks at values, which the meta device does not have
    if small:
        try:
            network = made("cpu")
            _run(network, signature, "cpu")
        except (Exception, SystemExit) as error:  # noqa: BLE001
            raise _UnfitError(shown, _said(error)) from None
    return count(network)


def _run(network: nn.Module, signature: Signature, device: str) -> None:
    """Two examples through the network. Raises ValueError for an output of another shape than promised."""
    if not count(network):
        raise ValueError("it has no parameter that trains")
    wanted = signature.output_shape(2)
    for training in (True, False):
        with torch.device(device), torch.no_grad(), torch.random.fork_rng(devices=()):
            output = network.train(training)(signature.example(2))
        shape = tuple(getattr(output, "shape", ()))
        if shape != wanted:
            got = list(shape) if isinstance(output, torch.Tensor) else type(output).__name__
            when = "" if training else " in evaluation"
            raise ValueError(f"for two examples it must give {list(wanted)} (signature.outputs), and{when} gives {got}")


def _said(error: BaseException) -> str:
    return told(error).removeprefix("ValueError: ")


def count(network: nn.Module) -> int:
    """Trainable numbers in a network."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
