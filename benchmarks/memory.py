"""What memory grows with: the driver's with every trial that has ended, a worker's with the size of its cohort.

The driver is Tuner's study loop over workers that do nothing (`idle.py`): bytes more for each trial that ended, from a
quarter of the study to its end, when nothing but the trials grows. A worker is a process that trains one cohort of K
equal trials of the digits MLP: its peak beside the peak with K = 1, which holds torch and the data.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import harness
from harness import Spread

HERE = Path(__file__).parent
PACKAGES = ("cohort-tuner", "torch", "optuna", "sqlalchemy", "numpy")


# --- a worker -------------------------------------------------------------------------------------


def train(size: int) -> int:
    """Two epochs of one cohort of that size; the process's peak in bytes."""
    from idle import spec

    from tuner.events import Trial
    from tuner.executors.protocol import Message
    from tuner.executors.worker import Worker
    from tuner.workloads.base import Job, Setup
    from tuner.workloads.network.tasks import task
    from tuner.workloads.network.workload import NetworkWorkload

    wanted = spec("random", size, 2)
    params = {"learning_rate": 0.01, "batch_size": 64, "depth": 2, "width": 64, "dropout": 0.1, "optimizer": "adam"}
    with tempfile.TemporaryDirectory() as place:
        workload = NetworkWorkload(wanted)
        trials = [Trial(number, {**params, "learning_rate": 0.01 + number * 1e-5}, number) for number in range(size)]
        setup = Setup(workload.kind, workload.setup(), place, "cpu", 1)
        cohort = task(wanted, workload.dataset.signature, trials, company=True)

        class Silent:
            def send(self, message: Message) -> None: ...

            def receive(self) -> Any:
                raise AssertionError("nobody answers")

            def waiting(self) -> bool:
                return False

        Worker(0, setup, Silent()).train(Job(0, tuple(range(size)), 1, cohort))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


# --- measuring ------------------------------------------------------------------------------------


def measure(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All rounds; one record for each run."""
    for number in range(given.repeats):
        for sampler in given.samplers:
            for trials in given.trials:
                words = ["--sampler", sampler, "--trials", str(trials), "--epochs", str(given.epochs)]
                told = run([str(HERE / "idle.py"), *words], given.limit)
                yield {"who": f"driver, {sampler}", "size": trials, "round": number, "memory": told["memory"]}
        for size in given.cohorts:
            told = run([str(HERE / "memory.py"), "--train", str(size)], given.limit)
            yield {"who": "worker", "size": size, "round": number, "peak": told["peak"]}


def run(words: Sequence[str], limit: float) -> dict[str, Any]:
    """What a process of ours told."""
    with tempfile.TemporaryDirectory(prefix="tb-") as place:
        out = Path(place) / "told.json"
        harness.seconds([sys.executable, *words, "--out", str(out)], Path(place), harness.environment(), limit)
        told: dict[str, Any] = json.loads(out.read_text())
        return told


def grown(marks: Sequence[Sequence[int]]) -> float:
    """Bytes more for each trial that ended, from a quarter of them on; `marks` are (trials, bytes)."""
    trials, size = marks[-1]
    first, before = next(mark for mark in marks if mark[0] >= trials / 4)
    return (size - before) / max(trials - first, 1)


def rows(records: Sequence[dict[str, Any]]) -> list[list[str]]:
    body = []
    for who, size in dict.fromkeys((one["who"], one["size"]) for one in records):
        runs = [one for one in records if (one["who"], one["size"]) == (who, size)]
        if who == "worker":
            peaks = Spread.of([one["peak"] / 2**20 for one in runs])
            alone = [one["peak"] / 2**20 for one in records if one["who"] == who and one["size"] == 1]
            more = (peaks.median - Spread.of(alone).median) * 2**10 / size if alone and size > 1 else None
            body.append([f"{who}, K = {size}", peaks.text(",.0f"), "" if more is None else f"{more:,.0f}"])
        else:
            last = Spread.of([one["memory"][-1][1] / 2**20 for one in runs])
            more_each = Spread.of([grown(one["memory"]) / 2**10 for one in runs])
            body.append([f"{who}, {size:,} trials", last.text(",.0f"), more_each.text(".2f")])
    return body


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--epochs", type=int, default=20, help="reports of each trial")
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"])
    parser.add_argument("--cohorts", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=3_600, help="seconds that one run may take")
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "memory.json")
    parser.add_argument("--train", type=int, help=argparse.SUPPRESS)  # be the worker, with so many rows
    return parser.parse_args(words)


def main() -> int:
    given = arguments()
    if given.train:
        given.out.write_text(json.dumps({"peak": train(given.train)}))
        return 0
    records = list(measure(given))
    machine = harness.machine(PACKAGES)
    harness.save(given.out, {"machine": machine, "epochs": given.epochs, "runs": records})
    print(f"{given.epochs} epochs of three metrics a trial, rounds: {given.repeats}; medians (lowest–highest).")
    print(harness.introduction(machine), "", sep="\n")
    print(harness.table(("who", "MiB", "KiB more for each trial"), rows(records)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
