"""The reference work with Ray Tune: OptunaSearch proposes, actors that stay up train, MLflowLoggerCallback logs.

With `--budget`, ASHAScheduler stops trials early, until all together have trained so many epochs.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import digits
import ray
from nothing import ray_space
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from tuner.data import Dataset

METRIC = "val/accuracy"


def trainable(config: dict[str, Any], dataset: Dataset, epochs: int, seed: int) -> None:
    for metrics in digits.train(config, dataset, epochs, seed):
        tune.report(metrics)


class Budget:
    """Epochs that may still be trained. Kept by the class: Ray copies every object that it is given."""

    left = math.inf

    @classmethod
    def spent(cls) -> bool:
        return cls.left <= 0

    @classmethod
    def spend(cls, _trial: str, _result: Mapping[str, Any]) -> bool:
        """Ray's stopper, called with every report: whether that trial ends with it."""
        cls.left -= 1
        return cls.spent()


class Proposals(OptunaSearch):
    """What OptunaSearch proposes, until the budget is spent."""

    def suggest(self, trial_id: str) -> Any:
        return Searcher.FINISHED if Budget.spent() else super().suggest(trial_id)


class Notes(tune.Callback):
    """When the driver hears of an epoch, and of a trial's end; nothing unless a benchmark asks."""

    def on_trial_result(self, *_: Any, **__: Any) -> None:
        digits.note("report")

    def on_trial_complete(self, *_: Any, **__: Any) -> None:
        digits.note("trial")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=int, help="epochs of all trials together; stops trials early")
    parser.add_argument("--rungs", type=int, nargs=2, default=(2, 3), help="the first rung, and the reduction at each")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--mlflow", default="sqlite:///mlflow.db")
    given = parser.parse_args()
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # what CSV, JSON and TensorBoard get, MLflow has
    ray.init(address="local", num_cpus=given.workers, include_dashboard=False)
    function = tune.with_parameters(trainable, dataset=digits.load(given.seed), epochs=given.epochs, seed=given.seed)
    scheduler = None
    if given.budget is not None:
        Budget.left = given.budget
        first, reduction = given.rungs
        scheduler = ASHAScheduler(max_t=given.epochs, grace_period=first, reduction_factor=reduction)
    tuner = tune.Tuner(
        tune.with_resources(function, {"cpu": 1}),
        param_space=ray_space(),
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="max",
            num_samples=given.trials if given.budget is None else -1,
            scheduler=scheduler,
            search_alg=Proposals(seed=given.seed, study_name="digits"),
            max_concurrent_trials=given.workers,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            storage_path=str(Path("ray_results").absolute()),
            verbose=0,
            stop=None if given.budget is None else Budget.spend,
            callbacks=[MLflowLoggerCallback(tracking_uri=given.mlflow, experiment_name="digits"), Notes()],
        ),
    )
    results = tuner.fit()
    ray.shutdown()
    raise SystemExit(results.num_errors)


if __name__ == "__main__":
    main()
