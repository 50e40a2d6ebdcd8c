"""Trial-steps per second by family and shape: cohorts of 1 to 64 rows against a plain loop over torch's own modules.

Whole epochs are timed, each with its evaluation. Tuner runs one process with one thread for each core; the plain loop
the better of that and one process with all threads, each with torch.optim's default and its one-kernel updates. All
contenders of a shape take turns, round by round; a ratio is taken within a round.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import harness
import shapes
from harness import Crew, Spread
from racers import ALONE, chosen
from shapes import SHAPES, Shape

from tuner.cpu import settings

PACKAGES = ("cohort-tuner", "torch", "numpy")
QUICK = {"rows": [1, 8, 32], "rounds": 3, "seconds": 0.25}
FULL = {"rows": [1, 2, 4, 8, 16, 32, 64], "rounds": 5, "seconds": 1.0}

Records = Sequence[Mapping[str, Any]]


# --- who takes part -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contender:
    """One way to train a shape: in which crew, and what its processes are told."""

    key: str
    crew: str
    job: Mapping[str, Any]


def plain(cores: int) -> list[Contender]:
    """The ways to write a plain loop on so many cores, of which the best counts."""
    crews = {"many": f"{cores} processes", "one": f"{cores} threads"} if cores > 1 else {"many": "1 process"}
    return [
        Contender(f"{label}, fused" if fused else label, crew, {"work": "plain", "fused": fused})
        for (crew, label), fused in itertools.product(crews.items(), (False, True))
    ]


def cohorts(shape: Shape, rows: Sequence[int]) -> list[Contender]:
    """Cohorts of these sizes, and of those that a study chooses."""
    sizes = sorted({ALONE, *rows, chosen(shape)})
    return [Contender(f"K={size}", "tuner", {"work": "tuner", "rows": size}) for size in sizes]


# --- the races ------------------------------------------------------------------------------------


def measure(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All rounds of all shapes; one record for each contender in each round, its trial-steps (or products) a second."""
    script = Path(__file__).parent / "racers.py"
    crews = {"tuner": (given.cores, 1), "many": (given.cores, 1), "one": (1, given.cores)}
    with ExitStack() as stack:
        running = {}
        for name, (count, threads) in crews.items():
            own = {key: os.environ.get(key, value) for key, value in settings().items()} if name == "tuner" else {}
            around = harness.environment(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads), **own)
            command = [sys.executable, str(script), "--threads", str(threads)]
            running[name] = stack.enter_context(Crew(command, count, around))
        for crew in running.values():  # all have imported what they need before anybody listens for others
            crew.race({"work": "products", "shape": given.shapes[0], "seconds": 0.0})
        for shape in given.shapes:
            contenders = [
                Contender("products", "tuner", {"work": "products"}),
                *plain(given.cores),
                *cohorts(SHAPES[shape], given.rows),
            ]
            busy = harness.others()
            for number in range(given.rounds):
                for one in contenders:
                    answers = running[one.crew].race({**one.job, "shape": shape, "seconds": given.seconds})
                    if harness.OUT_OF_MEMORY in answers:
                        print(f"{shape}: {one.key} does not fit into memory", file=sys.stderr)
                        continue
                    rate = sum(answer["done"] / answer["seconds"] for answer in answers)
                    yield {"shape": shape, "round": number, "who": one.key, "rate": rate, "busy": busy}
            print(f"{SHAPES[shape].label} is done", file=sys.stderr)


