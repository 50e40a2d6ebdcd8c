"""Clusters of several nodes on this machine: one that grows, and one that loses a node in the middle of a study."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import tuner
from tests import studies
from tests.crews import begin_on_ray, of, private_ray, rows, train, work
from tests.servers import PATIENCE, ended, until
from tuner.errors import StudyMissing
from tuner.executors.protocol import Done, Ended, Message, Notice, Ready, Report
from tuner.terminal.progress import PlainProgress

pytestmark = pytest.mark.usefixtures("copied_workers")

# How soon a frozen node is found; by itself Ray takes a minute.
HEALTH = {"period_ms": 1000, "timeout_ms": 10_000, "failure_threshold": 3, "initial_delay_ms": 0}


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without processors; nodes are added by the test."""
    utils = pytest.importorskip("ray.cluster_utils")
    ray = pytest.importorskip("ray")
    with private_ray(**{f"RAY_health_check_{name}": str(value) for name, value in HEALTH.items()}):
        cluster = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


def waiting(executor: Any, messages: list[Message]) -> list[Any]:
    """The places of workers that have just reported and wait for a verdict: they are in the middle of their work."""
    cohorts = {one.cohort for one in messages if isinstance(one, Report) and one.waits}
    return [slot for slot in executor._slots if slot.job and slot.job.cohort in cohorts]


def processes_of(node: Any) -> list[psutil.Process]:
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return [raylet, *raylet.children(recursive=True)]


