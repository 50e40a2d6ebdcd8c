"""What a launch costs beside its training: from the command to the first step, and from the last trial to the prompt.

The work of `study.py`, small: whole processes, imports and all, Tuner and each peer in turns. Moments are noted where
they happen: Tuner's stand in its ledger, the peers append theirs to a file. Beside them, in the same rounds, what no
launch can do without (`import torch`), what everybody types first (`tuner --help`), and an answer to a TAB.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import harness
import study
from harness import RunFailed, Spread

from tuner.events import Finished, Reported, Started
from tuner.ledger import Ledger, study_folder

TORCH, HELP, TAB = "torch", "help", "tab"
PROGRAM = str(Path(sys.executable).parent / "tuner")
PRESSED = ("tuner", "launch", "s.yaml", "--set", "train.lea")
PLAIN = {
    TORCH: [sys.executable, "-c", "import torch"],
    HELP: [PROGRAM, "--help"],
    TAB: ["env", "_TUNER_COMPLETE=complete_bash", "COMP_WORDS=" + "\n".join(PRESSED), "COMP_CWORD=4", PROGRAM],
}
LABELS = {TORCH: "import torch", HELP: "tuner --help", TAB: "tuner, TAB"}
MOMENTS = ("step", "report", "trial")
PARTS = ("first step", "first report", "last trial to exit", "whole process")
HEAD = ("who", *(f"{part}, s" for part in PARTS))

# What `--help` or a TAB may take, as a share of torch's import in the same rounds.
ANSWER_MUST = 0.2
# Seconds: the first step beyond torch's import.
STEP_MUST, STEP_AIM = 1.5, 0.5


@dataclass(frozen=True)
class Launch:
    """One launch, in seconds: until the first step and the first reported epoch, from the last trial's end on."""

    step: float
    report: float
    end: float
    whole: float

    @classmethod
    def of(cls, began: float, took: float, moments: Mapping[str, Sequence[float]]) -> Launch:
        """`began` and `moments` in seconds since 1970. Raises RunFailed where one was never noted."""
        if missing := [name for name in MOMENTS if not moments.get(name)]:
            raise RunFailed(f"a launch has noted no moment of: {', '.join(missing)}")
        first, last = min(moments["step"]) - began, max(moments["trial"]) - began
        return cls(first, min(moments["report"]) - began, took - last, took)


def ours(folder: Path) -> dict[str, list[float]]:
    """A trial is started when its worker has it and is about to train."""
    names = {Started: "step", Reported: "report", Finished: "trial"}
    moments: dict[str, list[float]] = {}
    with Ledger.open(study_folder(folder / "home", "digits"), read_only=True) as ledger:
        for event in ledger.read():
            if type(event) in names:
                moments.setdefault(names[type(event)], []).append(event.time)
    return moments


def theirs(folder: Path) -> dict[str, list[float]]:
    moments: dict[str, list[float]] = {}
    for line in (folder / "moments.txt").read_text().splitlines():
        name, _, at = line.partition(" ")
        moments.setdefault(name, []).append(float(at))
    return moments


def measure(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All rounds; one record for each process."""
    names = [*PLAIN, study.TUNER, *given.peers]
    with tempfile.TemporaryDirectory(prefix="tb-") as place:
        for number, name in harness.turns(names, given.repeats + 1):
            folder = Path(place) / f"{number}-{name}"
            (folder / "ray").mkdir(parents=True)
            private = {"RAY_TMPDIR": str(folder / "ray"), "MOMENTS": str(folder / "moments.txt")}
            command = PLAIN[name] if name in PLAIN else study.CONTENDERS[name].command(folder, given.seed, given)
            busy, began = harness.others(), time.time()
            took = harness.seconds(command, folder, harness.environment(**private), given.limit)
            if number == 0:
                continue  # files of libraries are in memory from then on
            record = {"who": name, "round": number, "busy": busy, "whole": took}
            if name not in PLAIN:
                moments = (ours if name == study.TUNER else theirs)(folder)
                record |= asdict(Launch.of(began, took, moments))
            yield record
            print(f"round {number} of {given.repeats}: {name} is done", file=sys.stderr)


def report(given: argparse.Namespace, records: Sequence[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """The text to print, and what goes into the JSON."""

    def spread(name: str, part: str) -> Spread:
        return Spread.of([one[part] for one in records if one["who"] == name])

    labels = {**LABELS, **{name: one.label.format(workers=given.workers) for name, one in study.CONTENDERS.items()}}
    rows, summary = [], {}
    for name in (*PLAIN, study.TUNER, *given.peers):
        parts = ("whole",) if name in PLAIN else ("step", "report", "end", "whole")
        summary[name] = {part: spread(name, part) for part in parts}
        cells = [summary[name][part].text(".2f") if part in summary[name] else "" for part in Launch.__annotations__]
        rows.append([labels[name], *cells])
    beyond = summary[study.TUNER]["step"].median - summary[TORCH]["whole"].median
    machine = harness.machine(study.PACKAGES)
    text = [
        f"{given.trials} trials of {given.epochs} epochs, rounds: {given.repeats}; medians (lowest–highest)",
        harness.introduction(machine),
        "",
        harness.table(HEAD, rows),
        "",
        f"First step: {beyond:+.2f} s beside torch's import alone (must {STEP_MUST:+.1f}, aim {STEP_AIM:+.1f}).",
    ]
    for name in (HELP, TAB):
        share = summary[name]["whole"].median / summary[TORCH]["whole"].median
        short = "" if share <= ANSWER_MUST else ", falls short"
        text.append(f"{LABELS[name]}: {share:.2f} times torch's import (must {ANSWER_MUST:g}){short}.")
    if warning := harness.warning([one["busy"] for one in records]):
        text.append(warning)
    work = {"trials": given.trials, "epochs": given.epochs, "rounds": given.repeats, "workers": given.workers}
    numbers = {name: {part: asdict(one) for part, one in parts.items()} for name, parts in summary.items()}
    body = {"work": work, "machine": machine, "beyond_torch": beyond, "summary": numbers, "runs": list(records)}
    return "\n".join(text), body


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.set_defaults(asha=False)  # the reference study's trials are all trained to their end
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="rounds, after one that warms up")
    parser.add_argument("--workers", type=int, default=2, help="processes that train, of Tuner and of each peer")
    parser.add_argument("--peers", nargs="*", default=["optuna", "ray"], choices=list(study.CONTENDERS)[1:])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=float, default=300, help="seconds that one process may take")
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "startup.json", help="the JSON file")
    return parser.parse_args(words)


def main() -> int:
    return harness.compare(arguments(), measure, report)


if __name__ == "__main__":
    sys.exit(main())
