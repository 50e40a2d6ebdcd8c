"""Whole studies through the front door: whatever the workers, the cohorts, the extension, the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tuner
from tests import studies
from tuner.errors import StudyChanged
from tuner.events import Created, Finished, Reported, State, Tested
from tuner.ledger import Ledger, study_folder
from tuner.study.launch import Study

pytestmark = pytest.mark.usefixtures("copied_workers")


class Silent:
    """A progress that remembers what a person would have been told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def start(self, plan: Any) -> None:
        self.lines += plan

    def update(self, history: Any, fresh: Any, now: Any) -> None:
        pass

    def message(self, text: str) -> None:
        self.lines.append(text)

    def stop(self) -> None:
        pass


def launch(folder: Path, content: dict[str, Any], home: str = "home", **options: Any) -> tuple[Study, str]:
    heard = Silent()
    study = tuner.launch(studies.write(folder, content), home=folder / home, progress=heard, **options)
    return study, "\n".join(heard.lines)


GRID = {
    "space": {
        "width": {"type": "choice", "values": [8, 16]},
        "optimizer": {"type": "choice", "values": ["sgd", "adam"]},
        "learning_rate": {"type": "choice", "values": [0.001, 0.03, 1000.0]},
    },
    "sampler": {"kind": "grid"},
    "trials": 50,
}


@pytest.mark.parametrize("search", [{}, GRID], ids=["random", "grid"])
def test_a_study_is_the_same_for_any_number_of_workers_and_any_cohort_size(search: dict, tmp_path: Path) -> None:
    def facts(home: str, **run: Any) -> dict[int, Any]:
        content = studies.study(search=search, train={"epochs": 3}, run=run)
        if search:
            content["search"]["space"] = search["space"]
        study, _ = launch(tmp_path, content, home)
        assert study.state == "complete"
        return studies.facts(study.history)

    one = facts("one", workers=1)
    assert len(one) == 12
    assert facts("two", workers=2, cohort=2) == one
    assert facts("three", workers=3, cohort=5) == one


def test_a_trials_numbers_do_not_depend_on_who_learnt_from_whom(tmp_path: Path) -> None:
    """Several workers end in an order that is theirs, so TPE asks otherwise; what it asks, it trains alike."""
    search = {"sampler": {"kind": "tpe", "startup": 4}, "trials": 14}
    learnt, _ = launch(tmp_path, studies.study(search=search, train={"epochs": 3}, run={"workers": 2}), "learnt")
    asked = [dict(trial.params) for trial in learnt.history.trials.values()]
    told = {"sampler": {"kind": "random"}, "start_with": asked, "trials": 14}
    for home, cohort in (("fives", 5), ("pairs", 2)):
        again, _ = launch(tmp_path, studies.study(search=told, train={"epochs": 3}, run={"cohort": cohort}), home)
        assert studies.facts(again.history) == studies.facts(learnt.history)


def test_a_diverged_trial_fails_alone_and_is_never_best(tmp_path: Path) -> None:
    content = studies.study(search=GRID, train={"epochs": 3})
    content["search"]["space"] = GRID["space"]
    study, _ = launch(tmp_path, content)
    frame = study.trials
    wild = frame[frame["params.learning_rate"] == 1000.0]
    failed = frame[frame["state"] == "FAILED"]
    assert len(failed) > 0
    assert set(failed["number"]) <= set(wild["number"])
    assert failed["message"].str.contains("diverged at").all()
    assert study.best is not None and study.best["number"] not in set(failed["number"])
    assert (frame[frame["params.learning_rate"] < 1]["state"] == "COMPLETE").all()


