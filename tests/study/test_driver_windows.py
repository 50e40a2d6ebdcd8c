"""The study loop while a window is asked piece by piece, and after any death."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.study.test_driver import (
    EPOCHS,
    METRIC,
    SPACE,
    Fake,
    FakeSearch,
    Life,
    Stage,
    dying,
    facts,
    states,
    troubled,
    worker,
)
from tuner.events import Asked, Asking, Event, Grouped, Opened, Pruned, State, Trial
from tuner.executors.protocol import Done, Trouble
from tuner.history.fold import History
from tuner.ledger import Ledger
from tuner.search import Search
from tuner.study.launch import _search
from tuner.workloads.base import Job

# --- a window, piece by piece -------------------------------------------------------------------------


class Slow(FakeSearch):
    """Asks windows of four, one trial at a time; `log` has what was asked, and what was answered meanwhile."""

    def __init__(self, log: list[str], verdicts: Mapping[int, set[int]] | None = None) -> None:
        super().__init__(verdicts)
        self.log, self.piece = log, 1

    def window(self, remaining: int) -> int:
        return min(4, remaining)

    def hold(self) -> None:
        self.log.append("hold")

    def release(self) -> None:
        self.log.append("release")

    def ask(self, first: int, count: int) -> list[Trial]:
        self.log.append(f"asked {first}")
        assert count == 1
        return super().ask(first, count)


def test_whoever_speaks_while_a_window_is_asked_is_answered_before_it_is_full(ledger: Ledger) -> None:
    log: list[str] = []
    executor = Fake(
        lambda work: worker(work, rungs=[1, 2]), most=1, on_answer=lambda cohort, _: log.append(f"answered {cohort}")
    )
    search = Slow(log, {1: {1}})
    history = Stage(ledger, executor, search, trials=8).run()
    first = ["hold", *(f"asked {n}" for n in range(4)), "release"]
    second = ["hold", "asked 4", "answered 0", "asked 5", "answered 0", "asked 6", "asked 7", "release"]
    assert log == [*first, *second, *["answered 1"] * 2]
    assert history.trials[1].state is State.PRUNED
    kinds = [type(event) for event in ledger.read()]
    asked = [at for at, kind in enumerate(kinds) if kind is Asked]
    assert kinds.count(Asking) == 1, "of the first window nobody need know: nothing was stored meanwhile"
    assert kinds.index(Asking) < kinds.index(Pruned) < asked[4]
    assert asked == [*range(4), *range(asked[4], asked[4] + 4)], "a window is stored as a whole"


def test_a_worker_is_told_what_to_do_next_while_a_window_is_asked(ledger: Ledger) -> None:
    """What is in the queue is handed out as soon as somebody is free."""
    log: list[str] = []
    executor = Fake(lambda work: worker(work, epochs=1), workers=2, most=4)  # all that a worker says of a cohort
    submit = executor.submit

    def noted(work: Job) -> None:
        log.append(f"told {work.cohort}")
        submit(work)

    executor.submit = noted  # type: ignore[method-assign]
    Stage(ledger, executor, Slow(log), trials=8, size=1).run()
    window = log[log.index("told 2") : log.index("asked 6")]
    assert window == ["told 2", "hold", "asked 4", "told 3", "asked 5"]


@pytest.mark.parametrize("message", ["lost", "trouble"])
def test_who_is_lost_while_a_window_is_asked_is_seen_to_when_it_is_full(ledger: Ledger, message: str) -> None:
    """Cohorts have the numbers that they would have if the window had taken no time."""

    def life(work: Job) -> Life:
        if work.cohort == 0 and message == "lost" and work.attempt <= 3:
            yield from dying(work)
        elif work.cohort == 0 and message == "trouble":
            yield from troubled(work, largest=2)
        else:
            yield from worker(work)

    stage = Stage(ledger, Fake(life), Slow([]), trials=8)
    history = stage.run()
    assert states(history) == [State.COMPLETE] * 8
    groups = [(event.cohort, event.trials) for event in ledger.read() if isinstance(event, Grouped)]
    assert groups == [(0, [0, 1, 2, 3]), (1, [4, 5, 6, 7]), (2, [0, 1]), (3, [2, 3])]


@pytest.mark.parametrize("sampler", ["random", "qmc"])
def test_what_does_not_learn_asks_the_same_in_any_pieces_of_any_number_of_workers(tmp_path: Path, sampler: str) -> None:
    found = []
    for piece, workers, most in ((1, 3, 1), (3, 1, 2), (40, 2, 1_000)):
        with Ledger.create(tmp_path / "studies" / f"{piece}-{workers}") as ledger:
            search = searching(History(), trials=40, sampler={"kind": sampler})
            search._sampler.piece = piece
            history = Stage(ledger, Fake(plain, workers=workers, most=most), search, trials=40).run()
            found.append([(trial.number, dict(trial.params), trial.seed) for trial in history.trials.values()])
    assert found[0] == found[1] == found[2]


class Saving(Fake):
    """Leaves its cohorts when it is told to stop."""

    def stop(self) -> None:
        self._live = {cohort: iter_done(cohort, self._attempts[cohort]) for cohort in self._live}
        self._due = dict.fromkeys(self._live)


def iter_done(cohort: int, attempt: int) -> Life:
    yield Done(cohort, attempt, saved=True)


@pytest.mark.parametrize("asks", range(3, 14))
def test_a_study_that_is_stopped_while_a_window_is_asked_goes_on_with_the_same_window(
    tmp_path: Path, asks: int
) -> None:
    """After any number of asks: what has ended since the window was begun is not known to the rest of it."""
    wanted, groups, _ = lived(tmp_path / "studies" / "whole", [None], plain, 1)
    with Ledger.create(tmp_path / "studies" / "stopped") as store:
        for life in (1, 2):
            search = searching(store.history(), TRIALS)
            search._sampler.piece = 1
            ask, count = search.ask, []

            def counted(first: int, number: int, ask: Any = ask, count: list[int] = count) -> list[Trial]:
                count.append(first)
                return ask(first, number)  # type: ignore[no-any-return]

            search.ask = counted  # type: ignore[method-assign]
            stage = Stage(store, Saving(plain, most=1), search, trials=TRIALS, size=3)
            ended = stage.driver(store.history()).run(lambda life=life, count=count: life == 1 and len(count) >= asks)
            assert ended == (life == 2 or asks > TRIALS)
        found = [(event.cohort, event.trials) for event in store.read() if isinstance(event, Grouped)]
        assert (facts(store.history()), found) == (wanted, groups)


# --- killed and rebuilt ----------------------------------------------------------------------------


class Killed(Exception):
    """The driver's end, at one of its appends."""


