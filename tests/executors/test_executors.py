"""What every executor must keep, one suite for all: the same words in the same order, and the same numbers to the bit.

A test takes `place`, a kind of workers; what is about one kind alone stands at the end.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

import tuner
from tests import studies
from tests.crews import (
    SOURCE,
    Begin,
    begin_local,
    begin_on_ray,
    begin_with_storage,
    numbers,
    of,
    rows,
    setup,
    train,
    work,
)
from tests.servers import PATIENCE
from tests.study.test_study import Silent
from tuner import data, events, models
from tuner.checkpoints import format as checkpoint
from tuner.checkpoints.remote import Storage
from tuner.checkpoints.store import checkpoint_path, weights_path
from tuner.errors import DataError, InputError, SpecError, TunerError
from tuner.events import Reported
from tuner.executors import code_bundle
from tuner.executors.actor import File
from tuner.executors.protocol import (
    Done,
    Ended,
    Executor,
    Lost,
    Message,
    Notice,
    Ready,
    Report,
    Started,
    Trouble,
)
from tuner.ledger import Ledger
from tuner.study.launch import Study
from tuner.terminal.progress import PlainProgress
from tuner.training.config import TrainConfig
from tuner.training.task import Row
from tuner.workloads.base import Job

NETWORK = """
from torch import nn
from beside import WIDTH

class Net(nn.Module):
    def __init__(self, signature):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(30, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2))

    def forward(self, x):
        return self.layers(x)
