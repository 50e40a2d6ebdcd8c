"""The study loop alone: what it stores, answers and asks for the words of workers that are scripted here."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import sqlalchemy.event

from tests.events import place
from tuner.errors import TunerError
from tuner.events import Cohort, Event, Pruned, Reported, State, Trial
from tuner.executors.protocol import Answer, Done, Ended, Flush, Lost, Message, Report, Started, Trouble
from tuner.history.fold import History
from tuner.ledger import Ledger
from tuner.models import Signature
from tuner.search_spaces import SearchSpace
from tuner.startup import ImportAhead
from tuner.study.log import StudyLog
from tuner.study.loop import StudyLoop
from tuner.study.session import StudySession
from tuner.training.config import TrainConfig
from tuner.training.task import Row, Task
from tuner.workloads.base import Job

METRIC = "val/accuracy"
EPOCHS = 4
SPACE = SearchSpace.from_dict(
    {
        "rate": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
        "width": {"type": "choice", "values": [8, 16, 32]},
    }
)
Life = Generator[Message, Answer | None, None]


def score(rate: float, epoch: int) -> float:
    return 1.0 - abs(rate - 0.03) - 0.5 / epoch


def worker(
    work: Job, epochs: int = EPOCHS, rungs: Sequence[int] = (), failing: Mapping[int, int] | None = None
) -> Life:
    """One attempt of a worker that keeps no checkpoints; `failing` maps a trial to the epoch in which it diverges."""
    cohort, attempt = work.cohort, work.attempt
    rates = {row.number: row.config.learning_rate for row in work.payload.rows}
    yield Started(cohort, attempt, 0, 0)
    for epoch in range(1, epochs + 1):
        failed = {n: f"diverged in epoch {epoch}" for n in rates if (failing or {}).get(n) == epoch}
        rates = {n: rate for n, rate in rates.items() if n not in failed}
        metrics = {n: {METRIC: score(rate, epoch)} for n, rate in rates.items()}
        waits = epoch in rungs and bool(metrics)
        answer = yield Report(
            cohort, attempt, epoch, metrics, failed, 0.5, frozenset(metrics) if waits else frozenset()
        )
        assert (answer is not None) == waits
        rates = {n: rate for n, rate in rates.items() if answer is None or n not in answer.stop}
        if epoch == epochs:
            for number in rates:
                yield Ended(cohort, attempt, number, epoch, epoch)
    yield Done(cohort, attempt)


@dataclass
class Fake:
    """Scripted workers: `life` says what an attempt at a cohort says, and is sent the answers it waits for."""

    life: Callable[[Job], Life]
    workers: int = 1
    most: int = 1_000  # messages that come at once, and so are stored together
    submitted: list[Job] = field(default_factory=list)
    answers: list[tuple[int, Answer]] = field(default_factory=list)
    on_answer: Callable[[int, Answer], None] = lambda cohort, answer: None
    _live: dict[int, Life] = field(default_factory=dict)
    _attempts: dict[int, int] = field(default_factory=dict)
    _due: dict[int, Answer | None] = field(default_factory=dict)  # what to send next; absent while one waits

    def submit(self, work: Job) -> None:
        cohort = work.cohort
        self.submitted.append(work)
        self._live[cohort], self._attempts[cohort], self._due[cohort] = self.life(work), work.attempt, None

    def receive(self, timeout: float) -> Sequence[Message]:
        said: list[Message] = []
        for cohort in list(self._due):
            while cohort in self._due and len(said) < self.most:
                try:
                    message = self._live[cohort].send(self._due[cohort])
                except StopIteration:
                    del self._due[cohort]
                    continue
                said.append(message)
                self._due[cohort] = None
                waits = isinstance(message, Flush) or (isinstance(message, Report) and message.waits)
                if waits and getattr(message, "attempt", 0) == self._attempts[cohort]:
                    del self._due[cohort]
        assert said or not timeout, "the driver waits for words that nobody will say"
        return said

    def answer(self, cohort: int, answer: Answer) -> None:
        assert cohort not in self._due, "an answer to nobody who waits"
        self.answers.append((cohort, answer))
        self._due[cohort] = answer
        self.on_answer(cohort, answer)

    def stop(self) -> None:
        raise AssertionError("nobody asked to stop")

    def close(self) -> None:
        raise AssertionError("the driver does not own its workers")

    @property
    def attempts(self) -> list[tuple[int, int, list[int]]]:
        return [(w.cohort, w.attempt, [row.number for row in w.payload.rows]) for w in self.submitted]


class FakeSearch:
    """Asks rates in a row; `verdicts` maps an epoch to the trials that it would stop there."""

    def __init__(self, verdicts: Mapping[int, set[int]] | None = None) -> None:
        self.verdicts = verdicts or {}
        self.observed: list[list[tuple[int, int, float | None]]] = []
        self.told: list[tuple[int, State, Sequence[float] | None]] = []
        self.piece = 1_000
        self.trials = 0  # as many as the stage has
        self.rungs: Any = lambda _: set()

    def hold(self) -> None: ...

    def release(self) -> None: ...

    def window(self, remaining: int) -> int:
        return remaining

    def ask(self, first: int, count: int) -> list[Trial]:
        return [Trial(n, {"rate": 0.01 * (n + 1), "width": 8}, 100 + n) for n in range(first, first + count)]

    def observe(self, reports: Sequence[tuple[int, int, float | None]]) -> set[int]:
        self.observed.append(list(reports))
        return {number for number, epoch, _ in reports if number in self.verdicts.get(epoch, ())}

    def replay(self, number: int, epoch: int, value: float | None) -> None:
        self.observed.append([(number, epoch, value)])

    def tell(self, number: int, state: State, values: Sequence[float] | None) -> None:
        self.told.append((number, state, values))


class Silent:
    def __init__(self) -> None:
        self.messages: list[str] = []

    def start(self, plan: Sequence[str]) -> None: ...

    def update(self, history: History, fresh: Sequence[Event], now: Any) -> None: ...

    def message(self, text: str) -> None:
        self.messages.append(text)

    def stop(self) -> None: ...


@dataclass
class Stage:
    """A driver with all that it joins: the stage itself is policy, workload and checkpoints."""

    ledger: Any
    executor: Fake
    search: Any
    trials: int = 4
    size: int = 4  # of a cohort
    rungs: frozenset[int] = frozenset()
    splits: list[tuple[int, list[int]]] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    progress: Silent = field(default_factory=Silent)

    # --- a policy ---

    def group(self, trials: Sequence[Trial], first: int) -> list[Cohort]:
        pieces = [tuple(trials[start : start + self.size]) for start in range(0, len(trials), self.size)]
        return [Cohort(first + index, piece, {}, True) for index, piece in enumerate(pieces)]

    def separate(self, _structure: Any) -> bool:
        return False

    # --- a workload ---

    def payload(self, cohort: Cohort, _rungs: Any) -> Task:
        rows = tuple(
            Row(t.number, t.seed, {}, TrainConfig(epochs=EPOCHS, learning_rate=float(t.params["rate"])))
            for t in cohort.trials
        )
        signature = Signature("classification", "numbers", (3,), 2)
        return Task(rows, "mlp", signature, True, 7, METRIC, True, rungs=self.rungs)

    fixed: ClassVar[dict[str, Any]] = {"depth": 2}

    def static_metrics(self, _params: Any) -> dict[str, float]:
        return {}

    # --- checkpoints ---

    def generations(self, cohort: int) -> Iterator[tuple[str, bytes]]:
        self.splits.append((cohort, []))
        yield "", b""

    def put(self, cohort: int, _content: bytes) -> None:
        self.splits[-1][1].append(cohort)

    def drop(self, cohort: int) -> None:
        stored = [trial for trial in self.ledger.history().trials.values() if trial.cohort == cohort]
        assert all(trial.ended for trial in stored), "what the ledger has not as ended may be gone on with"
        self.dropped.append(cohort)

    def driver(self, history: History) -> StudyLoop:
        spec: Any = SimpleNamespace(objectives=((METRIC, True),))
        double: Any = self
        log = StudyLog(self.ledger, history)
        session = StudySession(spec, double, log, self.progress, Path("nowhere"), ImportAhead())
        self.search.trials = self.trials
        return StudyLoop(session, self.search, self.executor, double, double, lambda _: {})

    def run(self) -> History:
        history = self.ledger.history()
        assert self.driver(history).run(lambda: False)
        assert self.facts() == facts(history), "the driver's history is the ledger's"
        return history

    def facts(self) -> list[Any]:
        return facts(self.ledger.history())

    def kinds(self, kind: type[Event]) -> list[tuple[int | None, int | None]]:
        return [place(event)[::2] for event in self.ledger.read() if isinstance(event, kind)]


def facts(history: History) -> list[Any]:
    """What a study must come to, however often it was killed."""
    return [(t.number, dict(t.params), t.seed, t.state, t.reports, t.message) for t in history.trials.values()]


def states(history: History) -> list[State]:
    return [trial.state for trial in history.trials.values()]


def test_a_study_without_a_pruner(ledger: Ledger) -> None:
    search = FakeSearch()
    stage = Stage(ledger, Fake(worker), search, trials=5, size=2)
    history = stage.run()
    assert states(history) == [State.COMPLETE] * 5
    assert stage.executor.attempts == [(0, 1, [0, 1]), (1, 1, [2, 3]), (2, 1, [4])]
    assert stage.executor.answers == []
    assert search.told == [(n, State.COMPLETE, (score(0.01 * (n + 1), EPOCHS),)) for n in range(5)]
    assert len(stage.kinds(Reported)) == 5 * EPOCHS


def test_a_verdict_counts_only_where_the_report_waits(ledger: Ledger) -> None:
    """Whatever is said of a trial's last epoch, or of any that does not wait: it goes on, and completes."""
    search = FakeSearch({1: {0}, 2: {1}, 3: {2}, EPOCHS: {0, 1, 2, 3}})
    stage = Stage(ledger, Fake(lambda work: worker(work, rungs=[2])), search)
    history = stage.run()
    assert states(history) == [State.COMPLETE, State.PRUNED, State.COMPLETE, State.COMPLETE]
    assert stage.kinds(Pruned) == [(1, None)]
    assert stage.executor.answers == [(0, Answer(frozenset({1})))]
    assert search.told == [
        (1, State.PRUNED, None),
        *((n, State.COMPLETE, (score(0.01 * (n + 1), EPOCHS),)) for n in (0, 2, 3)),
    ]


