"""The champion's folder: what is exported predicts what the network predicts, with nothing but the folder at hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from tuner import champion, data, models
from tuner.champion import Predictor
from tuner.data import Dataset
from tuner.errors import CheckpointCorrupt, DataError, StudyMissing, TunerError
from tuner.inference import champion_writer
from tuner.inference.champion_writer import ExportError
from tuner.models import Signature

TRIAL = {"number": 3, "params": {"width": 8}, "metrics": {"val/accuracy": 0.5}, "seed": 11}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def network(dataset: Dataset, family: str = "mlp", **values: object) -> nn.Module:
    torch.manual_seed(0)
    return models.build(family, dataset.signature, {"norm": "batch", "dropout": 0.3, **values})


def customers(folder: Path, target: str = "churned") -> Path:
    """A table of a person's own: numbers (one column of whole ones), a category, text to predict, a number too."""
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": generator.integers(18, 90, 60),
            "plan": generator.choice(["basic", "gold", "silver"], 60),
            "spent": generator.normal(50.0, 20.0, 60).round(2),
            "churned": generator.choice(["no", "yes"], 60),
            "height": generator.normal(1.7, 0.1, 60).round(3),
        }
    )
    path = folder / "customers.csv"
    frame.drop(columns={"churned": "height", "height": "churned"}[target]).to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("source", "family", "values"),
    [
        ("breast_cancer", "mlp", {"activation": "silu"}),
        ("digits", "mlp", {"norm": "layer"}),
        ("digits", "cnn", {"kernel": 5, "activation": "gelu"}),
    ],
)
def test_a_champion_predicts_what_its_network_computes_for_any_number_of_rows(
    tmp_path: Path, source: str, family: str, values: dict[str, object]
) -> None:
    dataset = data.load(source)
    module = network(dataset, family, **values)
    champion_writer.export(tmp_path, module, dataset, TRIAL)
    predictor = Predictor.load(tmp_path)
    raw, _ = champion.example(tmp_path / "champion")
    for rows in (1, 2, 7, 1_500):
        more = (
            pd.concat([raw] * rows)[:rows] if isinstance(raw, pd.DataFrame) else np.resize(raw, (rows, *raw.shape[1:]))
        )
        with torch.inference_mode():
            outputs = module.eval()(torch.from_numpy(dataset.preprocess.apply(more))).double()
        found = predictor.predict(more)
        assert dataset.classes is not None
        assert list(found.columns) == ["prediction", *(f"probability_{name}" for name in dataset.classes)]
        assert found["prediction"].tolist() == [dataset.classes[i] for i in outputs.argmax(1).tolist()]
        np.testing.assert_allclose(found.iloc[:, 1:].to_numpy(), outputs.softmax(1).numpy(), rtol=1e-12)


def test_the_example_is_of_the_training_rows_in_the_sources_own_form(tmp_path: Path) -> None:
    dataset = data.load("customers.csv", target="churned", folder=customers(tmp_path).parent)
    folder = champion_writer.export(tmp_path, network(dataset), dataset, TRIAL)
    raw, predicted = champion.example(folder)
    assert isinstance(raw, pd.DataFrame)
    written = pd.read_csv(tmp_path / "customers.csv").iloc[dataset.train.rows[: len(raw)]].drop(columns="churned")
    pd.testing.assert_frame_equal(
        raw, written.reset_index(drop=True), check_dtype=False, rtol=1e-5, check_column_type=False
    )
    pd.testing.assert_frame_equal(predicted, Predictor.load(tmp_path).predict(raw), check_dtype=False)


def test_images_go_back_to_their_pixels(tmp_path: Path) -> None:
    dataset = data.load("digits")
    raw, _ = champion.example(champion_writer.export(tmp_path, network(dataset), dataset, TRIAL))
    assert isinstance(raw, np.ndarray)
    assert raw.shape == (2, 8, 8)
    np.testing.assert_allclose(raw, raw.round(), atol=1e-4)
    np.testing.assert_allclose(dataset.preprocess.apply(raw), dataset.train.inputs[:2], atol=1e-5)


def test_a_new_file_is_predicted_row_by_row_without_its_target(tmp_path: Path) -> None:
    dataset = data.load("customers.csv", target="churned", folder=customers(tmp_path).parent)
    champion_writer.export(tmp_path, network(dataset), dataset, TRIAL)
    predictor = Predictor.load(tmp_path)
    new = pd.read_csv(tmp_path / "customers.csv").drop(columns="churned")[["spent", "plan", "age"]]
    new.to_csv(tmp_path / "new.csv", index=False)
    found = predictor.predict(predictor.read(tmp_path / "new.csv"))
    assert len(found) == 60
    assert set(found["prediction"]) <= {"no", "yes"}
    pd.testing.assert_frame_equal(found, predictor.predict(new))
    later = new.set_axis(range(100, 160))
    assert predictor.predict(later).index.tolist() == list(range(100, 160))
    with pytest.raises(DataError, match="plan"):
        predictor.predict(new.drop(columns="plan"))


