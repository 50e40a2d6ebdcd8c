"""The writing of a champion: a network exported with its card and an example, whole or not at all.

Knows torch.export and the champion's files; `tuner.champion` reads them. Must never know trackers, ledgers or search.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from tuner import __version__
from tuner.champion import CARD, EXAMPLE, EXAMPLE_ARRAY, FOLDER, FORMAT, NETWORK, REFUSED, Predictor, put
from tuner.checkpoints import format as checkpoint
from tuner.errors import TunerError, first_line
from tuner.inference import export as exported

if TYPE_CHECKING:
    from torch import nn

    from tuner.data.preprocess import Preprocess
    from tuner.models.interface import Signature

_EXAMPLES = 2


class Described(Protocol):
    """What `export` is told of data: a `Dataset`, or what stands for one where Tuner has seen none."""

    @property
    def signature(self) -> Signature: ...

    @property
    def preprocess(self) -> Preprocess: ...

    @property
    def classes(self) -> Sequence[str] | None: ...

    @property
    def train(self) -> Any:
        """Its `inputs` as the network gets them, of which a few are kept as an example."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    @property
    def split_digest(self) -> str: ...


class ExportError(TunerError, RuntimeError):
    """The winner's network cannot be written as a program of its own."""


def export(folder: Path, network: nn.Module, dataset: Described, trial: Mapping[str, Any]) -> Path:
    """Write the champion of the study in `folder`, replacing an older one whole or not at all; returns its folder.

    `network` is the plain module with the weights to keep, on the CPU; it is exported as it computes in evaluation.
    `trial` is JSON about the winner (number, params, metrics, …) and goes onto the card.
    Raises ExportError where torch.export refuses the network, or what it exported does not answer; OSError for want
    of room.
    """
    with _replaced(folder) as draft:
        _write(draft, network, dataset, {"study": folder.name, "trial": dict(trial)})
    return folder / FOLDER


def adopt(folder: Path, lay_out: Callable[[Path], None], trial: Mapping[str, Any]) -> str:
    """Make the champion of the study in `folder` of one that `export` wrote elsewhere; `trial` goes onto its card.

    `lay_out` puts its files into a folder. Returns why there is none where it was refused, else an empty text. Raises
    ChampionInvalid where it is damaged.
    """
    with _replaced(folder) as draft:
        lay_out(draft)
        why = (draft / REFUSED).read_text(encoding="utf-8") if (draft / REFUSED).is_file() else ""
        if not why:
            card = Predictor(draft).card
            put(draft / CARD, json.dumps({**card, "study": folder.name, "trial": dict(trial)}, indent=2).encode())
    return why


@contextlib.contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """A folder to be filled, which then takes the place of the champion's in `folder`: whole or not at all."""
    draft, final, old = folder / f"{FOLDER}.new", folder / FOLDER, folder / f"{FOLDER}.old"
    for leftover in (draft, old):
        shutil.rmtree(leftover, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    if final.exists():
        final.rename(old)
    draft.rename(final)
    checkpoint.sync_folder(folder)
    shutil.rmtree(old, ignore_errors=True)


def _write(draft: Path, network: nn.Module, dataset: Described, about: Mapping[str, Any]) -> None:
    program = _program(network, dataset.signature)
    try:
        content = exported.pack(program)
    except Exception as error:  # a person's network may be made of what no file of tensors holds
        raise ExportError(f"{type(network).__name__} cannot be written: {first_line(error)}") from error
    put(draft / NETWORK, content)
    card = {
        "format": FORMAT,
        **about,
        "signature": dataset.signature.to_dict(),
        "classes": None if dataset.classes is None else list(dataset.classes),
        "preprocess": dataset.preprocess.to_dict(),
        "data": {"name": dataset.name, "digest": dataset.digest, "split": dataset.split_digest},
        "sha256": hashlib.sha256(content).hexdigest(),
        "versions": {"tuner": __version__, "torch": torch.__version__},
    }
    put(draft / CARD, json.dumps(card, indent=2, allow_nan=False).encode())
    try:
        _write_example(draft, dataset)
    except (RuntimeError, ValueError, TunerError) as error:
        # say, a network of float64, or one that answers otherwise in evaluation
        raise ExportError(f"its exported program does not answer as it should: {first_line(error)}") from error


def _program(network: nn.Module, signature: Signature) -> Any:
    batch = torch.export.Dim("batch", min=1)
    inputs = signature.example(3)  # any size but 0 and 1, which torch.export takes for constants
    was_training = network.training
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own deprecations, which nobody here can mend
            # torch prints the graph that it gave up on, and logs what it found on the way
            logging.disable(logging.CRITICAL)
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                return torch.export.export(network.eval(), (inputs,), dynamic_shapes=({0: batch},))
    except Exception as error:  # whatever a person's own forward raises under torch.export
        raise ExportError(
            f"torch.export refuses {type(network).__name__} ({first_line(error)}); its forward must be free of Python "
            "branches on tensor values and take batches of any size"
        ) from error
    finally:
        logging.disable(logging.NOTSET)
        network.train(was_training)


def _write_example(champion: Path, dataset: Described) -> None:
    raw = dataset.preprocess.raw(dataset.train.inputs[:_EXAMPLES])
    predicted = Predictor(champion).predict(raw).to_dict("split", index=False)
    if isinstance(raw, np.ndarray):
        array = io.BytesIO()
        np.save(array, raw, allow_pickle=False)
        put(champion / EXAMPLE_ARRAY, array.getvalue())
        stored = {"inputs": None, "outputs": predicted}
    else:
        cells = raw.astype(object).where(raw.notna(), None)  # JSON has no NaN
        stored = {"inputs": cells.to_dict("split", index=False), "outputs": predicted}
    put(champion / EXAMPLE, json.dumps(stored, allow_nan=False).encode())
