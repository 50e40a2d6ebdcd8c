"""What befalls a driver at points that a test names: when its ledger has come to an event, never after so many seconds.

A point is `NUMBER:DEED`: the deed is done by the driver itself as soon as the event of that number, or a later one, is
stored; at 0, before it begins. Of a driver's own death there are three, for the three moments that a transaction has.
A worker is killed or frozen when it has reported its epoch MIDDLE and waits for a word (studies.WAITING).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil

from tests.servers import PATIENCE
from tuner.events import Reported
from tuner.executors import local
from tuner.ledger import Ledger, lease
from tuner.study import loop

OPEN, COMMITTED, ANSWERED = "open", "committed", "answered"
MIDDLE = 3
ASKING, ANSWER = "asking", "TUNER_TEST_ANSWER"  # what `ask` says, and the variable that names the FIFO
DEATHS = (OPEN, COMMITTED, ANSWERED)  # in the transaction; on the disk; and when all have been told


def die() -> None:
    """SIGKILL for the driver and all that it has started."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    os.kill(os.getpid(), signal.SIGKILL)


def worker() -> psutil.Process:
    return next(child for child in psutil.Process().children() if child.name() == local.NAME.format(0))


def ask() -> None:
    """Say so, and go on when the test has written its answer into a FIFO."""
    print(ASKING, flush=True, file=sys.__stdout__)  # what a launch itself prints goes to stderr
    Path(os.environ[ANSWER]).read_text()


def befall(name: str) -> None:
    """What is so from the beginning."""
    if name == "far":
        socket.gethostname = lambda: "far-away"  # type: ignore[assignment]
    elif name == "short lease":
        lease.SECONDS = 1.0
    else:
        raise ValueError(name)


class Points:
    """The deeds that are still to come, in the order of their events."""

    def __init__(self, points: Sequence[str]) -> None:
        self.deeds = [(int(at), deed) for at, deed in (point.split(":") for point in points)]
        self.last = 0
        self.frozen = self.held = self.waits = False

    def due(self, *kinds: str) -> str | None:
        """The next deed, where its event is stored and it is one of these."""
        if not self.deeds or self.last < self.deeds[0][0] or self.deeds[0][1] not in kinds:
            return None
        return self.deeds.pop(0)[1]

    def stored(self) -> None:
        """An event is stored, and perhaps not yet committed."""
        if self.due(OPEN):
            die()
        if self.due("ask inside"):
            ask()

    def settled(self) -> None:
        """What was stored is on the disk, and nobody has heard of it."""
        if self.due(COMMITTED):
            die()
        if self.due("kill copy"):
            worker().kill()
        if self.waits and self.due("kill worker"):
            worker().kill()
        if self.waits and self.due("freeze worker"):
            worker().suspend()
            self.frozen = True
        self.waits = False
        for name in ("SIGINT", "SIGTERM"):
            if self.due(name):
                print("children:", *(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
                os.kill(os.getpid(), signal.Signals[name])

    def listening(self) -> None:
        """The driver has told everybody, and listens."""
        if self.due(ANSWERED):
            die()
        if self.due("ask"):
            ask()
        if self.due("hold"):
            self.held = True


def install(points: Sequence[str]) -> None:
    """Have this process, which will be a driver, do these deeds."""
    if not points:
        return
    told = Points(points)
    while told.deeds and not told.deeds[0][0]:
        befall(told.deeds.pop(0)[1])
    stop = local.LocalExecutor.stop
    append, together, receive = Ledger.append, Ledger.together, local.LocalExecutor.receive
    loop.STOP_SECONDS = PATIENCE  # for workers to save, on any machine
    clock = time.monotonic

    def appending(self: Ledger, events: Any) -> Any:
        inside = getattr(self._thread, "open", None) is not None  # a transaction of which nothing is on the disk yet
        if not inside and told.due(COMMITTED, ANSWERED):  # the loop has been left meanwhile
            die()
        stored = append(self, events)
        if stored:
            told.last = stored[-1].seq
            told.waits = told.waits or any(isinstance(event, Reported) and event.epoch == MIDDLE for event in stored)
            told.stored()
            if getattr(self._thread, "open", None) is None:
                told.settled()
        return stored

    @contextlib.contextmanager
    def settling(self: Ledger) -> Iterator[None]:
        with together(self):
            yield
        told.settled()

    def receiving(self: Any, timeout: float) -> Any:
        told.listening()
        if told.held:  # nothing happens any more until workers are told to stop
            time.sleep(0.01)
            return []
        if told.frozen:  # as when the longest silence has passed
            told.frozen = False
            local.time = SimpleNamespace(monotonic=lambda: clock() + 2 * self._hang_seconds)  # type: ignore[assignment]
            try:
                return receive(self, timeout)
            finally:
                local.time = time  # type: ignore[assignment]
        return receive(self, timeout)

    def stopping(self: Any) -> None:
        told.held = False
        told.deeds = [deed for deed in told.deeds if deed[1] != "hold"]
        stop(self)

    replacements: dict[str, Callable[..., Any]] = {"append": appending, "together": settling}
    for name, replacement in replacements.items():
        setattr(Ledger, name, replacement)
    local.LocalExecutor.receive = receiving  # type: ignore[method-assign]
    local.LocalExecutor.stop = stopping  # type: ignore[method-assign]
