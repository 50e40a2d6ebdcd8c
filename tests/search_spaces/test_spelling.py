"""A suggestion is made where a person mistyped a name, and none where another one was meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.cli import VERBS
from tuner.search_spaces.spelling import distance, nearest
from tuner.spec.checks import TRAINING

KEYS = [*TRAINING, "width", "depth", "activation", "norm"]
WORDS = [verb for verbs in VERBS.values() for verb in verbs]


@pytest.mark.parametrize(
    ("written", "meant"),
    [("epoch", "epochs"), ("learningrate", "learning_rate"), ("widht", "width"), ("optimiser", "optimizer"),
     ("Epochs", "epochs"), ("bacth_size", "batch_size"), ("dropuot", None), ("amp", None), ("lr", None), ("map", None),
     ("gpu", None), ("layers", None), ("hidden", None), ("decay", None), ("x" * 5000, None), ("", None)],
)  # fmt: skip
def test_a_key_is_suggested_where_few_letters_are_wrong(written: str, meant: str | None) -> None:
    assert nearest(written, KEYS) == meant


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("lauch", "launch"),
        ("reslts", "results"),
        ("stat", "status"),
        ("start", None),
        ("run", None),
        ("train", None),
        ("show", None),
    ],
)
def test_a_verb_is_suggested_where_few_letters_are_wrong(written: str, meant: str | None) -> None:
    assert nearest(written, WORDS) == meant


@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_the_distance_is_one(one: str, two: str) -> None:
    assert distance(one, one) == 0
    assert distance(one, two) == distance(two, one)
    assert (distance(one, two) == 0) == (one == two)
    assert abs(len(one) - len(two)) <= distance(one, two) <= max(len(one), len(two))


@given(st.text("abcdef", min_size=3, max_size=12), st.data())
def test_one_slip_is_always_forgiven(word: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(word) - 2))
    slips = [word[:at] + word[at + 1 :], word[:at] + "x" + word[at:], word[:at] + "x" + word[at + 1 :]]
    slips.append(word[:at] + word[at + 1] + word[at] + word[at + 2 :])
    assert all(nearest(slip, [word]) == word for slip in slips)
