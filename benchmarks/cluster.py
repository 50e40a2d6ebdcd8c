"""What a trial costs on a Ray cluster beside its training: Tuner's Ray executor, Ray Tune, and actors that stay up.

All train nothing: a trial reports once and ends. Tuner's time is that of its whole study loop: trials asked and told,
the ledger on the disk, and every trial's weights through Ray into the study's folder; of what an actor does only the
training is missing. Each contender has a cluster of its own on this machine, in turns. Starting Ray and actors is not
counted.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
from harness import Spread

HERE = Path(__file__).parent
PACKAGES = ("cohort-tuner", "ray", "torch", "sqlalchemy")
MUST = {"tuner-16": 5.0}  # ms a trial, at most


@dataclass(frozen=True)
class Contender:
    """`trials` for each one of `--trials`: enough to take some seconds."""

    label: str
    words: tuple[str, ...]
    trials: int = 1
    cohort: int = 1


def tuner(cohort: int) -> Contender:
    return Contender(f"Tuner, cohorts of {cohort}", ("cluster.py", "--drive", str(cohort)), cohort, cohort)


CONTENDERS = {
    "tuner-16": tuner(16),
    "tuner-1": tuner(1),
    "ray-actors": Contender("Ray actors that stay up, random, nothing stored", ("peers/nothing.py", "ray-actors"), 4),
    "ray-tune": Contender("Ray Tune, random, reuse_actors, no loggers", ("peers/nothing.py", "ray-tune")),
}


# --- Tuner ----------------------------------------------------------------------------------------


def spec(trials: int, cohort: int, workers: int) -> Any:
    """A study of one structure, so that cohorts are as large as they may be."""
    from tuner.spec import StudySpec

    return StudySpec.from_json(
        {
            "study": "cluster",
            "seed": 1,
            "data": {"source": "digits", "validation": 0.2, "test": 0.2},
            "model": {"family": "mlp", "depth": 1, "width": 16},
            "train": {"epochs": 1},
            "search": {
                "space": {
                    "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
                    "dropout": {"type": "float", "low": 0.0, "high": 0.5},
                },
                "objective": {"metric": "val/accuracy", "goal": "maximize"},
                "sampler": {"kind": "random"},
                "pruner": {"kind": "none"},
                "trials": trials,
            },
            "run": {"device": "cpu", "executor": "ray", "workers": workers, "cohort": cohort},
            "tracking": {"mlflow": "off"},
        },
        HERE,
    )


def nothing(worker: Any, job: Any) -> None:
    """What `Worker.train` does where the training takes no time: the same words, the same files."""
    import torch
    from idle import life

    from tuner.executors.protocol import Ended

    weights = {"0.weight": torch.zeros(16, 64), "1.weight": torch.zeros(10, 16)}
    for message in life(job):
        if isinstance(message, Ended):
            worker.weights.save_weights(job.cohort, job.attempt, message.trial, {"weights": weights}, lambda _: None)
        worker.channel.send(message)


def drive(given: argparse.Namespace) -> None:
    """One study on a cluster of its own, in this process."""
    import idle
    import ray

    from tuner.executors import ray_cluster, worker
    from tuner.executors.protocol import Executor
    from tuner.study.session import StudySession
    from tuner.study.workers import setup_of

    class Idler(ray_cluster.TunerWorker):
        def _work(self, fetch: Callable[[], Any]) -> None:
            __import__("idle")  # what nobody imports who trains is no part of the first trial

            worker.Worker.train = nothing  # type: ignore[method-assign] # in the actor's process
            super()._work(fetch)

    executors: list[ray_cluster.RayExecutor] = []
    clock = idle.Clock()

    def begin(session: StudySession) -> Executor:
        needs, shared = ray_cluster.Needs(1.0), session.workload.shared_for_remote()
        executor = ray_cluster.RayExecutor(setup_of(session, "cpu"), given.workers, needs, shared, {})
        executors.append(executor)
        while not all(slot.ready for slot in executor._slots):
            executor.receive(0.1)
        executor.receive = clock.around("receive", executor.receive)  # type: ignore[method-assign]
        return executor

    ray_cluster._Actor = ray.remote(**ray_cluster._OPTIONS)(Idler)
    folder = given.out.parent / "studies" / "cluster"
    with ray_cluster.connected(None, given.workers):
        wanted = spec(given.trials, given.drive, given.workers)
        history, seconds = idle.drive(wanted, folder, workers=given.workers, begin=begin)
        executors[0].close()
    files = len(list((folder / "weights").glob("*.pt")))
    took = {"total": seconds["total"] + clock.seconds["receive"], "loop": seconds["total"]}
    told = {"seconds": took, "trials": min(history.ended, files), "cohorts": len(history.cohorts)}
    given.out.write_text(json.dumps(told))


# --- all in turns ---------------------------------------------------------------------------------


def measure(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All rounds; one record for each run."""
    for number, name in harness.turns(given.who, given.repeats):
        contender = CONTENDERS[name]
        script, *words = contender.words
        trials = given.trials * contender.trials
        with tempfile.TemporaryDirectory(prefix="tb-") as place:  # short: Ray's sockets have 107 characters
            folder = Path(place)
            (folder / "ray").mkdir()  # a cluster of its own, that leaves nothing behind
            words += ["--trials", str(trials), "--workers", str(given.workers), "--out", str(folder / "told.json")]
            words += ["--epochs", "1"] if script != "cluster.py" else []
            busy = harness.others()
            surroundings = harness.environment(RAY_TMPDIR=str(folder / "ray"))
            harness.seconds([sys.executable, str(HERE / script), *words], folder, surroundings, given.limit)
            told = json.loads((folder / "told.json").read_text())
        if told["trials"] != trials:
            raise harness.RunFailed(f"{name} ended {told['trials']} trials, not {trials}")
        if "cohorts" in told and told["cohorts"] * contender.cohort != trials:
            raise harness.RunFailed(f"{name} made {told['cohorts']} cohorts of {trials} trials")
        yield {"who": name, "round": number, "busy": busy, **told, "ms": overhead(told)}
        print(f"round {number + 1} of {given.repeats}: {name} is done", file=sys.stderr)


