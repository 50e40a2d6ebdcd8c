"""The README is true: its commands run, its files are valid, its tree is the repository's."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest

from tests.forks import Forks
from tests.servers import PATIENCE
from tuner.search_spaces.document import parse

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(str(path.relative_to(ROOT / "examples")) for path in (ROOT / "examples").rglob("*.yaml"))
TEXT = (ROOT / "README.md").read_text()
COMMAND_LINE = (ROOT / "docs" / "reference" / "command-line.md").read_text()  # goes on from there
BIN = Path(sys.executable).parent
WAITS = {"ui"}  # commands that run until Ctrl-C
AWAY = "--cluster"  # asks a cluster that is not here: tests/compose runs these


@dataclass(frozen=True)
class Block:
    language: str
    text: str

    @property
    def name(self) -> str | None:
        """The file that the block shows, named in its first line: `# net.py`."""
        found = re.match(r"# (\S+\.\w+)\n", self.text)
        return found.group(1) if found else None


BLOCKS = [
    Block(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```$", TEXT + COMMAND_LINE, re.MULTILINE | re.DOTALL)
]
FILES = {block.name: block.text for block in BLOCKS if block.name}
FILES["customers.csv"] = next(block.text for block in BLOCKS if block.language == "csv")
COMMANDS = [
    shlex.split(line, comments=True)
    for block in BLOCKS
    if block.language == "sh"
    for line in block.text.splitlines()
    if line.strip()
]
TUNER = [command[1:] for command in COMMANDS if command[0] == "tuner"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the README's own files in it, and data enough to train on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TUNER_HOME", raising=False)
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
    for name, text in FILES.items():
        (tmp_path / str(name)).write_text(text)
    random = np.random.default_rng(0)
    head, *rows = FILES["customers.csv"].splitlines()
    for _ in range(120):
        age, visits = int(random.integers(18, 80)), int(random.integers(0, 15))
        plan = random.choice(["basic", "family"])
        rows.append(f"{age},{int(random.integers(20, 90)) * 1000},{plan},{visits},{'no' if visits > 5 else 'yes'}")
    (tmp_path / "customers.csv").write_text("\n".join([head, *rows]) + "\n")
    new = [line.rpartition(",")[0] for line in [head, *rows[:3]]]
    (tmp_path / "new.csv").write_text("\n".join(new) + "\n")
    return tmp_path


SCHEMA = json.loads((ROOT / "docs" / "study.schema.json").read_text())


def tuner(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BIN / "tuner", *arguments], capture_output=True, text=True, check=False)


def test_the_readme_opens_with_the_two_commands() -> None:
    assert COMMANDS[:2] == [["make", "demo"], ["make", "test"]]


def test_every_command_is_one_that_these_tests_know_how_to_check() -> None:
    others = [command for command in COMMANDS if command[0] not in ("make", "tuner")]
    assert others == [["source", ".venv/bin/activate"]]


@pytest.mark.parametrize("command", [command for command in COMMANDS if command[0] == "make"], ids=" ".join)
def test_every_make_command_has_its_target(command: list[str]) -> None:
    subprocess.run([*command, "--dry-run"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("command", TUNER, ids=" ".join)
def test_every_tuner_command_is_understood(command: list[str]) -> None:
    """By the command line's own parser, without running the verb; the slow test below runs them all."""
    from typer.main import get_command

    from tuner.cli import app

    group = get_command(app)
    with group.make_context("tuner", list(command)) as context:
        name, verb, rest = group.resolve_command(context, list(command))  # type: ignore[attr-defined]
        verb.make_context(name, rest, parent=context).close()


def test_every_verb_of_the_command_line_is_shown() -> None:
    from tuner.cli import app

    verbs = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert verbs == {command[0] for command in TUNER}


def test_the_study_of_ones_own_passes_its_check(place: Path) -> None:
    checked = tuner("check", "churn.yaml")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "study     churn" in checked.stdout


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_passes_its_check_and_points_editors_to_the_schema(name: str, forks: Forks) -> None:
    path = ROOT / "examples" / name
    first = path.read_text().splitlines()[0]
    found = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
    assert found is not None, first
    assert (path.parent / found.group(1)).resolve() == ROOT / "docs" / "study.schema.json"
    jsonschema.validate(parse(path.read_text(), name).data, SCHEMA)
    checked = forks.tuner("check", str(path))
    _, err = checked.communicate()
    assert (checked.returncode, err) == (0, "")


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", [name for name in FILES if str(name).endswith(".yaml")])
def test_every_study_file_shown_fits_the_schema(name: str) -> None:
    jsonschema.validate(parse(FILES[name], "study.yaml").data, SCHEMA)