def test_all_reports_of_a_cohort_are_observed_and_stored_before_the_answer(ledger: Ledger) -> None:
    search = FakeSearch({1: {0, 3}})
    seen: list[tuple[int, int, set[int]]] = []

    def look(cohort: int, answer: Answer) -> None:
        kinds = [type(event) for event in ledger.read()]
        seen.append((kinds.count(Reported), kinds.count(Pruned), set(answer.stop)))

    executor = Fake(lambda work: worker(work, rungs=[1, 2]), on_answer=look)
    Stage(ledger, executor, search).run()
    assert [[number for number, *_ in reports] for reports in search.observed[:2]] == [[0, 1, 2, 3], [1, 2]]
    assert search.observed[0] == [(n, 1, score(0.01 * (n + 1), 1)) for n in range(4)]
    assert seen == [(4, 2, {0, 3}), (6, 2, set())]


def test_a_flush_is_answered_after_what_was_said_is_stored(ledger: Ledger) -> None:
    def life(work: Job) -> Life:
        yield Report(0, 1, 1, {0: {METRIC: 0.5}}, {}, 0.1, frozenset())
        assert (yield Flush(0, 1)) == Answer()
        yield Ended(0, 1, 0, 1, 1)
        yield Done(0, 1)

    counts: list[int] = []
    executor = Fake(life, on_answer=lambda *_: counts.append(stage.kinds(Reported).count((0, 1))))
    stage = Stage(ledger, executor, FakeSearch(), trials=1)
    assert states(stage.run()) == [State.COMPLETE]
    assert counts == [1]


