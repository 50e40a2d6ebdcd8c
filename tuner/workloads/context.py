"""A trial as a person's own training sees it: its parameters, where to report, and what to go on from.

Knows the trial's folder and a line to whoever started it; never a study. Runs in the person's own process, and imports
nothing that takes time: torch only where the person's checkpoint holds tensors.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import re
import shutil
import signal
import sys
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

JOB = "TUNER_TRIAL"  # the variable that tells a command's process about its trial: the path of a JSON file
REPORT = "TUNER_REPORT"  # the file that a command appends its reports to, a JSON object a line
NAME = re.compile(r"[\w\-./: ]{1,250}", re.ASCII)  # as MLflow takes them
OURS = ".tuner"  # the one folder in a trial's own that is not the person's
MODEL = "model"  # what `save_model` has written, in that folder
CHECKPOINT_SECONDS = 10.0  # between two checkpoints, unless the trial may end before the next one
_KINDS = {b"J": "JSON", b"T": "torch", b"F": "files"}
Checkpoint = Mapping[str, Any] | Path | Callable[[], Mapping[str, Any] | Path]


class TrialStopped(BaseException):
    """The trial is to end here. No Exception, so that `except Exception` does not catch it."""


@dataclass(frozen=True)
class TrialJob:
    """What a trial's process is told: JSON."""

    number: int
    params: dict[str, Any]
    seed: int
    device: str
    epochs: int | None
    metric: str
    folder: str
    rungs: tuple[int, ...] = ()  # epochs at which an answer is waited for
    epoch: int = 0  # that were reported before, where there is a checkpoint
    checkpoint: str = ""  # the file to go on from


class Line(Protocol):
    """The way to whoever started the trial."""

    def send(self, message: dict[str, Any]) -> None: ...

    def answer(self, timeout: float | None) -> bool | None:
        """Whether the trial is to stop; None where nothing was said within `timeout` seconds."""


