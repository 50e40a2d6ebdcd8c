"""Workers on this machine: one process each, over a pair of sockets.

Knows processes and the protocol; never a sampler or a ledger. A worker that dies is replaced and its
cohort reported lost; a driver that dies takes its workers with it, so that none lives on alone.
Run as a module it is the worker's process: `python -P -m tuner.executors.local FD NUMBER PARENT`.
Where `forks` allows it the first workers are copies of the driver instead (`PreforkedWorkers`): they have torch and the
data in memory from the beginning, so that nobody imports and loads the same thing on every core.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol, Self

from tuner.errors import InputError
from tuner.executors.pool import HANG_SECONDS, Pool, Slot
from tuner.executors.protocol import Answer, Lost, Message, Ready, Stop
from tuner.executors.worker_log import MARK, log_path, mark, speak_to
from tuner.startup import freeze_gc, raise_gc_threshold
from tuner.workloads.base import Job, Setup

NAME = "tuner-worker-{}"  # a worker as `ps -e` and `top` show it
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15  # prctl(2): the signal to get when the parent dies; the name of a process
_TAIL_BYTES = 10_000  # of a log, in which a dead worker's last lines are looked for
_GARBAGE = gc.get_threshold()  # as Python has it, for training


class _Process(Protocol):
    """What `subprocess.Popen` and a forked worker have in common."""

    @property
    def pid(self) -> int: ...

    def kill(self) -> None: ...

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, or minus the signal. Raises subprocess.TimeoutExpired."""


@dataclass(slots=True, kw_only=True)
class _Slot(Slot):
    """One place for a worker, and the process in it."""

    setup: Setup
    process: _Process
    line: Connection
    began: int  # where in its log this process begins


def forks(device: str) -> bool:
    """Whether workers may be copies of this process: a single thread, and no CUDA that a copy could not use.

    Only on Linux: macOS has threads of its own in every process.
    """
    return sys.platform == "linux" and device == "cpu" and len([*Path("/proc/self/task").iterdir()]) == 1


class PreforkedWorkers:
    """Workers that began as copies of this process, before it held a lock or a database; killed unless taken.

    They share with it in memory what it has imported, and what all trials share, and wait for their setup.
    """

    def __init__(self, count: int, shared: Any) -> None:
        self._waiting: deque[tuple[_Forked, Connection]] = deque()
        for number in range(count):
            self._waiting.append(self._fork(number, shared))

    def _fork(self, number: int, shared: Any) -> tuple[_Forked, Connection]:
        ours, theirs = (Connection(end.detach()) for end in socket.socketpair())
        not_for_it = [ours, *(line for _, line in self._waiting)]
        with theirs:
            return _Forked(number, theirs, not_for_it, shared), ours

    def take(self) -> tuple[_Forked, Connection] | None:
        """The next worker and the line to it; None where all are taken."""
        return self._waiting.popleft() if self._waiting else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Kill those that are not taken, and let go of what they have open as copies of this process."""
        while taken := self.take():
            process, line = taken
            process.kill()
            process.wait()
            line.close()


class _Forked:
    """The process of a forked worker, in the manner of `subprocess.Popen`."""

    def __init__(self, number: int, line: Connection, others: Sequence[Connection], shared: Any) -> None:
        start = multiprocessing.get_context("fork").Process
        self._process = start(target=_forked, args=(number, os.getpid(), line, others, shared), daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(NAME, timeout or 0.0)
        return self._process.exitcode


class LocalExecutor(Pool[_Slot]):
    """`workers` processes on this machine. The i-th gets the i-th setup; the first of them are those that were forked.

    `spare` is called when fewer workers train than there are `cores`, again and again: for work that can wait.
    """

    def __init__(
        self,
        setups: Sequence[Setup],
        prefork: PreforkedWorkers | None = None,
        *,
        cores: int = 0,
        spare: Callable[[], object] = lambda: None,
        hang_seconds: float = HANG_SECONDS,
    ) -> None:
        super().__init__()
        self._cores, self._spare = cores, spare
        self._hang_seconds = hang_seconds
        _log(setups[0], 0).parent.mkdir(parents=True, exist_ok=True)
        self._slots = [self._first(number, setup, prefork) for number, setup in enumerate(setups)]

    def _first(self, number: int, setup: Setup, prefork: PreforkedWorkers | None) -> _Slot:
        if prefork is None or (taken := prefork.take()) is None:
            return self._spawn(number, setup)
        process, line = taken
        slot = _Slot(number=number, setup=setup, process=process, line=line, began=_size(setup, number))
        self._send(slot, setup)
        return slot

    def _spawn(self, number: int, setup: Setup) -> _Slot:
        ours, theirs = socket.socketpair()
        environment = {**os.environ, "OMP_NUM_THREADS": str(setup.threads)}
        command = [sys.executable, "-P", "-m", __name__, str(theirs.fileno()), str(number), str(os.getpid())]
        began = _size(setup, number)
        with theirs, _log(setup, number).open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                env=environment,
                start_new_session=True,  # a terminal's Ctrl-C is for the driver, which lets workers save
            )
        line = Connection(ours.detach())
        line.send(setup)
        return _Slot(number=number, setup=setup, process=process, line=line, began=began)

    @property
    def workers(self) -> int:
        return len(self._slots)

    @property
    def processes(self) -> list[int]:
        """The process ids of the workers."""
        return [slot.process.pid for slot in self._slots]

    def _send(self, slot: _Slot, word: Setup | Job | Answer | Stop) -> None:
        with contextlib.suppress(ConnectionError):
            slot.line.send(word)

    def receive(self, timeout: float) -> list[Message]:
        if all(slot.ready for slot in self._slots) and sum(slot.job is not None for slot in self._slots) < self._cores:
            self._spare()
        lines = {slot.line: slot for slot in self._slots}
        messages: list[Message] = []
        for line in wait(list(lines), timeout):
            assert isinstance(line, Connection)
            messages += self._hear(lines[line])
        now = time.monotonic()
        for slot in self._slots:
            if slot.job is not None and now - slot.heard > self._hang_seconds:
                slot.process.kill()
                messages.append(self._replace(slot, f"no progress for {self._hang_seconds:.0f} s"))
        self._dispatch()
        return messages

    def _hear(self, slot: _Slot) -> list[Message]:
        """Everything that waits on one line."""
        messages: list[Message] = []
        try:
            while slot.line.poll():
                messages.append(self._note(slot, slot.line.recv()))
        except (EOFError, ConnectionError):
            messages.append(self._replace(slot, None))
        return messages

    def _replace(self, slot: _Slot, reason: str | None) -> Lost:
        """Put a new process in a dead one's place and say what was lost."""
        slot.line.close()
        try:
            code = slot.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            slot.process.kill()
            code = slot.process.wait()
        tail = self._tail(slot)
        reason = reason or (f"signal {-code}" if code < 0 else f"exit {code}: {tail}")
        lost = self._lost(slot, reason, f" ({_log(slot.setup, slot.number)}):\n{tail}")
        fresh = self._spawn(slot.number, slot.setup)
        slot.process, slot.line, slot.began = fresh.process, fresh.line, fresh.began
        return lost

    def _tail(self, slot: _Slot) -> str:
        """The last lines that its process has said."""
        size = _size(slot.setup, slot.number)  # none of a copy that was killed at once
        if size <= slot.began:
            return ""
        with _log(slot.setup, slot.number).open("rb") as log:
            log.seek(max(slot.began, size - _TAIL_BYTES))
            said = MARK.sub(b"", log.read()).decode(errors="replace")
        return "\n".join(said.strip().splitlines()[-3:])

    def close(self) -> None:
        for slot in self._slots:
            slot.process.kill()
        for slot in self._slots:
            slot.process.wait()
            slot.line.close()


