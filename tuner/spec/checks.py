"""What is wrong with a study as a whole: whatever takes more than one key of its file to see.

Knows networks' and training's hyperparameters, search spaces, metrics and samplers; reads no data and
builds no network (`tuner.workloads.network` does). Works on the raw mapping, so that a mistake in one key hides no
other: each check steps aside where what it needs is itself broken and has been told already.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuner import models, search_spaces
from tuner.errors import told
from tuner.models.interface import TASKS, Hyperparameter, hyperparameters, keywords, unusable
from tuner.search_spaces import Choice, Float, Int, SearchSpace, SpaceError
from tuner.search_spaces.document import Keys, describe, suggest
from tuner.search_spaces.parameters import parse
from tuner.spec.execution import contradictions
from tuner.spec.programs import program_problems
from tuner.spec.rules import listed, misfits, mistake
from tuner.spec.search_section import PRUNERS, SAMPLERS
from tuner.training.config import FURTHER_METRICS, METRICS, TrainConfig

MOST_GRID = 1_000_000  # points; a larger grid is never finished, and a sampler would cover it better
PARAMETERS = "parameters"  # the metric that is a network's size, known before any training
_SMALLER_IS_BETTER = {"loss", "rmse", "mae", "perplexity", "bits_per_character", PARAMETERS}

TRAINING: Mapping[str, Hyperparameter] = hyperparameters(TrainConfig)


def metrics_of(task: str | None) -> tuple[str, ...]:
    """The names that a trial can report every epoch for that task; None: for any task."""
    tasks = TASKS if task is None else (task,)
    names = dict.fromkeys(name for further in (METRICS, FURTHER_METRICS) for one in tasks for name in further[one])
    return (*(f"val/{name}" for name in names), "train/loss")


@dataclass
class Findings:
    """What the checks found, and what they read on the way. `foreign` are printable lines about included files."""

    problems: list[tuple[Keys, str]] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    warnings: list[tuple[Keys, str]] = field(default_factory=list)
    network: dict[str, Hyperparameter] | None = None
    unusable: frozenset[str] = frozenset()  # keywords of the network of types that no file can tell
    space: SearchSpace | None = None


def examine(data: Mapping[str, Any], folder: Path) -> Findings:
    """Every mistake that takes more than one key to see; paths inside the file as keys and list positions."""
    found = Findings()
    model, train, trial = _mapping(data, "model"), _mapping(data, "train"), data.get("trial")
    search = _mapping(data, "search")
    if trial is None:
        found.problems += _splits(_mapping(data, "data"))
        if "family" in model or isinstance(data.get("model"), dict):
            _family(found, model, folder)
        _fixed(found, model, train)
    if isinstance(search.get("space"), (str, dict)):
        _space(found, search["space"], folder)
    if trial is None:
        _searched(found, _parameters(found.space, search.get("space")), model, train)
    if found.space is not None:
        found.problems += _sampler(found.space, search)
        found.warnings += _slow(search)
        found.problems += _start_with(found.space, search)
    rules = {} if trial is not None else {**TRAINING, **(found.network or {})}
    found.problems += contradictions(_mapping(data, "run"), search, found.space, rules, own=trial is not None)
    if trial is not None:
        found.network = {}
        found.problems += program_problems(data, found.space)
        _pruner(found, search, _mapping(data, "trial").get("epochs"))
        return found
    _objective(found, data, search)
    _pruner(found, search, train.get("epochs", TRAINING["epochs"].default))
    if found.space is not None:
        found.warnings += _unread(found.space, train)
    return found


def _mapping(data: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    for key in path:
        inner = data.get(key)
        data = inner if isinstance(inner, Mapping) else {}
    return data


def _splits(section: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
    shares = [section.get(name, 0.2) for name in ("validation", "test")]
    numbers = [share for share in shares if isinstance(share, (int, float)) and not isinstance(share, bool)]
    if len(numbers) == len(shares) and all(0 <= share < 1 for share in numbers) and sum(numbers) >= 1:
        at = "test" if "test" in section else "validation"
        message = f"expected validation + test below 1, got {sum(numbers):.12g}; nothing is left to train on"
        yield ("data", at), message


def _family(found: Findings, model: Mapping[str, Any], folder: Path) -> None:
    """Find the network's class and read its hyperparameters."""
    path: Keys = ("model", "family")
    name = model.get("family")
    choices = f"one of {', '.join(models.FAMILIES)}, or file.py:Class"
    if "family" not in model:
        found.problems.append((path, f"expected {choices}, got nothing; add `family: mlp`"))
        return
    if not isinstance(name, str):
        found.problems.append((path, f"expected {choices}, got {describe(name)}"))
        return
    if name not in models.FAMILIES and ":" not in name:
        hint = suggest(name, models.FAMILIES)
        if not hint and name.endswith(".py"):
            hint = f"; add the class: {name}:Net"
        found.problems.append((path, f"expected {choices}, got {describe(name)}{hint}"))
        return
    try:
        network = models.family(name, folder)
        if next(iter(keywords(network)), "") != "signature":
            message = f"expected a constructor that begins with signature, got {name}{inspect.signature(network)}"
            found.problems.append((path, message))
            return
        found.network, found.unusable = hyperparameters(network), unusable(network)
    except LookupError as error:
        found.problems.append((path, f"expected a network, got {describe(name)}: {error}"))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a person's own file may raise anything
        found.problems.append((path, f"expected a network that imports, got {told(error)}"))
    else:
        for shared in sorted(found.network.keys() & (TRAINING.keys() | {"family"})):
            message = (
                f"expected keywords of its own, got {name} with '{shared}', a name of training; rename the keyword"
            )
            found.problems.append((path, message))


