"""A process that has imported what launches and workers import, and copies itself for each of them.

A worker, or a `tuner launch`, then begins in milliseconds instead of the seconds of processor that torch takes to
import. The copies are processes as any other: with ids, signals, exit codes and lines of their own. How the program
itself starts its processes is tested where that is the subject: test_local.py, test_executors.py, test_cli.py.
Run as a module it is that process.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.servers import PATIENCE
from tuner.executors import local
from tuner.executors.local import LocalExecutor
from tuner.tracking import writer
from tuner.workloads.base import Setup

ROOT = Path(__file__).parents[1]
IMPORTED = [
    "tuner.cli",
    "tuner.study.launch",
    "tuner.search",
    "tuner.executors.local",
    "tuner.executors.worker",
    "tuner.champion",
    "tuner.study.finish",
    "tuner.cli.summary",
    "tuner.ledger.sqlite",
    "optuna",
    "torch.export",
    "tests.points",
]
_MESSAGE = 1 << 18  # bytes of a request, with its environment
_SET_DEATH_SIGNAL = 1


class Copy:
    """A process that the server has made, in the manner of subprocess.Popen; what it says goes to files."""

    def __init__(self, pid: int, ending: int, out: Path | None = None, err: Path | None = None) -> None:
        self.pid, self._ending, self._out, self.err = pid, ending, out, err
        self.returncode: int | None = None

    def wait(self, timeout: float | None = PATIENCE) -> int:
        if self.returncode is None:
            if not select.select([self._ending], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            said = os.read(self._ending, 16)
            os.close(self._ending)
            self.returncode = int(said) if said else -signal.SIGKILL  # the server died, and all its copies with it
        return self.returncode

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self) -> tuple[str, str]:
        self.wait()
        assert self._out is not None and self.err is not None
        return self._out.read_text(), self.err.read_text()

    @property
    def said(self) -> str:
        """What it has printed so far."""
        assert self._out is not None
        return self._out.read_text()


class Forks:
    """The server, and how it is asked; ended with this process."""

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._asking = threading.Lock()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.forks", str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()], env=environment)
        self._folder = tempfile.TemporaryDirectory(prefix="tuner-forks-")
        self._count = 0

    def worker(self, number: int, line: int, log: int) -> Copy:
        """A worker of the local executor, which serves over `line`."""
        return self._copy({"kind": "worker", "number": number}, [line, log])

    def launch(self, *words: str, points: Sequence[str] = ()) -> Copy:
        """`tuner launch`; at these points of the study something befalls it (tests/points.py)."""
        return self.tuner("launch", *words, points=points)

    def tuner(self, *words: str, points: Sequence[str] = ()) -> Copy:
        """The command line."""
        return self._spoken({"kind": "command", "words": words, "points": list(points)})

    def run(self, code: str, *words: str) -> Copy:
        """Python's source as a program, with these arguments."""
        return self._spoken({"kind": "program", "code": code, "words": words})

    def _spoken(self, request: dict[str, Any]) -> Copy:
        self._count += 1
        out, err = (Path(self._folder.name) / f"{self._count}.{name}" for name in ("out", "err"))
        with out.open("w") as stdout, err.open("w") as stderr:
            return self._copy(request, [stdout.fileno(), stderr.fileno()], out, err)

    def _copy(self, request: dict[str, Any], given: list[int], *files: Path) -> Copy:
        ending, told = os.pipe()
        request |= {"environment": dict(os.environ), "folder": str(Path.cwd())}
        with self._asking:
            socket.send_fds(self._line, [pickle.dumps(request)], [told, *given])
            os.close(told)
            pid = int(self._line.recv(_MESSAGE))
        return Copy(pid, ending, *files)

    def close(self) -> None:
        self._line.close()
        self._process.wait(PATIENCE)
        self._folder.cleanup()


# --- the process ----------------------------------------------------------------------------------------


