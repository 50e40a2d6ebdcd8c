"""One GPU: the shapes of `steps.py` and a study's training, cohorts against one plain loop and against many processes.

Cohorts grow as far as memory allows: what does not fit is halved, and the script goes on. The peers' processes share
the GPU through NVIDIA's MPS where it is there. Needs torch and numpy alone; without CUDA it says so and ends well.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import harness
import torch
from harness import Crew, Spread
from shapes import SHAPES

PACKAGES = ("cohort-tuner", "torch", "numpy")
AIMS = {"mlp": "100, 10", "cnn": "15", "rnn": "40", "transformer": "20"}  # times one plain loop, times many processes
STUDY = "study"
TUNER, SERIAL, MANY = "tuner", "serial", "many"
HEAD = ("shape", "one plain loop", "{many}", "cohorts, by K", "times one", "times many", "aim")

Race = Callable[[int], Sequence[Any]]


# --- memory and processes -------------------------------------------------------------------------


def fitting(race: Race, rows: int) -> tuple[int, Sequence[Any]]:
    """Race with so many rows, or half as many until it fits into memory: the rows that it took, and the answers."""
    while harness.OUT_OF_MEMORY in (answers := race(rows)):
        if rows == 1:
            raise harness.RunFailed("not even one trial fits into memory")
        rows //= 2
    return rows, answers


@contextlib.contextmanager
def sharing(device: str) -> Iterator[dict[str, str]]:
    """What processes need in their surroundings to run on one GPU at the same time; nothing where there is no MPS.

    A server of our own, in a folder of its own, ended with us.
    """
    daemon = shutil.which("nvidia-cuda-mps-control")
    if device == "cpu" or daemon is None:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="mps-") as place:
        own = {"CUDA_MPS_PIPE_DIRECTORY": f"{place}/pipe", "CUDA_MPS_LOG_DIRECTORY": f"{place}/log"}
        for folder in own.values():
            Path(folder).mkdir()
        around = {**os.environ, **own}
        if subprocess.run([daemon, "-d"], env=around, check=False, capture_output=True).returncode != 0:
            yield {}
            return
        try:
            yield own
        finally:
            subprocess.run([daemon], input="quit\n", text=True, env=around, check=False, capture_output=True)


# --- the races ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """One race. `work` is a shape or the study; `rate` in trial-steps a second."""

    work: str
    who: str
    round: int
    rate: float
    rows: int = 0
    seconds: float = 0.0


def measure(given: argparse.Namespace) -> Iterator[Record]:
    """All rounds of all shapes, then of the study. Processes stay up: the peers' own take memory while ours train."""
    command = [sys.executable, str(Path(__file__).parent / "racers.py"), "--device", given.device]
    with ExitStack() as stack:
        shared = stack.enter_context(sharing(given.device))
        given.many = f"{given.processes} processes{', MPS' if shared else ''}"
        alone, beside = harness.environment(), harness.environment(**shared)
        crews = {
            TUNER: stack.enter_context(Crew(command, 1, alone)),
            SERIAL: stack.enter_context(Crew(command, 1, alone)),
            MANY: stack.enter_context(Crew(command, given.processes, beside)),
        }
        for shape in given.shapes:
            for number in range(given.rounds):
                yield from _shape(crews, shape, number, given)
            print(f"{SHAPES[shape].label} is done", file=sys.stderr)
        if given.trials:
            for number in range(given.rounds):
                yield from _study(crews, number, given)


def _shape(crews: Mapping[str, Crew], shape: str, number: int, given: argparse.Namespace) -> Iterator[Record]:
    job = {"shape": shape, "seconds": given.seconds}
    for who in (SERIAL, MANY):
        for fused in (False, True):
            answers = crews[who].race({**job, "work": "plain", "fused": fused})
            if harness.OUT_OF_MEMORY not in answers:
                yield Record(shape, f"{who}{', fused' if fused else ''}", number, _rate(answers))
    known: set[int] = set()
    for wanted in given.rows:
        rows, answers = fitting(lambda rows: crews[TUNER].race({**job, "work": "tuner", "rows": rows}), wanted)
        if rows not in known:
            known.add(rows)
            yield Record(shape, TUNER, number, _rate(answers), rows)
        if rows < wanted:
            break


