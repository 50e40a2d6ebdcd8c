"""What a trial costs beside its training: trials that do nothing, with ten reports each, asked, observed, told, stored.

Tuner's study loop with all its parts but the training (`idle.py`) beside Optuna, rustuna, Ray Tune and plain Ray actors
(`peers/nothing.py`), each in a process of its own, in turns. Start-up and imports are not counted. Tuner's time holds
what the peers in memory do not do: every report is on the disk before anybody hears of it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import harness
from harness import Spread

HERE = Path(__file__).parent
PACKAGES = ("cohort-tuner", "optuna", "ray", "sqlalchemy", "numpy")
PARTS = ("ask", "observe", "tell", "ledger", "commit", "group", "progress")  # of Tuner's time; what is left is `rest`
REPORTING = ("observe", "ledger", "commit", "progress")  # what reports cost, and ends with them


@dataclass(frozen=True)
class Contender:
    """`words` are its command line; `most` trials are few enough for it to come to an end."""

    label: str
    words: tuple[str, ...]
    most: int = 1_000_000
    needs: str = "tuner"


def tuner(*words: str) -> tuple[str, ...]:
    return (str(HERE / "idle.py"), *words)


def peer(*words: str) -> tuple[str, ...]:
    return (str(HERE / "peers" / "nothing.py"), *words)


CONTENDERS = {
    "tuner-random": Contender("Tuner, random", tuner("--sampler", "random")),
    "tuner-tpe": Contender("Tuner, TPE", tuner("--sampler", "tpe")),
    "tuner-asha": Contender("Tuner, TPE and ASHA", tuner("--sampler", "tpe", "--pruner", "asha")),
    "optuna-random": Contender("Optuna, random, memory", peer("optuna"), needs="optuna"),
    "optuna-tpe": Contender("Optuna, TPE, memory", peer("optuna", "--sampler", "tpe"), 10_000, needs="optuna"),
    "optuna-sqlite": Contender("Optuna, TPE, SQLite", peer("optuna", "--sampler", "tpe", "--storage", "sqlite"), 100,
                               needs="optuna"),
    "rustuna-random": Contender("rustuna, random (no reports)", peer("rustuna"), needs="rustuna"),
    "rustuna-tpe": Contender("rustuna, TPE (no reports)", peer("rustuna", "--sampler", "tpe"), needs="rustuna"),
    "ray-actors": Contender("Ray actors, random, nothing stored", peer("ray-actors"), 10_000, needs="ray"),
    "ray-tune": Contender("Ray Tune, OptunaSearch", peer("ray-tune", "--sampler", "tpe"), 100, needs="ray"),
}  # fmt: skip


# --- running --------------------------------------------------------------------------------------


def takes_part(name: str, trials: int) -> str:
    """Why a contender does not run with so many trials; nothing where it does."""
    contender = CONTENDERS[name]
    if find_spec(contender.needs) is None:
        return f"{contender.label}: skipped, {contender.needs} is not installed"
    if trials > contender.most:
        return f"{contender.label}: skipped with more than {contender.most:,} trials, it takes too long"
    return ""


def measure(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All rounds; one record for each run."""
    for trials in given.trials:
        names = [name for name in given.who if not takes_part(name, trials)]
        for number, name in harness.turns(names, given.repeats):
            with tempfile.TemporaryDirectory(prefix="tb-") as place:  # short: Ray's sockets have 107 characters
                folder = Path(place)
                (folder / "ray").mkdir()  # a cluster of its own, that leaves nothing behind
                work = ["--trials", str(trials), "--epochs", str(given.epochs), "--out", str(folder / "told.json")]
                command = [sys.executable, *CONTENDERS[name].words, *work]
                busy = harness.others()
                surroundings = harness.environment(RAY_TMPDIR=str(folder / "ray"))
                harness.seconds(command, folder, surroundings, given.limit)
                told = json.loads((folder / "told.json").read_text())
            if told["trials"] != trials:
                raise harness.RunFailed(f"{name} ended {told['trials']} trials, not {trials}")
            yield {"who": name, "round": number, "busy": busy, **told}
            print(f"{trials:,} trials, round {number + 1} of {given.repeats}: {name} is done", file=sys.stderr)


# --- what is shown --------------------------------------------------------------------------------


def per_trial(runs: Sequence[dict[str, Any]], *parts: str) -> Spread:
    """Milliseconds per trial that these parts took."""
    return Spread.of([sum(run["seconds"][part] for part in parts) / run["trials"] * 1e3 for run in runs])


def per_report(runs: Sequence[dict[str, Any]]) -> Spread:
    """Microseconds per report, the ends of trials counted with them."""
    return Spread.of([sum(run["seconds"][part] for part in REPORTING) / run["reports"] * 1e6 for run in runs])


def rows(records: Sequence[dict[str, Any]], trials: int) -> list[list[str]]:
    """A line for each contender with so many trials."""
    body = []
    for name, contender in CONTENDERS.items():
        runs = [one for one in records if (one["who"], one["trials"]) == (name, trials)]
        if not runs:
            continue
        ours = "ask" in runs[0]["seconds"]
        parts = [per_trial(runs, part).text(".3f") if ours else "" for part in (*PARTS, "rest")]
        report = per_report(runs).text(".0f") if ours else ""
        body.append([contender.label, f"{trials:,}", per_trial(runs, "total").text(".2f"), report, *parts])
    return body


def report(given: argparse.Namespace, records: Sequence[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """The text to print, and what goes into the JSON."""
    installed = [name for name in PACKAGES if name == "cohort-tuner" or find_spec(name) is not None]
    machine = harness.machine(installed)
    head = ("who", "trials", "ms a trial", "µs a report", *(f"{part}, ms" for part in (*PARTS, "rest")))
    body = [row for trials in given.trials for row in rows(records, trials)]
    skipped = [why for trials in given.trials for name in given.who if (why := takes_part(name, trials))]
    what = f"{given.epochs} reports a trial, rounds: {given.repeats}; medians (lowest–highest)"
    notes = [
        "µs a report: observe, ledger, commit and progress, the ends of trials among them, over all reports.",
        *dict.fromkeys(skipped),
        harness.warning([one["busy"] for one in records]),
    ]
    text = [f"{what}.", harness.introduction(machine), "", harness.table(head, body), *(note for note in notes if note)]
    work = {"trials": given.trials, "epochs": given.epochs, "rounds": given.repeats}
    return "\n".join(text), {"work": work, "machine": machine, "skipped": skipped, "runs": list(records)}


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1_000])
    parser.add_argument("--epochs", type=int, default=10, help="reports of each trial")
    parser.add_argument("--repeats", type=int, default=5, help="rounds: everybody once in each")
    parser.add_argument("--who", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--limit", type=float, default=3_600, help="seconds that one run may take")
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "overhead.json")
    return parser.parse_args(words)


def main() -> int:
    return harness.compare(arguments(), measure, report)


if __name__ == "__main__":
    sys.exit(main())
