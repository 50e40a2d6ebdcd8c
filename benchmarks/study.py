"""A whole study, from a cold start until every point is readable in MLflow: Tuner against those who train one by one.

The work: N trials of a multilayer perceptron on scikit-learn's digits, six hyperparameters, TPE, three metrics an epoch
in MLflow on SQLite. Tuner and each peer run in turns, as processes of their own; what they did is then read back from
MLflow, by its own client and from nowhere else, and compared before any time is shown.

With `--asha` trials are stopped early, by each one's own asynchronous successive halving at the same rungs. How many
epochs N trials then take is chance, so that the peers go on with further trials until they have trained as many epochs
as Tuner did in that round, and stop on the spot: the same work, whatever it was spent on.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import harness
from harness import Spread
from mlflow import MlflowClient
from mlflow.entities import Run
from reference import SPACE

METRICS = ("train/loss", "val/loss", "val/accuracy")
OBJECTIVE = "val/accuracy"
STRUCTURE = ("depth", "width", "batch_size")
TRAINING_ROWS = 1_079  # of 1,797 digits, 20 % put aside to validate on and 20 % to test on

# What "equal in kind" means: ours beside a peer's, medians over all rounds.
EPOCHS = 0.05  # of the epochs that a peer may have trained more or less: what is under way when the last one ends
STEPS = 0.2  # trial-steps may differ by so much, to either side
STRUCTURES = 0.8  # structures explored, at least so many of the peer's
SCORE = 0.01  # of accuracy that the best may be behind, or as much as seeds alone change it
FEWEST = 32  # trials; with fewer, chance alone moves trial-steps and structures further than that
PATIENCE = 3  # times the rounds asked for are run at most, while chance keeps the work of the two apart

MIN_EPOCHS, REDUCTION = 2, 3  # ASHA's rungs after 2, 6 and 18 epochs; a third goes on

PEERS = Path(__file__).parent / "peers"
PACKAGES = ("cohort-tuner", "torch", "optuna", "mlflow", "ray")
HEAD = ("who", "seconds", "Tuner is faster", "trials", "epochs", "trial-steps", "structures", f"best {OBJECTIVE}")


class NotTheWork(RuntimeError):
    """A contender has not done all of the work."""


# --- who takes part -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contender:
    """`command` makes the command line for (folder, seed, what was asked); `store` is its MLflow, in that folder."""

    label: str
    command: Callable[[Path, int, argparse.Namespace], list[str]]
    store: str = "mlflow.db"
    imports: str = "torch, optuna, mlflow"


def ours(folder: Path, seed: int, given: argparse.Namespace) -> list[str]:
    spec: dict[str, Any] = {
        "study": "digits",
        "seed": seed,
        "data": {"source": "digits", "validation": 0.2, "test": 0.2},
        "model": {"family": "mlp", "activation": "relu"},
        "train": {"epochs": given.epochs},
        "search": {
            "space": SPACE,
            "objective": {"metric": OBJECTIVE, "goal": "maximize"},
            "sampler": {"kind": "tpe"},
            "trials": given.trials,
        },
        "run": {"device": "cpu"},
        "tracking": {"mlflow": "embedded"},
    }
    if given.asha:
        spec["search"]["pruner"] = {"kind": "asha", "min_epochs": MIN_EPOCHS, "reduction": REDUCTION}
    (folder / "study.yaml").write_text(json.dumps(spec, indent=2))  # JSON is YAML
    tuner = Path(sys.executable).parent / "tuner"
    return [str(tuner), "launch", "study.yaml", "--home", "home", "--workers", str(given.workers)]


def work(seed: int, given: argparse.Namespace) -> list[str]:
    """What every peer is asked to do."""
    asked = ["--trials", str(given.trials), "--epochs", str(given.epochs), "--seed", str(seed)]
    if given.asha:
        asked += ["--budget", str(given.budget), "--rungs", str(MIN_EPOCHS), str(REDUCTION)]
    return asked


def optuna(storage: str, *more: str) -> Callable[[Path, int, argparse.Namespace], list[str]]:
    def command(_folder: Path, seed: int, given: argparse.Namespace) -> list[str]:
        how = ["--storage", storage, "--processes", str(given.workers)]
        return [sys.executable, str(PEERS / "optuna_loop.py"), *work(seed, given), *how, *more]

    return command


def ray_tune(_folder: Path, seed: int, given: argparse.Namespace) -> list[str]:
    return [sys.executable, str(PEERS / "ray_tune.py"), *work(seed, given), "--workers", str(given.workers)]


TUNER = "tuner"
CONTENDERS = {
    TUNER: Contender("Tuner, {workers} workers", ours, "home/mlflow/mlflow.db"),
    "optuna": Contender("Optuna, {workers} processes, SQLite", optuna("sqlite")),
    "optuna-fused": Contender("Optuna, {workers} processes, fused updates", optuna("sqlite", "--fused")),
    "optuna-journal": Contender("Optuna, {workers} processes, journal", optuna("journal")),
    "optuna-memory": Contender("Optuna, 1 process, memory", optuna("memory")),
    "ray": Contender("Ray Tune, OptunaSearch, {workers} workers", ray_tune, imports="torch, optuna, mlflow, ray.tune"),
}


# --- what was done, as MLflow has it --------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """One run of one contender, summed over its trials. `steps` are updates of one network."""

    trials: int
    epochs: int
    steps: int
    structures: int
    best: float


def read(uri: str, epochs: int, *, early: bool = False) -> Done:
    """What a contender did. Raises NotTheWork where a trial is not closed, or a point of it is missing.

    `early`: trials may end before their last epoch, and one that was never begun is none.
    """
    client = MlflowClient(uri)
    trials, total, steps, best = 0, 0, 0, 0.0
    structures: set[tuple[str, ...]] = set()
    for run in _trials(client):
        params, name = run.data.params, run.info.run_name
        if run.info.status not in ("FINISHED", *(["KILLED"] if early else [])):
            raise NotTheWork(f"trial {name} is {run.info.status} in MLflow, not FINISHED")
        points = {metric: client.get_metric_history(run.info.run_id, metric) for metric in METRICS}
        length = len(points[OBJECTIVE]) if early else epochs
        for metric, history in points.items():
            if sorted(point.step for point in history) != list(range(1, length + 1)) or length > epochs:
                raise NotTheWork(f"trial {name} has {len(history)} points of {metric} in MLflow, not {length}")
        if not length:
            continue
        best = max(best, *(point.value for point in points[OBJECTIVE]))
        trials, total = trials + 1, total + length
        steps += length * -(-TRAINING_ROWS // int(params["batch_size"]))
        structures.add(tuple(params[part] for part in STRUCTURE))
    return Done(trials, total, steps, len(structures), best)


def _trials(client: MlflowClient) -> Iterator[Run]:
    """Every run that is a trial's: Tuner's parent run has no hyperparameters."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    token = None
    while True:
        page = client.search_runs(experiments, page_token=token)
        yield from (run for run in page if "batch_size" in run.data.params)
        token = page.token
        if not token:
            return


