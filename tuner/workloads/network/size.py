"""How large networks are, and whether they run: at the ends of a search space, and for one trial.

Knows the spec, the data's signature and how networks are built; trains nothing and stores nothing. Large networks are
built on torch's meta device, which has shapes and no memory, so that a range that cannot work fails in milliseconds.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from tuner import models
from tuner.errors import told
from tuner.events import Params, Value
from tuner.models.interface import Signature
from tuner.search_spaces.document import Keys
from tuner.search_spaces.parameters import Choice
from tuner.spec import StudySpec
from tuner.spec.checks import PARAMETERS

_MOST_VALUES = 64  # of one structural hyperparameter, each built once: about 5 ms each
_MOST_COMBINATIONS = 64
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


@dataclass(frozen=True)
class Corners:
    """Parameters of the smallest and the largest network, and which combinations cannot be built or do not run.

    `problems` are values that work in no combination; where some combinations of good values fail, `warnings` says so.
    """

    least: int = 0
    most: int = 0
    problems: tuple[tuple[Keys, str], ...] = ()
    warnings: tuple[tuple[Keys, str], ...] = ()


def corners(spec: StudySpec, signature: Signature) -> Corners:
    """Try the two ends of the space and every value of every structural hyperparameter, the others at their smallest.

    Where one of these fails, or a person's own network may refuse any pair of values, combinations are tried as well.
    """
    tried = _Tried(spec, signature)
    low, high = _corner(spec, False, {}), _corner(spec, True, {})
    ends = tried.size(low), tried.size(high)
    names = [name for name in spec.space.parameters if _shapes_network(spec, name)]
    counts = {name: count for name in names if (count := spec.space.parameters[name].count) and count <= _MOST_VALUES}
    for name in counts:
        for value in spec.space.parameters[name].values():
            tried.size(_corner(spec, False, _ancestors(spec, name, value)))
    if tried.failed or spec.model["family"] not in models.FAMILIES:
        for point in _combinations(spec, counts):
            tried.size(_corner(spec, False, point))
    if not tried.worked:
        error = tried.errors[0]
        return Corners(problems=((_culprit(spec, error), f"expected a network that runs at {error}"),))
    problems = [problem for name in counts for problem in _unfit_values(spec, tried, name)]
    sizes = [size for size in ends if size is not None] or [size for _, size in tried.worked]
    least, most = min(sizes), max(sizes)
    warnings = []
    if tried.failed and not problems:
        tell = f"{len(tried.failed)} of {len(tried.failed) + len(tried.worked)} combinations that were tried do not run"
        example = str(tried.errors[0]).replace(", got: ", " (")
        warnings.append((("search", "space"), f"{tell}, such as {example}); trials of such combinations fail"))
    return Corners(least, most, tuple(problems), tuple(warnings))


class _Tried:
    """Which networks of a space were built and run, by what shapes them."""

    def __init__(self, spec: StudySpec, signature: Signature) -> None:
        self._spec, self._signature = spec, signature
        self._known: dict[str, int | None] = {}
        self.worked: list[tuple[Params, int]] = []
        self.failed: list[Params] = []
        self.errors: list[_UnfitError] = []

    def size(self, params: Params) -> int | None:
        """Parameters of the network; None where it does not run."""
        key = repr(sorted(self._spec.network(params).items(), key=lambda item: item[0]))
        if key not in self._known:
            try:
                self._known[key] = size = size_of(self._spec, self._signature, params)
                self.worked.append((params, size))
            except _UnfitError as error:
                self._known[key] = None
                self.failed.append(params)
                self.errors.append(error)
        return self._known[key]


def _combinations(spec: StudySpec, counts: Mapping[str, int]) -> Iterator[dict[str, Value]]:
    """All combinations of these hyperparameters' values where they are few, else some, drawn by the study's seed."""
    values = [list(spec.space.parameters[name].values()) for name in counts]
    if math.prod(counts.values()) <= _MOST_COMBINATIONS:
        yield from (dict(zip(counts, point, strict=True)) for point in itertools.product(*values))
        return
    draw = random.Random(spec.seed)  # noqa: S311 - no secret
    for _ in range(_MOST_COMBINATIONS):
        yield {name: draw.choice(each) for name, each in zip(counts, values, strict=True)}


def _unfit_values(spec: StudySpec, tried: _Tried, name: str) -> Iterator[tuple[Keys, str]]:
    """Which values of one searched hyperparameter failed in every combination that was tried."""
    parameter = spec.space.parameters[name]
    count = parameter.count
    assert count is not None
    good = {params[name] for params, _ in tried.worked if name in params}
    reasons: dict[Value, str] = {}
    for params, error in zip(tried.failed, tried.errors, strict=True):
        if name in params and params[name] not in good:
            reasons.setdefault(params[name], error.reason)
    unfit = {index: reasons[value] for index, value in enumerate(parameter.values()) if value in reasons}
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


def refuses_one_row(spec: StudySpec, signature: Signature) -> str:
    """Why the smallest network does not train on a batch of one row, as batch normalisation does not; else empty."""
    try:
        with torch.random.fork_rng(devices=()):
            network = models.build(spec.model["family"], signature, spec.network(_corner(spec, False, {})), spec.folder)
            network.train()(signature.example(1))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a person's own network may raise anything
        return _said(error)
    return ""


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
        with torch.device(device), torch.set_grad_enabled(training), torch.random.fork_rng(devices=()):
            output = network.train(training)(signature.example(2))
        shape = tuple(getattr(output, "shape", ()))
        if shape != wanted:
            got = list(shape) if isinstance(output, torch.Tensor) else type(output).__name__
            when = "" if training else " in evaluation"
            raise ValueError(f"for two examples it must give {list(wanted)} (signature.outputs), and{when} gives {got}")
        if not output.is_floating_point():
            raise ValueError(f"it must answer with floating-point numbers, and answers {output.dtype}; write .float()")
        if training and not output.requires_grad:
            raise ValueError("no gradient flows from its answer to a parameter: is it detached, or under no_grad?")


def _said(error: BaseException) -> str:
    return told(error).removeprefix("ValueError: ")


def count(network: nn.Module) -> int:
    """Trainable numbers in a network."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
