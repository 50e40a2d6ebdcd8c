"""The reference work with Optuna and MLflow: the same loop in every process, over one shared storage.

As Optuna's tutorial on parallelization has it (its `MaxTrialsCallback` counts trials over all processes), and MLflow's
guide: one `log_batch` for each trial. Every library is imported once, before the processes part; MLflow's tables are
made while the first trials train. With `--budget`, trials report every epoch and Optuna's successive halving stops
them, until all processes together have trained so many epochs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path

import digits
import optuna
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

STUDY = "digits"


def storage(kind: str) -> BaseStorage:
    if kind == "memory":
        return InMemoryStorage()
    if kind == "journal":
        return JournalStorage(JournalFileBackend("optuna.log"))
    return RDBStorage("sqlite:///optuna.db")


class Budget:
    """Epochs that all processes together may still train; without a number, without end."""

    def __init__(self, epochs: int | None) -> None:
        self._left = None if epochs is None else multiprocessing.Value("i", epochs)

    def spend(self) -> None:
        if self._left is not None:
            with self._left.get_lock():
                self._left.value -= 1

    def spent(self) -> bool:
        return self._left is not None and self._left.value <= 0

    def end(self, study: optuna.Study, _trial: optuna.trial.FrozenTrial) -> None:
        """Optuna's callback after each trial."""
        if self.spent():
            study.stop()


def work(study: optuna.Study | None, number: int, ready: Event, budget: Budget, given: argparse.Namespace) -> None:
    """What each process does: trials, until all processes together have begun, or trained, enough."""
    dataset = digits.load(given.seed)
    sampler = optuna.samplers.TPESampler(seed=given.seed + 1_000 * number)
    if study is None:
        study = optuna.load_study(study_name=STUDY, storage=storage(given.storage))
    study.sampler = sampler
    if given.budget is not None:
        first, reduction = given.rungs
        study.pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=reduction)
    client: MlflowClient | None = None
    experiment = ""

    def objective(trial: optuna.Trial) -> float:
        nonlocal client, experiment
        params = {
            "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True),
            "batch_size": trial.suggest_categorical("batch_size", [32, 64, 128]),
            "depth": trial.suggest_int("depth", 1, 3),
            "width": trial.suggest_categorical("width", [32, 64, 128]),
            "dropout": trial.suggest_float("dropout", 0.0, 0.5),
            "optimizer": trial.suggest_categorical("optimizer", ["sgd", "adam"]),
        }
        points, best, stopped = [], 0.0, False
        epochs = digits.train(params, dataset, given.epochs, seed=trial.number, fused=given.fused)
        for step, metrics in enumerate(epochs, 1):
            now = int(time.time() * 1000)
            points += [Metric(key, value, now, step) for key, value in metrics.items()]
            best = max(best, metrics["val/accuracy"])
            digits.note("report")
            budget.spend()
            if given.budget is not None:
                trial.report(metrics["val/accuracy"], step)
                stopped = budget.spent() or trial.should_prune()
            if stopped:
                break
        digits.note("trial")
        if client is None:
            ready.wait()
            client = MlflowClient(given.mlflow)
            experiment = client.get_experiment_by_name(STUDY).experiment_id
        run = client.create_run(experiment, run_name=f"trial-{trial.number}").info.run_id
        client.log_batch(run, metrics=points, params=[Param(key, str(value)) for key, value in params.items()])
        client.set_terminated(run, "KILLED" if stopped else "FINISHED")
        if stopped:
            raise optuna.TrialPruned
        return best

    until: Callable[[optuna.Study, optuna.trial.FrozenTrial], None] = budget.end
    if given.budget is None:
        until = optuna.study.MaxTrialsCallback(given.trials, states=None)
    study.optimize(objective, callbacks=[until])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=int, help="epochs of all trials together; stops trials early")
    parser.add_argument("--rungs", type=int, nargs=2, default=(2, 3), help="the first rung, and the reduction at each")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--storage", choices=("sqlite", "journal", "memory"), default="sqlite")
    parser.add_argument("--fused", action="store_true", default=None, help="torch.optim's updates in one kernel")
    parser.add_argument("--mlflow", default="sqlite:///mlflow.db")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    shared = storage(given.storage)
    study = optuna.create_study(study_name=STUDY, storage=shared, direction="maximize")
    if isinstance(shared, RDBStorage):
        shared.remove_session()
        shared.engine.dispose()  # no connection may be open when a process parts in two
    ready, budget = multiprocessing.Event(), Budget(given.budget)
    processes = []
    if given.storage != "memory":
        processes = [
            multiprocessing.Process(target=work, args=(None, number, ready, budget, given))
            for number in range(given.processes)
        ]
    for process in processes:
        process.start()
    MlflowClient(given.mlflow).create_experiment(STUDY, artifact_location=Path("artifacts").absolute().as_uri())
    ready.set()
    if not processes:
        work(study, 0, ready, budget, given)
    for process in processes:
        process.join()
    raise SystemExit(max((abs(process.exitcode or 0) for process in processes), default=0))


if __name__ == "__main__":
    main()
