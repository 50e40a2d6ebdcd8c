"""Searches for several objectives at once."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.search_space.group_decomposed import _GroupDecomposedSearchSpace

from tests.search.test_search import FINITE, SAMPLERS, SPACE, Driver, make, value_of
from tuner.events import State, Trial
from tuner.search import Search, tpe
from tuner.search.samplers import groups
from tuner.search.trials import distribution, pending_trial
from tuner.search.unit_interval import drawn
from tuner.search_spaces import SearchSpace
from tuner.seeds import derive

# ----------------------------------------------------------- several objectives


def schaffer(trial: Trial) -> list[float]:
    """Two objectives to minimise; on the front (`a` from 0.4 to 0.6, `b` 0.5) their sum is 0.02 to 0.04."""
    a, b = float(trial.params["a"]), float(trial.params["b"])
    return [(a - 0.4) ** 2 + (b - 0.5) ** 2, (a - 0.6) ** 2 + (b - 0.5) ** 2]


@pytest.mark.parametrize("kind", ["tpe", "nsga2", "gp"])
def test_samplers_that_learn_come_nearer_to_the_front_of_two_objectives_than_chance(kind: str) -> None:
    mapping = {name: {"type": "float", "low": 0.0, "high": 1.0} for name in "ab"}

    def distance(sampler: str, trials: int) -> float:
        search = make(mapping, sampler={"kind": sampler}, maximize=[False, False], trials=trials)
        while (asked := search._asked) < trials:
            for trial in search.ask(asked, search.window(trials - asked)):
                fails = trial.number % 7 == 5
                search.observe([(trial.number, 1, schaffer(trial)[0])])
                search.tell(trial.number, *((State.FAILED, None) if fails else (State.COMPLETE, schaffer(trial))))
        found = sorted(sum(schaffer(Trial(0, params, 0))) - 0.02 for params in search._memory.params)
        return sum(found[: trials // 6]) / (trials // 6)

    trials = 20 if kind == "gp" else 60
    assert distance(kind, trials) < 0.75 * distance("random", trials)


@pytest.mark.parametrize("kind", ["random", "qmc", "grid", "tpe", "nsga2", "gp"])
def test_a_search_of_several_objectives_is_rebuilt_from_what_ended(kind: str) -> None:
    space = FINITE if kind == "grid" else SPACE
    options: dict[str, Any] = {"sampler": SAMPLERS[kind], "maximize": [True, False], "trials": 24}

    def ends(trial: Trial) -> list[float]:
        return [value_of(trial, 4), float(trial.params["width"])]

    lived, again = make(space, **options), make(space, **options)
    trials = lived.ask(0, 14)
    for trial in trials:
        lived.tell(trial.number, State.COMPLETE, ends(trial))
    for trial in trials:
        again.adopt(trial)
        again.tell(trial.number, State.COMPLETE, ends(trial))
    more = 1 if kind == "gp" else 4  # its draws take half a second each
    assert lived.ask(14, more) == again.ask(14, more)


def optunas(search: Search, events: Sequence[tuple[Any, ...]], sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    """Optuna's study of the same trials, as its own samplers read them."""
    told = {event[1]: event[2:] for event in events if event[0] == "told"}
    directions = ["maximize" if up else "minimize" for up in search._memory.maximize]
    study = optuna.create_study(directions=directions, sampler=sampler)
    for number, params in enumerate(search._memory.params):
        state, values = told.get(number, (None, None))
        reports = {epoch: value for kind, n, epoch, value in (e for e in events if e[0] == "reported") if n == number}
        study.add_trial(
            optuna.trial.create_trial(
                state={
                    None: optuna.trial.TrialState.RUNNING,
                    State.COMPLETE: optuna.trial.TrialState.COMPLETE,
                }.get(state, optuna.trial.TrialState.PRUNED),
                params=dict(params),
                distributions={name: distribution(search.space.parameters[name]) for name in params},
                values=values if state is State.COMPLETE else None,
                intermediate_values={
                    epoch: math.nan if value is None else value
                    for epoch, value in reports.items()
                    if state is not State.FAILED and len(directions) == 1
                },
            )
        )
    return study