class Mortal:
    """A ledger whose user dies as it begins append `last`; what was stored before is all that is left."""

    def __init__(self, ledger: Ledger, last: int | None) -> None:
        self._ledger, self._last, self.count = ledger, last, 0

    def append(self, events: Sequence[Event]) -> list[Event]:
        if events:
            self.count += 1
            if self.count == self._last:
                raise Killed
        return self._ledger.append(events)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)


TRIALS = 8
ASHA = {"kind": "asha", "min_epochs": 1, "reduction": 2}


TPE = {"kind": "tpe", "startup": 2}


def searching(
    history: History, trials: int, pruner: Mapping[str, Any] = ASHA, sampler: Mapping[str, Any] = TPE
) -> Search:
    """The study's own way to rebuild a search, with the part of a spec that it reads."""
    options = SimpleNamespace(
        sampler=SimpleNamespace(model_dump=lambda: dict(sampler)),
        pruner=SimpleNamespace(model_dump=lambda: dict(pruner)),
        trials=trials,
        start_with=(),
    )
    spec: Any = SimpleNamespace(
        space=SPACE,
        search=options,
        objectives=[(METRIC, True)],
        metric=METRIC,
        epochs=EPOCHS,
        seed=3,
        is_structural={"width"}.__contains__,
        alone=False,
    )
    return _search(spec, history)


