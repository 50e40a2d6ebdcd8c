"""Completion at a shell's TAB: which names fit what is typed so far, and the scripts that ask.

Everything is read from small files: the schema of study files as JSON, the names of spaces and of a home's studies.
It must never import what takes time (pydantic, sqlalchemy, torch): a person waits for every TAB.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import typer

from tuner.home import expanded, studies

Node = Mapping[str, Any]

_PACKAGE = Path(__file__).parents[1]
# Where the schema is: as installed, inside the package; in a checkout, among the documents.
SCHEMAS = (_PACKAGE / "study.schema.json", _PACKAGE.parent / "docs" / "study.schema.json")

# A bash word ends at "=", so what stands before it must not be given back; and nothing goes on behind `train.epochs=`
# with a space. Words are passed as they stand, one a line.
_BASH = r"""
_tuner_completion() {
    local IFS=$' \t\n' line="${COMP_LINE:0:COMP_POINT}" last
    local -a words
    read -ra words <<< "$line"
    [[ "$line" == *[[:space:]] ]] && words+=("")
    IFS=$'\n'
    COMPREPLY=( $( COMP_WORDS="${words[*]}" COMP_CWORD=$(( ${#words[@]} - 1 )) _TUNER_COMPLETE=complete_bash "$1" ) )
    [[ ${#COMPREPLY[@]} == 1 && "${COMPREPLY[0]}" == *[=./] ]] && compopt -o nospace
    last="${words[${#words[@]}-1]}"
    if [[ "$last" == *=* && "$COMP_WORDBREAKS" == *=* ]]; then
        COMPREPLY=( "${COMPREPLY[@]#"${last%"${last##*=}"}"}" )
    fi
}
complete -o default -F _tuner_completion tuner
"""

# These two ask as bash does: in its protocol an answer is a value a line, and nothing is imported to colour help.
_ZSH = r"""
#compdef tuner
_tuner_completion() {
    local -a found open closed
    found=( ${(f)"$(COMP_WORDS="${(F)words[1,$CURRENT]}" COMP_CWORD=$(( CURRENT - 1 )) \
        _TUNER_COMPLETE=complete_bash ${words[1]})"} )
    open=( ${(M)found:#*[=./]} )
    closed=( ${found:#*[=./]} )
    if (( $#found == 0 )); then _files; return; fi
    (( $#open )) && compadd -S '' -a open
    (( $#closed )) && compadd -a closed
}
compdef _tuner_completion tuner
"""

_FISH = r"""
function _tuner_completion
    set -l before (commandline -opc)
    set -lx COMP_WORDS "$before "(commandline -ct)
    set -lx COMP_CWORD (count $before)
    set -lx _TUNER_COMPLETE complete_bash
    tuner
end
complete --command tuner --arguments "(_tuner_completion)"
"""

_LISTED = {  # verb of a list → where the schema names what it lists
    "models": ("model", "family"),
    "samplers": ("search", "sampler", "kind"),
    "pruners": ("search", "pruner", "kind"),
}

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def switch_on() -> None:
    """Make the command line answer what these scripts ask; needed in no other run."""
    from typer.completion import completion_init  # type: ignore[attr-defined] # there, and not in its __all__

    completion_init()


# ------------------------------------------------------------------ what fits


def study_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """The studies of the home that the line, or the environment, names."""
    return [name for name in studies(Path(ctx.params.get("home") or "tuner-home")) if name.startswith(incomplete)]


def study_files(incomplete: str) -> list[str]:
    """YAML files, and folders on the way to them."""
    return sorted(_files(incomplete, (".yaml", ".yml")))


def family_names(incomplete: str) -> list[str]:
    """The networks of ours."""
    return [name for name in _choices(_at(("model", "family"))) if name.startswith(incomplete)]


def item_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """What `tuner models`, `spaces`, `samplers` and `pruners` list; data sets stand in no small file."""
    verb = ctx.info_name or ""
    found = _space_names() if verb == "spaces" else _choices(_at(_LISTED.get(verb, ("",))))
    return [name for name in found if name.startswith(incomplete)]


def overrides(incomplete: str) -> list[str]:
    """`--set`: keys part by part (`train.`, `train.epochs=`), then what one may be."""
    place, equals, value = incomplete.partition("=")
    *above, typed = place.split(".")
    if equals:
        known = _space_names() if place == "search.space" else _choices(_at((*above, typed)))
        return [f"{place}={one}" for one in known if one.startswith(value)]
    found = []
    for name, nodes in _children(_at(above)).items():
        if name.startswith(typed):
            path = ".".join([*above, name])
            inner = _children(nodes)
            # a space can be named, or changed part by part
            ends = ["."] * bool(inner) + ["="] * (not inner or path == "search.space")
            found += [path + end for end in ends]
    return found


def _files(incomplete: str, endings: tuple[str, ...]) -> Iterator[str]:
    head, slash, tail = incomplete.rpartition("/")
    folder = expanded(head + slash) if slash else Path()
    try:
        entries = list(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(tail) and (tail or not entry.name.startswith(".")):
            if entry.is_dir():
                yield f"{head}{slash}{entry.name}/"
            elif entry.suffix in endings:
                yield f"{head}{slash}{entry.name}"


def _space_names() -> list[str]:
    found = importlib.util.find_spec("tuner.search_spaces")  # where it is, without importing it
    places = (found.submodule_search_locations if found else None) or ()
    return sorted(file.stem for place in places for file in Path(place).glob("*.yaml"))


# ------------------------------------------------------------------ the schema of study files


@cache
def _schema() -> dict[str, Any]:
    """As installed, or in a checkout; empty where there is neither."""
    for file in SCHEMAS:
        if file.is_file():
            schema: dict[str, Any] = json.loads(file.read_text())
            return schema
    return {}


def _meanings(node: Node) -> Iterator[Node]:
    """A node and everything that it may stand for."""
    yield node
    if "$ref" in node:
        yield from _meanings(_schema()["$defs"][node["$ref"].rpartition("/")[2]])
    for key in ("anyOf", "oneOf", "allOf"):
        for one in node.get(key, ()):
            yield from _meanings(one)
    if "then" in node:
        yield from _meanings(node["then"])


def _at(path: Iterable[str]) -> list[Node]:
    """All that may stand at a path of a study file."""
    nodes: list[Node] = [_schema()]
    for name in path:
        nodes = _children(nodes).get(name, [])
    return nodes


def _children(nodes: Iterable[Node]) -> dict[str, list[Node]]:
    found: dict[str, list[Node]] = {}
    for node in nodes:
        for one in _meanings(node):
            for name, inner in one.get("properties", {}).items():
                found.setdefault(name, []).append(inner)
    return found


def _choices(nodes: Iterable[Node]) -> list[str]:
    """The words that may stand there, as far as they can be listed."""
    found: dict[str, None] = {}
    for node in nodes:
        for one in _meanings(node):
            words = [*one.get("enum", ()), *([one["const"]] if "const" in one else [])]
            words += [True, False] if one.get("type") == "boolean" else []
            found |= dict.fromkeys(word if isinstance(word, str) else json.dumps(word) for word in words)
    return list(found)
