"""Functions as trials: good and bad ones, what is killed, and what is gone on with."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

import tuner
from tests import studies
from tests.programs import GOOD, content, first, launch, launched, left, states
from tests.servers import PATIENCE, until
from tuner.events import State


def test_a_function_is_tuned_with_the_numbers_that_it_reports(tmp_path: Path) -> None:
    study, _ = launched(tmp_path, GOOD)
    assert states(study) == {State.COMPLETE: 3}
    trial = first(study)
    assert sorted(trial.reports) == [1, 2, 3, 4] and trial.reports[4].keys() == {"val/loss", "drawn"}
    best = study.best
    assert isinstance(best, dict)
    again, _ = launch(tmp_path, content({"function": "train.py:train", "epochs": 4, "retries": 0}), "again")
    assert studies.facts(again.history) == studies.facts(study.history), "its generators begin with the trial's seed"


def test_the_files_variables_are_there_before_the_function_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_MINE", "secret")
    code = """
import os
SEEN = [os.environ[name] for name in ("OMP_NUM_THREADS", "LEVEL", "OF_MINE")]
def train(trial):
    return {"val/loss": 1.0, "right": SEEN == ["1", "3", "secret"]}
"""
    study, _ = launched(tmp_path, code, {"environment": {"LEVEL": 3, "OF_MINE": None}, "epochs": None}, trials=1)
    assert first(study).reports[1]["right"] == 1.0
    assert "secret" not in (tmp_path / "home" / "studies" / "own" / "ledger.db").read_bytes().decode(errors="replace")


def test_a_pruner_stops_functions_and_their_finally_blocks_run(tmp_path: Path) -> None:
    code = """
def train(trial):
    try:
        for epoch in range(trial.epochs):
            try:
                trial.report({"val/loss": trial.number + 1.0})
            except Exception:
                raise SystemExit("a stop is no Exception")
    finally:
        (trial.folder / "cleaned").write_text(str(trial.epoch))
"""
    study, _ = launched(tmp_path, code, pruner={"kind": "median", "startup": 1}, trials=4)
    assert states(study) == {State.COMPLETE: 1, State.PRUNED: 3}
    folders = [study.folder / "trials" / f"{number:06d}" / "cleaned" for number in range(4)]
    assert [folder.read_text() for folder in folders] == ["4", "1", "1", "1"]


def test_who_asks_whether_to_stop_ends_by_hand(tmp_path: Path) -> None:
    code = """
def train(trial):
    for epoch in range(trial.epochs):
        if trial.should_stop:
            (trial.folder / "asked").write_text(str(trial.epoch))
            return
        trial.report({"val/loss": trial.number + 1.0})
