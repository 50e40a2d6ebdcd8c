"""Which parts of an example mattered for the best trial's answer to it: plain values, in the data's own terms.

Knows studies that are complete, their kept weights and their data. Must never know how it is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tuner import models
from tuner.champion import Predictor, endings
from tuner.checkpoints import format as checkpoint
from tuner.checkpoints.store import weights_path
from tuner.data.dataset import Dataset
from tuner.data.preprocess import Preprocess
from tuner.errors import (
    CheckpointCorrupt,
    DataError,
    InputError,
    StudyChanged,
    StudyMissing,
    TunerError,
    first_line,
    told,
)
from tuner.history.fold import History
from tuner.history.results import leader
from tuner.ledger import Ledger
from tuner.models.attended import attended
from tuner.models.interface import (
    CLASSIFICATION,
    IMAGE,
    LANGUAGE,
    NUMBERS,
    PADDING,
    REGRESSION,
    SEQUENCE,
    TEXT,
    UNKNOWN,
    Signature,
)
from tuner.spec import StudySpec
from tuner.training.target_scaling import Standard
from tuner.workloads.network.plan import load

_BATCH = 32  # examples at once: a transformer keeps the square of its steps for each

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Example:
    """One example and what mattered in it.

    `read` is what the network was given, in the data's own form: pixels [H, W] or [H, W, channels], steps
    [T, features] without padding, a text, or a table's columns and values. `weights` float64 [H, W], [T],
    [characters] or [columns], not negative, with the sum 1 (or all 0, where nothing mattered).
    """

    row: int
    read: Any
    weights: np.ndarray
    prediction: str
    probability: float | None
    target: str | None

    @property
    def verdict(self) -> str:
        """`3 (0.98), is 5`: the prediction, and the truth where it is known."""
        sure = "" if self.probability is None else f" ({self.probability:.2f})"
        return f"{self.prediction}{sure}{'' if self.target is None else f', is {self.target}'}"


@dataclass(frozen=True)
class Look:
    """Some examples, what kind of input they are, and the method that weighed their parts."""

    modality: str
    method: str
    examples: tuple[Example, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        return {"method": self.method, "examples": [self._document(example) for example in self.examples]}

    def rows(self) -> list[dict[str, Any]]:
        """A row for each part of each example, for a table; a table's columns by weight, anything else in its order."""
        return [
            {"row": example.row, **part, "weight": float(weight)}
            for example in self.examples
            for part, weight in self._parts(example)
        ]

    def _document(self, example: Example) -> dict[str, Any]:
        said = {"row": example.row, "prediction": example.prediction, "probability": example.probability}
        said |= {} if example.target is None else {"target": example.target}
        if self.modality == NUMBERS:
            return said | {"columns": [{**part, "weight": weight} for part, weight in self._parts(example)]}
        return said | ({"text": example.read} if self.modality == TEXT else {}) | {"weights": example.weights.tolist()}

    def _parts(self, example: Example) -> list[tuple[dict[str, Any], float]]:
        weights = example.weights.tolist()
        if self.modality == IMAGE:
            return [({"y": y, "x": x}, one) for y, line in enumerate(weights) for x, one in enumerate(line)]
        if self.modality == SEQUENCE:
            return [({"step": step}, one) for step, one in enumerate(weights)]
        if self.modality == TEXT:
            characters = enumerate(zip(example.read, weights, strict=True))
            return [({"position": at, "character": character}, one) for at, (character, one) in characters]
        cells = zip(example.read.items(), weights, strict=True)
        columns = [({"column": name, "value": value}, one) for (name, value), one in cells]
        return sorted(columns, key=lambda column: -column[1])


