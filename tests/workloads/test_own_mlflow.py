"""What a trial's own code writes to MLflow stands in the trial's own run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests import studies
from tests.programs import content, launch, states
from tests.stores import Store
from tuner.events import State
from tuner.spec import StudySpec
from tuner.workloads.kinds import workload

FUNCTION = """
import mlflow
def train(trial):
    with mlflow.start_run():
        mlflow.log_params({"rate": trial.params["rate"], "of_mine": "yes"})
        mlflow.log_metric("mine", trial.number, step=3)
        for epoch in range(trial.epochs):
            trial.report({"val/loss": trial.number + 1.0})
"""
SCRIPT = """
import mlflow, tuner
trial = tuner.current_trial()
mlflow.log_param("of_mine", "yes")
mlflow.log_metric("mine", trial.number, step=3)
for epoch in range(trial.epochs):
    trial.report({"val/loss": trial.number + 1.0})
"""


@pytest.mark.parametrize("kind", ["function", "command"])
def test_a_trials_own_code_writes_into_its_run(kind: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(FUNCTION if kind == "function" else SCRIPT)
    place = "train.py:train" if kind == "function" else [sys.executable, "train.py"]
    pruner = {"kind": "median", "startup": 1}
    written = content({kind: place, "epochs": 3, "params": {"depth": 2}}, trials=3, pruner=pruner)
    written["search"]["start_with"] = [{"rate": 0.1}]
    written["tracking"] = {"mlflow": "embedded"}
    study, lines = launch(tmp_path, written)
    assert "MLflow is up to date" in lines
    assert states(study) == {State.COMPLETE: 1, State.PRUNED: 2}
    store = Store(tmp_path / "home")
    runs = store.children("own")
    assert len(runs) == 3 and len(store.client.search_experiments()) == 2, "no run beside the trials'"
    for number, trial in study.history.trials.items():
        run = runs[number]
        assert run.info.status == {State.COMPLETE: "FINISHED", State.PRUNED: "KILLED"}[trial.state]
        assert run.data.params == {"rate": str(trial.params["rate"]), "depth": "2", "epochs": "3", "of_mine": "yes"}
        mine = store.client.get_metric_history(run.info.run_id, "mine")
        assert [(point.step, point.value) for point in mine] == [(3, float(number))]
        losses = store.client.get_metric_history(run.info.run_id, "val/loss")
        assert [point.step for point in losses] == sorted(trial.reports)


def test_trials_wait_for_no_store_that_cannot_be_reached(tmp_path: Path) -> None:
    code = (
        "import os\n# mlflow\ndef train(trial):\n    return {'val/loss': 1.0, 'run': 'MLFLOW_RUN_ID' in os.environ}\n"
    )
    (tmp_path / "train.py").write_text(code)
    written = content({"function": "train.py:train"}, trials=2)
    written["tracking"] = {"mlflow": "http://127.0.0.1:9"}
    study, lines = launch(tmp_path, written)
    assert states(study) == {State.COMPLETE: 2} and "tuner sync" in lines
    assert [trial.reports[1]["run"] for trial in study.history.trials.values()] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("trial", "ahead"),
    [
        ({"function": "train.py:train"}, True),
        ({"function": "train.py:train", "mlflow": False}, False),
        ({"function": "apart/plain.py:train"}, False),
        ({"function": "apart/plain.py:train", "mlflow": True}, True),
        ({"command": [sys.executable, "train.py"]}, True),
        ({"command": [sys.executable, "apart/plain.py"]}, False),
        ({"command": ["sh", "-c", "echo $MLFLOW_RUN_ID"]}, True),
    ],
)
def test_a_run_is_made_ahead_where_code_speaks_of_it(trial: dict[str, Any], ahead: bool, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import beside\ndef train(trial): ...\n")
    (tmp_path / "beside.py").write_text("import mlflow\n")
    (tmp_path / "apart").mkdir()
    (tmp_path / "apart" / "plain.py").write_text("def train(trial): ...\n")
    spec = StudySpec.read(studies.write(tmp_path, content(trial)))
    assert workload(spec).writes_runs is ahead
