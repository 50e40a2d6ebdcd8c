"""What mattered in an example: in the data's own terms, and drawn so that an eye and a terminal can bear it."""

from __future__ import annotations

import html
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tuner import data, models
from tuner.data.preprocess import Preprocess
from tuner.errors import InputError, TunerError
from tuner.inference import render
from tuner.inference.explain import Example, Look, look, validated
from tuner.models import Signature


def example(
    read: object, weights: list[float] | np.ndarray, row: int = 0, prediction: str = "a", target: str | None = None
) -> Example:
    return Example(row, read, np.array(weights), prediction, 0.5, target)


@pytest.fixture
def customers(tmp_path: Path) -> data.Dataset:
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"age": draw.integers(18, 80, 90).astype(float), "plan": draw.choice(["a", "b", "c"], 90)})
    frame.loc[frame.index % 9 == 0, "age"] = np.nan
    frame["spent"] = draw.normal(size=90)
    frame["churned"] = draw.choice(["no", "yes"], 90)
    frame.to_csv(tmp_path / "customers.csv", index=False)
    return data.load("customers.csv", target="churned", folder=tmp_path)


class Weighted(nn.Module):
    """Answers with fixed multiples of its inputs."""

    def __init__(self, factors: list[float]) -> None:
        super().__init__()
        self.factors = torch.tensor(factors)

    def forward(self, x: Tensor) -> Tensor:
        answer = (x * self.factors).sum(1, keepdim=True)
        return torch.cat((answer, answer - 1), 1)


def test_the_inputs_of_one_column_count_together_and_columns_are_ranked(customers: data.Dataset) -> None:
    assert customers.preprocess.sources == ("age", "age", "plan", "plan", "plan", "spent")
    split = customers.validation
    found = look(Weighted([0, 0, 1, 1, 1, 0]), customers.preprocess, customers.signature, split.inputs[:5])
    assert [one.weights.tolist() for one in found.examples] == [[0, 1, 0]] * 5
    assert [one.read["plan"] for one in found.examples] == customers.preprocess.raw(split.inputs[:5])["plan"].tolist()  # type: ignore[call-overload]
    assert [row["column"] for row in found.rows()[:3]] == ["plan", "age", "spent"]
    ages = look(Weighted([1, 1, 0, 0, 0, 0]), customers.preprocess, customers.signature, split.inputs)
    seen = [one for one in ages.examples if np.abs(one.weights).sum()]
    assert seen
    assert all(one.weights[0] == 1 for one in seen)


def test_an_unknown_category_is_shown_as_none_of_the_known(customers: data.Dataset) -> None:
    inputs = customers.preprocess.apply(pd.DataFrame({"age": [30.0], "plan": ["z"], "spent": [1.0]}))
    found = look(Weighted([1, 1, 1, 1, 1, 1]), customers.preprocess, customers.signature, inputs)
    assert found.examples[0].read["plan"] == ""


def test_a_sequence_is_shown_without_its_padding() -> None:
    preprocess = Preprocess("sequence", (5, 2), mean=(0.0, 0.0), scale=(1.0, 1.0), masked=True, classes=("a", "b"))
    signature = Signature("classification", "sequence", (5, 3), 2, masked=True)
    torch.manual_seed(0)
    network = models.build("rnn", signature, {"readout": "attention"})
    raw = np.random.default_rng(0).normal(size=(2, 5, 2)).astype(np.float32)
    raw[1, 3:] = np.nan
    found = look(network, preprocess, signature, preprocess.apply(raw))
    assert [one.weights.shape for one in found.examples] == [(5,), (3,)]
    assert [one.weights.sum() for one in found.examples] == pytest.approx([1, 1])
    np.testing.assert_allclose(found.examples[1].read, raw[1, :3], rtol=1e-6)


