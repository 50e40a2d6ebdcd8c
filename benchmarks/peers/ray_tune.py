"""The reference work with Ray Tune: OptunaSearch proposes, actors that stay up train, MLflowLoggerCallback logs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import digits
import ray
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.search.optuna import OptunaSearch

from tuner.data import Dataset

METRIC = "val/accuracy"


def trainable(config: dict[str, Any], dataset: Dataset, epochs: int, seed: int) -> None:
    for metrics in digits.train(config, dataset, epochs, seed):
        tune.report(metrics)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--mlflow", default="sqlite:///mlflow.db")
    given = parser.parse_args()
    ray.init(address="local", num_cpus=given.workers, include_dashboard=False)
    space = {
        "learning_rate": tune.loguniform(1e-4, 1e-1),
        "batch_size": tune.choice([32, 64, 128]),
        "depth": tune.randint(1, 4),  # 4 is excluded
        "width": tune.choice([32, 64, 128]),
        "dropout": tune.uniform(0.0, 0.5),
        "optimizer": tune.choice(["sgd", "adam"]),
    }
    function = tune.with_parameters(trainable, dataset=digits.load(given.seed), epochs=given.epochs, seed=given.seed)
    tuner = tune.Tuner(
        tune.with_resources(function, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="max",
            num_samples=given.trials,
            search_alg=OptunaSearch(seed=given.seed, study_name="digits"),
            max_concurrent_trials=given.workers,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            storage_path=str(Path("ray_results").absolute()),
            verbose=0,
            callbacks=[MLflowLoggerCallback(tracking_uri=given.mlflow, experiment_name="digits")],
        ),
    )
    results = tuner.fit()
    ray.shutdown()
    raise SystemExit(results.num_errors)


if __name__ == "__main__":
    main()