@pytest.mark.parametrize(
    ("targets", "columns"),
    [(["height"], ["prediction"]), (["height", "spent"], ["prediction_height", "prediction_spent"])],
)
def test_a_regression_is_predicted_in_the_targets_own_unit(
    tmp_path: Path, targets: list[str], columns: list[str]
) -> None:
    dataset = data.load("customers.csv", target=targets, task="regression", folder=customers(tmp_path, "height").parent)
    module = network(dataset)
    champion_writer.export(tmp_path, module, dataset, TRIAL)
    raw, predicted = champion.example(tmp_path / "champion")
    assert list(predicted.columns) == columns
    with torch.inference_mode():
        outputs = module.eval()(torch.from_numpy(dataset.preprocess.apply(raw))).double().numpy()
    np.testing.assert_allclose(Predictor.load(tmp_path).predict(raw).to_numpy(), outputs, rtol=1e-12)


def test_a_networks_mode_is_left_as_it_was_and_exported_in_evaluation(tmp_path: Path) -> None:
    dataset = data.load("breast_cancer")
    module = network(dataset).train()
    champion_writer.export(tmp_path, module, dataset, TRIAL)
    assert module.training
    raw, _ = champion.example(tmp_path / "champion")
    predictor = Predictor.load(tmp_path)
    pd.testing.assert_frame_equal(predictor.predict(raw), predictor.predict(raw))  # no dropout, no batch statistics
    pd.testing.assert_frame_equal(predictor.predict(raw)[:1], predictor.predict(raw[:1]))


def test_a_later_champion_replaces_the_earlier_one_whole(tmp_path: Path) -> None:
    dataset = data.load("breast_cancer")
    champion_writer.export(tmp_path, network(dataset), dataset, TRIAL)
    (tmp_path / "champion" / "stray").touch()
    (tmp_path / "champion.new").mkdir()  # left by an export that was killed
    (tmp_path / "champion.new" / "card.json").write_text("{")
    champion_writer.export(tmp_path, network(dataset, width=16), dataset, {**TRIAL, "number": 9})
    assert Predictor.load(tmp_path).card["trial"]["number"] == 9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["champion"]
    assert not (tmp_path / "champion" / "stray").exists()


def test_the_card_says_what_it_is(tmp_path: Path) -> None:
    dataset = data.load("digits")
    folder = champion_writer.export(tmp_path / "my-study", network(dataset), dataset, TRIAL)
    card = json.loads((folder / "card.json").read_text())
    assert card["study"] == "my-study"
    assert card["trial"] == TRIAL
    assert Signature.from_dict(card["signature"]) == dataset.signature
    assert data.Preprocess.from_dict(card["preprocess"]) == dataset.preprocess
    assert card["data"] == {"name": dataset.name, "digest": dataset.digest, "split": dataset.split_digest}


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_flipped_bit_in_the_network_is_noticed(tmp_path: Path, place: int) -> None:
    dataset = data.load("breast_cancer")
    path = champion_writer.export(tmp_path, network(dataset), dataset, TRIAL) / "network.safetensors"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointCorrupt, match="sha256"):
        Predictor.load(tmp_path)


