"""What is told of an extension: a dry run counts as the launch does, and a grid has no more trials than points."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import studies
from tests.study.test_code_versions import write
from tests.study.test_study import Silent, launch
from tests.tracking.test_mirror import mirror_of
from tuner.errors import StudyChanged
from tuner.events import Completed, Event
from tuner.home import LEDGER
from tuner.ledger import Ledger, study_folder
from tuner.spec import StudySpec
from tuner.study.launch import foreseen
from tuner.study.launch import launch as start

pytestmark = pytest.mark.usefixtures("copied_workers")


def test_a_dry_run_of_an_extension_counts_the_trials_that_it_adds(tmp_path: Path) -> None:
    content = studies.study(search={"trials": 2, "sampler": {"kind": "random"}}, train={"epochs": 1})
    launch(tmp_path, content)
    path, home = tmp_path / "study.yaml", tmp_path / "home"
    before = (study_folder(home, "small") / LEDGER).read_bytes()
    _, said = foreseen(StudySpec.read(path, trials=5), home)
    counted = "resuming: 2 finished, 0 from checkpoints, 3 queued"
    assert said == ["extends study small from 2 to 5 trials", counted]
    assert (study_folder(home, "small") / LEDGER).read_bytes() == before
    _, text = launch(tmp_path, content, trials=5)
    assert counted in text


def test_a_progress_is_told_what_trials_do_and_not_how_a_study_is_taken_up(tmp_path: Path) -> None:
    class Recorded(Silent):
        def update(self, history: object, fresh: Sequence[Event], now: object) -> None:
            self.lines += [event.kind for event in fresh]

    for trials in (2, 3):
        heard = Recorded()
        content = studies.study(search={"trials": 2, "sampler": {"kind": "random"}}, train={"epochs": 1})
        start(studies.write(tmp_path, content), home=tmp_path / "home", trials=trials, progress=heard)
        assert not {"created", "opened", "extended"} & set(heard.lines)
        assert heard.lines.count("asked") == heard.lines.count("finished") == (2 if trials == 2 else 1)
        assert heard.lines[-1] == "completed"


def test_a_refused_extension_says_nothing_of_test_scores(tmp_path: Path) -> None:
    path = studies.write(tmp_path, write(tmp_path))
    start(path, home=tmp_path / "home", progress=Silent())
    write(tmp_path, layer="nn.Tanh()")
    heard = Silent()
    with pytest.raises(StudyChanged, match="accept-code"):
        start(path, home=tmp_path / "home", trials=5, progress=heard)
    assert "optimistic" not in "\n".join(heard.lines)


def test_the_note_of_a_grid_counts_its_points(tmp_path: Path) -> None:
    values = {"type": "choice", "values": [0.001, 0.01]}
    grid = {"trials": 9, "sampler": {"kind": "grid"}, "space": {"learning_rate": values}}
    study, _ = launch(tmp_path, studies.study(search=grid, train={"epochs": 1}))
    with Ledger.open(study.folder, read_only=True) as ledger:
        told = list(ledger.read())
    assert ": complete. 2 of 2 trials ended" in mirror_of(told).note(alive=False)
    before = [event for event in told if not isinstance(event, Completed)]
    assert ": running. 2 of 2 trials ended" in mirror_of(before).note(alive=True)