"""
    study, _ = launched(tmp_path, code, pruner={"kind": "median", "startup": 1}, trials=2)
    assert states(study) == {State.COMPLETE: 1, State.PRUNED: 1}
    assert (study.folder / "trials" / "000001" / "asked").read_text() == "1"


@pytest.mark.parametrize(
    ("body", "reports"),
    [
        ("return 0.5", {1: {"val/loss": 0.5}}),
        ("return {'val/loss': 0.5, 'other': 2}", {1: {"val/loss": 0.5, "other": 2.0}}),
        ("for n in range(2): yield {'val/loss': 1.0 - n}", {1: {"val/loss": 1.0}, 2: {"val/loss": 0.0}}),
        (
            "import torch, warnings; warnings.simplefilter('error'); return torch.ones(1, requires_grad=True) / 2",
            {1: {"val/loss": 0.5}},
        ),
        ("trial.report({'val/loss': 3})\n    return 0.5", {1: {"val/loss": 3.0}, 2: {"val/loss": 0.5}}),
    ],
)
def test_what_a_function_returns_or_yields_is_reported(
    body: str, reports: dict[int, dict[str, float]], tmp_path: Path
) -> None:
    study, _ = launched(tmp_path, f"def train(trial):\n    {body}\n", {"epochs": None}, trials=1)
    assert states(study) == {State.COMPLETE: 1}
    assert {epoch: dict(metrics) for epoch, metrics in first(study).reports.items()} == reports


BAD = {
    "raises at import": (
        "def train(trial): ...\nraise RuntimeError('no such luck')",
        "RuntimeError: no such luck (train.py:2)",
    ),
    "is not there": ("import nothing_of_that_name\ndef train(trial): ...", "No module named 'nothing_of_that_name'"),
    "raises at epoch 3": (
        "def train(trial):\n for e in range(4):\n  if e > 1: raise ValueError('3rd')\n  trial.report({'val/loss': 1})",
        "ValueError: 3rd (train.py:3)",
    ),
    "no number": (
        "def train(trial):\n trial.report({'val/loss': float('nan')})",
        "diverged at epoch 1 (val/loss=nan)",
    ),
    "out of order": (
        "def train(trial):\n trial.report({'val/loss': 1}, epoch=2)",
        "expected a report of epoch 1 next, got epoch 2",
    ),
    "another metric": (
        "def train(trial):\n trial.report({'loss': 1})",
        "it never reported val/loss, the study's objective",
    ),
    "no report": ("def train(trial): pass", "it ended without a report; report val/loss, or return it"),
    "ends the process": ("import os\ndef train(trial): os._exit(0)", "its process ended with exit code 0"),
    "exits": ("import sys\ndef train(trial): sys.exit(3)", "SystemExit: 3"),
    "text for a number": (
        "def train(trial): trial.report({'val/loss': 'low'})",
        "expected a number for val/loss, got str",
    ),
    "is killed": (
        "import os, signal\ndef train(trial): os.kill(os.getpid(), signal.SIGKILL)",
        "its process was ended by SIGKILL",
    ),
    "a name that MLflow takes not": (
        "def train(trial): trial.report({'acc@1': 1})",
        "expected a metric's name of letters, digits, spaces and _ - . : /, got 'acc@1'",
    ),
    "never speaks": (
        "import time\ndef train(trial): time.sleep(600)",
        "it gave no sign for 0.5 s (trial.silence)",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_code_fails_its_own_trial_with_a_plain_message(what: str, tmp_path: Path) -> None:
    code, message = BAD[what]
    silent = {"silence": 0.5} if what == "never speaks" else {}
    study, _ = launched(tmp_path, code, silent, trials=1)
    assert states(study) == {State.FAILED: 1}
    assert message in first(study).message


def test_an_import_that_hangs_ends_with_the_trials_timeout(tmp_path: Path) -> None:
    code = "import time\ntime.sleep(600)\ndef train(trial): ...\n"
    study, _ = launched(tmp_path, code, {"timeout": 0.5, "epochs": None}, trials=2)
    assert [trial.message for trial in study.history.trials.values()] == [
        "it took longer than 0.5 s (trial.timeout)"
    ] * 2
    until(lambda: not left(study))


def test_a_report_without_another_objective_is_told(tmp_path: Path) -> None:
    objectives = [{"metric": "val/loss", "goal": "minimize"}, {"metric": "size", "goal": "minimize"}]
    (tmp_path / "train.py").write_text("def train(trial): return 1.0\n")
    written = content({"function": "train.py:train"}, trials=1)
    written["search"]["objective"] = objectives
    study, _ = launch(tmp_path, written)
    assert first(study).message == "it reported val/loss without size; report all objectives together"


ODD = {
    "prints megabytes": "print('x' * 3_000_000)",
    "changes the folder": "import os; os.chdir('/')",
    "closes stdout": "import sys; sys.stdout.close()",
    "forks children": "import subprocess; subprocess.Popen(['sleep', '600'])",
    "threads and children": "import threading, time, subprocess; subprocess.Popen(['sleep', '600']); "
    "threading.Thread(target=time.sleep, args=(600,)).start()",
    "draws threads": "import threading, time; threading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
}


@pytest.mark.parametrize("what", ODD)
def test_odd_code_harms_no_other_trial_and_leaves_nothing_running(what: str, tmp_path: Path) -> None:
    code = f"def train(trial):\n    {ODD[what]}\n    trial.report({{'val/loss': 1.0}})\n"
    study, _ = launched(tmp_path, code, {"epochs": 1}, trials=2)
    assert states(study) == {State.COMPLETE: 2}
    until(lambda: not left(study))


def test_a_file_that_begins_threads_when_it_is_imported_has_a_fresh_process_for_every_trial(tmp_path: Path) -> None:
    code = """