# --- the comparison -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """One contender, all rounds."""

    label: str
    seconds: Spread
    trials: Spread
    epochs: Spread
    steps: Spread
    structures: Spread
    best: Spread

    @classmethod
    def of(cls, label: str, runs: Sequence[tuple[float, Done]]) -> Result:
        done = [run for _, run in runs]
        columns = [[getattr(one, field.name) for one in done] for field in fields(Done)]
        return cls(label, Spread.of([took for took, _ in runs]), *map(Spread.of, columns))


def differences(mine: Result, peer: Result) -> list[str]:
    """Why the times of the two may not be compared; nothing where they did work of one kind."""
    if peer.trials.low < FEWEST:
        return [f"fewer than {FEWEST} trials are too few to compare"]
    found = []
    ratio = mine.epochs.median / peer.epochs.median
    if abs(ratio - 1) > EPOCHS:
        found.append(f"Tuner trained {ratio:.2f} times its epochs, outside of {1 - EPOCHS:g}–{1 + EPOCHS:g}")
    ratio = mine.steps.median / peer.steps.median
    if abs(ratio - 1) > STEPS:
        found.append(f"Tuner made {ratio:.2f} times its trial-steps, outside of {1 - STEPS:g}–{1 + STEPS:g}")
    ratio = mine.structures.median / peer.structures.median
    if ratio < STRUCTURES:
        found.append(f"Tuner explored {ratio:.2f} times its structures, less than {STRUCTURES:g}")
    room = max(SCORE, *(spread.high - spread.low for spread in (mine.best, peer.best)))
    behind = peer.best.median - mine.best.median
    if behind > room:
        found.append(f"Tuner's best {OBJECTIVE} is {behind:.4f} behind, more than {room:.4f}")
    return found


