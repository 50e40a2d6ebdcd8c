"""A trial's process, as its worker begins, hears and ends it: a function's, or a command's.

Knows the server that begins processes and what they say; never what becomes of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import send_handle
from pathlib import Path
from typing import Any, Protocol

from tuner.errors import TrialError
from tuner.workloads.context import JOB, REPORT, NamedWrongly, TrialJob, numbers

_DRAIN_SECONDS = 2.0  # for the last words of a command that has ended
_TAIL = 20  # lines of a command's stderr that a person is shown
_KEPT = 2_000  # characters of them
_BARE = re.compile(rb"(:\s*)-?nan(?=\s*[,}])")  # as C prints it
_PAIR = re.compile(
    r"([A-Za-z][\w./-]*)=([-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|(?i:nan|inf(?:inity)?)))(?=[\s,;]|$)"
)


@dataclass(frozen=True)
class ProgramSetup:
    """What all trials of a study of functions or commands have in common; durations in seconds."""

    kind: str  # "function" or "command"
    place: str | tuple[str, ...]  # file.py:function, or the words of the command
    folder: str  # of the study file
    timeout: float | None = None
    silence: float | None = None
    retries: int = 0
    grace: float = 10.0
    variables: dict[str, str] = field(default_factory=dict, repr=False)
    printed: bool = False  # metrics are read from what a command prints


def search_path() -> str:
    """PATH for trials: what is installed with this Python, then what the environment has."""
    own, path = str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)
    return path if own in path.split(os.pathsep) else f"{own}{os.pathsep}{path}"


class TrialProcess(Protocol):
    """A trial's process, as it is heard. A message has "epoch" and "metrics", or says how it ended."""

    @property
    def begun(self) -> bool:
        """Whether there is a process."""

    def messages(self, timeout: float) -> list[dict[str, Any]]: ...

    def answer(self, stop: bool) -> None: ...

    def end(self, number: int) -> None: ...


class Server(Protocol):
    """Who begins processes."""

    setup: ProgramSetup

    def server(self) -> Connection: ...

    def dismiss(self) -> int: ...

    def request(self) -> int: ...

    def kill(self) -> None: ...

    def located(self, place: str) -> tuple[str, str]: ...


def _signalled(code: int) -> str:
    return (
        f"its process was ended by {signal.Signals(-code).name}"
        if code < 0
        else f"its process ended with exit code {code}"
    )


class _Process:
    """What a function's and a command's process have in common: a server that begins and ends it."""

    def __init__(self, trainer: Server, job: TrialJob, variables: Mapping[str, str]) -> None:
        self._trainer = trainer
        told = {"TUNER_SEED": str(job.seed), "TUNER_NUMBER": str(job.number)}
        self._variables = {**trainer.setup.variables, **told, **variables}
        self._line = trainer.server()
        self._number = trainer.request()
        self._pid = 0
        self._own = False  # the server has become the trial
        self._over = False

    @property
    def begun(self) -> bool:
        return self._pid != 0

    def _server_said(self) -> int | None:
        """The exit code, once the process has ended."""
        try:
            while self._line.poll():
                number, word, *rest = self._line.recv()
                if number != self._number:
                    continue  # the end of one that was given up
                if word == "began":
                    self._pid, self._own = rest
                else:
                    code: int = rest[0]
                    return code
        except (EOFError, ConnectionError):
            if self._pid:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._pid, signal.SIGKILL)  # the server, which would have done so, is gone
            return self._trainer.dismiss()
        return None

    def end(self, number: int) -> None:
        if self._over:
            return
        if not self.begun and self._server_said() is None and not self.begun:
            self._trainer.kill()  # it imports still, and hears nothing
            return
        if self._own:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, number)
            return
        with contextlib.suppress(ConnectionError):
            self._line.send(("end", number))


class FunctionProcess(_Process):
    """A function's process: it reports over a line of its own, and waits for answers there."""

    def __init__(self, trainer: Server, job: TrialJob, variables: Mapping[str, str]) -> None:
        super().__init__(trainer, job, variables)
        ours, theirs = socket.socketpair()
        assert isinstance(trainer.setup.place, str)
        place, folder = trainer.located(trainer.setup.place)
        self._trial = Connection(ours.detach())
        self._said: dict[str, Any] | None = None  # how it ended, as it said itself
        with theirs:
            self._line.send(("function", asdict(job), place, folder, self._variables))
            send_handle(self._line, theirs.fileno(), None)

    def messages(self, timeout: float) -> list[dict[str, Any]]:
        if self._over:
            return [{"result": 0}]
        wait([self._line] if self._trial.closed else [self._line, self._trial], timeout)
        found = self._heard()
        if not found and (code := self._server_said()) is not None:
            found = self._heard()  # what it has said between the two looks
            self._over = True
            self._trial.close()
            found.append(self._said or {"lost": _signalled(code)})
        return found

    def _heard(self) -> list[dict[str, Any]]:
        """The reports that have come; how it ended is remembered until it has."""
        found: list[dict[str, Any]] = []
        try:
            while not self._trial.closed and self._trial.poll():
                message = self._trial.recv()
                if "epoch" in message:
                    found.append(message)
                else:
                    self._said = message
        except (EOFError, ConnectionError):
            self._trial.close()
        return found

    def answer(self, stop: bool) -> None:
        with contextlib.suppress(ConnectionError, OSError):
            self._trial.send(stop)


