"""The reference work with Optuna and MLflow: the same loop in every process, over one shared storage.

As Optuna's tutorial on parallelization has it (its `MaxTrialsCallback` counts trials over all processes), and MLflow's
guide: one `log_batch` for each trial. Every library is imported once, before the processes part; MLflow's tables are
made while the first trials train.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
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


def work(study: optuna.Study | None, number: int, ready: Event, given: argparse.Namespace) -> None:
    """What each process does: trials, until all processes together have begun enough of them."""
    dataset = digits.load(given.seed)
    sampler = optuna.samplers.TPESampler(seed=given.seed + 1_000 * number)
    if study is None:
        study = optuna.load_study(study_name=STUDY, storage=storage(given.storage))
    study.sampler = sampler
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
        points, best = [], 0.0
        epochs = digits.train(params, dataset, given.epochs, seed=trial.number, fused=given.fused)
        for step, metrics in enumerate(epochs, 1):
            now = int(time.time() * 1000)
            points += [Metric(key, value, now, step) for key, value in metrics.items()]
            best = max(best, metrics["val/accuracy"])
        if client is None:
            ready.wait()
            client = MlflowClient(given.mlflow)
            experiment = client.get_experiment_by_name(STUDY).experiment_id
        run = client.create_run(experiment, run_name=f"trial-{trial.number}").info.run_id
        client.log_batch(run, metrics=points, params=[Param(key, str(value)) for key, value in params.items()])
        client.set_terminated(run)
        return best

    study.optimize(objective, callbacks=[optuna.study.MaxTrialsCallback(given.trials, states=None)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
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
    ready = multiprocessing.Event()
    processes = []
    if given.storage != "memory":
        processes = [
            multiprocessing.Process(target=work, args=(None, number, ready, given)) for number in range(given.processes)
        ]
    for process in processes:
        process.start()
    MlflowClient(given.mlflow).create_experiment(STUDY, artifact_location=Path("artifacts").absolute().as_uri())
    ready.set()
    if not processes:
        work(study, 0, ready, given)
    for process in processes:
        process.join()
    raise SystemExit(max((abs(process.exitcode or 0) for process in processes), default=0))


if __name__ == "__main__":
    main()
