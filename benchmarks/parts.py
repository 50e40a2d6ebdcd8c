"""Where a study's processor seconds go: the work of `study.py`, every process and every part of it.

    python benchmarks/parts.py --trials 256

A study is launched with clocks around its parts, each part's time without the parts inside it: in the driver, in the
workers (which begin as copies of it), and whole for MLflow's writer. Clocks cost time themselves, so shares are to be
read, not seconds; how long the launch takes without them, `study.py` tells.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import harness

from tuner.errors import StudyMissing

PACKAGES = ("cohort-tuner", "torch", "numpy", "optuna", "mlflow")
START, LOOP, EXPORT, TRAINING = (
    "start: imports, study file, data",
    "study loop, messages, progress",
    "export's imports, in their own thread",
    "batches, messages, Python between kernels",
)
WRITER, IMPORT = "tables, runs, points, champion", "MLflow's imports"
DRIVER, WORKERS = "driver", "workers"
HEAD = ("process", "part", "processor seconds", "share, %")


@dataclass
class Parts:
    """Seconds of the main thread's processor time, each charged to the innermost part that it was spent in."""

    seconds: dict[str, float] = field(default_factory=dict)
    inside: list[str] = field(default_factory=list)
    _since: float = field(default_factory=time.thread_time)

    def turn(self) -> None:
        """Charge what has passed."""
        now = time.thread_time()
        name = self.inside[-1]
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self.turn()
        self.inside.append(name)
        try:
            yield
        finally:
            self.turn()
            self.inside.pop()

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            with self.part(name):
                return call(*arguments, **named)

        return timed

    def opening(self, name: str, context: Callable[..., Any]) -> Callable[..., Any]:
        """The same of a context: what it takes to open and to close."""

        @contextmanager
        def timed(*arguments: Any) -> Iterator[None]:
            opened = context(*arguments)
            with self.part(name):
                opened.__enter__()
            try:
                yield
            except BaseException:
                opened.__exit__(*sys.exc_info())
                raise
            with self.part(name):
                opened.__exit__(None, None, None)

        return timed

    def begin(self, name: str) -> None:
        """What is spent from here on, outside of all parts."""
        self.inside, self.seconds, self._since = [name], {}, time.thread_time()


def watch_driver(parts: Parts) -> None:
    from tuner import ledger, search
    from tuner.study import finish
    from tuner.study.loop import StudyLoop
    from tuner.workloads.network.cohorts import NetworkCohorts

    for owner, method, name in (
        (StudyLoop, "run", LOOP),
        (search.Search, "ask", "asking the sampler"),
        (search.Search, "tell", "telling the sampler"),
        (search.Search, "observe", "telling the sampler"),
        (NetworkCohorts, "group", "cohorts"),
        (ledger.Ledger, "append", "ledger"),
        (finish, "finish_study", "the winner: test, export, example"),
    ):
        setattr(owner, method, parts.around(name, getattr(owner, method)))
    ledger.Ledger.together = parts.opening("ledger", ledger.Ledger.together)  # type: ignore[method-assign]


def watch_workers(parts: Parts, folder: Path) -> None:
    import numpy as np
    import torch

    from tuner.checkpoints.store import Folder
    from tuner.executors.worker import Worker
    from tuner.training.loop import Training
    from tuner.training.replay.tape import Program, Programs

    products = {np.matmul, torch.bmm, torch.baddbmm}
    record = Program.__init__

    def recorded(self: Program, *arguments: Any, **named: Any) -> None:
        with parts.part("recording steps"):
            record(self, *arguments, **named)
            self._calls = [
                (parts.around("matrix products", call) if call in products else call, given, keywords)
                for call, given, keywords in self._calls
            ]

    Program.__init__ = recorded  # type: ignore[method-assign]
    for owner, method, name in (
        (Training, "__init__", "building networks"),
        (Programs, "play", "all other kernels of a step"),
        (Training, "_measure", "evaluation"),
        (Folder, "write", "weights and checkpoints to disk"),
    ):
        setattr(owner, method, parts.around(name, getattr(owner, method)))
    train = Worker.train
    known: list[int] = []

    def trained(self: Worker, work: Any) -> None:
        if not known:
            known.append(self.number)
            parts.begin(TRAINING)
        train(self, work)
        parts.turn()
        (folder / f"worker-{self.number}.json").write_text(json.dumps(parts.seconds))

    Worker.train = trained  # type: ignore[method-assign]


