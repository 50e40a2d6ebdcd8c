"""Hundreds of workers in one process, each at the end of a line of its own: they say what real ones say, when they do.

The driver's side is Tuner's own local executor, whose workers happen to share a process. What they say of a cohort is
`idle.life`; an epoch lasts as long as it is told to, or no time at all. Run as a script it is the workers' process:
`crowd.py SECONDS FD…`, the last descriptor being the line on which it tells what it has seen.
"""

from __future__ import annotations

import heapq
import random
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from idle import Life, life

from tuner.executors.local import LocalExecutor, _Slot
from tuner.executors.protocol import Answer, Ready, Report
from tuner.workloads.base import Job, Setup


class Crowd(LocalExecutor):
    """As many workers as setups, in one process of their own; an epoch of theirs lasts about `seconds`."""

    def __init__(self, setups: Sequence[Setup], seconds: float) -> None:
        pairs = [socket.socketpair() for _ in range(len(setups) + 1)]
        theirs = [end for _, end in pairs]
        descriptors = [end.fileno() for end in theirs]
        command = [sys.executable, str(Path(__file__)), str(seconds), *map(str, descriptors)]
        self._crowd = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=descriptors, start_new_session=True)
        for end in theirs:
            end.close()
        self._ends = deque(Connection(ours.detach()) for ours, _ in pairs)
        self._control = self._ends.pop()
        super().__init__(setups)

    def _spawn(self, number: int, setup: Setup) -> _Slot:
        if not self._ends:
            raise RuntimeError("the process of the workers has ended; what it said stands above")
        return _Slot(number=number, setup=setup, process=self._crowd, line=self._ends.popleft(), began=0)

    def gather(self) -> None:
        """Until all are ready."""
        while not all(slot.ready for slot in self._slots):
            self.receive(0.1)

    def told(self) -> dict[str, Any]:
        """Seconds from each report that waits to its answer, and processor seconds of the workers' process."""
        self._control.send("tell")
        return self._control.recv()


class Workers:
    """All of them, on their side."""

    def __init__(self, lines: Sequence[Connection], seconds: float) -> None:
        self._lines, self._seconds = lines, seconds
        self._lives: dict[int, Life] = {}
        self._due: list[tuple[float, int, int, Report]] = []  # when, in which order, whose
        self._order = count()
        self._asked: dict[int, float] = {}  # worker: when it sent the report that waits
        self.waited: list[float] = []
        self._begun = time.process_time()
        for number, line in enumerate(lines):
            line.send(Ready(number))

    def heed(self, number: int, word: object) -> None:
        if isinstance(word, Job):
            self._lives[number] = life(word)
            self._go_on(number, None)
        elif isinstance(word, Answer):
            self.waited.append(time.perf_counter() - self._asked.pop(number))
            self._go_on(number, word)

    def _go_on(self, number: int, answer: Answer | None) -> None:
        """Say all that there is to say before the next epoch's end."""
        said = self._lives[number]
        while True:
            try:
                message = said.send(answer)
            except StopIteration:
                return
            answer = None
            if isinstance(message, Report):
                # From half as long to half as long again, the same in every run.
                share = random.Random(f"{message.cohort} {message.epoch}").uniform(0.5, 1.5) if self._seconds else 0.0
                due = time.perf_counter() + share * self._seconds
                heapq.heappush(self._due, (due, next(self._order), number, message))
                return
            self._lines[number].send(message)

    def report(self) -> float | None:
        """Send the reports of the epochs that are over; seconds to the next one's end, None where nobody trains."""
        now = time.perf_counter()  # so that answers are heard before what follows these
        while self._due and self._due[0][0] <= now:
            _, _, number, message = heapq.heappop(self._due)
            if message.waits:
                self._asked[number] = time.perf_counter()
            self._lines[number].send(message)
            if not message.waits:
                self._go_on(number, None)
        return max(0.0, self._due[0][0] - time.perf_counter()) if self._due else None

    def seen(self) -> dict[str, Any]:
        """What `Crowd.told` gives."""
        return {"waited": self.waited, "processor": time.process_time() - self._begun}


def main(seconds: float, descriptors: Sequence[int]) -> None:
    """Until the driver is gone."""
    *lines, control = map(Connection, descriptors)
    workers = Workers(lines, seconds)
    with selectors.DefaultSelector() as selector:
        for number, line in enumerate(lines):
            selector.register(line, selectors.EVENT_READ, number)
        selector.register(control, selectors.EVENT_READ)
        try:
            while True:
                for key, _ in selector.select(workers.report()):
                    if key.fileobj is control:
                        control.recv()
                        control.send(workers.seen())
                    else:
                        workers.heed(key.data, lines[key.data].recv())
        except (EOFError, ConnectionError):
            return


if __name__ == "__main__":
    main(float(sys.argv[1]), [int(word) for word in sys.argv[2:]])
