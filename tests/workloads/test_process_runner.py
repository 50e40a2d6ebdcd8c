"""A trial's runner, driven by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import jobs
from tests.executors.test_worker import Line
from tests.programs import left
from tests.servers import until
from tuner.executors.protocol import Done, Notice, Report
from tuner.executors.worker import Worker
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


class Leaping:
    """Time that stands still, and makes one leap when the runner has looked ten times at a trial that hangs."""

    def __init__(self, hangs: Path, line: Line) -> None:
        self._hangs, self._line = hangs, line
        self._looks = 0

    def __call__(self) -> float:
        if self._hangs.exists() and any(report.epoch == 2 for report in self._line.of(Report)):
            self._looks += 1
        return 1_000.0 if self._looks > 10 else 0.0


@pytest.mark.parametrize("kind", ["function", "command"])
def test_a_trial_that_has_fallen_silent_goes_on_from_its_checkpoint(kind: str, tmp_path: Path) -> None:
    example = jobs.Example(kind, tmp_path / "code", silence=100.0, retries=1)
    hanging, undisturbed = example.jobs("hangs once", "well", rungs={2})
    line = Line()
    worker = Worker(0, example.setup(tmp_path), line)
    assert isinstance(worker.trainer, ProgramTrainer)
    worker.trainer.clock = Leaping(tmp_path / "trials" / "000000" / "died", line)
    for job in (hanging, undisturbed):
        worker.train(job)
    assert [notice.message for notice in line.of(Notice)] == ["trial 0: no sign for 100 s; begun again after epoch 2"]
    assert len(line.of(Done)) == 2
    values: dict[int, list[Any]] = {0: [], 1: []}
    for report in line.of(Report):
        values[report.cohort].append((report.epoch, report.metrics[report.cohort]))
    assert values[0] == values[1] and [epoch for epoch, _ in values[0]] == [1, 2, 3, 4]
    worker.trainer.dismiss()
    until(lambda: not left(tmp_path))
