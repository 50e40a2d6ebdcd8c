"""The champion: the winner's network with all that is needed to use it on new data, in one folder.

`export` writes `<study's folder>/champion`, `Predictor` reads it. The folder needs torch, numpy and pandas, neither
the study nor the class of the network: `network.pt2` is a torch.export program with a dynamic batch, `card.json` says
how raw inputs become its inputs and what its outputs mean, `example.json` (and `example.npy`) hold a few raw inputs
with their predictions. Knows data's preprocessing. Must never know trackers, ledgers or search.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tuner import __version__
from tuner.errors import CheckpointCorrupt, DataError, InputError, StudyMissing, TunerError, first_line

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

    from tuner.data.dataset import Dataset
    from tuner.data.preprocess import Preprocess
    from tuner.models.interface import Signature

FORMAT = 1  # of the folder; raised when an older Tuner could no longer read what is written
FOLDER = "champion"

_NETWORK, CARD, _EXAMPLE, _EXAMPLE_ARRAY = "network.pt2", "card.json", "example.json", "example.npy"
_WHY = "refused.txt"  # instead of all these, where the winner's network cannot be exported
_ROWS = 1_024  # predicted at once, so that memory does not grow with the file
_EXAMPLES = 2


class ExportError(TunerError, RuntimeError):
    """The winner's network cannot be written as a program of its own."""