def _fixed(found: Findings, model: Mapping[str, Any], train: Mapping[str, Any]) -> None:
    """The values written under model and train, each against its rule."""
    network = found.network
    for name, value in model.items():
        if name == "family":
            continue
        if network is None:
            if name in TRAINING:
                found.problems.append((("model", name), f"expected a network's keyword; '{name}' belongs under train"))
        elif name in found.unusable:
            found.problems.append((("model", name), _untold(name)))
        elif name not in network:
            home = f"; '{name}' belongs under train" if name in TRAINING else ""
            found.problems.append((("model", name), _unknown(name, ["family", *network], home)))
        elif (message := mistake(network[name], value)) is not None:
            found.problems.append((("model", name), message))
    for name, value in train.items():
        if name not in TRAINING:
            home = f"; '{name}' belongs under model" if name in (network or {}) else ""
            found.problems.append((("train", name), _unknown(name, TRAINING, home)))
        elif (message := mistake(TRAINING[name], value)) is not None:
            found.problems.append((("train", name), message))


def _untold(name: str) -> str:
    types = "int, float, bool or str, a Literal of these, or one of these or None"
    return f"expected a keyword whose type is {types}, got '{name}'; annotate it so in the constructor"


def _unknown(name: str, known: Iterable[str], home: str) -> str:
    return f"expected one of {', '.join(known)}, got the unknown key '{name}'{home or suggest(name, known)}"


def _space(found: Findings, written: str | dict[str, Any], folder: Path) -> None:
    """Read the space with all that it includes."""
    path: Keys = ("search", "space")
    try:
        found.space = search_spaces.build(written, folder)
    except SpaceError as error:
        found.foreign += map(str, error.foreign)
        found.problems += [((*path, *inner), message) for inner, message in error.problems]
    else:
        for warning in found.space.warnings:
            name, _, message = warning.partition(": ")
            found.warnings.append(((*path, name), message))


_Parameters = Mapping[str, Float | Int | Choice | None]


def _parameters(space: SearchSpace | None, written: object) -> _Parameters:
    """The space's parameters; of a space that makes no sense, what can be read of it, None where nothing can."""
    if space is not None:
        return space.parameters
    read: dict[str, Float | Int | Choice | None] = {}
    for name, definition in written.items() if isinstance(written, dict) else ():
        if name != "include" and definition is not None:
            try:
                read[name] = parse(definition)
            except SpaceError:  # told already
                read[name] = None
    return read