def inside(folder: Path, words: Sequence[str]) -> int:
    """The launch, in this process; leaves the parts of driver and workers in `folder`."""
    parts = Parts()
    parts.begin(START)
    from tuner.cli import main as command
    from tuner.cli import run

    run._one_thread()
    watch_driver(parts)
    watch_workers(parts, folder)
    sys.argv = ["tuner", *words]
    code = 0
    try:
        command()
    except SystemExit as end:
        code = int(end.code or 0)
    parts.turn()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    parts.seconds[EXPORT] = time.process_time() - sum(parts.seconds.values())
    body = {"driver": parts.seconds, "children": used.ru_utime + used.ru_stime}
    (folder / "driver.json").write_text(json.dumps(body))
    return code


def importing(folder: Path) -> float:
    """Processor seconds that MLflow's writer needs before it finds, in an empty folder, that there is no study."""
    arguments = [str(folder), "--uri", f"sqlite:///{folder}/none.db", "--patience", "0"]
    command = [sys.executable, "-P", "-m", "tuner.tracking.process", "--standby"]
    told = json.dumps({"log": str(folder / "log.txt"), "arguments": arguments})
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(command, input=told, text=True, env=harness.environment(), check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if ended.returncode != StudyMissing.exit_code:
        raise harness.RunFailed(f"the writer ended with {ended.returncode}: {(folder / 'log.txt').read_text()}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def once(folder: Path, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """One study; its parts by process, and how long the whole of it took."""
    import study  # and MLflow with it, which is no part of a launch

    _, *words = study.ours(folder, seed, given)
    script = [sys.executable, str(Path(__file__).resolve()), "--inside", str(folder), *words]
    took = harness.seconds(script, folder, harness.environment(), given.limit)
    told = json.loads((folder / "driver.json").read_text())
    workers: dict[str, float] = {}
    for path in folder.glob("worker-*.json"):
        for name, seconds in json.loads(path.read_text()).items():
            workers[name] = workers.get(name, 0.0) + seconds
    wrote = told["children"] - sum(workers.values())
    with tempfile.TemporaryDirectory(dir=folder) as empty:
        imports = min(importing(Path(empty)), wrote)
    writer = {IMPORT: imports, WRITER: wrote - imports}
    return {"seconds": took, "parts": {DRIVER: told["driver"], WORKERS: workers, "writer": writer}}


def measure(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for number in range(given.repeats):
        with tempfile.TemporaryDirectory(prefix="tb-") as place:
            busy = harness.others()
            yield {"round": number, "busy": busy, **once(Path(place), given.seed + number, given)}


def rows(records: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Every part's median, the largest of each process first, and its share in the sum of all medians."""
    medians = {
        process: {
            name: statistics.median(one["parts"][process].get(name, 0.0) for one in records)
            for name in {name for one in records for name in one["parts"][process]}
        }
        for process in records[0]["parts"]
    }
    total = sum(sum(parts.values()) for parts in medians.values())
    body = []
    for process, parts in medians.items():
        ordered = sorted(parts.items(), key=lambda part: -part[1])
        for name, seconds in [("all", sum(parts.values())), *ordered]:
            body.append([process, name, f"{seconds:.2f}", f"{100 * seconds / total:.0f}"])
    return body


def report(given: argparse.Namespace, records: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
    machine = harness.machine(PACKAGES)
    whole = harness.Spread.of([one["seconds"] for one in records])
    what = f"{given.trials} trials of {given.epochs} epochs, {given.workers} workers, rounds: {given.repeats}"
    text = [
        f"{what}; medians. The whole took {whole.text('.1f')} s, with the clocks.",
        harness.introduction(machine),
        "",
        harness.table(HEAD, rows(records)),
        harness.warning([one["busy"] for one in records]),
    ]
    asked = {name: getattr(given, name) for name in ("trials", "epochs", "repeats", "workers")}
    return "\n".join(text), {"work": asked, "machine": machine, "runs": list(records)}


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--asha", action="store_true", help="stop trials early")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1, help="of the first round; each round has its own")
    parser.add_argument("--limit", type=float, default=600, help="seconds that one study may take")
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "parts.json")
    return parser.parse_args(words)


def main() -> int:
    return harness.compare(arguments(), measure, report)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        sys.exit(inside(Path(sys.argv[2]), sys.argv[3:]))
    sys.exit(main())
