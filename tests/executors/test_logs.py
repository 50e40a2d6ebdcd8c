"""What trials printed and why they failed: kept whole, told apart by trial, and shown by `tuner logs`."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import studies
from tests.crews import Begin, begin_local, begin_on_ray, of, rows, small_ray, train, work
from tests.servers import PATIENCE, until
from tests.stories import Story
from tuner.errors import InputError, first_line, trace
from tuner.events import Asked, Failed, Grouped, Lost, State
from tuner.executors.protocol import Done, Trouble
from tuner.executors.worker_log import log_path
from tuner.ledger import Ledger, study_folder
from tuner.logs import Logs

NETWORK = """
import os
import sys
from torch import nn
from beside import spread

class Net(nn.Module):
    def __init__(self, signature, width: int = 8):
        super().__init__()
        self.width = width
        self.f = nn.Sequential(nn.Linear(30, width), nn.ReLU(), nn.Linear(width, 2))
        self.told = False

    def forward(self, x):
        if self.training and len(x) > 2 and not self.told:
            self.told = True
            print(f"width {self.width} says {self.f[0].out_features}")
            print("a warning", file=sys.stderr)
            os.system("echo from beneath Python")
            print("without an end", end="")
            if self.width == 16:
                spread(x)
        return self.f(x)
"""
LATE = NETWORK.replace("self.told = False", "self.told, self.steps = False, 0").replace(
    "if self.training and len(x) > 2",  # after the few steps in which a launch tries a network
    "if self.training and setattr(self, 'steps', self.steps + 1) is None and self.steps > 4",
)
BESIDE = """
def spread(x):
    raise ValueError("Expected more than 1 value per channel")
"""
SPACE = {"width": {"type": "choice", "values": [8, 16]}}
ALL_FAIL = {"width": {"type": "choice", "values": [16]}}
RAISES = 1 + NETWORK.splitlines().index("                spread(x)")
PRINTED = ["width {0} says {0}", "a warning", "from beneath Python", "without an end"]


def written(folder: Path, network: str = NETWORK) -> Path:
    (folder / "net.py").write_text(network)
    (folder / "beside.py").write_text(BESIDE)
    return folder


def content(**changes: Any) -> dict[str, Any]:
    made = studies.study(train={"epochs": 2}, **changes)
    made["model"] = {"family": "net.py:Net"}
    made["search"] |= {"trials": 6, "space": {"width": {"type": "choice", "values": [8, 16]}}} | changes.get(
        "search", {}
    )
    return made


def tuner(*words: object, expect: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-c", "from tuner.cli import main; main()", *map(str, words)]
    how: dict[str, Any] = {"capture_output": True, "text": True, "timeout": PATIENCE, "env": studies.environment()}
    done = subprocess.run(command, check=False, **how)
    assert done.returncode == expect, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a study of which some trials print, and others print and fail."""
    folder = tmp_path_factory.mktemp("study")
    path = studies.write(written(folder), content(run={"workers": 2}))
    studies.start(path, folder / "home").communicate(timeout=240)
    return folder / "home"


def test_every_line_that_a_trial_printed_is_marked_with_it_and_a_failed_ones_traceback_is_whole(home: Path) -> None:
    history = studies.history(home)
    assert 0 < history.count(State.FAILED) < 6
    lines = tuner("logs", "small", "--home", home).stdout.splitlines()
    for number, trial in history.trials.items():
        width = trial.params["width"]
        one = tuner("logs", "small", "--home", home, "--trial", number).stdout.splitlines()
        assert set(one) <= set(lines)
        said = [line.partition(" | ")[2] for line in one]
        assert said[: len(PRINTED)] == [line.format(width) for line in PRINTED]
        assert all(str(number) in line.partition(" | ")[0] for line in one)
        if trial.state is State.FAILED:
            assert said[len(PRINTED)] == "Traceback (most recent call last):"
            assert said[-1] == "ValueError: Expected more than 1 value per channel"
            frames = "\n".join(said)
            assert f'net.py", line {RAISES}, in forward' in frames and 'beside.py", line 3, in spread' in frames
            assert "spread(x)" in frames and "site-packages" in frames and "loop.py" in frames
        else:
            assert len(said) == len(PRINTED)


def test_a_trial_that_is_not_there_is_wrong_input(home: Path) -> None:
    wrong = tuner("logs", "small", "--home", home, "--trial", 6, expect=2)
    assert wrong.stderr == "--trial 6: study small has trials 0 to 5\n" and not wrong.stdout
    assert "small" in tuner("logs", "smal", "--home", home, expect=2).stderr
    assert "leave out --cluster" in tuner("logs", "small", "--cluster", "h", "--trial", 1, expect=2).stderr


