"""The writing process as its driver has it, a real server, and the registered model."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest

from tests.servers import PATIENCE
from tests.stores import Store, drain
from tests.stories import Story
from tests.tracking.test_tracking import Killed, Saboteur
from tests.tracking.test_tracking_process import free_port
from tuner import champion as champion_of
from tuner.errors import TunerError
from tuner.events import Opened
from tuner.inference import champion_writer
from tuner.ledger import Ledger
from tuner.terminal.progress import PlainProgress
from tuner.tracking import process as follow
from tuner.tracking.dashboard import SQLITE, command, link, serve, uri_of
from tuner.tracking.writer import Writer

# --- the process as the driver has it --------------------------------------------------------------


@pytest.mark.parametrize("once", [False, True])
def test_a_writer_gives_a_complete_study_what_mlflow_never_got(store: Store, tmp_path: Path, once: bool) -> None:
    home = Path(str(store.artifacts)).parents[1]
    story = Story(tmp_path, f"undrained-{once}".lower()).whole()
    for written in (33, 0):  # and then there is nothing left to write
        stream = io.StringIO()
        with story.ledger.lock(), Writer(story.folder, home, "embedded", once=once) as writer:
            assert writer.drain(PlainProgress(stream), patient=True) == {
                "written": written,
                "waiting": 0,
                "error": None,
            }
        assert stream.getvalue() == f"MLflow is up to date ({written} points)\n"
        store.assert_mirrors(story)


def test_a_writer_that_may_not_wait_says_what_is_left_and_leaves(tmp_path: Path) -> None:
    story, stream = Story(tmp_path, "hurried").whole(), io.StringIO()
    with Writer(story.folder, tmp_path, f"http://127.0.0.1:{free_port()}") as writer:
        said = writer.drain(PlainProgress(stream), patient=True, seconds=0.0)
    assert said is not None
    assert said["error"]
    assert "MLflow: not finished (still writing); `tuner sync` makes sure" in stream.getvalue()
    assert writer._process is not None
    assert writer._process.returncode is not None


@pytest.mark.parametrize(("ending", "grace", "status"), [("", PATIENCE, 0), ("signal.pause()", 0.0, -signal.SIGTERM)])
def test_an_exception_leaves_the_writer_time_to_finish(
    ending: str, grace: float, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "finished"
    code = f"import signal, sys; sys.stdin.read(); open({str(mark)!r}, 'w').close(); {ending}"
    monkeypatch.setattr("tuner.tracking.writer.command", lambda *_, **__: [sys.executable, "-c", code])
    monkeypatch.setattr("tuner.tracking.writer._END_SECONDS", PATIENCE)
    monkeypatch.setattr("tuner.tracking.writer._LEAVE_SECONDS", grace)
    with pytest.raises(ZeroDivisionError), Writer(tmp_path, tmp_path, "embedded") as writer:
        raise ZeroDivisionError
    assert mark.exists() or grace == 0.0
    assert writer._process is not None
    assert writer._process.returncode == status


@pytest.mark.parametrize("told", [False, True])
def test_a_writer_that_is_killed_is_followed_by_another(tmp_path: Path, told: bool) -> None:
    story = Story(tmp_path, "killed-writer").whole()
    with story.ledger.lock(), Writer(story.folder, tmp_path, "embedded") as writer:
        assert writer._process is not None
        first = writer._process
        if told:
            writer._tell()
        first.kill()
        said = writer.drain(PlainProgress(io.StringIO()), patient=True)
        assert writer._process is not first
    assert said is not None and said["error"] is None
    Store(tmp_path).assert_mirrors(story)


def test_a_writer_that_somebody_kills_again_and_again_is_told_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    monkeypatch.setattr("tuner.tracking.writer.command", lambda *_, **__: line)
    stream = io.StringIO()
    with Writer(tmp_path, tmp_path, "embedded") as writer:
        writer.drain(PlainProgress(stream), patient=True)
    assert stream.getvalue() == "MLflow: points waiting (the writer was ended by SIGKILL); `tuner sync` writes them\n"


def test_the_writer_gives_way_to_training_from_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    monkeypatch.setattr("tuner.tracking.writer.command", lambda *_, **__: line)
    with Writer(tmp_path, tmp_path, "embedded") as writer:
        assert writer._process is not None
        assert os.getpriority(os.PRIO_PROCESS, writer._process.pid) >= 10


def test_nothing_is_started_where_tracking_is_off(tmp_path: Path) -> None:
    with Writer(tmp_path, tmp_path, "off") as writer:
        assert writer.drain(PlainProgress(io.StringIO()), patient=True) is None
    assert not list(tmp_path.iterdir())


# --- a real server ---------------------------------------------------------------------------------


def start_server(home: Path, study: str | None, port: int) -> subprocess.Popen[str]:
    code = (
        "from pathlib import Path; from tuner.tracking.dashboard import serve; "
        f"serve(Path({str(home)!r}), {study!r}, {port})"
    )
    return subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, text=True)


def stop_server(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=PATIENCE) == 0


@pytest.mark.slow
def test_a_stopped_server_loses_nothing_and_the_champion_comes_through_it(tmp_path: Path) -> None:
    home, port = tmp_path / "home", free_port()
    story = Story(home, "stopped", trials=6)
    crown(story, 0)
    server = start_server(home, None, port)
    assert server.stdout is not None
    assert f"127.0.0.1:{port}" in server.stdout.readline()
    workers = [int(pid) for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()]
    try:
        line = command(story.folder, f"http://127.0.0.1:{port}", None)
        writer = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert json.loads(writer.stdout.readline())["error"] is None
        for pid in workers:
            os.killpg(pid, signal.SIGSTOP)
        story.whole()
        story.test(0, accuracy=0.5)
        stuck = next(said for said in map(json.loads, writer.stdout) if said["error"])
        assert stuck["waiting"] > 0
        for pid in workers:
            os.killpg(pid, signal.SIGCONT)
        out, _ = writer.communicate(timeout=PATIENCE)
        assert writer.returncode == follow.DRAINED, out
        assert_champion(f"http://127.0.0.1:{port}", story)
    finally:
        stop_server(server)
    Store(home).assert_mirrors(story)


@pytest.mark.slow
def test_serving_prints_the_studys_link_and_ends_its_server(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    story = Story(tmp_path, "shown").whole()
    store = Store(tmp_path)
    store.sync(story)
    port = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        process = start_server(tmp_path, "shown", port)
        assert process.stdout is not None
        said = process.stdout.readline()
    experiment = store.client.get_experiment_by_name("shown").experiment_id
    assert said.startswith("http://127.0.0.1:")
    assert f":{port}/" not in said, "that port was taken"
    assert f"/#/experiments/{experiment}/runs?workflowType=machine_learning" in said
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=PATIENCE) == 0
    assert children
    assert not any(Path("/proc", pid).exists() for pid in children)


def test_a_study_tracked_by_a_server_is_shown_there(tmp_path: Path) -> None:
    story = Story(tmp_path, "elsewhere").whole()
    address = f"http://127.0.0.1:{free_port()}"
    story.tell(Opened(host="here", pid=1, tracking=address))
    with pytest.raises(TunerError, match=f"the MLflow server {address} cannot be reached"):
        serve(tmp_path, "elsewhere", 5000)


def test_the_link_opens_the_view_that_is_kept_with_the_experiment(store: Store, tmp_path: Path) -> None:
    store.sync(Story(tmp_path, "viewed", goal="minimize").whole())
    experiment = store.client.get_experiment_by_name("viewed")
    said = {"experiment_id": "3", "tags": [{"key": key, "value": value} for key, value in experiment.tags.items()]}
    address = link("http://127.0.0.1:5000", said, {"metric": "val/accuracy", "goal": "minimize"})
    before, _, key = address.partition("&viewStateShareKey=")
    assert before == "http://127.0.0.1:5000/#/experiments/3/runs?workflowType=machine_learning&compareRunsMode=CHART"
    view = json.loads(experiment.tags[f"mlflow.sharedViewState.{key}"])
    state = json.loads(view["state"])
    assert view["name"] == "Trials, best first"
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`best/val/accuracy`", True)


def test_the_link_to_an_experiment_without_a_view_sorts_by_the_objective_and_unfolds_the_trials() -> None:
    address = link("http://127.0.0.1:5000", {"experiment_id": "3"}, {"metric": "val/loss", "goal": "minimize"})
    assert address.startswith("http://127.0.0.1:5000/#/experiments/3/runs?workflowType=machine_learning")
    assert "compareRunsMode=CHART" in address
    assert "orderByKey=metrics.%60val%2Floss%60&orderByAsc=true" in address
    assert "searchFilter=tags.%60tuner.trial%60" in address
    assert "viewStateShareKey" not in address, "MLflow would leave the page with an error"


def test_addresses_are_those_of_the_study_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "home" / "mlflow"
    assert uri_of("embedded", Path("home")) == (f"{SQLITE}{folder}/mlflow.db", f"{folder}/artifacts")
    assert uri_of("sqlite:///x/my.db", Path("home")) == (f"{SQLITE}{tmp_path}/x/my.db", f"{tmp_path}/x/artifacts")
    assert uri_of("https://mlflow.example", Path("home")) == ("https://mlflow.example", None)


# --- the champion ----------------------------------------------------------------------------------


def crown(story: Story, number: int, width: int = 8) -> None:
    """Export a small network as the study's champion."""
    import torch

    from tuner import data, models

    torch.set_num_threads(1)
    torch.manual_seed(width)
    dataset = data.load("breast_cancer")
    network = models.build("mlp", dataset.signature, {"width": width})
    champion_writer.export(story.folder, network, dataset, {"number": number, "params": {"width": width}})


