"""A function that does nothing, tuned by others: `functions.py optuna|ray TRIALS`, ten reports a trial, two at once."""

from __future__ import annotations

import math
import multiprocessing
import sys
from multiprocessing.connection import Connection
from typing import Any

REPORTS = 10


def value(rate: float, epoch: int) -> float:
    """What `benchmarks/functions.py` has Tuner's function report."""
    return abs(math.log10(rate) + 2) + 1 / epoch


def trained(rate: float, line: Connection) -> None:
    """A trial in a process of its own."""
    for epoch in range(1, REPORTS + 1):
        line.send((epoch, value(rate, epoch)))
    line.close()


def optuna(trials: int) -> None:
    """Optuna's own loop, TPE in memory, with a forked process for every trial."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    fork = multiprocessing.get_context("fork")

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("rate", 1e-4, 1.0, log=True)
        ours, theirs = fork.Pipe(duplex=False)
        process = fork.Process(target=trained, args=(rate, theirs))
        process.start()
        theirs.close()
        loss = math.inf
        for _ in range(REPORTS):
            epoch, loss = ours.recv()
            trial.report(loss, epoch)
        process.join()
        return loss

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=1))
    study.optimize(objective, n_trials=trials, n_jobs=2)
    assert len(study.trials) == trials


def ray(trials: int) -> None:
    """Ray Tune with OptunaSearch, actors used again."""
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    class Nothing(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.rate = config["rate"]

        def step(self) -> dict[str, Any]:
            return {"loss": value(self.rate, self.iteration + 1), "done": self.iteration + 1 >= REPORTS}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.rate = new_config["rate"]
            return True

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    results = tune.Tuner(
        Nothing,
        param_space={"rate": tune.loguniform(1e-4, 1.0)},
        tune_config=tune.TuneConfig(
            metric="loss", mode="min", num_samples=trials, search_alg=OptunaSearch(seed=1), reuse_actors=True,
            max_concurrent_trials=2,
        ),
        run_config=tune.RunConfig(verbose=0),
    ).fit()  # fmt: skip
    assert len(results) == trials
    ray.shutdown()


if __name__ == "__main__":
    {"optuna": optuna, "ray": ray}[sys.argv[1]](int(sys.argv[2]))
