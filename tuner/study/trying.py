"""One trial, tried to its first report before a study makes anything.

Knows the seam to workloads; never what is trained. It runs here, whatever executor the study names.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass

from tuner.errors import TrialError, TunerError, told, trace
from tuner.events import Cohort, Trial, Value
from tuner.spec import StudySpec
from tuner.workloads.base import Epoch, Job, Setup, Step, Workload
from tuner.workloads.devices import device_of
from tuner.workloads.kinds import trainer


@dataclass(frozen=True)
class FirstReport:
    """What the trial reported, after how many seconds, and with which values of the search space."""

    metrics: Mapping[str, float]
    seconds: float
    params: Mapping[str, Value]

    def lines(self, metric: str) -> list[str]:
        """For a person; the last one warns where the objective is not among them."""
        values = ", ".join(f"{name} {value:.6g}" for name, value in self.metrics.items())
        chosen = ", ".join(f"{name} {value}" for name, value in self.params.items())
        lines = [f"tried     first report after {self.seconds:.1f} s: {values} (with {chosen})"]
        if metric not in self.metrics:
            lines.append(f"warning   the first report has no {metric}, the study's objective")
        return lines


def first_report(spec: StudySpec, workload: Workload) -> FirstReport:
    """Train a trial with the smallest values until it reports. Raises TrialError with what is wrong instead."""
    trial = Trial(0, spec.space.smallest(), spec.seed)
    (cohort,) = workload.cohorts(1, (), lambda _: None).group([trial], 0)
    try:
        return _first_report(spec, workload, trial, cohort)
    except (TrialError, TunerError):
        raise
    except (Exception, SystemExit) as error:  # a person's own network raises what it likes
        raise TrialError(told(error), trace(error)) from error


def _first_report(spec: StudySpec, workload: Workload, trial: Trial, cohort: Cohort) -> FirstReport:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tuner-try-") as folder, contextlib.ExitStack() as stack:
        device = "cuda:0" if device_of(spec) == "cuda" else device_of(spec)
        setup = Setup(workload.kind, workload.setup(), folder, device, spec.run.threads)
        runner = trainer(setup, workload.shared).runner(
            Job(0, (0,), 1, workload.payload(cohort, lambda _: {1})), lambda: None
        )
        for event in stack.enter_context(contextlib.closing(runner.run())):
            if isinstance(event, Epoch):
                if event.failed:
                    raise TrialError(event.failed[0])
                return FirstReport(event.metrics[0], time.monotonic() - began, trial.params)
            if isinstance(event, Step) and event.note:
                raise TrialError(event.note)
    raise TrialError(f"it ended without a report; report {spec.metric}")