FLAT = {name: SPACE[name] for name in ("rate", "optimizer", "width", "depth")}
STEPPED = {
    "tenths": {"type": "float", "low": 0.0, "high": 0.9, "step": 0.1},
    "odd": {"type": "int", "low": 1, "high": 99, "step": 2},
    "units": {"type": "int", "low": 1, "high": 1000, "log": True},
    "share": {"type": "float", "low": -1.0, "high": 1.0},
}


@pytest.mark.parametrize("known", [True, False], ids=["private", "public"])
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("maximize", [[True], [False], [True, False]])
@pytest.mark.parametrize("space", [FLAT, {**FLAT, **STEPPED}], ids=["flat", "stepped"])
@pytest.mark.parametrize(("ended", "running"), [(6, 0), (12, 3), (60, 5), (300, 1)])
def test_tpes_draws_are_those_of_optunas_own_sampler_for_the_same_trials(
    space: dict[str, Any],
    ended: int,
    running: int,
    maximize: list[bool],
    known: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Complete, stopped and failed trials, and some that still train; to the bit, by either estimator."""
    monkeypatch.setattr(tpe, "_FOUND", known)
    search = make(space, sampler={"kind": "tpe", "startup": 6}, maximize=maximize, alone=True, trials=400)
    events: list[tuple[Any, ...]] = []
    draws = random.Random(ended)
    while search._asked < ended:
        (trial,) = search.ask(search._asked, 1)
        kinds = [State.COMPLETE] * 4 + [State.FAILED] + [State.PRUNED] * (len(maximize) == 1)
        state, last = draws.choice(kinds), draws.randint(1, 3)
        for epoch in range(1, last + 1):
            report = (trial.number, epoch, draws.choice([None, value_of(trial, epoch), value_of(trial, epoch)]))
            search.observe([report])
            events.append(("reported", *report))
        values = [value_of(trial, last), draws.random()][: len(maximize)] if state is State.COMPLETE else None
        search.tell(trial.number, state, values)
        events.append(("told", trial.number, state, values))
    search.ask(ended, running)
    number = ended + running
    sampler = optuna.samplers.TPESampler(
        seed=derive(3, "sample", number), n_startup_trials=0, multivariate=True, group=True, constant_liar=True
    )
    theirs = optunas(search, events, sampler).ask({n: distribution(p) for n, p in search.space.parameters.items()})
    (ours,) = search.ask(number, 1)
    fitted = {name: search.space.parameters[name].fit(value) for name, value in theirs.params.items()}
    assert ours.params == fitted


@pytest.mark.parametrize("maximize", [[True], [False, True]])
def test_tpes_draws_are_the_same_through_optunas_public_sampler(
    maximize: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a space with conditions, whose groups share one source of random numbers."""

    def drawn_by(known: bool) -> list[dict[str, Any]]:
        monkeypatch.setattr(tpe, "_FOUND", known)
        search = make(sampler={"kind": "tpe", "startup": 6}, maximize=maximize, alone=True)
        found = []
        while search._asked < 40:
            (trial,) = search.ask(search._asked, 1)
            found.append(dict(trial.params))
            if trial.number % 5 == 4:
                search.tell(trial.number, State.FAILED, None)
            elif trial.number % 7:
                values = [value_of(trial, 1), float(trial.params["depth"])][: len(maximize)]
                search.tell(trial.number, State.COMPLETE, values)
        return found

    assert drawn_by(False) == drawn_by(True)


@pytest.mark.parametrize(
    "lost",
    [
        "parzen_estimator._ParzenEstimator",
        "parzen_estimator._ParzenEstimatorParameters",
        "sampler.default_weights",
        "sampler._split_complete_trials_multi_objective",
    ],
)
def test_without_optunas_private_interfaces_tpe_goes_through_its_public_sampler(lost: str) -> None:
    module, name = lost.split(".")
    code = (
        f"import optuna.samplers\nfrom optuna.samplers._tpe import {module}\ndel {module}.{name}\n"
        "from tuner.search import tpe\nprint(tpe.estimator().__name__)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "OptunaEstimator"


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_mixture_that_grew_is_the_mixture_of_the_same_trials(data: st.DataObject) -> None:
    """Whatever was added, taken out or changed since the mixture before it: nothing stale is left."""
    space = SearchSpace.from_dict({**FLAT, **STEPPED})
    distributions = {name: distribution(parameter) for name, parameter in space.parameters.items()}
    rng = np.random.RandomState(data.draw(st.integers(0, 2**31 - 1)))

    def columns(count: int) -> Any:
        rows = [[one.to_internal_repr(drawn(space.parameters[n], rng)) for n, one in distributions.items()]
                for _ in range(count)]  # fmt: skip
        return np.array(rows).reshape(count, len(distributions)).T

    observed, before = columns(data.draw(st.integers(1, 150))), None
    for _ in range(data.draw(st.integers(1, 5))):
        before = tpe._Density(distributions, observed, before=before)
        candidates = columns(24)
        fresh = tpe._Density(distributions, observed)
        np.testing.assert_allclose(before.log(candidates), fresh.log(candidates), rtol=0, atol=1e-12)
        kept = rng.uniform(size=observed.shape[1]) < data.draw(st.sampled_from([1.0, 0.99, 0.5]))
        observed = np.concatenate((observed[:, kept], columns(data.draw(st.integers(0, 3)))), axis=1)


@given(seed=st.integers(0, 2**31 - 1))
@settings(max_examples=60, deadline=None)
def test_a_uniform_draw_is_that_of_optunas_random_sampler(seed: int) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    rng = np.random.RandomState(seed)
    for name, parameter in SearchSpace.from_dict({**FLAT, **STEPPED}).parameters.items():
        theirs = study.sampler.sample_independent(study, pending_trial(0), name, distribution(parameter))
        assert drawn(parameter, rng) == parameter.fit(theirs)


def test_the_groups_that_tpe_models_together_are_those_that_optuna_finds() -> None:
    search = make(trials=200, sampler={"kind": "random"})
    events: list[tuple[Any, ...]] = []
    for trial in search.ask(0, 60):
        search.tell(trial.number, State.COMPLETE, [0.0])
        events.append(("told", trial.number, State.COMPLETE, [0.0]))
    study = optunas(search, events, optuna.samplers.RandomSampler())
    theirs = _GroupDecomposedSearchSpace(True).calculate(study).search_spaces
    assert {frozenset(group) - {"seed_like"} for group in theirs} - {frozenset()} == {
        frozenset(group) - {"seed_like"} for group in groups(search.space)
    }


def test_tpe_keeps_away_from_what_failed() -> None:
    def late_rates(state: State) -> list[float]:
        search = make({"rate": SPACE["rate"]}, sampler={"kind": "tpe", "startup": 8}, trials=60, alone=True)
        rates = []
        for number in range(60):
            (trial,) = search.ask(number, 1)
            rate = float(trial.params["rate"])
            rates.append(rate)
            if rate < 0.1:
                search.tell(number, State.COMPLETE, [0.5])  # the same everywhere: only the failures tell anything
            else:
                search.tell(number, state, [0.5] if state is State.COMPLETE else None)
        return rates[-30:]

    informed = sum(rate >= 0.1 for rate in late_rates(State.FAILED))
    indifferent = sum(rate >= 0.1 for rate in late_rates(State.COMPLETE))
    assert informed < indifferent


def test_failures_alone_teach_nothing() -> None:
    untold = make(trials=200, sampler={"kind": "tpe", "startup": 2}).ask(0, 24)
    search = make(trials=200, sampler={"kind": "tpe", "startup": 2})
    for trial in search.ask(0, 12):
        search.observe([(trial.number, 1, 0.5), (trial.number, 2, None)])
        search.tell(trial.number, State.FAILED, None)
    assert search.ask(12, 12) == untold[12:]


def test_every_trial_ends_told_to_the_sampler() -> None:
    driver = Driver(make(pruner={"kind": "asha"}), 48)
    driver.run()
    assert sorted(driver.search._memory.outcomes) == list(range(48))
    assert driver.search._reports == {}, "nobody reads the reports of a trial that has ended"


def test_the_first_end_of_a_trial_counts() -> None:
    search = make()
    search.ask(0, 1)
    search.tell(0, State.COMPLETE, [0.5])
    search.tell(0, State.FAILED, None)
    assert search._memory.outcomes == {0: (0.5,)}
    with pytest.raises(ValueError, match="COMPLETE, PRUNED or FAILED, not RUNNING"):
        search.tell(search.ask(1, 1)[0].number, State.RUNNING, None)
