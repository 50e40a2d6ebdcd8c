"""The pages are true: every link leads somewhere, every command is understood, the generated tables are up to date, and
the pages that begin with a person's own data run from the first line to the last.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest

from tests.repository.test_readme import BIN, ROOT, SCHEMA, WAITS
from tuner.search_spaces.document import parse

PAGES = sorted(path for folder in (ROOT / "docs", ROOT / "benchmarks") for path in folder.rglob("*.md"))
PAGES += [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
# In one folder, in this order.
RUN = (
    "getting-started",
    *(f"how-to/{name}" for name in ("own-data", "own-network", "results", "resume", "own-training")),
    "how-to/lightning-and-transformers",
)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, language: str) -> Iterator[str]:
    yield from (text for _, kind, text in FENCED.findall(page.read_text()) if kind == language)


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading_that_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", page.read_text()))
    for link in links:
        if re.match(r"https?://", link):
            continue
        file, _, heading = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not heading or heading in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_tuner_command_is_understood(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the command line's own parser, without running the verb."""
    monkeypatch.setenv("TUNER_CLUSTER", "127.0.0.1:8265")  # as the page about clusters exports it
    from typer.main import get_command

    from tuner.cli import app

    group = get_command(app)
    for block in blocks(page, "sh"):
        for line in block.splitlines():
            _, *command = shlex.split(line, comments=True) or [""]
            if not line.strip().startswith("tuner "):
                continue
            with group.make_context("tuner", list(command)) as context:
                name, verb, rest = group.resolve_command(context, list(command))  # type: ignore[attr-defined]
                verb.make_context(name, rest, parent=context).close()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_study_file_shown_fits_the_schema(page: Path) -> None:
    for block in blocks(page, "yaml"):
        if re.search(r"^study:", block, re.MULTILINE):
            jsonschema.validate(parse(block, name_of(page)).data, SCHEMA)


def test_every_page_is_reached_by_links_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        for link in re.findall(r"\]\(([^)\s#]+)[^)]*\)", FENCED.sub("", page.read_text())):
            target = (page.parent / link).resolve()
            waiting += sorted(target.glob("README.md")) if target.is_dir() else [target] if target.is_file() else []
    assert [name_of(page) for page in PAGES if page not in reached] == ["CHANGELOG.md"]


def test_the_generated_tables_are_up_to_date() -> None:
    pages = runpy.run_path(str(ROOT / "docs" / "generate.py"))["pages"]()
    assert [name_of(path) for path, text in pages.items() if path.read_text() != text] == [], "renew them: make docs"


@pytest.mark.slow
def test_the_pages_for_ones_own_data_run_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TUNER_HOME", raising=False)
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
    ran = set()
    for name in RUN:
        for _, language, text in FENCED.findall((ROOT / "docs" / f"{name}.md").read_text()):
            if named := re.match(r"# (\S+\.\w+)\n", text):
                Path(named[1]).write_text(text)
                if language == "python" and "print(" in text:  # a script, shown where it can be run
                    run(["python", named[1]])
            for line in text.splitlines() if language == "sh" else ():
                command = shlex.split(line, comments=True)
                if command[:1] in (["tuner"], ["python"]) and command[1] not in WAITS:
                    run(command)
                    ran.add(command[1])
    assert {"make_data.py", "init", "launch", "best", "predict", "attend", "stop", "delete"} <= ran


def run(command: list[str]) -> None:
    ended = subprocess.run([str(BIN / command[0]), *command[1:]], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{shlex.join(command)}\n{ended.stdout}\n{ended.stderr}"
    assert "Traceback" not in ended.stderr, ended.stderr