def assert_champion(uri: str, story: Story) -> None:
    """What MLflow serves as the study's champion predicts what the study's folder does."""
    import mlflow.pyfunc

    from tuner.champion import Predictor, example

    mlflow.set_tracking_uri(uri)
    try:
        loaded = mlflow.pyfunc.load_model(f"models:/{story.name}@champion")
    finally:
        mlflow.set_tracking_uri(None)
    raw, _ = example(story.folder / "champion")
    assert isinstance(raw, pd.DataFrame)
    pd.testing.assert_frame_equal(loaded.predict(raw), Predictor.load(story.folder).predict(raw), check_dtype=False)
    whole = raw.round().astype(int)  # a column may be whole numbers in one file and not in the next
    pd.testing.assert_frame_equal(loaded.predict(whole), Predictor.load(story.folder).predict(whole), check_dtype=False)
    assert loaded.metadata.signature.inputs.input_names() == list(raw.columns)
    assert loaded.metadata.signature.outputs.input_names()[0] == "prediction"
    assert loaded.metadata.saved_input_example_info is not None


def test_the_champion_is_registered_once_and_loads_by_its_alias(store: Store, tmp_path: Path) -> None:
    story = Story(tmp_path, "crowned").whole()
    crown(story, 3)
    story.test(3, accuracy=0.9)
    store.sync(story)
    assert_champion(store.uri, story)
    (version,) = store.client.search_model_versions("name = 'crowned'")
    child = store.children("crowned")[3]
    assert version.run_id == child.info.run_id
    assert "test/accuracy 0.9" in version.description
    assert "models:/crowned@champion" in store.client.get_registered_model("crowned").description
    (model,) = store.client.search_logged_models([child.info.experiment_id])
    assert model.params == child.data.params
    assert model.tags["mlflow.note.content"] == version.description
    store.client.set_tag(store.parent("crowned").info.run_id, "tuner.cursor", "0")
    store.sync(story)
    assert [v.version for v in store.client.search_model_versions("name = 'crowned'")] == [version.version]
    assert len(store.client.get_run(child.info.run_id).outputs.model_outputs) == 1
    story.extend(5)
    crown(story, 0, width=16)
    story.test(0, accuracy=0.95)
    story.complete()
    store.sync(story)
    assert_champion(store.uri, story)
    assert len(store.client.search_model_versions("name = 'crowned'")) == 2


