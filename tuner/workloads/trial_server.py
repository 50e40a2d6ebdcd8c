"""The process that a person's own training runs under: one for each worker, which forks a process for every trial.

It has imported the person's file, so that a trial does not pay for its imports, and nothing that a trial does reaches
the next one. It ends a trial's whole process group when the trial ends, and everything when the worker is gone. Where
the import has begun threads or a GPU, which no copy could use, a trial runs in this process itself, which ends with it.
Run as a module: `python -P -m tuner.workloads.trial_server FD PARENT`. Knows processes; never a study.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import inspect
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import recv_handle
from pathlib import Path
from typing import Any

from tuner.workloads.context import TrialContext, TrialJob, TrialStopped, set_current

MARK = "TUNER_WORKER"  # in the environment of every process of a trial: whose they are
_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36


class _SocketLine:
    """The way to the worker."""

    def __init__(self, line: Connection) -> None:
        self._line = line

    def send(self, message: dict[str, Any]) -> None:
        self._line.send(message)

    def answer(self, timeout: float | None) -> bool | None:
        stop: bool | None = None
        while self._line.poll(timeout):
            stop = bool(self._line.recv())
            timeout = 0.0
        return stop


class _Server:
    """Serves one worker."""

    def __init__(self, line: Connection) -> None:
        self._line = line
        self._functions: dict[tuple[str, str], Callable[[TrialContext], Any]] = {}
        self._child: int | None = None
        self._kept: set[int] = set()  # processes that the import has begun
        self._number = 0  # of the request; what is said of a trial names it

    def serve(self) -> None:
        """Until the worker is gone."""
        while True:
            watched: list[Any] = [self._line]
            with contextlib.ExitStack() as stack:
                if self._child is not None:
                    descriptor = os.pidfd_open(self._child)
                    stack.callback(os.close, descriptor)
                    watched.append(descriptor)
                ready = wait(watched)
            if self._line in ready:
                try:
                    self._heed(self._line.recv())
                except (EOFError, ConnectionError):
                    self._end()
                    self._end_inherited()
                    return
            elif self._child is not None:
                self._reap()

    def _heed(self, request: tuple[Any, ...]) -> None:
        if request[0] == "end":
            self._end(request[1])
            return
        kind, told, place, folder, variables = request
        self._number += 1
        if kind == "import":
            self._line.send((self._number, "imported", self._problem(place, folder)))
            return
        handles = [recv_handle(self._line) for _ in range(1 if kind == "function" else 2)]
        run: Callable[[], None]
        if kind == "command":
            run = lambda: _command(told, place, folder, variables, handles)  # noqa: E731
        else:
            try:
                function = self._function(place, folder)
            except BaseException as error:  # noqa: BLE001 - a person's own file may raise anything
                with Connection(handles[0]) as line:
                    line.send(_raised(error))
                self._line.send((self._number, "exited", 0))
                return
            run = lambda: _function(function, told, variables, handles[0])  # noqa: E731
            if _cannot_fork():
                os.setsid()
                _tied(os.getppid())
                self._line.send((self._number, "began", os.getpid(), True))
                run()
                os._exit(0)
        parent = os.getpid()
        self._kept = _children()
        pid = os.fork()
        if pid == 0:
            self._line.close()
            os.setsid()
            _tied(parent)
            run()
            os._exit(0)
        for handle in handles:
            os.close(handle)
        self._child = pid
        self._line.send((self._number, "began", pid, False))

    def _function(self, place: str, folder: str) -> Callable[[TrialContext], Any]:
        """What is named, imported once. Raises whatever the import raises."""
        if (place, folder) not in self._functions:
            from tuner.models import code

            file, _, name = place.rpartition(":")
            path = code.locate(file, Path(folder))
            module = importlib.import_module(file) if path is None else code.load(path)
            function = getattr(module, name, None)
            if not callable(function):
                raise AttributeError(f"{file} has no function {name}")
            self._functions[place, folder] = function
        return self._functions[place, folder]

    def _problem(self, place: str, folder: str) -> str:
        """What is wrong with a function that is to take a trial; empty where nothing is."""
        try:
            inspect.signature(self._function(place, folder)).bind(None)
        except TypeError as error:
            return f"expected a function of one argument, the trial, got {place}: {error}"
        except BaseException as error:  # noqa: BLE001 - as above
            return f"expected a file that can be imported, got {_raised(error)['raised']}"
        return ""

    def _end(self, number: int = signal.SIGKILL) -> None:
        if self._child is not None:
            try:
                os.killpg(self._child, number)
            except ProcessLookupError:  # it has no group of its own yet, or none any more
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._child, number)

    def _reap(self) -> None:
        assert self._child is not None
        os.waitid(os.P_PID, self._child, os.WEXITED | os.WNOWAIT)
        self._end()  # what it has left running, while its number is still its own
        _, status = os.waitpid(self._child, 0)
        self._child = None
        self._end_inherited()
        self._line.send((self._number, "exited", os.waitstatus_to_exitcode(status)))

    def _end_inherited(self) -> None:
        """End what a trial has left in sessions of its own: with its death it has become this process's child."""
        while left := _children() - self._kept:
            for process in left:
                with contextlib.suppress(ProcessLookupError, ChildProcessError):
                    os.kill(process, signal.SIGKILL)
                    os.waitpid(process, 0)