import os, subprocess, threading, time
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
def train(trial):
    subprocess.Popen(["sleep", "600"])
    trial.report({"val/loss": 1.0, "process": os.getpid()})
"""
    study, _ = launched(tmp_path, code, {"epochs": 1}, trials=2)
    assert states(study) == {State.COMPLETE: 2}
    processes = {trial.reports[1]["process"] for trial in study.history.trials.values()}
    assert len(processes) == 2
    until(lambda: not left(study))


@pytest.mark.parametrize("library", ["pandas", "sklearn.ensemble", "torch"])
def test_what_imports_a_large_library_is_imported_once(library: str, tmp_path: Path) -> None:
    code = f"""
import os, {library}
IMPORTED = os.getpid()
def train(trial):
    trial.report({{"val/loss": 1.0, "imported": IMPORTED, "process": os.getpid()}})
"""
    study, _ = launched(tmp_path, code, {"epochs": 1}, trials=3)
    reports = [trial.reports[1] for trial in study.history.trials.values()]
    assert len({report["imported"] for report in reports}) == 1
    assert len({report["process"] for report in reports}) == 3


KILLS = """
import os, signal, subprocess
def above(process, steps):
    for _ in range(steps):
        with open(f"/proc/{process}/stat") as file:
            process = int(file.read().rpartition(")")[2].split()[1])
    return process
def train(trial):
    state = trial.restore() or {"epoch": 0}
    subprocess.Popen(["sleep", "600"])
    for epoch in range(state["epoch"], trial.epochs):
        mark = trial.folder / "killed"
        if trial.number == 1 and epoch == 2 and not mark.exists():
            mark.write_text("once")
            for steps in STEPS:
                os.kill(above(os.getpid(), steps), signal.SIGKILL)
            signal.pause()
        trial.report({"val/loss": trial.params["rate"] * (epoch + 1)}, checkpoint=lambda: {"epoch": epoch + 1})
"""


@pytest.mark.parametrize(
    "steps",
    ["(0,)", "(1,)", "(2,)", "(2, 1)", "(1, 2, 0)"],
    ids=["the trial", "the server", "the worker", "worker and server", "all three"],
)
def test_whatever_is_killed_costs_no_result_and_leaves_nothing_running(steps: str, tmp_path: Path) -> None:
    code = KILLS.replace("STEPS", steps)
    study, _ = launched(tmp_path, code, {"retries": 2}, pruner={"kind": "median", "startup": 1_000}, trials=3)
    assert states(study) == {State.COMPLETE: 3}
    for trial in study.history.trials.values():
        assert {e: m["val/loss"] for e, m in trial.reports.items()} == {
            e: pytest.approx(float(trial.params["rate"]) * e) for e in (1, 2, 3, 4)
        }
    until(lambda: not left(study))


@pytest.mark.parametrize("kind", ["function", "command"])
def test_a_killed_launch_leaves_no_process_and_the_next_one_ends_the_study(kind: str, tmp_path: Path) -> None:
    if kind == "function":
        (tmp_path / "train.py").write_text(KILLS.replace("STEPS", "(3,)"))
        trial: dict[str, Any] = {"function": "train.py:train", "epochs": 4}
    else:
        words = (
            "sleep 600 & if [ {number} = 1 ] && [ ! -e killed ]; then touch killed; p=$$; "
            "for i in 1 2 3; do p=$(ps -o ppid= -p $p | tr -d ' '); done; kill -9 $p; sleep 600; fi; "
            'for e in 1 2 3 4; do echo "{\\"val/loss\\": $e}" >> $TUNER_REPORT; done'
        )
        trial = {"command": ["sh", "-c", words], "epochs": 4}
    path = studies.write(tmp_path, content(trial))
    with pytest.raises(AssertionError, match="exit -9"):
        studies.run(path, tmp_path / "home")
    study, _ = launch(tmp_path, content(trial))
    assert states(study) == {State.COMPLETE: 3}
    assert all(sorted(trial.reports) == [1, 2, 3, 4] for trial in study.history.trials.values())
    until(lambda: not left(study))


def test_what_a_trial_writes_is_an_artifact_of_its_run(tmp_path: Path) -> None:
    from tests.stores import Store

    code = """
