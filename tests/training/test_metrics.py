"""Metrics summed batch by batch, beside scikit-learn's on all rows at once. Legend: K rows, N examples, B batch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from sklearn import metrics as reference
from torch import Tensor

from tuner.training.config import FURTHER_METRICS, METRICS
from tuner.training.losses import cross_entropy
from tuner.training.metrics import ClassificationMetrics, LanguageMetrics, RegressionMetrics, account

K = 3
SIZES = (7, 1, 13, 4, 5)
N = sum(SIZES)


def parts() -> Iterator[slice]:
    """Several batches of odd sizes."""
    start = 0
    for size in SIZES:
        yield slice(start, start + size)
        start += size


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def classified(labels: Sequence[int], answers: Sequence[int], classes: int) -> tuple[Tensor, Tensor]:
    """Outputs whose argmax draws from `answers`, and targets that draw from `labels`."""
    generator = torch.Generator().manual_seed(classes)
    target_N = torch.tensor(labels)[torch.randint(len(labels), (N,), generator=generator)]
    answer_KN = torch.tensor(answers)[torch.randint(len(answers), (K, N), generator=generator)]
    right = torch.rand(K, N, generator=generator) < torch.tensor([0.2, 0.6, 0.9])[:, None]
    answer_KN = torch.where(right & torch.isin(target_N, torch.tensor(answers)), target_N, answer_KN)
    output_KNC = seeded(K, N, classes).clamp(-3.0, 3.0)
    return output_KNC.scatter(2, answer_KN[..., None], 9.0), target_N


@pytest.mark.parametrize(
    ("labels", "answers", "classes"),
    [
        pytest.param([0, 1, 2, 3], [0, 1, 2, 3], 4, id="all-seen"),
        pytest.param([0, 2], [0, 1, 2, 3], 4, id="missing-from-labels"),
        pytest.param([0, 1, 2, 3], [1, 3], 4, id="missing-from-predictions"),
        pytest.param([0, 4], [1, 4], 6, id="missing-from-both"),
        pytest.param([0, 1], [2, 3], 4, id="never-right"),
        pytest.param([2], [2], 3, id="one-class"),
        pytest.param([0, 1], [0, 1], 2, id="binary"),
    ],
)
def test_classification(labels: list[int], answers: list[int], classes: int) -> None:
    output_KNC, target_N = classified(labels, answers, classes)
    loss_KN = seeded(K, N, seed=1).abs()
    account = ClassificationMetrics(K, classes, target_N, FURTHER_METRICS["classification"])
    for part in parts():
        account.add(loss_KN[:, part], output_KNC[:, part], target_N[part])
    result = account.result()
    assert set(result) == {*METRICS["classification"], *FURTHER_METRICS["classification"]}
    assert tuple(ClassificationMetrics(K, classes, target_N).result()) == METRICS["classification"]
    predicted_KN = output_KNC.argmax(-1)
    for row in range(K):
        truth, predicted = target_N.numpy(), predicted_KN[row].numpy()
        assert float(result["loss"][row]) == pytest.approx(loss_KN[row].double().mean().item(), rel=1e-12)
        assert float(result["accuracy"][row]) == pytest.approx(reference.accuracy_score(truth, predicted), abs=1e-12)
        f1 = reference.f1_score(truth, predicted, average="macro", zero_division=0.0)
        assert float(result["f1"][row]) == pytest.approx(f1, abs=1e-12)
        for name, expected in further(truth, predicted).items():
            assert float(result[name][row]) == pytest.approx(expected, abs=1e-12), name


def further(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """FURTHER_METRICS by scikit-learn; what is undefined there is 0 here."""
    found = {}
    for average, end in (("macro", ""), ("weighted", "_weighted")):
        for name in ("precision", "recall", "f1"):
            score = getattr(reference, f"{name}_score")
            found[name + end] = float(score(truth, predicted, average=average, zero_division=0.0))
    del found["f1"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found["balanced_accuracy"] = float(reference.balanced_accuracy_score(truth, predicted))
        found["matthews"] = float(reference.matthews_corrcoef(truth, predicted))
        found["kappa"] = float(np.nan_to_num(reference.cohen_kappa_score(truth, predicted)))
    assert found.keys() == set(FURTHER_METRICS["classification"])
    return found


@pytest.mark.parametrize("targets", [1, 3])
def test_regression(targets: int) -> None:
    scale = torch.tensor([1.0, 50.0, 0.02])[:targets]
    target_NT = seeded(N, targets, seed=2) * scale + 7.0
    output_KNT = target_NT + seeded(K, N, targets, seed=3) * scale * torch.tensor([0.1, 1.0, 4.0])[:, None, None]
    loss_KN = seeded(K, N, seed=4).square()
    account = RegressionMetrics(K, targets, target_NT)
    for part in parts():
        account.add(loss_KN[:, part], output_KNT[:, part], target_NT[part])
    result = account.result()
    assert tuple(result) == METRICS["regression"]
    truth = target_NT.double().numpy()
    for row in range(K):
        predicted = output_KNT[row].double().numpy()
        assert float(result["loss"][row]) == pytest.approx(loss_KN[row].double().mean().item(), rel=1e-12)
        rmse = reference.root_mean_squared_error(truth, predicted)
        assert float(result["rmse"][row]) == pytest.approx(rmse, rel=1e-9)
        each = [reference.root_mean_squared_error(truth[:, t], predicted[:, t]) for t in range(targets)]
        assert rmse == pytest.approx(np.mean(each))
        assert float(result["mae"][row]) == pytest.approx(reference.mean_absolute_error(truth, predicted), rel=1e-9)
        assert float(result["r2"][row]) == pytest.approx(reference.r2_score(truth, predicted), rel=1e-9, abs=1e-9)
    assert result["r2"].min() < 0 < result["r2"].max(), "rows worse and better than the mean"


def test_language() -> None:
    """Against the sum of log-probabilities over every position that is no padding."""
    target_NT = torch.randint(1, 6, (N, 9), generator=torch.Generator().manual_seed(5))
    target_NT[torch.arange(9) >= torch.arange(N)[:, None] % 9 + 1] = 0
    output_KNTC = seeded(K, N, 9, 6, seed=6) + 2.0 * torch.nn.functional.one_hot(target_NT, 6)
    found = LanguageMetrics(K, 6, target_NT)
    for part in parts():
        loss_KN = cross_entropy(output_KNTC[:, part], target_NT[part])
        found.add(loss_KN, output_KNTC[:, part], target_NT[part])
    result = found.result()
    assert tuple(result) == METRICS["language"]
    real = target_NT > 0
    for row in range(K):
        logs = torch.log_softmax(output_KNTC[row].double(), -1)[real]
        nats = -logs.gather(1, target_NT[real][:, None]).mean().item()
        assert float(result["perplexity"][row]) == pytest.approx(np.exp(nats), rel=1e-5)
        assert float(result["bits_per_character"][row]) == pytest.approx(nats / np.log(2), rel=1e-6)
        hits = (logs.argmax(1) == target_NT[real]).double().mean().item()
        assert float(result["accuracy"][row]) == pytest.approx(hits, abs=1e-12)


@pytest.mark.parametrize(
    ("task", "kind"),
    [("classification", ClassificationMetrics), ("regression", RegressionMetrics), ("language", LanguageMetrics)],
)
def test_a_task_has_its_account(task: str, kind: type) -> None:
    assert isinstance(account(task, K, 2, torch.ones(N, 2)), kind)
