"""Points per second until an MLflow client reads them, and what writing them costs a study.

First, runs of 60 and of 1,000 points are written to MLflow on SQLite: by Tuner, from the first event in the ledger
until its writer has ended, and by others in the ways that MLflow's documentation has. Then the reference study of
`study.py` runs with and without tracking. Every point is read back through MlflowClient, or there is no table.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import harness
import psutil
import study
from harness import Spread
from mlflow import MlflowClient
from peers import points

from tuner.events import Asked, Completed, Created, Event, Finished, Grouped, Opened, Reported, Started
from tuner.ledger import Ledger, study_folder
from tuner.tracking.writer import Writer

TUNER = "tuner"
LABELS = {
    TUNER: "Tuner's writer, ledger included",
    "log_metric": "log_metric",
    "batch-epoch": "log_batch, one an epoch",
    "batch-run": "log_batch, one a run",
    "async": "log_batch, one an epoch, asynchronous",
    "ray": "Ray Tune's MLflowLoggerCallback",
}
RUNS = {60: 64, 1_000: 16}  # points in a run → runs
SHARE = 0.2  # of a tracked study's processor time that the writer may take
PACKAGES = ("cohort-tuner", "torch", "mlflow", "sqlalchemy", "ray")
STORES = {"embedded": "tracked by MLflow", "off": "not tracked"}
_WRITER = "tuner.tracking.process"
_SAMPLE_SECONDS = 0.1


# --- writing points -------------------------------------------------------------------------------


def ours(folder: Path, runs: int, epochs: int) -> dict[str, Any]:
    """What a driver does: facts into the ledger, behind it the writer, who is told when it is over."""
    home = folder / "home"
    with Ledger.create(study_folder(home, points.EXPERIMENT)) as ledger, ledger.lock():
        tell(ledger, begin(runs + 1))
        tell(ledger, trials(range(1), 2))
        with Writer(ledger.folder, home, "embedded") as writer:
            while not (writer.said or {}).get("written"):  # its store is made, and one run written, as the peers have
                time.sleep(0.05)
            clock = time.perf_counter()
            tell(ledger, trials(range(1, runs + 1), epochs))
            tell(ledger, [[Completed(state="complete", message="")]])
            said = writer.wait()
            client = MlflowClient(f"sqlite:///{home}/mlflow/mlflow.db")
            last = written(client, runs)[-1]
            points.read_back(client, last, epochs)
            took = time.perf_counter() - clock
    if said is None or said.get("error"):
        raise harness.RunFailed(f"the writer has not written all: {said}")
    return {"seconds": took, "written": dict.fromkeys(written(client, runs), epochs)}


def tell(ledger: Ledger, transactions: Iterator[list[Event]] | list[list[Event]]) -> None:
    for events in transactions:
        ledger.append(events)


def begin(trials: int) -> Iterator[list[Event]]:
    spec = {
        "version": 1,
        "study": points.EXPERIMENT,
        "seed": 1,
        "data": {"source": "digits"},
        "model": {"family": "mlp"},
        "train": {"epochs": 1},
        "search": {
            "space": {},
            "objective": {"metric": "val/accuracy", "goal": "maximize"},
            "sampler": {"kind": "random"},
            "pruner": {"kind": "none"},
            "trials": trials,
        },
    }
    data = {"name": "digits", "digest": "0" * 64, "split": "0" * 64, "rows": {}, "signature": {}}
    body = {"spec": spec, "digest": "0" * 64, "text": "", "id": "benchmark", "seed": 1, "data": data}
    yield [Created(**body), Opened(host="here", pid=1)]


def trials(numbers: range, epochs: int) -> Iterator[list[Event]]:
    """Trials in cohorts of eight, all of one at once: as whoever makes one `log_batch` a run waits for its end."""
    for cohort in range(numbers.start, numbers.stop, 8):
        group = range(cohort, min(cohort + 8, numbers.stop))
        grouped = {"trials": list(group), "structure": {}, "company": True}
        started = {"attempt": 1, "worker": 0, "trials": list(group), "epoch": 0}
        yield [
            *(Asked(n, params=points.PARAMS, seed=n) for n in group),
            Grouped(cohort, **grouped),
            Started(cohort, **started),
            *(reported(n, epoch) for epoch in range(1, epochs + 1) for n in group),
            *(Finished(n, epochs=epochs, best_epoch=1) for n in group),
        ]


def reported(trial: int, epoch: int) -> Event:
    metrics = {key: points.value(trial, epoch, number) for number, key in enumerate(points.METRICS)}
    return Reported(trial, epoch, metrics=metrics, seconds=0.1)


def written(client: MlflowClient, runs: int) -> list[str]:
    """The trials' runs in the order of their numbers, but for the one that was written before the clock started."""
    experiment = client.get_experiment_by_name(points.EXPERIMENT)
    found = client.search_runs([experiment.experiment_id], "tags.`tuner.trial` != '0'", max_results=runs + 1)
    return [run.info.run_id for run in sorted(found, key=lambda run: int(run.data.tags["tuner.trial"]))]


