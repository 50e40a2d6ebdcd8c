"""Law 1: a trial's numbers depend on its spec, its hyperparameters and its seed; on a CPU to the bit."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import pytest
import torch

from tests import zoo
from tests.zoo import Told, equal, told
from tuner.checkpoints import format as checkpoint
from tuner.training import cohort
from tuner.training.loop import Training
from tuner.training.replay import blas, dispatch
from tuner.training.task import Row
from tuner.workloads.base import Epoch, Step

torch.set_num_threads(1)


def trained(case: zoo.Case, rows: list[Row], **options: Any) -> Told:
    return told(Training(zoo.task(case, rows, **options), zoo.arrays(case.signature)))


@lru_cache
def sixteen(name: str) -> Told:
    """Every trial of a case as it comes out of a cohort of sixteen."""
    case = next(case for case in zoo.CASES if case.name == name)
    return trained(case, [zoo.row(case, number) for number in range(16)])


# All tests of a case in one process, which trains its sixteen once.
@pytest.fixture(
    params=[pytest.param(case, id=case.name, marks=pytest.mark.xdist_group(case.name)) for case in zoo.CASES]
)
def case(request: pytest.FixtureRequest) -> zoo.Case:
    return request.param


@pytest.mark.parametrize("numbers", [[0], [3], [4, 9], [15, 0], [6, 1, 2, 8, 11], [12, 5, 7, 10, 13]])
def test_a_trial_is_the_same_in_a_cohort_of_any_size(case: zoo.Case, numbers: list[int]) -> None:
    found = trained(case, [zoo.row(case, number) for number in numbers])
    assert set(found) == set(numbers)
    for number in numbers:
        assert len(found[number]) == 4  # three epochs and the weights
        assert equal(found[number], sixteen(case.name)[number]), number


def test_a_trial_is_the_same_beside_a_neighbour_that_diverges(case: zoo.Case) -> None:
    numbers = [0, 3, 5, 6]
    wild = zoo.row(case, 1, learning_rate=900.0, momentum=0.999, nesterov=False, gradient_clip=None, warmup=0.0)
    # a rate of 900 may only saturate a bounded network: poison the seed row's start instead where it does
    training = Training(zoo.task(case, [wild, *(zoo.row(case, n) for n in numbers)]), zoo.arrays(case.signature))
    place = [row.number for row in training.rows].index(1)
    training.stack.flat_KP[place] = math.nan
    found = told(training)
    assert found[1][0].startswith("diverged at step 0 (train/loss=nan)")
    assert len(found[1]) == 1
    for number in numbers:
        assert equal(found[number], sixteen(case.name)[number]), number


def test_a_trial_is_the_same_after_its_neighbours_were_stopped(case: zoo.Case) -> None:
    rows = [zoo.row(case, number) for number in (2, 4, 7, 9)]
    rungs = frozenset({1, 2})
    training = Training(zoo.task(case, rows, rungs=rungs), zoo.arrays(case.signature))
    found = told(training, stop={1: {4, 9}, 2: {2}})
    assert [len(found[number]) for number in (4, 9, 2, 7)] == [1, 1, 2, 4]
    assert len(training.stack) == 1 + training._ghost  # trial 7, and its ghost where it needs one
    for number in (2, 4, 7, 9):
        whole = sixteen(case.name)[number]
        assert equal(found[number], whole[: len(found[number])]), number


@pytest.mark.parametrize("moment", [1, 4, 5, 8])
@pytest.mark.parametrize("left", [[0, 3, 5], [3]])
def test_a_trial_is_the_same_after_a_resume_at_any_step(
    case: zoo.Case, moment: int, left: list[int], tmp_path: Any
) -> None:
    rows = [zoo.row(case, number) for number in (0, 3, 5)]
    first = Training(zoo.task(case, rows), zoo.arrays(case.signature))
    heard: Told = {}
    steps = 0
    for event in first.run():
        if isinstance(event, Step) and event.step:
            steps += 1
            if steps == moment:
                checkpoint.save(tmp_path / "cohort.pt", first.state())
                break
        elif isinstance(event, Epoch):
            for number, metrics in event.metrics.items():
                heard.setdefault(number, []).append(metrics)
    second = Training(zoo.task(case, [row for row in rows if row.number in left]), zoo.arrays(case.signature))
    second.restore(checkpoint.load(tmp_path / "cohort.pt"))
    told(second, heard)
    for number in left:
        assert equal(heard[number], sixteen(case.name)[number]), number


def test_a_structure_that_trains_alone_does_so_the_same_after_a_resume(case: zoo.Case, tmp_path: Any) -> None:
    rows = [zoo.row(case, 4)]
    whole = trained(case, rows, company=False)
    first = Training(zoo.task(case, rows, company=False), zoo.arrays(case.signature))
    heard: Told = {}
    for event in first.run():
        if isinstance(event, Epoch):
            heard.setdefault(4, []).append(event.metrics[4])
        elif isinstance(event, Step) and (event.epoch, event.step) == (1, 2):
            checkpoint.save(tmp_path / "cohort.pt", first.state())
            break
    assert len(first.stack) == 1
    second = Training(zoo.task(case, rows, company=False), zoo.arrays(case.signature))
    second.restore(checkpoint.load(tmp_path / "cohort.pt"))
    assert equal(told(second, heard), whole)


def test_a_recording_plays_the_bits_of_what_it_recorded(case: zoo.Case) -> None:
    rows = [zoo.row(case, number) for number in (0, 3, 4, 5, 7)]
    training = Training(zoo.task(case, rows), zoo.arrays(case.signature), recorded=False)
    with blas.Multiplied():
        assert equal(told(training), {number: sixteen(case.name)[number] for number in (0, 3, 4, 5, 7)})


@pytest.mark.parametrize("name", ["mlp-silu-batch", "cnn-batch", "lstm", "transformer-text"])
def test_without_torchs_private_interfaces_training_has_the_same_bits(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = next(case for case in zoo.CASES if case.name == name)
    rows = [zoo.row(case, number) for number in (0, 3, 4)]
    monkeypatch.setattr(blas, "numpys", lambda: "")  # what is not recorded is multiplied by torch
    expected = trained(case, rows)
    with monkeypatch.context() as patched:
        patched.setattr(dispatch, "FOUND", False)
        training = Training(zoo.task(case, rows), zoo.arrays(case.signature))
        assert equal(told(training), expected)
        assert training._programs._known == {}
    monkeypatch.setattr(cohort, "_places", lambda *_: None)  # torch.func.functional_call finds parameters and buffers
    assert equal(trained(case, rows), expected)


def test_a_row_alone_multiplies_no_vectors_without_a_ghost(case: zoo.Case) -> None:
    """The rule knows shapes alone; here is what was in fact multiplied."""
    training = Training(zoo.task(case, [zoo.row(case, 0)]), zoo.arrays(case.signature))
    told(training)
    products = {shape for program, _ in training._programs._known.values() for shape in program.products}
    assert products or training._ghost
    assert len(training.stack) == 2 or not any(1 in shape[-2:] for shape in products)


@pytest.mark.parametrize(
    ("family", "signature", "network", "rows"),
    [
        ("mlp", zoo.NUMBERS, {"width": 1, "depth": 2}, 71),
        ("mlp", zoo.NUMBERS, {"width": 8}, 65),  # a last batch of one
        ("mlp", zoo.Signature("classification", "numbers", (1,), 3), {"width": 8}, 71),
        ("mlp", zoo.Signature("regression", "numbers", (5,), 1), {"width": 8}, 71),
        ("rnn", zoo.SEQUENCES, {"width": 1}, 71),
        ("rnn", zoo.SEQUENCES, {"width": 4, "readout": "attention"}, 71),
        ("rnn", zoo.Signature("classification", "sequence", (1, 3), 3), {"width": 4}, 71),
        ("transformer", zoo.SEQUENCES, {"width": 4, "heads": 4}, 71),
        ("transformer", zoo.Signature("classification", "sequence", (1, 3), 3), {"width": 4, "heads": 1}, 71),
        ("transformer", zoo.Signature("classification", "image", (1, 4, 4), 3), {"width": 8, "heads": 2}, 71),
        ("cnn", zoo.SEQUENCES, {"width": 1}, 71),
    ],
)
def test_a_row_that_multiplies_vectors_is_the_same_alone(
    family: str, signature: zoo.Signature, network: dict[str, Any], rows: int
) -> None:
    case = zoo.Case("vectors", family, signature, network)
    many = told(Training(zoo.task(case, [zoo.row(case, n) for n in range(4)]), zoo.arrays(signature, rows=rows)))
    alone = Training(zoo.task(case, [zoo.row(case, 3)]), zoo.arrays(signature, rows=rows))
    assert equal(told(alone)[3], many[3])
    assert len(alone.stack) == 2


def test_early_stopping_is_a_rows_own_affair() -> None:
    case = zoo.CASES[0]
    changes = {"epochs": 12}
    patient = trained(case, [zoo.row(case, 0, **changes)])
    both = trained(
        case, [zoo.row(case, 0, **changes), zoo.row(case, 1, **changes, early_stopping=1, learning_rate=1e-6)]
    )
    assert len(both[0]) == 13
    assert len(both[1]) < 13
    assert equal(both[0], patient[0])
    best_epoch, _ = both[1][-1]
    assert len(both[1]) - 1 == best_epoch + 1  # stopped one epoch after its best
