"""What the command line answers is so, and the same wherever it is told: small ledgers, each verb in this process."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import studies
from tests.events import asked, reported
from tests.studies import plan
from tests.study.test_study import Silent
from tuner import cli
from tuner.errors import DataError, LedgerDamaged, LedgerError, SpecError, StudyChanged
from tuner.events import Completed, Created, Event, Failed, Finished, Opened
from tuner.history.counts import counts
from tuner.history.fold import History
from tuner.ledger import Ledger, study_folder
from tuner.spec import StudySpec
from tuner.study import signals
from tuner.study.launch import foreseen, launch
from tuner.terminal.progress import _Leader
from tuner.terminal.tables import Output, print_rows
from tuner.workloads.network.plan import load

Answer = tuple[int, str, str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    def tell(*arguments: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["tuner", *arguments, "--home", str(tmp_path)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        seen = capsys.readouterr()
        return int(ended.value.code or 0), seen.out, seen.err

    return tell


def store(home: Path, name: str, *events: Event, **search: Any) -> History:
    spec = studies.study(study=name, search=search)
    first = Created(spec, "d", "", "i", 0, {"name": "d", "rows": {}, "signature": {}})
    with Ledger.create(study_folder(home, name)) as ledger:
        ledger.append([first, Opened(tracking="off"), *events])
        return ledger.history()


def test_a_database_does_not_take_the_place_of_a_study_in_a_file(
    tmp_path: Path, run: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    store(tmp_path, "mine", asked(0))
    monkeypatch.setenv("TUNER_LEDGER", "postgresql://tuner@127.0.0.1:1/tuner")
    for verb in (("status", "mine"), ("results", "mine"), ("delete", "mine", "--yes")):
        code, _, said = run(*verb)
        assert code == LedgerError.exit_code and "unset TUNER_LEDGER for studies of this home" in said
    assert (study_folder(tmp_path, "mine") / "ledger.db").exists()


def test_classes_that_are_negative_numbers_stay_so_in_csv(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prediction": text} for text in ("-1", "+2.5", "-1e-3", "-cmd", "=1+1", "-1-1")]
    print_rows(rows, Output.CSV, rows)
    found = [row["prediction"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))]
    assert found == ["-1", "+2.5", "-1e-3", "'-cmd", "'=1+1", "'-1-1"]


def test_what_cannot_be_flushed_is_told_and_not_at_the_end_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(OSError, match="No space left"):
        print_rows([{"a": 1}], Output.CSV, [])


def test_a_study_that_cannot_be_read_keeps_no_other_from_mlflow(tmp_path: Path, run: Callable[..., Answer]) -> None:
    store(tmp_path, "broken")
    (study_folder(tmp_path, "broken") / "ledger.db").write_bytes(b"no ledger at all")
    store(tmp_path, "whole")
    code, out, said = run("sync")
    assert code == 1 and "ledger.db" in said
    assert "whole: launched with `tracking: {mlflow: off}`" in out
    assert run("sync", "broken")[0] == LedgerDamaged.exit_code


def test_sync_leaves_a_study_to_its_own_writer(tmp_path: Path, run: Callable[..., Answer]) -> None:
    store(tmp_path, "driven")
    ready, begun = os.pipe()
    done, end = os.pipe()
    child = os.fork()
    if child == 0:  # locks are seen of other processes alone
        os.close(end)
        lock = os.open(study_folder(tmp_path, "driven") / "tracking.lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.write(begun, b"!")
        os.read(done, 1)
        os._exit(0)
    os.close(done)
    assert os.read(ready, 1) == b"!"
    try:
        code, out, _ = run("sync", "driven")
    finally:
        os.close(end)
        os.waitpid(child, 0)
    assert code == 0 and "its launch is running, and writes to MLflow" in out


def test_a_dry_run_refuses_what_the_launch_would(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x,z,y\n" + "".join(f"{i},{i * i % 7},{'ab'[i % 2]}\n" for i in range(200)))
    content = studies.study(data={"source": "t.csv", "target": "y"}, search={"trials": 1}, train={"epochs": 1})
    path = studies.write(tmp_path, content)
    launch(path, home=tmp_path / "home", progress=Silent())
    again = StudySpec.read(path, trials=2)
    foreseen(again, tmp_path / "home")
    (tmp_path / "t.csv").write_text("x,z,y\n" + "".join(f"{i},{i * i % 5},{'ab'[i % 2]}\n" for i in range(200)))
    with pytest.raises(StudyChanged, match="the data of study small changed"):
        foreseen(again, tmp_path / "home")


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ({}, ["run.executor=ray", "run.address=auto"]),
        ({"executor": "ray-tune", "scheduler": "asha"}, ["run.executor=ray-tune", "run.address=auto"]),
        ({"share": 0.5}, None),
    ],
)
def test_what_is_handed_over_was_checked_as_the_cluster_will_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: dict[str, Any], expected: list[str] | None
) -> None:
    from tuner.cli import cluster, cluster_jobs

    given: list[str] = []

    class Cluster:
        address = "http://head:8265"

        def __init__(self, _: str) -> None: ...

        def submit(self, spec: StudySpec, _: Path, words: list[str]) -> Any:
            given.extend(words)
            return cluster_jobs.Job("small-1", spec.study, "PENDING", "", 0.0)

    monkeypatch.setattr(cluster_jobs, "Cluster", Cluster)
    content = studies.study(search={"pruner": {"kind": "none"}})
    content["run"] = run
    path = studies.write(tmp_path, content)
    if expected is None:
        with pytest.raises(SpecError, match="share"):
            cluster.submit(path, cluster="head")
        return
    cluster.submit(path, cluster="head")
    assert given == [word for one in expected for word in ("--set", one)]


def test_on_a_tie_the_leader_is_the_lowest_number_as_everywhere(tmp_path: Path) -> None:
    history = store(tmp_path, "tied", *(asked(n) for n in range(6)))
    leader = _Leader()
    leader.note(history, [])
    for number in (5, 3):
        for event in (reported(number, 1, **{"val/accuracy": 0.5}), Finished(number, 1, 1)):
            history.apply(event)
        leader.note(history, [Finished(number, 1, 1)])
    assert leader.trial is not None and leader.trial.number == 3
    best = history.best("val/accuracy", True)
    assert best is not None and best.number == 3


def test_the_first_row_of_results_is_the_best_of_several_objectives(tmp_path: Path, run: Callable[..., Answer]) -> None:
    goals = [{"metric": "val/accuracy", "goal": "maximize"}, {"metric": "parameters", "goal": "minimize"}]
    sizes = {0: 5_000.0, 1: 300.0}
    events: list[Event] = [asked(n) for n in sizes]
    events += [reported(n, 1, **{"val/accuracy": 0.95, "parameters": size}) for n, size in sizes.items()]
    store(tmp_path, "two", *events, *(Finished(n, 1, 1) for n in sizes), objective=goals)
    _, out, _ = run("results", "two")
    assert out.splitlines()[1].split()[0] == "1"
    _, out, _ = run("best", "two", "--output", "json")
    assert json.loads(out)[0]["number"] == 1


def test_no_trials_and_no_completed_trials_are_told(tmp_path: Path, run: Callable[..., Answer]) -> None:
    store(tmp_path, "new")
    assert run("results", "new")[1:] == ("", "study new has no trials yet\n")
    store(tmp_path, "lost", asked(0), Failed(0, "no"), Completed("failed", "none of 1 trials completed"))
    code, _, said = run("best", "lost")
    assert code and "none of the trials of study lost completed; `tuner results lost` tells why" in said


@pytest.mark.parametrize("source", ["~nobody-here/x.csv", "~$data.csv", "~nobody-here/f.py:f", "~nobody-here"])
def test_a_home_of_nobody_is_a_path_that_is_not_there(tmp_path: Path, source: str) -> None:
    data = {"source": source} | ({} if ".py" in source else {"target": "y"})
    with pytest.raises(DataError, match=r"data\.source"):
        load(StudySpec.read(studies.write(tmp_path, studies.study(data=data))))


def test_a_broken_store_is_told_by_ui(tmp_path: Path, run: Callable[..., Answer]) -> None:
    store(tmp_path, "one")
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "mlflow.db").write_bytes(b"SQLite format 3\0 but no more" * 100)
    code, _, said = run("ui", "--port", "5999")
    assert code and "mlflow.db cannot be used" in said, said


def test_a_draft_of_a_checkpoint_saves_nobody(tmp_path: Path) -> None:
    from tuner.events import Grouped

    history = store(tmp_path, "one", asked(0), asked(1), Grouped(0, [0], {}, True), Grouped(1, [1], {}, True))
    folder = study_folder(tmp_path, "one")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "000000.pt.4711.partial").touch()
    (folder / "checkpoints" / "000001.pt.previous").touch()
    assert counts(history, folder).saved == 1


def test_a_grid_counts_the_trials_that_it_starts_with(tmp_path: Path) -> None:
    space = {"learning_rate": {"type": "choice", "values": [0.01, 0.1]}, "width": {"type": "choice", "values": [8, 16]}}
    content = studies.study(search={"space": space, "sampler": {"kind": "grid"}, "trials": 100, "start_with": [{}]})
    content["search"]["start_with"] = [{"learning_rate": 0.1, "width": 16}]
    spec = StudySpec.read(studies.write(tmp_path, content))
    assert plan(spec, load(spec)).trials == 5
    assert counts(History(spec=spec.canonical()), tmp_path).total == 5


def test_a_second_ctrl_c_gives_the_cursor_back(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    left: list[int] = []
    monkeypatch.setattr(signals.os, "isatty", lambda _: True)
    monkeypatch.setattr(signals.os, "write", lambda _, text: written.append(text))
    monkeypatch.setattr(signals.os, "_exit", left.append)
    noted = signals.Signals(lambda: False)
    noted._note(2, None)
    noted._note(2, None)
    assert written == [b"\x1b[?25h\n"] and left == [130]