def test_what_came_at_once_is_one_transaction_and_nobody_hears_of_it_before_its_end(tmp_path: Path) -> None:
    """Workers get their answers, and people their lines, when everything is on the disk."""
    heard: list[tuple[str, int]] = []
    folder = tmp_path / "studies" / "one"

    def last() -> int:
        with Ledger.open(folder, read_only=True) as other:
            return other.last()

    class Watching(Silent):
        def update(self, history: History, fresh: Sequence[Event], now: Any) -> None:
            heard.append(("shown", max((event.seq for event in fresh), default=0) - last()))

    with Ledger.create(folder) as ledger:
        commits: list[None] = []
        sqlalchemy.event.listen(ledger._place.engine, "commit", lambda _: commits.append(None))
        executor = Fake(
            lambda work: worker(work, rungs=[2]), on_answer=lambda *_: heard.append(("answered", last() - 14))
        )
        stage = Stage(ledger, executor, FakeSearch(), progress=Watching())
        stage.run()
    assert heard == [("shown", 0), ("shown", 0), ("answered", 0), ("shown", 0)]
    assert len(commits) == 3, "asked; two epochs and a question; two epochs and the end"


def test_a_fault_of_the_machine_ends_the_study_and_keeps_what_was_said_before_it(ledger: Ledger) -> None:
    def life(work: Job) -> Life:
        yield Started(0, 1, 0, 0)
        yield Report(0, 1, 1, {0: {METRIC: 0.5}}, {}, 0.1, frozenset())
        yield Trouble(0, 1, memory=False, message="no room for weights", machine=True)

    stage = Stage(ledger, Fake(life), FakeSearch(), trials=1)
    with pytest.raises(TunerError, match="no room for weights; mend it and launch again: nothing acknowledged is lost"):
        stage.run()
    assert stage.kinds(Reported) == [(0, 1)]