class TrialContext:
    """One trial: `params`, `number`, `seed`, `device`, `epochs` (None: as many as it likes), a `folder` of its own.

    `metric` is the study's objective, `epoch` the last one that was reported."""

    def __init__(self, job: TrialJob, line: Line, clock: Callable[[], float] = time.monotonic) -> None:
        self._job, self._line, self._clock = job, line, clock
        self.params: Mapping[str, Any] = dict(job.params)
        self.number, self.seed, self.device, self.epochs = job.number, job.seed, job.device, job.epochs
        self.folder, self.metric = Path(job.folder), job.metric
        self.epoch = 0  # the last one that was reported, or that is gone on from
        self._saved, self._kept = clock(), list[Path]()
        self._stop = self._by_hand = False

    @property
    def should_stop(self) -> bool:
        """Whether the trial is to end. Who asks ends by hand: `report` then raises only when the trial goes on."""
        self._by_hand = True
        self._stop = self._stop or self._line.answer(0.0) is True
        return self._stop

    def report(
        self, metrics: Mapping[str, Any], epoch: int | None = None, checkpoint: Checkpoint | None = None
    ) -> None:
        """Report an epoch's metrics, by name; epochs count from 1, one after the other.

        `checkpoint` is what to go on from after this epoch: a mapping of tensors and JSON, or a folder or file that was
        written, or a function that gives one of these, called only when a checkpoint is due. Raises TrialStopped where
        the trial is to end, and ValueError or TypeError for a report that makes no sense.
        """
        number = self._next(epoch)
        values = numbers(metrics)
        if self._stop:  # it was told, and goes on
            raise TrialStopped
        message: dict[str, Any] = {"epoch": number, "metrics": values}
        waits = number in self._job.rungs
        if (
            checkpoint is not None
            and not isinstance(self._line, _Silent)
            and (waits or number == self.epochs or self._due())
        ):
            message["checkpoint"] = str(self._keep(checkpoint, number))
        self.epoch = number
        self._line.send(message)
        if self._line.answer(None if waits else 0.0) is True:
            self._stop = True
            if not self._by_hand:
                raise TrialStopped

    def save_model(
        self, module: Any, example: Any, *, classes: Sequence[str] | None = None, columns: Sequence[str] | None = None
    ) -> None:
        """Keep a torch.nn.Module as the trial's model; if the trial wins it is the champion, registered in MLflow.

        `example` is a batch of its inputs, a tensor [N, features], [N, time, features] or [N, channels, height, width].
        `classes` name its outputs where these are scores of classes, `columns` the features of a table. A later call
        takes the place of an earlier one; it takes a second or two, so call it once, at the end. The state_dict lies in
        the trial's folder as model.pt, and there alone where torch.export refuses the module. Raises TypeError and
        ValueError for what makes no sense.
        """
        from tuner.workloads import own_model

        own_model.save(self.folder, self.folder / OURS / MODEL, module, example, classes, columns)

    def restore(self) -> Any:
        """What the newest checkpoint holds: a mapping, or the folder or file that was written; None: begin anew."""
        path = Path(self._job.checkpoint)
        if not self._job.checkpoint or not path.is_file():
            return None
        state = unpack(path.read_bytes(), self.folder / "restored")
        self.epoch = max(self.epoch, self._job.epoch)
        return state

    def _next(self, epoch: int | None) -> int:
        expected = self.epoch + 1
        if epoch is None:
            return expected
        if isinstance(epoch, bool) or not isinstance(epoch, int):
            raise TypeError(f"expected epoch as an integer, got {epoch!r}")
        if epoch != expected:
            why = "reported already" if 0 < epoch < expected else "out of its order"
            raise ValueError(f"expected a report of epoch {expected} next, got epoch {epoch} ({why}); or leave it out")
        return epoch

    def _due(self) -> bool:
        return self._clock() - self._saved >= CHECKPOINT_SECONDS

    def _keep(self, checkpoint: Checkpoint, epoch: int) -> Path:
        """Write what to go on from, whole or not at all; the two before it may still be read by the worker."""
        content = pack(checkpoint() if callable(checkpoint) else checkpoint)
        path = self.folder / OURS / f"checkpoint-{epoch}"
        path.parent.mkdir(exist_ok=True)
        beside = path.with_name("checkpoint.partial")
        beside.write_bytes(content)
        beside.replace(path)
        self._kept.append(path)
        for old in self._kept[:-3]:
            old.unlink(missing_ok=True)
        self._kept = self._kept[-3:]
        self._saved = self._clock()
        return path


class NamedWrongly(ValueError):
    """A metric has a name that MLflow does not take."""


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as floats. Raises TypeError or ValueError with the name of one that is none."""
    if not isinstance(metrics, Mapping):
        raise TypeError(f"expected metrics by name, as in {{'val/loss': 0.3}}, got {type(metrics).__name__}")
    values = {}
    for name, value in metrics.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"expected the name of a metric as text, got {name!r}")
        if not NAME.fullmatch(name):
            raise NamedWrongly(f"expected a metric's name of letters, digits, spaces and _ - . : /, got {name!r}")
        try:
            values[name] = float(value.detach() if hasattr(value, "detach") else value)  # a loss with its graph
        except (TypeError, ValueError):
            raise TypeError(f"expected a number for {name}, got {type(value).__name__}") from None
    if not values:
        raise ValueError("expected at least one metric, got none")
    return values


# --- checkpoints ----------------------------------------------------------------------------------


def pack(checkpoint: Mapping[str, Any] | Path | str) -> bytes:
    """A checkpoint as one file's content, behind its SHA-256. Raises TypeError for what is none."""
    if isinstance(checkpoint, (Path, str)):
        body = b"F" + _archived(Path(checkpoint))
    elif isinstance(checkpoint, Mapping):
        body = _packed(dict(checkpoint))
    else:
        raise TypeError(f"expected a checkpoint as a mapping, a folder or a file, got {type(checkpoint).__name__}")
    return hashlib.sha256(body).digest() + body