@dataclass(frozen=True)
class Best:
    """A complete study's best trial: its plain network with the weights of its best epoch, in evaluation.

    `spec` is None where the network is a person's own and its code is not to be run: then `network` is the champion's
    program, which needs none, and answers in the targets' own unit.
    """

    number: int
    spec: StudySpec | None
    history: History
    network: nn.Module
    own_code: bool

    @classmethod
    def of(cls, folder: Path, *, own_code: bool = False) -> Best:
        """The best trial of the study in `folder`, which runs Python files that the study names with `own_code` alone.

        Raises StudyMissing for a study without one yet, StudyChanged where a person's own network's file changed.
        """
        with Ledger.open(folder, read_only=True) as ledger:
            history = ledger.history()
        best = leader(history)
        if history.completed != "complete" or best is None:
            state = "failed" if history.completed == "failed" else "is not complete yet"
            remedy = "`tuner results` tells why" if history.completed == "failed" else "launch it again and let it end"
            raise StudyMissing(f"study {folder.name} {state}, so there is no best trial to look at; {remedy}")
        if "model" not in history.spec:
            raise InputError(f"study {folder.name}: its trials are a person's own training, not a network of Tuner's")
        if history.spec["model"]["family"] not in models.FAMILIES and not own_code:
            predictor = Predictor.load(folder)
            if predictor.card["trial"]["number"] != best.number:
                raise StudyMissing(f"the champion of {folder.name} is not trial {best.number}; launch it again")
            return cls(best.number, None, history, predictor.network, own_code)
        spec = StudySpec.from_json(history.spec, Path(history.folder), history.text)
        family = spec.model["family"]
        if history.network is not None and models.changed(history.network, family, spec.folder):
            raise StudyChanged(f"the file of the network {family} changed since study {folder.name} ran; restore it")
        signature = Signature.from_dict(history.data["signature"])
        network = models.build(family, signature, spec.network(best.params), spec.folder)
        try:
            checkpoint.fill(network, checkpoint.load_weights(weights_path(folder, best.number)))
        except (FileNotFoundError, CheckpointCorrupt) as error:
            lost = f"the weights of trial {best.number} of {folder.name} are lost ({first_line(error)})"
            raise StudyMissing(f"{lost}; launch it again with another --name") from error
        return cls(best.number, spec, history, network.eval(), own_code)

    def file(self, folder: Path, path: Path, most: int | None = None) -> Look:
        """The examples in a new file, as `tuner predict` reads it; the first `most`. Raises DataError."""
        predictor = Predictor.load(folder)
        raw = predictor.read(path)[:most]
        if not len(raw):
            raise DataError(f"{path}: expected at least one example, got none")
        preprocess, signature = predictor.preprocess, predictor.signature
        if signature.task != REGRESSION:  # whose plain network does not answer in the targets' own unit
            predictor.use(self.network)
        inputs = endings(preprocess, raw) if signature.task == LANGUAGE else preprocess.apply(raw)
        return look(self.network, preprocess, signature, inputs, outputs=predictor.outputs)

    def row(self, index: int) -> tuple[Look, str]:
        """A row of the test split, or where there is none of validation; and which it is, in words.

        Raises InputError for a row that there is not, and StudyChanged for data that are not the study's any more.
        """
        if self.spec is None or (".py:" in self.spec.data.source and not self.own_code):
            raise InputError(
                f"the rows of {self.history.spec['study']} come with code of the study's own, a network or a data "
                "function; add --own-code to run it, or name a file of examples"
            )
        dataset = load(self.spec)
        if (dataset.digest, dataset.split_digest) != (self.history.data["digest"], self.history.data["split"]):
            raise StudyChanged(f"the data of study {self.spec.study} changed since it ran; restore them")
        name = "test" if dataset.rows["test"] else "validation"
        if not 0 <= index < dataset.rows[name]:
            raise InputError(f"expected a row of the {name} split, 0 … {dataset.rows[name] - 1}, got {index}")
        split = dataset.open_test() if name == "test" else dataset.validation
        targets = torch.as_tensor(dataset.train.targets)
        network = Standard.of(targets, dataset.signature.task, torch.float32).wrap(self.network).eval()
        where = f"row {index} of the {name} split (row {split.rows[index]} of the data)"
        here = slice(index, index + 1)
        shown = split.inputs[here], split.targets[here]
        return look(network, dataset.preprocess, dataset.signature, shown[0], targets=shown[1], first=index), where


def validated(network: nn.Module, dataset: Dataset, count: int) -> Look:
    """`count` rows of validation, evenly spread; `network` answers in the targets' own unit."""
    split = dataset.validation
    rows = np.unique(np.linspace(0, len(split) - 1, count).astype(np.int64))
    parts = look(network, dataset.preprocess, dataset.signature, split.inputs[rows], targets=split.targets[rows])
    named = [Example(**{**vars(example), "row": int(row)}) for row, example in zip(rows, parts.examples, strict=True)]
    return Look(parts.modality, parts.method, tuple(named))


