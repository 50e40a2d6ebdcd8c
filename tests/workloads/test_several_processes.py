"""A trial of several processes: torchrun's, what leaves its group, and the GPUs that it has."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests import studies
from tests.programs import content, first, launch, launched, left, states
from tests.servers import until
from tuner.errors import SpecError
from tuner.events import State
from tuner.spec import StudySpec
from tuner.study import preflight
from tuner.study.workers import gpu_groups
from tuner.workloads.base import Epoch, Job, Setup
from tuner.workloads.context import TrialJob
from tuner.workloads.kinds import workload
from tuner.workloads.process_runner import ProgramJob, ProgramTrainer
from tuner.workloads.trial_processes import ProgramSetup

DISTRIBUTED = """
import os, signal
import torch
import torch.distributed as dist
import tuner

dist.init_process_group("gloo")
trial, rank = tuner.current_trial(), dist.get_rank()
net = torch.nn.Linear(3, 1)
torch.nn.init.constant_(net.weight, 0.5), torch.nn.init.constant_(net.bias, 0.0)
state = trial.restore()
if state:
    net.load_state_dict(state["net"])
begun = state["epoch"] if state else 0
model = torch.nn.parallel.DistributedDataParallel(net)
optimizer = torch.optim.SGD(model.parameters(), lr=trial.params["rate"])
x = torch.arange(24.0).reshape(8, 3)[rank::2] / 24  # each process has half of the rows
for epoch in range(begun, trial.epochs):
    mark = trial.folder / "killed"
    if rank == 0 and epoch == 2 and not mark.exists():
        mark.write_text("once")
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()
    loss = (model(x) - 1).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    dist.all_reduce(both := loss.detach().clone())
    trial.report(
        {"val/loss": both / 2, "begun": begun},
        checkpoint=lambda: {"epoch": epoch + 1, "net": net.state_dict()},
    )
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_torchrun_trains_one_network_in_two_processes_and_goes_on_when_it_is_killed(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(DISTRIBUTED)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py"]
    trial = {"command": torchrun, "epochs": 4, "retries": 1, "environment": {"OMP_NUM_THREADS": 1}}
    studied, lines = launch(tmp_path, content(trial, trials=1))
    assert states(studied) == {State.COMPLETE: 1}, first(studied).message
    assert "trial 0: its process was ended by SIGKILL; begun again after epoch" in lines
    losses = [first(studied).reports[epoch]["val/loss"] for epoch in (1, 2, 3, 4)]
    import torch

    rate, net = float(first(studied).params["rate"]), torch.nn.Linear(3, 1)
    torch.nn.init.constant_(net.weight, 0.5)
    torch.nn.init.constant_(net.bias, 0.0)
    optimizer, x = torch.optim.SGD(net.parameters(), lr=rate), torch.arange(24.0).reshape(8, 3) / 24
    for reported in losses:
        loss = (net(x) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert reported == pytest.approx(float(loss.detach()), rel=1e-4), "as one process with all rows"
    until(lambda: not left(studied))


@pytest.mark.parametrize("kind", ["function", "command"])
def test_what_leaves_its_group_ends_with_the_trial(kind: str, tmp_path: Path) -> None:
    code = """
import subprocess, sys
def train(trial):
    subprocess.Popen(["sh", "-c", "setsid sleep 600 & setsid sleep 600 & exit 0"], start_new_session=True).wait()
    trial.report({"val/loss": 1.0})
if __name__ == "__main__":
    import tuner
    train(tuner.current_trial())
"""
    if kind == "function":
        study, _ = launched(tmp_path, code, {"epochs": 1}, trials=2)
    else:
        (tmp_path / "train.py").write_text(code)
        study, _ = launch(tmp_path, content({"command": [sys.executable, "train.py"], "epochs": 1}, trials=2))
    assert states(study) == {State.COMPLETE: 2}
    until(lambda: not left(study))


def test_every_worker_has_gpus_of_its_own() -> None:
    assert gpu_groups(2, 2, {}) == ["0,1", "2,3"]
    assert gpu_groups(2, 2, {"CUDA_VISIBLE_DEVICES": "7,3,5,4"}) == ["7,3", "5,4"]


def test_a_trials_processes_see_their_gpus_alone(tmp_path: Path) -> None:
    code = "import os\ndef train(trial): return {'val/loss': float(os.environ['CUDA_VISIBLE_DEVICES'] == '2,3')}\n"
    (tmp_path / "train.py").write_text(code)
    setup = Setup("function", ProgramSetup("function", "train.py:train", str(tmp_path)), str(tmp_path), "cuda:0", 1)
    trainer = ProgramTrainer(Setup(**{**vars(setup), "gpus": "2,3"}))
    job = TrialJob(0, {}, 0, "cpu", None, "val/loss", "")
    events = trainer.runner(Job(0, (0,), 1, ProgramJob(job, "val/loss", maximize=False)), lambda: None).run()
    (report,) = (event for event in events if isinstance(event, Epoch))
    trainer.dismiss()
    assert report.metrics == {0: {"val/loss": 1.0}}


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"gpus_per_trial": 2, "device": "cpu"}, "run.gpus_per_trial: expected none on device cpu, got the integer 2"),
        ({"gpus_per_trial": 2, "share": 0.5}, "run.share: expected none beside gpus_per_trial"),
        ({"gpus_per_trial": 2, "device": "cuda"}, "run.device: expected a machine with a CUDA GPU"),
        ({"gpus_per_trial": 64}, "run.gpus_per_trial: expected at least 64 GPUs here, got"),
    ],
)
def test_gpus_that_cannot_be_are_told_before_anything_runs(run: dict[str, Any], message: str, tmp_path: Path) -> None:
    if "CUDA GPU" in message:
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
    written = content({"command": ["true"]})
    written["run"] = run

    def check() -> None:
        spec = StudySpec.read(studies.write(tmp_path, written))
        preflight.plan(spec, workload(spec))

    with pytest.raises(SpecError) as refused:
        check()
    assert message in str(refused.value)


def test_a_network_of_ours_has_one_gpu(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="expected none for a network that Tuner trains, got the integer 2"):
        StudySpec.read(studies.write(tmp_path, studies.study(run={"gpus_per_trial": 2, "device": "auto"})))