def train(trial):
    print("trial", trial.number, "says so")
    (trial.folder / "plots").mkdir()
    (trial.folder / "plots" / "curve.txt").write_text(str(trial.number))
    (trial.folder / "large.bin").write_bytes(bytes(11_000_000))
    trial.report({"val/loss": 1.0}, checkpoint={"epoch": 1})
"""
    (tmp_path / "train.py").write_text(code)
    written = content({"function": "train.py:train", "epochs": 1}, trials=2)
    written["tracking"] = {"mlflow": "embedded"}
    study, lines = launch(tmp_path, written)
    assert states(study) == {State.COMPLETE: 2} and "MLflow is up to date" in lines
    store = Store(tmp_path / "home")
    for run in store.children("own").values():
        assert [entry.path for entry in store.client.list_artifacts(run.info.run_id)] == ["output.txt", "plots"]
        output = Path(store.client.download_artifacts(run.info.run_id, "output.txt", str(tmp_path)))
        assert output.read_text() == f"trial {run.data.tags['tuner.trial']} says so\n"
        (entry,) = store.client.list_artifacts(run.info.run_id, "plots")
        assert entry.path == "plots/curve.txt" and run.data.params["rate"]


# --- gone on with -----------------------------------------------------------------------------------


def test_a_killed_function_goes_on_from_its_checkpoint_to_the_same_numbers(tmp_path: Path) -> None:
    code = """
import os, signal
def train(trial):
    state = trial.restore() or {"epoch": 0, "sum": 0.0}
    total = state["sum"]
    for epoch in range(state["epoch"], trial.epochs):
        total += trial.params["rate"] * (epoch + 1)
        if epoch == 2 and not (trial.folder / "killed").exists():
            (trial.folder / "killed").write_text("once")
            os.kill(os.getpid(), signal.SIGKILL)
        trial.report({"val/loss": total, "begun": state["epoch"]}, checkpoint={"epoch": epoch + 1, "sum": total})
"""
    pruner = {"kind": "median", "startup": 1_000}  # it waits after every epoch, where a checkpoint is due
    study, lines = launched(tmp_path, code, {"retries": 1}, pruner=pruner, trials=2)
    assert states(study) == {State.COMPLETE: 2}
    assert "trial 1: its process was ended by SIGKILL; begun again after epoch 2" in lines
    for trial in study.history.trials.values():
        assert trial.reports[4]["val/loss"] == pytest.approx(10 * float(trial.params["rate"]))
        assert [trial.reports[epoch]["begun"] for epoch in (1, 2, 3, 4)] == [0, 0, 2, 2]


def test_a_function_that_never_restores_begins_anew_and_counts_from_one(tmp_path: Path) -> None:
    code = """
import os, signal
def train(trial):
    mark = trial.folder / "killed"
    again = mark.exists()
    for epoch in range(1, trial.epochs + 1):
        if epoch == 3 and not again:
            mark.write_text("once")
            os.kill(os.getpid(), signal.SIGKILL)
        trial.report({"val/loss": 1.0 / epoch}, epoch=epoch, checkpoint={"epoch": epoch})
"""
    pruner = {"kind": "median", "startup": 1_000}
    study, _ = launched(tmp_path, code, {"retries": 1}, pruner=pruner, trials=1)
    assert states(study) == {State.COMPLETE: 1}
    assert {epoch: metrics["val/loss"] for epoch, metrics in first(study).reports.items()} == {
        epoch: 1.0 / epoch for epoch in (1, 2, 3, 4)
    }


def test_a_persons_own_files_of_any_name_stay_in_the_trials_folder(tmp_path: Path) -> None:
    code = """
