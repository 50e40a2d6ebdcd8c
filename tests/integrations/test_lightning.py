"""Lightning's Trainer as a trial: what is reported, how a pruned trial ends, and what a killed one goes on from."""

from __future__ import annotations

import math
import subprocess
import sys
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

pytest.importorskip("lightning")
pytest.importorskip("pytorch_lightning")

MODEL = """
import os, signal, torch
from PACKAGE import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset
from tuner.integrations.lightning import TunerCallback

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}

class Line(LightningModule):
    def __init__(self, trial):
        super().__init__()
        torch.manual_seed(1)
        self.trial, self.layer = trial, torch.nn.Linear(1, 1)

    def training_step(self, batch, index):
        loss = (self.layer(batch[0]) - 2 * batch[0]).square().mean()
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_start(self):
        mark = self.trial.folder / "killed"
        if self.trial.number == 1 and self.current_epoch == KILLED and not mark.exists():
            mark.write_text("once")
            os.kill(os.getpid(), signal.SIGKILL)

    def validation_step(self, batch, index):
        self.log("val/loss", self.trial.number + 1.0)

    def on_train_epoch_end(self):
        self.log("begun", float(self.trainer.fit_loop.epoch_progress.total.ready))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.1)

    def teardown(self, stage):
        with (self.trial.folder / "ended").open("a") as file:
            file.write("module\\n")

class Ends(Callback):
    def on_fit_end(self, trainer, module):
        with (module.trial.folder / "ended").open("a") as file:
            file.write("fit\\n")

    def teardown(self, trainer, module, stage):
        with (module.trial.folder / "ended").open("a") as file:
            file.write("callback\\n")

def batches():
    x = torch.linspace(-1, 1, 8)[:, None]
    return DataLoader(TensorDataset(x), batch_size=4)
"""
TRAIN = """
def train(trial):
    callback = TunerCallback(trial)
    options = {} if trial.number < 2 else {"min_epochs": trial.epochs}
    trainer = Trainer(
        max_epochs=trial.epochs, callbacks=[callback, Ends()], default_root_dir=trial.folder, **options, **QUIET
    )
    try:
        trainer.fit(Line(trial), batches(), batches(), ckpt_path=callback.checkpoint)
        (trial.folder / "after").write_text("")
    finally:
        with (trial.folder / "ended").open("a") as file:
            file.write("finally\\n")
"""
PRUNES = {"kind": "median", "startup": 1}


def written(train: str, package: str = "lightning.pytorch", killed: int = -1) -> str:
    return (MODEL + train).replace("PACKAGE", package).replace("KILLED", str(killed))


def study(folder: Path, code: str, **search: Any) -> Study:
    (folder / "train.py").write_text(code)
    trial = {"function": "train.py:train", "epochs": 3, "retries": 1}
    made, _ = launch(folder, content(trial, **search))
    assert [one.message for one in made.history.trials.values() if one.state is State.FAILED] == []
    return made


def values(trial: TrialHistory, metric: str) -> list[float]:
    return [trial.reports[epoch].get(metric, math.nan) for epoch in sorted(trial.reports)]


def left_by(made: Study, number: int, name: str) -> list[str]:
    """The lines of a file that a trial has written."""
    return (made.folder / "trials" / f"{number:06d}" / name).read_text().splitlines()


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_every_epoch_is_reported_and_a_pruned_trial_ends_with_all_its_hooks(package: str, tmp_path: Path) -> None:
    made = study(tmp_path, written(TRAIN, package), pruner=PRUNES, trials=3)
    assert states(made) == {State.COMPLETE: 1, State.PRUNED: 2}
    trial, pruned, must_go_on = (made.history.trials[number] for number in range(3))
    assert trial.reports[1].keys() == {"train/loss", "val/loss", "begun"}
    assert values(trial, "val/loss") == [1.0, 1.0, 1.0] and values(trial, "begun") == [1.0, 2.0, 3.0]
    assert values(trial, "train/loss") == sorted(values(trial, "train/loss"), reverse=True)
    assert sorted(pruned.reports) == sorted(must_go_on.reports) == [1]
    assert left_by(made, 1, "ended") == ["fit", "callback", "module", "finally"]
    assert left_by(made, 2, "ended") == ["finally"], "the Trainer has begun another epoch, which an exception ends"
    assert [(made.folder / "trials" / f"{number:06d}" / "after").exists() for number in range(3)] == [
        True,
        False,
        False,
    ]


def test_a_killed_trial_goes_on_from_its_checkpoint_to_the_same_numbers(tmp_path: Path) -> None:
    train = """
from lightning.pytorch.callbacks import ModelCheckpoint
def train(trial):
    callback, best = TunerCallback(trial), ModelCheckpoint(trial.folder / "best", "{epoch}", "begun", mode="max")
    trainer = Trainer(max_epochs=trial.epochs, callbacks=[callback, best], default_root_dir=trial.folder, **QUIET)
    trainer.fit(Line(trial), batches(), batches(), ckpt_path=callback.checkpoint)
    (trial.folder / "kept").write_text("\\n".join(sorted(path.name for path in (trial.folder / "best").iterdir())))
"""
    made = study(tmp_path, written(train, killed=2), pruner=WAITING, trials=2)
    assert states(made) == {State.COMPLETE: 2}
    whole, killed = made.history.trials.values()
    assert left_by(made, 1, "killed") == ["once"]
    assert values(killed, "begun") == values(whole, "begun") == [1.0, 2.0, 3.0], "the Trainer began anew"
    assert values(killed, "train/loss") == values(whole, "train/loss")
    assert left_by(made, 0, "kept") == ["epoch=2.ckpt"]
    assert left_by(made, 1, "kept") == ["epoch=2.ckpt"], "ModelCheckpoint's state was saved before its turn"