def _searched(found: Findings, parameters: _Parameters, model: Mapping[str, Any], train: Mapping[str, Any]) -> None:
    """The names and ranges of the space against the hyperparameters that they stand for."""
    network = found.network
    for name, parameter in parameters.items():
        path: Keys = ("search", "space", name)
        rule = (network or {}).get(name) or TRAINING.get(name)
        if rule is None:
            if name in found.unusable:
                found.problems.append((path, _untold(name)))
            elif network is not None:  # else the name may well be the network's
                known = [*network, *TRAINING]
                hint = suggest(name, known) or f"; they are {', '.join(known)}"
                message = f"expected a hyperparameter of {model['family']} or of training, got '{name}'"
                found.problems.append((path, message + hint))
            continue
        if parameter is not None:
            found.problems += [((*path, *inner), message) for inner, message in misfits(rule, parameter)]
        section = "model" if name in model else "train" if name in train else None
        if section is not None:
            message = f"expected '{name}' either fixed or searched, got {section}.{name} too; remove one of them"
            found.problems.append((path, message))
    for name, one in (network or {}).items():
        if one.default is inspect.Parameter.empty and name not in model:
            searched = parameters.get(name)
            if name not in parameters or (searched is not None and searched.when):
                when = "" if searched is None else " where the space has none"
                message = f"expected a value for {name}{when}: the network has no default; add `{name}: …`"
                found.problems.append((("model",), message))


