"""Executors of every kind and small work for them, and a Ray that nobody else meets."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import zoo
from tests.servers import PATIENCE
from tuner import data
from tuner.executors.local import LocalExecutor
from tuner.executors.protocol import (
    Alive,
    Answer,
    Done,
    Executor,
    Flush,
    Lost,
    Message,
    Notice,
    Ready,
    Report,
    Trouble,
)
from tuner.training.config import TrainConfig
from tuner.training.task import Row, Task
from tuner.workloads.base import Job, Setup
from tuner.workloads.network.runner import NetworkSetup

if TYPE_CHECKING:
    from tuner.checkpoints.remote import Storage

SOURCE = "breast_cancer"
SIGNATURE = zoo.Signature("classification", "numbers", (30,), 2)
OUR_TOKEN = secrets.token_hex(32)  # one for this process, because Ray reads it once


@contextlib.contextmanager
def private_ray(our_token: str = OUR_TOKEN, **variables: str) -> Iterator[None]:
    """A folder with a short path, because Ray puts sockets there, and a token that nobody else has."""
    folder = Path(tempfile.mkdtemp(prefix="tuner-", dir="/tmp"))
    (folder / "ray").mkdir()
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(our_token)
    variables |= {"RAY_TMPDIR": str(folder), "RAY_AUTH_TOKEN_PATH": str(token)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        try:
            yield
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def small_ray() -> Iterator[Any]:
    """A small Ray of the tests' own: two processors by name, whatever there are."""
    ray = pytest.importorskip("ray")
    with private_ray():
        ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        try:
            yield ray
        finally:
            ray.shutdown()


Begin = Callable[..., Executor]


def begin_local(folder: Path, count: int = 1, *, pinned: Any = None, **_: Any) -> Executor:
    return LocalExecutor([setup(folder, pinned)] * count)


def begin_on_ray(
    folder: Path,
    count: int = 1,
    *,
    pinned: Any = None,
    network: Any = None,
    memory: int = 0,
    storage: str = "",
    **options: Any,
) -> Executor:
    from tuner.executors.ray_cluster import Needs, RayExecutor

    dataset = data.load(SOURCE).without_test()
    told = setup(folder, pinned, storage)
    return RayExecutor(told, count, Needs(1.0, memory=memory), dataset, network or {}, **options)


def begin_with_storage(folder: Path, count: int = 1, **options: Any) -> Executor:
    """On Ray, with a storage in that folder, which every worker sees."""
    return begin_on_ray(folder, count, storage=begun(f"file://{folder}/shared").url, **options)


def begun(url: str) -> Storage:
    """A study's storage as its driver leaves it to its workers."""
    from tuner.checkpoints.remote import Storage

    storage = Storage(url)
    storage.begin({"study": "small"}, known=False)
    return storage


def setup(folder: Path, pinned: Any = None, storage: str = "") -> Setup:
    return Setup("network", NetworkSetup({"source": SOURCE}, pinned or {}), str(folder), "cpu", 1, storage=storage)


def rows(*rates: float, epochs: int = 4, first: int = 0) -> list[Row]:
    settings = {"epochs": epochs, "optimizer": "sgd"}
    return [
        Row(first + n, n, {"width": 8}, TrainConfig(**settings, learning_rate=rate)) for n, rate in enumerate(rates)
    ]  # type: ignore[arg-type]


def work(cohort: int, rows: Sequence[Row], attempt: int = 1, family: str = "mlp", **other: Any) -> Job:
    task = Task(tuple(rows), family, SIGNATURE, True, 1, "val/accuracy", True, **other)
    return Job(cohort, tuple(row.number for row in rows), attempt, task)


def train(
    executor: Executor,
    works: Sequence[Job],
    verdict: Callable[[Report], set[int]] = lambda _: set(),
    watch: Callable[[Message], object] = lambda _: None,
) -> dict[int, list[Message]]:
    """Have the works done; what was said of each cohort, but for signs of life."""
    for one in works:
        executor.submit(one)
    said: dict[int, list[Message]] = defaultdict(list)
    open_ = {one.cohort for one in works}
    deadline = time.monotonic() + PATIENCE
    while open_:
        assert time.monotonic() < deadline, dict(said)
        for message in executor.receive(0.2):
            watch(message)
            if isinstance(message, Ready | Alive | Notice) or message.cohort is None:
                continue
            said[message.cohort].append(message)
            if isinstance(message, Flush):
                executor.answer(message.cohort, Answer())
            elif isinstance(message, Report) and message.waits:
                executor.answer(message.cohort, Answer(frozenset(verdict(message))))
            elif isinstance(message, Done | Trouble | Lost):
                open_.discard(message.cohort)
    return said


def of(kind: type, said: Sequence[Message]) -> list[Any]:
    return [message for message in said if isinstance(message, kind)]


def numbers(said: Sequence[Message]) -> list[tuple[int, Any]]:
    return [(report.epoch, report.metrics) for report in of(Report, said)]
