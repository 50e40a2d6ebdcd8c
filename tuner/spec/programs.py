"""What is wrong with a study of a person's own training, beyond what each key by itself may be.

Knows the raw mapping of a study file and its space; runs and imports nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tuner.search_spaces import SearchSpace
from tuner.search_spaces.document import Keys, describe, suggest

BUILT_IN = ("number", "seed", "device", "epochs", "folder")  # that a command's words may name beside parameters
_NAME = re.compile(r"[\w\-./: ]{1,250}", re.ASCII)  # as MLflow takes them
PLACEHOLDER = re.compile(r"\{(\w+)\}")


def program_problems(data: Mapping[str, Any], space: SearchSpace | None) -> Iterator[tuple[Keys, str]]:
    """Every mistake that takes more than one key to see."""
    for name in ("data", "model", "train", "metrics"):
        if name in data:
            yield (name,), "expected none beside trial, got one; remove it, or remove trial"
    trial = data["trial"]
    if not isinstance(trial, Mapping):
        return
    function, command = trial.get("function"), trial.get("command")
    if function is None and command is None:
        yield ("trial",), "expected a function or a command, got neither; add `function: train.py:train`"
    elif function is not None and command is not None:
        yield ("trial", "command"), "expected either a function or a command, got both; remove one"
    if isinstance(function, str) and not re.fullmatch(r"[^:]+:[A-Za-z_]\w*", function):
        yield ("trial", "function"), f"expected file.py:function, got {describe(function)}"
    if trial.get("metrics") == "stdout" and command is None:
        yield ("trial", "metrics"), "expected file of a function, got stdout; it reports with trial.report(…)"
    run, search = data.get("run"), data.get("search")
    if isinstance(search, Mapping):
        scheduler = run.get("scheduler") if isinstance(run, Mapping) else None
        yield from _counted(trial, search, space, scheduler)
    params = trial.get("params")
    fixed = params if isinstance(params, Mapping) else {}
    searched = space.parameters if space is not None else {}
    for name in (*searched, *fixed):
        at: Keys = ("search", "space", name) if name in searched else ("trial", "params", name)
        if not _NAME.fullmatch(str(name)):
            yield at, f"expected a name of letters, digits, spaces and _ - . : /, got {describe(name)}"
        if name in BUILT_IN and (name != "epochs" or name in fixed):
            remedy = "write trial.epochs" if name == "epochs" else "rename it"
            yield at, f"expected another name than one that every trial has, got {name}; {remedy}"
    for name in fixed:
        if name in searched:
            message = f"expected '{name}' either fixed or searched, got trial.params.{name} too; remove one of them"
            yield ("search", "space", str(name)), message
    if isinstance(command, list) and space is not None:
        yield from _placeholders(command, [*searched, *fixed])


def _counted(
    trial: Mapping[str, Any], search: Mapping[str, Any], space: SearchSpace | None, scheduler: Any
) -> Iterator[tuple[Keys, str]]:
    """A pruner counts epochs, and so does Ray Tune's scheduler."""
    pruner = search.get("pruner")
    named = pruner.get("kind", "none") if isinstance(pruner, Mapping) else "none"
    if scheduler not in (None, "fifo") and trial.get("epochs") is None:
        yield ("trial",), f"expected epochs, which scheduler {scheduler} counts, got none; add `epochs: 10`"
    if named != "none" and trial.get("epochs") is None and (space is None or "epochs" not in space.parameters):
        yield ("trial",), f"expected epochs, which pruner {named} counts, got none; add `epochs: 10`"
    if trial.get("epochs") is not None and space is not None and "epochs" in space.parameters:
        yield ("search", "space", "epochs"), "expected 'epochs' either fixed or searched, got trial.epochs too"


def _placeholders(command: list[Any], names: list[str]) -> Iterator[tuple[Keys, str]]:
    for index, word in enumerate(command):
        for name in PLACEHOLDER.findall(word) if isinstance(word, str) else ():
            if name not in (*names, *BUILT_IN):
                hint = suggest(name, [*names, *BUILT_IN]) or f"; they are {', '.join([*names, *BUILT_IN])}"
                yield ("trial", "command", index), f"expected {{parameters}} of the study, got {{{name}}}{hint}"
