"""What a spec answers, and what makes it another study."""
# ruff: noqa: E501 - a message stands on one line of these tables, as a person reads it

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.spec.test_spec import EXAMPLES, SPACE, STUDY, WIDTH, problems, study, written
from tuner.errors import SpecError
from tuner.search_spaces import SearchSpace
from tuner.search_spaces.document import parse
from tuner.spec import StudySpec
from tuner.spec.sections import DataSection
from tuner.training.config import TrainConfig

# --- the command line's own settings ---


def test_an_override_is_put_over_the_file_and_kept_with_its_text(tmp_path: Path) -> None:
    spec = study(
        tmp_path,
        overrides=["train.epochs=3", "run={workers: 2}", "search.start_with=[{width: 32}]", "train.gradient_clip=null"],
        name="other",
        trials=5,
    )
    assert (spec.study, spec.search.trials, spec.training({})["epochs"], spec.run.workers) == ("other", 5, 3, 2)
    assert spec.search.start_with == [{"width": 32}]
    assert spec.text.startswith(STUDY)
    assert "# --set train.epochs=3\n" in spec.text
    assert parse(spec.text, "again").data["study"] == "digits", "the text must stay a study file"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.epochs=x", "--set train.epochs=x: expected an integer from 1 to 100,000"),
        ("trian.epochs=3", "--set trian.epochs=3: trian: expected one of version, study"),
        (
            "train.epochs",
            "--set train.epochs: expected path=value, got the text 'train.epochs'; write --set train.epochs=20",
        ),
        ("=3", "--set =3: expected path=value"),
        ("train..epochs=3", "--set train..epochs=3: expected path=value"),
        ("study.name=3", "--set study.name=3: expected a mapping at study, got the text 'digits'"),
        ("train.epochs=[1", "--set train.epochs=[1: expected YAML"),
        (
            "search.space.width.values=[16, x]",
            "--set search.space.width.values=[16, x]: search.space.width.values[1]: expected an integer",
        ),
        ("search.space.widht.low=1", "--set search.space.widht.low=1: search.space.widht"),
        (
            "search.sampler={kind: gird}",
            "--set search.sampler={kind: gird}: search.sampler.kind: expected tpe, random, grid, qmc, gp, cmaes or nsga2",
        ),
    ],
)
def test_a_wrong_override_is_told_by_its_flag(override: str, told: str, tmp_path: Path) -> None:
    assert problems(written(tmp_path), overrides=[override])[0].startswith(told)


def test_wrong_name_and_trials_are_told_by_their_flags(tmp_path: Path) -> None:
    name, trials = problems(written(tmp_path), name="../x", trials=0)
    assert name.startswith("--name ../x: expected a name")
    assert trials.startswith("--trials 0: expected an integer from 1 to 1,000,000")


def test_a_named_space_can_be_changed_in_part(tmp_path: Path) -> None:
    named = (SPACE, "  space: mlp\n")
    whole = study(tmp_path, named).space
    spec = study(tmp_path, named, overrides=["search.space.depth.high=2", "search.space.dropout=null"])
    assert spec.space.parameters["depth"].high_value == 2
    assert spec.space.parameters["depth"].low_value == whole.parameters["depth"].low_value
    assert whole.parameters.keys() - spec.space.parameters.keys() == {"dropout"}


def test_a_mistake_in_an_included_file_is_told_where_it_stands(tmp_path: Path) -> None:
    piece = tmp_path / "piece.yaml"
    piece.write_text("# mine\nwidth: {type: int, low: 9, high: 1}\n")
    path = written(tmp_path, (SPACE, "  space: {include: ./piece.yaml}\n"), ("trials: 8", "trials: 0"))
    here, there = problems(path)
    assert here.startswith("9:3: search.trials: expected")
    assert there.startswith(f"{piece}:2:")


# --- what a spec answers ---


def test_network_and_training_get_every_value_in_its_own_type(tmp_path: Path) -> None:
    spec = study(tmp_path, ("family: mlp", "family: mlp, dropout: 0"), ("epochs: 9", "epochs: 9, gradient_clip: 1"))
    params = {"learning_rate": 0.01, "width": 32, "optimizer": "adam"}
    network = spec.network(params)
    assert network == {"width": 32, "depth": 2, "activation": "relu", "norm": "none", "dropout": 0.0}
    assert isinstance(network["dropout"], float)
    training = spec.training(params)
    assert TrainConfig(**training) == TrainConfig(epochs=9, gradient_clip=1.0, learning_rate=0.01, optimizer="adam")
    assert isinstance(training["gradient_clip"], float)


def test_what_changes_shapes_is_structural_and_the_rest_is_not(tmp_path: Path) -> None:
    spec = study(tmp_path)
    assert [name for name in spec.space.parameters if spec.is_structural(name)] == ["width"]
    assert spec.is_structural("batch_size")
    assert not spec.is_structural("dropout")
    assert spec.structure({"learning_rate": 0.1, "width": 16, "optimizer": "sgd"}) == {"width": 16}