def rows(mine: Result, peers: Sequence[Result]) -> list[list[str]]:
    """The table's body: Tuner, then each peer with Tuner's share of its figures. No times where they do not compare."""
    compared = [peer for peer in peers if not differences(mine, peer)]
    body = [[mine.label, mine.seconds.text(".1f") if compared else "–", "", *_figures(mine)]]
    for peer in peers:
        equal = peer in compared
        faster = f"{peer.seconds.median / mine.seconds.median:.1f}×" if equal else "–"
        body.append([peer.label, peer.seconds.text(".1f") if equal else "–", faster, *_figures(peer, mine)])
    return body


def _figures(one: Result, mine: Result | None = None) -> list[str]:
    """All of `Done`; beside a peer's trial-steps, structures and score, in brackets, Tuner's as a multiple of it."""
    texts = []
    for field in fields(Done):
        spread: Spread = getattr(one, field.name)
        text = spread.text(".4f" if field.name == "best" else ",.0f")
        if mine is not None and field.name in ("steps", "structures", "best"):
            text += f" [×{getattr(mine, field.name).median / spread.median:.2f}]"
        texts.append(text)
    return texts


# --- the script -----------------------------------------------------------------------------------


def measure(given: argparse.Namespace) -> None:
    """All rounds; one record for each run, in `given.records`."""
    given.records = []
    names = [TUNER, *given.peers]
    with tempfile.TemporaryDirectory(prefix="tb-") as place:  # short: Ray's sockets have 107 characters for their path
        for name in names:  # files of libraries are in memory before the first clock starts
            warm = _folder(Path(place), f"warm-{name}")
            command = [sys.executable, "-c", f"import {CONTENDERS[name].imports}"]
            harness.seconds(command, warm, harness.environment(), given.limit)
        for number, name in _turns(names, given):
            contender, folder = CONTENDERS[name], _folder(Path(place), f"{number}-{name}")
            (folder / "ray").mkdir()  # a cluster of its own, that leaves nothing behind
            private = {"RAY_TMPDIR": str(folder / "ray"), "RAY_AUTH_TOKEN": secrets.token_hex(32)}
            seed = given.seed + number
            command, busy = contender.command(folder, seed, given), harness.others()
            took = harness.seconds(command, folder, harness.environment(**private), given.limit)
            done = read(f"sqlite:///{folder / contender.store}", given.epochs, early=given.asha)
            if name == TUNER:
                given.budget = done.epochs  # of the peers, in this round
            check(name, done, given)
            given.records.append(
                {"who": name, "round": number, "seed": seed, "seconds": took, "busy": busy, **asdict(done)}
            )
            print(f"round {number + 1} of {given.repeats}: {name} is done", file=sys.stderr)


