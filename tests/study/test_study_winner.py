"""Whole studies: networks of a person's own, and the winner."""

from __future__ import annotations

import functools
import json
import socket
from pathlib import Path
from typing import Any

import pytest

import tuner
from tests import studies
from tests.crews import private_ray
from tests.study.test_study import OWN, Silent, launch
from tuner.errors import LEAVES, SpecError, StudyLocked, TunerError
from tuner.events import State
from tuner.executors import local
from tuner.ledger import Ledger, study_folder
from tuner.spec import StudySpec
from tuner.study.session import StudySession

pytestmark = pytest.mark.usefixtures("copied_workers")


def test_a_torn_checkpoint_costs_a_generation_not_the_trial(tmp_path: Path) -> None:
    from tuner.checkpoints import format as checkpoint

    path = tmp_path / "c.pt"
    checkpoint.save(path, {"epoch": 1})
    checkpoint.save(path, {"epoch": 2})
    assert checkpoint.latest(path) == ({"epoch": 2}, [])
    whole = path.read_bytes()
    for broken in (whole[:-1], whole[: len(whole) // 2], b"", whole[:-7] + b"x" + whole[-6:], b"\0" * len(whole)):
        path.write_bytes(broken)
        state, notes = checkpoint.latest(path)
        assert state == {"epoch": 1}
        assert len(notes) == 1 and "corrupt" in notes[0]


def test_a_full_disk_pauses_a_checkpoint_and_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    from tuner.checkpoints import format as checkpoint

    path = tmp_path / "c.pt"
    checkpoint.save(path, {"epoch": 1})
    monkeypatch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(path, {"epoch": 2})
    assert checkpoint.load(path) == {"epoch": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["c.pt"]


def test_launch_from_python_takes_a_spec_and_gives_frames(tmp_path: Path) -> None:
    spec = StudySpec(**studies.study(search={"trials": 3}, train={"epochs": 2}))
    study = tuner.launch(spec, home=tmp_path, progress=Silent())
    assert list(study.trials["number"]) == [0, 1, 2]
    curves = study.curves
    assert {"trial", "epoch", "metric", "value"} <= set(curves.columns)
    assert len(curves[(curves["trial"] == 1) & (curves["metric"] == "val/accuracy")]) == 2
    assert study.history.count(State.COMPLETE) == 3


def test_two_launches_at_once_end_with_one_driver(tmp_path: Path) -> None:
    folder = study_folder(tmp_path, "small")
    with Ledger.create(folder) as ledger, ledger.lock(), pytest.raises(StudyLocked, match="already running on"):
        tuner.launch(studies.write(tmp_path, studies.study()), home=tmp_path, progress=Silent())


@pytest.mark.usefixtures("spawned_workers")
def test_workers_that_cannot_start_end_the_launch_with_their_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "__name__", "tuner.executors.missing")
    with pytest.raises(tuner.errors.TunerError, match=r"workers cannot start.*\n?.*missing"):
        launch(tmp_path, studies.study(search={"trials": 2}))


def test_what_the_results_say_stands_in_the_ledger(tmp_path: Path) -> None:
    launch(tmp_path, studies.study(search={"trials": 3}))
    from tuner.history import results

    told = json.loads(json.dumps(results.as_json(studies.history(tmp_path / "home"))))
    assert told["study"] == "small" and told["state"] == "complete"
    for trial in told["trials"]:
        reports = studies.history(tmp_path / "home").trials[trial["number"]].reports
        best = max(reports, key=lambda epoch: (reports[epoch]["val/accuracy"], -epoch))
        assert trial["metrics"] == reports[best]
        assert trial["last"] == reports[trial["epochs"]]


def test_the_winners_weights_are_trained_again_where_they_are_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tuner.checkpoints.store import weights_path
    from tuner.study import finish

    content = studies.study(search={"trials": 3}, train={"epochs": 3})
    whole, _ = launch(tmp_path, content)
    finished = finish.finish_study

    def tear(session: StudySession) -> None:
        best = session.history.best(session.spec.metric, session.spec.maximize)
        assert best is not None
        weights_path(session.folder, best.number).write_bytes(b"torn")
        finished(session)

    monkeypatch.setattr(finish, "finish_study", tear)
    mended, text = launch(tmp_path, content, "again")
    assert "weights are lost" in text
    assert studies.facts(mended.history) == studies.facts(whole.history)
    networks = [json.loads((study.folder / "champion" / "example.json").read_text()) for study in (whole, mended)]
    assert networks[0] == networks[1]


def test_a_winner_that_fails_on_the_test_split_closes_the_study_and_says_why(tmp_path: Path) -> None:
    """Of the three splits the test's alone has 57 rows."""
    (tmp_path / "mynet.py").write_text(
        OWN.format(extra="", output="self.body(x) if self.training or len(x) != 57 else self.body(x[:, :3])")
    )
    content = studies.study(data={"test": 0.1}, search={"trials": 2}, train={"epochs": 2})
    content["model"] = {"family": "mynet.py:Net"}
    del content["search"]["space"]["dropout"]
    study, text = launch(tmp_path, content)
    assert study.history.data["rows"]["test"] == 57
    assert "the winner's network fails on the test split: RuntimeError" in text
    assert study.state == "complete"
    assert study.best is not None and not any(name.startswith("test/") for name in study.best["metrics"])


def test_a_network_may_import_what_lies_beside_its_file(tmp_path: Path) -> None:
    (tmp_path / "beside_it.py").write_text("from torch import nn\n\nactivation = nn.Tanh\n")
    (tmp_path / "mynet.py").write_text(
        "from beside_it import activation\n" + OWN.format(extra="activation(),", output="self.body(x)")
    )
    content = studies.study(search={"trials": 2}, train={"epochs": 2})
    content["model"] = {"family": "mynet.py:Net"}
    del content["search"]["space"]["dropout"]
    study, _ = launch(tmp_path, content)
    assert study.state == "complete"


def test_another_device_or_torch_than_the_launch_before_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from tuner.study import launch as opening

    content = studies.study(search={"trials": 3}, train={"epochs": 2})
    with monkeypatch.context() as patch:

        def interrupted(*_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(torch, "__version__", "2.9.0")
        patch.setattr(opening.finish, "finish_study", interrupted)
        with pytest.raises(KeyboardInterrupt):
            launch(tmp_path, content)
    _, text = launch(tmp_path, content)
    assert f"torch was 2.9.0, now {torch.__version__}: trials that go on may round differently" in text
    _, text = launch(tmp_path, content)
    assert "2.9.0" not in text


def own(folder: Path, body: str, **changes: Any) -> dict[str, Any]:
    """A study of a network that begins as OWN's and whose class body goes on with `body`."""
    text = OWN[: OWN.index("    def forward")].format(extra="")
    (folder / "mynet.py").write_text(text + "".join(f"    {line}\n" for line in body.splitlines()))
    content = studies.study(**{"search": {"trials": 3}, "train": {"epochs": 3}, **changes})
    content["model"] = {"family": "mynet.py:Net"}
    del content["search"]["space"]["dropout"]
    return content


@pytest.mark.parametrize("cohort", ["auto", 1])
def test_a_network_that_writes_into_its_input_spoils_nobodys_data(cohort: Any, tmp_path: Path) -> None:
    into = own(tmp_path, "def forward(self, x):\n    x /= 4.0\n    return self.body(x)", run={"cohort": cohort})
    spoils, _ = launch(tmp_path, into, "spoils")
    beside = own(tmp_path, "def forward(self, x):\n    return self.body(x / 4.0)", run={"cohort": cohort})
    copies, _ = launch(tmp_path, beside, "copies")
    assert studies.facts(spoils.history) == studies.facts(copies.history)


@pytest.mark.parametrize("cohort", ["auto", 1])
def test_a_buffer_that_a_network_replaces_is_kept(cohort: Any, tmp_path: Path) -> None:
    from tuner.checkpoints import format as checkpoint
    from tuner.checkpoints.store import weights_path

    body = """def forward(self, x):
    if self.training:
        self.seen = self.seen + 1
    return self.body(x)"""
    content = own(tmp_path, body, run={"cohort": cohort})
    text = (tmp_path / "mynet.py").read_text()
    (tmp_path / "mynet.py").write_text(
        text.replace("super().__init__()", "super().__init__(); self.register_buffer('seen', torch.zeros(()))")
    )
    study, said = launch(tmp_path, content)
    assert "does not fuse" not in said
    assert study.history.count(State.COMPLETE) == len(study.history.trials) > 0
    for trial in study.history.trials.values():
        if trial.state is State.COMPLETE:
            steps = -(-study.history.data["rows"]["train"] // trial.params["batch_size"])
            epoch = trial.best_epoch("val/accuracy", True)
            weights = checkpoint.load(weights_path(study.folder, trial.number))["weights"]
            assert float(weights["seen"]) == steps * epoch


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ("torch.nn.functional.silu(self.body(x))", "silu rounds by an element's place in memory"),
        (
            "self.body(torch.nn.functional.conv1d(x[:, None], torch.ones(1, 1, 1) * self.body[1].weight.mean())[:, 0])",
            "use tuner.models.layers.Conv2d",
        ),
    ],
)
def test_a_network_whose_bits_would_depend_on_its_neighbours_trains_alone(call: str, told: str, tmp_path: Path) -> None:
    study, text = launch(tmp_path, own(tmp_path, f"def forward(self, x):\n    return {call}"))
    assert study.state == "complete"
    assert told in text
    assert not any(cohort.company for cohort in study.history.cohorts.values())


def test_a_test_metric_that_is_not_finite_is_absent(tmp_path: Path) -> None:
    """Of the three splits the test's alone has 57 rows."""
    body = "def forward(self, x):\n    return self.body(x) * (float('nan') if len(x) == 57 else 1.0)"
    study, _ = launch(tmp_path, own(tmp_path, body, data={"test": 0.1}))
    assert study.state == "complete"
    assert study.best is not None
    assert "test/loss" not in study.best["metrics"] and "val/loss" in study.best["metrics"]


def test_a_network_that_leaves_the_program_or_says_what_cannot_be_printed_fails_alone(tmp_path: Path) -> None:
    body = """def forward(self, x):
    if self.training and len(x) > 2:
        raise SystemExit("b\\udce9\\x1b[31m.bin")
    return self.body(x)"""
    study, _ = launch(tmp_path, own(tmp_path, body, run={"cohort": 1}))
    assert study.state == "failed"
    messages = {trial.message for trial in study.history.trials.values()}
    assert messages == {f"SystemExit: b? [31m.bin (mynet.py:16){LEAVES}"}


@pytest.mark.parametrize("what", ["network", "data"])
def test_what_changes_while_a_study_runs_stops_it(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.datasets import load_breast_cancer

    frame = load_breast_cancer(as_frame=True).frame
    frame.to_csv(tmp_path / "mine.csv", index=False)
    content = own(tmp_path, "def forward(self, x):\n    return self.body(x)")
    content["data"] = {"source": "mine.csv", "target": "target"}
    spawn = local.LocalExecutor._spawn

    def late(self: Any, *arguments: Any) -> Any:
        if what == "network":
            (tmp_path / "mynet.py").write_text((tmp_path / "mynet.py").read_text() + "\nSCALE = 5\n")
        else:
            frame.assign(target=1 - frame["target"]).to_csv(tmp_path / "mine.csv", index=False)
        return spawn(self, *arguments)

    monkeypatch.setattr(local.LocalExecutor, "_spawn", late)
    with pytest.raises(tuner.errors.TunerError, match=rf"the .*{what}.* changed while the study ran; restore it"):
        launch(tmp_path, content)
    assert not any(trial.reports for trial in studies.history(tmp_path / "home").trials.values())


def test_a_lost_champion_is_written_again_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    import shutil

    from tuner.champion import Predictor
    from tuner.errors import CheckpointCorrupt

    content = studies.study(search={"trials": 2}, train={"epochs": 2})
    study, _ = launch(tmp_path, content)
    champion = study.folder / "champion"
    example = (champion / "example.json").read_text()
    for damage in ("{", "{}", "[]"):
        (champion / "card.json").write_text(damage)
        with pytest.raises(CheckpointCorrupt, match=r"card.json is damaged .*launch the study again"):
            Predictor.load(study.folder)
    shutil.rmtree(champion)
    again, text = launch(tmp_path, content)
    assert "exporting trial" in text
    assert (champion / "example.json").read_text() == example
    assert studies.facts(again.history) == studies.facts(study.history)


def test_a_study_whose_winner_cannot_be_exported_says_so_whenever_it_is_asked_to_predict(tmp_path: Path) -> None:
    from tuner.champion import Predictor
    from tuner.errors import StudyMissing

    body = "def forward(self, x):\n    y = self.body(x)\n    return y if float(y.sum()) < 1e9 else 2 * y"
    study, text = launch(tmp_path, own(tmp_path, body))
    assert "only its weights are kept" in text and "def forward(self, arg" not in text
    with pytest.raises(StudyMissing, match=r"no champion to predict with: torch.export refuses Net .*weights are in"):
        Predictor.load(study.folder)
    assert not list(study.folder.glob("champion.*"))


def test_what_is_no_study_is_told_as_python_tells_it() -> None:
    with pytest.raises(TypeError, match="takes a study file's path or a StudySpec, got dict"):
        tuner.launch({"study": "x"})
    assert {"launch", "StudySpec"} <= set(dir(tuner))


def test_several_objectives_end_in_a_front_whose_most_accurate_trial_is_the_champion(tmp_path: Path) -> None:
    objective = [{"metric": "val/accuracy", "goal": "maximize"}, {"metric": "parameters", "goal": "minimize"}]
    search = {"objective": objective, "sampler": {"kind": "nsga2", "population": 4}, "trials": 10}
    study, _ = launch(tmp_path, studies.study(search=search, train={"epochs": 2}))
    front = study.best
    assert isinstance(front, list)
    sizes = {8: 30 * 8 + 8 + 16, 16: 30 * 16 + 16 + 32, 24: 30 * 24 + 24 + 48}  # input layer and norm
    for trial in study.history.trials.values():
        counts = {metrics["parameters"] for metrics in trial.reports.values()}
        width = int(trial.params["width"])
        hidden = width * width + width + 2 * width
        assert counts == {sizes[width] + hidden + 2 * width + 2}
    champion = json.loads((study.folder / "champion" / "card.json").read_text())["trial"]
    assert champion["number"] == front[0]["number"]
    assert "test/accuracy" in front[0]["metrics"]
    assert front[0]["metrics"]["val/accuracy"] == max(study.trials["val/accuracy"])
    again, _ = launch(tmp_path, studies.study(search=search, train={"epochs": 2}), "again")
    assert studies.facts(again.history) == studies.facts(study.history)


@pytest.mark.parametrize("executor", ["ray", "ray-tune"])
def test_where_no_cluster_is_found_nothing_is_left_behind(
    executor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In no module that holds a Ray of its own: what a process has connected to is used as it is."""
    pytest.importorskip("ray")
    others = "ray._private.services.find_gcs_addresses"  # those that other tests have begun on this machine
    monkeypatch.setattr(others, functools.cache(frozenset))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    run = {"executor": executor, "address": "auto", **({"scheduler": "fifo"} if executor == "ray-tune" else {})}
    path = studies.write(tmp_path, studies.study(run=run))
    with private_ray(), pytest.raises(TunerError, match=r"run\.address is auto, and no Ray cluster was found"):
        tuner.launch(path, home=tmp_path / "home")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(SpecError, match=r"run\.address: expected a Ray cluster that answers, got nothing at 127"):
            tuner.launch(path, home=tmp_path / "home")
    assert not (tmp_path / "home").exists()