def _children() -> set[int]:
    """The processes whose parent this one is."""
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return {int(child) for child in path.read_text().split()} if path.exists() else set()


def _cannot_fork() -> bool:
    """Whether a copy of this process could not use what it has."""
    torch = sys.modules.get("torch")
    on_gpu = torch is not None and torch.cuda.is_initialized()
    return on_gpu or len(os.listdir("/proc/self/task")) > 1  # noqa: PTH208


def _function(
    function: Callable[[TrialContext], Any], told: Mapping[str, Any], variables: Mapping[str, str], handle: int
) -> None:
    """One trial of a function, in this process; what becomes of it goes over the line."""
    line = Connection(handle)
    job = TrialJob(**told)
    context = TrialContext(job, _SocketLine(line))
    os.environ.update(variables)
    set_current(context)
    _seed(job.seed)
    try:
        line.send({"result": _called(function, context)})
    except TrialStopped:
        line.send({"stopped": True})
    except BaseException as error:  # noqa: BLE001 - a person's own code may raise anything
        line.send(_raised(error))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    line.close()


def _called(function: Callable[[TrialContext], Any], context: TrialContext) -> Any:
    """Call it; report what it yields or returns. What `report` was told last."""
    returned = function(context)
    if inspect.isgenerator(returned):
        returned = _iterated(returned, context)
    if returned is not None:
        numbers = returned if isinstance(returned, Mapping) else {context.metric: returned}
        context.report(numbers)
    return context.epoch


def _iterated(generator: Any, context: TrialContext) -> Any:
    """Report what it yields; what it returns. A stop is raised where it stands, so that it can clean up."""
    while True:
        try:
            metrics = next(generator)
        except StopIteration as end:
            return end.value
        try:
            context.report(metrics)
        except TrialStopped as stop:
            generator.throw(stop)
            raise


def _seed(seed: int) -> None:
    """Python's, numpy's and torch's generators, those of them that are imported."""
    random.seed(seed)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(seed)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(seed)


def _raised(error: BaseException) -> dict[str, Any]:
    """What a person is told of it."""
    from tuner.errors import out_of_memory, told, trace

    return {"raised": told(error), "trace": trace(error), "memory": out_of_memory(error)}


def _command(
    told: Mapping[str, Any], argv: list[str], folder: str, variables: Mapping[str, str], handles: list[int]
) -> None:
    """Become the command, its output in the worker's hands."""
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(handles[0], 1)
        os.dup2(handles[1], 2)
        for handle in handles:
            os.close(handle)
        os.chdir(told["folder"])
        os.environ.update(variables)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ):  # as for any program
            signal.signal(number, signal.SIG_DFL)
        os.environ["PWD"] = told["folder"]
        del folder
        os.execvp(argv[0], argv)  # noqa: S606 - a list of words, never a shell
    except OSError as error:
        sys.stderr.write(f"{argv[0]}: {error.strerror}\n")
    except BaseException:  # noqa: BLE001 - told on the way that a command's words go
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(127)


def _tied(parent: int, name: str = "tuner-trial") -> None:
    """Tie this process to its parent's life, and name it."""
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        prctl(_PR_SET_NAME, name.encode())
    if os.getppid() != parent:
        os._exit(1)


def sweep(study: Path, gone: int | None = None) -> None:
    """End what is left of a study's trials whose worker is gone, or whose server: that of the worker `gone`."""
    mark = f"{MARK}={study.absolute()}:".encode()
    for entry in Path("/proc").iterdir() if sys.platform == "linux" else ():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):  # another person's, or gone since
            for variable in (entry / "environ").read_bytes().split(b"\0"):
                worker = variable[len(mark) :].decode() if variable.startswith(mark) else ""
                if worker and (worker == str(gone) or not Path("/proc", worker).exists()):
                    os.kill(int(entry.name), signal.SIGKILL)


def main(descriptor: int, parent: int) -> None:
    """Serve until the worker is gone: no signal of its death ends this process, which has others to end."""
    if os.getppid() != parent:
        return
    os.set_inheritable(descriptor, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)  # what a trial leaves becomes this process's child
    _Server(Connection(descriptor)).serve()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
