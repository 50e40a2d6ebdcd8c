"""Start-up tricks: each can be turned off, and a study is the same without them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests import studies
from tuner import startup
from tuner.startup import SWITCH, TRICKS


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """The study with all of them."""
    folder = tmp_path_factory.mktemp("all-on")
    return launched(folder)


def launched(folder: Path) -> dict[int, Any]:
    """From the command line to its end, on the dashboard too."""
    small: dict[str, Any] = {"search": {"trials": 2}, "train": {"epochs": 2}, "run": {"workers": 2}}
    content = studies.study(**small, tracking={"mlflow": "embedded"})
    said = studies.run(studies.write(folder, content), folder / "home")
    assert "MLflow is up to date" in said
    return studies.facts(studies.history(folder / "home"))


def test_a_study_is_the_same_without_any_of_them(
    expected: dict[int, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, "1")
    assert launched(tmp_path) == expected


@pytest.mark.slow
@pytest.mark.parametrize("trick", TRICKS)
def test_a_study_is_the_same_without_one_of_them(
    trick: str, expected: dict[int, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, trick)
    assert launched(tmp_path) == expected


@pytest.mark.parametrize(("switch", "off"), [("", []), ("1", [*TRICKS]), ("fork,writer", ["fork", "writer"])])
def test_the_switch_turns_off_all_or_those_that_it_names(
    switch: str, off: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, switch)
    assert [trick for trick in TRICKS if not startup.enabled(trick)] == off


def test_what_is_not_imported_ahead_is_imported_by_who_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "ahead")
    ahead = startup.ImportAhead(["this_module_is_nowhere"])
    ahead.begin()
    with ahead.finished():
        ahead.wait()
    assert "this_module_is_nowhere" not in sys.modules
