"""A pruned trial that had a better value than the winner is told, in the same words, wherever the winner is."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tuner import cli
from tuner.cli.summary import ending, overlooked
from tuner.events import Asked, Completed, Created, Event, Finished, Pruned, Reported
from tuner.history.fold import History
from tuner.ledger import Ledger, study_folder

WORDS = "trial 7 was pruned at epoch 3 with val/accuracy 0.98, better than the winner's 0.97; pruned trials are not"


def events(
    pruned: Sequence[float], completed: Sequence[float], goal: str = "maximize", *, over: bool = True
) -> list[Event]:
    """Trial 7 with these values until it was pruned, trial 2 with these until it was complete."""
    spec = {"study": "one", "search": {"trials": 2, "objective": {"metric": "val/accuracy", "goal": goal}}}
    told = [Created(spec=spec, digest="d", text="", seed=0, id="i", data={})]
    for number, values in ((2, completed), (7, pruned)):
        told.append(Asked(number, params={"learning_rate": 0.1}, seed=1))
        told += [
            Reported(number, epoch, metrics={"val/accuracy": value}, seconds=1.0)
            for epoch, value in enumerate(values, start=1)
        ]
    told.append(Pruned(7, epoch=len(pruned)))
    told.append(Finished(2, epochs=len(completed), best_epoch=1))
    return [*told, Completed(message="", state="complete")] if over else told


def test_it_is_told_in_the_same_words_at_the_end_by_best_and_by_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Ledger.create(study_folder(tmp_path, "one")) as ledger:
        ledger.append(events([0.5, 0.6, 0.98], [0.97, 0.9, 0.9, 0.9]))
        history = ledger.history()
    (line,) = [line for line in ending("one", history, "complete", None, program="tuner", where="") if WORDS in line]
    seen = {}
    for arguments in (["best"], ["status"], ["status", "-o", "json"], ["best", "-o", "json"]):
        monkeypatch.setattr(sys, "argv", ["tuner", *arguments, "one", "--home", str(tmp_path)])
        with pytest.raises(SystemExit):
            cli.main()
        seen[" ".join(arguments)] = capsys.readouterr()
    assert line in seen["best"].out.splitlines()
    assert line in seen["status"].out
    assert json.loads(seen["status -o json"].out)["note"] == line
    assert json.loads(seen["best -o json"].out)["number"] == 2
    assert seen["best -o json"].err == f"{line}\n"


@pytest.mark.parametrize(
    ("pruned", "completed", "goal", "said"),
    [
        ([0.5, 0.6], [0.97], "maximize", None),
        ([0.97], [0.97], "maximize", None),
        ([0.1, 0.4], [0.2], "minimize", "trial 7 was pruned at epoch 2 with val/accuracy 0.1 at epoch 1, better than"),
        ([0.9700000001], [0.97], "maximize", "with val/accuracy 0.9700000001, better than the winner's 0.97;"),
        ([], [0.97], "maximize", None),
        ([0.5], [], "maximize", None),
    ],
)
def test_only_what_is_better_is_told_with_digits_that_show_it(
    pruned: list[float], completed: list[float], goal: str, said: str | None
) -> None:
    line = overlooked(History.of(events(pruned, completed, goal)))
    assert line == said is None or (said is not None and line is not None and said in line)


def test_before_the_end_there_is_no_winner_yet() -> None:
    line = overlooked(History.of(events([0.98], [0.97], over=False)))
    assert line is not None
    assert "better than the best completed trial's 0.97" in line