def test_more_trials_extend_a_finished_study_and_keep_its_trials(tmp_path: Path) -> None:
    content = studies.study(search={"trials": 5, "sampler": {"kind": "tpe", "startup": 3}})
    first, _ = launch(tmp_path, content)
    again, text = launch(tmp_path, content)
    assert "is complete: 5 trials" in text
    assert studies.facts(again.history) == studies.facts(first.history)
    more, text = launch(tmp_path, content, trials=9)
    assert len(more.trials) == 9
    assert "the test split was already used" in text
    kept = studies.facts(more.history)
    for number, told in studies.facts(first.history).items():
        assert kept[number][:5] == told[:5]
    unextended = dict(content, search={**content["search"], "trials": 9})
    assert (
        tuner.launch(studies.write(tmp_path, unextended), home=tmp_path / "home", progress=Silent()).state == "complete"
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": {"epochs": 7}}, "train.epochs: was 6, now 7"),
        ({"search": {"trials": 20}}, "--trials 20"),
        ({"seed": 4}, "seed: was 3, now 4"),
    ],
)
def test_a_changed_spec_under_an_old_name_is_refused_with_the_difference(
    changes: dict, said: str, tmp_path: Path
) -> None:
    launch(tmp_path, studies.study(search={"trials": 2}, train={"epochs": 6}))
    before = studies.facts(studies.history(tmp_path / "home"))
    with pytest.raises(StudyChanged) as caught:
        launch(tmp_path, studies.study(**{"search": {"trials": 2}, **changes}))
    assert said in str(caught.value)
    assert studies.facts(studies.history(tmp_path / "home")) == before


def test_changed_data_under_an_old_name_are_refused(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(200, 4)).astype("float32"), generator.integers(0, 2, 200)
    np.savez(tmp_path / "own.npz", x=x, y=y)
    content = studies.study(data={"source": "own.npz"}, search={"trials": 2})
    content["train"]["epochs"] = 2
    study, _ = launch(tmp_path, content)
    assert study.state == "complete"
    x[3, 2] += 1
    np.savez(tmp_path / "own.npz", x=x, y=y)
    with pytest.raises(StudyChanged, match="data of study small changed"):
        launch(tmp_path, content)


def test_the_winner_is_tested_once_and_the_search_never_sees_the_test_rows(tmp_path: Path) -> None:
    content = studies.study(search={"trials": 4})
    study, _ = launch(tmp_path, content)
    with Ledger.open(study_folder(tmp_path / "home", "small"), read_only=True) as ledger:
        events = list(ledger.read())
    tested = [event for event in events if isinstance(event, Tested)]
    assert len(tested) == 1
    assert all(event.seq < tested[0].seq for event in events if isinstance(event, Finished))
    assert not any(
        name.startswith("test/") for event in events if isinstance(event, Reported) for name in event.metrics
    )
    created = next(event for event in events if isinstance(event, Created))
    assert created.data["split"]
    assert study.best is not None and set(study.best["metrics"]) >= {"val/accuracy", "test/accuracy", "test/loss"}


def test_without_a_test_split_the_study_ends_untested(tmp_path: Path) -> None:
    study, _ = launch(tmp_path, studies.study(data={"test": 0}, search={"trials": 2}))
    assert study.state == "complete"
    assert study.best is not None and not any(name.startswith("test/") for name in study.best["metrics"])


def test_a_regression_reports_in_the_targets_own_unit(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    x = generator.normal(size=(300, 3))
    y = 1000.0 + 200.0 * x[:, 0] - 100.0 * x[:, 1] + generator.normal(size=300)
    lines = ["a,b,c,price", *(",".join(f"{v:.6f}" for v in (*row, target)) for row, target in zip(x, y, strict=True))]
    (tmp_path / "houses.csv").write_text("\n".join(lines) + "\n")
    content = studies.study(data={"source": "houses.csv", "target": "price"}, train={"epochs": 30})
    content["search"] |= {
        "space": {"learning_rate": {"type": "float", "low": 1e-3, "high": 1e-2, "log": True}},
        "objective": {"metric": "val/rmse", "goal": "minimize"},
        "trials": 4,
    }
    content["model"] = {"family": "mlp", "width": 32}
    study, _ = launch(tmp_path, content)
    assert study.best is not None
    assert study.best["metrics"]["test/rmse"] < 60.0  # of a spread of 224
    assert study.best["metrics"]["test/r2"] > 0.9
    from tuner.champion import Predictor

    predictor = Predictor.load(study.folder)
    frame = predictor.predict(predictor.read(tmp_path / "houses.csv"))
    assert abs(frame.iloc[:, 0].to_numpy() - y).mean() < 60.0


OWN = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, signature, width: int = 32, dropout: float = 0.0):
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(signature.inputs[0], width), nn.ReLU(), {extra}
            nn.Linear(width, signature.outputs),
        )

    def forward(self, x):
        return {output}
