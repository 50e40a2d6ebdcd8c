"""Code that fails, each way as a function and as a command: what is told, the traceback, and no other trial harmed.

Of each kind there is one study. Every second trial of it is bad, in a way of its own; the others are good.
"""

from __future__ import annotations

import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.programs import content, launch, left, states
from tests.servers import until
from tuner.events import Failed, State
from tuner.history.fold import TrialHistory
from tuner.ledger import Ledger, study_folder

pytestmark = pytest.mark.xdist_group("bad code")
KINDS = ("function", "command")
WITHOUT_REPORT = "it ended without a report; report val/loss, or return it"
MAIN = """
def train(trial):
    if trial.number % 2:
        trial.report({"val/loss": 1.0})
    else:
        globals()[f"case_{trial.number // 2}"](trial)

if __name__ == "__main__":
    import tuner
    train(tuner.current_trial())
"""


@dataclass(frozen=True)
class Case:
    """A trial's code, the place that it is to blame for marked `# here`; what is told where no `error` is raised.

    An `error` is told of a function with the place, and of a command behind its exit code.
    """

    code: str
    error: str = ""
    function: str = ""
    command: str = ""


CASES = {
    "raises at epoch 3": Case(
        """
        for epoch in range(4):
            if epoch == 2:
                raise ValueError("too deep")  # here
            trial.report({"val/loss": 1.0})
        """,
        error="ValueError: too deep",
    ),
    "raises in what it calls": Case(
        """
        def inner(depth):
            return 1 / depth  # here
        inner(0)
        """,
        error="ZeroDivisionError: division by zero",
    ),
    "a package is missing": Case(
        "import nothing_of_that_name  # here",
        error="ModuleNotFoundError: No module named 'nothing_of_that_name'",
    ),
    "no number": Case(
        "trial.report({'val/loss': float('nan')})",
        function="diverged at epoch 1 (val/loss=nan)",
        command="diverged at epoch 1 (val/loss=nan)",
    ),
    "epoch 2 before 1": Case(
        "trial.report({'val/loss': 1.0}, epoch=2)  # here",
        error="ValueError: expected a report of epoch 1 next, got epoch 2 (out of its order); or leave it out",
    ),
    "epoch 1 twice": Case(
        """
        trial.report({'val/loss': 1.0}, epoch=1)
        trial.report({'val/loss': 1.0}, epoch=1)  # here
        """,
        error="ValueError: expected a report of epoch 2 next, got epoch 1 (reported already); or leave it out",
    ),
    "another metric": Case(
        "trial.report({'loss': 1.0})",
        function="it never reported val/loss, the study's objective; reports are told by their exact name",
        command="it never reported val/loss, the study's objective; reports are told by their exact name",
    ),
    "fills the disk": Case(
        """
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(bytes(10))  # here
        """,
        error="OSError: [Errno 28] No space left on device",
    ),
    "its checkpoint finds no room": Case(
        """
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        for _ in range(trial.epochs):
            trial.report({'val/loss': 1.0}, checkpoint={'state': 'x' * 1_000_000})  # here
        """,
        error="OSError: [Errno 27] File too large",
    ),
    "no report": Case("return", function=WITHOUT_REPORT, command=WITHOUT_REPORT),
    "ends its process": Case(
        "import os; os._exit(0)", function="its process ended with exit code 0", command=WITHOUT_REPORT
    ),
    "sys.exit(3)": Case(
        "import sys; sys.exit(3)  # here",
        function="SystemExit: 3 (train.py:{line}); it ends the program: keep argparse and sys.exit behind",
        command="its process ended with exit code 3",
    ),
    "aborts": Case(
        "import os; os.abort()",
        function="its process was ended by SIGABRT",
        command="its process was ended by SIGABRT",
    ),
}


def written() -> str:
    """All cases as one file."""
    bodies = [textwrap.indent(textwrap.dedent(case.code).strip(), "    ") for case in CASES.values()]
    return "\n".join(f"def case_{number}(trial):\n{body}\n" for number, body in enumerate(bodies)) + MAIN


def run(kind: str) -> dict[str, Any]:
    return {"function": "train.py:train"} if kind == "function" else {"command": [sys.executable, "train.py"]}


@dataclass(frozen=True)
class Told:
    """A study to its end: its trials and their tracebacks, by number."""

    kind: str
    trials: dict[int, TrialHistory]
    tracebacks: dict[int, str]


@pytest.fixture(scope="module", params=KINDS)
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("bad")
    (folder / "train.py").write_text(written())
    trial = {**run(request.param), "epochs": 4, "retries": 0}
    study, _ = launch(folder, content(trial, trials=2 * len(CASES)))
    until(lambda: not left(study))
    with Ledger.open(study_folder(folder / "home", "own"), read_only=True) as ledger:
        failed = {event.trial: event.traceback for event in ledger.read() if isinstance(event, Failed)}
    return Told(request.param, study.history.trials, failed)


