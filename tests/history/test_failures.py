"""Why trials failed: one line for each cause, with what its trials have in common, and when it was too many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import studies
from tests.stories import spec
from tuner.events import Asked, Completed, Created, Event, Failed, Finished, Pruned
from tuner.history.failures import causes, named, told, too_many
from tuner.history.fold import History

PLACE = "ValueError: Expected more than 1 value per channel (net.py:12)"


def history(*trials: tuple[dict[str, Any], str | type[Event] | None]) -> History:
    """Of trials with these params that failed with that message, ended in another way, or did not end."""
    events = [Created(spec=spec("s", 99), digest="d", text="", id="i", data={}, seed=0)]
    for number, (params, end) in enumerate(trials):
        events.append(Asked(number, params=params, seed=number))
        if end in (Finished, Pruned):
            events.append(Finished(number, 1, 1) if end is Finished else Pruned(number, 1))
        elif end is not None:
            events.append(Failed(number, message=end))
    return History.of([*events, Completed(state="complete", message="")])


def sizes(values: Sequence[int], fails: int) -> History:
    return history(
        *[({"batch_size": size, "lr": 0.1 * n}, PLACE if size == fails else Finished) for n, size in enumerate(values)]
    )


def test_a_cause_is_told_with_its_trials_and_what_they_have_in_common() -> None:
    found = sizes([16, 32, 32, 16, 16, 16, 8, 16], 16)
    assert told(found, "tuner logs s --trial") == [
        f"5 trials failed: {PLACE}: trials 0, 3, 4, 5, 7 (batch_size 16 in all of them)",
        "what a trial printed: tuner logs s --trial 0",
        "more than half of the trials failed, so the exit code is 1",
    ]


def test_nothing_is_in_common_where_there_is_one_trial_or_all_have_it() -> None:
    assert [str(cause) for cause in causes(sizes([16, 8, 32, 64], 16))] == [f"1 trial failed: {PLACE}: trial 0"]
    assert str(causes(sizes([16, 16], 16))[0]) == f"2 trials failed: {PLACE}: trials 0, 1"
    one_width = history(({"width": 8}, PLACE), ({"width": 8}, PLACE), ({"width": 8}, Finished))
    assert "in all of them" not in str(causes(one_width)[0])


def test_what_no_other_trial_has_is_named_first() -> None:
    found = history(
        ({"act": "relu", "width": 8, "lr": 0.1}, "E (n.py:1)"),
        ({"act": "relu", "width": 8, "lr": 0.2}, "E (n.py:1)"),
        ({"act": "relu", "width": 4, "lr": 0.3}, Finished),
        ({"act": "tanh", "width": 4, "lr": 0.4}, Pruned),
    )
    assert "(width 8, act relu in all of them)" in str(causes(found)[0])


def test_messages_that_differ_in_numbers_alone_are_one_cause_and_places_are_told_apart() -> None:
    found = history(
        ({}, "diverged at step 3 (train/loss=nan)"),
        ({}, "ValueError: got 3 rows (net.py:12)"),
        ({}, "diverged at step 17 (train/loss=nan)"),
        ({}, "ValueError: got 4 rows (net.py:40)"),
        ({}, "diverged at step 0 (train/loss=inf)"),
        ({}, "diverged at step 0 (train/loss=nan)"),
    )
    assert [(cause.trials, cause.alike) for cause in causes(found)] == [
        ((0, 2, 5), True),
        ((1,), False),
        ((3,), False),
        ((4,), False),
    ]
    assert str(causes(found)[0]) == (
        "3 trials failed: diverged at step 3 (train/loss=nan), and the like: trials 0, 2, 5"
    )


def test_of_many_causes_and_trials_the_first_are_told() -> None:
    words = ["one", "two", "three", "four", "five", "six", "seven"]
    lines = told(history(*[({}, word) for word in words]), "tuner logs s --trial")
    assert lines[5] == "2 more failed of 2 other causes" and len(lines) == 8
    assert named(range(70)) == "trials 0, 1, 2, 3, 4, 5, 6, 7 and 62 more"


@pytest.mark.parametrize(
    ("failed", "others", "many"),
    [(1, 1, False), (2, 1, True), (0, 0, False), (0, 3, False), (1, 0, True), (4, 4, False), (5, 4, True)],
)
def test_more_than_half_of_the_trials_that_ended_are_too_many(failed: int, others: int, many: bool) -> None:
    ends = [Finished, Pruned]
    trials = [*[({}, "E")] * failed, *[({}, ends[n % 2]) for n in range(others)], ({}, None), ({}, None)]
    assert too_many(history(*trials)) is many
    assert not told(history(*[({}, Finished)] * 2), "c")


NETWORK = """
from torch import nn

class Net(nn.Module):
    def __init__(self, signature, width: int = 8):
        super().__init__()
        self.f = nn.Sequential(nn.Linear(30, width), nn.ReLU(), nn.Linear(width, 2))

    def forward(self, x):
        if self.training and len(x) in (16, 32):
            raise ValueError("Expected more than 1 value per channel")
        return self.f(x)
"""


def test_a_study_of_which_most_trials_fail_ends_with_1_and_the_causes_also_when_it_is_launched_again(
    tmp_path: Path,
) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    content = studies.study(train={"epochs": 1}, run={"workers": 2})
    content["model"] = {"family": "net.py:Net"}
    content["search"] |= {
        "space": {"batch_size": {"type": "choice", "values": [16, 32, 64]}},
        "sampler": {"kind": "grid"},
        "trials": 3,
    }
    path = studies.write(tmp_path, content)
    for _ in range(2):
        said = studies.run(path, tmp_path / "home", expect=1)
        assert "2 trials failed: ValueError: Expected more than 1 value per channel (net.py:11): trials 0, 1\n" in said
        assert "logs small --home" in said and "best trial 2" in said
        assert "more than half of the trials failed, so the exit code is 1" in said
    assert studies.history(tmp_path / "home").completed == "complete"
