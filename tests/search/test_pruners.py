"""Pruners, and Optuna as others use it."""

from __future__ import annotations

import logging
import math
import random
from collections import Counter
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.search.test_search import PRUNERS, SAMPLERS, Driver, make, observe
from tuner.events import State
from tuner.search import pruners
from tuner.search.trials import distribution
from tuner.search_spaces import SearchSpace, load

# ---------------------------------------------------------------------- pruners


def test_without_a_pruner_nothing_is_stopped() -> None:
    search = make()
    search.ask(0, 4)
    assert observe(search, 1, [0.1, 0.2, None, 0.4]) == set()
    assert search.rungs(100) == set()


@given(
    cohorts=st.lists(st.lists(st.one_of(st.none(), st.integers(0, 6)), min_size=1, max_size=9), min_size=1, max_size=4),
    reduction=st.integers(2, 4),
    maximize=st.booleans(),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_asha_lets_the_best_share_of_what_was_seen_go_on_whatever_the_rows(
    cohorts: list[list[int | None]], reduction: int, maximize: bool, data: st.DataObject
) -> None:
    options: dict[str, Any] = {
        "sampler": {"kind": "random"},
        "pruner": {"kind": "asha", "min_epochs": 1, "reduction": reduction},
        "maximize": [maximize],
    }
    search = make(trials=48, **options)
    search.ask(0, sum(map(len, cohorts)))
    seen: list[int] = []
    first = 0
    for values in cohorts:
        numbers = range(first, first + len(values))
        first += len(values)
        seen += [value for value in values if value is not None]
        share = max(1, len(seen) // reduction)
        last = (sorted(seen, reverse=maximize) or [0])[:share][-1]
        expected = {
            number
            for number, value in zip(numbers, values, strict=True)
            if value is None or (value < last if maximize else value > last)
        }
        reports = [(number, 1, value) for number, value in zip(numbers, values, strict=True)]
        assert search.observe(data.draw(st.permutations(reports))) == expected


def test_asha_judges_at_its_rungs_alone() -> None:
    search = make(sampler={"kind": "random"}, pruner={"kind": "asha", "min_epochs": 2, "reduction": 3})
    search.ask(0, 3)
    stopped = {epoch: observe(search, epoch, [0.1, 0.2, 0.3]) for epoch in range(1, 20)}
    assert {epoch for epoch, numbers in stopped.items() if numbers} == {2, 6, 18} == search.rungs(19)
    assert search.rungs(18) == {2, 6}
    assert search.rungs(2) == set()


def test_a_report_that_is_repeated_keeps_its_first_value_and_is_not_judged_again() -> None:
    search = make(sampler={"kind": "random"}, pruner={"kind": "asha"})
    search.ask(0, 6)
    assert search.observe([(0, 1, 0.5)]) == set()
    assert search.observe([(n, 1, 0.9) for n in range(1, 6)]) == set()
    assert search.observe([(0, 1, 0.0)]) == set()
    search.replay(0, 1, 0.0)
    assert search._reports[0] == {1: 0.5}


def test_infinity_and_nan_are_no_values() -> None:
    search = make(sampler={"kind": "random"}, pruner={"kind": "asha"})
    search.ask(0, 3)
    assert observe(search, 1, [math.inf, math.nan, -5.0]) == {0, 1}


@pytest.mark.parametrize("maximize", [True, False])
def test_median_is_optunas_median_pruner(maximize: bool) -> None:
    draws = random.Random(4)
    curves = [[draws.random() for _ in range(6)] for _ in range(12)]
    pruner = optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=2)
    reference = optuna.create_study(
        direction="maximize" if maximize else "minimize", pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=1)
    )
    options = {"kind": "median", "min_epochs": 2, "startup": 3}
    search = make(sampler={"kind": "random"}, pruner=options, maximize=[maximize])
    search.ask(0, 12)
    stops = 0
    for number, curve in enumerate(curves):
        theirs = reference.ask()
        for epoch, value in enumerate(curve, 1):
            theirs.report(value, epoch)
            stopped = number in search.observe([(number, epoch, value)])
            assert stopped == theirs.should_prune()
            if stopped:
                break
        stops += stopped
        search.tell(number, State.PRUNED if stopped else State.COMPLETE, None if stopped else [max(curve)])
        reference.tell(theirs, None if stopped else max(curve), optuna.trial.TrialState.PRUNED if stopped else None)
    assert 0 < stops < 12
    assert search.rungs(6) == {2, 3, 4, 5}


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@given(curve=st.lists(st.integers(-3, 3), min_size=1, max_size=12), patience=st.integers(0, 3), maximize=st.booleans())
@settings(max_examples=60, deadline=None)
def test_patient_is_optunas_patient_pruner(curve: list[int], patience: int, maximize: bool) -> None:
    theirs = optuna.pruners.PatientPruner(None, patience, 0.5)
    study = optuna.create_study(
        direction="maximize" if maximize else "minimize", pruner=theirs, sampler=optuna.samplers.RandomSampler(seed=1)
    )
    trial = study.ask()
    options = {"kind": "patient", "patience": patience, "min_delta": 0.5}
    search = make(sampler={"kind": "random"}, pruner=options, maximize=[maximize])
    search.ask(0, 1)
    for epoch, value in enumerate(curve, 1):
        trial.report(value, epoch)
        stopped = bool(search.observe([(0, epoch, value)]))
        assert stopped == trial.should_prune()
        assert not stopped or epoch in search.rungs(epoch + 1)


