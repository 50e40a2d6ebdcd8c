"""What each start-up trick of `tuner/startup.py` saves: one small study, cold, with each of them off in turn.

Whole processes, imports and MLflow in the home included, all in the same rounds. What a trick saves is the median over
the rounds of the time without it less the time with all of them in the same round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import harness

from tuner.startup import SWITCH, TRICKS

ON, OFF = "all on", "all off"
PROGRAM = str(Path(sys.executable).parent / "tuner")
STUDY = {
    "study": "small",
    "data": {"source": "breast_cancer"},
    "model": {"family": "mlp"},
    "train": {"epochs": 3},
    "search": {
        "space": {"learning_rate": {"type": "float", "low": 0.001, "high": 0.1, "log": True}},
        "objective": {"metric": "val/loss", "goal": "minimize"},
        "trials": 8,
    },
}


def measure(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All rounds; one record for each process."""
    ways = {ON: "", OFF: "1", **{trick: trick for trick in TRICKS}}
    with tempfile.TemporaryDirectory(prefix="tuner-tricks-") as place:
        for number, way in harness.turns(list(ways), given.repeats + 1):
            folder = Path(place) / f"{number}-{way.replace(' ', '-')}"
            folder.mkdir()
            (folder / "study.yaml").write_text(json.dumps(STUDY))
            busy = harness.others()
            surroundings = harness.environment(**{SWITCH: ways[way]})
            command = [PROGRAM, "launch", "study.yaml", "--home", "home"]
            took = harness.seconds(command, folder, surroundings, given.limit)
            if number:  # in the first round files of libraries come into memory
                yield {"who": way, "round": number, "busy": busy, "seconds": took}
                print(f"round {number} of {given.repeats}: {way} is done", file=sys.stderr)


def report(given: argparse.Namespace, records: Sequence[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """The text to print, and what goes into the JSON."""
    took = {(record["who"], record["round"]): record["seconds"] for record in records}
    rounds = sorted({number for _, number in took})
    rows, saved = [], {}
    for way in (ON, OFF, *TRICKS):
        whole = harness.Spread.of([took[way, number] for number in rounds])
        saved[way] = statistics.median(took[way, number] - took[ON, number] for number in rounds)
        rows.append([way, whole.text(".2f"), f"{saved[way]:+.2f}" if way != ON else "", TRICKS.get(way, "")])
    text = [
        f"one study of 8 trials, rounds: {given.repeats}; medians (lowest–highest)",
        harness.introduction(harness.machine(["torch", "mlflow"])),
        "",
        harness.table(("without", "whole process, s", "costs, s", "what it does"), rows),
    ]
    if warning := harness.warning([record["busy"] for record in records]):
        text.append(warning)
    return "\n".join(text), {"saved": saved, "runs": list(records)}


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="rounds, after one that warms up")
    parser.add_argument("--limit", type=float, default=300, help="seconds that one process may take")
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "tricks.json", help="the JSON file")
    return parser.parse_args(words)


def main() -> int:
    return harness.compare(arguments(), measure, report)


if __name__ == "__main__":
    sys.exit(main())
