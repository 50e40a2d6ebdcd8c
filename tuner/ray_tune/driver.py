"""A study that Ray Tune drives: `run: {executor: ray-tune, scheduler: …}`, beside the study loop and not bent into it.

Knows Tune's schedulers and the journal, which asks the sampler and writes the ledger; never MLflow, nor the winner.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune import schedulers
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler

from tuner.executors.ray_cluster import Needs, connected
from tuner.ray_tune.journal import Journal, JournalSearcher, StudyStopper, unfinished
from tuner.ray_tune.program_trial import ProgramActorSetup, ProgramTrainable
from tuner.ray_tune.space import mutations
from tuner.ray_tune.trial import EPOCH, NUMBER, ActorSetup, body_of, trainable
from tuner.search import Search
from tuner.spec import StudySpec
from tuner.study.session import StudySession
from tuner.study.workers import cores, our_signals, setup_of
from tuner.terminal.progress import Now
from tuner.workloads.devices import device_of

RETRIES = 2  # of a trial whose actor died
_REDUCTION, _MIN_EPOCHS, _STARTUP = 3, 1, 5  # as our own pruners have them
_PERTURBATIONS = 10  # times in a trial's epochs that a population exploits and explores
_PAUSING = ("hyperband", "pbt")  # schedulers that hold trials back to compare them: all must have begun
_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # CSV, JSON and TensorBoard hold nothing that the ledger does not
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the launch has its own
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tune's own account of the experiment, which nobody reads
    "TUNE_FORCE_TRIAL_CLEANUP_S": "8",  # for an actor in the middle of an epoch, when the study is told to stop
    "RAY_AIR_NEW_OUTPUT": "0",  # the old output can be silent
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


class Population(PopulationBasedTraining):
    """Population based training (Jaderberg et al. 2017), all trials in step, so that an epoch is an epoch for all.

    What differs from Tune's: the first population comes from the study's sampler; a trial that exploits another keeps
    its number; those that an earlier launch has left go on at their `epochs`; and a trial that ends while the others
    wait for it lets them go on.
    """

    def __init__(self, epochs: Mapping[int, int], **options: Any) -> None:
        super().__init__(synch=True, log_config=False, **options)
        self._known, self._every = epochs, int(options["perturbation_interval"])
        if epochs:
            self._next_perturbation_sync = (min(epochs.values()) // self._every + 1) * self._every

    def on_trial_add(self, _tune_controller: Any, trial: TuneTrial) -> None:
        stranger: Any = SimpleNamespace(search_alg=None)  # Tune refuses any sampler
        super().on_trial_add(stranger, trial)
        state = self._trial_state[trial]
        state.last_train_time = state.last_perturbation_time = self._known.get(trial.config[NUMBER], 0)

    def _get_new_config(self, trial: TuneTrial, trial_to_clone: TuneTrial) -> tuple[dict[str, Any], dict[str, Any]]:
        config, operations = super()._get_new_config(trial, trial_to_clone)
        return {**config, NUMBER: trial.config[NUMBER]}, operations

    def on_trial_complete(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> None:
        super().on_trial_complete(tune_controller, trial, result)
        self._release(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        super().on_trial_error(tune_controller, trial)
        self._release(tune_controller, trial)

    def _release(self, tune_controller: Any, trial: TuneTrial) -> None:
        waiting = [other for other in tune_controller.get_live_trials() if other is not trial]
        if waiting and all(self._trial_state[t].last_train_time >= self._next_perturbation_sync for t in waiting):
            self._next_perturbation_sync += self._every


def scheduler(spec: StudySpec, epochs: Mapping[int, int]) -> TrialScheduler:
    """The scheduler that the study file names; `epochs` are those of trials that an earlier launch has left."""
    longest = spec.epochs
    aims: dict[str, Any] = {"time_attr": EPOCH, "metric": spec.metric, "mode": "max" if spec.maximize else "min"}
    never_yield: dict[str, Any] = {"min_time_slice": math.inf}  # a trial that is too early to judge keeps its actor
    kinds: dict[str, Callable[[], TrialScheduler]] = {
        "fifo": schedulers.FIFOScheduler,
        "asha": lambda: schedulers.AsyncHyperBandScheduler(
            **aims, max_t=longest, grace_period=_MIN_EPOCHS, reduction_factor=_REDUCTION
        ),
        "hyperband": lambda: schedulers.HyperBandScheduler(**aims, max_t=longest, reduction_factor=_REDUCTION),
        "median": lambda: schedulers.MedianStoppingRule(
            **aims, grace_period=_MIN_EPOCHS, min_samples_required=_STARTUP, **never_yield
        ),
        "pbt": lambda: Population(
            epochs,
            **aims,
            perturbation_interval=max(1, longest // _PERTURBATIONS),
            hyperparam_mutations=mutations(spec),
        ),
    }
    return kinds[spec.run.scheduler or "fifo"]()


def drive(
    session: StudySession,
    search: Search,
    now: Callable[[int], Now],
    stopping: Callable[[], bool],
    variables: Callable[[int], Mapping[str, str] | None],
) -> bool:
    """Drive until all trials have ended (True), or `stopping()` says so (False). Raises what the ledger raised.

    `variables` are those that a trial's own code finds its run by; None: it is still to be made, and waited for.
    """
    spec, log = session.spec, session.log
    kind = spec.run.scheduler or "fifo"
    changing = frozenset(mutations(spec)) if kind == "pbt" else frozenset()
    count = session.workers or (spec.run.workers if isinstance(spec.run.workers, int) else 0)
    journal = Journal(session, search, lambda: now(count), stopping, changing, variables)
    if not journal.left:
        return True
    run = spec.run
    gpus = 0.0 if device_of(spec) == "cpu" else run.gpus_per_trial or run.gpus_per_worker or 1.0
    needs = Needs(run.cpus_per_worker or run.threads, gpus, int((run.memory or 0.0) * 2**30))
    room = math.ceil(count * needs.cpus) or cores()
    ahead = {"TUNE_MAX_PENDING_TRIALS_PG": str(journal.left)} if kind == "hyperband" else {}  # to fill its brackets
    with _settings({**_SETTINGS, **ahead}), contextlib.ExitStack() as stack:
        with our_signals():
            stack.enter_context(connected(run.address, room))
        count = count or max(1, min(needs.room, journal.left))
        epochs = journal.epochs if kind == "pbt" else {}
        tuner = tune.Tuner(
            _trained(session, journal, needs, always=kind == "pbt"),
            tune_config=tune.TuneConfig(
                num_samples=journal.left,
                search_alg=JournalSearcher(journal),
                scheduler=scheduler(spec, epochs),
                max_concurrent_trials=None if kind in _PAUSING else count,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=f"{os.getpid()}",
                storage_path=str((session.folder / "checkpoints" / "ray-tune").absolute()),  # goes when all is over
                verbose=0,
                stop=StudyStopper(journal),
                callbacks=[journal],
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        tuner.fit()
    if journal.fault is not None:
        raise journal.fault
    if stopping():
        return False
    if log.history.ended < search.trials:
        raise unfinished(log.history)
    return True


def _trained(session: StudySession, journal: Journal, needs: Needs, *, always: bool) -> Any:
    """The study's Trainable with what its actors are given and need."""
    wanted = {"cpu": needs.cpus, "gpu": needs.gpus, "memory": needs.memory}
    resources = {name: amount for name, amount in wanted.items() if amount}
    made, given = _TRAINABLES[session.workload.kind](session, journal, needs, always)
    return tune.with_resources(tune.with_parameters(made, given=given), resources)


def _network(session: StudySession, journal: Journal, needs: Needs, always: bool) -> tuple[type[tune.Trainable], Any]:
    return trainable(session.spec), ActorSetup(session.workload.shared_for_remote(), journal.kept, always, needs.gpus)


def _program(session: StudySession, journal: Journal, needs: Needs, _: bool) -> tuple[type[tune.Trainable], Any]:
    spec = session.spec
    return ProgramTrainable, ProgramActorSetup(
        body=body_of(spec),
        folder=str(spec.folder),
        setup=setup_of(session, "cuda:0" if needs.gpus else "cpu"),
        code=session.workload.bundle(),
        kept=journal.kept,
        judged=(spec.run.scheduler or "fifo") != "fifo",
    )


_TRAINABLES = {"network": _network, "function": _program, "command": _program}


@contextlib.contextmanager
def _settings(settings: Mapping[str, str]) -> Iterator[None]:
    """Tune has many of its settings in the environment alone, and much to say that the journal says."""
    before = {name: os.environ.get(name) for name in settings}
    loggers = [logging.getLogger(name) for name in ("ray.tune", "ray.train", "ray.air")]
    levels = [logger.level for logger in loggers]
    os.environ.update(settings)
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
