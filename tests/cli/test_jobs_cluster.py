"""Studies handed over to a cluster that is really there: `ray start --head` with a token, and its job server."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests import studies
from tests.crews import private_ray
from tests.executors.test_ray_nodes import started
from tests.servers import PATIENCE, until
from tuner.executors.local import NAME

BIN = Path(sys.executable).parent
DASHBOARD = "--dashboard-host=127.0.0.1"


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@pytest.mark.slow
def test_a_study_is_handed_over_heard_stopped_and_handed_over_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray.dashboard.optional_deps", reason="Ray's job server needs ray[default]")
    port, dashboard = free_ports(2)
    cluster = ["--cluster", f"127.0.0.1:{dashboard}"]
    home = tmp_path / "home"
    # What the cluster's own processes are to find: our console script, and the home where its drivers keep studies.
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TUNER_HOME", str(home))

    def tuner(*words: str, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [BIN / "tuner", *words], capture_output=True, text=True, check=False, timeout=PATIENCE, cwd=tmp_path
        )
        assert expect in (None, done.returncode), done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def states() -> list[str]:
        return [row["state"] for row in json.loads(tuner("status", "small", *cluster, "--output", "json").stdout)]

    def epochs() -> int:
        with contextlib.suppress(LookupError, OSError):
            return sum(trial.epochs for trial in studies.history(home).trials.values())
        return 0

    path = studies.write(tmp_path, studies.study(search={"trials": 4}, train={"epochs": 1_000}))
    with private_ray(RAY_AUTH_MODE="token"), started(port, DASHBOARD, f"--dashboard-port={dashboard}") as ray:
        until(lambda: tuner("status", *cluster, expect=None).returncode == 0)
        assert "no studies on" in tuner("status", *cluster).stderr
        assert tuner("logs", "small", *cluster, expect=2).stderr.startswith("no study 'small' on")
        tuner("submit", path.name, *cluster)
        until(lambda: epochs() > 3)
        for process in psutil.Process(ray.pid).children(recursive=True):
            if process.name() == NAME.format(0):
                process.suspend()  # however long we look at it, it comes no further
        assert not studies.history(home).completed
        assert states() == ["running"]
        assert "runs on" in tuner("submit", path.name, *cluster, expect=2).stderr
        assert "study     small" in tuner("logs", "small", *cluster).stdout
        listener = subprocess.Popen([BIN / "tuner", "logs", "small", "-f", *cluster], stdout=subprocess.PIPE, text=True)
        stopped = tuner("stop", "small", *cluster)
        assert "stopped; `tuner submit` with its file goes on with small" in stopped.stderr
        heard, _ = listener.communicate(timeout=PATIENCE)
        assert listener.returncode == 1 and "stopping, saving" in heard
        assert states() == ["stopped"]
        assert "is not running" in tuner("stop", "small", *cluster, expect=2).stderr
        assert not studies.history(home).completed
        with private_ray("0" * 64):
            assert "it refuses us; set RAY_AUTH_MODE=token" in tuner("status", *cluster, expect=1).stderr
        tuner("submit", path.name, *cluster)
        ended = tuner("logs", "small", "-f", *cluster)
        assert "resuming: " in ended.stdout
        assert states() == ["succeeded", "stopped"]
    here = studies.run(path, tmp_path / "here")
    assert "complete" in here
    assert studies.facts(studies.history(home)) == studies.facts(studies.history(tmp_path / "here"))
