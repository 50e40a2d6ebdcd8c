"""Tables as people read them: as wide as the terminal, the best first, four digits; CSV and JSON stay whole."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tuner import cli
from tuner.cli.summary import ago, for_people
from tuner.events import Asked, Created, Failed, Finished, Pruned, Reported
from tuner.ledger import Ledger, study_folder
from tuner.terminal.tables import Output, cell, print_rows, print_table

Tuner = Callable[..., tuple[str, str]]
PARAMS = {f"parameter_{letter}": 0.123456789 for letter in "abcdefgh"}


@pytest.fixture
def tuner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tuner:
    """A verb in this process, of a home with one study, on a terminal of 80 columns; what it printed where."""
    monkeypatch.setenv("COLUMNS", "80")
    spec = {"study": "one", "search": {"trials": 5, "objective": {"metric": "val/loss", "goal": "minimize"}}}
    events = [Created(spec=spec, digest="d", text="", seed=0, id="i", data={})]
    for number, loss in enumerate([0.5, 0.123456789, 0.01, 0.25, None]):
        events.append(Asked(number, params=PARAMS, seed=1))
        metrics = {"val/accuracy": 0.5} | ({} if loss is None else {"val/loss": loss})
        events.append(Reported(number, 1, metrics=metrics, seconds=1.0))
        ended = Finished(number, epochs=1, best_epoch=1)
        ended = Pruned(2, epoch=1) if number == 2 else ended
        events.append(Failed(3, message="loss is nan " * 20) if number == 3 else ended)
    with Ledger.create(study_folder(tmp_path, "one")) as ledger:
        ledger.append(events)

    def run(*arguments: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["tuner", *arguments, "--home", str(tmp_path)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        seen = capsys.readouterr()
        return seen.out, seen.err

    return run


@pytest.mark.parametrize("verb", [("results", "one"), ("list",), ("status",), ("status", "one")])
@pytest.mark.parametrize("columns", [40, 80, 132])
def test_no_line_is_longer_than_the_terminal(
    verb: tuple[str, ...], columns: int, tuner: Tuner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = [line for line in tuner(*verb)[0].splitlines() if "pruned trials are not candidates" not in line]
    assert max(map(len, lines)) <= columns


def test_trials_stand_best_first_whichever_way_is_better_and_others_after_the_complete_ones(tuner: Tuner) -> None:
    lines = tuner("results", "one")[0].splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["1", "0", "4", "2", "3"]
    assert "0.1235 " in lines[0], "four digits"


def test_what_had_no_room_is_told_and_is_in_the_wide_table_and_in_csv(tuner: Tuner) -> None:
    out, err = tuner("results", "one")
    head = out.splitlines()[0].split()
    assert head[:6] == ["number", "state", "val/loss", "best_epoch", "epochs", "parameter_a"]
    assert err.startswith("no room for parameter_c, ")
    assert err.endswith("; --wide shows every column\n")
    out, err = tuner("results", "one", "--wide")
    assert err == ""
    assert {*PARAMS, "val/accuracy", "seconds", "seed", "message"} < {*out.splitlines()[0].split()}
    assert "loss is nan " * 19 in out
    (_, row, *_) = csv.DictReader(io.StringIO(tuner("results", "one", "--output", "csv")[0]))
    assert (row["number"], row["val/loss"], row["params.parameter_h"]) == ("1", "0.123456789", "0.123456789")
    trials = json.loads(tuner("results", "one", "--output", "json")[0])["trials"]
    assert [trial["number"] for trial in trials] == [0, 1, 2, 3, 4]


def test_times_are_told_from_now_in_tables_and_in_full_elsewhere(tuner: Tuner) -> None:
    (row,) = json.loads(tuner("list", "-o", "json")[0])
    assert row["updated"].count(":") == 3, "an offset from UTC, too"
    assert re.search(r"\d (s|min) ago", tuner("list")[0])
    assert re.search(r"\d (s|min) ago", tuner("status", "one")[0])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s ago"), (59, "59 s ago"), (53 * 60 + 20, "53 min ago"), (3600, "1 h ago"), (47.5 * 3600, "47 h ago"),
     (50 * 3600, "2 days ago"), (400 * 86400, "400 days ago")],
)  # fmt: skip
def test_the_time_since(seconds: float, text: str) -> None:
    moment = "2026-11-30T12:00:00+01:00"
    assert ago(moment, 1796036400.0 + seconds) == text
    driver = {"driver": f"here:42 since {moment}", "updated": None}
    assert for_people(driver, 1796036400.0 + seconds) == {"driver": f"here:42, started {text}", "updated": None}


def test_a_name_of_a_hyperparameter_that_a_column_has_keeps_its_prefix(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_table([{"epochs": 3, "params": {"epochs": 9, "width": 8}}], wide=False) == []
    assert capsys.readouterr().out.split() == ["epochs", "params.epochs", "width", "3", "9", "8"]


def test_long_text_of_a_list_is_wrapped_and_none_of_it_is_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    rows = [{"name": "a", "help": "some words " * 12}, {"name": "b", "help": "short"}]
    print_rows(rows, Output.TABLE, rows)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 50
    assert " ".join(" ".join(lines[1:-1]).split()) == f"a {('some words ' * 12).strip()}"
    assert lines[-1].split() == ["b", "short"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123456, "0.1235"), (123456.7, "123457"), (1e-7, "1e-07"), (-12345.6, "-12346"), (1e20, "1e+20"), (3.0, "3"),
     (float("inf"), "inf"), (123456, "123456"), (None, ""), (True, "True")],
)  # fmt: skip
def test_a_number_has_four_digits_and_a_count_all_of_them(value: Any, text: str) -> None:
    assert cell(value) == text