def _packed(state: dict[str, Any]) -> bytes:
    if "torch" not in sys.modules:
        try:
            return b"J" + json.dumps(state).encode()
        except (TypeError, ValueError) as error:
            raise TypeError(f"expected a checkpoint of tensors and JSON, got: {error}") from None
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    return b"T" + buffer.getvalue()


def _archived(path: Path) -> bytes:
    if not path.exists():
        raise FileNotFoundError(f"expected the folder or file of a checkpoint, got {path}, which is not there")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", dereference=True) as archive:
        archive.add(path, arcname="files" if path.is_dir() else path.name, filter=_theirs)
    return buffer.getvalue()


def _theirs(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if OURS in Path(entry.name).parts else entry


def intact(content: bytes) -> bool:
    """Whether a checkpoint is as `pack` made it."""
    return len(content) > 33 and hashlib.sha256(content[32:]).digest() == content[:32] and content[32:33] in _KINDS


def unpack(content: bytes, place: Path) -> Any:
    """What `pack` was given; files are laid out in the folder `place`. Raises ValueError where it is damaged."""
    if not intact(content):
        raise ValueError("the checkpoint is damaged")
    kind, body = content[32:33], content[33:]
    if kind == b"J":
        return json.loads(body)
    if kind == b"T":
        import torch

        return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    shutil.rmtree(place, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        names = archive.getnames()
        archive.extractall(place, filter="data")
    return place / ("files" if "files" in names else names[0])


# --- a command's process, and a program without Tuner ---------------------------------------------


class _FileLine:
    """Reports as lines of a file; SIGTERM says that the trial is to stop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stop = False
        with contextlib.suppress(ValueError):  # not the main thread: then the signal ends the process
            signal.signal(signal.SIGTERM, self._told)

    def _told(self, *_: Any) -> None:
        self._stop = True

    def send(self, message: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(message) + "\n")

    def answer(self, _timeout: float | None) -> bool | None:
        return self._stop or None


class _Silent:
    """One of several processes that train a trial together, as torchrun has them, and not the one that reports."""

    def __init__(self, heard: _FileLine) -> None:
        self._heard = heard

    def send(self, message: dict[str, Any]) -> None:
        """The first of them says so."""

    def answer(self, timeout: float | None) -> bool | None:
        return self._heard.answer(timeout)


class _Printing:
    """A program that runs by itself prints what it would report."""

    def send(self, message: dict[str, Any]) -> None:
        values = " ".join(f"{name}={value:.6g}" for name, value in message["metrics"].items())
        print(f"epoch={message['epoch']} {values}", flush=True)  # noqa: T201 - what it is for

    def answer(self, _timeout: float | None) -> bool | None:
        return None


_CURRENT: TrialContext | None = None


def current_trial(
    params: Mapping[str, Any] | None = None, *, epochs: int | None = None, seed: int = 0, device: str = "cpu"
) -> TrialContext:
    """The trial that this process is. Outside of a study one that prints what it is told, with these `params`.

    Of several processes that train one trial together, as torchrun begins them, the first (RANK 0) reports and keeps
    checkpoints; `report` and `restore` may be called by all.
    """
    global _CURRENT  # noqa: PLW0603 - a process is one trial
    if _CURRENT is None:
        if JOB in os.environ:
            told = json.loads(Path(os.environ[JOB]).read_text(encoding="utf-8"))
            line: Line = (heard := _FileLine(Path(os.environ[REPORT])))
            if os.environ.get("RANK", "0") != "0":
                line = _Silent(heard)
            _CURRENT = TrialContext(TrialJob(**told), line)
        else:
            folder = os.getcwd()  # noqa: PTH109
            job = TrialJob(0, dict(params or {}), seed, device, epochs, "", folder)
            _CURRENT = TrialContext(job, _Printing())
    return _CURRENT


def set_current(context: TrialContext) -> None:
    """This process is that trial."""
    global _CURRENT  # noqa: PLW0603 - as above
    _CURRENT = context


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those that are numbers."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