"""


@pytest.mark.parametrize(
    ("extra", "output", "company"),
    [
        ("", "self.body(x)", True),
        ("nn.Dropout(0.2),", "self.body(x)", False),  # torch's random numbers have no place under vmap
        ("", "self.body(x) if float(x.sum()) < 1e9 else self.body(2 * x)", True),
        ("", "self.body(x) if float(self.body(x).sum()) < 1e9 else self.body(2 * x)", False),
    ],
    ids=["fuses", "dropout", "branches-on-data", "branches-on-weights"],
)
def test_a_persons_own_network_takes_part_fused_or_alone(
    extra: str, output: str, company: bool, tmp_path: Path
) -> None:
    (tmp_path / "mynet.py").write_text(OWN.format(extra=extra, output=output))
    content = studies.study(search={"trials": 4}, train={"epochs": 3})
    content["model"] = {"family": "mynet.py:Net"}
    del content["search"]["space"]["dropout"]
    study, text = launch(tmp_path, content)
    assert study.state == "complete"
    assert {cohort.company for cohort in study.history.cohorts.values()} == {company}
    assert text.count("does not fuse") == (0 if company else 1)
    again, _ = launch(tmp_path, content, "again", workers=2)
    assert studies.facts(again.history) == studies.facts(study.history)


TIED = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, signature, width: int = 8):
        super().__init__()
        self.first, self.second = nn.Linear(signature.inputs[0], width), nn.Linear(width, width)
        self.third, self.last = nn.Linear(width, width), nn.Linear(width, signature.outputs)
        self.third.weight = self.second.weight
        nn.init.constant_(self.first.weight, 0.25)
        self.first.weight.requires_grad_(False)
        self.register_buffer("scale", torch.full((1,), 0.5), persistent=False)

    def forward(self, x):
        return self.last(torch.relu(self.third(torch.relu(self.second(torch.relu(self.first(x)) * self.scale)))))
"""


@pytest.mark.parametrize("cohort", ["auto", 1])
def test_tied_weights_and_passing_buffers_come_through_and_frozen_ones_stay(cohort: Any, tmp_path: Path) -> None:
    from tuner.checkpoints import format as checkpoint
    from tuner.checkpoints.store import weights_path

    (tmp_path / "mynet.py").write_text(TIED)
    content = studies.study(search={"trials": 3}, train={"epochs": 2, "weight_decay": 0.1}, run={"cohort": cohort})
    content["model"] = {"family": "mynet.py:Net"}
    del content["search"]["space"]["dropout"]
    study, text = launch(tmp_path, content)
    assert study.state == "complete"
    assert "does not fuse" not in text
    kept = checkpoint.load(weights_path(study.folder, 0))["weights"]
    assert (kept["first.weight"] == 0.25).all()
    assert (study.folder / "champion" / "network.safetensors").exists()


def test_a_number_read_as_a_plain_attribute_does_not_fuse(tmp_path: Path) -> None:
    text = OWN.replace("dropout: float = 0.0", "scale: float = 1.0").replace(
        "super().__init__()", "super().__init__(); self.scale = scale"
    )
    text = text.replace("class Net(nn.Module):", "class Net(nn.Module):\n    fusible = {{'scale'}}")
    (tmp_path / "mynet.py").write_text(text.format(extra="", output="self.body(x) * self.scale"))
    content = studies.study(search={"trials": 4}, train={"epochs": 2})
    content["model"] = {"family": "mynet.py:Net"}
    del content["search"]["space"]["dropout"]
    content["search"]["space"]["scale"] = {"type": "float", "low": 0.01, "high": 30.0, "log": True}
    study, said = launch(tmp_path, content)
    assert study.state == "complete"
    assert "a row answers otherwise in company than alone" in said
    assert not any(cohort.company for cohort in study.history.cohorts.values())


def test_a_fault_of_the_machine_is_no_result(tmp_path: Path) -> None:
    content = studies.study(search={"trials": 2}, train={"epochs": 2})
    folder = study_folder(tmp_path / "home", "small")
    folder.mkdir(parents=True)
    (folder / "weights").write_text("a file where a folder belongs")
    with pytest.raises(tuner.errors.TunerError, match=r"cannot be written: .*launch again"):
        launch(tmp_path, content)
    assert not any(trial.ended for trial in studies.history(tmp_path / "home").trials.values())
    (folder / "weights").unlink()
    study, _ = launch(tmp_path, content)
    assert study.state == "complete"