class CommandProcess(_Process):
    """A command's process: it reports in a file, or in what it prints, and hears nothing but SIGTERM."""

    def __init__(self, trainer: Server, job: TrialJob, variables: Mapping[str, str]) -> None:
        super().__init__(trainer, job, variables)
        folder = Path(job.folder)
        self._report = folder / "report.jsonl"
        self._report.write_text("")
        (folder / "trial.json").write_text(json.dumps(asdict(job)))
        self._read, self._epoch, self._grace = 0, job.epoch, trainer.setup.grace
        self._printed: deque[dict[str, float]] = deque()
        self._tail: deque[str] = deque(maxlen=_TAIL)
        self._threads: list[threading.Thread] = []
        self._metric = job.metric
        self._broken = False  # it has said what is no report
        argv = [_filled(word, job) for word in trainer.setup.place]
        variables = {**self._variables, JOB: str(folder / "trial.json"), REPORT: str(self._report)}
        self._line.send(("command", asdict(job), argv, trainer.setup.folder, variables))
        for target in (1, 2):
            ours, theirs = os.pipe()
            send_handle(self._line, theirs, None)
            os.close(theirs)
            thread = threading.Thread(target=self._copy, args=(ours, target), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _copy(self, descriptor: int, target: int) -> None:
        """What it prints, to where the worker prints; the last lines of its stderr are remembered."""
        with os.fdopen(descriptor, "rb") as stream:
            for line in iter(lambda: stream.readline(65_536), b""):
                with contextlib.suppress(OSError):
                    os.write(target, line)
                text = line.decode(errors="replace").rstrip()
                if target == 2 and text:
                    self._tail.append(text)
                if self._trainer.setup.printed and target == 1:
                    self._note(text)

    def _note(self, line: str) -> None:
        """Metrics that stand in a line that it prints."""
        pairs = {name: float(value) for name, value in _PAIR.findall(line)}
        if ("epoch" in pairs or self._metric in pairs) and pairs.keys() - {"epoch"}:
            self._printed.append(pairs)

    def messages(self, timeout: float) -> list[dict[str, Any]]:
        if self._over:
            return [{"result": 0}]
        wait([self._line], timeout)
        code = self._server_said()
        if code is not None:
            for thread in self._threads:
                thread.join(_DRAIN_SECONDS)  # what has left its group may hold its pipes for ever
        found: list[dict[str, Any]] = []
        try:
            found += self._lines(whole=code == 0) if not self._broken else ()
        except TrialError as error:
            self._broken = True
            found.append({"raised": str(error)})
        if code is not None:
            self._over = True
            found.append({"result": 0} if code == 0 else self._failure(code))
        return found

    def _failure(self, code: int) -> dict[str, Any]:
        said = "\n".join(self._tail)[-_KEPT:]
        last = self._tail[-1] if self._tail else ""
        text = _signalled(code) + (f": {last}" if last else "")
        return {"lost" if code < 0 else "raised": text, "trace": said}

    def _lines(self, *, whole: bool) -> Iterator[dict[str, Any]]:
        """What it has reported since the last look; `whole`: its last line may lack its end.

        Raises TrialError for what is no report.
        """
        while self._printed:
            pairs = self._printed.popleft()
            yield self._numbered(pairs.pop("epoch", None), pairs, {})
        try:
            with self._report.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._read:
                    raise TrialError("its reports were written over; append to the file of TUNER_REPORT, as >> does")
                file.seek(self._read)
                content = file.read()
        except OSError as error:
            raise TrialError(f"the file of its reports cannot be read: {error.strerror}; was it removed?") from None
        content = content if whole else content[: content.rfind(b"\n") + 1]
        self._read += len(content)
        for line in filter(bytes.strip, content.splitlines()):
            try:
                told = json.loads(_BARE.sub(rb"\1NaN", line))
                metrics = told.pop("metrics") if isinstance(told.get("metrics"), dict) else dict(told)
                kept = {"checkpoint": told["checkpoint"]} if "checkpoint" in told else {}
                metrics = numbers({n: v for n, v in metrics.items() if n not in ("epoch", "checkpoint")})
            except NamedWrongly as error:
                raise TrialError(str(error)) from None
            except (ValueError, TypeError, AttributeError):
                shown = line[:80].decode(errors="replace")
                raise TrialError(
                    f'expected a report such as {{"epoch": 1, "val/loss": 0.3}}, got the line {shown}'
                ) from None
            yield self._numbered(told.get("epoch"), metrics, kept)

    def _numbered(self, epoch: Any, metrics: dict[str, float], kept: dict[str, str]) -> dict[str, Any]:
        expected = self._epoch + 1
        if epoch is not None and epoch != expected:
            raise TrialError(f"expected a report of epoch {expected} next, got epoch {epoch}; or leave epoch out")
        self._epoch = expected
        return {"epoch": expected, "metrics": metrics, **kept}

    def answer(self, stop: bool) -> None:
        if stop:
            self.end(signal.SIGTERM)


def _filled(word: str, job: TrialJob) -> str:
    """A word of the command with its {placeholders} filled in."""
    values = {
        **job.params,
        "number": job.number,
        "seed": job.seed,
        "device": job.device,
        "epochs": job.epochs,
        "folder": job.folder,
    }
    return re.sub(r"\{(\w+)\}", lambda found: str(values.get(found[1], found[0])), word)
