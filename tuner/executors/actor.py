"""The far side of a cluster's worker: what runs in an actor, and the words that only driver and actor exchange.

Knows the protocol and the worker; never what carries the words. It imports neither numpy nor torch before the worker
does, whose libraries must hear of their threads first.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tuner.checkpoints.wire import File, Wire
from tuner.executors.protocol import Answer, Message, Ready, Stop
from tuner.executors.worker_log import Capture, mark
from tuner.workloads.base import Job, Setup

if TYPE_CHECKING:
    from tuner.executors.code_bundle import CodeBundle

BEAT_SECONDS = 2.0  # between two signs of life of an actor that has nothing to say
STREAM = 10_000  # words in one stream; Ray keeps books for as long as one lasts


@dataclass(frozen=True)
class Placed:
    """The actor has a place in the cluster, and its worker begins."""

    process: int


@dataclass(frozen=True)
class Printed:
    """What the actor's process printed: for the worker's log in that folder."""

    content: bytes = field(repr=False)


@dataclass(frozen=True)
class Failed:
    """The worker's last word."""

    error: BaseException


Word = Message | Placed | File | Printed | Failed


@dataclass(frozen=True)
class Resumed:
    """A job, and the generations of its checkpoint, the newest first, by name."""

    job: Job
    kept: tuple[tuple[str, bytes], ...] = field(repr=False)


@dataclass(frozen=True)
class ActorSetup:
    """What every worker needs: its setup, what all trials share unless it is to read that itself, a person's files."""

    setup: Setup
    shared: Any
    code: Mapping[str, bytes]


class Connection:
    """A worker's channel: two queues, between its thread and the actor's methods. Files travel with the messages."""

    def __init__(self) -> None:
        self.said: queue.SimpleQueue[Word] = queue.SimpleQueue()
        self.words: queue.SimpleQueue[Resumed | Answer | Stop] = queue.SimpleQueue()
        self.wire = Wire(self.said.put)

    def send(self, message: Message) -> None:
        self.said.put(message)

    def receive(self) -> Job | Answer | Stop:
        word = self.words.get()
        if isinstance(word, Resumed):
            self.wire.kept = word.kept
            return word.job
        return word

    def waiting(self) -> bool:
        return not self.words.empty()


class Actor:
    """A worker and its connection, in a process of the cluster."""

    def __init__(self, number: int, threads: int) -> None:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # before numpy and torch are imported, as for local workers
        self._number = number
        self._connection = Connection()
        self._thread: threading.Thread | None = None
        self._bundle: CodeBundle | None = None
        self._capture: Capture | None = None

    def say(self, fetch: Callable[[], ActorSetup]) -> Iterator[list[Word]]:
        """What is said, in its order, and an empty list now and then as a sign of life; call again when it ends."""
        if self._thread is None:
            yield [Placed(os.getpid())]
            self._capture = Capture()
            mark(())
            self._thread = threading.Thread(target=self._work, args=(fetch,), daemon=True)
            self._thread.start()
        said = self._connection.said
        for _ in range(STREAM):
            words: list[Word] = []
            with contextlib.suppress(queue.Empty):
                words.append(said.get(timeout=BEAT_SECONDS))
                while True:
                    words.append(said.get_nowait())
            if self._capture is not None and (printed := self._capture.take()):  # before what was said is heard
                words.insert(0, Printed(printed))
            yield [word for word in words if not isinstance(word, Failed)]
            for word in words:
                if isinstance(word, Failed):
                    raise word.error

    def deliver(self, word: Resumed | Answer | Stop) -> None:
        self._connection.words.put(word)

    def clean_up(self) -> None:
        """Leave nothing on the node's disk, before the end."""
        if self._bundle is not None:
            self._bundle.close()

    def _work(self, fetch: Callable[[], ActorSetup]) -> None:
        """The worker's own thread: train what comes, until the actor's end."""
        try:
            from tuner.executors import worker as working
            from tuner.executors.code_bundle import CodeBundle

            setup = fetch()
            bundle = self._bundle = CodeBundle(setup.code)
            connection = self._connection
            stores: dict[str, Any] = {"checkpoints": connection.wire, "weights": connection.wire}
            if setup.setup.storage:
                from tuner.checkpoints.remote import Storage

                stores["checkpoints"] = Storage(setup.setup.storage)  # which nobody here needs but the next worker
            worker = working.Worker(
                self._number, setup.setup, connection, setup.shared, mark=mark, located=bundle.located, **stores
            )
            connection.send(Ready(self._number))
            while True:
                word = connection.receive()
                if isinstance(word, Job):
                    worker.train(word)
        except BaseException as error:  # noqa: BLE001 - whatever it is ends the actor, and the driver is told
            self._connection.said.put(Failed(error))