def test_a_study_without_a_champion_says_so(tmp_path: Path) -> None:
    with pytest.raises(StudyMissing, match="no champion"):
        Predictor.load(tmp_path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    dataset = data.load("breast_cancer")
    card = champion_writer.export(tmp_path, network(dataset), dataset, TRIAL) / "card.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"format": champion.FORMAT + 1}))
    with pytest.raises(TunerError, match="newer Tuner"):
        Predictor.load(tmp_path)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(30, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) if x.sum() > 0 else -self.layer(x)


def test_a_network_that_cannot_be_exported_is_named_and_the_older_champion_stays(tmp_path: Path) -> None:
    dataset = data.load("breast_cancer")
    champion_writer.export(tmp_path, network(dataset), dataset, TRIAL)
    with pytest.raises(ExportError, match="Branching"):
        champion_writer.export(tmp_path, Branching(), dataset, {**TRIAL, "number": 4})
    assert Predictor.load(tmp_path).card["trial"]["number"] == 3


def test_predicting_needs_neither_mlflow_nor_the_ledger(tmp_path: Path) -> None:
    dataset = data.load("breast_cancer")
    champion_writer.export(tmp_path, network(dataset), dataset, TRIAL)
    code = (
        "import sys; from pathlib import Path; from tuner.champion import Predictor, example\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "found = Predictor.load(folder).predict(example(folder / 'champion')[0])\n"
        "assert len(found) == 2\n"
        "print([name for name in ('mlflow', 'sqlalchemy', 'optuna', 'sklearn') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert said.stdout.strip() == "[]"


class Reader(nn.Module):
    """Tokens [B, T] → [B, outputs], or [B, T, outputs] where each position is answered."""

    def __init__(self, signature: Signature) -> None:
        super().__init__()
        assert signature.vocabulary is not None
        self.characters = nn.Embedding(signature.vocabulary, 8)
        self.answer = nn.Linear(8, signature.outputs)
        self.everywhere = signature.task == "language"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        read = self.characters(x)
        return self.answer(read if self.everywhere else read.mean(1))


def test_a_champion_for_texts_takes_strings(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dataset = data.load("syllables")
    champion_writer.export(tmp_path, Reader(dataset.signature), dataset, TRIAL)
    predictor = Predictor.load(tmp_path)
    raw, predicted = champion.example(tmp_path / "champion")
    assert isinstance(raw, pd.DataFrame)
    words = raw["word"].tolist()
    assert all(isinstance(word, str) for word in words)
    for given in (raw, words, np.array(words)):
        pd.testing.assert_frame_equal(predictor.predict(given), predicted, check_dtype=False)
    (tmp_path / "new.txt").write_text("unbelievable\nz\n")
    found = predictor.predict(predictor.read(tmp_path / "new.txt"))
    assert len(found) == 2
    assert set(found["prediction"]) <= set(dataset.classes or ())
    with pytest.raises(DataError, match="expected texts, got float64"):
        predictor.predict(np.zeros((2, 17)))


def test_a_champion_that_continues_texts_gives_the_next_character(tmp_path: Path) -> None:
    (tmp_path / "novel.txt").write_text("abcab bca. " * 200)
    dataset = data.load("novel.txt", folder=tmp_path, length=12)
    module = Reader(dataset.signature)
    with torch.no_grad():  # the next character is the token that follows in the vocabulary, whatever it is
        module.characters.weight.copy_(torch.eye(len(module.characters.weight), 8))
        module.answer.weight.copy_(100 * torch.eye(8).roll(1, 0)[: dataset.signature.outputs])
        module.answer.bias.zero_()
    champion_writer.export(tmp_path, module, dataset, TRIAL)
    predictor = Predictor.load(tmp_path)
    characters = dataset.preprocess.characters
    assert characters == " .abc"
    found = predictor.predict(["ca", "b", "a text that is longer than twelve a", "?"])
    assert found["prediction"].tolist()[:3] == ["b", "c", "b"]
    np.testing.assert_allclose(found["probability"][:3], 1)
    assert champion.example(tmp_path / "champion")[0]["text"].str.len().tolist() == [12, 12]


def test_a_champion_for_sequences_takes_them_shorter_and_longer(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    lengths = draw.integers(2, 7, 40)
    np.savez(tmp_path / "s.npz", x=draw.normal(3, 2, (40, 6, 2)), y=np.arange(40) % 2, lengths=lengths)
    dataset = data.load("s.npz", folder=tmp_path)
    champion_writer.export(tmp_path, network(dataset), dataset, TRIAL)
    predictor = Predictor.load(tmp_path)
    raw, predicted = champion.example(tmp_path / "champion")
    assert isinstance(raw, np.ndarray)
    assert raw.shape == (2, 6, 2)
    pd.testing.assert_frame_equal(predictor.predict(raw), predicted, check_dtype=False)
    longer = np.concatenate([raw, np.full((2, 3, 2), np.nan, np.float32)], axis=1)
    pd.testing.assert_frame_equal(predictor.predict(longer), predicted, check_dtype=False)
    np.savez(tmp_path / "new.npz", x=np.ones((3, 4, 2)), lengths=[4, 1, 2])
    assert len(predictor.predict(predictor.read(tmp_path / "new.npz"))) == 3
    holed = np.ones((1, 4, 2))
    holed[0, 1] = np.nan
    with pytest.raises(DataError, match=r"x\[0, 1\] \(row 1\): expected numbers in every step, got NaN"):
        predictor.predict(holed)


def test_a_champion_for_a_table_with_empty_cells_keeps_them_in_its_example(tmp_path: Path) -> None:
    frame = pd.read_csv(customers(tmp_path))
    frame.loc[frame.index % 3 == 0, "spent"] = np.nan
    frame.loc[frame.index % 4 == 0, "plan"] = None
    frame.to_csv(tmp_path / "customers.csv", index=False)
    dataset = data.load("customers.csv", target="churned", folder=tmp_path)
    champion_writer.export(tmp_path, network(dataset), dataset, TRIAL)
    raw, predicted = champion.example(tmp_path / "champion")
    assert isinstance(raw, pd.DataFrame)
    assert raw["spent"].isna().tolist() == frame["spent"].isna()[dataset.train.rows[:2]].tolist()
    pd.testing.assert_frame_equal(Predictor.load(tmp_path).predict(raw), predicted, check_dtype=False, rtol=1e-5)
