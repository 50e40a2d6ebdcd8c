"""The champion: the winner's network with all that is needed to use it on new data, in one folder.

`tuner.inference.champion_writer` writes `<study's folder>/champion`, `Predictor` reads it. The folder needs torch,
safetensors, numpy and pandas, neither the study nor the class of the network: `network.safetensors` holds the weights
and what is computed with them (see `tuner.inference.export`), `card.json` says how raw inputs become its inputs and
what its outputs mean, `example.json` (and `example.npy`) hold a few raw inputs with their predictions. People hand such
folders to one another: nothing in one is ever run, imported or unpickled. Knows data's preprocessing. Must never know
trackers, ledgers or search.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tuner.errors import CheckpointCorrupt, DataError, InputError, StudyMissing, TunerError, first_line
from tuner.terminal.tables import printable

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

    from tuner.data.preprocess import Preprocess
    from tuner.models.interface import Signature

FORMAT = 2  # of the folder; raised when an older Tuner could no longer read what is written
FOLDER = "champion"

NETWORK, CARD, EXAMPLE, EXAMPLE_ARRAY = "network.safetensors", "card.json", "example.json", "example.npy"
REFUSED = "refused.txt"  # instead of all these, where the winner's network cannot be exported
_ROWS = 1_024  # predicted at once, so that memory does not grow with the file
_LARGEST = 2**28  # numbers in one example, or in the answer to it: a card may promise what no memory holds


class ChampionInvalid(CheckpointCorrupt):
    """A champion's folder is damaged, or holds what `export` never writes."""

    exit_code = 2


class ChampionOutdated(InputError):
    """A champion's folder is of a format that is opened no more: up to format 1 a network's file could hold code."""


def is_lost(folder: Path) -> bool:
    """Whether the study in `folder` has no champion that can be opened, and `export` may write it anew."""
    if (folder / FOLDER / REFUSED).is_file():
        return False
    try:
        _ = Predictor(folder / FOLDER).network
    except (FileNotFoundError, ChampionInvalid, ChampionOutdated):
        return True
    except TunerError:  # a newer Tuner's
        return False
    return False


def looks(folder: Path, trial: int) -> Path:
    """Where the study in `folder` keeps what is shown of a winner: files for people, which its run in MLflow gets."""
    return folder / "looks" / f"{trial:06d}"


def refuse(folder: Path, reason: str) -> None:
    """Remember why the study in `folder` has no champion; an older winner's is the champion no more."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    (folder / FOLDER).mkdir()
    put(folder / FOLDER / REFUSED, reason.encode())


def example(champion: Path) -> tuple[pd.DataFrame | np.ndarray, pd.DataFrame]:
    """The raw inputs that a champion's folder keeps as an example, and their predictions."""
    import pandas as pd

    stored = json.loads((champion / EXAMPLE).read_text())

    def frame(part: str) -> pd.DataFrame:
        return pd.DataFrame(stored[part]["data"], columns=stored[part]["columns"])

    if stored["inputs"] is None:
        return np.load(champion / EXAMPLE_ARRAY, allow_pickle=False), frame("outputs")
    return frame("inputs"), frame("outputs")


