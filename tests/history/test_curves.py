"""A trial's reports in one array are the dict of dicts that they stand for, at a fraction of its size."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from tuner.history.curves import Curves, Times

EPOCHS = st.lists(st.integers(1, 9), unique=True)
METRICS = st.dictionaries(st.sampled_from("abcd"), st.floats(allow_nan=False, allow_infinity=False), max_size=4)


@given(epochs=EPOCHS, data=st.data())
def test_curves_are_the_mapping_of_what_was_added(epochs: list[int], data: st.DataObject) -> None:
    """Epochs in any order, metrics that come and go."""
    curves, wanted, times = Curves(), {}, {}
    for epoch in epochs:
        wanted[epoch], times[epoch] = data.draw(METRICS), data.draw(st.floats(0, 2e9))
        curves.add(epoch, times[epoch], wanted[epoch])
    assert curves == wanted
    assert list(curves) == epochs
    assert len(curves) == len(epochs)
    assert dict(Times(curves)) == times
    assert [epoch for epoch in range(-1, 11) if epoch in curves] == sorted(epochs)
    assert curves.get(10) is None
    for metric in "abcde":
        assert curves.of(metric) == [(epoch, wanted[epoch][metric]) for epoch in epochs if metric in wanted[epoch]]


def test_twenty_epochs_of_three_metrics_take_less_than_a_kilobyte() -> None:
    curves = Curves()
    for epoch in range(1, 21):
        curves.add(epoch, 1.7e9, {"train/loss": 0.5, "val/loss": 0.6, "val/accuracy": 0.9})
    assert sys.getsizeof(curves) + sys.getsizeof(curves._cells) < 1_050