def _sampler(space: SearchSpace, search: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
    """What a sampler needs of the space, and what it cannot do."""
    kind, path = _mapping(search, "sampler").get("kind"), ("search", "sampler", "kind")
    sampler = SAMPLERS.get(kind) if isinstance(kind, str) else None
    if sampler is None:
        return
    if sampler.finite:
        yield from _grid(space)
    numbers = [one for one in space.parameters.values() if not isinstance(one, Choice) and one.count != 1]
    if sampler.numbers and not any(one.when is None for one in numbers):
        got = "only numbers that not every trial has" if numbers else "only choices"
        yield path, f"expected a float or int that every trial has under sampler {kind}, got {got}; use tpe or nsga2"
    if not sampler.several and len(_objectives(search)) > 1:
        yield path, f"expected a sampler for several objectives, got {kind}; use tpe, nsga2 or gp"


def _grid(space: SearchSpace) -> Iterator[tuple[Keys, str]]:
    """A grid needs a finite space, and one that a study can end."""
    endless = [name for name, parameter in space.parameters.items() if parameter.count is None]
    for name in endless:
        message = "expected finitely many values under sampler grid, got a continuous range; add a step or use choices"
        yield ("search", "space", name), message
    size = None if endless else space.size()
    if size is not None and size > MOST_GRID:
        message = (
            f"expected a grid of at most {MOST_GRID:,} points, got {size:,}; use sampler random or tpe, or larger steps"
        )
        yield ("search", "sampler", "kind"), message


def _slow(search: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
    """Samplers that do little for a study of this length."""
    written, trials = _mapping(search, "sampler"), search.get("trials")
    kind = written.get("kind")
    sampler = SAMPLERS.get(kind) if isinstance(kind, str) else None
    if not isinstance(trials, int) or sampler is None:
        return
    if sampler.most_trials is not None and trials > sampler.most_trials:
        slow = f"{kind} takes thousands of seconds to choose {trials:,} trials, tpe some 100"
        yield ("search", "sampler", "kind"), f"{slow}; use tpe beyond {sampler.most_trials}"
    key = sampler.random_first
    least = key and written.get(key, sampler.model_fields[key].default)
    if isinstance(least, int) and least >= trials:
        message = f"nothing is learnt: the first {least:,} trials are random, and there are {trials:,}; lower {key}"
        yield ("search", "sampler", str(key) if key in written else "kind"), message


def _start_with(space: SearchSpace, search: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
    given = search.get("start_with")
    if not isinstance(given, list):
        return
    trials = search.get("trials")
    if isinstance(trials, int) and 0 < trials < len(given):
        yield ("search", "start_with"), f"expected at most {trials} (search.trials), got {len(given)}; raise trials"
    for index, values in enumerate(given):
        if isinstance(values, dict):
            for inner, message in space.misfits(values):
                yield ("search", "start_with", index, *inner), message


def _objectives(search: Mapping[str, Any]) -> list[tuple[Keys, Mapping[str, Any]]]:
    """Every objective that is a mapping, and where it stands."""
    written = search.get("objective")
    path: Keys = ("search", "objective")
    several = written if isinstance(written, list) else [written]
    places: list[Keys] = [(*path, index) for index in range(len(several))] if isinstance(written, list) else [path]
    return [(place, one) for place, one in zip(places, several, strict=True) if isinstance(one, Mapping)]


def _objective(found: Findings, data: Mapping[str, Any], search: Mapping[str, Any]) -> None:
    task = _mapping(data, "data").get("task")
    known = metrics_of(task if task in TASKS else None)
    objectives = _objectives(search)
    for index, (path, objective) in enumerate(objectives):
        metric, goal = objective.get("metric"), objective.get("goal")
        place: Keys = (*path, "metric")
        if not isinstance(metric, str):
            continue
        if metric == PARAMETERS and index == 0:
            message = f"expected a metric that training changes first, got {PARAMETERS}; put {known[0]} before it"
            found.problems.append((place, message))
        elif metric not in (*known, PARAMETERS):
            message = f"expected one of {', '.join(known)}, got {describe(metric)}"
            found.problems.append((place, message + nearest_metric(metric, (*known, PARAMETERS))))
        elif metric in [one.get("metric") for _, one in objectives[:index]]:
            found.problems.append((place, f"expected each metric once, got {metric} again; remove one"))
        elif goal in ("maximize", "minimize"):
            usual = "minimize" if metric.rpartition("/")[2] in _SMALLER_IS_BETTER else "maximize"
            if goal != usual:
                message = f"{goal} looks for the worst {metric}; {usual} looks for the best"
                found.warnings.append(((*path, "goal"), message))


def nearest_metric(metric: str, known: Iterable[str]) -> str:
    """`; did you mean 'val/accuracy'?`, by what stands after the slash, or empty.

    So `accuracy`, `val_acuracy` and `test/accuracy` find it, and `val/auc` does not find `val/mae`.
    """
    own = {name.rpartition("/")[2]: name for name in reversed(tuple(known))}
    near = suggest(metric.rpartition("/")[2], own)
    return next((f"; did you mean '{name}'?" for key, name in own.items() if f"'{key}'" in near), "")


def _unread(space: SearchSpace, train: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
    """Settings that nothing reads, whatever is drawn."""

    def values(name: str) -> list[Any]:
        searched = space.parameters.get(name)
        if searched is None:
            return [train.get(name, TRAINING[name].default)]
        return list(searched.values_) if isinstance(searched, Choice) else [searched.low, searched.high]

    for name, hyperparameter in TRAINING.items():
        parent, readers = hyperparameter.rule.read_by or ("", ())
        found = {str(value) for value in values(parent)} if parent else set()
        if parent and (name in train or name in space.parameters) and found.isdisjoint(readers):
            place: Keys = ("search", "space", name) if name in space.parameters else ("train", name)
            use = f"it is for {listed(sorted(readers))}"
            yield place, f"{name} does nothing with {parent} {listed(sorted(found))}; {use}"
    warmup, epochs = values("warmup"), values("epochs")
    if all(isinstance(value, (int, float)) for value in (*warmup, *epochs)) and min(warmup) >= max(epochs) > 0:
        place = ("search", "space", "warmup") if "warmup" in space.parameters else ("train", "warmup")
        yield place, f"the warm-up of {min(warmup)} epochs never ends: trials end at epoch {max(epochs)}; lower it"


def _pruner(found: Findings, search: Mapping[str, Any], epochs: object) -> None:
    """One objective alone is fit to stop by; and a pruner that comes too late to stop anything is worth a word."""
    path: Keys = ("search", "pruner")
    pruner = _mapping(search, "pruner")
    if found.space is not None and "epochs" in found.space.parameters:
        epochs = found.space.parameters["epochs"].high_value
    if pruner.get("kind", "none") != "none" and len(_objectives(search)) > 1:
        message = f"expected none under several objectives, got {describe(pruner['kind'])}"
        found.problems.append(((*path, "kind"), f"{message}: what is behind in one may be the best in another"))
    while True:
        kind = pruner.get("kind")
        section = PRUNERS.get(kind) if isinstance(kind, str) else None
        key, room = (section and section.first) or ("", 0)
        least = pruner.get(key, 1)
        if key and isinstance(least, int) and isinstance(epochs, int) and least + room >= epochs:
            if key in pruner and least > epochs:
                message = f"expected at most {epochs}, the epochs of the longest trial, got {least}"
                found.problems.append(((*path, key), f"{message}: nothing could ever be pruned"))
            else:
                message = f"nothing is pruned before epoch {least + room} and trials end at epoch {epochs}; lower {key}"
                found.warnings.append(((*path, key), message))
        if not isinstance(pruner.get("pruner"), Mapping):
            return
        pruner, path = pruner["pruner"], (*path, "pruner")
