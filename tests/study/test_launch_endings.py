"""What is said at a study's end and after it: of MLflow, of a dashboard, of a champion that there is not."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

import tuner
from tests import studies
from tuner import champion, cli
from tuner.cli.summary import called, ending
from tuner.events import Completed, Created
from tuner.ledger import Ledger, study_folder
from tuner.terminal.progress import Progress
from tuner.tracking import writer as writing
from tuner.tracking.writer import Writer

SAYS = """
import sys
print('{"written": 3, "waiting": %d, "error": null}', flush=True)
sys.stdin.read()
sys.exit(%d)
"""


class Heard(Progress):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)

    def update(self, *_: Any) -> None: ...


def writer(folder: Path, monkeypatch: pytest.MonkeyPatch, waiting: int = 0, code: int = 0) -> Writer:
    line = [sys.executable, "-c", SAYS % (waiting, code)]
    monkeypatch.setattr(writing, "command", lambda *_, **__: line)
    return Writer(folder, folder, "embedded")


def test_a_writer_that_ends_while_it_is_asked_is_not_still_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Writer.wait

    def late(self: Writer, seconds: float | None = None) -> Any:
        said = asked(self, seconds)
        self._reader.join()
        return said

    monkeypatch.setattr(Writer, "wait", late)
    heard = Heard()
    with writer(tmp_path, monkeypatch) as begun:
        said = begun.drain(heard, patient=True)
    assert said == {"written": 3, "waiting": 0, "error": None}
    assert heard.texts == ["MLflow is up to date (3 points)"]


WHY = "(the writer ended with exit code 1); `tuner sync`"


@pytest.mark.parametrize(
    ("waiting", "expected"), [(0, f"not finished {WHY} makes sure"), (1_200, f"1,200 points waiting {WHY} writes them")]
)
def test_a_writer_that_fails_never_says_that_nothing_waits(
    waiting: int, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard()
    with writer(tmp_path, monkeypatch, waiting, code=1) as begun:
        begun.drain(heard, patient=True)
    assert heard.texts == [f"MLflow: {expected}"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("endings")
    content = studies.study(search={"trials": 2}, train={"epochs": 1})
    assert tuner.launch(studies.write(folder, content), home=folder / "home").state == "complete"
    return folder


@pytest.mark.parametrize(("tracking", "shown"), [("off", False), ("embedded", True), ("http://mlflow:5000", True)])
def test_the_dashboard_is_named_where_there_is_one(place: Path, tracking: str, shown: bool) -> None:
    history = tuner.launch(place / "study.yaml", home=place / "home").history
    history.tracking = tracking
    lines = ending("small", history, "complete", None, program="tuner", where="")
    assert ("dashboard:   tuner ui small" in lines) == shown


@pytest.mark.parametrize(
    ("program", "executable", "expected"),
    [
        ("venv/bin/tuner", "venv/bin/python", "venv/bin/tuner"),
        ("site/tuner/__main__.py", "venv/bin/python", "venv/bin/python -m tuner"),
        ("my venv/bin/tuner", "my venv/bin/python", "'my venv/bin/tuner'"),
    ],
)
def test_the_lines_to_paste_name_the_program_as_it_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, executable: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))  # which has no tuner
    monkeypatch.setattr(sys, "argv", [str(tmp_path / program), "launch"])
    monkeypatch.setattr(sys, "executable", str(tmp_path / executable))
    assert called() == expected


def test_what_is_left_to_write_is_told_in_the_summary(place: Path) -> None:
    history = tuner.launch(place / "study.yaml", home=place / "home").history
    for waiting, expected in ((0, "still writing"), (12, "12 points waiting")):
        tracked = {"written": 3, "waiting": waiting, "error": "still writing"}
        lines = ending("small", history, "complete", tracked, program="tuner", where="")
        assert lines[-1] == f"MLflow:      {expected}; tuner sync small"


def test_a_study_whose_trials_all_failed_has_no_champion_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    body = {"spec": studies.study(), "digest": "d", "text": "", "seed": 0, "id": "i", "data": {}}
    with Ledger.create(study_folder(tmp_path / "home", "small")) as ledger, ledger.lock():
        ledger.append([Created(**body), Completed(state="failed", message="none")])
    for verb in (("predict", "small", "new.csv"), ("generate", "small", "--prompt", "a")):
        monkeypatch.setattr(sys, "argv", ["tuner", *verb, "--home", str(tmp_path / "home")])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert "none of the trials of study small completed, so it has no champion; `tuner results small` tells" in said
        assert "launch it again" not in said


EQUAL = """
from torch import nn


class Net(nn.Module):
    def __init__(self, signature, width: int = 8):
        super().__init__()
        self.first, self.last = nn.Linear(signature.inputs[0], width), nn.Linear(width, signature.outputs)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x):
        return self.last(self.first(x)) * 0.0
"""


def test_of_trials_that_tie_the_same_one_is_tested_and_restored(tmp_path: Path) -> None:
    """The first objective ties; the second decides at the study's end, and when the champion was lost."""
    from tuner.history.results import leader

    (tmp_path / "net.py").write_text(EQUAL)
    objective = [{"metric": "val/accuracy", "goal": "maximize"}, {"metric": "parameters", "goal": "minimize"}]
    search = {"objective": objective, "start_with": [{"width": 24}, {"width": 8}], "trials": 2}
    content = studies.study(search=search, train={"epochs": 1, "learning_rate": 1e-9})
    content["model"] = {"family": "net.py:Net"}
    content["search"]["space"] = {"width": {"type": "choice", "values": [24, 8]}}
    path = studies.write(tmp_path, content)
    study = tuner.launch(path, home=tmp_path / "home")
    best = leader(study.history)
    first = study.history.best("val/accuracy", True)
    assert best is not None and first is not None and best.number != first.number
    card = study.folder / "champion" / champion.CARD
    assert json.loads(card.read_text())["trial"]["number"] == best.number
    shutil.rmtree(study.folder / "champion")
    tuner.launch(path, home=tmp_path / "home")
    assert json.loads(card.read_text())["trial"]["number"] == best.number
