"""Commands that are no Python: a program in C, and the shell script of examples/shell."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import tuner
from tests.programs import content, launch, left, states
from tests.servers import until
from tests.study.test_study import Silent
from tuner.events import State
from tuner.spec import StudySpec

EXAMPLE = Path(__file__).parents[2] / "examples" / "shell"

PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* train RATE EPOCHS WAIT: the way down from 1 on x * x; it waits for its end after the epoch WAIT. */
int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "expected train RATE EPOCHS WAIT\n");
        return 2;
    }
    double rate = strtod(argv[1], NULL), x = 1.0;
    int epochs = atoi(argv[2]), wait = atoi(argv[3]);
    FILE *report = fopen(getenv("TUNER_REPORT"), "a");
    if (report == NULL) {
        perror("TUNER_REPORT");
        return 1;
    }
    for (int epoch = 1; epoch <= epochs; epoch++) {
        x -= rate * 2.0 * x;
        fprintf(report, "{\"epoch\": %d, \"val/loss\": %.17g}\n", epoch, x * x);
        fflush(report);
        if (epoch == wait)
            pause();
    }
    return fclose(report) == 0 ? 0 : 1;
}
"""


@pytest.fixture
def compiled(tmp_path: Path) -> Path:
    """The folder of the program, compiled."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (cc)")
    (tmp_path / "train.c").write_text(PROGRAM)
    subprocess.run([compiler, "-o", "train", "train.c"], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


def test_a_program_in_c_is_tuned_with_the_numbers_that_it_reports(compiled: Path) -> None:
    trial = {"command": ["./train", "{rate}", "{epochs}", "0"], "epochs": 3, "retries": 0}
    study, _ = launch(compiled, content(trial, trials=2))
    assert states(study) == {State.COMPLETE: 2}
    for one in study.history.trials.values():
        slope = 1.0 - 2.0 * float(one.params["rate"])
        assert sorted(one.reports) == [1, 2, 3]
        assert [one.reports[e]["val/loss"] for e in (1, 2, 3)] == pytest.approx([slope ** (2 * e) for e in (1, 2, 3)])


def test_a_program_in_c_that_is_called_wrongly_says_so_and_another_is_ended_where_it_is_stopped(compiled: Path) -> None:
    trial = {"command": ["./train", "{rate}"], "epochs": 3, "retries": 0}
    study, _ = launch(compiled, content(trial, trials=2), "wrong")
    messages = {trial.message for trial in study.history.trials.values()}
    assert messages == {"its process ended with exit code 2: expected train RATE EPOCHS WAIT"}
    # The second trial waits after its first epoch, where it is worse than the first one was, until SIGTERM comes.
    trial = {"command": ["./train", "{rate}", "{epochs}", "{wait}"], "epochs": 3, "retries": 0}
    start = [{"rate": 0.4, "wait": 0}, {"rate": 0.1, "wait": 1}]
    written = content(trial, trials=2, pruner={"kind": "median", "startup": 1}, start_with=start)
    written["search"]["space"] = {**written["search"]["space"], "wait": {"type": "choice", "values": [0, 1]}}
    study, _ = launch(compiled, written, "stopped")
    assert [(trial.state, trial.epochs) for trial in study.history.trials.values()] == [
        (State.COMPLETE, 3),
        (State.PRUNED, 1),
    ]
    until(lambda: not left(study))


def test_the_example_of_a_shell_script_finds_the_valley(tmp_path: Path) -> None:
    assert sorted(path.name for path in EXAMPLE.iterdir()) == ["study.yaml", "train.sh"]
    assert "python" not in (EXAMPLE / "train.sh").read_text()
    spec = StudySpec.read(EXAMPLE / "study.yaml", overrides=["tracking.mlflow=off"], trials=2)
    study = tuner.launch(spec, home=tmp_path, progress=Silent())
    assert sum(states(study).values()) == 2
    for one in study.history.trials.values():
        assert one.state is State.COMPLETE, one.message
        assert sorted(one.reports) == [*range(1, 21)] and one.reports[20].keys() == {"loss", "x", "y"}
        assert one.reports[20]["loss"] < one.reports[1]["loss"]
        assert {"learning_rate", "momentum"} == one.params.keys()
    until(lambda: not left(study))