@pytest.mark.parametrize("family", ["rnn", "transformer"])
def test_of_a_text_to_be_continued_a_shorter_one_is_answered_at_its_end(family: str, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("It was the best of times, it was the worst of times.\n" * 12)
    dataset = data.load("t.txt", length=20, folder=tmp_path)
    torch.manual_seed(0)
    network = models.build(family, dataset.signature, {}).eval()
    tokens = dataset.preprocess.apply(["It was", "of times, it was the"])
    found = look(network, dataset.preprocess, dataset.signature, tokens)
    assert [one.read for one in found.examples] == ["It was", "of times, it was the"]
    assert [len(one.weights) for one in found.examples] == [6, 20]
    assert all(one.weights.sum() == pytest.approx(1) for one in found.examples)
    likely = network(torch.from_numpy(tokens[:1]))[0, 5, 2:].detach().softmax(0)
    assert found.examples[0].probability == pytest.approx(float(likely.max()), rel=1e-5)
    shown = validated(network, dataset, 4)
    assert all(one.target is not None for one in shown.examples)
    assert len({one.row for one in shown.examples}) == len(shown.examples)


def test_a_network_of_ones_own_that_reads_text_is_traced_to_its_embedding() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.answer = nn.Embedding(5, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.answer(self.table(x)[:, 1])

    preprocess = Preprocess("text", (3,), columns=("word",), characters="abc", classes=("x", "y"))
    signature = Signature("classification", "text", (3,), 2, vocabulary=5)
    found = look(Own(), preprocess, signature, preprocess.apply(["abc", "ab"]))
    assert [one.weights.tolist() for one in found.examples] == [[0, 1, 0], [0, 1]]


def test_a_network_that_cannot_be_traced_says_what_it_says(customers: data.Dataset) -> None:
    class Deaf(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(len(x), 2)

    with pytest.raises(TunerError, match="what mattered to the network cannot be told: RuntimeError"):
        look(Deaf(), customers.preprocess, customers.signature, customers.validation.inputs[:1])


def test_the_part_of_an_image_that_matters_is_the_brightest_of_its_picture(tmp_path: Path) -> None:
    weights = np.zeros((8, 8))
    weights[2, 5] = 1.0
    pixels = np.random.default_rng(0).uniform(0, 255, (8, 8))
    for read in (pixels, np.stack([pixels] * 3, axis=2), np.full((8, 8), 7.0)):
        shown = Look("image", "m", (example(read, weights),))
        (file,) = render.write(shown, "t", tmp_path / "one.png")
        picture = np.asarray(Image.open(file).convert("RGB"), float)
        yellow = (picture[..., 0] - picture[..., 2]).clip(0) * (picture[..., 1] > 200)
        y, x = np.unravel_index(yellow.argmax(), yellow.shape)
        side = 32  # pixels of a pixel: 256 / 8
        left = render._GAP + 9 * side  # beside the image and a white column
        assert ((y - render._GAP) // side, (x - left) // side) == (2, 5)


@pytest.mark.parametrize(("steps", "features"), [(1, 1), (30, 3), (8, 8), (3, 60), (3_000, 2), (1_500, 9)])
def test_sequences_of_any_size_are_drawn(steps: int, features: int, tmp_path: Path) -> None:
    read = np.random.default_rng(0).normal(size=(steps, features))
    one = example(read, np.full(steps, 1 / steps))
    short = example(read[:1], np.zeros(1))
    (file,) = render.write(Look("sequence", "m", (one, short)), "t", tmp_path / "a" / "both.png")
    assert max(Image.open(file).size) < 2_500


def test_a_folder_gets_a_file_for_each_example_and_another_ending_is_refused(tmp_path: Path) -> None:
    shown = Look("text", "m", (example("ab", [1, 0], row=3), example("c", [1], row=12)))
    files = render.write(shown, "t", tmp_path / "many")
    assert [file.name for file in files] == ["000003.html", "000012.html"]
    for name in ("x.png", "x.txt"):
        with pytest.raises(InputError, match=r"folder or a file ending in \.html"):
            render.write(shown, "t", tmp_path / name)


NASTY = "<script>alert(1)</script>&\"'\x1b[2J\n"


@pytest.mark.parametrize(
    "shown",
    [
        Look("text", NASTY, (example(NASTY, np.ones(len(NASTY)) / len(NASTY), prediction=NASTY, target=NASTY),)),
        Look("numbers", NASTY, (example({NASTY: NASTY, "b": None}, [0.5, 0.5], prediction=NASTY),)),
        Look("image", NASTY, (example(np.ones((4, 4)), np.ones((4, 4)), prediction=NASTY),)),
    ],
    ids=["text", "numbers", "image"],
)
def test_what_comes_from_data_is_escaped_in_a_page_and_harmless_on_a_terminal(shown: Look, tmp_path: Path) -> None:
    (file,) = render.write(shown, NASTY, tmp_path / "page.html")
    page = file.read_text()
    assert "<script" not in page
    assert 'charset="utf-8"' in page
    if shown.modality == "text":
        assert "".join(map(html.unescape, re.findall(r'title="[\d.]+">(.*?)</span>', page, re.DOTALL))) == NASTY
        marked = re.sub(r"\x1b\[[\d;]*m", "", render.marked(shown.examples[0]))
        assert "\x1b" not in marked
        assert "\n" not in marked


def test_the_more_a_character_matters_the_stronger_its_background_on_a_terminal() -> None:
    line = render.marked(example("abc", [0.0, 0.3, 0.7]))
    assert line.startswith("a\x1b[30;48;5;")
    colours = [int(found) for found in re.findall(r"48;5;(\d+)m", line)]
    assert [render._ANSI.index(colour) for colour in colours] == [round(9 * 3 / 7), 9]
    assert "\x1b" not in render.marked(example("abc", [0.0, 0.0, 0.0]))