def _log(setup: Setup, number: int) -> Path:
    """Where a worker's process says what it has to say."""
    return log_path(Path(setup.folder), number)


def _size(setup: Setup, number: int) -> int:
    """How long that is by now."""
    path = _log(setup, number)
    return path.stat().st_size if path.exists() else 0


def main(descriptor: int, number: int, parent: int) -> None:
    """The process of a worker that was spawned."""
    raise_gc_threshold()
    if _tied(number, parent):
        _serve(number, Connection(descriptor), None)


def _forked(number: int, parent: int, line: Connection, others: Sequence[Connection], shared: Any) -> None:
    """The process of a worker that was forked: leave behind what is the driver's, then serve as any other."""
    os.setsid()  # a terminal's Ctrl-C is for the driver, which lets workers save
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in others:
        other.close()
    if _tied(number, parent):
        _serve(number, line, shared)


def _tied(number: int, parent: int) -> bool:
    """Tie this process to the driver's life, and name it; False where the driver is dead already."""
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        prctl(_PR_SET_NAME, NAME.format(number).encode())
    return os.getppid() == parent


def _serve(number: int, line: Connection, shared: Any) -> None:
    """Train what comes over the line until the driver is gone; a forked worker has what trials share already."""
    from tuner.executors.worker import Worker  # after the tie to the driver: torch takes seconds to import

    class Line:
        send = line.send
        receive = line.recv
        waiting = line.poll

    try:
        setup = line.recv()
        with _log(setup, number).open("ab") as log:  # line by line, also where the process was begun with it
            speak_to(log.fileno())
        faulthandler.enable()
        mark(())
        worker = Worker(number, setup, Line(), shared, mark=mark)
        freeze_gc()
        gc.set_threshold(*_GARBAGE)
        line.send(Ready(number))
        while True:
            word = line.recv()
            if isinstance(word, Job):
                worker.train(word)
    except InputError as error:
        sys.exit(str(error))
    except (EOFError, ConnectionError):
        return  # the driver is gone, and what it did not hear is trained again from the last checkpoint


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
