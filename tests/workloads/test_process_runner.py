"""A trial's runner, driven by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuner.workloads.base import Epoch, Finished, Job, Setup
from tuner.workloads.context import TrialJob
from tuner.workloads.process_runner import ProgramJob, ProgramTrainer
from tuner.workloads.trial_processes import ProgramSetup


def test_time_that_a_trial_waits_for_the_driver_is_neither_silence_nor_its_own(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("def train(trial):\n    for _ in range(2): trial.report({'val/loss': 1.0})\n")
    seconds = [0.0]  # time stands still but where this test moves it
    payload = ProgramSetup("function", "train.py:train", str(tmp_path), timeout=100.0, silence=10.0)
    trainer = ProgramTrainer(Setup("function", payload, str(tmp_path), "cpu", 1), clock=lambda: seconds[0])
    job = TrialJob(0, {}, 0, "cpu", 2, "val/loss", "", rungs=(1,))
    events = trainer.runner(Job(0, (0,), 0, ProgramJob(job, "val/loss", maximize=False)), lambda: None).run()
    seen: list[Any] = []
    answer: set[int] | None = None
    while True:
        try:
            event = events.send(answer)
        except StopIteration:
            break
        answer = None
        if isinstance(event, Epoch):
            seconds[0] += 1_000.0
            answer = set()
        if isinstance(event, Epoch | Finished):
            seen.append(event)
    assert [type(event) for event in seen] == [Epoch, Epoch, Finished]
    trainer.dismiss()