"""


pytestmark = pytest.mark.xdist_group("ray")
KINDS: dict[str, Begin] = {"local": begin_local, "ray": begin_on_ray, "ray with a storage": begin_with_storage}


@dataclass
class Place:
    """Workers of one kind that many tests share; `begin` makes others. Cohorts are numbered through."""

    kind: str
    begin: Begin
    folder: Path
    executor: Executor
    cohorts: int = 0

    def saved(self, folder: Path, cohort: int) -> Any:
        """The state that workers in that folder have kept."""
        if self.begin is not begin_with_storage:
            return checkpoint.load(checkpoint_path(folder, cohort))
        assert not (folder / "checkpoints").exists()
        state, notes = checkpoint.newest(Storage(f"file://{folder}/shared").generations(cohort))
        assert not notes
        return state

    def task(self, rows: Sequence[Row], **other: Any) -> Job:
        self.cohorts += 1
        return work(self.cohorts, rows, **other)


@pytest.fixture(scope="module", params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    if request.param != "local":
        request.getfixturevalue("ray")
    folder, begin = tmp_path_factory.mktemp("study"), KINDS[request.param]
    with contextlib.closing(begin(folder)) as executor:
        yield Place(request.param, begin, folder, executor)


# --- of all of them -----------------------------------------------------------------------------------


def test_what_happens_is_told_in_its_order(place: Place) -> None:
    one = place.task(rows(0.01, 0.1))
    said = train(place.executor, [one])[one.cohort]
    assert [type(message) for message in said] == [Started, *[Report] * 4, Ended, Ended, Done]
    assert [report.epoch for report in of(Report, said)] == [1, 2, 3, 4]
    assert {(message.cohort, message.attempt) for message in said} == {(one.cohort, 1)}  # type: ignore[union-attr]
    assert [ended.trial for ended in of(Ended, said)] == [0, 1]


def test_weights_are_in_the_studys_folder_when_an_end_is_told(place: Place) -> None:
    found = []

    def look(message: Message) -> None:
        if isinstance(message, Ended):
            found.append(checkpoint.load(weights_path(place.folder, message.trial))["weights"])

    train(place.executor, [place.task(rows(0.01, 0.1, first=100))], watch=look)
    assert len(found) == 2 and all(isinstance(one, torch.Tensor) for weights in found for one in weights.values())


def test_a_cohort_waits_for_verdicts_at_a_rung_and_heeds_them(place: Place) -> None:
    whole = place.task(rows(0.01, 0.1, 0.2))
    free = train(place.executor, [whole])[whole.cohort]
    one = place.task(rows(0.01, 0.1, 0.2), rungs=frozenset({2}))
    said = train(place.executor, [one], lambda report: {1} if report.epoch == 2 else set())[one.cohort]
    assert [sorted(report.metrics) for report in of(Report, said)] == [[0, 1, 2], [0, 1, 2], [0, 2], [0, 2]]
    assert [report.undecided for report in of(Report, said)] == [frozenset(), {0, 1, 2}, frozenset(), frozenset()]
    for epoch, metrics in numbers(said):
        assert metrics == {trial: dict(numbers(free))[epoch][trial] for trial in metrics}
    assert [ended.trial for ended in of(Ended, said)] == [0, 2]


def test_a_row_that_diverges_fails_alone(place: Place) -> None:
    one = place.task(rows(0.01, 1e30, 0.1))
    said = train(place.executor, [one])[one.cohort]
    failed = {trial: text for report in of(Report, said) for trial, text in report.failed.items()}
    assert set(failed) == {1} and "diverged" in failed[1]
    assert [ended.trial for ended in of(Ended, said)] == [0, 2]
    calm = place.task(rows(0.01, 0.01, 0.1))
    expected = dict(numbers(train(place.executor, [calm])[calm.cohort]))
    assert [metrics[2] for _, metrics in numbers(said)] == [expected[epoch][2] for epoch, _ in numbers(said)]


def test_a_network_that_raises_is_its_cohorts_trouble_and_the_worker_goes_on(place: Place) -> None:
    bad = place.task([Row(0, 0, {"widht": 8}, TrainConfig(epochs=1))])
    good = place.task(rows(0.1, epochs=1))
    said = train(place.executor, [bad, good])
    (trouble,) = of(Trouble, said[bad.cohort])
    assert not trouble.memory and not trouble.machine and "widht" in trouble.message
    assert of(Done, said[good.cohort])


def test_every_executor_gives_the_same_numbers_to_the_bit(place: Place, tmp_path: Path) -> None:
    """Against a worker of this process, in other company, without any executor between."""
    from tests.executors.test_worker import Line
    from tuner.executors.worker import Worker

    line = Line()
    Worker(0, setup(tmp_path), line).train(work(0, rows(0.01, 0.1, 0.2, first=200)))
    some, others = place.task(rows(0.01, 0.1, 0.2, first=200)), place.task(rows(0.01, first=200))
    said = train(place.executor, [some, others])
    assert numbers(said[some.cohort]) == numbers(line.said)
    alone = [(epoch, {200: metrics[200]}) for epoch, metrics in numbers(line.said)]
    assert numbers(said[others.cohort]) == alone
    for trial in (200, 201, 202):
        theirs, ours = (checkpoint.load(weights_path(f, trial))["weights"] for f in (place.folder, tmp_path))
        assert theirs.keys() == ours.keys() and all(torch.equal(theirs[name], ours[name]) for name in ours)


def test_a_stopped_cohort_goes_on_from_where_it_was_saved_to_the_same_numbers(place: Place, tmp_path: Path) -> None:
    """Told to stop while it waits for a verdict, so that it can be nowhere else."""
    trained = rows(0.01, 0.1, epochs=8)
    with contextlib.closing(place.begin(tmp_path)) as executor:

        def stop(message: Message) -> None:
            if isinstance(message, Report) and message.epoch == 3:
                executor.stop()

        before = train(executor, [work(1, trained, rungs=frozenset({3}))], watch=stop)[1]
    (done,) = of(Done, before)
    assert done.saved and [report.epoch for report in of(Report, before)] == [1, 2, 3]
    assert place.saved(tmp_path, 1)["epoch"] == 3
    with contextlib.closing(place.begin(tmp_path)) as executor:
        after = train(executor, [work(1, trained, attempt=2, rungs=frozenset({3}))])[1]
    (started,) = of(Started, after)
    assert (started.epoch, started.attempt) == (3, 2)
    whole = place.task(trained, rungs=frozenset({3}))
    expected = numbers(train(place.executor, [whole])[whole.cohort])
    assert [*numbers(before), *numbers(after)] == expected


def test_a_file_that_cannot_be_written_is_the_machines_fault_and_no_trials(place: Place, tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("a file where a folder belongs")
    with contextlib.closing(place.begin(tmp_path)) as executor:
        said = train(executor, [work(1, rows(0.1, epochs=1))])[1]
    (trouble,) = of(Trouble, said)
    assert trouble.machine and "cannot be written" in trouble.message
    assert not of(Ended, said) or place.kind != "local"


@pytest.mark.parametrize(
    "place",
    ["local", pytest.param("ray", marks=pytest.mark.slow), pytest.param("ray with a storage", marks=pytest.mark.slow)],
    indirect=True,
)
def test_a_worker_that_is_killed_or_frozen_is_told_and_replaced(place: Place, tmp_path: Path) -> None:
    """SIGKILL, then SIGSTOP of the worker that came after it; the third one ends what the first began.

    Each befalls a worker that waits for a verdict; a frozen one has been silent for too long at once.
    """
    executor: Any = place.begin(tmp_path)
    signals, rungs = [signal.SIGKILL, signal.SIGSTOP], frozenset({2, 4})

    def patience(seconds: float) -> None:
        executor._hang_seconds = executor._silent_seconds = seconds

    def harm(message: Message) -> None:
        if isinstance(message, Report) and message.epoch == 4 and signals:
            if len(signals) == 1:
                patience(0.0)
            os.kill(executor.processes[0], signals.pop(0))
        elif isinstance(message, Lost):
            patience(PATIENCE)

    patience(PATIENCE)
    with contextlib.closing(executor):
        told = rows(0.01, 0.1, epochs=6)
        attempts = [train(executor, [work(1, told, attempt, rungs=rungs)], watch=harm)[1] for attempt in (1, 2, 3)]
    lost = [of(Lost, said)[0] for said in attempts[:2]]
    assert [(one.cohort, one.attempt) for one in lost] == [(1, 1), (1, 2)]
    assert "worker 0 lost (" in lost[0].message
    assert "0 s" in lost[1].message
    assert [of(Started, said)[0].epoch for said in attempts] == [0, 2, 2]
    whole = place.task(told, rungs=rungs)
    expected = numbers(train(place.executor, [whole])[whole.cohort])
    assert numbers(attempts[0]) == expected[:4]
    assert numbers(attempts[2]) == expected[2:]
    assert of(Done, attempts[2])


# --- of a cluster alone -------------------------------------------------------------------------------


def test_a_network_of_ones_own_is_sent_with_what_it_imports(ray: Any, tmp_path: Path) -> None:
    """Its folder is gone when it is trained: as on another machine, where it never was."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "net.py").write_text(NETWORK)
    (theirs / "beside.py").write_text("from inside.deep import WIDTH")
    (theirs / "inside").mkdir()
    (theirs / "inside" / "__init__.py").write_text("")
    (theirs / "inside" / "deep.py").write_text("WIDTH = 5; LOADED = 'start.json'")
    (theirs / "inside" / "start.json").write_text("{}")
    one = work(1, [Row(0, 0, {}, TrainConfig(epochs=2))], family="net.py:Net", folder=str(theirs))
    digest = models.digest("net.py:Net", theirs, whole=False)
    packed = code_bundle.pack("net.py:Net", theirs)
    assert packed["inside/start.json"] == b"{}"
    shutil.rmtree(theirs)
    before = set(Path(tempfile.gettempdir()).glob("tuner-network-*"))
    with contextlib.closing(begin_on_ray(tmp_path, network=packed, pinned={"network": digest})) as executor:
        said = train(executor, [one])[1]
        assert of(Done, said), said
        assert set(Path(tempfile.gettempdir()).glob("tuner-network-*")) - before
    assert not set(Path(tempfile.gettempdir()).glob("tuner-network-*")) - before
    weights = checkpoint.load(weights_path(tmp_path, 0))["weights"]
    assert weights["layers.0.weight"].shape == (5, 30)