def theirs(way: str, folder: Path, runs: int, epochs: int, given: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, str(Path(points.__file__)), way, "--runs", str(runs), "--epochs", str(epochs)]
    private = {"RAY_TMPDIR": str(folder)}
    harness.seconds([*command, "--limit", str(given.limit)], folder, harness.environment(**private), given.limit + 120)
    said: dict[str, Any] = json.loads((folder / "log.txt").read_text().splitlines()[-1])
    return said


def writing(given: argparse.Namespace, place: Path) -> Iterator[dict[str, Any]]:
    """All rounds; one record for each who and size."""
    for size in given.points:
        epochs = size // len(points.METRICS)
        for number, name in harness.turns([TUNER, *given.peers], given.repeats):
            folder = place / f"{size}-{number}-{name}"
            folder.mkdir()
            busy, runs = harness.others(), given.runs or RUNS.get(size, 16)
            done = ours(folder, runs, epochs) if name == TUNER else theirs(name, folder, runs, epochs, given)
            client = MlflowClient(f"sqlite:///{folder / ('home/mlflow' if name == TUNER else '.')}/mlflow.db")
            for run, epochs_written in done["written"].items():
                points.read_back(client, run, epochs_written)
            count = sum(done["written"].values()) * len(points.METRICS)
            facts = {"points": count, "runs": len(done["written"]), "seconds": done["seconds"], "busy": busy}
            yield {"who": name, "round": number, "size": size, "rate": count / done["seconds"], **facts}
            print(f"{size} points, round {number + 1} of {given.repeats}: {name} is done", file=sys.stderr)


# --- what it costs a study ------------------------------------------------------------------------


