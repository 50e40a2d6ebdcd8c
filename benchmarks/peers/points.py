"""Writing points to MLflow as people do: runs of so many epochs, some metrics an epoch, until a client reads them back.

Each way is written as MLflow's documentation has it (Ray's callback as Tune calls it, without the dozen fields of its
own that Tune adds to a result). Everything is imported and warm before the clock starts: one run is written first.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

METRICS = ("train/loss", "val/loss", "val/accuracy", "val/f1")
PARAMS = {"learning_rate": 0.01, "batch_size": 64, "depth": 2, "width": 64, "dropout": 0.1, "optimizer": "adam"}
EXPERIMENT = "points"


def value(run: int, epoch: int, metric: int) -> float:
    """Some number that no other point of the run has."""
    return 1.0 / (1 + metric + 10 * epoch + run / 1_000)


@dataclass
class Work:
    """So many runs of so many epochs, or what `limit` seconds allow; `begin` and `epochs` say when it is enough."""

    client: MlflowClient
    experiment: str
    runs: int
    epochs: int
    limit: float

    def __post_init__(self) -> None:
        self.began = time.perf_counter()
        self.written: dict[str, int] = {}  # run → epochs

    def in_time(self) -> bool:
        return time.perf_counter() - self.began < self.limit

    def begin(self) -> Iterator[int]:
        yield from (number for number in range(self.runs) if self.in_time())

    def create(self, number: int) -> str:
        return str(self.client.create_run(self.experiment, run_name=f"trial-{number}").info.run_id)

    def steps(self, run: str, number: int) -> Iterator[tuple[int, list[Metric]]]:
        """The points of one epoch after another."""
        for epoch in range(1, self.epochs + 1):
            if not self.in_time():
                return
            now = int(time.time() * 1000)
            yield epoch, [Metric(key, value(number, epoch, n), now, epoch) for n, key in enumerate(METRICS)]
            self.written[run] = epoch

    def params(self) -> list[Param]:
        return [Param(key, str(one)) for key, one in PARAMS.items()]


def log_metric(work: Work) -> None:
    for number in work.begin():
        run = work.create(number)
        for key, one in PARAMS.items():
            work.client.log_param(run, key, one)
        for _, points in work.steps(run, number):
            for point in points:
                work.client.log_metric(run, point.key, point.value, point.timestamp, point.step)
        work.client.set_terminated(run)


def batch_an_epoch(work: Work) -> None:
    for number in work.begin():
        run = work.create(number)
        work.client.log_batch(run, params=work.params())
        for _, points in work.steps(run, number):
            work.client.log_batch(run, points)
        work.client.set_terminated(run)


def batch_a_run(work: Work) -> None:
    for number in work.begin():
        run = work.create(number)
        work.client.log_batch(run, [point for _, points in work.steps(run, number) for point in points], work.params())
        work.client.set_terminated(run)


def asynchronous(work: Work) -> None:
    for number in work.begin():
        run = work.create(number)
        begun = [work.client.log_batch(run, params=work.params(), synchronous=False)]
        begun += [work.client.log_batch(run, points, synchronous=False) for _, points in work.steps(run, number)]
        for operations in begun:
            if operations is not None:
                operations.wait()
        work.client.set_terminated(run)


def ray_callback(work: Work) -> None:
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    class Trial:
        """What the callback looks at of Tune's."""

        config, local_path = PARAMS, "."

    callback = MLflowLoggerCallback(tracking_uri=work.client.tracking_uri, experiment_name=EXPERIMENT)
    callback.setup()
    for number in work.begin():
        trial: Any = Trial()
        callback.log_trial_start(trial)
        run = callback._trial_runs[trial]
        for epoch, points in work.steps(run, number):
            result = {point.key: point.value for point in points}
            callback.log_trial_result(epoch, trial, {**result, "training_iteration": epoch})
        callback.log_trial_end(trial)


WAYS: dict[str, Callable[[Work], None]] = {
    "log_metric": log_metric,
    "batch-epoch": batch_an_epoch,
    "batch-run": batch_a_run,
    "async": asynchronous,
    "ray": ray_callback,
}


def read_back(client: MlflowClient, run: str, epochs: int) -> None:
    """Raises where one of the run's points cannot be read."""
    for key in METRICS:
        found = sorted(point.step for point in client.get_metric_history(run, key))
        if found != list(range(1, epochs + 1)):
            raise RuntimeError(f"{len(found)} points of {key} can be read in run {run}, not {epochs}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--limit", type=float, required=True, help="seconds of writing; what is written then counts")
    parser.add_argument("--mlflow", default="sqlite:///mlflow.db")
    given = parser.parse_args()
    client = MlflowClient(given.mlflow)
    experiment = client.create_experiment(EXPERIMENT)
    WAYS[given.way](Work(client, experiment, 1, 2, 60.0))
    work = Work(client, experiment, given.runs, given.epochs, given.limit)
    WAYS[given.way](work)
    last, epochs = list(work.written.items())[-1]
    read_back(client, last, epochs)
    took = time.perf_counter() - work.began
    print(json.dumps({"seconds": took, "written": work.written}))


if __name__ == "__main__":
    main()