def lived(
    folder: Path, deaths: Sequence[int | None], life: Callable[[Job], Life], most: int, piece: int = TRIALS
) -> tuple[list[Any], list[Any], int]:
    """One study over several lives: its facts, its groups in their order, and the appends of the last life.

    `most` messages come at once, and so many trials of a window are asked before the next are heard."""
    trials, count = TRIALS, 0
    with Ledger.create(folder) as store:
        for death in deaths:
            store.append([Opened(host="here", pid=1)])
            mortal = Mortal(store, death)
            search = searching(store.history(), trials)
            search._sampler.piece = piece
            stage = Stage(mortal, Fake(life, most=most), search, trials=trials, size=3)
            try:
                stage.run()
            except Killed:
                assert death is not None
            count = mortal.count
        groups = [(e.cohort, e.trials) for e in store.read() if isinstance(e, Grouped)]
        return facts(store.history()), groups, count


def plain(work: Job) -> Life:
    yield from worker(work, epochs=3, rungs=[1, 2])


def eventful(work: Job) -> Life:
    """Workers die under cohort 1 once, and trial 2 diverges."""
    if work.cohort == 1 and work.attempt == 1:
        yield from dying(work)
    else:
        yield from worker(work, epochs=3, rungs=[1, 2], failing={2: 2})


def scarce(work: Job) -> Life:
    """Too little memory for two rows at once."""
    if len(work.payload.rows) > 1:
        yield Trouble(work.cohort, work.attempt, memory=True, message="wanted 9 GB")
    else:
        yield from worker(work, epochs=3, rungs=[1, 2])


@pytest.mark.parametrize(("most", "piece"), [(1, TRIALS), (1, 1), (3, 2), (1_000, 1)])
@pytest.mark.parametrize("life", [plain, eventful, scarce], ids=lambda life: life.__name__)
def test_a_driver_killed_at_any_append_asks_the_same_as_one_that_was_not(
    tmp_path: Path, life: Callable[[Job], Life], most: int, piece: int
) -> None:
    """Whether each message is stored by itself or many together, between windows or while one is asked.

    One worker says the same in the same order."""
    wanted, groups, _ = lived(tmp_path / "studies" / "whole", [None], life, 1)
    got, got_groups, appends = lived(tmp_path / "studies" / "together", [None], life, most, piece)
    assert (got, got_groups) == (wanted, groups)
    assert len(wanted) == TRIALS and {fact[3] for fact in wanted} >= {State.COMPLETE, State.PRUNED}
    different = []
    for death in range(1, appends + 1):
        got, got_groups, _ = lived(tmp_path / "studies" / f"killed-{death}", [death, None], life, most, piece)
        if (got, got_groups) != (wanted, groups):
            different.append(death)
    assert different == [], f"of {appends} appends"


def test_a_driver_killed_again_and_again_asks_the_same(tmp_path: Path) -> None:
    wanted, groups, _ = lived(tmp_path / "studies" / "whole", [None], plain, 1)
    got, got_groups, _ = lived(tmp_path / "studies" / "killed", [*([5] * 30), None], plain, 1)
    assert got_groups == groups
    assert got == wanted


def test_a_rung_of_the_real_pruner_at_the_last_epoch_prunes_nobody(ledger: Ledger) -> None:
    """Successive halving by two has its rungs at 1, 2 and 4, and the last epoch is the fourth."""
    search = searching(History(), trials=6, pruner={"kind": "asha", "min_epochs": 4, "reduction": 2})
    rungs = search.rungs(EPOCHS)
    assert rungs == set()
    history = Stage(ledger, Fake(lambda work: worker(work, rungs=sorted(rungs))), search, trials=6).run()
    assert states(history) == [State.COMPLETE] * 6