def test_reports_follow_validation_where_there_is_any(tmp_path: Path) -> None:
    train = """
OPTIONS = [{"limit_val_batches": 0}, {"val_check_interval": 0.5}, {"check_val_every_n_epoch": 3}]
def train(trial):
    options = OPTIONS[trial.number]
    trainer = Trainer(max_epochs=3, callbacks=TunerCallback(), default_root_dir=trial.folder, **options, **QUIET)
    trainer.fit(Line(trial), batches(), batches())
    trainer.validate(dataloaders=batches())
"""
    made = study(tmp_path, written(train), objective={"metric": "train/loss", "goal": "minimize"}, trials=3)
    without, twice, seldom = made.history.trials.values()
    assert sorted(without.reports) == [1, 2, 3]
    assert all(metrics.keys() == {"train/loss", "begun"} for metrics in without.reports.values())
    assert sorted(twice.reports) == [1, 2, 3, 4, 5, 6] and values(twice, "val/loss") == [2.0] * 6
    assert [epoch for epoch, metrics in twice.reports.items() if "train/loss" in metrics] == [2, 4, 6]
    assert values(seldom, "val/loss") == [3.0] and values(seldom, "begun") == [3.0]


@pytest.mark.slow
def test_two_processes_report_once_save_together_and_stop_together(tmp_path: Path) -> None:
    train = TRAIN.replace("**QUIET", "devices=2, strategy='ddp_fork', **QUIET")
    made = study(tmp_path, written(train), pruner=PRUNES, trials=2)
    assert states(made) == {State.COMPLETE: 1, State.PRUNED: 1}
    assert sorted(first(made).reports) == [1, 2, 3]
    assert sorted(left_by(made, 1, "ended")) == ["callback"] * 2 + ["finally"] + ["fit"] * 2 + ["module"] * 2


@pytest.mark.slow
def test_a_command_that_is_told_to_end_ends(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(written(TRAIN) + "\nimport tuner\ntrain(tuner.current_trial())\n")
    command = {"command": ["python", "train.py"], "epochs": 3, "retries": 0}
    made, _ = launch(tmp_path, content(command, pruner=PRUNES, trials=2))
    assert [one.message for one in made.history.trials.values() if one.state is State.FAILED] == []
    assert states(made) == {State.COMPLETE: 1, State.PRUNED: 1}
    assert left_by(made, 1, "ended")[-1] == "finally"


def test_the_same_file_runs_without_a_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "_CURRENT", None)
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    exec(written(TRAIN), space)
    space["train"](tuner.current_trial(epochs=2))
    said = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("epoch=")]
    assert [words[0] for words in said] == ["epoch=1", "epoch=2"]
    assert all("val/loss=1" in words for words in said)


def test_a_trainer_of_the_other_package_is_refused(tmp_path: Path) -> None:
    from tuner.integrations.lightning import TunerCallback

    theirs = type("Trainer", (), {"__module__": "pytorch_lightning.trainer.trainer"})()
    with pytest.raises(TypeError, match=r"import pytorch_lightning before tuner\.integrations\.lightning"):
        TunerCallback(alone(tmp_path)).setup(theirs, None, "fit")


def test_a_checkpoint_of_another_kind_is_refused(tmp_path: Path) -> None:
    from tuner.integrations.reports import Reports

    (path := tmp_path / "checkpoint").write_bytes(context.pack({"epoch": 2}))
    with pytest.raises(TypeError, match=r"got a dict: use trial.restore\(\) instead"):
        _ = Reports(alone(tmp_path, str(path))).checkpoint


def test_numbers_alone_are_reported() -> None:
    import torch

    from tuner.integrations.reports import scalars

    metrics = {"a": torch.tensor([1.5]), "b": True, "c": torch.zeros(2), "d": "3", "e": [1], "f": None, "g": 2}
    assert scalars(metrics) == {"a": 1.5, "b": 1.0, "g": 2.0}


@pytest.mark.parametrize(("name", "remedy"), [("lightning", "lightning"), ("transformers", r"'transformers\[torch\]'")])
def test_a_missing_library_is_named_with_its_remedy(name: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for missing in ("lightning", "lightning.pytorch", "pytorch_lightning", "transformers"):
        monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, f"tuner.integrations.{name}", raising=False)
    with pytest.raises(ImportError, match=f"which is not installed: pip install {remedy}$"):
        __import__(f"tuner.integrations.{name}")


def test_the_package_alone_imports_no_library() -> None:
    code = "import sys, tuner.integrations; print({'torch', 'lightning', 'transformers'} & sys.modules.keys())"
    said = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "set()\n"


def alone(folder: Path, checkpoint: str = "") -> context.TrialContext:
    """A trial that nobody listens to."""
    job = context.TrialJob(0, {}, 0, "cpu", None, "val/loss", str(folder), checkpoint=checkpoint)
    return context.TrialContext(job, context._Printing())
