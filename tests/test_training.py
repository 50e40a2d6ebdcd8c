"""What the loop hands out at a trial's end, and the static rules of who trains in company."""

from __future__ import annotations

import pytest
import torch

from tests import zoo
from tuner.training import cost
from tuner.training.loop import Epoch, Finished, Row, Training

torch.set_num_threads(1)
EPOCHS = 6
SETTINGS = [  # large rates overshoot, so that the best epoch is often not the last
    {"optimizer": "sgd", "learning_rate": 3.0, "momentum": 0.9},
    {"optimizer": "adam", "learning_rate": 0.5},
    {"optimizer": "rmsprop", "learning_rate": 0.2},
    {"optimizer": "sgd", "learning_rate": 1.0, "momentum": 0.5},
    {"optimizer": "adamw", "learning_rate": 0.01},
]
CASES = [case for case in zoo.CASES if case.name in {"mlp", "mlp-silu-batch", "mlp-regression", "cnn-batch"}]


def rows_of(case: zoo.Case) -> list[Row]:
    return [zoo.row(case, number, epochs=EPOCHS, l1=0.0, **settings) for number, settings in enumerate(SETTINGS)]


def heard(training: Training) -> tuple[dict[int, dict[int, dict[str, float]]], dict[int, Finished]]:
    """Run to the end: metrics by trial and epoch, and how each trial finished."""
    reports: dict[int, dict[int, dict[str, float]]] = {}
    ends: dict[int, Finished] = {}
    for event in training.run():
        if isinstance(event, Epoch):
            for number, metrics in event.metrics.items():
                reports.setdefault(number, {})[event.epoch] = metrics
        elif isinstance(event, Finished):
            ends[event.number] = event
    return reports, ends


@pytest.mark.parametrize("company", [True, False], ids=["company", "alone"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_weights_handed_out_are_those_of_the_best_epoch(case: zoo.Case, company: bool) -> None:
    rows = rows_of(case)
    groups = [rows] if company else [[row] for row in rows]
    arrays = zoo.arrays(case.signature)
    best_epochs = []
    for group in groups:
        task = zoo.task(case, group, company=company)
        reports, ends = heard(Training(task, arrays))
        for row in group:
            if row.number not in ends:
                continue  # diverged
            end, told = ends[row.number], reports[row.number]
            sign = 1.0 if task.maximize else -1.0
            assert end.best_epoch == max(told, key=lambda epoch: (sign * told[epoch][task.metric], -epoch))
            scored = Training(zoo.task(case, [row], company=company), arrays).score(
                end.weights, arrays.inputs, arrays.targets
            )
            kept = {f"val/{name}": value for name, value in scored.items()}
            expected = {name: value for name, value in told[end.best_epoch].items() if name.startswith("val/")}
            assert kept == expected
            best_epochs.append(end.best_epoch)
    assert len(best_epochs) >= 3, "most of these settings do not diverge"
    assert min(best_epochs) < EPOCHS, "no trial got worse after its best epoch"


@pytest.mark.parametrize(
    ("family", "network", "device", "expected"),
    [
        ("mlp", {"width": 8, "depth": 1}, "cpu", True),
        ("mlp", {"width": 4096, "depth": 8}, "cpu", True),
        ("mlp", {"depth": 0}, "cpu", True),
        ("cnn", {"width": 1}, "cpu", True),
        ("cnn", {"width": 8}, "cpu", True),
        ("cnn", {"width": 9}, "cpu", False),
        ("cnn", {"width": 64}, "cpu", False),
        ("cnn", {"width": 9}, "cuda", True),
        ("cnn", {"width": 512}, "cuda", True),
        ("my_network.py:Net", {}, "cpu", True),
        ("my_network.py:Net", {}, "cuda", True),
    ],
)
def test_who_trains_in_company(family: str, network: dict[str, int], device: str, expected: bool) -> None:
    assert cost.company(family, network, device) is expected


@pytest.mark.parametrize(
    ("parameters", "device", "expected"),
    [
        (1, "cpu", 32),  # never more than LARGEST
        (31_250, "cpu", 32),  # 16 MB / (16 bytes × 31 250) = 32
        (31_251, "cpu", 31),
        (62_500, "cpu", 16),
        (333_334, "cpu", 2),
        (500_000, "cpu", 2),
        (100_000_000, "cpu", 2),  # never fewer than two
        (1, "cuda", 1024),
        (122_070, "cuda", 1024),  # 2 GB / (16 bytes × 122 070) = 1024.01
        (122_071, "cuda", 1023),
        (1_000_000, "cuda", 125),
        (62_500_000, "cuda", 2),
        (1_000_000_000, "cuda", 2),
    ],
)
def test_how_many_train_together(parameters: int, device: str, expected: int) -> None:
    assert cost.largest(parameters, device) == expected
