"""Workers on a Ray cluster: one actor each, placed by Ray, that stays up for the whole study.

Knows Ray and the protocol; never a sampler or a ledger. An actor says what its worker says through a generator that
streams, one thread of the driver listens to each, and words to the worker go through a second method. Ray itself
neither restarts nor retries anything: it would give a blank actor, or train from the beginning. An actor that is
gone is replaced and its cohort reported lost, so that the driver goes on from the checkpoint.
No disk is shared: data and a person's network come with the setup, checkpoints and weights go through the line; but for
the checkpoints where the setup names a storage, to which workers write them themselves.
"""

from __future__ import annotations

import contextlib
import gc
import math
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from tuner.checkpoints.wire import File
from tuner.errors import InputError, MachineError, TunerError, first_line
from tuner.executors.actor import Actor, ActorSetup, Failed, Placed, Printed, Resumed, Word
from tuner.executors.pool import HANG_SECONDS, Pool, Slot
from tuner.executors.protocol import Answer, Lost, Message, Notice, Stop, Trouble
from tuner.executors.worker_log import log_path
from tuner.workloads.base import Job, Setup

SILENT_SECONDS = 30.0  # without one: its process or node is frozen, or the network is cut
_PLACE_SECONDS = 15.0  # for the first worker, or another where all are gone, to find a place before a person is told
_GONE_SECONDS = 10.0  # for Ray to say that an actor that we ended is gone
_LEAVE_SECONDS = 2.0  # for all workers to put away what they have on disks
_LISTEN_SECONDS = 1.0  # how long a listener may not notice that its actor was given up
_RETRY_SECONDS = 5.0  # between two attempts to write to a full disk


class TunerWorker(Actor):
    """An actor as Ray has it."""

    @ray.method(num_returns="streaming")
    def serve(self, setup: list[ray.ObjectRef[ActorSetup]]) -> Iterator[list[Word]]:
        yield from self.say(lambda: ray.get(setup[0]))

    @ray.method(concurrency_group="words")
    def tell(self, word: Resumed | Answer | Stop) -> None:
        self.deliver(word)

    @ray.method(concurrency_group="words")
    def leave(self) -> None:
        self.clean_up()


_OPTIONS: dict[str, Any] = {"max_restarts": 0, "max_task_retries": 0, "concurrency_groups": {"words": 1}}
_Actor: Any = ray.remote(**_OPTIONS)(TunerWorker)


@dataclass(frozen=True)
class Needs:
    """What a worker takes of a node: cores, GPUs (1 or less: a share of one), bytes of memory."""

    cpus: float
    gpus: float = 0.0
    memory: int = 0

    def __str__(self) -> str:
        parts = [f"{self.cpus:g} CPUs" if self.cpus != 1 else "1 CPU"]
        parts += [f"{self.gpus:g} GPUs" if self.gpus != 1 else "1 GPU"] * bool(self.gpus)
        parts += [f"{self.memory / 2**30:g} GiB"] * bool(self.memory)
        return ", ".join(parts)

    @property
    def room(self) -> int:
        """How many such workers the cluster would have a place for if it did nothing else."""
        named = {"CPU": self.cpus, "GPU": self.gpus, "memory": float(self.memory)}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        needed = {name: amount for name, amount in named.items() if amount}
        return sum(
            min(int(node.get(name, 0.0) / amount + 1e-9) for name, amount in needed.items()) if needed else 1
            for node in nodes
        )


@contextlib.contextmanager
def connected(address: str | None, cores: int) -> Iterator[None]:
    """Ray, for as long as it lasts: a small cluster of our own on `cores` of this machine, or the one at `address`.

    What a script has connected to before is used as it is, and left as it was. Raises TunerError where none answers.
    """
    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    try:
        if address is None:
            ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except Exception as error:
        if address == "auto" and isinstance(error, ConnectionError):
            remedy = "begin one with ray start --head, or write run.address as host:port"
            raise TunerError(f"run.address is auto, and no Ray cluster was found on this machine; {remedy}") from error
        where = "Ray cannot start here" if address is None else f"no Ray cluster answers at {address}"
        raise TunerError(f"{where}: {first_line(error)}") from error
    try:
        yield
    finally:
        gc.collect()  # a stream in a cycle that is freed after the shutdown calls Ray, which then ends this process
        ray.shutdown()


