"""What people and their scripts read of a study: every number is the ledger's own, in a shape that never changes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.errors import StudyMissing
from tuner.events import Asked, Completed, Created, Event, Finished, Pruned, Reported, Started, Tested
from tuner.history import results
from tuner.history.fold import History
from tuner.ledger import Ledger

GOLDEN = Path(__file__).parents[1] / "golden"


def created(goal: str = "maximize", metric: str = "val/accuracy") -> Event:
    spec = {"study": "digits", "search": {"objective": {"metric": metric, "goal": goal}}}
    return Created(spec=spec, digest="d", text="t", id="i", data={}, seed=0)


def asked(trial: int, **params: Any) -> Event:
    return Asked(trial, params=params, seed=100 + trial)


def reported(trial: int, epoch: int, **metrics: float) -> Event:
    body = {"metrics": {name.replace("_", "/"): value for name, value in metrics.items()}, "seconds": 0.25}
    return Reported(trial, epoch, **body)


def started(*trials: int) -> Event:
    return Started(0, attempt=1, worker=0, trials=list(trials), epoch=0)


def finished(trial: int) -> Event:
    return Finished(trial, epochs=1, best_epoch=1)


def accuracies(trial: int, *values: float | None) -> list[Event]:
    """One report per value, from epoch 1; None leaves the objective out, as a value that is not finite."""
    return [
        reported(trial, epoch, val_loss=1.0 / epoch, **({} if value is None else {"val_accuracy": value}))
        for epoch, value in enumerate(values, start=1)
    ]


@pytest.fixture
def golden(tmp_path: Path) -> History:
    (tmp_path / "ledger.db").write_bytes((GOLDEN / "ledger-v1.db").read_bytes())
    with Ledger.open(tmp_path) as ledger:
        return ledger.history()


def test_the_json_of_the_golden_ledger_is_what_it_always_was(golden: History) -> None:
    expected = json.loads((GOLDEN / "ledger-v1.json").read_text())
    assert results.as_json(golden) == expected["results"]
    assert results.best_json(golden) == expected["best"]


def test_the_json_has_the_documented_keys_and_no_others(golden: History) -> None:
    document = results.as_json(golden)
    assert list(document) == ["study", "state", "objectives", "trials"]
    keys = ["number", "state", "params", "metrics", "last", "best_epoch", "epochs", "seconds", "seed", "message"]
    assert [list(trial) for trial in document["trials"]] == [keys] * 3
    assert json.loads(json.dumps(document, allow_nan=False)) == document


@pytest.mark.parametrize(("goal", "best"), [("maximize", 2), ("minimize", 5)])
def test_metrics_are_those_of_the_objectives_best_epoch_and_the_first_of_equals(goal: str, best: int) -> None:
    history = History.of([created(goal), asked(0), *accuracies(0, 0.5, 0.9, None, 0.9, 0.1, 0.1, None)])
    trial = results.as_json(history)["trials"][0]
    assert trial["metrics"] == {"val/loss": 1 / best, "val/accuracy": 0.9 if goal == "maximize" else 0.1}
    assert trial["last"] == {"val/loss": 1 / 7}
    assert (trial["best_epoch"], trial["epochs"], trial["seconds"]) == (best, 7, 7 * 0.25)


def test_a_trial_whose_objective_never_was_finite_has_no_metrics_and_is_never_best() -> None:
    history = History.of([created(), asked(0), *accuracies(0, None, None), finished(0)])
    trial = results.as_json(history)["trials"][0]
    assert trial["metrics"] == {}
    assert trial["last"] == {"val/loss": 0.5}
    assert trial["best_epoch"] is None
    assert results.trials(history)["best_epoch"].isna().tolist() == [True]
    assert results.best_json(history) is None


def test_a_trial_has_what_was_searched_else_what_is_set_also_in_a_ledger_that_says_it_in_its_spec_alone() -> None:
    spec = {"model": {"family": "mlp", "width": 8}, "train": {"epochs": 5, "momentum": 0.9}}
    told = {"digest": "d", "text": "", "id": "i", "seed": 1, "data": {}}
    old, new = Asked(0, {"width": 4}, 1), Asked(1, {"momentum": 0.5}, 2, {"family": "mlp", "width": 16, "epochs": 5})
    history = History.of([Created(spec=spec, **told), old, new])
    first, second = history.trials.values()
    assert first.settings == {"family": "mlp", "width": 4, "epochs": 5, "momentum": 0.9}
    assert second.settings == {"family": "mlp", "width": 16, "epochs": 5, "momentum": 0.5}
    assert (first.setting("width"), second.setting("width"), first.setting("depth")) == (4, 16, None)


@settings(deadline=None)
@given(st.lists(st.none() | st.sampled_from([-1.5, -0.0, 0.0, 0.25, 3.0]), max_size=8), st.booleans(), st.randoms())
def test_the_best_epoch_is_the_first_with_the_best_value_whatever_is_missing(
    values: list[float | None], maximize: bool, draw: Any
) -> None:
    reports = accuracies(0, *values)
    draw.shuffle(reports)
    trial = History.of([created(), asked(0), *reports]).trials[0]
    finite = [value for value in values if value is not None]
    if finite:
        target = max(finite) if maximize else min(finite)
        assert trial.best_epoch("val/accuracy", maximize) == values.index(target) + 1
        assert trial.best_value("val/accuracy", maximize) == target
    else:
        assert trial.best_epoch("val/accuracy", maximize) is None
        assert trial.best_value("val/accuracy", maximize) is None


def test_the_best_trial_is_a_completed_one_with_its_test_values_and_the_lowest_number_among_equals() -> None:
    events = [created(), *(asked(n) for n in range(4))]
    for number, value in enumerate((0.99, 0.8, 0.9, 0.9)):
        events += accuracies(number, value)
    events += [Pruned(0, epoch=1), finished(3), finished(2), finished(1)]
    history = History.of(events)
    best = results.best_json(history)
    assert isinstance(best, dict)
    assert (best["number"], best["metrics"]) == (2, {"val/loss": 1.0, "val/accuracy": 0.9})
    history.apply(Tested(2, metrics={"test/accuracy": 0.89}))
    best = results.best_json(history)
    assert isinstance(best, dict)
    assert best["metrics"] == {"val/loss": 1.0, "val/accuracy": 0.9, "test/accuracy": 0.89}
    assert all("test/accuracy" not in trial["metrics"] for trial in results.as_json(history)["trials"])


def test_nothing_runs_where_nobody_drives() -> None:
    history = History.of([created(), asked(0), asked(1), started(0), reported(0, 1, val_loss=1.0)])
    dead, living = results.as_json(history), results.as_json(history, driven=True)
    assert (dead["state"], [trial["state"] for trial in dead["trials"]]) == ("interrupted", ["WAITING", "WAITING"])
    assert (living["state"], [trial["state"] for trial in living["trials"]]) == ("running", ["RUNNING", "WAITING"])
    for state in ("complete", "failed"):
        history.apply(Completed(state=state, message=""))
        assert results.as_json(history)["state"] == state


def test_a_ledger_that_says_nothing_yet_is_told_plainly() -> None:
    with pytest.raises(StudyMissing, match="never begun"):
        results.as_json(History())


def test_the_frame_has_one_row_per_trial_and_one_column_per_name_in_the_order_of_appearance() -> None:
    events = [
        created(),
        asked(1, width=16, rate=0.5),
        asked(0, rate=1, optimizer="sgd", nesterov=True),
        asked(2, width=8),
    ]
    frame = results.trials(History.of([*events, *accuracies(0, 0.5), *accuracies(2, 0.25, 0.75), finished(2)]))
    assert list(frame.columns) == [
        "number", "state", "params.rate", "params.optimizer", "params.nesterov", "params.width",
        "val/loss", "val/accuracy", "best_epoch", "epochs", "seconds", "seed", "message",
    ]  # fmt: skip
    assert frame["number"].tolist() == [0, 1, 2]
    assert frame["state"].tolist() == ["WAITING", "WAITING", "COMPLETE"]
    assert frame["params.width"].dtype == "Int64"
    assert frame["params.width"].isna().tolist() == [True, False, False]
    assert frame["params.width"].tolist()[1:] == [16, 8]
    assert frame["params.rate"].dtype == "float64"
    assert frame["params.nesterov"].dtype == "boolean"
    assert frame["val/accuracy"].isna().tolist() == [False, True, False]
    assert frame["val/accuracy"].tolist()[::2] == [0.5, 0.75]
    assert frame["val/loss"].tolist()[2] == 0.5
    assert frame["seed"].tolist() == [100, 101, 102]


def test_no_value_changes_on_its_way_into_the_frame() -> None:
    values: dict[str, list[Any]] = {
        "whole": [1, 2**40, 3], "real": [0.1, 1e-320, 3.0], "flag": [True, False, True], "text": ["a", "", "c"],
        "mixed": [True, 0.5, "x"], "both": [1, "1", 2], "number": [1, 0.5, 2],
    }  # fmt: skip
    events = [created(), *(asked(n, **{name: column[n] for name, column in values.items()}) for n in range(3))]
    frame = results.trials(History.of(events))
    for name, column in values.items():
        assert frame[f"params.{name}"].tolist() == column
    assert [type(cell) for cell in frame["params.mixed"]] == [bool, float, str]
    assert [type(cell) for cell in frame["params.both"]] == [int, str, int]
    kinds = [str(frame[f"params.{name}"].dtype) for name in values]
    assert kinds == ["int64", "float64", "bool", "str", "object", "object", "float64"]


def test_curves_are_tidy_and_in_order(golden: History) -> None:
    history = History.of(
        [created(), asked(1), asked(0), reported(1, 2, val_loss=0.5), *accuracies(1, 0.25), *accuracies(0, None)]
    )
    curves = results.curves(history)
    assert list(curves.columns) == ["trial", "epoch", "metric", "value"]
    assert curves.to_records(index=False).tolist() == [
        (0, 1, "val/loss", 1.0),
        (1, 1, "val/loss", 1.0),
        (1, 1, "val/accuracy", 0.25),
        (1, 2, "val/loss", 0.5),
    ]
    assert len(results.curves(golden)) == 12


def test_a_study_without_trials_has_empty_frames_of_the_same_types(golden: History) -> None:
    empty = History.of([created()])
    assert results.trials(empty).to_csv(index=False) == "number,state,best_epoch,epochs,seconds,seed,message\n"
    for table in (results.trials, results.curves):
        full = table(golden).dtypes
        assert all(full[str(name)] == dtype for name, dtype in table(empty).dtypes.items())
    assert results.best_json(empty) is None
    assert results.as_json(empty)["trials"] == []


def test_json_needs_no_pandas() -> None:
    code = (
        "import sys, tuner.ledger, tuner.history.results; sys.exit('pandas' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- several objectives ----------------------------------------------------------------------------

TWO = (("val/accuracy", True), ("parameters", False))


def weighed(*trials: tuple[float, int | None]) -> History:
    """Complete trials of two epochs, the first with that accuracy and the second with less, and with that size."""
    objective = [{"metric": "val/accuracy", "goal": "maximize"}, {"metric": "parameters", "goal": "minimize"}]
    spec = {"study": "digits", "search": {"objective": objective}}
    events = [Created(spec=spec, digest="d", text="t", id="i", data={}, seed=0)]
    for number, (accuracy, size) in enumerate(trials):
        known = {} if size is None else {"parameters": size}
        events += [asked(number), reported(number, 1, val_accuracy=accuracy, **known)]
        events += [reported(number, 2, val_accuracy=accuracy - 1.0, **known), finished(number)]
    return History.of(events)


def test_of_several_objectives_the_front_is_told_the_winner_at_its_head() -> None:
    history = weighed((0.9, 100), (0.95, 300), (0.9, 200), (0.95, 400), (0.99, None), (0.5, 100))
    document = results.as_json(history)
    assert document["objectives"] == [
        {"metric": "val/accuracy", "goal": "maximize"},
        {"metric": "parameters", "goal": "minimize"},
    ]
    assert [trial["pareto"] for trial in document["trials"]] == [True, True, False, False, False, False]
    best = results.best_json(history)
    assert isinstance(best, list)
    assert [(one["number"], one["metrics"]) for one in best] == [
        (1, {"val/accuracy": 0.95, "parameters": 300}),
        (0, {"val/accuracy": 0.9, "parameters": 100}),
    ]
    assert list(results.frame(document["trials"])["pareto"]) == [True, True] + [False] * 4


def test_of_one_objective_nothing_is_marked(golden: History) -> None:
    assert all("pareto" not in trial for trial in results.as_json(golden)["trials"])
    assert "pareto" not in results.trials(golden)


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3]), st.integers(1, 3)), min_size=1, max_size=8))
def test_the_front_is_what_no_other_trial_beats_and_holds_the_winner(trials: list[tuple[float, int]]) -> None:
    history = weighed(*trials)
    beaten = {
        one
        for one, (accuracy, size) in enumerate(trials)
        for other in trials
        if other[0] >= accuracy and other[1] <= size and other != (accuracy, size)
    }
    front = [trial.number for trial in history.front(*TWO)]
    assert front == [number for number in range(len(trials)) if number not in beaten]
    winner = results.leader(history)
    assert winner is not None
    assert winner.number in front
    assert trials[winner.number][0] == max(accuracy for accuracy, _ in trials)
