"""Who may import whom, and how large a file and a function may grow: read from the syntax tree, never by importing."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("models", "search_spaces", "tuner")
CODE = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
OURS = CODE + sorted(path for folder in ("tests", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py"))

LONGEST_FILE, LONGEST_FUNCTION, LONGEST_TEST = 400, 60, 600
MAY_BE_LONGER: frozenset[str] = frozenset()  # "tuner/x.py" or "tuner/x.py:function", each with its reason beside it

# A library, and the only modules that may import it.
GATES = {
    "optuna": {
        "tuner.search",
        "tuner.search.trials",
        "tuner.search.tpe",
        "tuner.search.pruners",
        "tuner.search.samplers",
    },
    "cmaes": {"tuner.search.samplers"},
    "mlflow": {
        f"tuner.tracking.{name}"
        for name in ("sync", "sqlite_store", "client_writer", "sql_writer", "model_registry", "removal")
    },
    "sqlalchemy": {
        "tuner.ledger",
        *(f"tuner.ledger.{name}" for name in ("tables", "place", "sqlite", "postgresql", "lease")),
        "tuner.tracking.sqlite_store",
        "tuner.tracking.sql_writer",
    },
    "sqlite3": {"tuner.tracking.sqlite_store", "tuner.tracking.relocation"},
    "fsspec": {"tuner.checkpoints.remote"},
    "lightning": {"tuner.integrations.lightning"},
    "pytorch_lightning": {"tuner.integrations.lightning"},
    "transformers": {"tuner.integrations.transformers"},
    "accelerate": {"tuner.integrations.transformers"},
    "ray": {
        "tuner.executors.ray_cluster",
        "tuner.cli.cluster_jobs",
        "tuner.ray_tune",
        *(f"tuner.ray_tune.{name}" for name in ("space", "trial", "program_trial", "bridge", "driver", "journal")),
    },
}

# A module (or a whole package, ending in .*), and everything outside the standard library that it may import.
VALUES = {"tuner.errors", "tuner.events", "tuner.history.curves", "tuner.history.fold"}
ALLOWED = {
    "tuner.search_spaces.*": {"tuner.search_spaces", "pydantic", "pydantic_core", "ruamel"},
    "tuner.models.*": {"tuner.models", "torch"},
    "tuner": {"tuner.cpu", "tuner.top_level"},
    "tuner.cpu": set(),
    "tuner.top_level": set(),
    "tuner.errors": set(),
    "tuner.events": set(),
    "tuner.seeds": set(),
    "tuner.history.curves": set(),
    "tuner.history.fold": {"tuner.events", "tuner.history.curves"},
    "tuner.terminal.tables": set(),
    "tuner.data.batches": {"torch", "numpy", "tuner.seeds", "tuner.errors"},
    "tuner.data.augmentation": {"torch", "numpy", "tuner.seeds", "tuner.errors", "tuner.models"},
    "tuner.training.replay.dispatch": {"torch"},
    "tuner.training.replay.blas": {"torch", "numpy", "threadpoolctl", "tuner.cpu", "tuner.training.replay.dispatch"},
    "tuner.checkpoints.format": {"torch", "numpy", "tuner.errors"},
    "tuner.training.*": {
        "tuner.training",
        "tuner.checkpoints.format",
        "tuner.models",
        "torch",
        "numpy",
        "tuner.seeds",
        "tuner.errors",
        "tuner.data.batches",
        "tuner.data.augmentation",
        "tuner.workloads.base",
    },
    "tuner.workloads.base": {"tuner.events", "tuner.history.fold"},
    "tuner.integrations.*": {"tuner.integrations.reports", "tuner.workloads.context", "transformers", "accelerate"},
    "tuner.history.results": {"pandas", *VALUES},
}

# Parts that do not know one another: only the study loop joins them, and only the command line stands above it.
APART = ("tuner.search", "tuner.executors", "tuner.ledger", "tuner.tracking")
TOP = ("tuner.cli", "tuner.__main__", "tuner.study.launch", "tuner.study.loop")


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "tuner" else ("tuner", *parts)  # models and search_spaces are imported as its parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in CODE}


def imports(path: Path) -> Iterator[str]:
    """Every module that the file imports anywhere, also inside functions and for type checkers; never a name in it."""
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            inner = [f"{base}.{alias.name}" for alias in node.names if f"{base}.{alias.name}" in MODULES]
            yield from inner
            if len(inner) < len(node.names):
                yield base


def within(module: str, allowed: set[str] | tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


def rule_for(module: str) -> set[str] | None:
    if module in ALLOWED:
        return ALLOWED[module]
    return next((rule for name, rule in ALLOWED.items() if name.endswith(".*") and within(module, (name[:-2],))), None)


@pytest.mark.parametrize("module", MODULES)
def test_libraries_are_imported_by_their_one_module_alone(module: str) -> None:
    for name in imports(MODULES[module]):
        allowed = GATES.get(name.split(".")[0])
        assert allowed is None or module in allowed, f"{module} imports {name}; only {sorted(allowed)} may"


@pytest.mark.parametrize("module", [module for module in MODULES if rule_for(module) is not None])
def test_leaves_values_and_training_import_nothing_but_what_they_are_allowed(module: str) -> None:
    allowed = rule_for(module)
    assert allowed is not None
    foreign = {name for name in imports(MODULES[module]) if name.split(".")[0] not in sys.stdlib_module_names}
    assert {name for name in foreign if not within(name, allowed)} == set()


@pytest.mark.parametrize("module", [module for module in MODULES if within(module, APART)])
def test_search_executors_ledger_and_tracking_do_not_know_one_another(module: str) -> None:
    mine = next(part for part in APART if within(module, (part,)))
    # The dashboard is a projection of the ledger: it reads it, and only reads.
    others = {part for part in APART if part != mine and (mine, part) != ("tuner.tracking", "tuner.ledger")}
    assert {name for name in imports(MODULES[module]) if within(name, tuple(others))} == set()


@pytest.mark.parametrize("module", [module for module in MODULES if not within(module, TOP) and module != "tuner"])
def test_nothing_below_knows_the_study_loop_or_the_command_line(module: str) -> None:
    assert {name for name in imports(MODULES[module]) if within(name, TOP)} == set()


def test_no_imports_go_round_in_a_circle() -> None:
    graph = {module: {name for name in imports(path) if name in MODULES} - {module} for module, path in MODULES.items()}
    while leaves := [module for module, below in graph.items() if not below & graph.keys()]:
        for module in leaves:
            del graph[module]
    assert graph == {}, "each of these imports, through others, itself"


def test_no_module_is_a_kitchen_sink() -> None:
    sinks = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert [str(path) for path in OURS if path.stem in sinks or path.parent.name in sinks] == []


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_short_enough_to_read(path: Path) -> None:
    name, text = str(path.relative_to(ROOT)), path.read_text()
    sizes = {name: (text.count("\n"), LONGEST_FILE)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            sizes[f"{name}:{node.name}"] = (node.end_lineno - node.lineno + 1, LONGEST_FUNCTION)
    assert {key: size for key, (size, most) in sizes.items() if size > most and key not in MAY_BE_LONGER} == {}


@pytest.mark.parametrize(
    "path", [path for path in OURS if path not in CODE], ids=lambda path: str(path.relative_to(ROOT))
)
def test_files_of_tests_and_benchmarks_stay_short_enough_to_find_something_in(path: Path) -> None:
    assert path.read_text().count("\n") <= LONGEST_TEST


def test_the_exceptions_to_the_ceilings_are_still_needed() -> None:
    known = {str(path.relative_to(ROOT)) for path in CODE}
    assert {name for name in MAY_BE_LONGER if name.split(":")[0] not in known} == set()


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree) or not tree.body


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import optuna.samplers", {"optuna.samplers"}),
        ("def f():\n    from mlflow import MlflowClient", {"mlflow"}),
        ("from . import errors", {"tuner.errors"}),
        ("from .events import Event", {"tuner.events"}),
        ("from tuner import errors, launch", {"tuner", "tuner.errors"}),
        ("if TYPE_CHECKING:\n    import ray", {"ray"}),
    ],
)
def test_the_reader_of_imports_sees_every_way_to_write_one(
    source: str, found: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ROOT / "tuner" / "imaginary.py"
    monkeypatch.setattr(Path, "read_text", lambda _self: source)
    assert set(imports(path)) == found


def test_every_module_that_a_rule_names_is_there() -> None:
    named = {*ALLOWED, *APART, *(name for names in GATES.values() for name in names)}
    assert {name for name in named if name.removesuffix(".*") not in MODULES} == set()