def test_the_process_tells_what_the_champion_takes_and_answers(tmp_path: Path) -> None:
    import mlflow

    story = Story(tmp_path, "crowned").whole()
    crown(story, 3)
    story.test(3, accuracy=0.9)
    story.complete()
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    command = [sys.executable, "-P", "-m", "tuner.tracking.process", str(story.folder), "--uri", uri, "--once"]
    said = subprocess.run([*command, "--artifacts", str(tmp_path)], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert "Failed to infer" not in said.stderr
    mlflow.set_tracking_uri(uri)
    try:
        signature = mlflow.models.get_model_info("models:/crowned@champion").signature
    finally:
        mlflow.set_tracking_uri("")
    assert "AnyType" not in repr(signature)
    assert signature.inputs.is_tensor_spec() or signature.inputs.input_names()


def test_neither_the_rehearsal_nor_the_champion_waits_for_a_look_at_all_that_is_installed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib_metadata
    from mlflow.utils import requirements_utils

    looks = []
    look = importlib_metadata.packages_distributions
    monkeypatch.setattr(importlib_metadata, "packages_distributions", lambda: looks.append(1) or look())
    monkeypatch.setattr(requirements_utils, "_MODULES_TO_PACKAGES", None)
    story = Story(tmp_path, "rehearsed")
    tracker = store.track(story)
    drain(tracker)
    tracker.prepare()
    story.whole()
    crown(story, 3)
    story.test(3, accuracy=0.9)
    drain(tracker)
    tracker.close()
    assert_champion(store.uri, story)
    assert looks == []
    (champion,) = store.client.search_model_versions("name = 'rehearsed'")
    needs = Path(champion.source.removeprefix("file://"), "requirements.txt").read_text().split()
    assert [need.partition("==")[0] for need in needs] == ["mlflow", "torch", "safetensors", "numpy", "pandas"]
    assert all(version(name) == number for name, _, number in (need.partition("==") for need in needs))


def test_a_rehearsal_leaves_nothing_in_mlflow(tmp_path: Path) -> None:
    store = Store(tmp_path)
    story = Story(tmp_path, "nothing-left")
    tracker = store.track(story)
    drain(tracker)

    def rows() -> dict[str, int]:
        with sqlite3.connect(tmp_path / "mlflow" / "mlflow.db") as database:
            names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return {name: database.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names}

    before = rows()
    tracker._projection.under_way = True
    tracker.prepare()
    assert tracker._prepared
    assert rows() == before
    tracker.close()


def test_what_is_shown_of_a_winner_is_in_its_own_run_however_often_it_is_written(store: Store, tmp_path: Path) -> None:
    def shown(number: int) -> dict[str, str]:
        run = store.children("shown")[number].info.run_id
        files = store.client.list_artifacts(run, "looks")
        return {file.path: Path(store.client.download_artifacts(run, file.path)).read_text() for file in files}

    story = Story(tmp_path, "shown").whole()
    for number, text in ((3, "It was"), (0, "the best")):
        place = champion_of.looks(story.folder, number)
        place.mkdir(parents=True)
        (place / "sample.txt").write_text(text)
    champion_of.refuse(story.folder, "torch.export refuses it")  # no champion, and what is shown arrives all the same
    story.test(3, accuracy=0.9)
    store.sync(story)
    assert (shown(3), shown(0)) == ({"looks/sample.txt": "It was"}, {})
    story.extend(5)
    story.test(0, accuracy=0.95)
    story.complete()
    store.sync(story)
    store.client.set_tag(store.parent("shown").info.run_id, "tuner.cursor", "0")
    store.sync(story)
    assert (shown(3), shown(0)) == ({"looks/sample.txt": "It was"}, {"looks/sample.txt": "the best"})


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False])
def test_the_champion_arrives_once_whichever_call_fails(store: Store, tmp_path: Path, before: bool) -> None:
    crowning = 0
    for at in range(1, 40):
        story = Story(tmp_path, f"crown-{at}-{'before' if before else 'after'}", trials=1)
        story.ask([0])
        story.start(0, [0])
        story.report(1, [0])
        story.end([0])
        crown(story, 0)
        story.test(0, accuracy=0.9)
        story.complete()
        client = Saboteur(store.client, at, before, Killed())
        tracker = store.track(story)
        tracker._client = client  # type: ignore[assignment]
        try:
            drain(tracker)
        except Killed:
            crowning += 1
        tracker.close()
        store.sync(story)
        store.assert_mirrors(story)
        (version,) = store.client.search_model_versions(f"name = '{story.name}'")
        assert store.client.get_model_version_by_alias(story.name, "champion").version == version.version
        assert len(store.client.get_run(version.run_id).outputs.model_outputs) == 1
        if client.calls < at:
            break
    assert crowning > 20


def test_a_champion_that_was_taken_away_does_not_hold_up_the_rest(store: Store, tmp_path: Path) -> None:
    story = Story(tmp_path, "bare").whole()
    story.test(0, accuracy=0.9)
    store.sync(story)
    store.assert_mirrors(story)


def test_tracking_never_writes_to_the_ledger(store: Store, tmp_path: Path) -> None:
    story = Story(tmp_path, "read-only").whole()
    before = list(story.ledger.read())
    store.sync(story)
    with Ledger.open(story.folder, read_only=True) as ledger:
        assert list(ledger.read()) == before
