"""What is tried next and what is stopped: the sampler and the pruner behind ask, observe and tell."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.events import State, Trial
from tuner.search import Search
from tuner.search.samplers import shuffled
from tuner.search.unit_interval import place_of, value_at
from tuner.search_spaces import SearchSpace, load
from tuner.seeds import derive
from tuner.spec import search_section

STRUCTURAL = {"width", "depth", "kernel", "batch_size", "cell"}
SPACE = {
    "rate": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
    "momentum": {"type": "float", "low": 0.0, "high": 0.9, "step": 0.1, "when": {"optimizer": "sgd"}},
    "optimizer": {"type": "choice", "values": ["sgd", "adam"]},
    "width": {"type": "choice", "values": [8, 16, 32]},
    "depth": {"type": "int", "low": 1, "high": 4},
    "kernel": {"type": "int", "low": 1, "high": 7, "step": 2, "when": {"depth": [2, 3]}},
    "seed_like": {"type": "int", "low": 5, "high": 5},
}
FINITE = {name: SPACE[name] for name in ("optimizer", "width", "depth", "kernel")}
SAMPLERS: dict[str, dict[str, Any]] = {
    "random": {"kind": "random"},
    "grid": {"kind": "grid"},
    "qmc": {"kind": "qmc"},
    "tpe": {"kind": "tpe", "startup": 4},
    "gp": {"kind": "gp", "startup": 10},
    "cmaes": {"kind": "cmaes"},
    "nsga2": {"kind": "nsga2", "population": 6},
}
PRUNERS: dict[str, dict[str, Any]] = {
    "none": {"kind": "none"},
    "median": {"kind": "median", "startup": 2},
    "asha": {"kind": "asha"},
    "hyperband": {"kind": "hyperband", "reduction": 2},
    "patient": {"kind": "patient", "patience": 0},
    "patient median": {"kind": "patient", "patience": 0, "pruner": {"kind": "median", "startup": 2}},
}


def test_every_sampler_of_a_study_file_is_tried_here() -> None:
    assert {sampler["kind"] for sampler in SAMPLERS.values()} == set(search_section.SAMPLERS)


def make(mapping: dict[str, Any] = SPACE, **options: Any) -> Search:
    settings_: dict[str, Any] = {
        "sampler": {"kind": "tpe", "startup": 4},
        "pruner": {"kind": "none"},
        "maximize": [True],
        "seed": 3,
        "trials": 48,
        "epochs": 4,
        "start_with": (),
    }
    return Search(SearchSpace.from_dict(mapping), **{**settings_, **options})


def value_of(trial: Trial, epoch: int) -> float:
    """An objective with its best at rate 0.01 and width 32, better from epoch to epoch; every third trial sinks."""
    params = trial.params
    rate = float(params.get("rate", 0.01))
    progress = epoch / 8 if trial.number % 3 == 2 else 1 / (epoch + 1)
    return -abs(math.log10(rate) + 2) + float(params.get("width", 0)) / 64 - progress


def structure(trial: Trial) -> tuple[tuple[str, Any], ...]:
    return tuple((name, value) for name, value in trial.params.items() if name in STRUCTURAL)


# --------------------------------------------------------------- a small driver


@dataclass
class Driver:
    """A study loop in small: one cohort at a time, all facts noted in order as a ledger would."""

    search: Search
    trials: int
    epochs: int = 4
    most: int = 6
    events: list[tuple[Any, ...]] = field(default_factory=list)
    asked: dict[int, Trial] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)

    def resume(self, events: Sequence[tuple[Any, ...]]) -> None:
        for kind, *body in events:
            if kind == "asked":
                trial = body[0]
                self.search.adopt(trial)
                self.asked[trial.number] = trial
            elif kind == "reported":
                self.search.replay(*body)
            else:
                self.end(*body)
        self.events = list(events)

    def run(self) -> list[tuple[Any, ...]]:
        while True:
            open_trials = [trial for number, trial in self.asked.items() if number not in self.ended]
            if not open_trials:
                left = self.trials - len(self.asked)
                if not left:
                    return self.events
                for trial in self.search.ask(len(self.asked), min(self.search.window(left), self.most)):
                    self.note(("asked", trial))
                    self.asked[trial.number] = trial
                continue
            self.train(open_trials)

    def train(self, cohort: list[Trial]) -> None:
        """Each trial from the epoch after its last report, epoch by epoch."""
        done = Counter(number for kind, number, *_ in self.events if kind == "reported")
        for epoch in range(1, self.epochs + 1):
            rows = [t for t in cohort if t.number not in self.ended and done[t.number] < epoch]
            reports = [(t.number, epoch, self.objective(t, epoch)) for t in rows]
            stops = self.search.observe(reports)
            for report in reports:
                self.note(("reported", *report))
            for number in sorted(stops) if epoch < self.epochs else ():
                self.end(number, State.PRUNED, None)
        for trial in cohort:
            if trial.number not in self.ended:
                value = self.objective(trial, self.epochs)
                self.end(trial.number, State.FAILED if value is None else State.COMPLETE, value)

    def objective(self, trial: Trial, epoch: int) -> float | None:
        return None if trial.number % 7 == 5 and epoch > 1 else value_of(trial, epoch)

    def end(self, number: int, state: State, value: float | None) -> None:
        self.search.tell(number, state, None if value is None else [value])
        self.ended.add(number)
        self.note(("told", number, state, value))

    def note(self, event: tuple[Any, ...]) -> None:
        self.events.append(event)


def transactions(events: Sequence[tuple[Any, ...]]) -> Iterator[int]:
    """The lengths of the prefixes that a ledger can hold: what one call of the search gave is stored together."""
    together = {("asked", "asked"), ("reported", "reported"), ("reported", "told"), ("told", "told")}
    for length in range(len(events) + 1):
        if 0 < length < len(events) and (events[length - 1][0], events[length][0]) in together:
            continue
        yield length


# ---------------------------------------------------------------- replay, seeds


def observe(search: Search, epoch: int, values: Sequence[float | None]) -> set[int]:
    return search.observe([(number, epoch, value) for number, value in enumerate(values)])


@pytest.mark.parametrize(
    ("sampler", "pruner"),
    [(sampler, pruner) for sampler in SAMPLERS for pruner in PRUNERS if sampler != "gp" or pruner in ("none", "asha")],
)
def test_a_search_rebuilt_from_any_prefix_of_its_events_goes_on_as_if_it_had_lived(sampler: str, pruner: str) -> None:
    options: dict[str, Any] = {
        "sampler": SAMPLERS[sampler],
        "pruner": PRUNERS[pruner],
        "start_with": [{"width": 16, "depth": 1}],
        "trials": 24,
    }
    space = FINITE if sampler == "grid" else SPACE
    trials = 13 if sampler == "gp" else 24  # its draws take half a second each
    unbroken = Driver(make(space, **options), trials).run()
    assert {kind for kind, *_ in unbroken} == {"asked", "reported", "told"}
    if pruner != "none" and sampler == "random":
        assert State.PRUNED in {event[2] for event in unbroken if event[0] == "told"}
    assert Driver(make(space, **options), trials).run() == unbroken  # the seed alone decides
    cuts = list(transactions(unbroken))
    for length in random.Random(0).sample(cuts, 2 if sampler == "gp" else 6):
        again = Driver(make(space, **options), trials)
        again.resume(unbroken[:length])
        assert again.run() == unbroken


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_tried_next_depends_on_what_has_ended_and_not_on_the_order(sampler: str) -> None:
    """The ledger is replayed trial by trial, however they were told."""
    space = FINITE if sampler == "grid" else SPACE
    count = 12 if sampler == "gp" else 20
    lived = Driver(make(space, sampler=SAMPLERS[sampler], trials=24), count)
    lived.run()
    ends = {event[1]: event for event in lived.events if event[0] == "told"}
    again = make(space, sampler=SAMPLERS[sampler], trials=24)
    for number in range(count):
        again.adopt(lived.asked[number])
        for kind, trial, *report in lived.events:
            if kind == "reported" and trial == number:
                again.replay(number, *report)
    for number in random.Random(1).sample(range(count), count):
        _, _, state, value = ends[number]
        again.tell(number, state, None if value is None else [value])
    assert again.ask(count, 2) == lived.search.ask(count, 2)


def test_a_trials_seed_depends_on_the_study_and_the_number_alone() -> None:
    for options in ({}, {"sampler": {"kind": "random"}, "alone": True}):
        assert [trial.seed for trial in make(**options).ask(0, 3)] == [derive(3, "trial", n) for n in range(3)]


@given(chunks=st.lists(st.integers(1, 7), min_size=1, max_size=6), end=st.booleans(), alone=st.booleans())
@settings(max_examples=20, deadline=None)
@pytest.mark.parametrize("kind", ["random", "grid", "qmc"])
def test_what_does_not_learn_depends_on_nothing_but_the_number(
    kind: str, chunks: list[int], end: bool, alone: bool
) -> None:
    space = FINITE if kind == "grid" else SPACE
    whole = make(space, sampler={"kind": kind}).ask(0, 30)
    parts = make(space, sampler={"kind": kind}, alone=alone, trials=30)
    first = 0
    for count in itertools.cycle(chunks):
        if first == 30:
            break
        trials = parts.ask(first, min(count, 30 - first))
        assert trials == whole[first : first + len(trials)]
        first += len(trials)
        for trial in trials if end else ():
            parts.observe([(trial.number, 1, value_of(trial, 1))])
            parts.tell(trial.number, State.COMPLETE, [value_of(trial, 1)])


def test_another_seed_gives_other_trials() -> None:
    for kind in SAMPLERS:
        space = FINITE if kind == "grid" else SPACE
        first, second = (make(space, sampler={"kind": kind}, seed=seed).ask(0, 8) for seed in (1, 2))
        assert [trial.params for trial in first] != [trial.params for trial in second]


def test_a_trial_out_of_turn_is_refused() -> None:
    search = make()
    with pytest.raises(ValueError, match="trial 0 is next, not 1"):
        search.ask(1, 1)
    with pytest.raises(ValueError, match="does not fit the search space: width: expected 8, 16 or 32"):
        search.adopt(Trial(0, {"width": 9}, 0))


# ------------------------------------------------------------------ assignments


@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_trial_holds_the_active_parameters_in_the_spaces_order_and_no_others(kind: str) -> None:
    mapping = FINITE if kind == "grid" else SPACE
    trials = 13 if kind == "gp" else 48
    driver = Driver(make(mapping, sampler=SAMPLERS[kind]), trials)
    driver.run()
    space = driver.search.space
    seen = Counter(name for trial in driver.asked.values() for name in trial.params)
    assert set(seen) == set(mapping)
    assert seen["kernel"] < trials
    for trial in driver.asked.values():
        assert space.validate(trial.params) == []
        assert list(trial.params) == [name for name in space.parameters if space.active(name, trial.params)]
    if kind != "grid":
        tenths = {trial.params["momentum"] for trial in driver.asked.values() if "momentum" in trial.params}
        assert tenths <= {i / 10 for i in range(10)}


def test_random_draws_cover_a_range_evenly() -> None:
    trials = make(sampler={"kind": "random"}, trials=1000).ask(0, 1000)
    decades = Counter(math.floor(math.log10(float(trial.params["rate"]))) for trial in trials)
    widths = Counter(trial.params["width"] for trial in trials)
    assert all(abs(count - 250) < 60 for count in decades.values())
    assert all(abs(count - 333) < 70 for count in widths.values())


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_the_grids_order_is_a_permutation(size: int, seed: int) -> None:
    size = size if size < 200 else 200 + size % 60
    assert sorted(shuffled(index, size, seed) for index in range(size)) == list(range(size))


def test_a_grid_is_tried_once_each_and_ends_the_study() -> None:
    search = make(FINITE, sampler={"kind": "grid"}, trials=10_000, start_with=[{"optimizer": "adam"}])
    size = search.space.size()
    assert size == 2 * 3 * (2 + 2 * 4)
    assert search.trials == size + 1
    tried = [frozenset(trial.params.items()) for trial in search.ask(0, search.trials)[1:]]
    assert set(tried) == {frozenset(point.items()) for point in search.space.grid()}
    assert len(set(tried)) == len(tried)
    assert tried != [frozenset(point.items()) for point in search.space.grid()]


def test_an_astronomic_grid_is_sampled_without_being_built() -> None:
    mapping = {f"p{i}": {"type": "int", "low": 1, "high": 10**6} for i in range(8)}
    trials = make(mapping, sampler={"kind": "grid"}, trials=20).ask(0, 20)
    assert len({tuple(trial.params.items()) for trial in trials}) == 20


def test_a_grid_over_a_continuum_is_refused() -> None:
    with pytest.raises(ValueError, match="give every float a step"):
        make(SPACE, sampler={"kind": "grid"})


@pytest.mark.parametrize("kind", ["random", "qmc", "tpe", "cmaes", "nsga2"])
def test_start_with_comes_first_as_written_and_the_missing_is_drawn(kind: str) -> None:
    full = {"rate": 1, "optimizer": "sgd", "momentum": 0.3, "width": 8, "depth": 2, "kernel": 5, "seed_like": 5}
    sampler = {"kind": kind, **({"startup": 1} if kind == "tpe" else {})}
    search = make(sampler=sampler, start_with=[full, {"width": 32, "optimizer": "sgd"}, {}])
    assert search.window(48) == {"tpe": 3, "cmaes": 6, "nsga2": 16}.get(kind, 48)
    first, second, third, fourth = search.ask(0, 4)
    assert first.params == full
    assert isinstance(first.params["rate"], float)
    assert (second.params["width"], second.params["optimizer"]) == (32, "sgd")
    assert {"rate", "momentum", "depth"} <= second.params.keys()
    assert third.params != fourth.params
    with pytest.raises(ValueError, match="start_with does not fit"):
        make(start_with=[{"widht": 3}])


# --------------------------------------------------------------------- grouping


def test_tpe_explores_as_many_structures_as_one_that_asks_one_by_one_and_they_meet() -> None:
    """Asking ahead lets equal structures train together; it must not narrow the search (design, section 4)."""

    def explored(alone: bool) -> tuple[int, float]:
        driver = Driver(make(trials=64, alone=alone), 64, most=64)
        driver.run()
        windows, trials = [], [driver.asked[number] for number in range(64)]
        at = 4
        while at < 64:
            windows.append(trials[at : at + 16])
            at += 16
        together = sum(len(window) for window in windows) / sum(len({structure(t) for t in w}) for w in windows)
        return len({structure(trial) for trial in trials}), together

    ahead, one_by_one = explored(alone=False), explored(alone=True)
    assert ahead[0] >= 0.8 * one_by_one[0]
    assert ahead[1] >= 1.5


@pytest.mark.parametrize(
    ("options", "windows"),
    [
        ({"sampler": {"kind": "random"}, "trials": 3000}, [1024, 1024, 952]),
        ({"trials": 64, "sampler": {"kind": "tpe", "startup": 10}}, [10, 16, 16]),
        ({"trials": 64, "sampler": {"kind": "tpe", "startup": 3}}, [3, 16, 16]),
        ({"trials": 64, "alone": True, "sampler": {"kind": "tpe", "startup": 2}}, [2, 1, 1]),
        ({"trials": 1024, "sampler": {"kind": "tpe", "startup": 1}}, [1, 64, 64]),
        ({"trials": 3000, "sampler": {"kind": "qmc"}}, [1024, 1024, 952]),
        ({"trials": 64, "sampler": {"kind": "gp", "startup": 10}}, [8, 2, 8]),
        ({"trials": 64, "sampler": {"kind": "nsga2", "population": 30}}, [30, 30, 4]),
        ({"trials": 64, "sampler": {"kind": "cmaes"}}, [4, 4, 4]),
        ({"trials": 64, "alone": True, "sampler": {"kind": "nsga2"}}, [1, 1, 1]),
    ],
)
def test_the_window_is_wide_enough_for_structures_to_meet_and_far_for_samplers_that_do_not_learn(
    options: dict[str, Any], windows: list[int]
) -> None:
    search = make({"width": SPACE["width"], "rate": SPACE["rate"]}, **options)
    asked, found = 0, []
    for _ in windows:
        found.append(search.window(options["trials"] - asked))
        asked += len(search.ask(asked, found[-1]))
    assert found == windows


def test_the_window_never_asks_for_more_than_remains() -> None:
    assert make(trials=64).window(1) == 1
    assert make(trials=64, start_with=[{}, {}, {}]).window(2) == 2
    after_start = make(trials=64, start_with=[{}] * 7, sampler={"kind": "tpe", "startup": 10})
    after_start.ask(0, 7)
    assert after_start.window(57) == 3  # ten trials are random, and the seven count among them
    assert make(sampler={"kind": "random"}).window(5) == 5


def test_how_the_asking_is_cut_does_not_matter_to_tpe_before_anything_is_told() -> None:
    whole = make(trials=64).ask(0, 12)
    parts = make(trials=64)
    assert [trial for first, count in ((0, 1), (1, 6), (7, 5)) for trial in parts.ask(first, count)] == whole


# --------------------------------------------------------------------- learning


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_ends_while_a_window_is_asked_is_learnt_from_after_it(sampler: str) -> None:
    """A window in pieces is the window in one go, whatever ends between them; then all of it is known."""
    space, count = FINITE if sampler == "grid" else SPACE, 10 if sampler == "gp" else 16

    def ask(first: int, number: int, search: Search) -> list[Trial]:
        trials = search.ask(first, number)
        for trial in trials:
            search.observe([(trial.number, 1, value_of(trial, 1))])
        return trials

    def end(search: Search, trials: Sequence[Trial]) -> None:
        for trial in trials:
            state = list(State)[2 + trial.number % 3]
            search.tell(trial.number, state, [value_of(trial, 1)] if state is State.COMPLETE else None)

    whole, parts = (make(space, sampler=SAMPLERS[sampler], trials=40) for _ in range(2))
    for search in (whole, parts):
        end(search, ask(0, count, search))
    wanted = ask(count, 6, whole)
    parts.hold()
    asked = ask(count, 2, parts)
    end(parts, asked)
    asked += ask(count + 2, 3, parts)
    end(parts, [*asked[2:3], asked[0]])  # the first end of a trial counts
    asked += ask(count + 5, 1, parts)
    assert asked == wanted
    parts.release()
    end(whole, wanted[:3])
    assert ask(count + 6, 2, parts) == ask(count + 6, 2, whole)


def test_a_verdict_knows_who_has_ended_while_a_window_is_asked() -> None:
    """Nobody who is to be stopped goes on until the sampler has done its work."""
    search = make(pruner={"kind": "median", "startup": 1})
    search.ask(0, 2)
    search.hold()
    observe(search, 1, [0.9])
    search.tell(0, State.COMPLETE, [0.9])
    assert search.observe([(1, 1, 0.1)]) == {1}


def test_a_piece_of_a_window_takes_little_time() -> None:
    """A Gaussian process thinks about a trial for seconds."""
    pieces = {kind: make(FINITE, sampler=options).piece for kind, options in SAMPLERS.items()}
    assert pieces == {"random": 32, "grid": 32, "qmc": 32, "tpe": 4, "gp": 1, "cmaes": 4, "nsga2": 4}


def quadratic(trial: Trial) -> float:
    """Best, 0, at the point (0.3, 0.35, 0.4)."""
    return sum((float(trial.params[name]) - 0.3 - at / 20) ** 2 for at, name in enumerate("abc"))


def values_of(kind: str, seed: int, ahead: int, trials: int) -> list[float]:
    """The values of a study, each window asked while the `ahead` before it still train."""
    mapping = {name: {"type": "float", "low": 0.0, "high": 1.0} for name in "abc"}
    search = make(mapping, sampler={"kind": kind}, seed=seed, trials=trials, maximize=[False])
    windows: list[list[Trial]] = []
    values: list[float] = []
    while len(values) < trials:
        asked = len(values) + sum(map(len, windows))
        if asked < trials:
            windows.append(search.ask(asked, search.window(trials - asked)))
        if len(windows) > ahead or asked == trials:
            for trial in windows.pop(0):
                values.append(quadratic(trial))
                search.tell(trial.number, State.COMPLETE, [values[-1]])
    return values


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize(("kind", "trials"), [("tpe", 72), ("cmaes", 72), ("nsga2", 96)])
def test_a_sampler_that_learns_beats_chance_also_when_it_is_asked_while_trials_still_train(
    kind: str, trials: int, ahead: int
) -> None:
    learnt, blind = (
        [sum(values_of(one, seed, ahead, trials)[-24:]) / 24 for seed in range(3)] for one in (kind, "random")
    )
    assert max(learnt) < 0.75 * min(blind)


def test_a_gaussian_process_comes_nearer_in_20_trials_than_chance() -> None:
    """It explores between its best guesses: the best counts, not the mean."""
    assert min(values_of("gp", 1, 0, 20)) < 0.5 * min(min(values_of("random", seed, 0, 20)) for seed in range(3))


def test_qmc_covers_every_parameter_more_evenly_than_chance() -> None:
    trials = make(sampler={"kind": "qmc"}, trials=256).ask(0, 256)
    decades = Counter(math.floor(math.log10(float(trial.params["rate"]))) for trial in trials)
    assert set(decades.values()) == {64}
    depths, widths = (Counter(trial.params[name] for trial in trials) for name in ("depth", "width"))
    assert set(depths.values()) == {64}
    assert all(abs(count - 256 / 3) < 2 for count in widths.values())


@pytest.mark.parametrize("parameter", load("cnn").parameters.values(), ids=lambda one: one.type)
@given(places=st.lists(st.floats(0, 1), min_size=2, max_size=2))
@settings(max_examples=30, deadline=None)
def test_places_are_values_in_their_order_and_a_values_place_is_its_own(parameter: Any, places: list[float]) -> None:
    low, high = (value_at(parameter, place) for place in sorted(places))
    assert parameter.contains(low)
    assert parameter.contains(high)
    if parameter.type != "choice":
        assert low <= high
        assert value_at(parameter, place_of(parameter, low)) == pytest.approx(low)
    ends = value_at(parameter, 0.0), value_at(parameter, 1.0)
    finite = parameter.count is not None
    wanted = (parameter.nth(0), parameter.nth(parameter.count - 1)) if finite else (parameter.low, parameter.high)
    assert ends == pytest.approx(wanted) if parameter.type != "choice" else ends == wanted


@pytest.mark.parametrize("kind", ["gp", "cmaes", "nsga2"])
def test_what_failed_is_not_proposed_for_ever(kind: str) -> None:
    """The objective rises towards where everything fails: a sampler blind to failures would go on there."""
    mapping = {name: {"type": "float", "low": 0.0, "high": 1.0} for name in "ab"}
    sampler = {"kind": kind, **({"population": 6} if kind == "nsga2" else {})}
    search = make(mapping, sampler=sampler, trials=26, alone=True)
    failed = []
    for number in range(26):
        (trial,) = search.ask(number, 1)
        height = float(trial.params["a"])
        failed.append(height > 0.6)
        search.tell(number, State.FAILED if failed[-1] else State.COMPLETE, None if failed[-1] else [height])
    assert sum(failed[-10:]) <= 5
    assert search.ask(26, 1)


@pytest.mark.parametrize("kind", ["gp", "cmaes", "nsga2"])
def test_a_sampler_to_which_everything_failed_goes_on(kind: str) -> None:
    search = make(sampler=SAMPLERS[kind], trials=24, maximize=[True])
    for trial in search.ask(0, 16):
        search.observe([(trial.number, 1, None)])
        search.tell(trial.number, State.PRUNED if trial.number % 2 else State.FAILED, None)
    assert len(search.ask(16, 4)) == 4


def test_cmaes_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="use tpe or nsga2"):
        make({"width": SPACE["width"]}, sampler={"kind": "cmaes"})
    with pytest.raises(ValueError, match="one objective"):
        make(sampler={"kind": "cmaes"}, maximize=[True, False])
