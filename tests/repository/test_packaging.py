"""Installing: what is pinned, what `make` would do, and what it says where it cannot."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tuner.cli import completion

ROOT = Path(__file__).parents[2]
MAKE = shutil.which("make") or "make"


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def needed(requirement: Requirement, seen: set[tuple[str, frozenset[str]]]) -> set[str]:
    """The names of all that a requirement installs here, but those that one of them pins itself, as torch does CUDA."""
    key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
    if key in seen:
        return set()
    seen.add(key)
    names = set() if str(requirement.specifier).startswith("==") else {key[0]}
    for line in importlib.metadata.requires(requirement.name) or ():
        inner = Requirement(line)
        if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in {"", *requirement.extras}):
            names |= needed(inner, seen)
    return names


def test_everything_that_is_installed_is_pinned_to_the_version_that_was_tested() -> None:
    found = needed(Requirement("cohort-tuner[test]"), set()) - {"cohort-tuner"}
    installed = {name: importlib.metadata.version(name).partition("+")[0] for name in found}
    pinned = pins()
    assert {name: pinned.get(name) for name in installed} == installed


def test_no_pin_names_a_build_for_one_kind_of_machine() -> None:
    assert [f"{name}=={version}" for name, version in pins().items() if "+" in version] == []
    assert pins()["torch"] == "2.13.0"


# As from a shell: these tests may themselves run under a make, which would hand its own switches down.
SHELL = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}


def dry(target: str, **variables: str) -> list[str]:
    """The commands that make would run on a machine where nothing is installed."""
    settings = [f"{name}={value}" for name, value in variables.items()]
    make = [MAKE, "--dry-run", "--always-make", *settings, target]
    return subprocess.run(make, cwd=ROOT, env=SHELL, capture_output=True, text=True, check=True).stdout.splitlines()


def test_demo_installs_torch_first_and_then_launches_the_example() -> None:
    pip = [line for line in dry("demo") if "pip install" in line]
    assert "'^torch=='" in pip[0]
    assert pip[1].endswith("-e .")
    assert dry("demo")[-1] == ".venv/bin/tuner launch examples/mnist-cnn.yaml"


def test_test_installs_the_extras_and_runs_lint_types_and_the_quick_tests() -> None:
    lines = dry("test")
    wanted = ["-e '.[test]'", "ruff check", "ruff format --check", "mypy", 'pytest -m "not slow"']
    places = [next(i for i, line in enumerate(lines) if text in line) for text in wanted]
    assert places == sorted(places)


def test_every_install_is_constrained() -> None:
    lines = [line for line in dry("test-all") if "pip install" in line]
    assert lines
    assert all("-c constraints.txt" in line for line in lines)


def copy(tmp_path: Path) -> Path:
    folder = tmp_path / "a folder"  # with a space: people have such
    folder.mkdir()
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


def test_without_a_python_new_enough_make_says_what_to_do(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    ran = subprocess.run(
        [MAKE, "demo", f"PYTHON={old}"],
        cwd=copy(tmp_path),
        env=SHELL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert f"expected Python 3.11 or newer with its venv module, found none among: {old}" in ran.stderr
    assert "apt install python3 python3-venv" in ran.stderr


def test_a_second_run_installs_nothing_and_a_moved_pin_installs_again(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    log, python = tmp_path / "log", tmp_path / "python3"
    # An interpreter that writes down what it is asked for, and leaves one like itself where a .venv is wanted.
    python.write_text(
        f'#!/bin/sh\necho "$@" >> "{log}"\n'
        f'if [ "$2" = venv ]; then mkdir -p .venv/bin && cp "{python}" .venv/bin/python\n'
        'for name in tuner ruff mypy pytest; do cp "$0" .venv/bin/$name; done; fi\n'
    )
    python.chmod(0o755)

    def installs(target: str) -> int:
        log.write_text("")
        subprocess.run([MAKE, target, f"PYTHON={python}"], cwd=folder, env=SHELL, capture_output=True, check=True)
        return log.read_text().count("pip install")

    assert [installs("demo"), installs("demo")] == [2, 0]
    assert [installs("test"), installs("test"), installs("demo")] == [1, 0, 0]
    stamp = (folder / ".venv/.ready-to-test").stat().st_mtime
    os.utime(folder / "constraints.txt", (stamp + 5, stamp + 5))
    assert installs("test") == 3


def test_clean_leaves_the_studies_alone(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    (folder / "tuner-home").mkdir()
    (folder / ".venv").mkdir(exist_ok=True)
    subprocess.run([MAKE, "clean"], cwd=folder, env=SHELL, check=True, capture_output=True)
    assert (folder / "tuner-home").exists()
    assert not (folder / ".venv").exists()


@pytest.mark.slow
def test_the_console_script_and_the_three_packages_are_what_is_installed() -> None:
    (script,) = importlib.metadata.distribution("cohort-tuner").entry_points.select(name="tuner")
    assert script.value == "tuner.cli:main"
    for package in ("tuner", "tuner.models", "tuner.search_spaces"):
        found = subprocess.run(
            [sys.executable, "-P", "-c", f"import {package}; print({package}.__file__)"],
            cwd="/",
            capture_output=True,
            text=True,
            check=True,
        )
        assert Path(found.stdout.strip()).resolve().parent == ROOT / package.rpartition(".")[2]


def test_a_wheel_has_one_package_and_the_schema_that_completion_reads() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(wheel["only-include"]) == {"tuner", "models", "search_spaces", "docs/study.schema.json"}
    assert wheel["sources"] == {
        "docs": "tuner",
        "models": "tuner/models",
        "search_spaces": "tuner/search_spaces",
    }
    for package in ("models", "search_spaces"):
        assert (ROOT / "tuner" / package).readlink() == Path("..") / package
        assert f"/tuner/{package}" in wheel["exclude"]
    assert completion.SCHEMAS == (ROOT / "tuner" / "study.schema.json", ROOT / "docs" / "study.schema.json")
    assert completion.SCHEMAS[1].is_file()


@pytest.mark.parametrize("script", [".ci/run"])
def test_scripts_stop_at_the_first_error_and_are_executable(script: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    assert re.search(r"^set -euo pipefail$", path.read_text(), re.MULTILINE)
    subprocess.run(["bash", "-n", path], check=True)
