"""How the workers of this machine begin: as copies of the driver where that is safe, else from nothing."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import tuner
from tests import studies
from tests.forks import Forks, ran
from tests.servers import PATIENCE
from tuner.executors import local
from tuner.executors.local import LocalExecutor
from tuner.terminal.progress import PlainProgress
from tuner.workloads.base import Setup
from tuner.workloads.network.runner import NetworkSetup

linux = pytest.mark.skipif(sys.platform != "linux", reason="workers are copies of the driver on Linux alone")

NOTED = """
import os, sys
from tuner.executors import local

name = lambda pid: open(f"/proc/{pid}/cmdline").read()
fork = local.PreforkedWorkers._fork
def note(self, *arguments):
    process, line = fork(self, *arguments)
    print("copied" if name(process.pid) == name(os.getpid()) else name(process.pid), file=sys.stderr)
    return process, line
local.PreforkedWorkers._fork = note
from tuner.cli import main
main()
"""


@linux
def test_a_launch_from_the_command_line_copies_itself_and_gives_the_numbers_of_workers_that_begin_from_nothing(
    tmp_path: Path,
) -> None:
    path = studies.write(tmp_path, studies.study(run={"workers": 2}, search={"trials": 6}, train={"epochs": 3}))
    command = [sys.executable, "-P", "-c", NOTED, "launch", str(path), "--home", str(tmp_path / "copied")]
    ran = subprocess.run(
        command, capture_output=True, text=True, env=studies.environment(), check=False, timeout=PATIENCE
    )
    assert ran.returncode == 0, ran.stderr
    assert [line for line in ran.stderr.splitlines() if line == "copied"] == ["copied", "copied"]
    spawned = tuner.launch(path, home=tmp_path / "spawned", progress=PlainProgress())
    assert studies.facts(studies.history(tmp_path / "copied")) == studies.facts(spawned.history)


REFUSED = """
import sys, psutil
from tuner import study
from tuner.executors import local

seen = []
fork = local.PreforkedWorkers._fork
def note(self, *arguments):
    seen.append(fork(self, *arguments))
    return seen[-1]
local.PreforkedWorkers._fork = note
from tuner.cli import main
try:
    main()
finally:
    print(len(seen), "copied,", len(psutil.Process().children()), "left", file=sys.stderr)
"""


@linux
def test_a_launch_that_is_refused_leaves_no_worker(forks: Forks, tmp_path: Path) -> None:
    def refused(content: dict[str, Any], code: int) -> str:
        path = studies.write(tmp_path, content)
        return ran(forks.run(REFUSED, "launch", str(path), "--home", str(tmp_path / "home")), code)

    content = studies.study(run={"workers": 2}, search={"trials": 2}, train={"epochs": 1})
    wrong = studies.study(run={"workers": 2}, train={"batch_size": 100_000})
    wrong["search"]["space"].pop("batch_size")
    assert "0 copied, 0 left" in refused(wrong, 2)
    assert not (tmp_path / "home").exists()
    assert "2 copied, 0 left" in refused(content, 0)
    assert "2 copied, 0 left" in refused({**content, "seed": 4}, 2)


def test_no_copy_is_made_of_a_process_with_threads_nor_for_a_gpu() -> None:
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    try:
        assert not local.forks("cpu")
        assert not local.forks("cuda")
    finally:
        ended.set()
        thread.join()


def test_a_script_that_launches_is_never_copied_unasked(forks: Forks, tmp_path: Path) -> None:
    code = (
        "import os, sys, tuner\n"
        "os.fork = lambda: sys.exit('a copy was made')\n"  # it could be: this process has a single thread
        "assert len(os.listdir('/proc/self/task')) == 1\n"
        "study = tuner.launch(sys.argv[1], home=sys.argv[2])\n"
        "assert study.state == 'complete'\n"
    )
    path = studies.write(tmp_path, studies.study(search={"trials": 2}, train={"epochs": 1}))
    ran(forks.run(code, str(path), str(tmp_path)))


def test_spare_cores_are_told_of_once_workers_are_ready_and_have_nothing_to_train(tmp_path: Path) -> None:
    spare: list[bool] = []
    setup = Setup("network", NetworkSetup({"source": "breast_cancer"}), str(tmp_path), "cpu", 1)
    with contextlib.closing(LocalExecutor([setup], cores=1, spare=lambda: spare.append(True))) as executor:
        while not executor.receive(1.0):
            assert spare == []
        executor.receive(0.0)
        assert spare == [True]


@pytest.mark.slow
def test_what_crowning_imports_is_there_when_it_was_prepared() -> None:
    """Else the end of a study waits for torch.export and what comes with it."""
    code = (
        "import io, sys, torch\n"
        "from tuner.inference import champion_writer\n"
        "from tests import zoo\n"
        "from tuner.startup import ImportAhead\n"
        "from tuner.workloads.network.workload import NetworkWorkload\n"
        "ImportAhead(NetworkWorkload.needed_at_the_end).wait()\n"
        "before = set(sys.modules)\n"
        "signature = zoo.Signature('classification', 'numbers', (30,), 2)\n"
        "program = champion_writer._program(torch.nn.Linear(30, 2), signature)\n"
        "torch.export.save(program, io.BytesIO())\n"
        "import pandas\n"
        "print(len(before), len(set(sys.modules) - before))\n"
    )
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True)
    known, new = map(int, ran.stdout.split())
    assert new < known / 20
