"""The lists of what there is: everything that is registered, each with its line of help, in three forms."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable

import pytest

from tuner import cli, models, search_spaces
from tuner.cli import catalogue
from tuner.data import sources
from tuner.spec.json_schema import schema

Run = Callable[..., tuple[object, str, str]]


@pytest.fixture
def tuner(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["tuner", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        seen = capsys.readouterr()
        return ended.value.code or 0, seen.out, seen.err

    return run


def kinds_of(key: str) -> set[str]:
    """The words that the schema of study files knows for `search.<key>.kind`."""
    return set(schema()["$defs"]["SearchSection"]["properties"][key]["discriminator"]["mapping"])


def test_a_list_names_all_that_is_registered_and_nothing_else() -> None:
    registered = {
        "models": set(models.FAMILIES),
        "spaces": set(search_spaces.names()),
        "datasets": set(sources.BUILT_IN),
        "samplers": kinds_of("sampler"),
        "pruners": kinds_of("pruner"),
    }
    assert {
        kind: {next(iter(row.values())) for row in catalogue.listing(kind)} for kind in catalogue.KINDS
    } == registered


def test_what_is_registered_later_appears_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def stars() -> None:
        """Stars, by brightness. Nothing more."""

    monkeypatch.setitem(sources.BUILT_IN, "stars", stars)  # type: ignore[arg-type]
    assert catalogue.listing("datasets")[-1] == {"dataset": "stars", "help": "Stars, by brightness."}


@pytest.mark.parametrize("kind", catalogue.KINDS)
def test_everything_listed_has_a_sentence_of_its_own(kind: str) -> None:
    helps = [row["help"] for row in catalogue.listing(kind)]
    assert all(text.endswith(".") and len(text) > 15 for text in helps)
    assert len(set(helps)) == len(helps)


@pytest.mark.parametrize("kind", catalogue.KINDS)
def test_everything_listed_can_be_looked_at(kind: str) -> None:
    for row in catalogue.listing(kind):
        name = next(iter(row.values()))
        rows = catalogue.detail(kind, name)
        assert rows, name
        json.dumps(rows, allow_nan=False)


@pytest.mark.parametrize("verb", catalogue.KINDS)
def test_lists_come_as_table_json_and_csv(verb: str, tuner: Run) -> None:
    code, out, err = tuner(verb, "--output", "json")
    found = json.loads(out)
    assert (code, err, found) == (0, "", catalogue.listing(verb))
    rows = list(csv.DictReader(io.StringIO(tuner(verb, "--output", "csv")[1])))
    assert [next(iter(row.values())) for row in rows] == [next(iter(row.values())) for row in found]
    lines = tuner(verb)[1].splitlines()
    assert len([line for line in lines if not line.startswith(" ")]) == len(found) + 1, "long text goes on below"


def test_a_model_tells_its_hyperparameters_with_defaults_ranges_and_help(tuner: Run) -> None:
    rows = {row["hyperparameter"]: row for row in json.loads(tuner("models", "cnn", "-o", "json")[1])}
    assert set(rows) == set(models.hyperparameters(models.FAMILIES["cnn"]))
    assert (rows["depth"]["default"], rows["depth"]["range"]) == ("2", "1 to 16")
    assert rows["activation"]["range"].startswith("relu, ")
    assert rows["dropout"] == {
        "hyperparameter": "dropout",
        "type": "float",
        "default": "0",
        "range": "from 0, below 1",
        "fusible": True,
        "help": "dropout probability",
    }


def test_a_space_tells_its_parameters_those_that_it_includes_too(tuner: Run) -> None:
    rows = {row["parameter"]: row for row in json.loads(tuner("spaces", "mlp", "-o", "json")[1])}
    assert set(rows) == set(search_spaces.load("mlp").parameters)
    assert rows["momentum"]["when"] == "optimizer: sgd, rmsprop"
    assert (rows["learning_rate"]["range"], rows["learning_rate"]["log"]) == ("0.0001 to 0.1", True)


@pytest.mark.parametrize("verb", catalogue.KINDS)
def test_an_unknown_name_is_wrong_input_with_a_suggestion(verb: str, tuner: Run) -> None:
    name = next(iter(catalogue.listing(verb)[-1].values()))
    code, out, err = tuner(verb, f"{name}x")
    assert (code, out) == (2, "")
    assert f"did you mean '{name}'?" in err