def train(trial):
    (trial.folder / "best_checkpoint.pt").write_text("mine")
    (trial.folder / "checkpoint-1").mkdir()
    for epoch in range(trial.epochs):
        trial.report({"val/loss": 1.0}, checkpoint={"epoch": epoch + 1})
"""
    study, _ = launched(tmp_path, code, trials=1)
    assert states(study) == {State.COMPLETE: 1}
    names = sorted(path.name for path in (study.folder / "trials" / "000000").iterdir())
    assert names == ["best_checkpoint.pt", "checkpoint-1"]


def test_a_pruner_prunes_nobody_at_an_epoch_without_the_objective(tmp_path: Path) -> None:
    code = """
def train(trial):
    for epoch in range(1, trial.epochs + 1):
        trial.report({"train/loss": 1.0, **({"val/loss": 1.0} if epoch == trial.epochs else {})})
"""
    study, _ = launched(tmp_path, code, pruner={"kind": "asha"}, trials=3)
    assert states(study) == {State.COMPLETE: 3}


def test_ctrl_c_ends_the_trials_and_the_same_command_goes_on_from_their_checkpoints(tmp_path: Path) -> None:
    code = """
import time
def train(trial):
    state = trial.restore() or {"epoch": 0}
    for epoch in range(state["epoch"], trial.epochs):
        while epoch == 2 and not (trial.folder / "go").exists():
            (trial.folder / "waits").write_text("")
            time.sleep(0.01)
        trial.report({"val/loss": 1.0 / (epoch + 1), "begun": state["epoch"]}, checkpoint={"epoch": epoch + 1})
"""
    (tmp_path / "train.py").write_text(code)
    # It waits after every epoch, where a checkpoint is due.
    written = content(
        {"function": "train.py:train", "epochs": 4}, trials=1, pruner={"kind": "median", "startup": 1_000}
    )
    path, trial = studies.write(tmp_path, written), tmp_path / "home" / "studies" / "own" / "trials" / "000000"
    process = studies.start(path, tmp_path / "home")
    until((trial / "waits").exists, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, out + err
    (trial / "go").write_text("")
    study, _ = launch(tmp_path, written)
    assert states(study) == {State.COMPLETE: 1}
    assert [first(study).reports[epoch]["begun"] for epoch in (1, 2, 3, 4)] == [0, 0, 2, 2]
    until(lambda: not left(study))


def test_what_needs_a_network_of_ours_says_so(tmp_path: Path) -> None:
    from tuner.errors import InputError, StudyMissing
    from tuner.inference.explain import Best

    study, _ = launched(tmp_path, GOOD, trials=1)
    with pytest.raises(InputError, match="its trials are a person's own training"):
        Best.of(study.folder)
    with pytest.raises(StudyMissing, match="no champion to predict with: its trials are a person's own training"):
        tuner.champion.Predictor.load(study.folder)


def test_a_changed_file_is_refused_until_it_is_accepted(tmp_path: Path) -> None:
    launched(tmp_path, GOOD)
    (tmp_path / "train.py").write_text(GOOD + "\n# changed\n")
    written = content({"function": "train.py:train", "epochs": 4, "retries": 0})
    with pytest.raises(tuner.errors.StudyChanged, match="--accept-code"):
        launch(tmp_path, written)
    study, _ = launch(tmp_path, written, trials=4, accept_code=True)
    assert states(study) == {State.COMPLETE: 4}


def test_the_same_file_runs_without_a_study(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tuner.workloads import context

    monkeypatch.setattr(context, "_CURRENT", None)
    trial = tuner.current_trial(params={"rate": 0.5}, epochs=2)
    assert trial.params["rate"] == 0.5 and trial.restore() is None and not trial.should_stop
    trial.report({"val/loss": 0.25})
    assert capsys.readouterr().out == "epoch=1 val/loss=0.25\n"