@pytest.mark.parametrize("what", CASES)
def test_bad_code_fails_its_own_trial_with_a_plain_message_and_its_place(what: str, told: Told) -> None:
    number, case = 2 * [*CASES].index(what), CASES[what]
    trial = told.trials[number]
    assert trial.state is State.FAILED
    assert told.trials[number + 1].state is State.COMPLETE, told.trials[number + 1].message
    lines = written().splitlines()
    begin = lines.index(f"def case_{number // 2}(trial):")
    line = next((n for n, text in enumerate(lines[begin:], begin + 1) if text.endswith("# here")), None)
    if case.error:
        expected = f"{case.error} (train.py:{line})"
        if told.kind == "command":
            expected = f"its process ended with exit code 1: {case.error}"
        assert trial.message == expected
        traceback = told.tracebacks[number]
        assert f'train.py", line {line}' in traceback and case.error in traceback
    else:
        expected = (case.function if told.kind == "function" else case.command).format(line=line)
        assert trial.message.startswith(expected)


ODD = {
    "prints megabytes": "import sys; print('x' * 3_000_000); print('y' * 3_000_000, file=sys.stderr)",
    "prints what is no text": "import os; os.write(1, bytes(range(256)) * 100)",
    "changes the folder": "import os; os.chdir('/')",
    "closes stdout": "import sys; sys.stdout.close()",
    "closes its first three files": "import os; [os.close(n) for n in (0, 1, 2)]",
    "forks children": "import subprocess; subprocess.Popen(['sleep', '600'])",
    "begins a daemon": "import subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True)",
    "forks itself": "import os, signal; os.fork() or signal.pause()",
    "ignores SIGTERM": "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "changes its environment": "import os; os.environ.clear()",
    "draws threads": "import threading, time; threading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
}


@pytest.mark.parametrize("kind", KINDS)
def test_odd_code_ends_well_and_leaves_nothing_running(kind: str, tmp_path: Path) -> None:
    bodies = "".join(f"def case_{number}(trial):\n    {body}\n" for number, body in enumerate(ODD.values()))
    reporting = (
        "\ndef train(trial):\n    globals()[f'case_{trial.number}'](trial)\n    trial.report({'val/loss': 1.0})\n"
    )
    (tmp_path / "train.py").write_text(bodies + reporting + MAIN[MAIN.index("\nif __name__") :])
    study, _ = launch(tmp_path, content({**run(kind), "epochs": 1, "retries": 0}, trials=len(ODD)))
    ends = dict(zip(ODD, study.history.trials.values(), strict=True))
    assert {what: trial.message for what, trial in ends.items() if trial.state is not State.COMPLETE} == {}
    until(lambda: not left(study))


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_raises_when_it_is_imported_fails_every_trial_at_its_line(kind: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("\nraise RuntimeError('no such luck')\ndef train(trial): ...\n")
    study, _ = launch(tmp_path, content({**run(kind), "retries": 0}, trials=2))
    assert states(study) == {State.FAILED: 2}
    expected = {
        "function": "RuntimeError: no such luck (train.py:2)",
        "command": "its process ended with exit code 1: RuntimeError: no such luck",
    }
    assert {trial.message for trial in study.history.trials.values()} == {expected[kind]}
    with Ledger.open(study.folder, read_only=True) as ledger:
        tracebacks = [event.traceback for event in ledger.read() if isinstance(event, Failed)]
    assert len(tracebacks) == 2 and all('train.py", line 2' in traceback for traceback in tracebacks)


STUBBORN = """
import signal, subprocess
def train(trial):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen(["sleep", "600"])
    while True:
        try:
            trial.report({"val/loss": trial.number + 1.0})
            if trial.number:
                signal.pause()  # a command, which is told by a signal alone
            if trial.epoch == trial.epochs:
                return
        except BaseException:
            signal.pause()
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_trial_that_heeds_no_stop_is_ended_when_its_grace_is_over(kind: str, tmp_path: Path) -> None:
    """All but the first are pruned: a function that catches its stop, and a command that ignores SIGTERM."""
    (tmp_path / "train.py").write_text(STUBBORN + MAIN[MAIN.index("\nif __name__") :])
    pruner = {"kind": "median", "startup": 1}
    study, _ = launch(tmp_path, content({**run(kind), "epochs": 3, "grace": 0.1}, trials=3, pruner=pruner))
    assert states(study) == {State.COMPLETE: 1, State.PRUNED: 2}
    assert [trial.epochs for trial in study.history.trials.values()] == [3, 1, 1]
    until(lambda: not left(study))


def test_messages_of_a_command_that_says_nothing_in_python(tmp_path: Path) -> None:
    """A shell's own words, where there is no traceback."""
    words = [
        "no-such-program",
        "cd /nowhere",
        "exec 1>&- 2>&-; exit 7",
        "cat /dev/zero > /dev/full",
        "rm $TUNER_REPORT; sleep 600",
    ]
    script = "case {number} in " + " ".join(f"{number}) {text};;" for number, text in enumerate(words))
    trial = {"command": ["sh", "-c", f"{script} *) echo '{{\"val/loss\": 1}}' >> $TUNER_REPORT;; esac"], "retries": 0}
    study, _ = launch(tmp_path, content(trial, trials=6))
    messages = [trial.message for trial in study.history.trials.values()]
    assert messages[0].startswith("its process ended with exit code 127: ") and "no-such-program" in messages[0]
    assert messages[1].startswith("its process ended with exit code 2: ") and "/nowhere" in messages[1]
    assert messages[2] == "its process ended with exit code 7"
    assert "No space left on device" in messages[3]
    assert messages[4] == "the file of its reports cannot be read: No such file or directory; was it removed?"
    assert states(study) == {State.FAILED: 5, State.COMPLETE: 1}
    until(lambda: not left(study))