def test_objective_is_read_from_the_file(tmp_path: Path) -> None:
    assert (study(tmp_path).metric, study(tmp_path).maximize) == ("val/accuracy", True)
    spec = study(tmp_path, ("metric: val/accuracy, goal: maximize", "metric: val/loss, goal: minimize"))
    assert (spec.metric, spec.maximize) == ("val/loss", False)


def test_a_spec_cannot_be_changed(tmp_path: Path) -> None:
    spec = study(tmp_path)
    with pytest.raises(ValidationError):
        spec.seed = 8  # type: ignore[misc]


# --- identity ---


def test_the_digest_does_not_see_how_a_study_is_written(tmp_path: Path) -> None:
    plain = study(tmp_path).digest
    assert study(tmp_path, ("seed: 7\n", "# a comment\nseed:   7\n")).digest == plain
    assert study(tmp_path, ("{epochs: 9}", "{epochs: 9, batch_size: 64, l1: 0}")).digest == plain, (
        "a default written out"
    )
    assert study(tmp_path, ("low: 0, high: 0.99", "low: 0.0, high: 99.0e-2")).digest == plain


@pytest.mark.parametrize("override", ["run.workers=2", "run.executor=local", "tracking.mlflow=off"])
def test_the_digest_does_not_see_what_changes_no_number(override: str, tmp_path: Path) -> None:
    assert study(tmp_path, overrides=[override]).digest == study(tmp_path).digest


@pytest.mark.parametrize(
    "override",
    [
        "study=other",
        "seed=8",
        "data.source=mnist",
        "data.test=0.1",
        "model.depth=3",
        "train.epochs=10",
        "search.space.width.values=[16]",
        "search.space.depth={type: int, low: 1, high: 2}",
        "search.objective.metric=val/f1",
        "search.sampler={kind: random}",
        "search.pruner={kind: asha}",
        "search.trials=9",
        "search.start_with=[{width: 16}]",
        "run.cohort=1",
        "run.device=cpu",
        "run.threads=2",
    ],
)
def test_the_digest_sees_whatever_may_change_a_number(override: str, tmp_path: Path) -> None:
    changed = study(tmp_path, overrides=[override])
    plain = study(tmp_path)
    assert changed.digest != plain.digest
    assert changed.difference(plain.canonical()), "a changed digest must have a difference to show"


def test_a_difference_names_what_was_and_what_is(tmp_path: Path) -> None:
    before = study(tmp_path, overrides=["search.pruner={kind: asha}"])
    after = study(tmp_path, ("values: [16, 32]", "values: [16]"), overrides=["search.pruner={kind: median}"])
    assert after.difference(before.canonical()) == [
        "search.space.width.values: was [16, 32], now [16]",
        "search.pruner.kind: was 'asha', now 'median'",
        "search.pruner.startup: was nothing, now 5",
        "search.pruner.reduction: was 3, now nothing",
    ]
    assert after.difference(after.canonical()) == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_spec_comes_back_from_its_json(path: Path) -> None:
    spec = StudySpec.read(path)
    for body in (spec.canonical(), spec.to_json()):
        back = StudySpec.from_json(json.loads(json.dumps(body, allow_nan=False)), spec.folder, spec.text)
        assert back.digest == spec.digest
        assert back.space == spec.space
        assert back.training({}) == spec.training({})
        assert (back.folder, back.text) == (spec.folder, spec.text)
    assert StudySpec.from_json(spec.to_json(), spec.folder).to_json() == spec.to_json()


def test_a_spec_travels_to_another_process(tmp_path: Path) -> None:
    spec = study(tmp_path)
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert pickle.loads(pickle.dumps(spec)).digest == spec.digest


def test_the_first_versions_spec_opens_for_ever() -> None:
    golden = json.loads((Path(__file__).parents[1] / "golden" / "spec-v1.json").read_text())
    spec = StudySpec.from_json(golden, Path())
    assert spec.study == "mnist-cnn"
    assert spec.search.trials == 64
    # later versions may know more settings; what the file says must not change
    assert all(": was nothing, " in line for line in spec.difference(golden))


def test_more_trials_asked_for_beside_the_file_extend_a_study(tmp_path: Path) -> None:
    spec = study(tmp_path)
    more = spec.extended(20)
    assert (spec.search.trials, spec.extends) == (8, False)
    assert (more.search.trials, more.extends) == (20, True)
    assert study(tmp_path, trials=20).extends
    assert study(tmp_path, trials=20).digest == more.digest
    assert not study(tmp_path, ("trials: 8", "trials: 20")).extends
    assert more.difference(spec.canonical()) == ["search.trials: was 8, now 20"]
    with pytest.raises(SpecError, match=r"^trials=0: expected an integer from 1 to 1,000,000, got the integer 0$"):
        spec.extended(0)


# --- from Python ---


