"""The winner: the best trial's kept weights, tested once and exported, and the study closed.

Knows the spec, data, training, ledger and history. Must never know the sampler, workers or trackers.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from tuner import champion
from tuner.data.dataset import Dataset
from tuner.errors import CheckpointCorrupt
from tuner.executors.worker import arrays, weights_path
from tuner.grouping import Grouping, device_of
from tuner.history import History, TrialHistory
from tuner.ledger import Ledger
from tuner.progress import Now, Progress
from tuner.spec import StudySpec
from tuner.training import checkpoint
from tuner.training.loop import Finished, Training
from tuner.trial import Event, Kind, Trial


def crown(spec: StudySpec, dataset: Dataset, ledger: Ledger, history: History, progress: Progress) -> None:
    """Test and export the best trial, once, and close the study; "failed" where no trial completed."""
    best = history.best(spec.metric, spec.maximize)
    if best is None:
        message = f"none of {len(history.trials)} trials completed"
        events = [Event(Kind.COMPLETED, {"state": "failed", "message": message})]
        progress.message(message)
    else:
        events = [Event(Kind.COMPLETED, {"state": "complete", "message": f"best is trial {best.number}"})]
        if best.tested is None:
            metrics = _test(spec, dataset, ledger.folder, history, best, progress)
            events.insert(0, Event(Kind.TESTED, {"metrics": metrics}, trial=best.number))
    stored = ledger.append(events)
    for event in stored:
        history.apply(event)
    shutil.rmtree(ledger.folder / "checkpoints", ignore_errors=True)
    progress.update(history, stored, Now())


def _test(
    spec: StudySpec, dataset: Dataset, folder: Path, history: History, best: TrialHistory, progress: Progress
) -> dict[str, float]:
    """The best trial's metrics on the test split, and its network exported to the study's folder."""
    torch.set_num_threads(spec.run.threads)  # as the workers have it: another number rounds otherwise
    device = torch.device(device_of(spec))
    grouping = Grouping(spec, dataset, folder, device.type, 1, lambda _: set(), progress.message)
    company = history.cohorts[best.cohort].company if best.cohort is not None else False
    task = grouping.task(0, [Trial(best.number, best.params, best.seed)], company)
    data = arrays(dataset, device)
    try:
        weights = checkpoint.load(weights_path(folder, best.number))["weights"]
    except (CheckpointCorrupt, FileNotFoundError) as error:
        progress.message(f"the winner's weights are lost ({error}), training trial {best.number} again")
        weights = next(event for event in Training(task, data).run() if isinstance(event, Finished)).weights
    training = Training(task, data)
    metrics: dict[str, float] = {}
    if dataset.rows["test"]:
        test = dataset.open_test()
        inputs, targets = (torch.as_tensor(part).to(device) for part in (test.inputs, test.targets))
        try:
            metrics = {f"test/{name}": value for name, value in training.score(weights, inputs, targets).items()}
        except Exception as error:  # noqa: BLE001 - a person's network may raise anything; its trials are done all the same
            progress.message(f"the winner's network fails on the test split: {type(error).__name__}: {error}")
    epoch = best.best_epoch(spec.metric, spec.maximize)
    kept = {} if epoch is None else best.reports[epoch]
    facts: dict[str, Any] = {"number": best.number, "params": dict(best.params), "seed": best.seed}
    try:
        champion.export(folder, training.finished(weights), dataset, {**facts, "metrics": {**kept, **metrics}})
    except champion.ExportError as error:
        shutil.rmtree(folder / champion.FOLDER, ignore_errors=True)  # an older winner's is the champion no more
        progress.message(f"the winner's network cannot be exported, only its weights are kept: {error}")
    return metrics