KINDS: dict[str, Begin] = {"local": begin_local, "ray": begin_on_ray}


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with small_ray() as found:
        yield found


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_cohort_prints_is_in_the_studys_folder_when_its_end_is_told(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "ray":
        request.getfixturevalue("ray")
    written(tmp_path)
    network = {name: (tmp_path / name).read_bytes() for name in ("net.py", "beside.py")}
    told = {"family": "net.py:Net", "folder": str(tmp_path)}
    seen: dict[int, list[str]] = {}

    def look(message: Any) -> None:
        if isinstance(message, Done | Trouble):
            seen[message.cohort] = log_path(tmp_path, 0).read_text().split("\n")

    with contextlib.closing(KINDS[kind](tmp_path, network=network)) as executor:
        good = work(0, rows(0.1, 0.2, first=3), **told)
        bad = work(1, [row_of(5, 16)], **told)
        said = train(executor, [good, bad], watch=look)
    assert of(Done, said[0]), said
    (trouble,) = of(Trouble, said[1])
    assert trouble.message == "ValueError: Expected more than 1 value per channel (beside.py:3)"
    assert trouble.trace.endswith("ValueError: Expected more than 1 value per channel")
    assert 'beside.py", line 3, in spread\n    raise ValueError(' in trouble.trace
    for cohort, trials, width in ((0, "3,4", 8), (1, "5", 16)):
        start = next(i for i, line in enumerate(seen[cohort]) if line.endswith(f" {trials}") and "\x1e" in line)
        assert seen[cohort][start + 1 : start + 4] == [line.format(width) for line in PRINTED[:3]]
        assert seen[cohort][start + 4].startswith(PRINTED[3])


def row_of(trial: int, width: int) -> Any:
    (row,) = rows(0.1, first=trial)
    return type(row)(row.number, row.seed, {"width": width}, row.config)


def test_a_worker_that_crashes_leaves_what_it_printed_and_where_it_crashed(tmp_path: Path) -> None:
    """The next one, of this launch or another, adds to it."""
    crash = LATE.replace("spread(x)", "os.kill(os.getpid(), 11)")
    made = content(search={"trials": 1, "space": ALL_FAIL})
    made["train"]["batch_size"] = 64
    path = studies.write(written(tmp_path, crash), made)
    studies.run(path, tmp_path / "home", expect=1)
    (trial,) = studies.history(tmp_path / "home").trials.values()
    assert "signal 11" in trial.message
    said = [line.partition(" | ") for line in tuner("logs", "small", "--home", tmp_path / "home").stdout.splitlines()]
    text = [line for source, _, line in said if source == "trial 0"]
    assert text.count("width 16 says 16") == 3 and sum("Segmentation fault" in line for line in text) == 3
    assert any(f'net.py", line {RAISES} in forward' in line for line in text)
    assert text[-1] == trial.message


def test_follow_goes_on_until_the_study_ends_and_exits_as_its_launch_does(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    waits = f"while not os.path.exists({str(gate)!r}): pass"
    waiting = LATE.replace("if self.width == 16:", f"{waits}\n            if self.width == 16:")
    made = content(search={"trials": 2, "space": ALL_FAIL})
    made["train"]["batch_size"] = 64
    path = studies.write(written(tmp_path, waiting), made)
    launched = studies.start(path, tmp_path / "home")
    log = log_path(study_folder(tmp_path / "home", "small"), 0)
    until(lambda: log.exists() and "from beneath" in log.read_text(), launched)
    command = [sys.executable, "-P", "-c", "from tuner.cli import main; main()", "logs", "small", "-f"]
    follower = subprocess.Popen(
        [*command, "--home", str(tmp_path / "home")], stdout=subprocess.PIPE, text=True, env=studies.environment()
    )
    assert follower.stdout is not None
    assert "width 16 says 16" in next(line for line in follower.stdout if line.startswith("trial"))
    assert launched.poll() is None
    gate.touch()
    rest, _ = follower.communicate(timeout=PATIENCE)
    launched.communicate(timeout=PATIENCE)
    assert (launched.returncode, follower.returncode) == (1, 1)
    assert sum("ValueError: Expected more than 1 value per channel" in line for line in rest.splitlines()) == 2


# --- how lines are told apart -----------------------------------------------------------------------------


def lines(folder: Path, trial: int | None = None, *, whole: bool = True) -> list[str]:
    with Ledger.open(folder, read_only=True) as ledger:
        return [line for section in Logs(ledger, trial).new(whole=whole) for line in section.lines()]


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    story = Story(tmp_path, "told")
    with story.ledger:
        asked = [Asked(n, params={"width": 8}, seed=n) for n in range(4)]
        grouped = Grouped(0, trials=[0, 1, 2, 3], structure={}, company=True)
        story.ledger.append([*asked, grouped])
        (story.folder / "logs").mkdir(exist_ok=True)
        yield story


def test_what_moves_a_cursor_is_shown_as_it_was_seen_at_last(story: Story) -> None:
    log_path(story.folder, 0).write_bytes(
        b"loading\n\x1e10.5 0,3\n 10%\r 50%\r100%\n\x1b[31mred\x1b[0m \xff\x07\nno end\x1e11.0 \nidle\n\x1e12.0 1\n"
    )
    assert lines(story.folder) == [
        "worker 0 | loading",
        "trials 0, 3 | 100%",
        "trials 0, 3 | red \ufffd",
        "trials 0, 3 | no end",
        "worker 0 | idle",
    ]
    assert lines(story.folder, 3) == ["trials 0, 3 | 100%", "trials 0, 3 | red \ufffd", "trials 0, 3 | no end"]
    assert lines(story.folder, 1) == []


def test_workers_take_turns_in_the_order_in_which_their_cohorts_began(story: Story) -> None:
    log_path(story.folder, 0).write_bytes(b"\x1e10.0 0\nfirst\n\x1e30.0 2\nthird\n")
    log_path(story.folder, 1).write_bytes(b"\x1e20.0 1\nsecond\n\x1e40.0 3\nfourth\n")
    words = ("first", "second", "third", "fourth")
    assert lines(story.folder) == [f"trial {n} | {word}" for n, word in enumerate(words)]


def test_a_line_that_is_still_being_written_waits_for_its_end(story: Story) -> None:
    log = log_path(story.folder, 0)
    log.write_bytes(b"\x1e10.0 0\nwhole\nhal")
    told = Logs(story.ledger)
    assert [line for section in told.new() for line in section.lines()] == ["trial 0 | whole"]
    with log.open("ab") as file:
        file.write(b"f\nleft")
    assert [line for section in told.new() for line in section.lines()] == ["trial 0 | half"]
    assert [line for section in told.new(whole=True) for line in section.lines()] == ["trial 0 | left"]
    assert told.new(whole=True) == []


def test_trials_that_an_error_ended_together_have_one_traceback_and_others_their_message(story: Story) -> None:
    broken = {"message": "ValueError: no (net.py:1)", "traceback": "Traceback\nValueError: no"}
    story.ledger.append([Lost(0, attempt=1, message="worker 0 lost (signal 9)")])
    story.ledger.append([Failed(n, **broken) for n in (0, 2)])
    story.ledger.append([Failed(3, **broken), Failed(1, message="diverged")])
    assert lines(story.folder) == [
        "trials 0, 1, 2, 3 | worker 0 lost (signal 9)",
        "trials 0, 2 | Traceback",
        "trials 0, 2 | ValueError: no",
        "trial 3 | Traceback",
        "trial 3 | ValueError: no",
        "trial 1 | diverged",
    ]
    with pytest.raises(InputError, match="study told has trials 0 to 3"):
        lines(story.folder, 4)


# --- tracebacks ---------------------------------------------------------------------------------------


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def raised(error: Exception) -> Exception:
    password = "not to be told"
    with pytest.raises(type(error)) as caught:
        raise_with(error, password)
    found: Exception = caught.value
    return found


def raise_with(error: Exception, secret: str) -> None:
    assert secret
    raise error


def test_a_traceback_is_as_python_prints_it_and_holds_no_variables_value() -> None:
    text = trace(raised(ValueError("two\nlines \x1b[2J \ud800")))
    assert text.startswith("Traceback (most recent call last):\n") and text.endswith("ValueError: two\nlines  [2J ?")
    assert "in raise_with\n    raise error" in text and "not to be told" not in text
    assert len(trace(raised(ValueError("x" * 10**6)))) < 110_000
    assert "characters left out" in trace(raised(ValueError("x" * 10**6)))


def test_an_error_that_cannot_say_what_it_is_is_told_by_its_class() -> None:
    assert first_line(raised(Mute())) == "Mute"
    assert "Mute" in trace(raised(Mute()))


# --- an actor's own log -------------------------------------------------------------------------------

CAPTURE = """
import os, sys
from tuner.executors import worker_log
from tuner.executors.worker_log import Capture, mark
worker_log._LONGEST, worker_log._PIECE = 100, 64
keep = os.dup(1)
capture = Capture()
for number in range(30):
    mark([number])
    print("line", number)
    os.system(f"echo below {number}")
said = b""
while piece := capture.take():
    said += piece
print("and more")
said += capture.take()
os.write(keep, said)
"""


def test_what_an_actor_says_is_taken_piece_by_piece_and_nothing_is_lost() -> None:
    done = subprocess.run([sys.executable, "-c", CAPTURE], capture_output=True, check=True, timeout=60)
    seen = [line for line in done.stdout.decode().split("\n") if line and "\x1e" not in line]
    assert seen == [line for n in range(30) for line in (f"line {n}", f"below {n}")] + ["and more"]
    assert done.stdout.count(b"\x1e") == 30
