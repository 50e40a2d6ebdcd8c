"""Writes the generated parts of docs/reference: `python docs/generate.py`; with `--check` it only says what is stale.

The options of the command line come from the typer app, the keys of a study file from its JSON Schema. What stands
between `<!-- generated: NAME -->` and `<!-- end -->` is replaced; everything else on a page is written by hand.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from typer.main import get_command

from tuner.cli import app
from tuner.spec.json_schema import schema as schema_of_file

REFERENCE = Path(__file__).parent / "reference"
MARKED = re.compile(r"(<!-- generated: ([\w.-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
Node = Mapping[str, Any]
SECTIONS = {"data", "model", "train", "trial", "search", "run", "tracking"}


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines) + "\n"


# --- the command line ---------------------------------------------------------------------------------


def command_line() -> dict[str, str]:
    """Its parts by name: every verb under the heading that `tuner --help` shows it under."""
    group = get_command(app)
    text = ""
    with group.make_context("tuner", [], resilient_parsing=True) as context:
        heading = None
        for name in group.list_commands(context):  # type: ignore[attr-defined]
            verb = group.get_command(context, name)  # type: ignore[attr-defined]
            if verb.rich_help_panel != heading:
                heading = verb.rich_help_panel
                text += f"### {heading}\n\n"
            text += described(name, verb, context)
    return {"verbs": text}


def described(name: str, verb: Any, context: Any) -> str:
    parameters = verb.get_params(context)
    arguments = [one for one in parameters if one.param_type_name == "argument"]
    usage = " ".join(["tuner", name, *(one.metavar for one in arguments)])
    records = [(one, one.get_help_record(context)) for one in parameters if "--help" not in one.opts]
    rows = [
        (f"`{one.metavar if one in arguments else kind(record[0])}`", " ".join(record[1].split()))
        for one, record in records
        if record is not None
    ]
    said = textwrap.fill(" ".join(verb.help.split()), 128, break_on_hyphens=False)
    return f"#### `{usage}`\n\n{said}\n\n" + (table(("", ""), rows) + "\n" if rows else "")


def kind(option: str) -> str:
    """An option with its type in one word."""
    return re.sub(r"<(?:list\[)?(\w+)(?:\]| range)?>", r"<\1>", option)


# --- the study file -----------------------------------------------------------------------------------


def study_file() -> dict[str, str]:
    """Its parts by name: a table of keys for each section."""
    schema = schema_of_file()
    sections, top = schema["$defs"], schema["properties"]
    head = ("key", "values", "default", "")
    parts = {
        "top": table(head, keys(top, schema["required"], skip=SECTIONS)),
        "model": table(("key", "families", "values", "default", ""), model_keys(top["model"])),
        "train": table(head, keys(top["train"]["properties"], ())),
    }
    for name in ("data", "trial", "search", "run", "tracking"):
        section = sections[f"{name.title()}Section"]
        parts[name] = table(head, keys(section["properties"], section.get("required", ())))
    for kind in ("sampler", "pruner"):
        parts[kind] = table(("kind", "", "settings"), kinds(sections, kind))
    parts["objective"] = table(head, keys(sections["Objective"]["properties"], sections["Objective"]["required"]))
    return parts


def keys(properties: Node, required: Iterable[str], *, skip: Iterable[str] = ()) -> Iterator[tuple[str, ...]]:
    for name, node in properties.items():
        if name not in set(skip):
            default = "required" if name in required else shown(node.get("default"))
            yield f"`{name}`", values(node), default, " ".join(node["description"].split())


def model_keys(model: Node) -> Iterator[tuple[str, ...]]:
    """A row for each keyword; where families differ, each says its own."""
    families = {case["if"]["properties"]["family"]["const"]: case["then"]["properties"] for case in model["allOf"]}
    names = dict.fromkeys(name for known in families.values() for name in known if name != "family")
    for name in names:
        having = {family: known[name] for family, known in families.items() if name in known}
        yield (
            f"`{name}`",
            ", ".join(f"`{family}`" for family in having) if len(having) < len(families) else "all",
            *(
                by_family({family: of(node) for family, node in having.items()})
                for of in (values, lambda node: shown(node.get("default")), lambda node: node["description"])
            ),
        )


def by_family(texts: Mapping[str, str]) -> str:
    """One text where all families have the same, else each with those that have it."""
    having: dict[str, list[str]] = {}
    for family, text in texts.items():
        having.setdefault(text, []).append(f"`{family}`")
    if len(having) == 1:
        return next(iter(having))
    return "; ".join(f"{', '.join(families)}: {text}" for text, families in having.items())


def kinds(sections: Mapping[str, Node], name: str) -> Iterator[tuple[str, ...]]:
    for kind, reference in sections["SearchSection"]["properties"][name]["discriminator"]["mapping"].items():
        section = sections[reference.rpartition("/")[2]]
        settings = [
            f"`{key}` ({', '.join(filter(None, (values(node), default(node, key in section['required']))))}): "
            + " ".join(node["description"].split())
            for key, node in section["properties"].items()
            if key != "kind"
        ]
        yield f"`{kind}`", section["description"], "; ".join(settings)


def default(node: Node, required: bool) -> str:
    return "required" if required else f"default {shown(node['default'])}" if node["default"] is not None else ""


def shown(value: Any) -> str:
    """A default as one writes it into a study file."""
    if value is None or value == []:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, Mapping):
        return f"`{value['kind']}`" if "kind" in value else ""
    return f"`{value:g}`".replace("e-0", "e-") if isinstance(value, float) else f"`{value}`"


def values(node: Node) -> str:
    """What a key may be, in words."""
    if "$ref" in node:
        return "section"
    if "discriminator" in node:
        return ", ".join(f"`{kind}`" for kind in node["discriminator"]["mapping"])
    if either := node.get("anyOf") or node.get("oneOf"):
        return " or ".join(dict.fromkeys(filter(None, map(values, either))))
    if "enum" in node:
        return ", ".join(f"`{one}`" for one in node["enum"])
    if "const" in node:
        return f"`{node['const']}`"
    kind = node["type"] if isinstance(node["type"], str) else node["type"][0]
    if kind == "array":
        return f"list of {values(node['items'])}"
    return {
        "null": "",
        "boolean": "`true`, `false`",
        "string": "text",
        "object": "mapping",
        "integer": "integer " + bounds(node),
        "number": "number " + bounds(node),
    }[kind].strip()


def bounds(node: Node) -> str:
    found = [
        f"{sign} {int(node[key]):,}" if float(node[key]).is_integer() else f"{sign} {node[key]:g}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in node
    ]
    return ", ".join(found)


# --- pages --------------------------------------------------------------------------------------------


def pages() -> dict[Path, str]:
    """Each page as it should be."""
    parts = {"command-line.md": command_line(), "study-file.md": study_file()}
    return {REFERENCE / name: filled((REFERENCE / name).read_text(), known) for name, known in parts.items()}


def filled(page: str, parts: Mapping[str, str]) -> str:
    named = [name for _, name, _ in MARKED.findall(page)]
    if sorted(named) != sorted(parts):
        raise SystemExit(f"the page has the parts {sorted(named)}, not {sorted(parts)}")
    return MARKED.sub(lambda found: f"{found[1]}\n{parts[found[2]].strip()}\n\n{found[3]}", page)


def main() -> None:
    stale = {path: text for path, text in pages().items() if path.read_text() != text}
    for path, text in stale.items():
        print(path.name)
        if "--check" not in sys.argv:
            path.write_text(text)
    sys.exit(1 if stale and "--check" in sys.argv else 0)


if __name__ == "__main__":
    main()