class Watch(threading.Thread):
    """How much processor time the writing process of the study below us has taken, looked at while it lives."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seconds, self._over = 0.0, threading.Event()

    def run(self) -> None:
        process: psutil.Process | None = None
        while not self._over.wait(_SAMPLE_SECONDS):
            try:
                process = process or next(filter(_writes, psutil.Process().children(recursive=True)), None)
                if process is not None:
                    times = process.cpu_times()
                    self.seconds = times.user + times.system
            except psutil.Error:  # it has ended
                continue

    def stop(self) -> float:
        self._over.set()
        self.join()
        return self.seconds


def _writes(process: psutil.Process) -> bool:
    return _WRITER in process.cmdline()


def studies(given: argparse.Namespace, place: Path) -> Iterator[dict[str, Any]]:
    for number, store in harness.turns(list(STORES), given.repeats if given.trials else 0):
        folder = place / f"study-{number}-{store}"
        folder.mkdir()
        command = study.ours(folder, given.seed + number, given)
        spec = json.loads((folder / "study.yaml").read_text())
        (folder / "study.yaml").write_text(json.dumps({**spec, "tracking": {"mlflow": store}}))
        busy, watch = harness.others(), Watch()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        watch.start()
        took = harness.seconds(command, folder, harness.environment(), study_limit(given))
        writer = watch.stop()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if store != "off":
            study.read(f"sqlite:///{folder}/home/mlflow/mlflow.db", given.epochs)
        processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        facts = {"seconds": took, "processor": processor, "writer": writer, "share": writer / processor, "busy": busy}
        yield {"who": store, "round": number, **facts}
        print(f"study, round {number + 1} of {given.repeats}: {STORES[store]} is done", file=sys.stderr)


def study_limit(given: argparse.Namespace) -> float:
    return 60 + 10.0 * given.trials


# --- the script -----------------------------------------------------------------------------------


def report(
    given: argparse.Namespace, rates: Sequence[dict[str, Any]], costs: Sequence[dict[str, Any]]
) -> tuple[str, dict[str, Any]]:
    """The text to print, and what goes into the JSON."""

    def spread(records: Sequence[dict[str, Any]], column: str, **wanted: object) -> Spread:
        return Spread.of([one[column] for one in records if all(one[key] == value for key, value in wanted.items())])

    names = [TUNER, *given.peers]
    summary = {name: {size: spread(rates, "rate", who=name, size=size) for size in given.points} for name in names}
    head, body = ["who"], [[LABELS[name]] for name in names]
    for size in given.points:
        head += [f"points/s, runs of {size:,}", "Tuner is faster"]
        for name, row in zip(names, body, strict=True):
            faster = summary[TUNER][size].median / summary[name][size].median
            row += [summary[name][size].text(), "" if name == TUNER else f"{faster:.1f}×"]
    machine = harness.machine(PACKAGES)
    text = [harness.introduction(machine), "", harness.table(head, body)]
    if costs:
        columns = ("seconds", "processor", "writer", "share")
        found = {store: {column: spread(costs, column, who=store) for column in columns} for store in STORES}
        forms = (".1f", ".1f", ".1f", ".0%")
        rows = [
            [STORES[store], *(found[store][column].text(form) for column, form in zip(columns, forms, strict=True))]
            for store in STORES
        ]
        text += ["", f"A study of {given.trials} trials of {given.epochs} epochs:", ""]
        text += [harness.table(["", "seconds", "processor seconds", "of these the writer's", "share"], rows)]
        if found["embedded"]["share"].median > SHARE:
            text.append(f"The writer takes more than {SHARE:.0%} of the processor.")
    if warning := harness.warning([one["busy"] for one in (*rates, *costs)]):
        text.append(warning)
    return "\n".join(text), {
        "work": {"points": given.points, "rounds": given.repeats, "trials": given.trials, "epochs": given.epochs},
        "machine": machine,
        "summary": {name: {str(size): asdict(one) for size, one in sizes.items()} for name, sizes in summary.items()},
        "runs": [*rates, *costs],
    }


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.set_defaults(asha=False)  # the reference study's trials are all trained to their end
    parser.add_argument("--points", type=int, nargs="+", default=list(RUNS), help="in one run")
    parser.add_argument("--runs", type=int, help="of each size; 64 of 60 points and 16 of 1,000 unless given")
    parser.add_argument("--limit", type=float, default=5.0, help="seconds that a peer writes; then its rate is known")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", nargs="*", default=list(points.WAYS), choices=list(points.WAYS))
    parser.add_argument("--trials", type=int, default=64, help="of the study with and without tracking; 0: no study")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "tracking.json")
    return parser.parse_args(words)


def main() -> int:
    given = arguments()
    try:
        with tempfile.TemporaryDirectory(prefix="tb-") as place:
            rates = list(writing(given, Path(place)))
            costs = list(studies(given, Path(place)))
    except (harness.RunFailed, study.NotTheWork, RuntimeError) as error:
        print(f"no comparison: {error}", file=sys.stderr)
        return 1
    text, body = report(given, rates, costs)
    harness.save(given.out, body)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
