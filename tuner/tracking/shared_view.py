"""What MLflow's page shows of a study at first sight: its trials sorted, their curves, where good ones are to be found.

A view, kept where MLflow keeps the views that people save: in a tag of the experiment, so that a link may name it.
Knows the state of MLflow's page, and how a spec names hyperparameters. Must never know MLflow's client, ledgers, runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tuner.history.fold import History
from tuner.tracking.projection import BEST, BEST_EPOCH

VIEW = "tuner"  # the key in a link
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
TRIALS = "tags.`tuner.trial` != ''"  # the parent does not pass this filter, which unfolds its children

_SEARCH = "tuner-search"  # the section of our charts; the other metrics are drawn where their names begin so
_SECTIONS = {  # title, charts in a row
    _SEARCH: ("The search", 1),
    "tuner-val": ("val", 2),
    "tuner-train": ("train", 2),
    "tuner-best": ("best", 2),
}
_HEIGHT = 320  # pixels of a chart: two fit into a window
_SHOWN = "FIRST_20_RUNS"  # the curves of more cannot be told apart
_AXES, _COLUMNS = 12, 24  # more cannot be read, and MLflow takes 20,000 characters of a tag


def view_of(history: History) -> str:
    """The tag's value: the view of a study, under the name that MLflow's menu of saved views has for it."""
    view = {"name": "Trials, best first", "createdAt": int(history.created_at * 1000)}
    return json.dumps(view | {"state": json.dumps(_state(history))})


def _state(history: History) -> dict[str, Any]:
    """The page's state; what is not in it is as MLflow has it."""
    space: Mapping[str, Mapping[str, Any]] = history.spec["search"]["space"]
    (metric, maximize), *others = history.objectives
    # MLflow knows a run's last values alone; what a trial was best at stands in metrics of its own.
    best = [f"{BEST}{name}" for name in (metric, *(name for name, _ in others))]
    # A run that lacks one of a plot's hyperparameters is not drawn: what is active under conditions stays out.
    always = [name for name, parameter in space.items() if "when" not in parameter][:_AXES]
    # As measured: MLflow smooths what does not say how much.
    curves = {"type": "LINE", "metricKey": metric, "selectedMetricKeys": [metric], "lineSmoothness": 0}
    charts: list[dict[str, Any]] = [{**curves, "useGlobalXaxisKey": True, "useGlobalLineSmoothing": True}]
    if always:
        axes = {"selectedParams": always, "selectedMetrics": best[::-1]}  # the last one gives a line its colour
        charts.append({"type": "PARALLEL", **axes, "showAllRuns": True})
    if others:
        against = {"xaxis": {"key": best[1], "type": "METRIC"}, "yaxis": {"key": best[0], "type": "METRIC"}}
        charts.append({"type": "SCATTER", **against})
    return {
        "searchFilter": TRIALS,
        "orderByKey": f"metrics.`{best[0]}`",
        "orderByAsc": not maximize,
        "runsHiddenMode": "SHOW_ALL" if others else _SHOWN,
        "selectedColumns": [
            *(f"metrics.`{name}`" for name in (*best, BEST_EPOCH)),
            *(f"params.`{name}`" for name in list(space)[:_COLUMNS]),
            "tags.`tuner.state`",
        ],
        "compareRunSections": [
            {
                "uuid": uuid,
                "name": name,
                "columns": columns,
                "cardHeight": _HEIGHT,
                "display": True,
                "isReordered": True,
            }
            for uuid, (name, columns) in _SECTIONS.items()
        ],
        "isAccordionReordered": True,  # they stay in this order
        "compareRunCharts": [
            {"uuid": f"{_SEARCH}-{place}", "metricSectionId": _SEARCH, "deleted": False, "isGenerated": False, **chart}
            for place, chart in enumerate(charts)
        ],
    }