def _study(crews: Mapping[str, Crew], number: int, given: argparse.Namespace) -> Iterator[Record]:
    """The peers train one trial in `every`; the time of all follows from their rate."""
    job = {"trials": given.trials, "epochs": given.epochs, "seed": number, "every": given.every, "seconds": 0.0}
    steps = 0.0
    for who, processes in ((TUNER, 1), (SERIAL, 1), (MANY, given.processes)):
        work = "tuner-study" if who == TUNER else "plain-study"
        answers = crews[who].race({**job, "work": work, "processes": processes})
        if harness.OUT_OF_MEMORY in answers:
            raise harness.RunFailed(f"{who}: the study does not fit into memory")
        longest = max(answer["seconds"] for answer in answers)
        rate = sum(answer["done"] for answer in answers) / longest
        steps = steps or rate * longest
        yield Record(STUDY, who, number, rate, seconds=steps / rate)


def _rate(answers: Sequence[Mapping[str, float]]) -> float:
    return sum(answer["done"] / answer["seconds"] for answer in answers)


# --- the comparison -------------------------------------------------------------------------------


def rows(records: Sequence[Record]) -> list[list[str]]:
    """The table's body: a line for each shape, and one for the study, in seconds."""
    return [_line([one for one in records if one.work == work]) for work in dict.fromkeys(one.work for one in records)]


def _line(records: Sequence[Record]) -> list[str]:
    rates: dict[str, list[float]] = {}
    for one in records:
        rates.setdefault(f"{one.who} {one.rows}" if one.rows else one.who, []).append(one.rate)
    middle = {name: statistics.median(values) for name, values in rates.items()}

    def better(who: str) -> str | None:
        return max((name for name in rates if name.startswith(who)), key=middle.__getitem__, default=None)

    mine, serial, many = better(TUNER), better(SERIAL), better(MANY)
    assert mine is not None, "even one row would have ended the script"
    work = records[0].work
    if work == STUDY:
        cells = [f"{_seconds(records, who)} s" for who in (SERIAL, MANY, TUNER)]
        return ["the study", *cells, _times(rates, mine, serial), _times(rates, mine, many), ""]
    shape = SHAPES[work]
    sizes = " · ".join(f"{name.split()[1]}: {middle[name]:,.0f}" for name in rates if name.startswith(TUNER))
    cells = ["too large" if name is None else f"{middle[name]:,.0f}" for name in (serial, many)]
    aim = AIMS[shape.family]
    return [shape.label, *cells, sizes, _times(rates, mine, serial), _times(rates, mine, many), aim]


def _seconds(records: Sequence[Record], who: str) -> str:
    return Spread.of([one.seconds for one in records if one.who == who]).text(".1f")


def _times(rates: Mapping[str, Sequence[float]], mine: str, peer: str | None) -> str:
    if peer is None:
        return ""
    return Spread.of([one / two for one, two in zip(rates[mine], rates[peer], strict=False)]).text(".1f")


# --- the script -----------------------------------------------------------------------------------


def report(given: argparse.Namespace, records: Sequence[Record]) -> tuple[str, dict[str, Any]]:
    """The text to print, and what goes into the JSON."""
    name = "a CPU" if given.device == "cpu" else torch.cuda.get_device_name(given.device)
    machine = {**harness.machine(PACKAGES), "device": name}
    text = [
        f"Trial-steps a second on {name}; rounds: {given.rounds}; medians (lowest–highest).",
        harness.introduction(machine),
        "",
        harness.table([cell.format(many=given.many) for cell in HEAD], rows(records)),
    ]
    if given.trials:
        text.append(
            f"The study: seconds to train {given.trials} trials of {given.epochs} epochs; the peers train "
            f"{'each of them' if given.every == 1 else f'one in {given.every}'}, and the time of all follows."
        )
    work = {name: getattr(given, name) for name in ("rounds", "seconds", "rows", "trials", "epochs", "every", "many")}
    return "\n".join(text), {"work": work, "machine": machine, "runs": [asdict(one) for one in records]}


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cpu tries the script out, and measures nothing")
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, metavar="SHAPE", default=list(SHAPES))
    parser.add_argument("--rows", nargs="+", type=int, metavar="K", default=[16, 128, 1024], help="of a cohort")
    parser.add_argument("--processes", type=int, default=16, help="plain loops at the same time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one race, or one epoch where that is longer")
    parser.add_argument("--trials", type=int, default=1_024, help="of the study; 0 leaves it out")
    parser.add_argument("--epochs", type=int, default=20, help="of each of its trials")
    parser.add_argument("--every", type=int, default=8, help="the peers train one in so many of its trials")
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "gpu.json")
    given = parser.parse_args(words)
    given.rows = sorted(given.rows)
    return given


def main() -> int:
    given = arguments()
    if given.device != "cpu" and not torch.cuda.is_available():
        print("gpu.py needs CUDA, which torch does not find on this machine; nothing was measured")
        return 0
    return harness.compare(given, measure, report)


if __name__ == "__main__":
    sys.exit(main())