# --- the comparison -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """One shape, all rounds; rates in trial-steps a second. `limit` is what the matrix products alone would allow."""

    shape: str
    limit: float
    plain: Spread
    peer: str
    rates: dict[int, Spread]
    best: int
    ratio: Spread
    chosen: int
    as_chosen: Spread
    over_alone: Spread

    @classmethod
    def of(cls, shape: str, records: Records) -> Result:
        rates: dict[str, list[float]] = {}
        for record in records:
            rates.setdefault(record["who"], []).append(record["rate"])
        products = statistics.median(rates.pop("products"))
        ours = {int(key[2:]): rates.pop(key) for key in list(rates) if key.startswith("K=")}
        peer = max(rates, key=lambda key: statistics.median(rates[key]))
        best = max(ours, key=lambda rows: statistics.median(ours[rows]))
        study = chosen(SHAPES[shape])
        return cls(
            shape=shape,
            limit=products / shapes.multiply_adds(SHAPES[shape]),
            plain=Spread.of(rates[peer]),
            peer=peer,
            rates={rows: Spread.of(values) for rows, values in ours.items()},
            best=best,
            ratio=ratio(ours[best], rates[peer]),
            chosen=study,
            as_chosen=ratio(ours[study], rates[peer]),
            over_alone=ratio(ours[study], ours[ALONE]),
        )


def ratio(mine: Sequence[float], other: Sequence[float]) -> Spread:
    """Round by round."""
    return Spread.of([one / two for one, two in zip(mine, other, strict=True)])


def notes(results: Sequence[Result]) -> list[str]:
    """What falls short, in words."""
    found = []
    for one in results:
        shape = SHAPES[one.shape]
        if shape.must is not None and one.ratio.median < shape.must:
            found.append(f"{shape.label}: {one.ratio.text('.2f')} times the plain loop, short of {shape.must:g}.")
        if one.over_alone.median < 1:
            found.append(
                f"{shape.label}: a study trains it {one.chosen} together at {one.over_alone.text('.2f')} times the"
                " speed of training it alone; the cost model should leave it alone."
            )
    return found


def rows(results: Sequence[Result], sizes: Sequence[int]) -> list[list[str]]:
    """The table's body."""
    body = []
    for one in results:
        must = SHAPES[one.shape].must
        body.append(
            [
                SHAPES[one.shape].label,
                f"{one.limit:,.0f}",
                f"{one.plain.text()} {one.peer}",
                *(f"{one.rates[size].median:,.0f}" for size in sizes),
                f"{one.ratio.text('.2f')} at K={one.best}",
                f"{one.as_chosen.text('.2f')} at K={one.chosen}",
                "" if must is None else f"{must:g}",
            ]
        )
    return body


def head(sizes: Sequence[int]) -> list[str]:
    alone = [f"K={size}" if size > ALONE else "alone" for size in sizes]
    return ["shape", "products alone", "plain", *alone, "best ratio", "a study's ratio", "must"]


# --- the script -----------------------------------------------------------------------------------


def report(given: argparse.Namespace, records: Records) -> tuple[str, dict[str, Any]]:
    """The text to print, and what goes into the JSON."""
    results = [Result.of(shape, [one for one in records if one["shape"] == shape]) for shape in given.shapes]
    machine = harness.machine(PACKAGES)
    sizes = sorted({ALONE, *given.rows})
    text = [
        f"Trial-steps a second on {given.cores} cores, rounds: {given.rounds}; medians (lowest–highest).",
        harness.introduction(machine),
        "",
        harness.table(head(sizes), rows(results, sizes)),
        *notes(results),
        harness.warning([one["busy"] for one in records]),
    ]
    return "\n".join(text), {
        "work": {"rounds": given.rounds, "seconds": given.seconds, "rows": sizes},
        "machine": machine,
        "summary": {one.shape: asdict(one) for one in results},
        "runs": list(records),
    }


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer shapes, rows and rounds: for `make bench`")
    parser.add_argument("--families", nargs="+", choices=sorted({one.family for one in SHAPES.values()}))
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, metavar="SHAPE", help=", ".join(SHAPES))
    parser.add_argument("--rows", nargs="+", type=int, metavar="K", help="trials of a cohort")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of one race, or one epoch where that is longer")
    parser.add_argument("--cores", type=int, default=harness.cores())
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "steps.json")
    given = parser.parse_args(words)
    for name, value in (QUICK if given.quick else FULL).items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    named = given.shapes or [name for name, shape in SHAPES.items() if shape.quick or not given.quick]
    given.shapes = [name for name in named if not given.families or SHAPES[name].family in given.families]
    return given


def main() -> int:
    return harness.compare(arguments(), measure, report)


if __name__ == "__main__":
    sys.exit(main())
