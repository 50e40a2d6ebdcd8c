"""Tuner's own study loop over workers that do nothing: what a trial costs before anybody trains it.

Everything of the product but the training: a study file, the sampler, cohorts by structure, the ledger on the disk, the
history, plain progress into nowhere. A worker says at once what it may say before it needs an answer, as trials do that
take no time. Run as a script it drives one study and leaves its times and its memory as JSON, for `overhead.py` and
`memory.py`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO, cast

import psutil
from reference import SPACE

from tuner.checkpoints.store import Folder
from tuner.events import Created, Opened
from tuner.executors.protocol import Answer, Done, Ended, Executor, Message, Report, Started
from tuner.history.fold import History
from tuner.ledger import Ledger
from tuner.spec import StudySpec
from tuner.startup import ImportAhead
from tuner.study import launch
from tuner.study.log import StudyLog
from tuner.study.loop import StudyLoop
from tuner.study.session import StudySession
from tuner.terminal.progress import Now, PlainProgress
from tuner.workloads.base import Job
from tuner.workloads.network.workload import NetworkWorkload

Begin = Callable[[StudySession], Executor]

METRIC = "val/accuracy"
MARKS = 20  # looks at the memory, evenly over the trials


def score(learning_rate: float, dropout: float, epoch: int) -> float:
    """What a trial reports: best at a rate of 0.01 without dropout, and better from epoch to epoch."""
    return 1.0 - 0.1 * abs(math.log10(learning_rate) + 2.0) - 0.1 * dropout - 0.5 / epoch


def spec(sampler: str, trials: int, epochs: int, pruner: str = "none") -> StudySpec:
    return StudySpec.from_json(
        {
            "study": "idle",
            "seed": 1,
            "data": {"source": "digits", "validation": 0.2, "test": 0.2},
            "model": {"family": "mlp"},
            "train": {"epochs": epochs},
            "search": {
                "space": SPACE,
                "objective": {"metric": METRIC, "goal": "maximize"},
                "sampler": {"kind": sampler},
                "pruner": {"kind": pruner},
                "trials": trials,
            },
            "run": {"device": "cpu"},
            "tracking": {"mlflow": "off"},
        },
        Path(__file__).parent,
    )


@dataclass
class Clock:
    """Seconds spent inside the calls that it was put around, by name."""

    seconds: dict[str, float] = field(default_factory=dict)

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        self.seconds[name] = 0.0

        def timed(*arguments: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                self.seconds[name] += time.perf_counter() - begun

        return timed

    def outside(self, name: str, context: Callable[[], AbstractContextManager[None]]) -> Callable[[], Any]:
        """The same of a context: what it takes to open and to close."""
        self.seconds[name] = 0.0

        @contextmanager
        def timed() -> Iterator[None]:
            inner, begun = 0.0, time.perf_counter()
            with context():
                opened = time.perf_counter()
                yield
                inner = time.perf_counter() - opened
            self.seconds[name] += time.perf_counter() - begun - inner

        return timed


Life = Generator[Message, Answer | None, None]


@dataclass
class Idle:
    """An executor whose workers say at once what training would let them say."""

    workers: int
    _live: dict[int, Life] = field(default_factory=dict)
    _due: dict[int, Answer | None] = field(default_factory=dict)  # what to send next; absent while one waits

    def submit(self, job: Job) -> None:
        self._live[job.cohort], self._due[job.cohort] = life(job), None

    def receive(self, timeout: float) -> Sequence[Message]:  # noqa: ARG002 - the protocol's
        messages: list[Message] = []
        for cohort in list(self._due):
            while cohort in self._due:
                try:
                    message = self._live[cohort].send(self._due[cohort])
                except StopIteration:
                    del self._due[cohort], self._live[cohort]
                    break
                messages.append(message)
                self._due[cohort] = None
                if isinstance(message, Report) and message.waits:
                    del self._due[cohort]
        return messages

    def answer(self, cohort: int, answer: Answer) -> None:
        self._due[cohort] = answer

    def stop(self) -> None: ...

    def close(self) -> None: ...


def life(job: Job) -> Life:
    """What a worker says of a cohort that needs no time."""
    task, cohort, attempt = job.payload, job.cohort, job.attempt
    rows, epochs = {row.number: row for row in task.rows}, task.rows[0].config.epochs
    yield Started(cohort, attempt, 0, 0)
    for epoch in range(1, epochs + 1):
        if not rows:
            break
        metrics = {}
        for number, row in rows.items():
            value = score(row.config.learning_rate, float(row.network["dropout"]), epoch)
            metrics[number] = {"train/loss": 1.0 - value, "val/loss": 1.1 - value, METRIC: value}
        undecided = frozenset(rows) if epoch in task.rungs and epoch < epochs else frozenset()
        answer = yield Report(cohort, attempt, epoch, metrics, {}, 0.01, undecided)
        if answer is not None:
            rows = {number: row for number, row in rows.items() if number not in answer.stop}
    for number in rows:
        yield Ended(cohort, attempt, number, epochs, epochs)
    yield Done(cohort, attempt)


class Nowhere:
    """Where plain progress goes."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None: ...