def test_a_report_repeated_after_a_resume_changes_nothing(ledger: Ledger) -> None:
    """The second attempt says the first epoch again, with other numbers and with a trial that was stopped in it."""

    def life(work: Job) -> Life:
        first = work.attempt == 1
        yield Started(0, work.attempt, 0, 0)
        metrics = {n: {METRIC: 0.1 * (n + 1) if first else 0.9} for n in range(3)}
        answer = yield Report(0, work.attempt, 1, metrics, {}, 0.5, frozenset(metrics))
        assert answer == Answer(frozenset({1}))
        if first:
            yield Lost(0, 1, "worker 0 died")
            return
        yield Report(0, 2, 2, {0: {METRIC: 0.5}, 2: {METRIC: 0.6}}, {}, 0.5, frozenset())
        yield Ended(0, 2, 0, 2, 2)
        yield Ended(0, 2, 2, 2, 2)
        yield Done(0, 2)

    search = FakeSearch({1: {1}})
    stage = Stage(ledger, Fake(life), search, trials=3)
    history = stage.run()
    assert stage.executor.attempts == [(0, 1, [0, 1, 2]), (0, 2, [0, 2])]
    assert [history.trials[n].reports[1][METRIC] for n in range(3)] == [0.1 * (n + 1) for n in range(3)]
    assert stage.kinds(Reported) == [(0, 1), (1, 1), (2, 1), (0, 2), (2, 2)]
    assert stage.kinds(Pruned) == [(1, None)]
    assert len(search.observed) == 2
    assert search.told == [(1, State.PRUNED, None), (0, State.COMPLETE, (0.5,)), (2, State.COMPLETE, (0.6,))]
    assert history.trials[0].seconds == 1.0


def test_a_failed_row_fails_alone(ledger: Ledger) -> None:
    search = FakeSearch()
    stage = Stage(ledger, Fake(lambda work: worker(work, failing={1: 2, 3: 1})), search)
    history = stage.run()
    assert states(history) == [State.COMPLETE, State.FAILED, State.COMPLETE, State.FAILED]
    assert history.trials[1].message == "diverged in epoch 2"
    assert [history.trials[n].epochs for n in range(4)] == [EPOCHS, 1, EPOCHS, 0]
    assert [told[:2] for told in search.told if told[1] is State.FAILED] == [(3, State.FAILED), (1, State.FAILED)]


def dying(work: Job) -> Life:
    yield Started(work.cohort, work.attempt, 0, 0)
    yield Lost(work.cohort, work.attempt, "worker 0 died")


def test_a_lost_cohort_is_trained_again(ledger: Ledger) -> None:
    executor = Fake(lambda work: dying(work) if work.attempt < 3 else worker(work))
    stage = Stage(ledger, executor, FakeSearch(), trials=3)
    assert states(stage.run()) == [State.COMPLETE] * 3
    assert executor.attempts == [(0, attempt, [0, 1, 2]) for attempt in (1, 2, 3)]
    assert stage.progress.messages == ["worker 0 died, resuming trials 0, 1, 2 after epoch 0"] * 2
    assert stage.splits == [] and stage.dropped == [0]


