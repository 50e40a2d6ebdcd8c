"""A study whose own network is corrected goes on under its name when it is told to, and its trials are told apart."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import studies
from tests.stories import Story
from tests.study.test_study import launch
from tuner.errors import StudyChanged
from tuner.events import Cohort, Created, Finished, Grouped, Opened, State
from tuner.history.fold import History
from tuner.study import code_versions
from tuner.tracking.projection import Projection

NETWORK = """
from torch import nn

class Net(nn.Module):
    def __init__(self, signature, width: int = 8):
        super().__init__()
        self.f = nn.Sequential(nn.Linear(30, width), {layer}, nn.Linear(width, 2))

    def forward(self, x):
        {body}
        return self.f(x)
"""
RAISES = 'if len(x) in (32, 64): raise ValueError("Expected more than 1 value per channel")'


def write(folder: Path, layer: str = "nn.ReLU()", body: str = "") -> dict[str, Any]:
    (folder / "net.py").write_text(NETWORK.format(layer=layer, body=body))
    content = studies.study(train={"epochs": 2})
    content["model"] = {"family": "net.py:Net"}
    content["search"] |= {"space": {"width": {"type": "choice", "values": [8, 16]}, "learning_rate": RATE}, "trials": 3}
    return content


RATE = {"type": "float", "low": 1e-3, "high": 1e-1, "log": True}


def command(*words: object, expect: int = 0) -> str:
    line = [sys.executable, "-P", "-c", "from tuner.cli import main; main()", *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=240, env=studies.environment())
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout if expect == 0 else done.stderr


@pytest.mark.slow
def test_a_corrected_network_goes_on_when_it_is_told_to_and_its_trials_are_told_apart(tmp_path: Path) -> None:
    path = studies.write(tmp_path, write(tmp_path, body=RAISES))
    home = tmp_path / "home"
    studies.run(path, home, expect=1)
    write(tmp_path)
    refused = command("launch", path, "--home", home, "--trials", 6, expect=2)
    assert (
        "the file of the network net.py:Net, or one that it imports or reads, changed" in refused
        and "(--accept-code)" in refused
    )
    assert "but its 3 trials have ended" in command("launch", path, "--home", home, "--accept-code", expect=2)
    assert len(studies.history(home).codes) == 1
    command("launch", path, "--home", home, "--trials", 6, "--accept-code")
    told = studies.history(home)
    assert [trial.state for trial in told.trials.values()] == [State.FAILED] * 3 + [State.COMPLETE] * 3
    before, after = told.codes
    rows = list(csv.DictReader(io.StringIO(command("results", "small", "--home", home, "--output", "csv"))))
    assert [row["code"] for row in rows] == [before[:12]] * 3 + [after[:12]] * 3
    assert "code" in command("results", "small", "--home", home, "--wide").splitlines()[0].split()
    command("launch", path, "--home", home)  # no flag is needed any more
    write(tmp_path, body=RAISES)
    assert "--accept-code" in command("launch", path, "--home", home, "--trials", 7, expect=2)


def test_a_column_of_versions_is_there_only_where_there_are_several(tmp_path: Path) -> None:
    study, _ = launch(tmp_path, write(tmp_path))
    assert "code" not in study.trials.columns and len(study.history.codes) == 1
    study, _ = launch(tmp_path, write(tmp_path), accept_code=True)
    assert "code" not in study.trials.columns


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        ("nn.Sequential(nn.ReLU(), nn.Identity())", ""),
        ("nn.Tanh()", "the one of now answers otherwise with its weights"),
        ("nn.ReLU(), nn.Linear(width, width)", "the one of now has other parameters"),
    ],
)
def test_a_winner_of_an_earlier_version_is_exported_where_the_present_one_is_the_same_network(
    layer: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tuner.study import finish

    launch(tmp_path, write(tmp_path))
    content = write(tmp_path, layer=layer)
    monkeypatch.setattr(finish, "leader", lambda history: history.trials[0])
    content["search"]["trials"] = 3
    study, lines = launch(tmp_path, content, trials=4, accept_code=True)
    assert study.state == "complete" and study.history.trials[0].code == 0 and study.history.code == 1
    if told:
        assert "neither tested nor exported: trial 0 was trained with the network as it was" in lines and told in lines
    else:
        assert "neither tested" not in lines


# --- what is stored ------------------------------------------------------------------------------------


def story(folder: Path) -> Story:
    """Trial 0 has ended, 1 is under way, 2 and 3 wait; 2 in a cohort that was begun."""
    found = Story(folder, "told", begin=False)
    body = {"spec": SPEC, "digest": "d", "text": "", "id": "i", "seed": 1, "data": {}, "network": "a" * 64}
    found.tell(Created(**body), Opened(host="h", pid=1))
    found.ask(range(4))
    found.start(0, [0, 1, 2])
    found.tell(Grouped(1, trials=[3], structure={}, company=False))
    found.report(1, [0, 1])
    found.tell(Finished(0, epochs=1, best_epoch=1))
    return found


class Alone:
    def group(self, trials: Any, first: int) -> list[Cohort]:
        return [Cohort(number, (trial,), {}, False) for number, trial in enumerate(trials, first)]

    def separate(self, _structure: Any) -> bool:
        return False


def test_who_had_begun_is_pruned_and_who_waited_begins_anew_in_cohorts_without_a_checkpoint(tmp_path: Path) -> None:
    ledger = story(tmp_path).ledger
    history, heard = ledger.history(), []
    ended = code_versions.left_behind(history, heard.append)
    assert heard == ["trial 1 had begun with the network as it was, and cannot go on"]
    ledger.append([Opened(host="h", pid=2, network="b" * 64), *ended])
    history = ledger.history()
    assert history.network == "b" * 64 and history.trials[1].state is State.PRUNED
    ledger.append(code_versions.begun_anew(history, Alone()))
    history = ledger.history()
    assert {n: (trial.cohort, trial.code) for n, trial in history.trials.items()} == {
        0: (0, 0), 1: (0, 0), 2: (2, 1), 3: (3, 1),
    }  # fmt: skip
    assert code_versions.begun_anew(history, Alone()) == []


def test_an_unchanged_network_changes_nothing(tmp_path: Path) -> None:
    history = story(tmp_path).ledger.history()
    assert not code_versions.changed(history, "s", "the network n.py:N", "a" * 64, accept=True, more=True)
    assert not code_versions.changed(History(), "s", "n.py:N", "a" * 64, accept=False, more=True)
    assert code_versions.changed(history, "s", "the network n.py:N", "b" * 64, accept=True, more=True)
    with pytest.raises(StudyChanged, match="--accept-code"):
        code_versions.changed(history, "s", "the network n.py:N", "b" * 64, accept=False, more=True)
    assert code_versions.begun_anew(history, Alone()) == []


def test_mlflow_has_the_version_as_a_tag(tmp_path: Path) -> None:
    told = story(tmp_path)
    told.tell(Opened(host="h", pid=2, network="b" * 64))
    told.tell(Grouped(2, trials=[2], structure={}, company=False))
    mirror = Projection()
    for event in told.ledger.read():
        mirror.fold(event)
    assert [mirror.tags(n, alive=True)["tuner.code"] for n in (0, 2)] == ["a" * 12, "b" * 12]


SPEC = {
    "study": "told",
    "model": {},
    "train": {},
    "search": {"trials": 4, "objective": {"metric": "val/accuracy", "goal": "maximize"}},
}
