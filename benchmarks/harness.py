"""What every benchmark shares: cold processes timed to their end, in turns; medians, the machine's name, one table.

Knows processes, clocks and tables. Must never know what is compared, nor decide who is faster.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

OUT_OF_MEMORY = "out of memory"  # what a member of a crew answers where its job does not fit
RESULTS = Path(__file__).parent / "results"

_QUIET = 10.0  # percent of all cores that others may use while nothing of ours runs; above it no time is worth quoting
_LISTEN_SECONDS = 1.0
_GRACE_SECONDS = 10.0
_FOREIGN = ("MLFLOW_", "OPTUNA_", "RAY_", "TUNE_", "TUNER_")  # a person's own settings are no part of a comparison
_SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class RunFailed(RuntimeError):
    """A contender did not come to its end; the message ends with its last words."""


@dataclass(frozen=True)
class Spread:
    """Several measurements of one thing."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def text(self, form: str = ",.0f") -> str:
        """`31 (29–34)`, or the one value where all are equal."""
        middle, low, high = (format(value, form) for value in (self.median, self.low, self.high))
        return middle if low == high else f"{middle} ({low}–{high})"


# --- processes ------------------------------------------------------------------------------------


def environment(**changes: str) -> dict[str, str]:
    """A process's surroundings, equal for all: one thread each, nobody's telemetry, no settings of one's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    return {**kept, **_SETTINGS, **changes}


def seconds(command: Sequence[str | Path], folder: Path, surroundings: Mapping[str, str], limit: float) -> float:
    """How long the command takes in `folder`, from before its process exists until it has ended well.

    What it says goes to `folder/log.txt`. Raises RunFailed for a bad ending or more than `limit` seconds.
    """
    log = folder / "log.txt"
    with log.open("w") as said:
        clock = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(surroundings),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(timeout=limit)
            took = time.perf_counter() - clock
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
    if code != 0:
        how = f"took more than {limit:.0f} s" if code is None else f"ended with exit code {code}"
        raise RunFailed(f"{Path(command[0]).name} {how}\n" + "\n".join(log.read_text().splitlines()[-30:]))
    return took


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a run that was given up."""
    if process.poll() is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_GRACE_SECONDS)
            return


def turns(names: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Who runs when, as (round, name): each once in every round, so that a slow hour slows all of them."""
    for number in range(rounds):
        for name in names:
            yield number, name


class Crew:
    """Processes that work at the same time: each takes jobs as lines of JSON and answers when told to begin.

    Each job is answered by "ready" or by what is wrong; then it is begun, and answered by its outcome, or called off.
    Every process is told its `--number`, from 0.
    """

    def __init__(self, command: Sequence[str | Path], count: int, surroundings: Mapping[str, str]) -> None:
        self._members = [
            subprocess.Popen(
                [*command, "--number", str(number)],
                env=dict(surroundings),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
                start_new_session=True,  # Ctrl-C is for us, who then end them
            )
            for number in range(count)
        ]

    def race(self, job: Mapping[str, Any]) -> list[Any]:
        """What each answers; all begin when the last is ready. Where one is not, nobody begins: its word alone."""
        self._tell(json.dumps(job))
        wrong = [word for word in map(self._answer, self._members) if word != "ready"]
        self._tell("never mind" if wrong else "begin")
        return wrong[:1] or [self._answer(member) for member in self._members]

    def _tell(self, line: str) -> None:
        for member in self._members:
            assert member.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # one that has ended is found out when it does not answer
                member.stdin.write(line + "\n")

    def _answer(self, member: subprocess.Popen[str]) -> Any:
        assert member.stdout is not None
        line = member.stdout.readline()
        if not line:
            raise RunFailed(f"a process of the crew ended with exit code {member.wait()}; what it said stands above")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self._members:
            member.kill()
            member.wait()
            for pipe in (member.stdin, member.stdout):
                assert pipe is not None
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def others() -> float:
    """Percent of the machine that is in use just now, by somebody else; NaN where psutil is missing."""
    try:
        import psutil
    except ImportError:
        return math.nan
    return psutil.cpu_percent(interval=_LISTEN_SECONDS)


def warning(busy: Sequence[float]) -> str:
    """What to say about times taken while others used so much of the machine; nothing where it was quiet."""
    if any(map(math.isnan, busy)):
        return "Whether the machine was busy is not known: psutil is not installed."
    if max(busy) <= _QUIET:
        return ""
    return (
        f"The machine was busy: others used up to {max(busy):.0f} % of it when a run began. Do not quote these times."
    )


# --- what is shown --------------------------------------------------------------------------------


def machine(packages: Sequence[str]) -> dict[str, Any]:
    """What the figures belong to: processor, cores that we may use, versions."""
    versions = {"python": platform.python_version()}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {"cpu": _processor(), "cores": cores(), "system": platform.system(), "versions": versions}


def cores() -> int:
    """Cores that we may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def introduction(facts: Mapping[str, Any]) -> str:
    """`machine` in one line."""
    versions = ", ".join(f"{name} {value}" for name, value in facts["versions"].items())
    return f"Machine: {facts['cpu']}, {facts['cores']} cores, {facts['system']}; {versions}."


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that can be read in a terminal as well: first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]) + " |"

    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return "\n".join([line(head), f"|{rule}|", *map(line, rows)])


def save(path: Path, body: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n")


def compare(
    given: argparse.Namespace,
    measure: Callable[[argparse.Namespace], Iterable[dict[str, Any]]],
    report: Callable[[argparse.Namespace, Sequence[dict[str, Any]]], tuple[str, Mapping[str, Any]]],
) -> int:
    """A script's whole way from its arguments to its table and its JSON (`given.out`); its exit code."""
    try:
        records = list(measure(given))
    except RunFailed as error:
        print(f"no comparison: {error}", file=sys.stderr)
        return 1
    text, body = report(given, records)
    save(given.out, body)
    print(text)
    return 0
