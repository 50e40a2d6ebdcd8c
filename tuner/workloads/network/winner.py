"""The winner: the best trial's kept weights, tested once, exported and shown at work.

Knows the spec, data, training and history. Must never know the ledger, the sampler, workers or trackers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tuner import champion, models
from tuner.checkpoints import format as checkpoint
from tuner.checkpoints.store import weights_path
from tuner.data import batches
from tuner.data.dataset import Dataset
from tuner.errors import CheckpointCorrupt, StudyChanged, told
from tuner.events import Trial
from tuner.history.fold import History, TrialHistory
from tuner.inference import champion_writer, render
from tuner.inference.explain import validated
from tuner.inference.generate import continued
from tuner.models.interface import LANGUAGE
from tuner.spec import StudySpec
from tuner.training.evaluation import TrainedNetwork
from tuner.training.loop import Training
from tuner.training.task import Arrays, Task
from tuner.workloads.base import Finished
from tuner.workloads.devices import device_of
from tuner.workloads.network import tasks
from tuner.workloads.network.runner import arrays

_SHOWN = 8  # rows of validation
_PROMPT, _SAMPLE = 16, 500  # characters of a sample of text: those of a validation row, and those that follow
_CLOSE = 1e-4  # two scores of one network on another machine
_TEMPERATURE = 0.8  # a little surer than what it learnt, as a reader of a short sample would have it


def restore(
    spec: StudySpec, dataset: Dataset, best: TrialHistory, history: History, folder: Path, say: Callable[[str], None]
) -> None:
    """Write the champion of a complete study again where it cannot be opened."""
    if champion.is_lost(folder):
        say(f"the champion is lost, damaged or an older Tuner's: exporting trial {best.number} again")
        finish(spec, dataset, best, history, folder, say)


def finish(
    spec: StudySpec, dataset: Dataset, best: TrialHistory, history: History, folder: Path, say: Callable[[str], None]
) -> dict[str, float]:
    """The best trial's metrics on the test split, unless they are known, and its network exported.

    Raises StudyChanged where the network's files are no more what the study was made with."""
    if models.changed(history.network, spec.model["family"], spec.folder):
        raise StudyChanged(
            f"the file of the network {spec.model['family']} changed while study {spec.study} ran; restore it and "
            "launch again"
        )
    torch.set_num_threads(spec.run.threads)  # as the workers have it: another number rounds otherwise
    device = torch.device(device_of(spec) if torch.cuda.is_available() else "cpu")  # a cluster's GPUs are not here
    company = history.cohorts[best.cohort].company if best.cohort is not None else False
    trial = Trial(best.number, best.params, best.seed)
    task = tasks.task(spec, dataset.signature, [trial], company=company)
    data = arrays(dataset, device)
    if best.code != history.code and (reason := _unlike(task, data, folder, best, spec)):
        kept_at = weights_path(folder, best.number)
        before = f"trial {best.number} was trained with the network as it was before --accept-code, and {reason}"
        champion.refuse(folder, f"{before}; its weights are in {kept_at}")
        say(f"the winner is neither tested nor exported: {before}; its weights are in {kept_at}")
        return {}
    trained = TrainedNetwork(task, data)
    try:
        weights = checkpoint.load_weights(weights_path(folder, best.number))
        network = trained.module(weights)
    except (CheckpointCorrupt, FileNotFoundError) as error:
        say(f"the winner's weights are lost ({error}), training trial {best.number} again")
        weights = next(event for event in Training(task, data).run() if isinstance(event, Finished)).kept["weights"]
        network = trained.module(weights)
    metrics = dict(best.tested or {})
    if dataset.rows["test"] and best.tested is None:
        test = dataset.open_test()
        inputs, targets = batches.place(test.inputs, device), batches.laid(test.targets, device)
        try:
            scores = trained.score(weights, inputs, targets)
            metrics = {f"test/{name}": value for name, value in scores.items() if math.isfinite(value)}
        except Exception as error:  # noqa: BLE001 - a person's network may raise anything; its trials are done all the same
            say(f"the winner's network fails on the test split: {told(error)}")
    epoch = best.best_epoch(spec.metric, spec.maximize)
    kept = {} if epoch is None else best.reports[epoch]
    facts: dict[str, Any] = {"number": best.number, "params": dict(best.params), "seed": best.seed}
    try:
        champion_writer.export(folder, network, dataset, {**facts, "metrics": {**kept, **metrics}})
    except champion_writer.ExportError as error:
        kept_at = weights_path(folder, best.number)
        champion.refuse(folder, f"{error}; its weights are in {kept_at}")
        say(f"the winner's network cannot be exported, only its weights are kept ({kept_at}): {error}")
    _show(spec, dataset, network, champion.looks(folder, best.number), say)
    return metrics


def _unlike(task: Task, data: Arrays, folder: Path, best: TrialHistory, spec: StudySpec) -> str:
    """Why the network as it is now is not the one that a trial trained with an earlier file; empty where it is.

    It is where it takes the trial's weights, and has the trial's numbers with them.
    """
    epoch = best.best_epoch(spec.metric, spec.maximize)
    kept = {} if epoch is None else best.reports[epoch]
    try:
        weights = checkpoint.load(weights_path(folder, best.number))["weights"]
        trained = TrainedNetwork(task, data)
        if weights.keys() != trained.names:
            return "the one of now has other parameters"
        scores = trained.score(weights, data.inputs, data.targets)
    except Exception as error:  # noqa: BLE001 - another network may raise anything on what is not its own
        return f"the one of now cannot take its weights ({told(error)})"
    known = {name: kept[f"val/{name}"] for name in scores if f"val/{name}" in kept}
    if not all(math.isclose(scores[name], value, rel_tol=_CLOSE, abs_tol=_CLOSE) for name, value in known.items()):
        return "the one of now answers otherwise with its weights"
    return ""


def _show(spec: StudySpec, dataset: Dataset, network: torch.nn.Module, place: Path, say: Callable[[str], None]) -> None:
    """Write what mattered to the winner in a few rows of validation, and a sample of its text, for its run in MLflow.

    What goes wrong here is told, and stops no study.
    """
    try:
        look = validated(network, dataset, _SHOWN)
        ending = render.PICTURE if look.modality in render.PICTURES else render.PAGE
        render.write(look, f"{spec.study}: rows of validation", place / f"attended{ending}")
        if dataset.signature.task == LANGUAGE:
            row = dataset.preprocess.raw(dataset.validation.inputs[:1])
            prompt = str(row.iloc[0, 0])[:_PROMPT]  # type: ignore[union-attr]
            sample = continued(network, dataset.preprocess, prompt, _SAMPLE, _TEMPERATURE, spec.seed)
            (place / "sample.txt").write_text(f"{prompt}{sample}\n", encoding="utf-8")
    except Exception as error:  # noqa: BLE001 - a person's network, a full disk: the winner is crowned all the same
        say(f"what mattered to the winner is not shown: {told(error)}")
