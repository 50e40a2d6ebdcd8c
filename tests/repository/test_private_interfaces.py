"""docs/private-interfaces.md names every private interface of a library that we use, and no other."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.repository.test_architecture import CODE, ROOT, module_of

TEXT = (ROOT / "docs" / "private-interfaces.md").read_text()
ROWS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in TEXT.splitlines() if line.startswith("| `")]
PRIVATE = re.compile(r"_[A-Za-z]\w*")
OURS = {"_K", "_NUM_THREADS", "_TUNER_COMPLETE", "_rows", "_trial"}  # strings that are no names of a library
NAMED_TUPLE = {"_asdict", "_fields", "_make", "_replace"}  # public, for all their underscores


def private(name: str) -> bool:
    return any(PRIVATE.fullmatch(part) for part in name.split("."))


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def uses(source: str) -> Iterator[str]:
    """Private names of others in a module: imported, read from what is not `self`, or written as strings."""
    tree = ast.parse(source)
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} | set(held(tree)) | NAMED_TUPLE
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if private(alias.name) and foreign(alias.name))
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module and foreign(node.module):
            yield from (name for alias in node.names if private(name := f"{node.module}.{alias.name}"))
        elif isinstance(node, ast.Attribute) and foreign(ast.unparse(node.value)):
            yield from {node.attr} - own if private(node.attr) else ()
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"[\w.]+", node.value):
            yield from {node.value} - own - OURS if private(node.value) else ()


def foreign(name: str) -> bool:
    return name.split(".", maxsplit=1)[0] not in {*sys.stdlib_module_names, "tuner"}


def inherited(path: Path) -> Iterator[str]:
    """Private names in the module's classes that a library's class above them has as well."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.ClassDef) and node.bases):
            continue
        mine = {one.name for one in node.body if isinstance(one, ast.FunctionDef)} | set(held(node))
        if not any(map(private, mine)):
            continue
        found = getattr(importlib.import_module(module_of(path)), node.name, None)
        for above in found.__mro__[1:] if isinstance(found, type) else ():
            if foreign(above.__module__):
                yield from filter(private, mine & names(above))


def held(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self", "cls", "super()"):
            yield node.attr


@cache
def names(library: type) -> frozenset[str]:
    """What a library's class defines, and what its methods keep in `self`."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(library)))
    except (OSError, TypeError):  # no Python
        return frozenset(vars(library))
    return frozenset({*vars(library), *held(tree)})


def test_every_private_interface_is_in_the_register_and_each_that_is_there_is_used() -> None:
    found = {
        (str(path.relative_to(ROOT)), name) for path in CODE for name in (*uses(path.read_text()), *inherited(path))
    }
    told = {(module, name) for row in ROWS for module in quoted(row[1]) for name in quoted(row[0]) if private(name)}
    assert sorted(found - told) == [], "not in docs/private-interfaces.md"
    assert sorted(told - found) == [], "in docs/private-interfaces.md, and used no more"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_what_a_row_names_is_there(row: list[str]) -> None:
    interfaces, modules, *_, otherwise, tested = row
    for module in quoted(modules):
        source = (ROOT / module).read_text()
        assert [name for name in quoted(interfaces) if name.split(".")[-1] not in source] == []
    library, version = tested.split()
    assert f"{library}=={version}\n" in (ROOT / "constraints.txt").read_text(), "tested with another version"
    requirements = re.findall(rf'"({library}\b[^"]*<[^"]*)"', (ROOT / "pyproject.toml").read_text())
    for bound in quoted(otherwise):
        if match := re.fullmatch(r"[\w-]+(<[\d.]+)", bound):
            assert requirements and all(one.endswith(match[1]) for one in requirements), requirements
    assert "`" in otherwise, "neither a public way, which a test names, nor an upper bound"
    for path in re.findall(r"`(tests/\w+\.py)`", otherwise):
        assert (ROOT / path).exists()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch._dynamo", {"torch._dynamo"}),
        ("from optuna._hypervolume import wfg", {"optuna._hypervolume.wfg"}),
        ("def f():\n    from ray import _private", {"ray._private"}),
        ("client._tracking_client.store", {"_tracking_client"}),
        ("getattr(client, '_tracking_client')", {"_tracking_client"}),
        ("torch._C.fork()", {"_C"}),
        ("class A:\n    def f(self):\n        self._x = 1\n        return self._x, other._x", set()),
        ("import os\nos._exit(1)", set()),
        ("place._replace(storage=1)", set()),
        ("from tuner.spec import _private", set()),
    ],
)
def test_the_reader_sees_every_way_to_use_one(source: str, found: set[str]) -> None:
    assert set(uses(source)) == found


def test_the_reader_sees_what_is_inherited() -> None:
    assert set(inherited(ROOT / "tuner" / "ray_tune" / "driver.py")) == {
        "_get_new_config",
        "_next_perturbation_sync",
        "_trial_state",
    }
