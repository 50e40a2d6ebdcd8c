"""Trials that do nothing but report, as others run them: seconds for N trials, imports and start-up not counted.

Optuna and rustuna in their own loop (`study.optimize`), as their documentation has it; Ray Tune with `reuse_actors`;
Ray actors that stay up, to which a loop of one's own gives random trials. Leaves {"seconds", "trials", "reports"};
Ray Tune also tells the seconds "between" the ends of two trials, its start not counted.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ENDS: list[float] = []  # when trials ended, where a contender can tell


def score(learning_rate: float, dropout: float, epoch: int) -> float:
    return 1.0 - 0.1 * abs(math.log10(learning_rate) + 2.0) - 0.1 * dropout - 0.5 / epoch


def in_optunas_words(library: Any, study: Any, given: argparse.Namespace) -> int:
    """Optuna and rustuna share their words; rustuna 0.2 has none for a report."""
    reports = hasattr(library.Trial, "report")

    def objective(trial: Any) -> float:
        rate = trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)
        trial.suggest_categorical("batch_size", [32, 64, 128])
        trial.suggest_int("depth", 1, 3)
        trial.suggest_categorical("width", [32, 64, 128])
        dropout = trial.suggest_float("dropout", 0.0, 0.5)
        trial.suggest_categorical("optimizer", ["sgd", "adam"])
        value = 0.0
        for epoch in range(1, given.epochs + 1):
            value = score(rate, dropout, epoch)
            if reports:
                trial.report(value, epoch)
        return value

    study.optimize(objective, n_trials=given.trials)
    return len(study.trials)


def optuna(given: argparse.Namespace) -> Callable[[], int]:
    import optuna as library

    library.logging.set_verbosity(library.logging.WARNING)
    samplers = {"random": library.samplers.RandomSampler, "tpe": library.samplers.TPESampler}
    storage = "sqlite:///optuna.db" if given.storage == "sqlite" else None
    study = library.create_study(storage=storage, direction="maximize", sampler=samplers[given.sampler](seed=1))
    return lambda: in_optunas_words(library, study, given)


def rustuna(given: argparse.Namespace) -> Callable[[], int]:
    import rustuna as library  # type: ignore[import-not-found]

    samplers = {"random": library.samplers.RandomSampler, "tpe": library.samplers.TPESampler}
    study = library.create_study(direction="maximize", sampler=samplers[given.sampler](seed=1))
    return lambda: in_optunas_words(library, study, given)


def ray_space() -> dict[str, Any]:
    """The six hyperparameters in Ray Tune's words."""
    from ray import tune

    return {
        "learning_rate": tune.loguniform(1e-4, 1e-1),
        "batch_size": tune.choice([32, 64, 128]),
        "depth": tune.randint(1, 4),  # 4 is excluded
        "width": tune.choice([32, 64, 128]),
        "dropout": tune.uniform(0.0, 0.5),
        "optimizer": tune.choice(["sgd", "adam"]),
    }


def ray_tune(given: argparse.Namespace) -> Callable[[], int]:
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # no CSV, JSON and TensorBoard files
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    ray.init(address="local", num_cpus=given.workers, include_dashboard=False)
    space = ray_space()

    def trainable(config: dict[str, Any]) -> None:
        for epoch in range(1, given.epochs + 1):
            tune.report({"score": score(config["learning_rate"], config["dropout"], epoch)})

    class Ends(tune.Callback):
        def on_trial_complete(self, *_: Any, **__: Any) -> None:
            ENDS.append(time.perf_counter())

    learned = given.sampler == "tpe"
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="score",
            mode="max",
            num_samples=given.trials,
            search_alg=OptunaSearch(seed=1, study_name="nothing") if learned else None,
            max_concurrent_trials=given.workers,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(storage_path=str(Path("ray_results").absolute()), verbose=0, callbacks=[Ends()]),
    )
    return lambda: len(tuner.fit())


def ray_actors(given: argparse.Namespace) -> Callable[[], int]:
    import ray

    ray.init(address="local", num_cpus=given.workers, include_dashboard=False)

    @ray.remote
    class Worker:
        def train(self, config: dict[str, Any]) -> list[float]:
            return [score(config["learning_rate"], config["dropout"], epoch) for epoch in range(1, given.epochs + 1)]

    workers = [Worker.remote() for _ in range(given.workers)]
    draw = random.Random(1)

    def config() -> dict[str, Any]:
        return {
            "learning_rate": 10 ** draw.uniform(-4, -1),
            "batch_size": draw.choice([32, 64, 128]),
            "depth": draw.randint(1, 3),
            "width": draw.choice([32, 64, 128]),
            "dropout": draw.uniform(0.0, 0.5),
            "optimizer": draw.choice(["sgd", "adam"]),
        }

    ray.get([worker.train.remote(config()) for worker in workers])  # they are up

    def run() -> int:
        asked = done = 0
        running: dict[Any, Any] = {}
        while done < given.trials:
            for worker in workers:
                if asked < given.trials and worker not in running.values():
                    running[worker.train.remote(config())] = worker
                    asked += 1
            (ready, *_), _ = ray.wait(list(running))
            ray.get(ready)
            del running[ready]
            done += 1
        return done

    return run


WHO = {"optuna": optuna, "rustuna": rustuna, "ray-tune": ray_tune, "ray-actors": ray_actors}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("who", choices=WHO)
    parser.add_argument("--sampler", choices=("random", "tpe"), default="random")
    parser.add_argument("--storage", choices=("memory", "sqlite"), default="memory")
    parser.add_argument("--trials", type=int, default=1_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    run = WHO[given.who](given)
    begun = time.perf_counter()
    trials = run()
    seconds = {"total": time.perf_counter() - begun}
    if len(ENDS) > 1:
        seconds["between"] = (ENDS[-1] - ENDS[0]) / (len(ENDS) - 1)  # two trials, once all is running
    given.out.write_text(json.dumps({"seconds": seconds, "trials": trials, "reports": trials * given.epochs}))


if __name__ == "__main__":
    main()
