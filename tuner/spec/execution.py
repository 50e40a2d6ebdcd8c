"""What is wrong with the keys of `run` taken together, and beside those of `search`: who trains, and who stops whom.

Knows the raw mapping of a study file, its space and the rules of hyperparameters; reads no data, meets no machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tuner.models.interface import Hyperparameter
from tuner.search_spaces import SearchSpace
from tuner.search_spaces.document import Keys, describe
from tuner.spec.rules import listed
from tuner.spec.search_section import PRUNERS

CLUSTER = (
    "address",
    "cpus_per_worker",
    "gpus_per_worker",
    "memory",
    "storage",
)  # keys of run that are about a Ray cluster
TUNE = "ray-tune"
POPULATION = "pbt"
_ON_RAY = ("ray", TUNE)


def contradictions(
    run: Mapping[str, Any],
    search: Mapping[str, Any],
    space: SearchSpace | None,
    rules: Mapping[str, Hyperparameter],
    *,
    own: bool = False,
) -> Iterator[tuple[Keys, str]]:
    """Every mistake that takes more than one key to see. `rules` are those of the network and of training by name.

    `own` tells that a person's own training is tuned.
    """
    kind = run.get("executor", "local")
    if run.get("gpus_per_trial") is not None:
        yield from _several_gpus(run, own)
    if kind == "local":
        for name in CLUSTER:
            if run.get(name) is not None:
                got = "one" if name == "storage" else describe(run[name])  # an address may carry a password
                yield ("run", name), f"expected none with executor local, got {got}; write executor: ray, or remove it"
    elif kind in _ON_RAY:
        yield from _devices(run, kind)
    if kind == TUNE:
        yield from _tune(run, search)
        if run.get("scheduler") == POPULATION and own:
            message = f"expected another scheduler for a person's own training, got {POPULATION}"
            yield ("run", "scheduler"), f"{message}, which changes hyperparameters in the middle of it; write asha"
        elif run.get("scheduler") == POPULATION and space is not None:
            yield from _population(space, rules)
    elif kind in ("local", "ray") and run.get("scheduler") is not None:
        got = describe(run["scheduler"])
        message = f"expected none with executor {kind}, got {got}; write executor: {TUNE}, or a search.pruner instead"
        yield ("run", "scheduler"), message


def _several_gpus(run: Mapping[str, Any], own: bool) -> Iterator[tuple[Keys, str]]:
    """A trial that has whole GPUs has no share of one, and no CPU alone; a network of ours trains on one."""
    several = describe(run["gpus_per_trial"])
    if not own:
        message = f"expected none for a network that Tuner trains, got {several}"
        yield ("run", "gpus_per_trial"), f"{message}; remove it, or train with a command such as torchrun"
    if run.get("device") == "cpu":
        yield ("run", "gpus_per_trial"), f"expected none on device cpu, got {several}; write device: cuda, or remove it"
    for name in ("share", "gpus_per_worker"):
        if run.get(name) not in (None, 1.0):
            yield ("run", name), f"expected none beside gpus_per_trial, got {describe(run[name])}; remove one of them"


def _devices(run: Mapping[str, Any], kind: str) -> Iterator[tuple[Keys, str]]:
    """Devices that contradict one another, and shares of them that Ray gives instead."""
    if "share" in run:
        message = f"expected none with executor {kind}, got {describe(run['share'])}; write gpus_per_worker instead"
        yield ("run", "share"), message
    device, gpus = run.get("device", "auto"), run.get("gpus_per_worker")
    if device == "cpu" and gpus:
        yield ("run", "gpus_per_worker"), f"expected none on device cpu, got {describe(gpus)}; write device: cuda"
    if device == "cuda" and gpus == 0:
        yield ("run", "gpus_per_worker"), "expected more than 0 on device cuda, got 0; write device: cpu"


def _tune(run: Mapping[str, Any], search: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
    """Ray Tune's schedulers stop trials: a pruner beside them, a cohort of several, and several objectives are none."""
    if run.get("storage") is not None:
        message = f"expected none with executor {TUNE}, whose trials' states come with their results"
        yield ("run", "storage"), f"{message}, got one; remove it, or use executor ray"
    scheduler = run.get("scheduler") or "fifo"
    pruner = search.get("pruner")
    named = pruner.get("kind", "none") if isinstance(pruner, Mapping) else "none"
    if named != "none":
        remedy = "remove it"
        if not run.get("scheduler"):
            remedy += f", and write scheduler: {_counterpart(named)} under run"
        message = f"expected none beside Ray Tune's scheduler ({scheduler}), got {describe(named)}; {remedy}"
        yield ("search", "pruner"), message
    cohort = run.get("cohort", "auto")
    if isinstance(cohort, int) and cohort > 1:
        message = f"expected 1 with executor {TUNE}, got {cohort}; Ray Tune stops single trials: remove it"
        yield ("run", "cohort"), f"{message}, or use executor ray"
    objectives = search.get("objective")
    if scheduler != "fifo" and isinstance(objectives, list) and len(objectives) > 1:
        message = f"expected fifo under several objectives, got {describe(scheduler)}"
        yield ("run", "scheduler"), f"{message}: what is behind in one may be the best in another"


def _counterpart(pruner: object) -> str:
    """Tune's scheduler that is most like a pruner of ours."""
    section = PRUNERS.get(pruner) if isinstance(pruner, str) else None
    return section.scheduler if section is not None else "median"


def _population(space: SearchSpace, rules: Mapping[str, Hyperparameter]) -> Iterator[tuple[Keys, str]]:
    """A trial goes on with another's weights and with other hyperparameters: they must fit whatever is drawn."""
    structural = [name for name in space.parameters if name in rules and not rules[name].rule.fusible]
    for name in structural:
        message = f"expected hyperparameters that may change while a network trains under scheduler {POPULATION}"
        yield ("search", "space", name), f"{message}, got {name}, which changes its shape or its steps; fix it instead"
    numbers = [
        name
        for name, parameter in space.parameters.items()
        if name in rules and name not in structural and parameter.count != 1 and rules[name].type in (int, float)
    ]
    if not numbers and not structural:
        searched = listed(space.parameters)
        message = f"expected a number to change under scheduler {POPULATION}, got {searched}; search learning_rate too"
        yield ("search", "space"), message