def _turns(names: Sequence[str], given: argparse.Namespace) -> Iterator[tuple[int, str]]:
    """Who runs when. Trial-steps vary by a factor of two with the batch sizes that a study comes to like.

    So rounds are added, whatever time they take, while the medians of work differ.
    """
    number, asked = 0, given.repeats
    while number < given.repeats:
        yield from ((number, name) for name in names)
        number += 1
        enough = given.trials < FEWEST or number == PATIENCE * asked
        if number == given.repeats and not enough and any(map(bool, _differ(given).values())):
            given.repeats += 1


def _results(given: argparse.Namespace) -> dict[str, Result]:
    """All that was done until now, by name."""
    results = {}
    for name in (TUNER, *given.peers):
        runs = [
            (one["seconds"], Done(**{field.name: one[field.name] for field in fields(Done)}))
            for one in given.records
            if one["who"] == name
        ]
        results[name] = Result.of(CONTENDERS[name].label.format(workers=given.workers), runs)
    return results


def _differ(given: argparse.Namespace) -> dict[str, list[str]]:
    """Why the times of each peer may not be compared with ours."""
    results = _results(given)
    return {name: differences(results[TUNER], results[name]) for name in given.peers}


def check(name: str, done: Done, given: argparse.Namespace) -> None:
    """Raises NotTheWork where there are not as many trials as were asked for; a budget of epochs asks for none."""
    if given.asha and name != TUNER:
        return
    spare = 0 if name == TUNER else given.workers - 1  # Optuna's processes may begin the last trial at once
    if not given.trials <= done.trials <= given.trials + spare:
        raise NotTheWork(f"{name} has {done.trials} trials in MLflow, not {given.trials}")


def _folder(place: Path, name: str) -> Path:
    folder = place / name
    folder.mkdir()
    return folder


def report(given: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The text to print, and what goes into the JSON."""
    results = _results(given)
    mine, peers = results[TUNER], [results[name] for name in given.peers]
    asked = {name: getattr(given, name) for name in ("trials", "epochs", "asha", "repeats", "workers")}
    machine = harness.machine(PACKAGES)
    notes = [f"No times beside {peer.label}: {why}." for peer in peers for why in differences(mine, peer)]
    notes.append(harness.warning([one["busy"] for one in given.records]))
    until = f"{given.epochs} epochs{' at most, ASHA' if given.asha else ''}"
    what = f"{given.trials} trials of {until}, rounds: {given.repeats}; medians (lowest–highest)"
    text = [
        f"{what}; [×] is Tuner's figure as a multiple of the peer's.",
        harness.introduction(machine),
        "",
        harness.table(HEAD, rows(mine, peers)),
        *(note for note in notes if note),
    ]
    summary = {name: asdict(result) for name, result in results.items()}
    return "\n".join(text), {
        "work": asked,
        "machine": machine,
        "differences": _differ(given),
        "summary": summary,
        "runs": given.records,
    }


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--asha", action="store_true", help="stop trials early; peers train as many epochs as Tuner")
    parser.add_argument(
        "--repeats",
        type=int,
        default=3,
        help="rounds, Tuner and each peer once in each; up to 3 times as many while their work differs by chance",
    )
    parser.add_argument("--workers", type=int, default=2, help="processes that train, of Tuner and of each peer")
    parser.add_argument("--peers", nargs="+", default=["optuna"], choices=[n for n in CONTENDERS if n != TUNER])
    parser.add_argument("--seed", type=int, default=1, help="of the first round; each round has its own")
    parser.add_argument("--limit", type=float, default=1_800, help="seconds that one run may take")
    parser.add_argument("--out", type=Path, help="the JSON file; results/study-TRIALS[-asha].json unless given")
    given = parser.parse_args(words)
    given.out = given.out or harness.RESULTS / f"study-{given.trials}{'-asha' if given.asha else ''}.json"
    return given


def main() -> int:
    given = arguments()
    try:
        measure(given)
    except (harness.RunFailed, NotTheWork) as error:
        print(f"no comparison: {error}", file=sys.stderr)
        return 1
    text, body = report(given)
    harness.save(given.out, body)
    print(text)
    return 1 if given.trials >= FEWEST and any(body["differences"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
