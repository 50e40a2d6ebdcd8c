"""Text continued character by character: by which law a character is drawn, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tuner import models
from tuner.champion import Predictor
from tuner.data.preprocess import Preprocess
from tuner.errors import InputError, TunerError
from tuner.inference import champion_writer
from tuner.inference.generate import FIRST, continued, strangers
from tuner.models.interface import PADDING, UNKNOWN

WINDOW = 6
ABC = Preprocess("text", (WINDOW,), columns=("text",), characters="abc", targets=("next",))


class Chances:
    """Answers every position with the same logits, and remembers what it was asked."""

    def __init__(self, *logits: float) -> None:
        self.logits, self.asked = logits, list[Tensor]()

    def __call__(self, tokens: Tensor) -> Tensor:
        self.asked.append(tokens)
        return torch.tensor(self.logits).expand(*tokens.shape, len(self.logits))


def follows(tokens: Tensor) -> Tensor:
    """A network that has learnt a, b, c, a, b, c … and knows nothing of padding."""
    return torch.nn.functional.one_hot(FIRST + (tokens - FIRST + 1) % 3, FIRST + 3) * 50.0


def test_the_likeliest_character_follows_the_last_real_one_at_temperature_zero() -> None:
    assert continued(follows, ABC, "a", 9, temperature=0.0) == "bcabcabca"
    assert continued(follows, ABC, "ab" * 10, 3, temperature=0.0) == "cab"


def test_a_short_prompt_is_padded_on_the_right_and_of_a_long_one_the_end_is_read() -> None:
    network = Chances(0, 0, 9, 0, 0)
    continued(network, ABC, "c", 8, temperature=0.0)
    seen = [tokens[0].tolist() for tokens in network.asked]
    assert seen[0] == [FIRST + 2, *[PADDING] * (WINDOW - 1)]
    assert seen[2] == [FIRST + 2, FIRST, FIRST, *[PADDING] * (WINDOW - 3)]
    assert seen[-1] == [FIRST] * WINDOW
    assert all(len(tokens) == WINDOW for tokens in seen)


def test_padding_and_unknown_are_never_written_however_likely() -> None:
    text = continued(Chances(99, 99, 0, 0, 0), ABC, "a", 200)
    assert set(text) == set("abc")


def test_equal_seeds_write_equal_text_other_seeds_another_and_a_shorter_text_begins_a_longer_one() -> None:
    network = Chances(0, 0, 0, 0, 0)
    texts = [continued(network, ABC, "a", 40, seed=seed) for seed in range(20)]
    assert continued(network, ABC, "a", 40, seed=3) == texts[3]
    assert len(set(texts)) == 20
    assert continued(network, ABC, "a", 15, seed=3) == texts[3][:15]
    assert continued(network, ABC, "a", 0) == ""


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_characters_are_drawn_with_the_chances_of_the_softmax_at_that_temperature(temperature: float) -> None:
    logits = np.array([1.0, 0.0, -1.0])
    text = continued(Chances(0, 0, *logits.tolist()), ABC, "a", 3_000, temperature=temperature)
    chances = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    shares = np.array([text.count(character) / len(text) for character in "abc"])
    assert np.abs(shares - chances).max() < 4 * 0.5 / math.sqrt(len(text))


def test_a_tiny_temperature_is_greedy_and_a_huge_one_is_even() -> None:
    network = Chances(0, 0, 1, 2, 3)
    assert continued(network, ABC, "a", 20, temperature=1e-300) == "c" * 20
    assert set(continued(network, ABC, "a", 100, temperature=1e300)) == set("abc")


def test_characters_that_training_never_saw_are_read_as_unknown_and_named() -> None:
    network = Chances(0, 0, 1, 0, 0)
    continued(network, ABC, "aéb\udcff", 1)
    assert network.asked[0][0].tolist()[:4] == [FIRST, UNKNOWN, FIRST + 1, UNKNOWN]
    assert strangers(ABC, "aéébß") == "éß"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"prompt": ""}, ["prompt: expected at least one character"]),
        ({"length": -1}, ["length: expected"]),
        ({"temperature": -0.1}, ["temperature: expected"]),
        ({"temperature": math.nan}, ["temperature: expected"]),
        ({"prompt": "", "length": -2, "temperature": math.inf}, ["prompt", "length", "temperature"]),
    ],
)
def test_every_wrong_argument_is_named_at_once(arguments: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(InputError) as raised:
        continued(Chances(0, 0, 0, 0, 0), ABC, **{"prompt": "a", "length": 3, **arguments})
    assert len(raised.value.problems) == len(said)
    for problem, words in zip(raised.value.problems, said, strict=True):
        assert words in problem


def test_a_network_that_answers_no_numbers_is_told() -> None:
    with pytest.raises(TunerError, match="diverged"):
        continued(Chances(0, 0, math.nan, 0, 0), ABC, "a", 3)


@pytest.mark.parametrize(("family", "values"), [("rnn", {"cell": "lstm"}), ("transformer", {"width": 16})])
def test_an_exported_champion_writes_what_its_plain_network_writes(
    family: str, values: dict[str, Any], tmp_path: Path
) -> None:
    from tuner import data

    torch.set_num_threads(1)
    (tmp_path / "text.txt").write_text("It was the best of times, it was the worst of times.\n" * 12)
    dataset = data.load("text.txt", length=12, folder=tmp_path)
    torch.manual_seed(0)
    network = models.build(family, dataset.signature, values).eval()
    champion_writer.export(tmp_path, network, dataset, {"number": 0})
    text = Predictor.load(tmp_path).generate("It was", 40, temperature=0.7, seed=5)
    assert text == continued(network, dataset.preprocess, "It was", 40, 0.7, 5)
    assert len(text) == 40
    plain = Predictor.load(tmp_path)
    plain.use(network)
    assert plain.generate("It was", 40, temperature=0.7, seed=5) == text
    with pytest.raises(InputError, match="row 2"):
        plain.predict(["It", ""])


def test_a_champion_that_continues_no_text_says_so(tmp_path: Path) -> None:
    from tuner import data

    dataset = data.load("wine")
    champion_writer.export(tmp_path / "cellar", models.build("mlp", dataset.signature, {}), dataset, {"number": 0})
    with pytest.raises(InputError, match="study cellar: expected one that continues text"):
        Predictor.load(tmp_path / "cellar").generate("a", 3)
