"""The command line: what it prints where, what it exits with, and how little it imports."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.servers import PATIENCE
from tuner import cli
from tuner.cli import stopping
from tuner.events import Asked, Completed, Created, Event, Failed, Finished, Grouped, Pruned, Reported, Started, Tested
from tuner.history.fold import History
from tuner.ledger import Ledger, study_folder

ROOT = Path(__file__).parents[2]
CONSOLE_SCRIPT = Path(sys.executable).parent / "tuner"
HEAVY = ("torch", "mlflow", "ray", "optuna", "pandas", "numpy", "sklearn")
READING = ("results", "best", "status")
SPEC = {
    "study": "one",
    "train": {"epochs": 2, "batch_size": 32},
    "search": {"trials": 4, "objective": {"metric": "val/accuracy", "goal": "maximize"}},
}


@dataclass
class Answer:
    code: int
    out: str
    err: str


Run = Callable[..., Answer]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("TUNER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def tuner(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the console script's function in this process, with the test's own home."""
    monkeypatch.setenv("TUNER_HOME", str(home))

    def run(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["tuner", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        seen = capsys.readouterr()
        code = ended.value.code
        return Answer(0 if code is None else int(code), seen.out, seen.err)

    return run


def created(name: str) -> Event:
    spec = SPEC | {"study": name}
    data = {"name": "d", "digest": "x", "split": "y", "rows": {"train": 96}, "signature": {}}
    return Created(spec=spec, digest="d", text="", seed=0, id="i", data=data)


def told(*, complete: bool) -> list[Event]:
    """Three trials: one complete, one stopped, one that failed with a message that a spreadsheet would run."""
    events = [
        Asked(0, params={"learning_rate": 0.1, "optimizer": "adam"}, seed=1),
        Asked(1, params={"learning_rate": 0.2, "optimizer": "sgd", "momentum": 0.5}, seed=2),
        Asked(2, params={"learning_rate": 9.0, "optimizer": "adam"}, seed=3),
        Grouped(0, trials=[0, 1, 2], structure={}, company=True),
        Started(0, attempt=1, worker=0, trials=[0, 1, 2], epoch=0),
        Reported(0, 1, metrics={"val/accuracy": 0.75, "val/loss": 0.5}, seconds=1.0),
        Reported(1, 1, metrics={"val/accuracy": 0.5}, seconds=1.0),
        Failed(2, message="=cmd|' /C calc'!A0"),
    ]
    if complete:
        events += [
            Pruned(1, epoch=1),
            Reported(0, 2, metrics={"val/accuracy": 0.625, "val/loss": 0.25}, seconds=1.0),
        ]
        events += [
            Finished(0, epochs=2, best_epoch=1),
            Tested(0, metrics={"test/accuracy": 0.7}),
            Completed(message="", state="complete"),
        ]
    return events


def study(home: Path, name: str = "one", *, complete: bool = True) -> Path:
    folder = study_folder(home, name)
    with Ledger.create(folder) as ledger:
        ledger.append([created(name), *told(complete=complete)])
    return folder


@pytest.fixture
def driver(home: Path) -> Iterator[Callable[[Path, bool], subprocess.Popen[str]]]:
    """Starts a process that holds a study's lock until SIGTERM, or through it."""
    started: list[subprocess.Popen[str]] = []

    def start(folder: Path, obedient: bool) -> subprocess.Popen[str]:
        handler = "lambda *_: sys.exit(143)" if obedient else "signal.SIG_IGN"
        code = (
            "import signal, sys, pathlib\n"
            "from tuner.ledger import Ledger\n"
            f"signal.signal(signal.SIGTERM, {handler})\n"
            "with Ledger.open(pathlib.Path(sys.argv[1])) as ledger, ledger.lock():\n"
            "    print('held', flush=True)\n"
            "    while True:\n"
            "        signal.pause()\n"
        )
        process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "arguments", [["--help"], ["launch", "--help"], ["list"], ["init", "--help"], ["completion", "zsh"]]
)
def test_nothing_heavy_is_imported_before_a_verb_needs_it(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from tuner.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert ran.stderr.splitlines()[-1] == "[]"


def test_the_program_is_a_module_too(tmp_path: Path) -> None:
    module = [sys.executable, "-P", "-m", "tuner", "list", "--home", str(tmp_path)]
    ran = subprocess.run(module, capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("", f"no studies in {tmp_path}\n")


def test_help_shows_the_verbs_in_groups_of_one_indentation(tuner: Run) -> None:
    lines = tuner("--help").out.splitlines()
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings[0] == "Options:" and "Commands:" not in headings and len(headings) > 3
    verbs = {command.name or command.callback.__name__ for command in cli.app.registered_commands if command.callback}
    shown = [line for line in lines if line.startswith("  ") and line.split()[0] in verbs]
    assert len(shown) == len(verbs) and len({line.index(line.split()[1], 3) for line in shown}) == 1


def test_help_names_every_verb_with_a_whole_sentence(tuner: Run) -> None:
    answer = tuner("--help")
    assert answer.code == 0
    for verb in (command.name or command.callback.__name__ for command in cli.app.registered_commands):
        (line,) = [line for line in answer.out.splitlines() if line.startswith(f"  {verb} ")]
        assert line.endswith("."), line
        assert not line.endswith("..."), line


@pytest.mark.parametrize("verb", [*READING, "stop", "predict", "ui", "sync"])
def test_a_study_that_does_not_exist_is_wrong_input_with_a_suggestion(verb: str, tuner: Run, home: Path) -> None:
    study(home, "digits-mlp")
    answer = tuner(verb, "digit-mlp", *(["rows.csv"] if verb == "predict" else []))
    assert (answer.code, answer.out) == (2, "")
    assert "digits-mlp" in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("name", ["../one", "", "a" * 300, "One", "-x"])
def test_a_name_that_could_leave_the_home_is_refused(name: str, tuner: Run, home: Path) -> None:
    study(home)
    answer = tuner("results", "--", name)
    assert (answer.code, answer.out) == (2, "")
    assert "Traceback" not in answer.err


def test_results_in_json_is_the_document_of_the_ledger_and_nothing_else(tuner: Run, home: Path) -> None:
    from tuner.history.results import as_json

    folder = study(home)
    answer = tuner("results", "one", "--output", "json")
    with Ledger.open(folder, read_only=True) as ledger:
        assert json.loads(answer.out) == as_json(ledger.history())
    assert (answer.code, answer.err) == (0, "")
    assert json.loads(answer.out)["state"] == "complete"


def test_results_in_csv_has_the_columns_of_the_frame(tuner: Run, home: Path) -> None:
    from tuner.history.results import trials

    folder = study(home)
    rows = list(csv.DictReader(io.StringIO(tuner("results", "one", "--output", "csv").out)))
    with Ledger.open(folder, read_only=True) as ledger:
        frame = trials(ledger.history())
    assert list(rows[0]) == list(frame.columns)
    assert [int(row["number"]) for row in rows] == list(frame["number"])
    assert [row["params.momentum"] for row in rows] == ["", "0.5", ""]


def test_no_cell_of_a_csv_is_a_formula(tuner: Run, home: Path) -> None:
    study(home)
    rows = list(csv.DictReader(io.StringIO(tuner("results", "one", "--output", "csv").out)))
    assert rows[2]["message"] == "'=cmd|' /C calc'!A0"


def test_the_table_of_results_shows_a_line_for_every_trial(tuner: Run, home: Path) -> None:
    study(home)
    head, *lines = tuner("results", "one").out.splitlines()
    assert head.split()[:7] == [
        *("number", "state", "val/accuracy", "best_epoch", "epochs", "learning_rate", "optimizer")
    ]
    assert [line.split()[:3] for line in lines] == [
        ["0", "COMPLETE", "0.75"],
        ["1", "PRUNED", "0.5"],
        ["2", "FAILED", "0"],
    ]


def test_best_is_one_trial_with_its_test_score(tuner: Run, home: Path) -> None:
    study(home)
    found = json.loads(tuner("best", "one", "--output", "json").out)
    assert (found["number"], found["metrics"]) == (0, {"val/accuracy": 0.75, "val/loss": 0.5, "test/accuracy": 0.7})
    assert "test/accuracy         0.7\n" in tuner("best", "one").out
    (row,) = csv.DictReader(io.StringIO(tuner("best", "one", "-o", "csv").out))
    assert row["test/accuracy"] == "0.7"


def test_best_of_a_study_without_a_completed_trial_says_so(tuner: Run, home: Path) -> None:
    study(home, complete=False)
    answer = tuner("best", "one", "--output", "json")
    assert (answer.code, answer.out) == (2, "")
    assert "no completed trial yet" in answer.err


def test_a_study_is_running_only_while_a_process_drives_it(tuner: Run, home: Path) -> None:
    folder = study(home, complete=False)

    def seen() -> tuple[str, str, str, int]:
        listed = json.loads(tuner("list", "-o", "json").out)[0]
        status = json.loads(tuner("status", "one", "-o", "json").out)
        document = json.loads(tuner("results", "one", "-o", "json").out)
        return listed["state"], status["state"], document["state"], status["running"]

    assert seen() == ("interrupted", "interrupted", "interrupted", 0)
    with Ledger.open(folder) as ledger, ledger.lock():
        assert seen() == ("running", "running", "running", 2)
        assert f"{socket.gethostname()}:{os.getpid()}, started " in tuner("status", "one").out
    assert seen() == ("interrupted", "interrupted", "interrupted", 0)


def test_list_and_status_tell_of_every_study_of_the_home(tuner: Run, home: Path) -> None:
    study(home, "b", complete=True)
    study(home, "a", complete=False)
    for verb in ("list", "status"):
        found = json.loads(tuner(verb, "--output", "json").out)
        assert [(row["study"], row["state"], row["best"]) for row in found] == [
            ("a", "interrupted", None),
            ("b", "complete", 0.75),
        ]
        assert [line.split()[0] for line in tuner(verb).out.splitlines()] == ["study", "a", "b"]


@pytest.mark.parametrize("verb", ["list", "status"])
def test_a_home_without_studies_is_no_error(verb: str, tuner: Run) -> None:
    assert json.loads(tuner(verb, "--output", "json").out) == []
    answer = tuner(verb)
    assert (answer.code, answer.out) == (0, "")
    assert "no studies in" in answer.err


def test_a_driver_that_died_before_its_first_event_does_not_hide_the_other_studies(tuner: Run, home: Path) -> None:
    Ledger.create(study_folder(home, "empty")).close()
    study(home)
    assert [row["study"] for row in json.loads(tuner("list", "-o", "json").out)] == ["empty", "one"]
    assert tuner("status", "empty").code == 0
    assert tuner("results", "empty").code == 2


def test_a_damaged_ledger_does_not_hide_the_other_studies(tuner: Run, home: Path) -> None:
    (study(home, "damaged") / "ledger.db").write_bytes(b"no database at all")
    study(home)
    answer = tuner("list", "-o", "json")
    assert [(row["study"], row["state"]) for row in json.loads(answer.out)] == [
        ("damaged", "unreadable"),
        ("one", "complete"),
    ]
    assert "no ledger" in answer.err
    assert tuner("status", "damaged").code == 2


def test_home_is_the_option_before_the_environment(tuner: Run, home: Path) -> None:
    study(home, "here")
    study(home / "other", "there")
    assert [row["study"] for row in json.loads(tuner("list", "-o", "json").out)] == ["here"]
    assert [row["study"] for row in json.loads(tuner("list", "-o", "json", "--home", home / "other").out)] == ["there"]


def test_stop_ends_the_driver_and_says_so(tuner: Run, home: Path, driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "NEAR_SECONDS", PATIENCE)
    folder = study(home, complete=False)
    process = driver(folder, True)
    answer = tuner("stop", "one")
    assert (answer.code, answer.out) == (0, "")
    assert "stopped" in answer.err
    assert process.wait(timeout=PATIENCE) == 143


def test_stop_without_a_driver_signals_nobody(tuner: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = study(home, complete=False)
    (folder / "lock").write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": "then"}))
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a process that holds no lock was signalled"))
    answer = tuner("stop", "one")
    assert (answer.code, answer.out) == (0, "")
    assert "not running" in answer.err


@pytest.mark.parametrize(("pid", "host"), [(4711, "elsewhere"), (0, "unknown"), (0, socket.gethostname())])
def test_stop_never_signals_a_driver_it_cannot_be_sure_of(
    pid: int, host: str, tuner: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study(home, complete=False)
    monkeypatch.setattr(Ledger, "holder", lambda _: {"pid": pid, "host": host, "since": "then"})
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("signalled"))
    monkeypatch.setattr(stopping, "FAR_SECONDS", 0.3)
    answer = tuner("stop", "one")
    assert answer.code == 1
    assert f"process {pid} on {host} still holds study one" in answer.err


def test_stop_admits_that_a_driver_does_not_obey(
    tuner: Run, home: Path, driver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "NEAR_SECONDS", 0.3)
    process = driver(study(home, complete=False), False)
    answer = tuner("stop", "one")
    assert answer.code == 1
    assert f"process {process.pid} on {socket.gethostname()} still holds study one" in answer.err


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A study loop that ends as told; it stands in for the real one to see what the command line does with it."""
    seen: dict[str, Any] = {"state": "complete", "signal": None, "complete": True, "tracking": None}

    class Spec:
        @staticmethod
        def read(path: Path, **how: Any) -> tuple[Path, dict[str, Any]]:
            seen["read"] = (path, how)
            return path, how

    def launch(spec: Any, **how: Any) -> Any:
        seen["how"] = how
        history = History.of([created("one"), *told(complete=seen["complete"])])
        return types.SimpleNamespace(
            name="one",
            folder=Path("one"),
            history=history,
            state=seen["state"],
            signal=seen["signal"],
            tracking=seen["tracking"],
        )

    monkeypatch.setitem(sys.modules, "tuner.spec", types.SimpleNamespace(StudySpec=Spec))
    monkeypatch.setitem(sys.modules, "tuner.study.launch", types.SimpleNamespace(launch=launch))
    return seen


def test_launch_ends_with_the_best_trial_its_test_score_and_the_way_to_the_dashboard(
    tuner: Run, launched: dict[str, Any]
) -> None:
    answer = tuner("launch", "s.yaml", "--home", "elsewhere")
    assert answer.code == 0
    for text in (
        "study one complete: 3 trials (1 complete, 1 pruned, 1 failed)",
        "best trial 0: val/accuracy 0.75 at epoch 1",
        "  learning_rate  0.1",
        "  optimizer      adam",
        "on the test split: test/accuracy 0.7",
        "tuner results one --home elsewhere",
        "tuner ui one --home elsewhere",
    ):
        assert text in answer.out, text


@pytest.mark.parametrize(
    ("tracking", "last"),
    [
        ({"written": 5, "waiting": 0, "error": None}, "MLflow:      up to date"),
        ({"written": 5, "waiting": 1234, "error": "refused"}, "MLflow:      1,234 points waiting; tuner sync one"),
    ],
)
def test_the_last_line_says_whether_all_is_written(
    tracking: dict[str, Any], last: str, tuner: Run, launched: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/tuner")
    monkeypatch.delenv("TUNER_HOME")
    launched["tracking"] = tracking
    assert tuner("launch", "s.yaml").out.splitlines()[-1] == last


def test_a_program_off_the_path_is_named_as_it_was_called(
    tuner: Run, launched: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert "dashboard:   tuner ui one --home" in tuner("launch", "s.yaml", "--home", "a b").out
    monkeypatch.setattr("os.path.relpath", lambda _: "./t")
    assert "dashboard:   ./t ui one --home 'a b'\n" in tuner("launch", "s.yaml", "--home", "a b").out


def test_launch_hands_every_option_on(tuner: Run, launched: dict[str, Any]) -> None:
    sets = ("--set", "train.epochs=3", "--set", "seed=4")
    tuner("launch", "s.yaml", "--name", "n", "--trials", "9", *sets, "--workers", "2", "--home", "h")
    overrides = {"overrides": ["train.epochs=3", "seed=4"], "name": "n", "trials": 9}
    assert launched["read"] == (Path("s.yaml"), overrides)
    assert (launched["how"]["home"], launched["how"]["workers"]) == (Path("h"), 2)


@pytest.mark.parametrize(
    ("state", "number", "code"),
    [
        ("complete", None, 0),
        ("failed", None, 1),
        ("interrupted", signal.SIGINT, 130),
        ("interrupted", signal.SIGTERM, 143),
    ],
)
def test_the_exit_code_tells_how_the_study_ended(
    state: str, number: int | None, code: int, tuner: Run, launched: dict[str, Any]
) -> None:
    launched.update(state=state, signal=number, complete=state == "complete")
    answer = tuner("launch", "s.yaml")
    assert answer.code == code
    assert ("the same command goes on" in answer.out) == (state == "interrupted")


def test_wrong_usage_is_wrong_input_with_a_suggestion(tuner: Run) -> None:
    for arguments, text in (
        (["lauch"], "Did you mean 'launch'?"),
        (["launch", "s.yaml", "--worker", "2"], "No such option: --worker. Did you mean '--workers'?"),
        (["results", "one", "--output", "xml"], "xml"),
        (["launch", "s.yaml", "--workers", "0"], "--workers"),
        (["launch"], "STUDY.yaml"),
    ):
        answer = tuner(*arguments)
        assert (answer.code, answer.out) == (2, "")
        assert text in answer.err


def test_trouble_of_the_machine_is_one_line_and_not_a_traceback(
    tuner: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/somewhere")

    study(home)
    monkeypatch.setattr(Ledger, "examine", refuse)
    answer = tuner("results", "one")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err == "tuner: [Errno 13] Permission denied: '/somewhere'\n"


def test_a_mistake_of_ours_is_shown_as_one(tuner: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study(home)
    monkeypatch.setattr(Ledger, "examine", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tuner("results", "one")


def test_ctrl_c_while_reading_exits_130(tuner: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    study(home)
    monkeypatch.setattr(Ledger, "examine", interrupt)
    assert tuner("results", "one").code == 130


def test_a_reader_that_goes_away_is_no_traceback(home: Path) -> None:
    study(home)
    command = f"{CONSOLE_SCRIPT} results one --home {home} | true; exit ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert ran.returncode in (0, 1), ran.stderr
    assert "Traceback" not in ran.stderr and "Error" not in ran.stderr


def test_folders_of_the_same_names_in_the_working_directory_break_nothing(tmp_path: Path) -> None:
    for package in ("models", "search_spaces", "tuner", "numpy"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise ImportError('somebody else')\n")
    ran = subprocess.run([CONSOLE_SCRIPT, "schema"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_schema_that_editors_read_is_up_to_date(tuner: Run) -> None:
    answer = tuner("schema")
    assert answer.out == (ROOT / "docs" / "study.schema.json").read_text(), (
        "renew it: tuner schema > docs/study.schema.json"
    )


STUDY = """
study: small
seed: 3
data: {source: flowers.csv, target: kind}
model: {family: mlp, depth: 1}
train: {epochs: 2}
search:
  space:
    learning_rate: {type: float, low: 0.001, high: 0.1, log: true}
    width: {type: choice, values: [4, 8]}
    batch_size: {type: choice, values: [8]}
  objective: {metric: val/loss, goal: minimize}
  sampler: {kind: random}
  trials: 3
tracking: {mlflow: "off"}
"""


def script(*arguments: str, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([CONSOLE_SCRIPT, *arguments], capture_output=True, text=True, check=False, **how)


@pytest.fixture
def flowers(home: Path) -> None:
    """A study file and its data in the working directory."""
    Path("study.yaml").write_text(STUDY)
    rows = [f"{i % 7},{(i * 3) % 5},{'=rose' if i % 2 else 'tulip'}" for i in range(60)]
    Path("flowers.csv").write_text("\n".join(["petals,leaves,kind", *rows]) + "\n")
    Path("new.csv").write_text("petals,leaves\n1,2\n3,4\n")


@pytest.mark.usefixtures("flowers")
def test_a_study_goes_from_launch_to_prediction_with_results_on_stdout_and_progress_on_stderr() -> None:
    ran = script("launch", "study.yaml", "--workers", "1")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("study small complete: 3 trials (3 complete, 0 pruned, 0 failed)\n")
    assert "on the test split: test/loss " in ran.stdout
    assert "[3/3] trial" in ran.stderr
    assert "[3/3] trial" not in ran.stdout

    found = json.loads(script("best", "small", "--output", "json").stdout)
    assert {"val/loss", "test/loss", "test/accuracy"} <= found["metrics"].keys()
    predicted = script("predict", "small", "new.csv")
    rows = list(csv.DictReader(io.StringIO(predicted.stdout)))
    assert {row["prediction"] for row in rows} <= {"'=rose", "tulip"}
    assert [round(float(row["probability_=rose"]) + float(row["probability_tulip"]), 6) for row in rows] == [1.0, 1.0]


@pytest.mark.slow
@pytest.mark.usefixtures("flowers")
def test_sync_writes_to_the_store_that_the_study_was_launched_with() -> None:
    place = Path("elsewhere/mlflow.db").absolute()
    place.parent.mkdir()
    ran = script("launch", "study.yaml", "--set", f"tracking.mlflow=sqlite:///{place}")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "MLflow:      up to date"
    place.unlink()
    synced = script("sync", "small")
    assert synced.returncode == 0, synced.stderr
    assert synced.stdout.startswith("small: everything is in MLflow (")
    assert place.exists()
    assert not Path("tuner-home/mlflow").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("flowers")
def test_sync_says_what_waits_while_the_server_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    assert script("launch", "study.yaml").returncode == 0
    synced = script("sync", "small", "--mlflow", "http://127.0.0.1:9")
    assert (synced.returncode, synced.stdout) == (1, "")
    assert "points waiting" in synced.stderr