def steps() -> Iterator[list[str]]:
    """The tuner commands and the scripts, in the order shown."""
    for block in BLOCKS:
        if block.language == "sh":
            lines = [shlex.split(line, comments=True) for line in block.text.splitlines()]
            yield from (line for line in lines if line[:1] == ["tuner"])
        elif block.language == "python" and "tuner.launch(" in block.text:
            yield ["python", str(block.name)]


@pytest.mark.slow
@pytest.mark.usefixtures("place")
def test_every_command_and_script_shown_runs_in_the_order_shown() -> None:
    ran = []
    for step in steps():
        line, command = " ".join(step), [str(BIN / step[0]), *step[1:]]
        ran.append(step)
        if AWAY in step:
            continue
        if step[1] in WAITS:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            try:
                assert any("http://127.0.0.1:" in said for said in process.stdout), line
                process.send_signal(signal.SIGINT)
                assert process.wait(timeout=PATIENCE) in (0, 130), line
            finally:
                process.kill()
                process.communicate()
            continue
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, f"{line}\n{ended.stdout}\n{ended.stderr}"
        assert "Traceback" not in ended.stderr, f"{line}\n{ended.stderr}"
        if step[0] == "python":
            assert "val/accuracy" in ended.stdout
    assert [step[1:] for step in ran if step[0] == "tuner"] == TUNER
    assert ["python", "own_script.py"] in ran


@pytest.mark.slow
def test_the_same_search_runs_with_the_loop_of_ones_own(place: Path) -> None:
    """`trial` in the place of `data`, `model` and `train`, as the README says it, and nothing else."""
    (said,) = re.findall(r"put `(trial: \{.*?\})` in", TEXT, re.DOTALL)
    keys = ("data:", "model:", "train:")
    kept = [line for line in (place / "churn.yaml").read_text().splitlines() if not line.startswith(keys)]
    (place / "churn.yaml").write_text("\n".join([" ".join(said.split()), *kept]))
    loop = FILES["loop.py"].partition("def train")[2].splitlines()
    assert len(loop) == 12
    launched = tuner("launch", "churn.yaml")
    assert launched.returncode == 0, launched.stderr
    told = json.loads(tuner("best", "churn", "--output", "json").stdout)
    assert told["metrics"]["val/accuracy"] > 0.7


def tree() -> Iterator[tuple[Path, str]]:
    """(path, phrase) of every line of the tree; a line may name several files of one folder."""
    (text,) = re.findall(r"^```\n(.*?)^```$", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE | re.DOTALL)
    above: list[tuple[int, Path]] = []
    for line in text.splitlines():
        names, _, phrase = line.strip().partition("  ")
        indent = len(line) - len(line.lstrip())
        above = [(depth, folder) for depth, folder in above if depth < indent]
        folder = above[-1][1] if above else ROOT
        for name in names.split():
            yield folder / name, phrase.strip()
            if name.endswith("/"):
                above.append((indent, folder / name))


TREE = dict(tree())


@pytest.mark.parametrize("path", TREE, ids=lambda path: str(path.relative_to(ROOT)))
def test_everything_in_the_tree_exists_and_has_a_phrase(path: Path) -> None:
    assert path.exists()
    assert TREE[path]


def test_every_module_space_and_example_is_in_the_tree() -> None:
    packages = ("models", "search_spaces", "tuner", "examples", "docs", "benchmarks")
    files = {
        path
        for package in packages
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.stat().st_size and "__pycache__" not in path.parts
        if "results" not in path.parts or path.suffix == ".md"  # scripts leave JSON there, which git ignores
    }
    assert sorted(str(path.relative_to(ROOT)) for path in files - TREE.keys()) == []


def test_a_speed_stands_in_the_readme_only_beside_the_script_that_measured_it() -> None:
    prose = re.sub(r"^```.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    before, _, rest = prose.partition("## How fast\n")
    section, _, after = rest.partition("\n## ")
    assert re.findall(r"\d[\d.,]*\s*(?:%|×|x faster|times|seconds|minutes|ms\b)", before + after) == []
    assert TEXT.count("\n") <= 150
    _, _, *rows = [line for line in section.splitlines() if line.startswith("|")]
    named = [re.findall(r"`(\w+\.py)", row) for row in rows]
    assert all(len(scripts) == 1 and (ROOT / "benchmarks" / scripts[0]).is_file() for scripts in named), rows