def test_a_trial_that_reached_its_last_epoch_is_complete_whatever_the_pruner_thinks(tmp_path: Path) -> None:
    pruner = {"kind": "asha", "min_epochs": 1, "reduction": 3}
    study, _ = launch(tmp_path, studies.study(search={"trials": 12, "pruner": pruner}, train={"epochs": 9}))
    for trial in study.history.trials.values():
        assert (trial.epochs == 9) == (trial.state is State.COMPLETE), trial
    assert {trial.state for trial in study.history.trials.values()} == {State.COMPLETE, State.PRUNED}


def test_trials_of_different_length_share_cohorts_and_are_judged_by_their_own_end(tmp_path: Path) -> None:
    space = {**studies.SMALL["search"]["space"], "epochs": {"type": "int", "low": 2, "high": 9}}
    del space["batch_size"], space["width"]
    pruner = {"kind": "asha", "min_epochs": 1, "reduction": 3}
    content = studies.study(search={"trials": 12, "pruner": pruner, "space": space})
    del content["train"]
    study, _ = launch(tmp_path, content)
    mixed = [{t.params["epochs"] for t in cohort.trials} for cohort in study.history.cohorts.values()]
    assert max(map(len, mixed)) > 1
    states = set()
    for trial in study.history.trials.values():
        states.add(trial.state)
        assert (trial.epochs == trial.params["epochs"]) == (trial.state is State.COMPLETE), trial
    assert states == {State.COMPLETE, State.PRUNED}


def test_an_edited_network_under_an_old_name_is_refused(tmp_path: Path) -> None:
    content = studies.study(search={"trials": 2}, train={"epochs": 2})
    content["model"] = {"family": "mynet.py:Net"}
    del content["search"]["space"]["dropout"]
    (tmp_path / "mynet.py").write_text(OWN.format(extra="", output="self.body(x)"))
    launch(tmp_path, content)
    (tmp_path / "mynet.py").write_text(OWN.format(extra="nn.Tanh(),", output="self.body(x)"))
    with pytest.raises(
        StudyChanged, match=r"the file of the network mynet.py:Net, or one that it imports or reads, changed"
    ):
        launch(tmp_path, content)


def test_an_error_in_a_persons_network_ends_its_trials_with_its_words(tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(
        OWN.format(extra="", output="self.body(x if self.training or len(x) > 20 else x[:, :3])")
    )
    content = studies.study(search={"trials": 2}, train={"epochs": 2})
    content["model"] = {"family": "mynet.py:Net"}
    del content["search"]["space"]["dropout"]
    (tmp_path / "mynet.py").write_text(
        OWN.format(extra="", output="self.body(x) if self.training or len(x) < 50 else self.body(x[:, :3])")
    )
    study, text = launch(tmp_path, content)
    assert study.state == "failed"
    assert "none of 2 trials completed" in text
    messages = [trial.message for trial in study.history.trials.values()]
    assert all("RuntimeError" in message for message in messages)


@pytest.mark.usefixtures("spawned_workers")
def test_out_of_memory_halves_a_cohort_and_changes_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The allocator's refusal is faked in the worker: any cohort of more than two rows does not fit."""
    content = studies.study(search={"trials": 8}, train={"epochs": 2})
    content["search"]["space"]["width"]["values"] = [8]
    content["search"]["space"]["batch_size"]["values"] = [32]
    whole, _ = launch(tmp_path, content, "whole")
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'tuner.executors.local' in sys.orig_argv:\n"
        "    import torch\n"
        "    from tuner.training.cohort import Stack\n"
        "    forward = Stack.forward\n"
        "    def refuse(self, *a, **k):\n"
        "        if len(self) > 2:\n"
        "            raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 1 GiB')\n"
        "        return forward(self, *a, **k)\n"
        "    Stack.forward = refuse\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    study, text = launch(tmp_path, content, "tight")
    assert "going on with K=4" in text and "going on with K=2" in text
    assert studies.facts(study.history) == studies.facts(whole.history)