def from_python(**changes: Any) -> StudySpec:
    return StudySpec(**{**parse(STUDY, "study").data, **changes})


def test_python_gives_the_same_study_as_a_file(tmp_path: Path) -> None:
    assert from_python().digest == study(tmp_path).digest
    assert from_python(data=DataSection(source="digits")).digest == study(tmp_path).digest
    search = parse(STUDY, "study").data["search"]
    space = SearchSpace.from_dict(search["space"])
    assert from_python(search={**search, "space": space}).digest == study(tmp_path).digest
    assert from_python(data={"source": Path("digits")}).digest == study(tmp_path).digest


def test_python_is_told_the_same_rules_by_path() -> None:
    with pytest.raises(SpecError) as caught:
        from_python(seed=-1, model={"family": "mpl"}, epochs=3)
    first, second, third = sorted(caught.value.problems)
    assert first.startswith("epochs: expected one of version")
    assert (
        second
        == "model.family: expected one of mlp, cnn, rnn, transformer, or file.py:Class, got the text 'mpl'; did you mean 'mlp'?"
    )
    assert third == "seed: expected an integer from 0 to 4,294,967,295, got the integer -1"


def test_a_spec_keeps_nothing_of_the_mappings_it_was_made_from() -> None:
    search = copy.deepcopy(parse(STUDY, "study").data["search"])
    spec = from_python(search=search)
    before = spec.digest
    search["space"]["width"]["values"].append(64)
    search["trials"] = 99
    assert spec.digest == before


# --- a network of one's own ---

NETWORK = """
import torch
from torch import nn
{top}
class Net(nn.Module):
    def __init__({arguments}) -> None:
        super().__init__()
"""


@pytest.mark.parametrize(
    ("arguments", "top", "told"),
    [
        (
            "self, width: int = 3",
            "",
            "model.family: expected a constructor that begins with signature, got net.py:Net(width: int = 3)",
        ),
        (
            "self, signature, width: list",
            "",
            "model.family: expected a network that imports, got TypeError: Net(width: list) is no hyperparameter",
        ),
        (
            "self, signature, width: int = 3, noise: float = 0.1",
            "",
            "model.family: expected keywords of its own, got net.py:Net with 'noise'",
        ),
        (
            "self, signature, width: int = 3, *, heads: int",
            "",
            "model: expected a value for heads: the network has no default; add `heads: …`",
        ),
        (
            "self, signature, width: int = 3",
            "1 / 0",
            "model.family: expected a network that imports, got ZeroDivisionError: division by zero",
        ),
        (
            "self, signature, width: int = 3",
            "raise SystemExit(3)",
            (
                "model.family: expected a network that imports, got SystemExit: 3 (net.py:4); it ends the program: "
                "keep argparse and sys.exit behind if __name__ == '__main__'"
            ),
        ),
        ("self, signature, width: int = 3", "def", "model.family: expected a network that imports, got SyntaxError"),
        (
            "self, signature, width: int = 3",
            "import no_such_module",
            "model.family: expected a network that imports, got ModuleNotFoundError",
        ),
    ],
)
def test_a_network_of_ones_own_that_does_not_fit_is_told(arguments: str, top: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NETWORK.format(arguments=arguments, top=top))
    (line,) = problems(written(tmp_path, ("family: mlp", "family: net.py:Net")))
    assert line.startswith(f"4:{1 if 'heads' in told else 9}: {told}")


@pytest.mark.parametrize(
    ("family", "told"),
    [
        ("net.py", "; add the class: net.py:Net"),
        ("nets.py:Net", "no file"),
        ("net.py:Nut", "net.py has no network class Nut"),
        ("net.py:os", "net.py has no network class os"),
        ("no.such.module:Net", "ModuleNotFoundError"),
        ("..x:Net", "TypeError"),
        ("json:JSONDecoder", "json has no network class JSONDecoder"),
        ("'net.py:'", "no model family"),
    ],
)
def test_a_network_that_is_not_there_is_told(family: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NETWORK.format(arguments="self, signature, width: int = 3", top="import os"))
    (line,) = problems(written(tmp_path, ("family: mlp", f"family: {family}")))
    assert line.startswith("4:9: model.family: expected")
    assert told in line


def test_a_network_of_ones_own_brings_its_own_hyperparameters(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        NETWORK.format(arguments="self, signature, width: int = 3, rate: float = 0.5, *, heads: int", top="")
    )
    own = ("family: mlp", "family: net.py:Net, heads: 4")
    spec = study(tmp_path, own)
    assert spec.network({"width": 16}) == {"width": 16, "rate": 0.5, "heads": 4}
    assert pickle.loads(pickle.dumps(spec)).network({}) == spec.network({})
    (line,) = problems(written(tmp_path, own, (WIDTH, "depth: {type: int, low: 1, high: 3}")))
    assert line.startswith(
        "9:5: search.space.depth: expected a hyperparameter of net.py:Net or of training, got 'depth'"
    )