def export(folder: Path, network: nn.Module, dataset: Dataset, trial: Mapping[str, Any]) -> Path:
    """Write the champion of the study in `folder`, replacing an older one whole or not at all; returns its folder.

    `network` is the plain module with the weights to keep, on the CPU; it is exported as it computes in evaluation.
    `trial` is JSON about the winner (number, params, metrics, …) and goes onto the card.
    Raises ExportError where torch.export refuses the network, or what it exported does not answer; OSError for want
    of room.
    """
    draft, final, old = folder / f"{FOLDER}.new", folder / FOLDER, folder / f"{FOLDER}.old"
    for leftover in (draft, old):
        shutil.rmtree(leftover, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        _write(draft, network, dataset, {"study": folder.name, "trial": dict(trial)})
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    if final.exists():
        final.rename(old)
    draft.rename(final)
    shutil.rmtree(old, ignore_errors=True)
    return final


def looks(folder: Path, trial: int) -> Path:
    """Where the study in `folder` keeps what is shown of a winner: files for people, which its run in MLflow gets."""
    return folder / "looks" / f"{trial:06d}"


def refuse(folder: Path, reason: str) -> None:
    """Remember why the study in `folder` has no champion; an older winner's is the champion no more."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    (folder / FOLDER).mkdir()
    (folder / FOLDER / _WHY).write_text(reason)


def _write(draft: Path, network: nn.Module, dataset: Dataset, about: Mapping[str, Any]) -> None:
    import torch

    program = _program(network, dataset.signature)
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, content)
    (draft / _NETWORK).write_bytes(content.getbuffer())
    card = {
        "format": FORMAT,
        **about,
        "signature": dataset.signature.to_dict(),
        "classes": None if dataset.classes is None else list(dataset.classes),
        "preprocess": dataset.preprocess.to_dict(),
        "data": {"name": dataset.name, "digest": dataset.digest, "split": dataset.split_digest},
        "sha256": _digest(draft / _NETWORK),
        "versions": {"tuner": __version__, "torch": torch.__version__},
    }
    (draft / CARD).write_text(json.dumps(card, indent=2, allow_nan=False))
    try:
        _write_example(draft, dataset)
    except (
        RuntimeError,
        ValueError,
    ) as error:
        # say, a network of float64, or one that answers otherwise in evaluation
        raise ExportError(f"its exported program does not answer as it should: {first_line(error)}") from error


def example(champion: Path) -> tuple[pd.DataFrame | np.ndarray, pd.DataFrame]:
    """The raw inputs that a champion's folder keeps as an example, and their predictions."""
    import pandas as pd

    stored = json.loads((champion / _EXAMPLE).read_text())
    outputs = pd.DataFrame(**stored["outputs"])
    if stored["inputs"] is None:
        return np.load(champion / _EXAMPLE_ARRAY), outputs
    return pd.DataFrame(**stored["inputs"]), outputs


class Predictor:
    """A champion, loaded. `card` is what `export` wrote about it."""

    def __init__(self, champion: Path) -> None:
        """Load the folder that `export` returned; `Predictor.load` takes the study's folder instead.

        Raises CheckpointCorrupt where the network's file is not the one that the card describes, and TunerError for
        a folder that a newer Tuner wrote.
        """
        from tuner.data.preprocess import Preprocess
        from tuner.models.interface import Signature

        try:
            self.card: dict[str, Any] = json.loads((champion / CARD).read_text())
            parts = (self.card["signature"], self.card["preprocess"], self.card["sha256"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointCorrupt(
                f"{champion / CARD} is damaged ({first_line(error)}); remove {champion} and launch the study again, "
                "which writes it anew"
            ) from error
        if self.card["format"] > FORMAT:
            raise TunerError(
                f"{champion}: written in format {self.card['format']}, this Tuner reads up to {FORMAT}; "
                "install a newer Tuner"
            )
        self._content = (champion / _NETWORK).read_bytes()
        if (found := hashlib.sha256(self._content).hexdigest()) != parts[2]:
            raise CheckpointCorrupt(
                f"{champion / _NETWORK}: expected sha256 {parts[2][:12]}…, got {found[:12]}…; the file is "
                f"damaged: remove {champion} and launch the study again, which writes it anew"
            )
        self.signature = Signature.from_dict(parts[0])
        self.preprocess = Preprocess.from_dict(parts[1])

    @cached_property
    def _network(self) -> Callable[[Tensor], Tensor]:
        """Made when it is first needed: a recurrent network, unrolled over its steps, takes seconds."""
        import torch

        return torch.export.load(io.BytesIO(self._content)).module()

    def use(self, network: Callable[[Tensor], Tensor]) -> None:
        """Answer with the champion's own network as a plain module, which is ready at once."""
        self._network = network

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The champion of the study in `folder`. Raises StudyMissing where it has none yet."""
        if (folder / FOLDER / _WHY).is_file():
            why = (folder / FOLDER / _WHY).read_text()
            raise StudyMissing(f"study {folder.name} has a winner, but no champion to predict with: {why}")
        if not (folder / FOLDER / CARD).is_file():
            raise StudyMissing(
                f"study {folder.name} has no champion in {folder}; it gets one when the study completes: "
                "launch it again and let it end"
            )
        return cls(folder / FOLDER)

    def read(self, path: Path) -> pd.DataFrame | np.ndarray:
        """The raw inputs of a new file, for `predict`. Raises DataError naming file, row and column."""
        return self.preprocess.read(path)

    def predict(self, raw: pd.DataFrame | np.ndarray | Sequence[str]) -> pd.DataFrame:
        """One row per row of `raw`, under the index of `raw` where it has one.

        Columns: `prediction`, the class's own name, and a `probability_<class>` for every class; in a regression
        `prediction`, or one `prediction_<target>` per target where there are several, in the targets' own unit; of a
        text to be continued `prediction`, the likeliest next character, and its `probability`.
        Raises DataError for inputs unlike those that the network was trained on.
        """
        import pandas as pd

        from tuner.models.interface import CLASSIFICATION, LANGUAGE

        index = raw.index if isinstance(raw, pd.DataFrame) else None
        if self.signature.task == LANGUAGE:
            return pd.DataFrame(self._next(raw), index=index)
        outputs = self.outputs(self.preprocess.apply(raw))
        if self.signature.task != CLASSIFICATION:
            names = [f"prediction_{name}" for name in self.preprocess.targets]
            return pd.DataFrame(outputs, index=index, columns=names if len(names) > 1 else ["prediction"])
        classes = self.card["classes"]
        likely = np.exp(outputs - outputs.max(axis=1, keepdims=True, initial=-np.inf))
        likely /= likely.sum(axis=1, keepdims=True)
        frame = pd.DataFrame(likely, index=index, columns=[f"probability_{name}" for name in classes])
        frame.insert(0, "prediction", [classes[i] for i in outputs.argmax(axis=1)])
        return frame.astype({"prediction": "str"})

    def generate(self, prompt: str, length: int, temperature: float = 1.0, seed: int = 0) -> str:
        """The `length` characters that follow `prompt`, as `tuner.generation.continued` draws them.

        Equal arguments give equal text. Raises InputError where the network does not continue text.
        """
        from tuner.generation import continued
        from tuner.models.interface import LANGUAGE

        if self.signature.task != LANGUAGE:
            raise InputError(
                f"study {self.card['study']}: expected one that continues text (its data a .txt file, or docs-text), "
                f"got one of {self.signature.modality} for {self.signature.task}; `tuner predict` uses its champion"
            )
        return continued(self._network, self.preprocess, prompt, length, temperature, seed)

    def _next(self, raw: pd.DataFrame | np.ndarray | Sequence[str]) -> dict[str, Any]:
        """The likeliest character behind each text, of which the end is read where it is long; never an unknown one."""
        from tuner.models.interface import UNKNOWN

        tokens = endings(self.preprocess, raw)
        last = (tokens > 0).sum(axis=1) - 1
        outputs = self.outputs(tokens)[np.arange(len(tokens)), last][:, UNKNOWN + 1 :]
        likely = np.exp(outputs - outputs.max(axis=1, keepdims=True, initial=-np.inf))
        likely /= likely.sum(axis=1, keepdims=True)
        characters = [self.preprocess.characters[i] for i in outputs.argmax(axis=1)]
        return {"prediction": characters, "probability": likely.max(axis=1, initial=0.0)}

    def outputs(self, inputs: np.ndarray) -> np.ndarray:
        """[N, *signature.inputs] → float64 [N, …], as the signature says of outputs."""
        import torch

        outputs = np.empty(self.signature.output_shape(len(inputs)))
        with torch.inference_mode():
            for start in range(0, len(inputs), _ROWS):
                part = slice(start, start + _ROWS)
                outputs[part] = self._network(torch.from_numpy(inputs[part])).double().numpy()
        return outputs


def endings(preprocess: Preprocess, raw: pd.DataFrame | np.ndarray | Sequence[str]) -> np.ndarray:
    """The tokens of texts to be continued, the last ones of a long text. Raises DataError for texts of nothing."""
    tokens = preprocess.apply(raw, end=True)
    if empty := np.flatnonzero(~(tokens > 0).any(axis=1)).tolist():
        raise DataError(f"row {empty[0] + 1}: expected at least one character to go on from, got an empty text")
    return tokens


def _load_pyfunc(data_path: str) -> Predictor:
    """What mlflow.pyfunc calls to load a logged champion: the name and the argument are MLflow's."""
    return Predictor(Path(data_path))


def _program(network: nn.Module, signature: Signature) -> Any:
    import torch

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


def _write_example(champion: Path, dataset: Dataset) -> None:
    raw = dataset.preprocess.raw(dataset.train.inputs[:_EXAMPLES])
    predicted = Predictor(champion).predict(raw).to_dict("split", index=False)
    if isinstance(raw, np.ndarray):
        np.save(champion / _EXAMPLE_ARRAY, raw)
        stored = {"inputs": None, "outputs": predicted}
    else:
        cells = raw.astype(object).where(raw.notna(), None)  # JSON has no NaN
        stored = {"inputs": cells.to_dict("split", index=False), "outputs": predicted}
    (champion / _EXAMPLE).write_text(json.dumps(stored, allow_nan=False))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
