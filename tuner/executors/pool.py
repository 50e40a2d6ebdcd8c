"""Places for workers, and who of them trains what: the part of an executor that does not depend on what carries words.

Knows the protocol; never processes or a cluster.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from tuner.errors import TunerError
from tuner.executors.protocol import Answer, Done, Lost, Message, Ready, Stop, Trouble
from tuner.workloads.base import Job

HANG_SECONDS = 600.0  # without a word from a worker that has a job: it is taken for hung
_FRUITLESS = 3  # workers in a row that died before they had their data: the machine is to blame


@dataclass(slots=True, kw_only=True)
class Slot:
    """One place for a worker, and what the worker in it does."""

    number: int
    heard: float = field(default_factory=time.monotonic)
    ready: bool = False
    job: Job | None = None


S = TypeVar("S", bound=Slot)


class Pool(Generic[S]):
    """Gives jobs to whoever is free, in the order in which they came."""

    _slots: Sequence[S]

    def __init__(self) -> None:
        self._waiting: deque[Job] = deque()
        self._fruitless = 0

    @abstractmethod
    def _send(self, slot: S, word: Job | Answer | Stop) -> None:
        """Say it, or lose it where the worker is gone: `receive` meets its end and says so."""

    def submit(self, job: Job) -> None:
        self._waiting.append(job)
        self._dispatch()

    def answer(self, cohort: int, answer: Answer) -> None:
        for slot in self._slots:
            if slot.job is not None and slot.job.cohort == cohort:
                self._send(slot, answer)

    def stop(self) -> None:
        self._waiting.clear()
        for slot in self._slots:
            if slot.job is not None:
                self._send(slot, Stop())

    def _dispatch(self) -> None:
        for slot in self._slots:
            if slot.ready and slot.job is None and self._waiting:
                slot.job = self._waiting.popleft()
                slot.heard = time.monotonic()
                self._send(slot, slot.job)

    def _note(self, slot: S, message: Message) -> Message:
        """Draw from a worker's word what it says of the worker."""
        slot.heard = time.monotonic()
        if isinstance(message, Ready):
            slot.ready = True
            self._fruitless = 0
        elif isinstance(message, Done | Trouble):
            slot.job = None
        return message

    def _lost(self, slot: S, reason: str, words: str, *, hopeless: bool = False) -> Lost:
        """The worker is gone. Raises TunerError, with its `words`, where several, or a `hopeless` one, never began."""
        if not slot.ready:
            self._fruitless += 1
            if hopeless or self._fruitless >= _FRUITLESS:
                raise TunerError(f"workers cannot start; the last one's words{words}")
        lost = Lost(
            slot.job.cohort if slot.job else None,
            slot.job.attempt if slot.job else 0,
            f"worker {slot.number} lost ({reason})",
        )
        slot.heard, slot.ready, slot.job = time.monotonic(), False, None
        return lost