def test_nothing_is_packed_of_a_network_of_ours_nor_a_whole_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert code_bundle.pack("package.module:Net", tmp_path) == {}
    (tmp_path / "net.py").write_text("x" * 100)
    (tmp_path / "data.csv").write_text("y" * 1_000)
    assert code_bundle.pack("net.py:Net", tmp_path) == {"net.py": b"x" * 100}
    monkeypatch.setattr(code_bundle, "MOST_BYTES", 99)
    with pytest.raises(InputError, match="give it a folder of its own"):
        code_bundle.pack("net.py:Net", tmp_path)


def test_the_test_rows_are_not_sent() -> None:
    whole = data.load(SOURCE)
    sent = whole.without_test()
    with pytest.raises(DataError, match=r"data\.test"):
        sent.open_test()
    assert (sent.digest, sent.split_digest) == (whole.digest, whole.split_digest)
    assert sent.train is whole.train and sent.validation is whole.validation
    assert len(whole.open_test()) == whole.rows["test"]


@pytest.mark.slow
@pytest.mark.usefixtures("ray", "copied_workers")
def test_a_study_is_the_same_trial_by_trial_on_a_cluster_though_its_workers_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its file to its champion, with a worker killed in each of two places; then it is launched again, at home."""
    from tuner.executors.ray_cluster import RayExecutor

    content = studies.study(search={"trials": 8, "pruner": studies.WAITING}, train={"epochs": 6})
    here = tuner.launch(studies.write(tmp_path, content), home=tmp_path / "here", progress=PlainProgress())
    killed: dict[int, int] = {}
    receive = RayExecutor.receive

    def killing(self: Any, timeout: float) -> list[Message]:
        messages = receive(self, timeout)
        waiting = {one.cohort for one in messages if isinstance(one, Report) and one.epoch == 5}
        for slot in self._slots:
            if slot.job and slot.job.cohort in waiting and slot.number not in killed:
                killed[slot.number] = slot.process
                os.kill(slot.process, signal.SIGKILL)
        return messages

    monkeypatch.setattr(RayExecutor, "receive", killing)
    content["run"] |= {"executor": "ray", "workers": 2}
    path = studies.write(tmp_path, content, "there.yaml")
    there = tuner.launch(path, home=tmp_path / "there", progress=PlainProgress())
    assert killed
    assert there.state == "complete" and sum(there.history.losses.values()) == len(killed)
    assert studies.facts(there.history) == studies.facts(here.history)
    again = tuner.launch(tmp_path / "study.yaml", home=tmp_path / "there", progress=PlainProgress())
    assert again.state == "complete"


@pytest.mark.usefixtures("copied_workers")
@pytest.mark.parametrize("stored", [True, False], ids=["a storage", "none"])
def test_where_there_is_a_storage_no_byte_of_a_checkpoint_goes_through_the_line(
    stored: bool, ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though a worker is killed and another goes on from its checkpoint. Without one all of them do."""
    from tuner.executors.ray_cluster import RayExecutor

    pruner = {"kind": "asha", "min_epochs": 2, "reduction": 2}  # whose rungs are checkpoints
    content = studies.study(search={"trials": 6, "pruner": pruner}, train={"epochs": 8})
    here = tuner.launch(studies.write(tmp_path, content), home=tmp_path / "here", progress=PlainProgress())
    sent, started, killed = Counter[str](), [], []
    filed, kept, receive = RayExecutor._filed, RayExecutor._kept, RayExecutor.receive

    def counting(self: Any, slot: Any, word: Any) -> Any:
        if isinstance(word, File):
            sent["weights" if word.trial is not None else "back"] += len(word.content)
        return filed(self, slot, word)

    def counting_there(self: Any, work: Job) -> Any:
        found = kept(self, work)
        sent["there"] += sum(len(content) for _, content in found)
        return found

    def killing(self: Any, timeout: float) -> list[Message]:
        messages = receive(self, timeout)
        started.extend(one for one in messages if isinstance(one, Started))
        if not killed and any(isinstance(one, Report) and one.epoch == 4 for one in messages):
            killed.append(self.processes[0])
            os.kill(killed[0], signal.SIGKILL)
        return messages

    monkeypatch.setattr(RayExecutor, "_filed", counting)
    monkeypatch.setattr(RayExecutor, "_kept", counting_there)
    monkeypatch.setattr(RayExecutor, "receive", killing)
    shared = tmp_path / "shared"
    shared.mkdir()
    content["run"] |= {"executor": "ray", **({"storage": str(shared)} if stored else {})}
    path = studies.write(tmp_path, content, "there.yaml")
    there = tuner.launch(path, home=tmp_path / "there", progress=PlainProgress())
    assert killed and [one.epoch for one in started if one.attempt == 2] == [2]
    assert studies.facts(there.history) == studies.facts(here.history)
    assert sent["weights"] > 0 and (sent["back"] == 0) == (sent["there"] == 0) == stored
    assert not list(shared.iterdir()) and not (there.folder / "checkpoints").exists()


