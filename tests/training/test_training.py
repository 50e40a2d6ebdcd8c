"""What the loop hands out at a trial's end, and the static rules of who trains in company."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests import zoo
from tuner.checkpoints import format as checkpoint
from tuner.training import cohort_size
from tuner.training.evaluation import TrainedNetwork
from tuner.training.loop import Training
from tuner.training.task import Row
from tuner.workloads.base import Epoch, Finished, Step

torch.set_num_threads(1)
GOLDEN = Path(__file__).parents[1] / "golden"
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
            scored = TrainedNetwork(zoo.task(case, [row], company=company), arrays).score(
                end.kept["weights"], arrays.inputs, arrays.targets
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
        ("rnn", {"width": 512}, "cpu", True),
        ("transformer", {"width": 512}, "cpu", True),
        ("cnn", {"width": 512}, "cuda", True),
        ("my_network.py:Net", {}, "cpu", True),
        ("my_network.py:Net", {}, "cuda", True),
    ],
)
def test_who_trains_in_company(family: str, network: dict[str, int], device: str, expected: bool) -> None:
    assert cohort_size.company(family, network, device) is expected


def test_a_convolution_over_time_is_a_product_and_gains_in_company_at_any_width() -> None:
    assert cohort_size.company("cnn", {"width": 512}, "cpu", "sequence")
    assert cohort_size.company("cnn", {"width": 512}, "cpu", "text")


@pytest.mark.parametrize(
    ("parameters", "device", "expected"),
    [
        (1, "cpu", 32),  # never more
        (11_718, "cpu", 32),  # 6 MB / (16 bytes × 11 718) = 32.002
        (11_719, "cpu", 31),
        (23_437, "cpu", 16),
        (125_000, "cpu", 3),
        (187_500, "cpu", 2),
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
    assert cohort_size.largest("mlp", parameters, device, (64,)) == expected


def test_networks_with_numbers_at_every_step_train_fewer_together_on_a_cpu() -> None:
    assert [cohort_size.largest(family, 1_000, "cpu", (16, 8)) for family in ("cnn", "transformer", "net.py:Net")] == [
        8
    ] * 3
    assert cohort_size.largest("rnn", 1_000, "cpu", (28, 28)) == 16
    assert cohort_size.largest("rnn", 1_000, "cuda", (28, 28)) == 1024
    assert [cohort_size.largest("transformer", 1_000, "cpu", (steps, 8)) for steps in (16, 32, 64, 512)] == [8, 4, 2, 2]
    assert cohort_size.largest("transformer", 1_000, "cuda", (512, 8)) == 1024


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rows_of_different_length_train_side_by_side(case: zoo.Case) -> None:
    """Each with the numbers and the weights that it has alone beside its ghost, schedules over its own epochs."""
    rows = [zoo.row(case, n, epochs=1 + n, schedule="cosine", learning_rate=0.01) for n in range(5)]
    reports, ends = heard(Training(zoo.task(case, rows), zoo.arrays(case.signature)))
    for row in rows:
        alone, end = heard(Training(zoo.task(case, [row]), zoo.arrays(case.signature)))
        assert alone[row.number] == reports[row.number]
        assert len(reports[row.number]) == ends[row.number].epochs == row.config.epochs
        assert all(
            map(torch.equal, end[row.number].kept["weights"].values(), ends[row.number].kept["weights"].values())
        )


def test_what_has_no_epoch_left_is_not_asked_about() -> None:
    case = next(case for case in zoo.CASES if case.name == "mlp")
    rows = [zoo.row(case, n, epochs=2 + n, learning_rate=0.01) for n in range(3)]
    events = Training(zoo.task(case, rows, rungs=frozenset({2, 3})), zoo.arrays(case.signature)).run()
    asked = {event.epoch: event.undecided for event in events if isinstance(event, Epoch)}
    assert asked == {1: set(), 2: {1, 2}, 3: {2}, 4: set()}


def golden_task() -> zoo.Task:
    """Written out, so that the table of tests may change: three rows of three rules, with batch norm and dropout."""
    settings = {
        0: {"optimizer": "sgd", "learning_rate": 0.05},
        3: {"optimizer": "adam", "learning_rate": 1e-2, "weight_decay": 1e-3, "gradient_clip": 0.5},
        5: {"optimizer": "adamw", "learning_rate": 1e-2, "weight_decay": 0.1, "schedule": "step", "decay_every": 1.0},
    }
    network = {"width": 21, "depth": 2, "activation": "silu", "norm": "batch"}
    rows = [
        Row(n, 100 + n, {**network, "dropout": 0.1 * (n % 5)}, zoo.TrainConfig(epochs=3, batch_size=32, **given))
        for n, given in settings.items()
    ]
    return zoo.task(zoo.Case("golden", "mlp", zoo.NUMBERS), rows)


def test_a_checkpoint_of_the_first_format_is_gone_on_from() -> None:
    """Written by this module, run when the format began: three rows after an epoch and two steps."""
    arrays = zoo.arrays(zoo.NUMBERS)
    unbroken, _ = heard(Training(golden_task(), arrays))
    training = Training(golden_task(), arrays)
    training.restore(checkpoint.load(GOLDEN / "checkpoint-v1.pt"))
    assert (training.epoch, training.step) == (1, 2)
    resumed, _ = heard(training)
    for number in (0, 3, 5):
        for epoch in (2, 3):  # another processor may round otherwise than the one that wrote the file
            for name, value in resumed[number][epoch].items():
                step = 1 / len(arrays.targets)  # one example more or less that is told right
                near = 1e-3 if "loss" in name else step
                assert value == pytest.approx(unbroken[number][epoch][name], abs=near), name


def test_a_checkpoint_from_before_the_draws_of_dropout_changed_is_gone_on_from() -> None:
    """Of the same format, but its rows learnt with other masks: they go on, and no number is promised."""
    training = Training(golden_task(), zoo.arrays(zoo.NUMBERS))
    training.restore(checkpoint.load(GOLDEN / "checkpoint-v1-early.pt"))
    resumed, ends = heard(training)
    assert all(list(resumed[number]) == [2, 3] for number in (0, 3, 5))
    assert set(ends) == {0, 3, 5}


def test_a_checkpoint_of_a_newer_format_is_not_guessed_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", 2)
        checkpoint.save(tmp_path / "c.pt", {"epoch": 1})
    state, notes = checkpoint.latest(tmp_path / "c.pt")
    assert state is None
    assert notes == [f"{tmp_path / 'c.pt'} was written in format 2, this Tuner reads up to 1"]


if __name__ == "__main__":
    training = Training(golden_task(), zoo.arrays(zoo.NUMBERS))
    for event in training.run():
        if isinstance(event, Step) and (event.epoch, event.step) == (1, 2):
            checkpoint.save(GOLDEN / "checkpoint-v1.pt", training.state(), generations=1)
            break
