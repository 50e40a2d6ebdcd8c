"""The model that a person's own training keeps: exported in the trial's process, and the champion if the trial wins.

Knows `tuner.champion` and what an example tells of a model's inputs; never studies. Imports torch, which the person's
code has imported before.
"""

from __future__ import annotations

import copy
import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tuner import champion
from tuner.data.preprocess import Preprocess
from tuner.inference import champion_writer
from tuner.models.interface import CLASSIFICATION, IMAGE, NUMBERS, REGRESSION, SEQUENCE, Signature

STATE = "model.pt"  # the module's state_dict, in the trial's folder
_MODALITIES = {2: NUMBERS, 3: SEQUENCE, 4: IMAGE}  # by an example's dimensions, the batch among them
_FEW = 8  # rows of an example that are kept


@dataclass(frozen=True)
class _Rows:
    inputs: np.ndarray


@dataclass(frozen=True)
class _Described:
    """What the champion's card says of data that Tuner has never seen: nothing but their shape."""

    signature: Signature
    preprocess: Preprocess
    classes: tuple[str, ...] | None
    train: _Rows
    name: str = "a person's own"
    digest: str = ""
    split_digest: str = ""


class _Flat(nn.Module):
    """A module whose answer to a batch is [N, numbers]."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.module(x)
        return answer.unsqueeze(1) if answer.ndim == 1 else answer.flatten(1)


def save(
    folder: Path,
    kept: Path,
    module: nn.Module,
    example: Tensor,
    classes: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
) -> None:
    """Write `module` into `kept` as a champion, or why it cannot be one; its state_dict into `folder` in any case.

    `example` is a batch of inputs, [N, …]. Raises TypeError and ValueError for what makes no sense.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"expected a torch.nn.Module, got {type(module).__name__}")
    if not isinstance(example, Tensor) or example.ndim < 2 or not len(example):
        raise TypeError("expected an example as a tensor [N, …] of the module's inputs")
    network = copy.deepcopy(module).cpu().eval()
    draft = folder / f"{STATE}.partial"
    torch.save(network.state_dict(), draft)
    draft.replace(folder / STATE)
    kept.mkdir(parents=True, exist_ok=True)
    try:
        described = _describe(network, example[:_FEW].detach().cpu(), classes, columns)
        champion_writer.export(kept, _Flat(network), described, {})
    except champion_writer.ExportError as error:
        champion.refuse(kept, str(error))


def _describe(
    network: nn.Module, example: Tensor, classes: Sequence[str] | None, columns: Sequence[str] | None
) -> _Described:
    """Raises ExportError for inputs that no champion takes, ValueError for names that are too few or too many."""
    modality = _MODALITIES.get(example.ndim)
    if modality is None or not example.is_floating_point():
        got = f"{example.dtype} {list(example.shape)}"
        raise champion_writer.ExportError(f"a champion takes floats [N, F], [N, T, F] or [N, C, H, W], not {got}")
    try:
        with torch.inference_mode():
            outputs = int(_Flat(network)(example).shape[1])
    except Exception as error:  # a person's own forward raises what it likes
        raise champion_writer.ExportError(f"{type(network).__name__} does not take the example: {error}") from error
    for what, names, count in (("classes", classes, outputs), ("columns", columns, example.shape[-1])):
        if names is not None and len(names) != count:
            raise ValueError(f"expected {count} {what}, got {len(names)}")
    inputs = tuple(example.shape[1:])
    channels = inputs[0] if modality == IMAGE else inputs[-1]
    named = None if classes is None else tuple(map(str, classes))
    preprocess = Preprocess(
        modality,
        (*inputs[1:], inputs[0]) if modality == IMAGE else inputs,
        columns=tuple(map(str, columns or ())) if modality == NUMBERS else (),
        mean=(0.0,) * channels,
        scale=(1.0,) * channels,
        classes=named,
        targets=tuple(map(str, range(outputs))) if outputs > 1 and named is None else (),
    )
    signature = Signature(REGRESSION if named is None else CLASSIFICATION, modality, inputs, outputs)
    return _Described(signature, preprocess, named, _Rows(example.float().numpy()))


def packed(kept: Path) -> dict[str, Any]:
    """What `save` wrote into `kept`, for the store of weights."""
    place = kept / champion.FOLDER
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(place.iterdir()):
            archive.add(path, arcname=path.name)
    return {"model": torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)}


def unpacked(state: dict[str, Any], place: Path) -> None:
    """Lay out in the folder `place` what `packed` gave. Raises KeyError or tarfile.TarError where it is no such."""
    content = state["model"].numpy().tobytes()
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(place, filter="data")
