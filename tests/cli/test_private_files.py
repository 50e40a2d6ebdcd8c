"""What a study writes is its owner's, unless TUNER_UMASK lets others in."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tuner
from tests import studies
from tuner import cli
from tuner.errors import InputError
from tuner.home import private


@pytest.fixture(autouse=True)
def _others_may_read() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(folder: Path) -> set[tuple[str, str]]:
    """Of all but the copies of Tuner's own code in MLflow's models, which keep the mode of their source."""
    found = [folder, *(path for path in folder.rglob("*") if path.is_dir() or "code" not in path.parts)]
    return {("folder" if path.is_dir() else "file", oct(stat.S_IMODE(path.lstat().st_mode))) for path in found}


def test_a_study_and_its_mlflow_are_its_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNER_UMASK", raising=False)
    content = studies.study(search={"trials": 2}, train={"epochs": 1}, tracking={"mlflow": "embedded"})
    path = studies.write(tmp_path, content)
    study = tuner.launch(path, home=tmp_path / "home")
    assert study.tracking is not None and study.tracking.get("error") is None
    assert (tmp_path / "home" / "mlflow" / "mlflow.db").exists()
    assert modes(tmp_path / "home") == {("folder", "0o700"), ("file", "0o600")}
    again = tuner.launch(path, home=tmp_path / "home")
    assert again.tracking == {"written": 0, "waiting": 0, "error": None}
    assert os.umask(0o022) == 0o022


def test_a_group_is_let_in_where_the_environment_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNER_UMASK", "027")
    content = studies.study(search={"trials": 1}, train={"epochs": 1})
    tuner.launch(studies.write(tmp_path, content), home=tmp_path / "home")
    assert modes(tmp_path / "home") == {("folder", "0o750"), ("file", "0o640")}


@pytest.mark.parametrize("given", ["x", "-1", "0778", "1000", "0o77", "77 "])
def test_a_umask_that_is_none_is_told_before_anything_is_made(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TUNER_UMASK", given)
    with pytest.raises(InputError, match="expected an octal number such as 027"), private():
        pass
    path = studies.write(tmp_path, studies.study())
    monkeypatch.setattr(sys, "argv", ["tuner", "launch", str(path), "--home", str(tmp_path / "home")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "TUNER_UMASK: expected an octal number" in capsys.readouterr().err
    assert not (tmp_path / "home").exists()