def look(
    network: nn.Module,
    preprocess: Preprocess,
    signature: Signature,
    inputs: np.ndarray,
    *,
    targets: np.ndarray | None = None,
    outputs: Callable[[np.ndarray], np.ndarray] | None = None,
    first: int = 0,
) -> Look:
    """What mattered in preprocessed `inputs`, rows `first` and on; `outputs` answers them, `network` unless given.

    Raises TunerError with what a person's own network says where its answers cannot be traced to its inputs.
    """

    def answers(some: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            found: np.ndarray = network(torch.from_numpy(some)).double().numpy()
            return found

    examples: list[Example] = []
    method = ""
    try:
        for batch in _batches(signature, inputs):
            found, method = attended(network, torch.from_numpy(np.ascontiguousarray(batch)))
            answered = (outputs or answers)(_whole(batch, signature))
            for at, given in enumerate(batch):
                row = len(examples)
                target = None if targets is None else _target(signature, preprocess, targets[row])
                read, weights = _own_terms(preprocess, given, found[at].double().numpy())
                last = len(read) - 1 if signature.task == LANGUAGE else 0
                said = _prediction(signature, preprocess, answered[at, last] if answered.ndim == 3 else answered[at])
                examples.append(Example(first + row, read, weights, *said, target))
    except (RuntimeError, TypeError, ValueError) as error:
        raise TunerError(f"what mattered to the network cannot be told: {told(error)}") from error
    return Look(signature.modality, method, tuple(examples))


def _batches(signature: Signature, inputs: np.ndarray) -> Sequence[np.ndarray]:
    """A few examples at once; a text to be continued alone and without padding, where its last position is its end."""
    if signature.task != LANGUAGE:
        return [inputs[start : start + _BATCH] for start in range(0, len(inputs), _BATCH)]
    return [row[None, : int((row != PADDING).sum())] for row in inputs]


def _whole(batch: np.ndarray, signature: Signature) -> np.ndarray:
    """Texts to be continued with their padding again, which an exported network asks for."""
    if signature.task != LANGUAGE:
        return np.ascontiguousarray(batch)
    return np.pad(batch, ((0, 0), (0, signature.inputs[0] - batch.shape[1])), constant_values=PADDING)


def _own_terms(preprocess: Preprocess, given: np.ndarray, weights: np.ndarray) -> tuple[Any, np.ndarray]:
    """One preprocessed example and the weights of its inputs, both in the data's own terms."""
    raw = preprocess.raw(given[None])
    if preprocess.modality == TEXT:
        text = str(raw.iloc[0, 0])  # type: ignore[union-attr]
        return text, weights[: len(text)]
    if preprocess.modality == NUMBERS:
        names = preprocess.sources
        columns = dict.fromkeys(names, 0.0)
        for name, weight in zip(names, weights.tolist(), strict=True):
            columns[name] += weight
        if isinstance(raw, np.ndarray):
            return dict(zip(names, map(float, raw[0].ravel()), strict=True)), np.array(list(columns.values()))
        values = {name: None if value != value else value for name, value in raw.iloc[0].to_dict().items()}  # noqa: PLR0124 - NaN
        return {name: values[name] for name in columns}, np.array(list(columns.values()))
    assert isinstance(raw, np.ndarray)
    if preprocess.masked:
        real = int((given[:, -1] > 0).sum())
        return raw[0, :real], weights[:real]
    return raw[0], weights


def _prediction(signature: Signature, preprocess: Preprocess, answer: np.ndarray) -> tuple[str, float | None]:
    if signature.task == CLASSIFICATION:
        names: Sequence[str] = preprocess.classes or ()
    elif signature.task == LANGUAGE:
        names, answer = [shown(character) for character in preprocess.characters], answer[UNKNOWN + 1 :]
    else:
        return _numbers(preprocess, answer), None
    likely = np.exp(answer - answer.max())
    best = int(answer.argmax())
    return names[best], float(likely[best] / likely.sum())


def _target(signature: Signature, preprocess: Preprocess, target: Any) -> str:
    if signature.task == CLASSIFICATION:
        return (preprocess.classes or ())[int(target)]
    if signature.task == LANGUAGE:
        token = int(target[(target != PADDING).sum() - 1])
        return shown("\ufffd" if token == UNKNOWN else preprocess.characters[token - UNKNOWN - 1])
    return _numbers(preprocess, target)


def _numbers(preprocess: Preprocess, values: np.ndarray) -> str:
    names = preprocess.targets
    told = [f"{value:.6g}" for value in values.tolist()]
    return told[0] if len(told) == 1 else ", ".join(f"{name} {value}" for name, value in zip(names, told, strict=True))


def shown(character: str) -> str:
    """A character that a person can see: ↵ for the end of a line, ␣ for a space."""
    return _VISIBLE.get(character, character)


_VISIBLE: Mapping[str, str] = {"\n": "↵", " ": "␣", "\t": "→"}