class Stopping(Silent):
    """Ctrl-C when the epoch is reported."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epoch, self.done = epoch, False

    def update(self, history: Any, fresh: Any, now: Any) -> None:
        if not self.done and any(isinstance(event, Reported) and event.epoch == self.epoch for event in fresh):
            self.done = True  # a second Ctrl-C would end the tests
            signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("ray", "copied_workers")
def test_a_study_finds_its_checkpoints_under_another_storage_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun at one, refused while that is not mounted, gone on with at another, ended at home: to the same numbers."""
    from tuner.executors.ray_cluster import RayExecutor

    content = studies.study(train={"epochs": 6}, search={"trials": 1, "pruner": studies.WAITING})
    at_home = studies.write(tmp_path, content)
    here = tuner.launch(at_home, home=tmp_path / "here", progress=PlainProgress())
    home, heard = tmp_path / "there", [Stopping(2), Stopping(4), Silent()]
    answer, stop = RayExecutor.answer, RayExecutor.stop
    held: list[Any] = []

    def answering(self: Any, cohort: int, word: Any) -> None:
        """After a Ctrl-C no verdict before the word to stop: so the worker comes no further."""
        if progress.done and progress.epoch:
            held.append((cohort, word))
        else:
            answer(self, cohort, word)

    def stopping(self: Any) -> None:
        stop(self)
        progress.epoch = 0
        while held:
            answer(self, *held.pop())

    monkeypatch.setattr(RayExecutor, "answer", answering)
    monkeypatch.setattr(RayExecutor, "stop", stopping)
    progress = heard[0]

    def launched(storage: str) -> Study:
        (tmp_path / storage).mkdir(exist_ok=True)
        content["run"] |= {"executor": "ray", "storage": str(tmp_path / storage)}
        return tuner.launch(studies.write(tmp_path, content, "there.yaml"), home=home, progress=progress)

    assert launched("first").state == "interrupted"
    (folder,) = (tmp_path / "first").iterdir()
    assert folder.name.startswith("small-") and list(folder.glob("*/*.pt"))
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(TunerError, match=r"expected the checkpoints of an earlier launch at .*first/small-.*mount it"):
        launched("first")
    (tmp_path / "elsewhere").rename(folder)
    progress = heard[1]
    assert launched("second").state == "interrupted"
    there = tuner.launch(at_home, home=home, progress=heard[2])
    assert studies.facts(there.history) == studies.facts(here.history)
    second = str(tmp_path / "second" / folder.name)
    assert f"checkpoints of 1 cohort brought from {folder} to {second}" in heard[1].lines
    assert f"checkpoints of 1 cohort brought from {second} to the study's folder" in heard[2].lines
    with Ledger.open(there.folder, read_only=True) as ledger:
        epochs = [event.epoch for event in ledger.read() if isinstance(event, events.Started)]
    assert epochs == [0, 2, 4]
    assert not [*(tmp_path / "first").iterdir(), *(tmp_path / "second").iterdir()]


