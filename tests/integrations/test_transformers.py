"""The Trainer of transformers as a trial: what is reported, how a pruned trial ends, what a killed one goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tuner
from tests.programs import content, first, launch, states
from tests.studies import WAITING
from tuner.events import State
from tuner.history.fold import TrialHistory
from tuner.study.launch import Study
from tuner.workloads import context

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

TRAIN = """
import os, signal, torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments
from tuner.integrations.transformers import TunerCallback

SIZES = {"vocab_size": 16, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
class Heard(TrainerCallback):
    def __init__(self, trial):
        self.trial = trial

    def write(self, line):
        with (self.trial.folder / "heard").open("a") as file:
            file.write(f"{line}\\n")

    def on_train_begin(self, args, state, control, **kwargs):
        self.write(f"begins at {state.global_step}")

    def on_epoch_begin(self, args, state, control, **kwargs):
        mark = self.trial.folder / "killed"
        if self.trial.number == 1 and state.epoch == KILLED and not mark.exists():
            mark.write_text("once")
            os.kill(os.getpid(), signal.SIGKILL)

    def on_evaluate(self, args, state, control, **kwargs):
        self.write("evaluates")

    def on_train_end(self, args, state, control, **kwargs):
        self.write(f"ends at {state.global_step}")

def rows(count):
    tokens = torch.arange(count * 4).reshape(count, 4) % 16
    return [{"input_ids": row, "labels": int(row[0] > 7)} for row in tokens]

def options_of_trials():
    return [{}]

def train(trial):
    torch.manual_seed(1)
    callback, heard = TunerCallback(trial), Heard(trial)
    model = BertForSequenceClassification(BertConfig(**SIZES))
    each = {"eval_strategy": "epoch", "save_strategy": "epoch", "logging_strategy": "epoch", "save_total_limit": 1}
    options = each | (options_of_trials() + 2 * [{}])[trial.number]
    rows_to_evaluate = options.pop("evaluate", rows(4))
    arguments = TrainingArguments(
        trial.folder / "trainer", num_train_epochs=trial.epochs, per_device_train_batch_size=2, learning_rate=0.01,
        use_cpu=True, report_to="none", disable_tqdm=True, **options
    )
    trainer = Trainer(
        model, arguments, train_dataset=rows(8), eval_dataset=rows_to_evaluate,
        compute_metrics=lambda predictions: {"number": trial.number + 1.0, "words": ["none"], "said": "1"},
        callbacks=[heard, callback],
    )
    try:
        trainer.train(resume_from_checkpoint=callback.checkpoint)
        trainer.evaluate()
        (trial.folder / "after").write_text("")
    finally:
        heard.write("finally")
"""
EVERY = {"eval_number", "eval_loss", "loss", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second"}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def written(options: str = "[{}]", killed: int = -1) -> str:
    return TRAIN.replace("[{}]", options).replace("KILLED", str(killed))


def study(folder: Path, code: str, trial: dict[str, Any] | None = None, **search: Any) -> Study:
    (folder / "train.py").write_text(code)
    told = {"epochs": 3, **(trial or {"function": "train.py:train", "retries": 1})}
    objective = {"metric": "eval_number", "goal": "minimize"}
    made, _ = launch(folder, content(told, **{"objective": objective, "trials": 2, **search}))
    assert [one.message for one in made.history.trials.values() if one.state is State.FAILED] == []
    return made


def values(trial: TrialHistory, metric: str) -> list[float]:
    return [trial.reports[epoch][metric] for epoch in sorted(trial.reports)]


def left_by(made: Study, number: int, name: str) -> list[str]:
    """The lines of a file that a trial has written."""
    return (made.folder / "trials" / f"{number:06d}" / name).read_text().splitlines()


def test_every_evaluation_is_reported_and_a_pruned_trial_ends_with_all_its_hooks(tmp_path: Path) -> None:
    options = "[{}, {}, {'save_strategy': 'no'}, {'eval_strategy': 'steps', 'eval_steps': 1, 'save_strategy': 'no'}]"
    made = study(tmp_path, written(options), pruner={"kind": "median", "startup": 1}, trials=4)
    assert states(made) == {State.COMPLETE: 1, State.PRUNED: 3}
    trial, *pruned = made.history.trials.values()
    assert all(metrics.keys() == EVERY for metrics in trial.reports.values())
    assert values(trial, "eval_number") == [1.0, 1.0, 1.0]
    assert values(trial, "loss") == sorted(values(trial, "loss"), reverse=True)
    assert [sorted(one.reports) for one in pruned] == [[1], [1], [1]]
    begin, evaluate, last = "begins at 0", "evaluates", "finally"
    assert left_by(made, 0, "heard") == [begin, *[evaluate] * 3, "ends at 12", evaluate, last]
    assert left_by(made, 1, "heard") == [begin, evaluate, "ends at 4", last]
    assert left_by(made, 2, "heard") == [begin, evaluate, "ends at 5", last], "it is told when the Trainer goes on"
    assert left_by(made, 3, "heard") == [begin, evaluate, "ends at 2", last]
    after = [(made.folder / "trials" / f"{number:06d}" / "after").exists() for number in range(4)]
    assert after == [True, False, False, False], "only an unstopped train returns"


def test_a_killed_trial_goes_on_from_its_checkpoint_to_the_same_numbers(tmp_path: Path) -> None:
    made = study(tmp_path, written(killed=2), pruner=WAITING)
    assert states(made) == {State.COMPLETE: 2}
    whole, killed = made.history.trials.values()
    assert left_by(made, 1, "killed") == ["once"]
    assert sorted(killed.reports) == [1, 2, 3]
    assert values(killed, "loss") == values(whole, "loss")
    assert values(killed, "eval_loss") == values(whole, "eval_loss")
    assert [line for line in left_by(made, 1, "heard") if line.startswith("begins")] == ["begins at 0", "begins at 8"]


def test_a_report_is_an_evaluation_while_it_trains(tmp_path: Path) -> None:
    options = (
        "[{'eval_strategy': 'steps', 'eval_steps': 2, 'eval_on_start': True},"
        " {'evaluate': {'easy': rows(2), 'hard': rows(4)}},"
        " {'eval_strategy': 'steps', 'eval_steps': 5}]"
    )
    made = study(tmp_path, written(options), objective={"metric": "loss", "goal": "minimize"}, trials=3)
    often, several, seldom = made.history.trials.values()
    assert [sorted(trial.reports) for trial in (often, several, seldom)] == [[1, 2, 3, 4, 5, 6], [1, 2, 3], [1, 2, 3]]
    assert [epoch for epoch, metrics in often.reports.items() if "loss" not in metrics] == [1], "none was logged yet"
    assert all({"eval_easy_number", "eval_hard_number", "loss"} <= one.keys() for one in several.reports.values())


@pytest.mark.slow
def test_two_processes_report_once_and_stop_together(tmp_path: Path) -> None:
    code = written() + "\nimport tuner\ntrain(tuner.current_trial())\n"
    words = ["python", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py"]
    made = study(tmp_path, code, {"command": words, "retries": 0}, pruner={"kind": "median", "startup": 1})
    assert states(made) == {State.COMPLETE: 1, State.PRUNED: 1}
    assert sorted(first(made).reports) == [1, 2, 3]
    assert left_by(made, 1, "heard").count("finally") == 2


def test_the_same_file_runs_without_a_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "_CURRENT", None)
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    exec(written(), space)
    space["train"](tuner.current_trial(epochs=2))
    said = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("epoch=")]
    assert [words[0] for words in said] == ["epoch=1", "epoch=2"]
    assert all("eval_number=1" in words for words in said)