class Predictor:
    """A champion, loaded. `card` is what `export` wrote about it."""

    def __init__(self, champion: Path) -> None:
        """Load the folder that `export` returned; `Predictor.load` takes the study's folder instead.

        Raises ChampionInvalid where it is damaged or holds what `export` never writes, ChampionOutdated where an
        older Tuner wrote it, and TunerError where a newer one did.
        """
        self._folder = champion
        try:
            self.card: dict[str, Any] = json.loads((champion / CARD).read_text(encoding="utf-8"))
            written = self.card["format"]
            if type(written) is int and written < FORMAT:
                raise ChampionOutdated(
                    f"{champion} was made by an older Tuner; `tuner launch` of its study restores it"
                )
            if type(written) is int and written > FORMAT:
                raise TunerError(
                    f"{champion}: written in format {written}, this Tuner reads up to {FORMAT}; install a newer Tuner"
                )
            self.signature, self.preprocess = _described(self.card)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, TunerError):
                raise
            raise self._invalid(CARD, f"is damaged ({first_line(error)})") from error
        self._content = (champion / NETWORK).read_bytes()
        if (found := hashlib.sha256(self._content).hexdigest()) != self.card["sha256"]:
            raise self._invalid(NETWORK, f"is damaged: expected sha256 {self.card['sha256'][:12]}…, got {found[:12]}…")

    @cached_property
    def network(self) -> nn.Module:
        """Inputs [N, *signature.inputs] → outputs; made when it is first needed, for torch's import takes its time."""
        from tuner.inference import export as exported

        try:
            return exported.unpack(self._content)
        except ValueError as error:
            raise self._invalid(NETWORK, f"is no network of a champion: {first_line(error)}") from error

    def _answer(self, inputs: Tensor) -> Tensor:
        """What the network answers, float64, of the shape that the card promises."""
        import torch

        expected = self.signature.output_shape(len(inputs))
        network = self.network
        try:
            answer = torch.from_numpy(network(inputs).double().numpy())
        except Exception as error:  # torch raises what it likes on a program that does not fit its weights
            raise self._invalid(NETWORK, f"cannot be computed: {first_line(error)}") from error
        if tuple(answer.shape) != expected:
            raise self._invalid(NETWORK, f"answers {list(answer.shape)} where {list(expected)} was expected")
        return answer

    def _invalid(self, name: str, why: str) -> ChampionInvalid:
        remedy = f"remove {self._folder} and launch the study again, which writes it anew"
        return ChampionInvalid(f"{self._folder / name} {why}; {remedy}")

    def use(self, network: nn.Module) -> None:
        """Answer with the champion's own network as a plain module."""
        self.network = network

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The champion of the study in `folder`. Raises StudyMissing where it has none yet."""
        if (folder / FOLDER / REFUSED).is_file():
            why = printable((folder / FOLDER / REFUSED).read_text(encoding="utf-8", errors="replace"))
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
        """The `length` characters that follow `prompt`, as `tuner.inference.generate.continued` draws them.

        Equal arguments give equal text. Raises InputError where the network does not continue text.
        """
        from tuner.inference.generate import continued
        from tuner.models.interface import LANGUAGE

        if self.signature.task != LANGUAGE:
            raise InputError(
                f"study {self.card['study']}: expected one that continues text (its data a .txt file, or docs-text), "
                f"got one of {self.signature.modality} for {self.signature.task}; `tuner predict` uses its champion"
            )
        return continued(self._answer, self.preprocess, prompt, length, temperature, seed)

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
                outputs[part] = self._answer(torch.from_numpy(inputs[part])).numpy()
        return outputs


def endings(preprocess: Preprocess, raw: pd.DataFrame | np.ndarray | Sequence[str]) -> np.ndarray:
    """The tokens of texts to be continued, the last ones of a long text. Raises DataError for texts of nothing."""
    tokens = preprocess.apply(raw, end=True)
    if empty := np.flatnonzero(~(tokens > 0).any(axis=1)).tolist():
        raise DataError(f"row {empty[0] + 1}: expected at least one character to go on from, got an empty text")
    return tokens


def _described(card: Mapping[str, Any]) -> tuple[Signature, Preprocess]:
    """What the card says of inputs and outputs. Raises ValueError, KeyError or TypeError where it cannot be so."""
    from tuner.data.preprocess import Preprocess
    from tuner.models.interface import CLASSIFICATION, MODALITIES, TASKS, Signature

    signature, preprocess = Signature.from_dict(card["signature"]), Preprocess.from_dict(card["preprocess"])

    def of(values: Any, *kinds: type) -> bool:
        return isinstance(values, tuple) and all(type(one) in kinds for one in values)

    sizes = (*signature.inputs, signature.outputs, *(() if signature.vocabulary is None else (signature.vocabulary,)))
    facts = {
        "format": type(card["format"]) is int,
        "study": type(card["study"]) is str,
        "sha256": type(card["sha256"]) is str,
        "signature": signature.task in TASKS
        and signature.modality in MODALITIES
        and of(sizes, int)
        and min(sizes) > 0
        and max(math.prod(signature.inputs), math.prod(signature.output_shape(1))) <= _LARGEST,
        "classes": signature.task != CLASSIFICATION
        or (
            type(card["classes"]) is list
            and of(tuple(card["classes"]), str)
            and len(card["classes"]) == signature.outputs
        ),
        "preprocess": preprocess.modality == signature.modality
        and all(of(getattr(preprocess, name), str) for name in ("columns", "empty", "targets"))
        and all(of(getattr(preprocess, name), int, float) for name in ("mean", "scale"))
        and all(of(values, str) for values in preprocess.categories.values())
        and of(preprocess.shape, int)
        and type(preprocess.characters) is str
        and preprocess.inputs == signature.inputs,
    }
    if wrong := [name for name, right in facts.items() if not right]:
        raise ValueError(f"its {wrong[0]} cannot be so")
    return signature, preprocess


def _load_pyfunc(data_path: str) -> Predictor:
    """What mlflow.pyfunc calls to load a logged champion: the name and the argument are MLflow's."""
    return Predictor(Path(data_path))


def put(path: Path, content: bytes) -> None:
    """On the disk before the ledger says that the champion is there."""
    from tuner.checkpoints import format as checkpoint

    checkpoint.write(path, content)