@pytest.mark.usefixtures("copied_workers")
def test_data_larger_than_memory_are_read_by_every_node(
    ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would not fit into a cluster's memory either; the batches are those of a study at home."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    columns: dict[str, Any] = {name: generator.normal(size=200) for name in "abc"}
    columns["y"] = np.where(columns["a"] > 0, "yes", "no")
    parquet.write_table(pa.table(columns), tmp_path / "rows.parquet")
    content = studies.study(search={"trials": 2}, train={"epochs": 2})
    content["data"] = {"source": "rows.parquet", "target": "y", "memory": 0}
    here = tuner.launch(studies.write(tmp_path, content), home=tmp_path / "here", progress=PlainProgress())
    content["run"] |= {"executor": "ray"}
    told = io.StringIO()
    path = studies.write(tmp_path, content, "there.yaml")
    there = tuner.launch(path, home=tmp_path / "there", progress=PlainProgress(told))
    assert studies.facts(there.history) == studies.facts(here.history)
    assert f"larger than memory: every node reads it from {tmp_path}" in told.getvalue()


def test_a_worker_that_finds_other_data_ends_the_launch_with_its_words(ray: Any, tmp_path: Path) -> None:
    with (
        contextlib.closing(begin_on_ray(tmp_path, pinned={"data": "another"})) as executor,
        pytest.raises(TunerError, match=r"workers cannot start.*the data changed while the study ran"),
    ):
        train(executor, [work(1, rows(0.1))])


def test_fewer_places_than_workers_are_told_once_and_the_work_is_done(
    ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuner.executors.ray_cluster._PLACE_SECONDS", PATIENCE)
    told: list[str] = []
    with contextlib.closing(begin_on_ray(tmp_path, count=4)) as executor:
        assert executor.workers == 2
        works = [work(n, rows(0.1, epochs=1)) for n in range(4)]
        said = train(executor, works, watch=lambda one: told.append(one.message) if isinstance(one, Notice) else None)
    assert all(of(Done, said[n]) for n in range(4))
    assert told == ["the cluster has places for 2 of 4 workers (1 CPU each); the others begin when it grows"]


def test_a_cluster_without_a_place_is_waited_for_and_told_once(
    ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tuner.executors import ray_cluster

    monkeypatch.setattr(ray_cluster, "_PLACE_SECONDS", 0.2)
    with contextlib.closing(begin_on_ray(tmp_path, memory=2**60)) as executor:
        told: list[Message] = []
        while not told:
            told += executor.receive(0.1)
        for _ in range(5):
            told += executor.receive(0.1)
        assert told == [Notice("the cluster has no place for a worker (1 CPU, 1.07374e+09 GiB each); waiting for one")]


def test_a_stream_that_ends_is_followed_by_another_without_a_word_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray keeps books of a stream for as long as it lasts, so none lasts a whole study. Silence is a sign of life."""
    from tuner.executors import actor as far

    monkeypatch.setattr(far, "STREAM", 2)
    monkeypatch.setattr(far, "BEAT_SECONDS", 0.01)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    actor: Any = far.Actor(0, 1)
    actor._thread = "begun"
    heard: list[Any] = []
    for number in range(5):
        actor._connection.send(Ready(number))
        heard += actor.say(None)
    assert [word.worker for words in heard for word in words] == [0, 1, 2, 3, 4]
    assert [] in heard and len(heard) == 10


def test_no_listener_outlives_a_closed_executor(ray: Any, tmp_path: Path) -> None:
    """One that called Ray after its shutdown would end the process, with 1, though the study is complete."""
    before = set(threading.enumerate())
    with contextlib.closing(begin_on_ray(tmp_path)) as executor:
        train(executor, [work(1, rows(0.1, epochs=1))])
        assert any(one.name == "tuner-listener" for one in set(threading.enumerate()) - before)
    assert not [one for one in set(threading.enumerate()) - before if one.name == "tuner-listener"]


def test_a_cluster_that_does_not_answer_is_told_at_its_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        path = studies.write(tmp_path, studies.study(run={"executor": "ray", "address": address}))
        with pytest.raises(SpecError, match=rf"run\.address: expected a Ray cluster that answers, .* at {address}"):
            tuner.launch(path, home=tmp_path)
    assert not (tmp_path / "studies").exists()