def main(descriptor: int) -> None:
    """Copy this process for every request, tell how each copy ended, and leave when nobody asks any more."""
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    for name in IMPORTED:
        importlib.import_module(name)
    writer.PATIENT = PATIENCE  # what a launch waits for MLflow
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a process with threads cannot be copied"
    endings: dict[int, int] = {}
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with socket.socket(fileno=descriptor) as line:
        while True:
            ready = select.select([line, woken], [], [])[0]
            if woken in ready:
                os.read(woken, 4096)
                while (reaped := _reaped()) is not None and reaped[0]:
                    ending = endings.pop(reaped[0])
                    with contextlib.suppress(BrokenPipeError):
                        os.write(ending, str(os.waitstatus_to_exitcode(reaped[1])).encode())
                    os.close(ending)
            if line in ready:
                content, given, _, _ = socket.recv_fds(line, _MESSAGE, 8)
                if not content:
                    return
                pid = os.fork()
                if not pid:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for other in [woken, wakes, line.detach(), given[0], *endings.values()]:
                        os.close(other)
                    _serve(pickle.loads(content), given[1:])
                endings[pid] = given[0]
                for one in given[1:]:
                    os.close(one)
                line.send(str(pid).encode())


def _reaped() -> tuple[int, int] | None:
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(-1, os.WNOHANG)
    return None


def _serve(request: dict[str, Any], given: list[int]) -> NoReturn:
    """The copy: what was asked for, then out, as an interpreter leaves."""
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    code: Any = 1
    try:
        {"worker": _worker, "command": _command, "program": _program}[request["kind"]](request, given)
        code = 0
    except SystemExit as error:
        code = error.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:  # noqa: BLE001 - as an interpreter says it
        traceback.print_exc()
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def _speak_to(out: int, err: int) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdout, sys.stderr = (os.fdopen(one, "w", buffering=1, closefd=False) for one in (1, 2))


def _worker(request: dict[str, Any], given: list[int]) -> None:
    os.setsid()
    line, log = given
    _speak_to(log, log)
    local.main(line, request["number"], os.getppid())


def _command(request: dict[str, Any], given: list[int]) -> None:
    from tests import points
    from tuner import cli

    _speak_to(*given)
    points.install(request["points"])
    sys.argv = ["tuner", *request["words"]]
    cli.main()


def _program(request: dict[str, Any], given: list[int]) -> None:
    _speak_to(*given)
    sys.argv = ["-c", *request["words"]]
    exec(compile(request["code"], "<string>", "exec"), {"__name__": "__main__"})


# --- what tests take ------------------------------------------------------------------------------------


Run = Callable[..., str]
_SPAWN = LocalExecutor._spawn


def ran(process: Copy, code: int = 0) -> str:
    """All that a process has said, when it has ended with that code."""
    out, err = process.communicate()
    assert process.returncode == code, f"exit {process.returncode}\n{out}\n{err}"
    return out + err


def running(forks: Forks) -> Run:
    """`run(path, home, *points, code=0)`: `tuner launch` to its end, befallen by the points; what it printed."""

    def run(path: Path, home: Path, *points: str, code: int = 0) -> str:
        return ran(forks.launch(str(path), "--home", str(home), points=points), code)

    return run


@contextlib.contextmanager
def copying(forks: Forks) -> Iterator[None]:
    """The local executor's workers are copies instead of new interpreters."""

    def spawn(self: LocalExecutor, number: int, setup: Setup) -> Any:
        ours, theirs = socket.socketpair()
        began = local._size(setup, number)
        with theirs, local._log(setup, number).open("ab") as log:
            process = forks.worker(number, theirs.fileno(), log.fileno())
        line = Connection(ours.detach())
        line.send(setup)
        return local._Slot(number=number, setup=setup, process=process, line=line, began=began)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalExecutor, "_spawn", spawn)
        yield


@contextlib.contextmanager
def spawning() -> Iterator[None]:
    """New interpreters all the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalExecutor, "_spawn", _SPAWN)
        yield


if __name__ == "__main__":
    main(int(sys.argv[1]))
