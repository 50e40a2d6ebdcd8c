"""The view of a study that MLflow's page opens: what it sorts, what it draws, what it leaves out."""

from __future__ import annotations

import json
from typing import Any

from tests.stories import DATA, spec
from tuner.events import Created
from tuner.history.fold import History
from tuner.tracking.shared_view import view_of

SPACE = {
    "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
    "optimizer": {"type": "choice", "values": ["sgd", "adam"]},
    "momentum": {"type": "float", "low": 0.0, "high": 0.99, "when": {"optimizer": ["sgd"]}},
}


def state_of(*objective: tuple[str, str], space: dict[str, Any] = SPACE) -> dict[str, Any]:
    written = spec("s", 4)
    goals = [{"metric": metric, "goal": goal} for metric, goal in objective]
    written["search"] = {**written["search"], "space": space, "objective": goals if len(goals) > 1 else goals[0]}
    body = {"spec": written, "digest": "d", "text": "", "id": "i", "data": DATA}
    history = History.of([Created(**body, seed=0)])
    view = view_of(history)
    assert len(view) < 20_000, "what MLflow takes of an experiment's tag"
    state: dict[str, Any] = json.loads(json.loads(view)["state"])
    return state


def charts(state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {chart["type"]: chart for chart in state["compareRunCharts"]}


def test_the_best_trial_is_the_first_whichever_way_is_better() -> None:
    up, down = state_of(("val/accuracy", "maximize")), state_of(("val/loss", "minimize"))
    assert (up["orderByKey"], up["orderByAsc"]) == ("metrics.`best/val/accuracy`", False)
    assert (down["orderByKey"], down["orderByAsc"]) == ("metrics.`best/val/loss`", True)


def test_the_table_shows_what_it_sorts_by_and_the_epoch_of_it() -> None:
    columns = state_of(("val/loss", "minimize"))["selectedColumns"]
    assert columns[:2] == ["metrics.`best/val/loss`", "metrics.`best/epoch`"]


def test_curves_are_drawn_as_they_were_measured() -> None:
    assert charts(state_of(("val/accuracy", "maximize")))["LINE"]["lineSmoothness"] == 0, "MLflow would smooth them"


def test_the_plot_of_the_hyperparameters_leaves_out_those_that_some_trials_lack() -> None:
    state = state_of(("val/accuracy", "maximize"))
    assert charts(state)["PARALLEL"]["selectedParams"] == ["learning_rate", "optimizer"]
    assert "params.`momentum`" in state["selectedColumns"], "the table has a dash for what is missing"


def test_every_chart_lies_in_the_first_section_and_has_an_identity_of_its_own() -> None:
    state = state_of(("val/accuracy", "maximize"), ("parameters", "minimize"))
    first, *_ = [section["uuid"] for section in state["compareRunSections"]]
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == {first}
    assert len({chart["uuid"] for chart in state["compareRunCharts"]}) == len(state["compareRunCharts"])


def test_several_objectives_are_drawn_against_each_other_for_all_trials() -> None:
    state = state_of(("val/accuracy", "maximize"), ("parameters", "minimize"))
    assert charts(state)["SCATTER"]["xaxis"]["key"] == "best/parameters"
    assert charts(state)["SCATTER"]["yaxis"]["key"] == "best/val/accuracy"
    assert charts(state)["PARALLEL"]["selectedMetrics"][-1] == "best/val/accuracy", "the last one is the colour"
    assert state["runsHiddenMode"] == "SHOW_ALL"
    assert "SCATTER" not in charts(state_of(("val/accuracy", "maximize")))


def test_a_space_of_any_size_leaves_a_plot_that_can_be_read_and_a_tag_that_mlflow_takes() -> None:
    wide = {f"{'x' * 240}{number}": {"type": "float", "low": 0.0, "high": 1.0} for number in range(300)}
    state = state_of(("val/accuracy", "maximize"), space=wide)
    assert charts(state)["PARALLEL"]["selectedParams"] == list(wide)[:12]
    assert charts(state_of(("val/accuracy", "maximize"), space={})).keys() == {"LINE"}, "nothing to plot against"
