"""A function that does nothing, tuned by others: `functions.py optuna|ray TRIALS`, ten reports a trial, two at once.

Writes `loop.json`: the seconds of the search without imports and servers' starts, and those from each trial's start to
its first report.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
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


def optuna(trials: int) -> dict[str, Any]:
    """Optuna's own loop, TPE in memory, with a forked process for every trial."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    fork = multiprocessing.get_context("fork")
    first: list[float] = []

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("rate", 1e-4, 1.0, log=True)
        began = time.monotonic()
        ours, theirs = fork.Pipe(duplex=False)
        process = fork.Process(target=trained, args=(rate, theirs))
        process.start()
        theirs.close()
        loss = math.inf
        for _ in range(REPORTS):
            epoch, loss = ours.recv()
            if epoch == 1:
                first.append(time.monotonic() - began)
            trial.report(loss, epoch)
        process.join()
        return loss

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=1))
    began = time.monotonic()
    study.optimize(objective, n_trials=trials, n_jobs=2)
    assert len(study.trials) == trials
    return {"loop": time.monotonic() - began, "first": first}


def ray(trials: int) -> dict[str, Any]:
    """Ray Tune with OptunaSearch and actors used again, by its function interface, which is the faster one."""
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # no CSV, JSON and TensorBoard files
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    def trained(config: dict[str, Any]) -> None:
        for epoch in range(1, REPORTS + 1):
            tune.report({"loss": value(config["rate"], epoch)})

    begun: dict[str, float] = {}
    first: list[float] = []

    class Watch(tune.Callback):
        def on_trial_start(self, *, trial: Any, **_: Any) -> None:
            begun[trial.trial_id] = time.monotonic()

        def on_trial_result(self, *, trial: Any, result: Any, **_: Any) -> None:
            if result["training_iteration"] == 1:
                first.append(time.monotonic() - begun[trial.trial_id])

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    began = time.monotonic()
    results = tune.Tuner(
        trained,
        param_space={"rate": tune.loguniform(1e-4, 1.0)},
        tune_config=tune.TuneConfig(
            metric="loss", mode="min", num_samples=trials, search_alg=OptunaSearch(seed=1), reuse_actors=True,
            max_concurrent_trials=2,
        ),
        run_config=tune.RunConfig(verbose=0, callbacks=[Watch()]),
    ).fit()  # fmt: skip
    took = time.monotonic() - began
    assert len(results) == trials
    ray.shutdown()
    return {"loop": took, "first": first}


if __name__ == "__main__":
    told = {"optuna": optuna, "ray": ray}[sys.argv[1]](int(sys.argv[2]))
    Path("loop.json").write_text(json.dumps(told))