def test_three_losses_halve_a_cohort_and_then_fail_its_last_trial(ledger: Ledger) -> None:
    """Trial 1 kills every worker; its neighbours are told apart from it."""
    executor = Fake(lambda work: dying(work) if 1 in {row.number for row in work.payload.rows} else worker(work))
    search = FakeSearch()
    stage = Stage(ledger, executor, search, trials=5, size=3)
    history = stage.run()
    assert executor.attempts == [
        *((0, attempt, [0, 1, 2]) for attempt in (1, 2, 3)),
        *((2, attempt, [0, 1]) for attempt in (1, 2, 3)),
        (4, 1, [0]),
        *((5, attempt, [1]) for attempt in (1, 2, 3)),
        (3, 1, [2]),
        (1, 1, [3, 4]),
    ]
    assert stage.splits == [(0, [2, 3]), (2, [4, 5])]
    assert stage.dropped == [0, 2, 4, 5, 3, 1], "checkpoints go where nobody goes on from them"
    assert states(history) == [State.COMPLETE, State.FAILED, *[State.COMPLETE] * 3]
    assert history.trials[1].message == "worker 0 died, 3 times"
    assert (1, State.FAILED, None) in search.told


def test_too_little_memory_halves_the_cohort(ledger: Ledger) -> None:
    stage = Stage(ledger, Fake(lambda work: troubled(work, largest=2)), FakeSearch(), trials=5, size=5)
    assert states(stage.run()) == [State.COMPLETE] * 5
    assert [numbers for _, _, numbers in stage.executor.attempts] == [[0, 1, 2, 3, 4], [0, 1, 2], [0, 1], [2], [3, 4]]
    assert stage.splits == [(0, [1, 2]), (1, [3, 4])]
    assert stage.progress.messages[0] == "out of memory at K=5 (wanted 9 GB), going on with K=3"


def troubled(work: Job, largest: int) -> Life:
    """Out of memory with more than `largest` rows."""
    if len(work.payload.rows) > largest:
        yield Trouble(work.cohort, work.attempt, memory=True, message="wanted 9 GB")
    else:
        yield from worker(work)


def test_a_single_trial_that_wants_too_much_memory_fails(ledger: Ledger) -> None:
    stage = Stage(ledger, Fake(lambda work: troubled(work, largest=0)), FakeSearch(), trials=2)
    history = stage.run()
    assert states(history) == [State.FAILED] * 2
    assert {trial.message for trial in history.trials.values()} == {"out of memory: wanted 9 GB"}


def test_any_other_trouble_fails_the_whole_cohort(ledger: Ledger) -> None:
    def life(work: Job) -> Life:
        if work.cohort == 0:
            yield Started(0, work.attempt, 0, 0)
            yield Trouble(0, work.attempt, memory=False, message="ValueError: no such layer")
        else:
            yield from worker(work)

    search = FakeSearch()
    stage = Stage(ledger, Fake(life), search, trials=4, size=3)
    history = stage.run()
    assert states(history) == [*[State.FAILED] * 3, State.COMPLETE]
    assert [history.trials[n].message for n in range(3)] == ["ValueError: no such layer"] * 3
    assert search.told[:3] == [(n, State.FAILED, None) for n in range(3)]
    assert stage.executor.attempts == [(0, 1, [0, 1, 2]), (1, 1, [3])]


def test_the_last_words_of_an_attempt_that_was_given_up_are_ignored(ledger: Ledger) -> None:
    def life(work: Job) -> Life:
        if work.attempt == 1:
            yield Lost(0, 1, "worker 0 died")
            return
        yield Started(0, 1, 0, 3)
        yield Report(0, 1, 1, {0: {METRIC: 0.99}}, {1: "stale"}, 9.0, frozenset({0: {METRIC: 0.99}}))
        yield Flush(0, 1)
        yield Ended(0, 1, 0, 1, 1)
        yield Trouble(0, 1, memory=False, message="stale")
        yield Lost(0, 1, "stale")
        yield Done(0, 1)
        yield Lost(None, 0, "an idle worker died")
        yield from worker(work)

    stage = Stage(ledger, Fake(life), FakeSearch(), trials=2)
    history = stage.run()
    assert states(history) == [State.COMPLETE] * 2
    assert history.losses == {0: 1}
    assert stage.executor.answers == []
    assert history.trials[0].reports[1] == {METRIC: score(0.01, 1)}
    assert len(stage.kinds(Reported)) == 2 * EPOCHS
    assert stage.executor.attempts == [(0, 1, [0, 1]), (0, 2, [0, 1])]
