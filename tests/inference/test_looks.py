"""`generate` and `attend` as a person uses them, from a launch to what is on the screen."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import studies
from tests.forks import Forks, ran
from tuner import cli

SAYING = "It was the best of times, it was the worst of times.\n"
SEARCH = {"space": {"learning_rate": {"type": "float", "low": 0.01, "high": 0.02}}, "trials": 2}
LANGUAGE = studies.study(
    study="words",
    data={"source": "saying.txt", "length": 16},
    model={"family": "rnn", "cell": "gru", "width": 32, "norm": "none"},
    train={"epochs": 6, "optimizer": "adam", "batch_size": 16},
    search={**SEARCH, "objective": {"metric": "val/loss", "goal": "minimize"}},
)
SEQUENCE = studies.study(
    study="rows",
    data={"source": "digits-rows"},
    model={"family": "transformer", "width": 16, "depth": 1, "readout": "attention"},
    train={"epochs": 3, "optimizer": "adam"},
    search=SEARCH,
)
SEQUENCE["model"].pop("norm")
TABLE = studies.study(study="cells", data={"source": "breast_cancer", "test": 0}, train={"epochs": 2}, search=SEARCH)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def place(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("looks")
    (folder / "saying.txt").write_text(SAYING * 60)
    for content in (LANGUAGE, SEQUENCE, TABLE):
        path = studies.write(folder, content, f"{content['study']}.yaml")
        ran(forks.launch(str(path), "--home", str(folder / "home")))
    return folder


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(place)
    monkeypatch.setenv("TUNER_HOME", str(place / "home"))

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tuner", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        seen = capsys.readouterr()
        return int(ended.value.code or 0), seen.out, seen.err

    return call


def test_a_language_study_writes_on_and_its_text_is_all_of_stdout(run: Run) -> None:
    code, text, said = run("generate", "words", "--prompt", "It was", "--temperature", 0, "--length", 30)
    assert (code, said) == (0, "")
    assert len(text) == 31
    assert set(text) <= set(SAYING)
    assert run("generate", "words", "--prompt", "It was", "--temperature", 0, "--length", 30, "--seed", 9)[1] == text
    drawn = [run("generate", "words", "--prompt", "It", "--length", 40, "--seed", seed)[1] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len(one) == 41 for one in drawn)
    code, text, said = run("generate", "words", "--prompt", "Ät", "--length", 5)
    assert (code, len(text)) == (0, 6)
    assert said == "--prompt: training never saw 'Ä'; read as unknown\n"


def test_the_winner_of_a_language_study_keeps_a_sample_of_its_text(place: Path) -> None:
    (folder,) = (place / "home" / "studies" / "words" / "looks").iterdir()
    sample = (folder / "sample.txt").read_text()
    assert len(sample) == 16 + 500 + 1
    assert set(sample) <= set(SAYING)
    assert "<pre>" in (folder / "attended.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("generate", "rows", "--prompt", "a"), "study rows: expected one that continues text"),
        (("generate", "words", "--prompt", ""), "prompt: expected at least one character"),
        (("generate", "words", "--prompt", "a", "--temperature", "inf"), "temperature: expected a number"),
        (("generate", "wrods", "--prompt", "a"), "words"),
        (("attend", "rows", "360"), "expected a row of the test split, 0 … 358, got 360"),
        (("attend", "rows", "-1"), "No such option"),
        (("attend", "rows", "none.npz"), "none.npz"),
        (("attend", "rows", "0", "-o", "x.txt"), "expected a folder or a file ending in .png or .html, got x.txt"),
        (("attend", "none", "0"), "no study 'none'"),
    ],
)
def test_mistakes_are_told_in_words_with_nothing_on_stdout(run: Run, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


def test_a_sequence_becomes_a_picture_and_is_told_which_row_it_is(run: Run, place: Path) -> None:
    code, out, said = run("attend", "rows", 5)
    assert (code, out) == (0, "")
    assert "row 5 of the test split (row " in said
    assert "attention rollout" in said
    assert Image.open(place / "rows-attended.png").size[0] > 500
    (folder,) = (place / "home" / "studies" / "rows" / "looks").iterdir()
    assert Image.open(folder / "attended.png").size[0] > 1_000  # two beside each other


def test_new_examples_are_read_as_predict_reads_them_and_programs_get_all_of_them(run: Run, place: Path) -> None:
    np.savez(place / "new.npz", x=np.random.default_rng(0).integers(0, 16, (25, 8, 8)))
    code, out, _ = run("attend", "rows", "new.npz", "-o", "json")
    document = json.loads(out)
    assert (code, document["study"], len(document["examples"])) == (0, "rows", 25)
    assert all(sum(one["weights"]) == pytest.approx(1) and len(one["weights"]) == 8 for one in document["examples"])
    _, predicted, _ = run("predict", "rows", "new.npz", "-o", "json")
    assert [one["prediction"] for one in json.loads(predicted)] == [one["prediction"] for one in document["examples"]]
    assert len(run("attend", "rows", "new.npz", "-o", "csv")[1].splitlines()) == 1 + 25 * 8
    _, _, said = run("attend", "rows", "new.npz", "-o", "new.png")
    assert "the first 20 examples are shown" in said
    run("attend", "rows", "new.npz", "-o", place / "all")
    assert len(list((place / "all").iterdir())) == 25


def test_without_a_test_split_a_row_of_validation_is_shown_its_columns_by_weight(run: Run) -> None:
    code, out, said = run("attend", "cells", 2, "-o", "json")
    assert code == 0
    assert "row 2 of the validation split" in said
    weights = [column["weight"] for column in json.loads(out)["examples"][0]["columns"]]
    assert weights == sorted(weights, reverse=True)
    assert sum(weights) == pytest.approx(1)
    assert run("attend", "cells", 2)[1].splitlines()[1].split() == ["row", "column", "value", "weight"]


def test_text_is_a_table_where_nobody_looks_and_marked_in_a_page(run: Run, place: Path) -> None:
    _, out, _ = run("attend", "words", 0)
    assert "\x1b" not in out
    assert out.splitlines()[1].split() == ["row", "position", "character", "weight"]
    assert run("attend", "words", 0, "-o", "words.html")[0] == 0
    assert (place / "words.html").read_text().count("<span") == 16


def test_text_is_marked_by_colours_on_a_terminal_unless_they_are_not_wanted(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "\x1b[30;48;5;" in run("attend", "words", 0)[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in run("attend", "words", 0)[1]


def test_a_study_that_is_not_complete_has_no_best_trial_to_look_at(run: Run, place: Path) -> None:
    content = {**TABLE, "study": "fresh"}
    from tuner.events import Created
    from tuner.ledger import Ledger, study_folder

    body = {"spec": content, "digest": "d", "text": "", "seed": 0, "id": "i", "data": {}}
    with Ledger.create(study_folder(place / "home", "fresh")) as ledger, ledger.lock():
        ledger.append([Created(**body)])
    code, _, said = run("attend", "fresh", 0)
    assert code == 2
    assert "study fresh is not complete yet" in said