@pytest.mark.slow
def test_workers_without_a_place_begin_when_the_cluster_grows(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuner.executors.ray_cluster._PLACE_SECONDS", PATIENCE)
    cluster.add_node(num_cpus=1)
    told: list[str] = []
    with contextlib.closing(begin_on_ray(tmp_path, count=2)) as executor:

        def note(message: Message) -> None:
            if isinstance(message, Notice):
                told.append(message.message)

        assert of(Done, train(executor, [work(1, rows(0.1))], watch=note)[1])
        assert executor.workers == 1
        assert told == ["the cluster has places for 1 of 2 workers (1 CPU each); the others begin when it grows"]
        cluster.add_node(num_cpus=1)
        until(lambda: any(isinstance(message, Ready) for message in executor.receive(0.5)))
        assert executor.workers == 2
        seen: dict[int, int] = {}
        said = train(executor, [work(n, rows(0.1, epochs=50)) for n in (2, 3)])
        for cohort, words in said.items():
            seen[cohort] = words[0].worker  # type: ignore[union-attr]
        assert set(seen.values()) == {0, 1}


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True], ids=["dead", "frozen"])
def test_a_node_that_is_lost_costs_no_trial_and_changes_no_number(
    frozen: bool, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tuner.executors.ray_cluster import RayExecutor

    content = studies.study(search={"trials": 16, "pruner": studies.WAITING}, train={"epochs": 6})
    here = tuner.launch(studies.write(tmp_path, content), home=tmp_path / "here", progress=PlainProgress())
    nodes = [cluster.add_node(num_cpus=2), cluster.add_node(num_cpus=2)]
    cluster.wait_for_nodes()
    lost: list[Any] = []
    receive = RayExecutor.receive

    def losing(self: Any, timeout: float) -> list[Message]:
        messages = receive(self, timeout)
        if lost:
            return messages
        there = processes_of(nodes[0])
        if {slot.process for slot in waiting(self, messages)} & {process.pid for process in there}:
            lost.append(nodes[0])
            for process in there:
                process.suspend()  # also before it dies, or it might be done by then
            if not frozen:
                threading.Thread(target=cluster.remove_node, args=(nodes[0], False)).start()
        return messages

    monkeypatch.setattr(RayExecutor, "receive", losing)
    content["run"] |= {"executor": "ray", "workers": 4}
    path = studies.write(tmp_path, content, "there.yaml")
    there = tuner.launch(path, home=tmp_path / "there", progress=PlainProgress())
    assert lost
    assert there.state == "complete" and there.history.losses
    assert studies.facts(there.history) == studies.facts(here.history)


@pytest.mark.slow
def test_64_convolutional_trials_survive_a_killed_worker_and_a_killed_node_to_the_same_numbers(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tuner.executors.ray_cluster import RayExecutor

    content = studies.study(
        data={"source": "digits", "validation": 0.2, "test": 0.2},
        model={"family": "cnn", "norm": "batch"},
        train={"epochs": 2},
        search={
            "trials": 64,
            "pruner": studies.WAITING,
            "space": {
                "learning_rate": {"type": "float", "low": 1e-3, "high": 1e-1, "log": True},
                "depth": {"type": "int", "low": 1, "high": 2},
                "width": {"type": "choice", "values": [4, 8]},
                "dropout": {"type": "float", "low": 0.0, "high": 0.5},
            },
        },
    )
    here = tuner.launch(studies.write(tmp_path, content), home=tmp_path / "here", progress=PlainProgress())
    nodes = [cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)]
    cluster.wait_for_nodes()
    lost: list[str] = []
    ended = 0
    receive = RayExecutor.receive

    def losing(self: Any, timeout: float) -> list[Message]:
        nonlocal ended
        messages = receive(self, timeout)
        ended += sum(isinstance(one, Ended) for one in messages)
        held = {slot.process for slot in waiting(self, messages)}
        if ended >= 8 and not lost and held:
            lost.append("worker")
            os.kill(held.pop(), signal.SIGKILL)
        elif ended >= 24 and lost == ["worker"]:  # whichever node has a worker that waits
            for node in (one for one in nodes if held & {process.pid for process in processes_of(one)}):
                lost.append("node")
                for process in processes_of(node):
                    process.suspend()  # or it might be done before it dies
                threading.Thread(target=cluster.remove_node, args=(node, False)).start()
                break
        return messages

    monkeypatch.setattr(RayExecutor, "receive", losing)
    content["run"] |= {"executor": "ray", "workers": 2}
    there = tuner.launch(
        studies.write(tmp_path, content, "there.yaml"), home=tmp_path / "there", progress=PlainProgress()
    )
    assert lost == ["worker", "node"]
    assert there.state == "complete" and len(there.history.trials) == 64
    assert there.history.losses
    assert studies.facts(there.history) == studies.facts(here.history)


@pytest.mark.slow
def test_a_cluster_is_met_at_its_address_and_only_with_its_token(tmp_path: Path) -> None:
    """`ray start` by hand; a study from a process of its own, by the one line that says so; then a stranger's."""
    content = studies.study(search={"trials": 4})
    here = tuner.launch(studies.write(tmp_path, content), home=tmp_path / "here", progress=PlainProgress())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    content["run"] |= {"executor": "ray", "address": address, "workers": "auto"}
    path = studies.write(tmp_path, content, "there.yaml")
    with private_ray(RAY_AUTH_MODE="token"), started(port):
        studies.run(path, tmp_path / "there")
        assert studies.facts(studies.history(tmp_path / "there")) == studies.facts(here.history)
        with private_ray("0" * 64):
            said = studies.run(path, tmp_path / "stranger", expect=1)
    assert f"no Ray cluster answers at {address}" in said and "oken" in said and "Traceback" not in said
    assert not (tmp_path / "stranger").exists()


@contextlib.contextmanager
def started(port: int, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A head by `ray start`, which leaves with its process; without a dashboard unless `options` tell of one."""
    where = [f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=2"]
    where += options or ["--include-dashboard=false"]
    folder = f"--temp-dir={os.environ['RAY_TMPDIR']}/ray"
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", folder, *where]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until(lambda: not socket.socket().connect_ex(("127.0.0.1", port)), process)
        yield process
    finally:
        ended(process)


@pytest.mark.slow
def test_no_worker_of_a_ray_of_ones_own_outlives_its_driver(tmp_path: Path) -> None:
    with private_ray():
        path = studies.write(tmp_path, studies.study(train={"epochs": 100_000}, run={"executor": "ray", "workers": 1}))
        process = studies.start(path, tmp_path)
        driver = psutil.Process(process.pid)
        until(lambda: epochs_in(tmp_path), process)
        children = driver.children(recursive=True)
        process.kill()
        process.communicate()
        ours = [child for child in children if name_of(child).startswith(("raylet", "gcs_server", "ray::TunerWorke"))]
        assert len(ours) == 3
        _, left = psutil.wait_procs(ours, timeout=PATIENCE)
        psutil.wait_procs(children, timeout=PATIENCE)  # Ray's agents take their time
        assert not left


def epochs_in(home: Path) -> int:
    """Of the trial that has come furthest; 0 where there is none yet."""
    with contextlib.suppress(StudyMissing):
        return max((trial.epochs for trial in studies.history(home).trials.values()), default=0)
    return 0


def name_of(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.name()
    return ""


@pytest.mark.slow
def test_ctrl_c_saves_and_the_study_goes_on_elsewhere_to_the_same_numbers(tmp_path: Path) -> None:
    """As a terminal sends it: to the driver and to all that it started. Then the same study by local workers."""
    content = studies.study(train={"epochs": 200}, search={"trials": 4, "pruner": studies.WAITING})
    here = tuner.launch(studies.write(tmp_path, content), home=tmp_path / "here", progress=PlainProgress())
    content["run"] |= {"executor": "ray", "workers": 1}
    path = studies.write(tmp_path, content, "there.yaml")
    with private_ray():
        code = "from tuner.cli import main; main()"
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, "launch", str(path), "--home", str(tmp_path / "there")],
            stderr=subprocess.PIPE,
            text=True,
            env=studies.environment(),
            start_new_session=True,
        )
        folder = tmp_path / "there" / "studies" / "small"
        until(lambda: epochs_in(tmp_path / "there") >= 5)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130, err
        assert "stopping, saving" in err
    assert list((folder / "checkpoints").glob("*.pt"))
    there = tuner.launch(tmp_path / "study.yaml", home=tmp_path / "there", progress=PlainProgress())
    assert studies.facts(there.history) == studies.facts(here.history)
