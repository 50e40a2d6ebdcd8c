"""What every executor must keep of every workload: a network of ours, a person's own function, and a command.

A test takes `place`: one kind of workers, and one kind of trials for them.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import tuner
from tests import jobs, studies
from tests.crews import numbers, of, train
from tests.programs import left, states
from tests.servers import PATIENCE, until
from tests.study.test_study import Silent
from tuner.events import State
from tuner.executors.protocol import Done, Ended, Executor, Flush, Lost, Message, Notice, Report, Started, Trouble
from tuner.workloads.kinds import KINDS

pytestmark = pytest.mark.xdist_group("ray")
EXECUTORS = ("local", "ray")
PROGRAMS = ("function", "command")
# Workers that are begun for one test alone cost seconds on Ray.
SLOW_ON_RAY = ("local", pytest.param("ray", marks=pytest.mark.slow))


@dataclass
class Place:
    """Workers of one kind that tests share, in a folder; `begin` makes others."""

    kind: str
    example: jobs.Example
    folder: Path
    executor: Executor

    def begin(self, folder: Path) -> Executor:
        return self.example.begin(self.kind, folder)


@pytest.fixture(scope="module", params=KINDS)
def workload(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module", params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> Any:
    if request.param == "ray":
        request.getfixturevalue("ray")
    return request.param


@pytest.fixture(scope="module")
def place(executor: str, workload: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("study")
    example = jobs.Example(workload, tmp_path_factory.mktemp("code") / "code")
    with contextlib.closing(example.begin(executor, folder)) as workers:
        yield Place(executor, example, folder, workers)
    until(lambda: not left(folder))  # every trial of a program has begun a child


def every(said: Mapping[int, Sequence[Message]]) -> list[Message]:
    return [message for cohort in sorted(said) for message in said[cohort]]


def epochs(said: Mapping[int, Sequence[Message]]) -> dict[int, list[int]]:
    """The epochs that were reported, by trial."""
    found = defaultdict(list)
    for report in of(Report, every(said)):
        for trial in report.metrics:
            found[trial].append(report.epoch)
    return dict(found)


def test_what_happens_is_told_in_its_order(place: Place) -> None:
    works = place.example.jobs("well", "well")
    said = train(place.executor, works)
    for work in works:
        told = [message for message in said[work.cohort] if not isinstance(message, Flush)]
        ends = [Ended] * len(work.trials)
        assert [type(message) for message in told] == [Started, *[Report] * 4, *ends, Done]
        assert [report.epoch for report in of(Report, told)] == [1, 2, 3, 4]
        assert {(message.cohort, message.attempt) for message in told} == {(work.cohort, 1)}  # type: ignore[union-attr]
        assert [(ended.trial, ended.epochs) for ended in of(Ended, told)] == [(trial, 4) for trial in work.trials]
        assert not of(Done, told)[0].saved


def test_a_trial_that_is_stopped_ends_there_and_others_go_on(place: Place) -> None:
    works = place.example.jobs("well", "well", "well", rungs={2})
    one, two, three = (trial for work in works for trial in work.trials)
    said = train(place.executor, works, lambda report: {two} & set(report.metrics))
    assert epochs(said) == {one: [1, 2, 3, 4], two: [1, 2], three: [1, 2, 3, 4]}
    waited = [report for report in of(Report, every(said)) if report.waits]
    assert {report.epoch for report in waited} == {2}
    assert {trial for report in waited for trial in report.undecided} == {one, two, three}
    assert [ended.trial for ended in of(Ended, every(said))] == [one, three]
    assert len(of(Done, every(said))) == len(works)


def test_a_trial_that_diverges_fails_alone(place: Place) -> None:
    works = place.example.jobs("well", "diverges", "well")
    one, two, three = (trial for work in works for trial in work.trials)
    said = train(place.executor, works)
    failed = {trial: text for report in of(Report, every(said)) for trial, text in report.failed.items()}
    assert set(failed) == {two} and "diverged at" in failed[two]
    assert [ended.trial for ended in of(Ended, every(said))] == [one, three]
    assert len(of(Done, every(said))) == len(works)


def test_code_that_raises_is_its_own_trials_trouble_and_the_worker_goes_on(place: Place) -> None:
    (bad,), (good,) = place.example.jobs("raises"), place.example.jobs("well")
    said = train(place.executor, [bad, good])
    (trouble,) = of(Trouble, said[bad.cohort])
    assert not trouble.memory and not trouble.machine
    assert "ValueError: no such luck" in trouble.message
    assert "Traceback" in trouble.trace and 'raise ValueError("no such luck")' in trouble.trace
    assert of(Done, said[good.cohort])


@pytest.mark.parametrize("workload", PROGRAMS, indirect=True)
def test_a_trial_whose_own_process_dies_is_begun_again_from_its_checkpoint_by_its_worker(place: Place) -> None:
    (work,) = place.example.jobs("dies", rungs={2})
    (undisturbed,) = place.example.jobs("well", rungs={2})
    notices: list[str] = []
    said = train(
        place.executor,
        [work, undisturbed],
        watch=lambda one: notices.append(one.message) if isinstance(one, Notice) else None,
    )
    assert notices == [f"trial {work.trials[0]}: its process was ended by SIGKILL; begun again after epoch 2"]
    assert not of(Lost, said[work.cohort]) and of(Done, said[work.cohort])
    values = [[report.metrics[one.trials[0]] for report in of(Report, said[one.cohort])] for one in (work, undisturbed)]
    assert values[0] == values[1] and len(values[0]) == 4


def test_a_stopped_job_goes_on_from_where_it_was_saved_to_the_same_numbers(place: Place, tmp_path: Path) -> None:
    """Told to stop while it waits for a verdict, so that it can be nowhere else."""
    (work,) = place.example.jobs("well", rungs={3})
    with contextlib.closing(place.begin(tmp_path)) as executor:

        def stop(message: Message) -> None:
            if isinstance(message, Report) and message.epoch == 3:
                executor.stop()

        before = train(executor, [work], watch=stop)[work.cohort]
    until(lambda: not left(tmp_path))
    (done,) = of(Done, before)
    assert done.saved and [report.epoch for report in of(Report, before)] == [1, 2, 3]
    again = replace(work, attempt=2)
    with contextlib.closing(place.begin(tmp_path)) as executor:
        after = train(executor, [again])[work.cohort]
    (started,) = of(Started, after)
    assert (started.epoch, started.attempt) == (3, 2)
    assert not of(Done, after)[0].saved
    expected = numbers(train(place.executor, [work])[work.cohort])
    assert [*numbers(before), *numbers(after)] == expected


@pytest.mark.parametrize("executor", SLOW_ON_RAY, indirect=True)
@pytest.mark.parametrize(
    ("act", "begun"),
    [
        pytest.param("well", [0, 2, 2], id="from its checkpoint"),
        pytest.param("forgets", [0, 0, 0], id="from the start", marks=pytest.mark.slow),
    ],
)
def test_a_worker_that_is_killed_or_frozen_costs_a_job_no_result(
    act: str, begun: list[int], place: Place, tmp_path: Path
) -> None:
    """SIGKILL, then SIGSTOP of the worker that came after it; the third one ends what the first began.

    Each befalls a worker that waits for a verdict: at the second, when the first is in a checkpoint, or at the first.
    """
    late = place.example.kind == "network" and act == "forgets"  # whose first checkpoint comes after the first verdict
    rungs = {2} if late else {2, 3}
    executor: Any = place.begin(tmp_path)
    signals = [signal.SIGKILL, signal.SIGSTOP]

    def patience(seconds: float) -> None:
        executor._hang_seconds = executor._silent_seconds = seconds

    def harm(message: Message) -> None:
        if isinstance(message, Report) and message.epoch == max(rungs) and signals:
            if len(signals) == 1:
                patience(0.0)  # a frozen one has been silent for too long at once
            os.kill(executor.processes[0], signals.pop(0))
        elif isinstance(message, Lost):
            patience(PATIENCE)

    patience(PATIENCE)
    (work,) = place.example.jobs(act, rungs=rungs)
    with contextlib.closing(executor):
        attempts = [train(executor, [replace(work, attempt=attempt)], watch=harm)[work.cohort] for attempt in (1, 2, 3)]
    until(lambda: not left(tmp_path))
    lost = [of(Lost, said)[0] for said in attempts[:2]]
    assert [(one.cohort, one.attempt) for one in lost] == [(work.cohort, 1), (work.cohort, 2)]
    assert "worker 0 lost (" in lost[0].message and "0 s" in lost[1].message
    assert [of(Started, said)[0].epoch for said in attempts] == begun
    expected = numbers(train(place.executor, [work])[work.cohort])
    assert numbers(attempts[0]) == expected[: max(rungs)]
    assert numbers(attempts[2]) == expected[begun[2] :]
    assert of(Done, attempts[2])


@pytest.mark.parametrize("executor", SLOW_ON_RAY, indirect=True)
@pytest.mark.parametrize("workload", PROGRAMS, indirect=True)
def test_a_trial_that_hangs_is_ended_and_tried_again_and_the_worker_goes_on(
    executor: str, workload: str, tmp_path: Path
) -> None:
    """It hangs whenever it is begun, so that the time that it takes until then proves nothing."""
    example = jobs.Example(workload, tmp_path / "code", silence=0.5, retries=1)
    (bad,), (other,) = example.jobs("hangs"), example.jobs("raises")
    notices: list[str] = []
    with contextlib.closing(example.begin(executor, tmp_path)) as workers:
        said = train(
            workers,
            [bad, other],
            watch=lambda one: notices.append(one.message) if isinstance(one, Notice) else None,
        )
    until(lambda: not left(tmp_path))
    (trouble,) = of(Trouble, said[bad.cohort])
    assert trouble.message == "it gave no sign for 0.5 s (trial.silence), 2 times"
    assert "trial 0: no sign for 0.5 s; begun again after epoch" in notices[0]
    (trouble,) = of(Trouble, said[other.cohort])
    assert trouble.cohort == other.cohort


@pytest.mark.usefixtures("copied_workers")
@pytest.mark.parametrize("executor", SLOW_ON_RAY, indirect=True)
def test_a_study_that_is_extended_is_the_one_that_had_all_trials_from_the_beginning(
    executor: str, workload: str, tmp_path: Path
) -> None:
    content = jobs.written(workload, tmp_path)

    def launched(home: str, trials: int, **run: Any) -> dict[int, Any]:
        content["run"] |= run
        path = studies.write(tmp_path, content)
        study = tuner.launch(path, home=tmp_path / home, trials=trials, progress=Silent())
        assert states(study) == {State.COMPLETE: trials}
        until(lambda: not left(study))
        return {number: facts[:-1] for number, facts in studies.facts(study.history).items()}  # but whose test it was

    whole = launched("whole", 4)
    first = launched("extended", 2, executor=executor)
    extended = launched("extended", 4)
    assert [extended[number] for number in first] == [*first.values()]
    assert extended == whole
