"""A person's own function as a trial: 200 trials of ten reports that do nothing, from the command to its end.

Tuner, with a process of its own for every trial and every report on the disk before it counts, beside Optuna's own loop
with a forked process for every trial, in memory, and Ray Tune, whose actors are used again. Whole processes, imports
and all, in turns. Every contender's number of trials is checked.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import harness

from tuner.events import Asked, Finished, Reported, Started
from tuner.ledger import Ledger, study_folder

TUNER, OPTUNA, RAY = "tuner", "optuna", "ray"
LABELS = {TUNER: "Tuner", OPTUNA: "Optuna, a process a trial", RAY: "Ray Tune, reuse_actors"}
PEER = Path(__file__).parent / "peers" / "functions.py"
PROGRAM = str(Path(sys.executable).parent / "tuner")
FUNCTION = """
import math

def train(trial):
    for epoch in range(1, trial.epochs + 1):
        trial.report({"loss": abs(math.log10(trial.params["rate"]) + 2) + 1 / epoch})
"""
STUDY = {
    "study": "nothing",
    "trial": {"function": "train.py:train", "epochs": 10},
    "search": {
        "space": {"rate": {"type": "float", "low": 0.0001, "high": 1.0, "log": True}},
        "objective": {"metric": "loss", "goal": "minimize"},
    },
    "run": {"workers": 2},
    "tracking": {"mlflow": "off"},
}


def measure(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All rounds; one record for each process."""
    with tempfile.TemporaryDirectory(prefix="tuner-functions-") as place:
        for number, who in harness.turns(given.who, given.repeats):
            folder = Path(place) / f"{number}-{who}"
            (folder / "ray").mkdir(parents=True)
            busy = harness.others()
            command = [sys.executable, str(PEER), who, str(given.trials)]
            if who == TUNER:
                (folder / "train.py").write_text(FUNCTION)
                (folder / "study.yaml").write_text(json.dumps(STUDY))
                command = [PROGRAM, "launch", "study.yaml", "--home", "home", "--set", f"search.trials={given.trials}"]
            surroundings = harness.environment(RAY_TMPDIR=str(folder / "ray"))
            took = harness.seconds(command, folder, surroundings, given.limit)
            told = loop(folder, given.trials) if who == TUNER else json.loads((folder / "loop.json").read_text())
            if len(told["first"]) != given.trials:
                raise harness.RunFailed(f"{who}: {len(told['first'])} of {given.trials} trials reported")
            later = sorted(told["first"][2:])  # the first two wait for imports
            first = {"first": later[len(later) // 2], "first_cold": told["first"][0]}
            yield {"who": who, "round": number, "busy": busy, "seconds": took, "loop": told["loop"], **first}
            print(f"round {number}: {who} is done", file=sys.stderr)


def loop(folder: Path, trials: int) -> dict[str, Any]:
    """Seconds of the search without imports, and from each trial's start to its first report; all must be there."""
    with Ledger.open(study_folder(folder / "home", "nothing"), read_only=True) as ledger:
        events = list(ledger.read())
        history = ledger.history()
    if history.ended != trials or sum(isinstance(event, Reported) for event in events) != 10 * trials:
        raise harness.RunFailed(f"{history.ended} of {trials} trials ended")
    asked = [event.time for event in events if isinstance(event, Asked)]
    last = max(event.time for event in events if isinstance(event, Finished))
    begun = {trial: event.time for event in events if isinstance(event, Started) for trial in event.trials}
    first = [event.time - begun[event.trial] for event in events if isinstance(event, Reported) and event.epoch == 1]
    return {"loop": last - asked[0], "first": first}


def report(given: argparse.Namespace, records: Sequence[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """The text to print, and what goes into the JSON."""
    runs = {(one["who"], one["round"]): one for one in records}
    rounds = sorted({number for _, number in runs})
    rows, summary = [], {}
    for who in given.who:
        mine = [runs[who, number] for number in rounds]
        whole, first = (harness.Spread.of([one[name] for one in mine]) for name in ("seconds", "first"))
        trial = harness.Spread.of([1000 * one["loop"] / given.trials for one in mine])
        summary[who] = {"seconds": whole.median, "trial_ms": trial.median, "first_ms": 1000 * first.median}
        columns = [whole.text(".2f"), trial.text(".1f"), f"{1000 * first.median:.1f}"]
        if TUNER in given.who:
            ours = [runs[TUNER, number] for number in rounds]
            for name in ("seconds", "loop"):
                ratio = harness.Spread.of([one[name] / own[name] for one, own in zip(mine, ours, strict=True)])
                summary[who][f"{name}_ratio"] = ratio.median
                columns.append(ratio.text(".2f"))
        rows.append([LABELS[who], *columns])
    head = ["who", "whole process, s", "search, ms a trial", "first report, ms", "times Tuner's: process", "search"]
    text = [
        f"{given.trials} trials of 10 reports, rounds: {given.repeats}; medians (lowest–highest)",
        harness.introduction(harness.machine(("cohort-tuner", "optuna", "ray"))),
        "",
        harness.table(head if TUNER in given.who else head[:4], rows),
        "",
        "Search: from the first trial asked to the end of the last one. First report: from a trial's start.",
    ]
    if warning := harness.warning([one["busy"] for one in records]):
        text.append(warning)
    return "\n".join(text), {"summary": summary, "runs": list(records)}


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--who", nargs="*", default=list(LABELS), choices=list(LABELS))
    parser.add_argument("--limit", type=float, default=600, help="seconds that one process may take")
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "functions.json", help="the JSON file")
    return parser.parse_args(words)


def main() -> int:
    return harness.compare(arguments(), measure, report)


if __name__ == "__main__":
    sys.exit(main())
