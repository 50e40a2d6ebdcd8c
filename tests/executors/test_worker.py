"""A worker alone, driven over a line that the test holds: what it writes, when, and what it does when it cannot."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from tests import zoo
from tuner.checkpoints import format as checkpoint
from tuner.checkpoints.store import checkpoint_path
from tuner.executors import worker as working
from tuner.executors.protocol import (
    Alive,
    Answer,
    Done,
    Flush,
    Message,
    Notice,
    Report,
    Started,
    Stop,
    Trouble,
)
from tuner.training import evaluation
from tuner.training.config import TrainConfig
from tuner.training.task import Row, Task
from tuner.workloads.base import Job, Setup
from tuner.workloads.network.runner import NetworkSetup, NetworkTrainer


class Line:
    """Answers every question at once, unless told to keep silent after `last` epochs."""

    def __init__(self) -> None:
        self.said: list[Message] = []
        self.words: deque[Any] = deque()

    def send(self, message: Message) -> None:
        self.said.append(message)
        if isinstance(message, Flush) or (isinstance(message, Report) and message.waits):
            self.words.append(Answer())

    def receive(self) -> Any:
        if not self.words:
            raise EOFError
        return self.words.popleft()

    def waiting(self) -> bool:
        return bool(self.words)

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.said if isinstance(message, kind)]


def made(folder: Path, line: Line, **task: Any) -> tuple[working.Worker, Job]:
    setup = Setup("network", NetworkSetup({"source": "breast_cancer"}), str(folder), "cpu", 1)
    found = working.Worker(0, setup, line)
    rows = tuple(Row(n, n, {"width": 8}, TrainConfig(epochs=4)) for n in range(2))
    signature = zoo.Signature("classification", "numbers", (30,), 2)
    return found, Job(0, (0, 1), 1, Task(rows, "mlp", signature, True, 1, "val/accuracy", True, **task))


def test_a_checkpoint_is_written_at_the_end_of_an_epoch_when_it_is_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working, "CHECKPOINT_SECONDS", 0.0)
    line = Line()
    worker, work = made(tmp_path, line)
    saved: list[int] = []
    save = checkpoint.save
    monkeypatch.setattr(
        checkpoint, "save", lambda path, state, **o: (saved.append(state.get("epoch", -1)), save(path, state, **o))[1]
    )
    worker.train(work)
    assert [epoch for epoch in saved if epoch >= 0] == [0, 1, 2, 3]
    assert line.of(Done)


def test_a_rung_is_a_checkpoint_and_a_worker_goes_on_from_it(tmp_path: Path) -> None:
    line = Line()
    worker, work = made(tmp_path, line, rungs=frozenset({2}))
    worker.train(work)
    assert checkpoint.load(checkpoint_path(tmp_path, 0))["epoch"] == 2
    again = Line()
    worker, work = made(tmp_path, again, rungs=frozenset({2}))
    worker.train(work)
    assert [started.epoch for started in again.of(Started)] == [2]
    assert [(r.epoch, r.metrics) for r in again.of(Report)] == [(r.epoch, r.metrics) for r in line.of(Report)][2:]


def test_no_checkpoint_is_written_before_what_was_said_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working, "CHECKPOINT_SECONDS", 0.0)
    line = Line()
    worker, work = made(tmp_path, line)
    line.send = line.said.append  # type: ignore[method-assign,assignment] # a driver that never answers
    with pytest.raises(EOFError):
        worker.train(work)
    assert isinstance(line.said[-1], Flush)
    assert not checkpoint_path(tmp_path, 0).exists()


def test_a_corrupt_checkpoint_is_told_and_the_one_before_is_used(tmp_path: Path) -> None:
    line = Line()
    worker, work = made(tmp_path, line, rungs=frozenset({1, 3}))
    worker.train(work)
    path = checkpoint_path(tmp_path, 0)
    path.write_bytes(path.read_bytes()[:-3])
    again = Line()
    worker, work = made(tmp_path, again)
    worker.train(work)
    (started,) = again.of(Started)
    assert started.epoch == 1
    assert len(started.notes) == 1 and "corrupt (sha256), using the one before" in started.notes[0]


def test_a_full_disk_pauses_with_one_notice_and_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working, "_RETRY_SECONDS", 0.01)
    fsync, refusals = os.fsync, iter([True] * 3)

    def full(descriptor: int) -> None:
        if next(refusals, False):
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    line = Line()
    worker, work = made(tmp_path, line, rungs=frozenset({1}))
    worker.train(work)
    (notice,) = line.of(Notice)
    assert "MB, " in notice.message and "free at" in notice.message and "paused until there is room" in notice.message
    assert line.of(Done) and checkpoint.load(checkpoint_path(tmp_path, 0))["epoch"] == 1


def test_any_other_fault_of_the_disk_is_the_machines(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("a file where a folder belongs")
    line = Line()
    worker, work = made(tmp_path, line)
    worker.train(work)
    (trouble,) = line.of(Trouble)
    assert trouble.machine and "cannot be written" in trouble.message


def test_a_stop_saves_at_the_next_step(tmp_path: Path) -> None:
    line = Line()
    worker, work = made(tmp_path, line)
    line.words.append(Stop())
    worker._heard = 0.0
    worker.train(work)
    (done,) = line.of(Done)
    assert done.saved
    state = checkpoint.load(checkpoint_path(tmp_path, 0))
    assert (state["epoch"], state["step"]) == (0, 0)


def test_an_evaluation_of_many_batches_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a long one would be taken for a worker that hangs, and ended."""
    monkeypatch.setattr(working, "ALIVE_SECONDS", -1.0)
    monkeypatch.setattr(working, "_LISTEN_SECONDS", 1e9)  # between steps nothing is said
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", 20)
    line = Line()
    worker, work = made(tmp_path, line)
    worker.train(work)
    assert isinstance(worker.trainer, NetworkTrainer)
    batches = -(-len(worker.trainer.arrays.inputs) // 20)
    assert len(line.of(Alive)) == 4 * batches


def test_a_full_disk_is_waited_for_with_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working, "ALIVE_SECONDS", -1.0)
    monkeypatch.setattr(working, "_LISTEN_SECONDS", 1e9)
    monkeypatch.setattr(working, "_RETRY_SECONDS", 0.0)
    save, full = checkpoint.save, [True] * 3

    def crowded(path: Path, state: Any, **options: Any) -> None:
        if full and full.pop():
            raise OSError(28, "No space left on device")
        save(path, state, **options)

    line = Line()
    worker, work = made(tmp_path, line)
    monkeypatch.setattr(checkpoint, "save", crowded)
    worker.train(work)
    paused = [type(message) for message in line.said].index(Notice)
    assert [type(message) for message in line.said[paused + 1 : paused + 4]] == [Alive] * 3
    assert line.of(Done)