def test_patient_stops_what_its_own_pruner_would_and_only_where_nothing_improves() -> None:
    pruner = {"kind": "patient", "patience": 1, "pruner": {"kind": "asha", "min_epochs": 4, "reduction": 2}}
    search = make(sampler={"kind": "random"}, pruner=pruner)
    search.ask(0, 4)
    curves = {0: [1, 2, 3, 4], 1: [4, 3, 2, 1], 2: [0, 0.1, 0.2, 0.3], 3: [9, 9, 8, 8]}
    stopped = {epoch: observe(search, epoch, [curves[n][epoch - 1] for n in range(4)]) for epoch in range(1, 5)}
    assert stopped == {1: set(), 2: set(), 3: set(), 4: {1}}  # 2 is last but rises, 3 sinks but leads
    assert search.rungs(4) == set()
    assert search.rungs(9) == {4, 8}


def test_hyperbands_brackets_have_the_first_rungs_and_the_shares_of_the_paper() -> None:
    """Li et al. 2018, table 1: R = 81, reduction 3: 81, 34, 15, 8 and 5 trials begin at 1, 3, 9, 27 and 81 epochs."""
    facts = pruners.Facts(maximize=True, seed=5, epochs=81)
    rule = pruners.Hyperband(facts, min_epochs=1, reduction=3)
    counts = Counter(rule.bracket(number) for number in range(14_300))
    assert [round(counts[bracket] / 100) for bracket in range(5)] == pytest.approx([81, 34, 15, 8, 5], abs=2)
    assert rule.rungs(82) == {1, 3, 9, 27, 81}
    for bracket in range(5):
        numbers = [number for number in range(600) if rule.bracket(number) == bracket][:3]
        for epoch in (1, 3, 9, 27, 81):
            for value, number in enumerate(numbers):
                rule.record(number, epoch, value)
            stops = [rule.stops(number, epoch, {epoch: value}) for value, number in enumerate(numbers)]
            assert stops == ([True, True, False] if epoch >= 3**bracket else [False] * 3)


@pytest.mark.parametrize("pruner", [name for name in PRUNERS if name != "none"])
def test_a_verdict_depends_on_no_row_and_falls_at_a_rung(pruner: str) -> None:
    driver = Driver(make(sampler={"kind": "random"}, pruner=PRUNERS[pruner]), 24)
    events = driver.run()
    rungs = driver.search.rungs(4)
    assert {event[2] for event in events if event[0] == "reported"} >= rungs
    other = make(sampler={"kind": "random"}, pruner=PRUNERS[pruner])
    other.ask(0, 24)
    reports: list[tuple[int, int, float | None]] = []
    stopped: set[int] = set()
    for kind, *body in [*events, ("asked",)]:
        if reports and (kind != "reported" or reports[0][1] != body[1]):
            epoch = reports[0][1]
            stops = other.observe(random.Random(len(reports)).sample(reports, len(reports)))
            assert not stops or epoch in rungs | {4}
            stopped |= stops if epoch < 4 else set()
            reports = []
        if kind == "reported":
            reports.append((body[0], body[1], body[2]))
        elif kind == "told":
            assert (body[1] is State.PRUNED) == (body[0] in stopped)
            other.tell(body[0], body[1], None if body[2] is None else [body[2]])


# ----------------------------------------------------------------------- optuna


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_every_parameter_converts_to_the_same_range_in_optuna(name: str) -> None:
    for parameter in load(name).parameters.values():
        converted = distribution(parameter)
        for value in (parameter.low_value, parameter.high_value):
            assert converted._contains(converted.to_internal_repr(value))


def test_a_stepped_parameter_has_the_same_values_in_optuna() -> None:
    space = SearchSpace.from_dict(
        {
            "a": {"type": "float", "low": 0.1, "high": 0.7, "step": 0.2},
            "b": {"type": "int", "low": 1, "high": 9, "step": 4},
        }
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for name, parameter in space.parameters.items():
        drawn = [study.ask({name: distribution(parameter)}).params[name] for _ in range(60)]
        assert {parameter.fit(value) for value in drawn} == set(parameter.values())


@pytest.mark.filterwarnings("error")
def test_optuna_is_silent_and_its_verbosity_stays_the_users(capfd: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    assert before == logging.INFO
    for kind, pruner in (
        ("tpe", "median"),
        ("nsga2", "patient"),
        ("cmaes", "hyperband"),
        ("qmc", "asha"),
        ("gp", "none"),
    ):
        Driver(make(sampler=SAMPLERS[kind], pruner=PRUNERS[pruner]), 11 if kind == "gp" else 16).run()
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == before
