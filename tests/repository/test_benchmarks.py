"""The benchmarks run, do the work that they say, and show no time where the work was not equal."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.servers import PATIENCE
from tuner import data

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    import study  # type: ignore[import-not-found]

    return study


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    import harness  # type: ignore[import-not-found]

    return harness


@pytest.fixture
def startup(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    import startup  # type: ignore[import-not-found]

    return startup


@pytest.fixture
def trigram(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    import trigram  # type: ignore[import-not-found]

    return trigram


@pytest.fixture
def tracking(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    import tracking  # type: ignore[import-not-found]

    return tracking


def result(study: Any, label: str, seconds: float, *runs: tuple[int, int, float], trials: int = 64) -> Any:
    """A contender whose runs made (trial-steps, structures, best score)."""
    return study.Result.of(label, [(seconds, study.Done(trials, trials * 20, *run)) for run in runs])


def test_times_are_shown_where_the_work_was_equal_in_kind(study: Any) -> None:
    mine = result(study, "Tuner", 10.0, (30_000, 16, 0.98), (31_000, 17, 0.99))
    peer = result(study, "peer", 45.0, (28_000, 18, 0.98), (32_000, 20, 0.99))
    assert study.differences(mine, peer) == []
    assert study.rows(mine, [peer]) == [
        ["Tuner", "10.0", "", "64", "1,280", "30,500 (30,000–31,000)", "16 (16–17)", "0.9850 (0.9800–0.9900)"],
        [
            "peer", "45.0", "4.5×", "64", "1,280", "30,000 (28,000–32,000) [×1.02]", "19 (18–20) [×0.87]",
            "0.9850 (0.9800–0.9900) [×1.00]",
        ],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("run", "trials", "why"),
    [
        ((36_100, 18, 0.98), 64, "1.20 times its trial-steps"),
        ((23_900, 18, 0.98), 64, "0.80 times its trial-steps"),
        ((30_000, 14, 0.98), 64, "0.78 times its structures"),
        ((30_000, 18, 0.96), 64, "0.0200 behind"),
        ((30_000, 18, 0.98), 31, "too few"),
    ],
)
def test_no_time_is_shown_where_the_work_was_not_equal(
    study: Any, run: tuple[int, int, float], trials: int, why: str
) -> None:
    mine = result(study, "Tuner", 10.0, run, trials=trials)
    peer = result(study, "peer", 45.0, (30_000, 18, 0.98), trials=trials)
    (found,) = study.differences(mine, peer)
    assert why in found
    assert [row[1:3] for row in study.rows(mine, [peer])] == [["–", ""], ["–", "–"]]


def test_a_score_may_be_behind_by_as_much_as_seeds_change_it(study: Any) -> None:
    mine = result(study, "Tuner", 10.0, (30_000, 18, 0.96))
    peer = result(study, "peer", 45.0, (30_000, 18, 0.95), (30_000, 18, 0.98), (30_000, 18, 0.98))
    assert study.differences(mine, peer) == []


def test_no_time_is_shown_where_a_peer_trained_more_epochs_or_fewer(study: Any) -> None:
    mine = study.Result.of("Tuner", [(10.0, study.Done(64, 300, 4_000, 18, 0.98))])
    peer = study.Result.of("peer", [(45.0, study.Done(70, 320, 4_100, 18, 0.98))])
    assert study.differences(mine, mine) == []
    (found,) = study.differences(mine, peer)
    assert "0.94 times its epochs" in found


def test_peers_of_a_study_with_asha_are_given_its_epochs_and_its_rungs(study: Any, tmp_path: Path) -> None:
    given = study.arguments(["--asha", "--trials", "8"])
    given.budget = 37
    for name in ("optuna", "ray"):
        command = " ".join(study.CONTENDERS[name].command(tmp_path, 1, given))
        assert "--budget 37 --rungs 2 3" in command
    study.ours(tmp_path, 1, given)
    pruner = json.loads((tmp_path / "study.yaml").read_text())["search"]["pruner"]
    assert pruner == {"kind": "asha", "min_epochs": 2, "reduction": 3}


def test_every_script_is_told_of_and_make_bench_names_scripts_that_there_are(harness: Any) -> None:
    table = (FOLDER / "README.md").read_text()
    scripts = {path.name for path in FOLDER.glob("*.py") if "ArgumentParser(" in path.read_text()}
    scripts -= {"racers.py", "idle.py"}
    assert {name for name in scripts if f"| `{name}` |" not in table} == set()
    made = (FOLDER.parent / "Makefile").read_text().partition("\nBENCHMARKS :=")[2].partition("\n\n")[0]
    named = re.findall(r"'([^' ]+)", made)
    assert {"study.py", "steps.py"} <= set(named) <= scripts


def test_trial_steps_are_counted_with_the_rows_that_there_are(study: Any) -> None:
    assert data.load("digits", validation=0.2, test=0.2, seed=5).rows["train"] == study.TRAINING_ROWS


def test_all_take_turns(harness: Any) -> None:
    assert list(harness.turns(["ours", "peer"], 2)) == [(0, "ours"), (0, "peer"), (1, "ours"), (1, "peer")]


def test_a_busy_machine_is_named(harness: Any) -> None:
    assert harness.warning([0.0, 5.0]) == ""
    assert "up to 40 %" in harness.warning([1.0, 40.0])


def test_a_run_that_fails_gives_no_time_but_its_last_words(harness: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('so far'); raise SystemExit(3)"]
    with pytest.raises(harness.RunFailed, match=r"exit code 3\nso far"):
        harness.seconds(command, tmp_path, harness.environment(), 60)


def test_a_run_that_takes_too_long_is_ended(harness: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import signal; signal.pause()"]
    with pytest.raises(harness.RunFailed, match="more than 1 s"):
        harness.seconds(command, tmp_path, harness.environment(), 1)


def test_counted_letters_are_smoothed_by_witten_and_bells_rule_on_the_study_s_own_windows(
    trigram: Any, tmp_path: Path
) -> None:
    """Beside the rule as its recursion says it, one character at a time."""
    draw = np.random.default_rng(0)
    (tmp_path / "own.txt").write_text("".join(draw.choice(list("abc "), 400)) + "".join(draw.choice(list("xyz "), 60)))
    dataset = data.load("own.txt", folder=tmp_path, length=8)

    def windows(split: data.Split) -> list[list[int]]:
        return np.concatenate((split.inputs[:, :1], split.targets), 1).tolist()

    def chance(token: int, before: tuple[int, ...]) -> float:
        size = len(before)
        followers = [
            w[i] for w in windows(dataset.train) for i in range(max(1, size), 9) if tuple(w[i - size : i]) == before
        ]
        shorter = (
            chance(token, before[1:]) if before else 1 / (dataset.signature.outputs - 1)
        )  # no padding is asked for
        if not followers:
            return shorter
        kinds = len(set(followers))
        return (followers.count(token) + kinds * shorter) / (len(followers) + kinds)

    found = trigram.bits_per_character(dataset)
    for most, name in enumerate(("unigram", "bigram", "trigram")):
        bits = [
            -math.log2(chance(w[i], tuple(w[max(0, i - most) : i])))
            for w in windows(dataset.validation)
            for i in range(1, 9)
        ]
        assert found[name] == pytest.approx(sum(bits) / len(bits), rel=1e-12)


def test_the_yardstick_prints_one_table_and_refuses_what_is_no_text(tmp_path: Path) -> None:
    script = [sys.executable, str(FOLDER / "trigram.py")]
    said = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    head, _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in said.splitlines()]
    assert head == ["model", "val/bits_per_character"]
    assert [name for name, _ in body] == ["unigram", "bigram", "trigram"]
    bits = [float(value) for _, value in body]
    assert 5.5 > bits[0] > bits[1] > bits[2] > 2.0
    other = FOLDER.parent / "examples" / "diabetes.yaml"
    refused = subprocess.run([*script, str(other)], capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "expected text to continue" in refused.stderr


def test_rounds_are_added_while_chance_keeps_the_work_apart_whatever_the_times(study: Any) -> None:
    def rounds(steps: list[int], seconds: float, *words: str) -> int:
        given = study.arguments(["--repeats", "2", *words])
        given.records = []
        for number, name in study._turns([study.TUNER, "optuna"], given):
            done = study.Done(64, 1_280, steps[number] if name == study.TUNER else 25_000, 15, 0.99)
            given.records.append({"who": name, "round": number, "seconds": seconds, **asdict(done)})
        return int(given.repeats)

    assert rounds([26_000, 24_000], 9.0) == 2
    late = [40_000, 39_000, 26_000, 25_000, 24_000]
    assert rounds(late, 9.0) == rounds(late, 1.0) == 5
    assert rounds([40_000] * 9, 1.0) == 2 * study.PATIENCE, "there is an end"
    assert rounds([40_000] * 9, 1.0, "--trials", "4") == 2, "of few trials nothing is compared"


def launch(out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / "study.py"), "--epochs", "2", "--repeats", "1", "--out", str(out)]
    return subprocess.run([*command, *words], capture_output=True, text=True, check=False, timeout=PATIENCE)


def check(said: subprocess.CompletedProcess[str], out: Path, peers: int, trials: int) -> None:
    assert said.returncode == 0, said.stderr
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in said.stdout.splitlines() if "|" in line]
    head, _, *body = lines
    assert head == [
        "who", "seconds", "Tuner is faster", "trials", "epochs", "trial-steps", "structures", "best val/accuracy",
    ]  # fmt: skip
    assert len(body) == 1 + peers
    for row in body:
        assert row[1] == "–", "a time was shown for too few trials"
        assert int(row[3]) >= trials
        assert int(row[4]) >= trials * 2  # epochs
        assert int(row[5].split()[0].replace(",", "")) >= trials * 2 * 9  # of 9 steps, or more
        assert 1 <= int(row[6].split()[0]) <= trials + 1
        assert 0.0 < float(row[7].split()[0]) <= 1.0
    saved = json.loads(out.read_text())
    assert len(saved["runs"]) == 1 + peers
    assert all(run["seconds"] > 0 for run in saved["runs"])
    assert set(saved["machine"]["versions"]) >= {"python", "torch", "optuna", "mlflow"}
    assert str(FOLDER.parent) not in out.read_text() + said.stdout


@pytest.mark.slow
def test_the_smallest_study_beside_optuna_gives_the_table(tmp_path: Path) -> None:
    out = tmp_path / "study.json"
    check(launch(out, "--trials", "4"), out, 1, 4)


def test_points_are_compared_by_their_medians_and_a_greedy_writer_is_named(tracking: Any) -> None:
    given = tracking.arguments(["--points", "60", "--peers", "batch-run", "--trials", "4", "--repeats", "3"])
    rates = [
        {"who": who, "size": 60, "rate": rate, "busy": 0.0}
        for who, *three in (("tuner", 900.0, 1_000.0, 9_000.0), ("batch-run", 500.0, 400.0, 100.0))
        for rate in three
    ]
    for share, greedy in ((0.2, False), (0.21, True)):
        cost = {"seconds": 2.0, "processor": 4.0, "writer": 4 * share, "share": share, "busy": 0.0}
        text, body = tracking.report(given, rates, [{"who": who, **cost} for who in ("embedded", "off")])
        table = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]
        assert table[2] == ["Tuner's writer, ledger included", "1,000 (900–9,000)", ""]
        assert table[3] == ["log_batch, one a run", "400 (100–500)", "2.5×"]
        assert table[6][0] == "tracked by MLflow"
        assert table[6][-1] == f"{share:.0%}"
        assert ("takes more than 20%" in text) is greedy
        assert body["summary"]["tuner"]["60"]["median"] == 1_000.0


@pytest.mark.parametrize("lost", ["point", "all"])
def test_points_that_cannot_be_read_back_are_no_result(tracking: Any, lost: str) -> None:
    class Client:
        def get_metric_history(self, _run: str, key: str) -> list[Any]:
            steps = [] if lost == "all" else [1, 2, 3] if key != tracking.points.METRICS[-1] else [1, 3]
            return [type("Point", (), {"step": step}) for step in steps]

    with pytest.raises(RuntimeError, match="can be read in run r, not 3"):
        tracking.points.read_back(Client(), "r", 3)


@pytest.mark.slow
def test_points_that_were_written_are_read_back_and_the_writer_is_watched(tmp_path: Path) -> None:
    out = tmp_path / "tracking.json"
    small = ["--points", "8", "--runs", "2", "--limit", "60", "--repeats", "1", "--trials", "2", "--epochs", "2"]
    small += ["--peers", "batch-run"]
    command = [sys.executable, str(FOLDER / "tracking.py"), *small, "--out", str(out)]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert said.returncode == 0, said.stderr
    saved = json.loads(out.read_text())
    rates = [run for run in saved["runs"] if "rate" in run]
    assert {run["who"] for run in rates} == {"tuner", "batch-run"}
    assert all((run["points"], run["runs"]) == (16, 2) and run["rate"] > 0 for run in rates)
    costs = {run["who"]: run for run in saved["runs"] if "share" in run}
    assert costs["off"]["writer"] == 0.0
    assert 0.0 < costs["embedded"]["share"] < 1.0
    assert all(label in said.stdout for label in ("Tuner's writer", "log_batch", "tracked by MLflow", "not tracked"))
    assert str(FOLDER.parent) not in out.read_text() + said.stdout


@pytest.mark.slow
def test_a_peer_stops_trials_early_too_and_trains_as_many_epochs(tmp_path: Path) -> None:
    out = tmp_path / "study.json"
    said = launch(out, "--asha", "--trials", "4", "--epochs", "5", "--peers", "optuna")
    assert said.returncode == 0, said.stderr
    epochs = {run["who"]: run["epochs"] for run in json.loads(out.read_text())["runs"]}
    assert 4 * 2 <= epochs["tuner"] < 4 * 5, "nothing was stopped early"
    assert epochs["tuner"] <= epochs["optuna"] <= epochs["tuner"] + 2


def test_a_launch_is_timed_from_its_command_to_its_earliest_moments_and_from_its_last(startup: Any) -> None:
    moments = {"step": [102.5, 102.0], "report": [103.0, 102.5], "trial": [104.0, 106.0]}
    assert startup.Launch.of(100.0, 9.0, moments) == startup.Launch(step=2.0, report=2.5, end=3.0, whole=9.0)
    with pytest.raises(startup.RunFailed, match="trial"):
        startup.Launch.of(100.0, 9.0, {**moments, "trial": []})


@pytest.mark.slow
def test_the_shortest_launch_beside_a_peer_gives_the_table(tmp_path: Path) -> None:
    out = tmp_path / "startup.json"
    words = ["--repeats", "1", "--trials", "2", "--epochs", "1", "--peers", "optuna", "--out", str(out)]
    command = [sys.executable, str(FOLDER / "startup.py"), *words]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert said.returncode == 0, said.stderr
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in said.stdout.splitlines() if "|" in line]
    head, _, *body = lines
    assert [row[0] for row in body[:3]] == ["import torch", "tuner --help", "tuner, TAB"]
    assert [len(row) for row in body] == [len(head)] * 5
    for row in body[3:]:
        step, report, end, whole = map(float, row[1:])
        assert 0 < step <= report < whole
        assert 0 < end < whole
    assert len(json.loads(out.read_text())["runs"]) == 5
    assert "times torch's import" in said.stdout


def test_a_part_is_charged_with_what_is_spent_in_it_and_in_no_part_inside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    import parts  # type: ignore[import-not-found]

    now = 0.0

    def work(seconds: float) -> None:
        nonlocal now
        now += seconds

    @contextmanager
    def context() -> Iterator[None]:
        work(16)
        yield
        work(32)

    monkeypatch.setattr(parts.time, "thread_time", lambda: now)
    spent = parts.Parts(_since=now)
    spent.begin("all")
    inner = spent.around("inner", lambda: work(2))
    spent.around("outer", lambda: (work(1), inner(), work(4)))()
    work(8)
    with spent.opening("context", context)():
        work(64)
    spent.turn()
    assert spent.seconds == {"all": 8 + 64, "outer": 1 + 4, "inner": 2, "context": 16 + 32}


@pytest.mark.slow
def test_a_small_study_is_taken_apart_to_the_last_process(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "parts.py"), "--trials", "8", "--epochs", "2", "--repeats", "1"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "parts.json")], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = json.loads((tmp_path / "parts.json").read_text())["runs"]
    assert {name for name, parts in run["parts"].items() if sum(parts.values()) > 0} == {
        "driver",
        "workers",
        "writer",
    }
    for part in ("matrix products", "recording steps", "evaluation", "asking the sampler", "ledger"):
        assert f" {part} |" in done.stdout