def drive(
    wanted: StudySpec,
    folder: Path,
    *,
    workers: int,
    watch: Callable[[History], None] = lambda _: None,
    begin: Begin | None = None,
) -> tuple[History, dict[str, float]]:
    """One study of idle trials in `folder`: its history, and seconds in all and by part; `receive` is in none of them.

    `watch` sees it grow. The workers are those that `begin` makes, where it is given; who made them closes them.
    """
    workload = NetworkWorkload(wanted)
    with Ledger.create(folder) as ledger, ledger.lock():
        body = {"spec": wanted.canonical(), "digest": wanted.digest, "text": "", "seed": wanted.seed, "id": "idle"}
        data = {"name": "digits", "digest": "", "split": "", "rows": workload.dataset.rows, "signature": {}}
        ledger.append([Created(**body, data=data), Opened(host="here", pid=1)])
        history, clock = ledger.history(), Clock()
        search = launch._search(wanted, history)
        progress = PlainProgress(cast("TextIO", Nowhere()))
        session = StudySession(wanted, workload, StudyLog(ledger, history), progress, folder, ImportAhead())
        executor = begin(session) if begin else Idle(workers)
        cohorts = workload.cohorts(workers, (), print)

        def now(_workers: int) -> Now:
            watch(history)
            return Now(trials=wanted.search.trials, workers=workers, tracking=None)

        timed: list[tuple[str, Any, str]] = [
            ("ask", search, "ask"), ("observe", search, "observe"), ("tell", search, "tell"),
            ("ledger", ledger, "append"), ("progress", progress, "update"),
            ("worker", executor, "receive"),
            ("group", cohorts, "group"), ("work", workload, "payload"), ("sizes", workload, "static_metrics"),
        ]  # fmt: skip
        for name, owner, method in timed:
            setattr(owner, method, clock.around(name, getattr(owner, method)))
        ledger.together = clock.outside("commit", ledger.together)  # type: ignore[method-assign]
        begun = time.perf_counter()
        driver = StudyLoop(session, search, executor, cohorts, Folder(folder), now)
        if not driver.run(lambda: False):
            raise RuntimeError("the study loop stopped before its last trial ended")
        total = time.perf_counter() - begun - clock.seconds.pop("worker")
    return history, {"total": total, **clock.seconds, "rest": total - sum(clock.seconds.values())}


def resident() -> int:
    """Bytes of this process in memory now."""
    return psutil.Process().memory_info().rss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sampler", default="random")
    parser.add_argument("--pruner", default="none")
    parser.add_argument("--trials", type=int, default=1_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    marks: list[tuple[int, int]] = []  # trials that have ended, bytes

    def watch(history: History) -> None:
        if history.ended >= (len(marks) + 1) * given.trials / MARKS:
            marks.append((history.ended, resident()))

    with tempfile.TemporaryDirectory(dir=given.out.parent) as home:
        wanted = spec(given.sampler, given.trials, given.epochs, given.pruner)
        history, seconds = drive(wanted, Path(home) / "studies" / "idle", workers=given.workers, watch=watch)
    if history.ended != given.trials:
        sys.exit(f"{history.ended} of {given.trials} trials ended")
    reports = sum(len(trial.reports) for trial in history.trials.values())
    told = {
        "seconds": seconds,
        "trials": given.trials,
        "reports": reports,
        "cohorts": len(history.cohorts),
        "memory": marks,
    }
    given.out.write_text(json.dumps(told))


if __name__ == "__main__":
    main()