@dataclass(slots=True, kw_only=True)
class _Slot(Slot):
    """One place for a worker, the actor that has it or waits for it, and when it gave its last sign of life."""

    actor: Any
    placed: bool = False
    process: int = 0
    beat: float = 0.0
    ended: tuple[float, str] | None = None  # since when we want it gone, and why


@dataclass(frozen=True)
class _Gone:
    """An actor's stream has ended; `hopeless` where another's would end as well."""

    reason: str
    hopeless: bool = False


class RayExecutor(Pool[_Slot]):
    """`count` workers with these needs; while the cluster has fewer places, those that have one."""

    def __init__(
        self,
        setup: Setup,
        count: int,
        needs: Needs,
        shared: Any,
        code: Mapping[str, bytes],
        *,
        hang_seconds: float = HANG_SECONDS,
        silent_seconds: float = SILENT_SECONDS,
    ) -> None:
        from tuner.checkpoints.store import Folder

        super().__init__()
        self._setup, self._needs = setup, needs
        self._hang_seconds, self._silent_seconds = hang_seconds, silent_seconds
        self._folder = Folder(Path(setup.folder))
        self._heard: queue.SimpleQueue[tuple[_Slot, Any, list[Word] | _Gone]] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._unlogged = False  # a worker's log could not be written
        self._listeners: list[threading.Thread] = []
        self._sent = ray.put(ActorSetup(setup, shared, code))
        self._expected = max(1, min(count, needs.room))
        self._told = self._expected == count
        self._alone_since = time.monotonic()
        self._slots = [self._employ(_Slot(number=number, actor=None)) for number in range(count)]

    @property
    def workers(self) -> int:
        """Those that have a place; before they have said so, those that the cluster should have one for."""
        return max(self._expected, sum(slot.placed for slot in self._slots))

    @property
    def processes(self) -> list[int]:
        """The process ids of the workers that have a place, each on its node."""
        return [slot.process for slot in self._slots if slot.placed]

    def _employ(self, slot: _Slot) -> _Slot:
        """A fresh actor, and a thread that listens to it."""
        options = {"num_cpus": self._needs.cpus, "num_gpus": self._needs.gpus, "memory": self._needs.memory or None}
        slot.actor = _Actor.options(**options).remote(slot.number, self._setup.threads)
        slot.placed, slot.ended = False, None
        listener = threading.Thread(target=self._listen, args=(slot, slot.actor), name="tuner-listener", daemon=True)
        self._listeners = [one for one in self._listeners if one.is_alive()] + [listener]
        listener.start()
        return slot

    def _listen(self, slot: _Slot, actor: Any) -> None:
        """All that one actor says, into the queue; files into the study's folder on the way."""
        try:
            stream = actor.serve.remote([self._sent])
            while slot.actor is actor:
                if not ray.wait([stream], timeout=_LISTEN_SECONDS)[0]:
                    continue
                reference = next(stream, None)
                if reference is None:  # an actor ends its stream now and then; the next goes on where it was
                    stream = actor.serve.remote([self._sent])
                    continue
                words: list[Word] = ray.get(reference)
                if slot.actor is not actor:
                    return
                slot.beat = time.monotonic()
                said = [word for one in words if (word := self._filed(slot, one)) is not None]
                if said:
                    self._heard.put((slot, actor, said))
        except Exception as error:  # noqa: BLE001 - whatever it is, the actor cannot be heard any more
            self._heard.put((slot, actor, _gone(error)))

    def _filed(self, slot: _Slot, word: Word) -> Word | None:
        """The word, unless it was a file, or of the worker's log, and is written."""
        if isinstance(word, Printed):
            return self._logged(slot, word)
        if not isinstance(word, File):
            return word

        def pause(notice: str | None) -> None:
            if notice is not None:
                self._heard.put((slot, slot.actor, [Notice(notice)]))
            if self._closing.wait(_RETRY_SECONDS):
                raise MachineError("the study is being closed")
            slot.beat = slot.heard = time.monotonic()

        try:
            self._folder.write(word.cohort, word.trial, word.content, pause)
        except MachineError as error:
            return Trouble(word.cohort, word.attempt, False, str(error), machine=True)
        return None

    def _logged(self, slot: _Slot, word: Printed) -> Notice | None:
        """Add to the worker's log; what cannot be written is lost, which is told once."""
        path = log_path(Path(self._setup.folder), slot.number)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as log:
                log.write(word.content)
        except OSError as error:
            told, self._unlogged = self._unlogged, True
            return (
                None if told else Notice(f"{path} cannot be written, so what workers print is lost: {error.strerror}")
            )
        return None

    def _send(self, slot: _Slot, word: Job | Answer | Stop) -> None:
        slot.actor.tell.remote(Resumed(word, self._kept(word)) if isinstance(word, Job) else word)

    def _kept(self, job: Job) -> tuple[tuple[str, bytes], ...]:
        """What a worker without a storage chooses from."""
        return () if self._setup.storage else tuple(self._folder.generations(job.cohort))

    def receive(self, timeout: float) -> list[Message]:
        messages: list[Message] = []
        with contextlib.suppress(queue.Empty):
            messages += self._hear(*self._heard.get(timeout=timeout))
            while True:
                messages += self._hear(*self._heard.get_nowait())
        for slot in self._slots:
            messages += self._watch(slot)
        self._dispatch()
        return messages + self._notices()

    def _notices(self) -> list[Message]:
        """What a person should know of places in the cluster; each thing once."""
        notices: list[Message] = []
        if not self._told and any(slot.ready for slot in self._slots):
            self._told = True
            fewer = f"the cluster has places for {self._expected} of {len(self._slots)} workers ({self._needs} each)"
            notices.append(Notice(f"{fewer}; the others begin when it grows"))
        now = time.monotonic()
        if any(slot.placed for slot in self._slots):
            self._alone_since = now
        elif now - self._alone_since > _PLACE_SECONDS:
            self._alone_since = math.inf
            notices.append(Notice(f"the cluster has no place for a worker ({self._needs} each); waiting for one"))
        return notices

    def _hear(self, slot: _Slot, actor: Any, said: list[Word] | _Gone) -> list[Message]:
        if slot.actor is not actor:
            return []  # given up already
        if isinstance(said, _Gone):
            reason = slot.ended[1] if slot.ended else said.reason
            return [self._replace(slot, reason, hopeless=said.hopeless)]
        messages: list[Message] = []
        for word in said:
            if isinstance(word, Placed):
                slot.placed, slot.process = True, word.process
            elif not isinstance(word, File | Printed | Failed):
                messages.append(self._note(slot, word))
        return messages

    def _watch(self, slot: _Slot) -> list[Message]:
        """End an actor that says nothing; in the end without Ray's word that it is gone."""
        now = time.monotonic()
        if slot.ended is not None:
            since, reason = slot.ended
            return [self._replace(slot, reason)] if now - since > _GONE_SECONDS else []
        if slot.placed and now - slot.beat > self._silent_seconds:
            slot.ended = now, f"silent for {self._silent_seconds:.0f} s"
        elif slot.job is not None and now - slot.heard > self._hang_seconds:
            slot.ended = now, f"no progress for {self._hang_seconds:.0f} s"
        if slot.ended is not None:
            ray.kill(slot.actor)
        return []

    def _replace(self, slot: _Slot, reason: str, *, hopeless: bool = False) -> Lost:
        """Another actor in the place of one that is gone."""
        ray.kill(slot.actor)
        lost = self._lost(slot, reason, f": {reason}", hopeless=hopeless)
        self._employ(slot)
        return lost

    def close(self) -> None:
        self._closing.set()
        leaving = [slot.actor.leave.remote() for slot in self._slots if slot.placed]
        if leaving:
            ray.wait(leaving, num_returns=len(leaving), timeout=_LEAVE_SECONDS)
        for slot in self._slots:
            actor, slot.actor = slot.actor, None
            ray.kill(actor)
        patience = time.monotonic() + _GONE_SECONDS
        for listener in self._listeners:  # one that calls Ray after its shutdown would end this process
            listener.join(max(0.0, patience - time.monotonic()))


def _gone(error: Exception) -> _Gone:
    """Why an actor cannot be heard any more, for a person."""
    if isinstance(error, ray.exceptions.RayTaskError):
        cause = error.cause if isinstance(error.cause, BaseException) else error
        hopeless = isinstance(cause, InputError)
        return _Gone(str(cause) if hopeless else f"{type(cause).__name__}: {first_line(cause)}", hopeless)
    if isinstance(error, ray.exceptions.RayActorError):
        return _Gone("its node died" if "node" in str(error) else "its process died")
    return _Gone(first_line(error))