def overhead(told: dict[str, Any]) -> float:
    """Milliseconds a trial; of Ray Tune between its trials' ends, because its start is none of theirs."""
    seconds: dict[str, float] = told["seconds"]
    return seconds.get("between", seconds["total"] / told["trials"]) * 1e3


# --- what is shown --------------------------------------------------------------------------------


def rows(records: Sequence[dict[str, Any]]) -> list[list[str]]:
    by_name = {name: [one for one in records if one["who"] == name] for name in CONTENDERS}
    ours = {one["round"]: one["ms"] for one in by_name["tuner-16"]}
    body = []
    for name, runs in by_name.items():
        if not runs:
            continue
        loop = [one["seconds"]["loop"] / one["trials"] * 1e3 for one in runs if "loop" in one["seconds"]]
        times = [one["ms"] / ours[one["round"]] for one in runs if one["round"] in ours and name not in MUST]
        body.append(
            [
                CONTENDERS[name].label,
                f"{runs[0]['trials']:,}",
                Spread.of([one["ms"] for one in runs]).text(".2f"),
                Spread.of(loop).text(".2f") if loop else "",
                f"{Spread.of(times).text('.1f')}×" if times else "",
                f"{MUST[name]:g}" if name in MUST else "",
            ]
        )
    return body


def report(given: argparse.Namespace, records: Sequence[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """The text to print, and what goes into the JSON."""
    machine = harness.machine(PACKAGES)
    head = ("who", "trials", "ms a trial", "of them the study loop's", "times Tuner's cohorts of 16", "must")
    short = [
        f"{CONTENDERS[name].label}: falls short of {most:g} ms."
        for name, most in MUST.items()
        if (runs := [one["ms"] for one in records if one["who"] == name]) and Spread.of(runs).median > most
    ]
    what = f"{given.workers} workers, one report a trial, rounds: {given.repeats}; medians (lowest–highest)"
    text = [f"{what}.", harness.introduction(machine), "", harness.table(head, rows(records)), *short]
    whole = [one["seconds"]["total"] / one["trials"] * 1e3 for one in records if "between" in one["seconds"]]
    if whole:
        text.append(
            f"Ray Tune: from one trial's end to the next's; the whole of `fit`, {Spread.of(whole).text()} ms a trial."
        )
    text += filter(None, [harness.warning([one["busy"] for one in records])])
    work = {"trials": given.trials, "workers": given.workers, "rounds": given.repeats}
    return "\n".join(text), {"work": work, "machine": machine, "runs": list(records)}


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=100, help="of Ray Tune; sixteen times as many in cohorts of 16")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="rounds: everybody once in each")
    parser.add_argument("--who", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--limit", type=float, default=600, help="seconds that one run may take")
    parser.add_argument("--drive", type=int, metavar="COHORT", help=argparse.SUPPRESS)  # in this process
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "cluster.json")
    return parser.parse_args(words)


def main() -> int:
    given = arguments()
    if given.drive is None:
        return harness.compare(given, measure, report)
    drive(given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
