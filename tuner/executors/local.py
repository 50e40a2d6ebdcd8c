"""Workers on this machine: one process each, over a pair of sockets.

Knows processes and the protocol; never a sampler or a ledger. A worker that dies is replaced and its
cohort reported lost; a driver that dies takes its workers with it, so that none lives on alone.
Run as a module it is the worker's process: `python -P -m tuner.executors.local FD NUMBER PARENT`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

from tuner.errors import InputError, TunerError
from tuner.executors.protocol import Answer, Done, Lost, Message, Ready, Setup, Stop, Trouble, Work

HANG_SECONDS = 600.0  # without a word from a worker that has work: it is taken for hung
_FRUITLESS = 3  # workers in a row that died before they had their data: the machine is to blame
_PR_SET_PDEATHSIG = 1  # prctl(2): the signal to get when the parent dies


@dataclass(slots=True)
class _Slot:
    """One place for a worker, and the process in it."""

    number: int
    setup: Setup
    process: subprocess.Popen[bytes]
    line: Connection
    heard: float
    ready: bool = False
    work: Work | None = None


class LocalExecutor:
    """`workers` processes on this machine. The i-th gets the i-th setup."""

    def __init__(self, setups: Sequence[Setup], *, hang_seconds: float = HANG_SECONDS) -> None:
        self.workers = len(setups)
        self._hang_seconds = hang_seconds
        self._waiting: deque[Work] = deque()
        self._fruitless = 0
        self._logs = Path(setups[0].folder) / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._slots = [self._spawn(number, setup) for number, setup in enumerate(setups)]

    def _spawn(self, number: int, setup: Setup) -> _Slot:
        ours, theirs = socket.socketpair()
        environment = {**os.environ, "OMP_NUM_THREADS": str(setup.threads)}
        command = [sys.executable, "-P", "-m", __name__, str(theirs.fileno()), str(number), str(os.getpid())]
        with theirs, self._log(number).open("wb") as log:
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
        return _Slot(number, setup, process, line, time.monotonic())

    def _log(self, number: int) -> Path:
        return self._logs / f"worker-{number}.log"

    @property
    def processes(self) -> list[int]:
        """The process ids of the workers."""
        return [slot.process.pid for slot in self._slots]

    def submit(self, work: Work) -> None:
        self._waiting.append(work)
        self._dispatch()

    def _dispatch(self) -> None:
        for slot in self._slots:
            if slot.ready and slot.work is None and self._waiting:
                slot.work = self._waiting.popleft()
                slot.heard = time.monotonic()
                self._send(slot, slot.work)

    @staticmethod
    def _send(slot: _Slot, word: Work | Answer | Stop) -> None:
        try:
            slot.line.send(word)
        except ConnectionError:
            return  # the worker is gone: `receive` meets the end of its line and says so

    def receive(self, timeout: float) -> list[Message]:
        lines = {slot.line: slot for slot in self._slots}
        messages: list[Message] = []
        for line in wait(list(lines), timeout):
            assert isinstance(line, Connection)
            messages += self._hear(lines[line])
        now = time.monotonic()
        for slot in self._slots:
            if slot.work is not None and now - slot.heard > self._hang_seconds:
                slot.process.kill()
                messages.append(self._replace(slot, f"no progress for {self._hang_seconds:.0f} s"))
        self._dispatch()
        return messages

    def _hear(self, slot: _Slot) -> list[Message]:
        """Everything that waits on one line."""
        messages: list[Message] = []
        try:
            while slot.line.poll():
                message: Message = slot.line.recv()
                messages.append(message)
                slot.heard = time.monotonic()
                if isinstance(message, Ready):
                    slot.ready = True
                    self._fruitless = 0
                elif isinstance(message, Done | Trouble):
                    slot.work = None
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
        if not slot.ready:
            self._fruitless += 1
            if self._fruitless >= _FRUITLESS:
                raise TunerError(
                    f"workers cannot start; the last one's words ({self._log(slot.number)}):\n{self._tail(slot)}"
                )
        reason = reason or (f"signal {-code}" if code < 0 else f"exit {code}: {self._tail(slot)}")
        lost = Lost(
            slot.work.task.cohort if slot.work else None,
            slot.work.attempt if slot.work else 0,
            f"worker {slot.number} lost ({reason})",
        )
        fresh = self._spawn(slot.number, slot.setup)
        slot.process, slot.line, slot.heard, slot.ready, slot.work = fresh.process, fresh.line, fresh.heard, False, None
        return lost

    def _tail(self, slot: _Slot) -> str:
        lines = self._log(slot.number).read_text(errors="replace").strip().splitlines()
        return "\n".join(lines[-3:])

    def answer(self, cohort: int, answer: Answer) -> None:
        for slot in self._slots:
            if slot.work is not None and slot.work.task.cohort == cohort:
                self._send(slot, answer)

    def stop(self) -> None:
        self._waiting.clear()
        for slot in self._slots:
            if slot.work is not None:
                self._send(slot, Stop())

    def close(self) -> None:
        for slot in self._slots:
            slot.process.kill()
        for slot in self._slots:
            slot.process.wait()
            slot.line.close()


def main(descriptor: int, number: int, parent: int) -> None:
    """The worker's process: serve the line until the driver is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return  # the driver died before the kernel was told to end us with it
    from tuner.executors.worker import Worker  # after the tie to the parent: torch takes seconds to import

    line = Connection(descriptor)

    class Line:
        send = line.send
        receive = line.recv
        waiting = line.poll

    try:
        worker = Worker(number, line.recv(), Line())
        line.send(Ready(number))
        while True:
            word = line.recv()
            if isinstance(word, Work):
                worker.train(word)
    except InputError as error:
        sys.exit(str(error))
    except (EOFError, ConnectionError):
        return  # the driver is gone, and what it did not hear is trained again from the last checkpoint


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
