"""The pages about data are true: their programs run, and what they say of each source is what it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tuner import data
from tuner.errors import DataError
from tuner.search_spaces.document import parse
from tuner.spec.sections import DataSection

PAGES = sorted((Path(__file__).parents[2] / "docs" / "data").glob("*.md"))


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    yield from re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def told(dataset: data.Dataset) -> str:
    signature = dataset.signature
    outputs = {"classification": "classes", "regression": "targets", "language": "tokens, language"}[signature.task]
    shape = "×".join(map(str, signature.inputs))
    masked = ", masked" if signature.masked else ""
    return f"{signature.modality} of {shape}, {signature.outputs} {outputs}{masked}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_program_runs_and_every_source_is_what_its_comment_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checked = 0
    for language, text in blocks(page):
        if language == "python" and (named := re.match(r"# (\w+\.py)\n", text)):
            Path(named[1]).write_text(text)
        elif language == "python":
            exec(compile(text, str(page), "exec"), {})
        for line in text.splitlines() if language == "yaml" else ():
            section, _, comment = line.partition("  #")
            arguments = DataSection(**parse(section, str(page)).data["data"]).model_dump()
            if comment.strip().startswith("fails: "):
                with pytest.raises(DataError, match=comment.strip().removeprefix("fails: ")):
                    data.load(**arguments)
            else:
                assert told(data.load(**arguments)) == comment.strip(), line
            checked += 1
    assert checked


def test_the_study_files_page_leads_to_each() -> None:
    text = (PAGES[0].parents[1] / "reference" / "study-file.md").read_text()
    assert all(f"(../data/{page.name})" in text for page in PAGES)
    assert len(PAGES) == 5


def test_every_built_in_set_is_listed() -> None:
    from tuner.data.built_in import BUILT_IN

    text = (PAGES[0].parents[1] / "reference" / "study-file.md").read_text()
    assert [name for name in BUILT_IN if f"`{name}`" not in text] == []
