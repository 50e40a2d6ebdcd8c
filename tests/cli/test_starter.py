"""`tuner init`: what it writes passes its check at once, whatever the data, and nothing is lost."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tests import studies
from tests.studies import plan
from tuner import cli, models
from tuner.cli.starter import OBJECTIVES, StarterOptions, write
from tuner.data import sources
from tuner.spec import StudySpec
from tuner.workloads.network.plan import load

ODD = "ja: #nein, 'so' \"so\""  # a column's name that is YAML of another kind


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with data of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TUNER_HOME", raising=False)
    random = np.random.default_rng(0)
    rows = [f"{i % 7},{i * 3 % 5},{'rose' if i % 2 else 'tulip'},{i * 0.37 % 5}" for i in range(60)]
    (tmp_path / "flowers.csv").write_text("\n".join(["petals,leaves,kind,height", *rows]) + "\n")
    (tmp_path / "odd.csv").write_text(f'a,"{ODD.replace(chr(34), chr(34) * 2)}"\n' + "1,0\n2,1\n3,0\n2,0\n" * 9)
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self, signature, width: int = 4):\n"
        "        super().__init__()\n        self.layer = nn.Linear(signature.inputs[0], signature.outputs)\n\n"
        "    def forward(self, x):\n        return self.layer(x)\n"
    )
    np.savez(tmp_path / "images.npz", x=random.random((200, 3, 3)), y=np.arange(200) % 3)
    np.savez(tmp_path / "numbers.npz", x=random.random((90, 4)), y=random.random(90))
    return tmp_path


def wanted(
    data: str, *target: str, file: str | None = None, force: bool = False, family: str | None = None
) -> tuple[Path, StudySpec]:
    """What init writes where nobody can be asked, read back."""
    path, _ = write(StarterOptions(data, target, family), None if file is None else Path(file), force=force, ask=None)
    return path, StudySpec.read(path)


@pytest.mark.parametrize(
    ("data", "target", "task"),
    [
        ("flowers.csv", ("kind",), "classification"),
        ("flowers.csv", ("height",), "regression"),
        ("flowers.csv", ("height", "petals"), "regression"),
        ("odd.csv", (ODD,), "classification"),
        ("images.npz", (), "classification"),
        ("numbers.npz", (), "regression"),
        *[(name, (), None) for name in sources.BUILT_IN],
    ],
)
def test_what_init_writes_passes_its_check_without_a_warning(
    data: str, target: tuple[str, ...], task: str | None
) -> None:
    path, spec = wanted(data, *target)
    made = plan(spec, load(spec))
    assert made.warnings == ()
    assert task in (None, made.task)
    assert (spec.metric, spec.search.objective.goal) == OBJECTIVES[made.task][:2]
    assert spec.study == path.stem
    assert path.read_text().startswith(f"# {data}")


@pytest.mark.parametrize("family", models.FAMILIES)
def test_every_family_has_a_first_study_for_data_that_it_takes(family: str) -> None:
    data = {
        "numbers": ("flowers.csv", "kind"),
        "image": ("digits",),
        "sequence": ("digits-rows",),
        "text": ("syllables",),
    }
    source, *target = data[models.FAMILIES[family].modalities[0]]
    _, spec = wanted(source, *target, family=family)
    assert plan(spec, load(spec)).family == family


def test_a_network_of_ones_own_is_written_as_seen_from_the_file() -> None:
    path, spec = wanted("flowers.csv", "kind", family="net.py:Net", file="below/mine.yaml")
    assert (spec.model["family"], spec.data.source) == ("../net.py:Net", "../flowers.csv")
    assert plan(spec, load(spec)).family == "../net.py:Net"
    assert path == Path("below/mine.yaml")


def test_nothing_is_written_over_unless_forced() -> None:
    path, _ = wanted("flowers.csv", "kind")
    before = path.read_text()
    with pytest.raises(ValueError, match=r"flowers.yaml: expected a new file, got one that exists.*--force"):
        wanted("flowers.csv", "height")
    assert path.read_text() == before
    wanted("flowers.csv", "height", force=True)
    assert path.read_text() != before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], ["--data FILE", "--target COLUMN"]),
        (["--data", "flowers.csv"], ["--target COLUMN", "petals, leaves, kind, height"]),
        (["--data", "flower.csv"], ["flowers.csv"]),
        (["--data", "flowers.csv", "--target", "kinds"], ["did you mean 'kind'?"]),
        (["--data", "digit"], ["--data: expected", "did you mean digits?"]),
        (["--data", "digits", "--family", "cnnn"], ["--family: expected", "did you mean 'cnn'?"]),
        (
            ["--data", "flowers.csv", "--target", "kind", "--family", "cnn"],
            ["--family: expected a network for numbers"],
        ),
        (["--data", "digits", "--name", "No Name"], ["--name: expected a name"]),
    ],
)
def test_what_is_missing_or_wrong_is_told_in_flags_and_writes_nothing(
    arguments: list[str],
    said: list[str],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = run(["init", *arguments], monkeypatch)
    seen = capsys.readouterr()
    assert (answer, seen.out) == (2, "")
    for text in said:
        assert text in seen.err
    assert list(here.glob("*.yaml")) == []


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch, terminal: bool = False) -> object:
    monkeypatch.setattr(sys, "argv", ["tuner", *arguments])
    monkeypatch.setattr(sys.stdin, "isatty", lambda: terminal, raising=False)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0


def test_at_a_terminal_four_questions_are_asked_and_a_wrong_answer_asked_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter(["flower.csv", "flowers.csv", "kinds", "kind", "", "many", "5"])
    asked: list[str] = []

    def prompt(question: str, default: str | None = None, **_: object) -> str:
        asked.append(question.partition(" (")[0])
        return next(answers) or str(default)

    monkeypatch.setattr("typer.prompt", prompt)
    assert run(["init"], monkeypatch, terminal=True) == 0
    assert list(dict.fromkeys(asked)) == ["Your data", "Column to predict", "Network", "Trials"]
    assert next(answers, None) is None
    seen = capsys.readouterr()
    assert "did you mean 'kind'?" in seen.err and "expected a number of trials" in seen.err
    assert "wrote flowers.yaml" in seen.out
    spec = StudySpec.read("flowers.yaml")
    assert (spec.data.target, spec.model["family"], spec.search.trials) == ("kind", "mlp", 5)


def test_every_choice_that_init_made_has_a_comment() -> None:
    path, _ = wanted("flowers.csv", "kind")
    told = {line.split(":")[0].strip() for line in path.read_text().splitlines() if "  # " in line.strip()}
    choices = {
        "seed",
        "validation",
        "test",
        "family",
        "epochs",
        "space",
        "objective",
        "sampler",
        "pruner",
        "run",
        "tracking",
    }
    assert told == choices
    assert "tuner launch flowers.yaml" in path.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("data", "target"), [("flowers.csv", ["kind"]), ("images.npz", []), ("numbers.npz", [])])
def test_what_init_writes_runs(data: str, target: list[str], here: Path) -> None:
    path, _ = wanted(data, *target)
    said = studies.run(path, here / "home", "--trials", "2", "--set", "train.epochs=2", "--set", "tracking.mlflow=off")
    assert "complete: 2 trials" in said
