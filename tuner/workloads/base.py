"""The seam between a study and what its trials are: plain values, and the two sides of a workload.

The driver has a `Workload`, a worker a `Trainer` and for each job a `Runner`; neither asks what is trained. Imports
nothing that takes time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from tuner.events import Cohort, Params, Trial
from tuner.history.fold import History, TrialHistory

Problem = tuple[tuple[str | int, ...], str]  # a place in the study file, and what is wrong there
Say = Callable[[str], None]


@dataclass(frozen=True)
class Setup:
    """What a worker is told once: the kind of workload, what its trainer is made with, and where to train.

    `folder` is the study's, for logs, checkpoints and weights; `storage` is where checkpoints go instead, an address
    that every node reaches; `share` is a fraction of a GPU's memory. `gpus` are those that a
    trial's processes see, as CUDA_VISIBLE_DEVICES has them; empty: those that the worker sees.
    """

    workload: str
    payload: Any
    folder: str
    device: str
    threads: int
    share: float = 1.0
    storage: str = ""
    gpus: str = ""


@dataclass(frozen=True)
class Job:
    """One cohort handed to a worker, in its `attempt`: to be trained from its checkpoint where there is one.

    `trials` are numbers; `payload` is what the workload's runner trains it by; `variables` are for the environment of
    code that runs in processes of its own.
    """

    cohort: int
    trials: tuple[int, ...]
    attempt: int
    payload: Any
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """A step was made, `step` of the `steps` of an epoch (from 0): a moment to ask for the state, or to stop.

    `due`: there is a state that is worth to be kept at once. `note` is for a person.
    """

    epoch: int
    step: int
    steps: int
    due: bool = False
    note: str = ""


@dataclass(frozen=True)
class Epoch:
    """One epoch of the whole cohort. `metrics` by trial number; answer with the set of trials to stop.

    `failed` are the trials that diverged in it, with a message; they train no more. `seconds` is one trial's share of
    the time. `undecided` are the trials whose fate the answer decides: at a rung, those that have epochs left; where
    there are none the answer may be None.
    """

    epoch: int
    metrics: dict[int, dict[str, float]]
    failed: dict[int, str]
    seconds: float
    undecided: frozenset[int]


@dataclass(frozen=True)
class Finished:
    """A trial has come to its own end; `kept` is what the store keeps of it: of a network, its best weights.
    Empty where it has kept what there is by itself."""

    number: int
    epochs: int
    best_epoch: int
    kept: dict[str, Any] = field(repr=False)


Answer = set[int] | None
Events = Generator[Step | Epoch | Finished, Answer, None]

Located = Callable[[str, str], tuple[str, str]]
"""What a person's `file.py:Name` in a folder is called on this machine, and the folder to find it from."""


def as_named(place: str, folder: str) -> tuple[str, str]:
    """Code is where the study says: `Located` on the study's own machine."""
    return place, folder


class Runner(Protocol):
    """One cohort in training."""

    @property
    def epoch(self) -> int:
        """Epochs done."""

    def run(self) -> Events:
        """Train until no trial is left. Answer an `Epoch` with those of its `undecided` trials that stop."""

    def state(self) -> dict[str, Any] | None:
        """All that another process needs to go on from here: tensors and plain values. None: it would begin anew."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken. Raises CheckpointCorrupt for another cohort's, and is what it was before."""


class Trainer(Protocol):
    """What a worker makes runners with: one for its whole life, which keeps what all trials share."""

    def runner(self, job: Job, pulse: Callable[[], None]) -> Runner:
        """The runner of a job; it calls `pulse` where it works for long between two steps.

        Raises MachineError where no trial is to blame, and whatever a person's own code raises.
        """

    def release_memory(self) -> None:
        """Called between two jobs: give back what only the last one needed."""


# --- the driver's side ----------------------------------------------------------------------------


class Plan(Protocol):
    """What a study will do."""

    @property
    def trials(self) -> int:
        """How many there will be."""

    def lines(self, trials: int | None = None) -> list[str]:
        """For a person, one subject a line; warnings last. Of so many `trials` where they are others than planned."""

    def to_dict(self) -> dict[str, Any]:
        """JSON."""


class CohortPolicy(Protocol):
    """Which trials train together."""

    def group(self, trials: Sequence[Trial], first: int) -> list[Cohort]:
        """The trials in cohorts numbered from `first`; depends on the spec and the trials alone."""

    def separate(self, structure: Params, /) -> bool:
        """Trials of that structure failed in company: have them train alone. False where that would be no remedy."""


class Workload(Protocol):
    """What a trial of one study is."""

    needed_at_the_end: ClassVar[tuple[str, ...]]  # modules that `finish` imports, which may be done while workers train

    @property
    def kind(self) -> str:
        """A key of `kinds.KINDS`."""

    @property
    def shared(self) -> Any:
        """What all trials share and this process has in memory: for trainers in copies of it, and in actors."""

    def shared_for_remote(self) -> Any:
        """What of `shared` is sent to other machines; None: they read it themselves."""

    @property
    def name(self) -> str:
        """What is trained, for a message."""

    @property
    def fixed(self) -> Mapping[str, Any]:
        """The hyperparameters that the study file sets, by name: stored with every trial."""

    def preflight(self, found: Iterable[Problem]) -> Plan:
        """The plan. Raises SpecError with every problem, those that were `found` before included."""

    def examine(self) -> Iterable[Problem]:
        """What only running a person's code shows, in a process of its own: it takes as long as its imports."""

    @property
    def writes_runs(self) -> bool:
        """Whether its code may write to a trial's run in MLflow by itself: then it is made before the trial begins."""

    def versions(self) -> Mapping[str, str]:
        """Of the libraries that its numbers hang on."""

    def fingerprint(self) -> Mapping[str, Any]:
        """What the study's results hang on beside its spec: stored when it is made, compared when it is taken up."""

    def code(self) -> str | None:
        """Digest of a person's code that trials run; None where there is none in files of theirs."""

    def code_changed(self, recorded: str | None) -> bool:
        """Whether the code is other than what that digest was taken of, in any release's way to take it."""

    def bundle(self) -> dict[str, bytes]:
        """The files of that code, for machines that do not see them."""

    def static_metrics(self, params: Params) -> Mapping[str, float]:
        """Metrics of a trial that no training changes."""

    def cohorts(self, workers: int, known: Iterable[Cohort], say: Say) -> CohortPolicy:
        """The policy for so many workers; cohorts that are `known` from before keep to what they were."""

    def setup(self) -> Any:
        """The payload of a worker's `Setup`."""

    def payload(self, cohort: Cohort, rungs: Callable[[int], set[int]]) -> Any:
        """The payload of a `Job`. `rungs` tells at which of so many epochs a verdict may stop a trial."""

    def finish(self, best: TrialHistory, history: History, folder: Path, say: Say) -> Mapping[str, float] | None:
        """Make of the best trial what the study is for; its metrics on data that no trial has seen, None of none."""

    def restore(self, best: TrialHistory, history: History, folder: Path, say: Say) -> None:
        """Make again what is lost of what `finish` made."""
