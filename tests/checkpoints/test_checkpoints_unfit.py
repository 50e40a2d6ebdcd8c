"""Checkpoints and weights with the right digest that nothing can go on from: told, and the one before is used."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tuner
from tests import studies
from tests.executors.test_worker import Line, made
from tuner.checkpoints import format as checkpoint
from tuner.checkpoints.store import checkpoint_path, weights_path
from tuner.errors import CheckpointCorrupt
from tuner.executors import worker as working
from tuner.executors.protocol import Done, Ended, Stop


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("code-ran",)


def sealed(body: bytes) -> bytes:
    return hashlib.sha256(body).digest() + body


def saved(value: Any) -> bytes:
    content = io.BytesIO()
    torch.save(value, content)
    return sealed(content.getvalue())


def changed(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], bytes]:
    def pack(state: dict[str, Any]) -> bytes:
        change(state)
        return saved(state)

    return pack


def bent(state: dict[str, Any]) -> None:
    state["stack"]["flat"] = state["stack"]["flat"][:, 1:]


UNREADABLE: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "text": lambda _: sealed(b"no checkpoint"),
    "half-a-file": lambda state: sealed(saved(state)[32:4_000]),
    "code": lambda state: saved({**state, "evil": Payload()}),
    "a-list": lambda _: saved([1, 2]),
    "a-tensor": lambda _: saved(torch.zeros(3)),
    "format-is-text": lambda state: saved({**state, "format": "2"}),
}
UNFIT: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "empty": lambda _: saved({}),
    "no-optimizer": changed(lambda state: state.pop("optimizer")),
    "no-epoch": changed(lambda state: state.pop("epoch")),
    "no-buffer": changed(lambda state: [state["stack"].pop(name) for name in list(state["stack"]) if name != "flat"]),
    "other-shape": changed(bent),
    "other-dtype": changed(lambda state: state["stack"].update(flat=state["stack"]["flat"].double())),
    "no-tensors": changed(lambda state: state["stack"].update(flat=[1.0])),
    "fewer-rows": changed(lambda state: state["optimizer"].update(m=state["optimizer"]["m"][:1])),
    "other-trials": changed(lambda state: state.update(rows=[7, 8])),
    "rows-twice": changed(lambda state: state.update(rows=[0, 0, 1])),
    "rows-are-none": changed(lambda state: state.update(rows=None)),
    "epoch-is-text": changed(lambda state: state.update(epoch="x")),
}


def interrupted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cohort's checkpoint after an epoch, and another one after the second."""
    monkeypatch.setattr(working, "CHECKPOINT_SECONDS", 0.0)
    line = Line()
    worker, work = made(folder, line)
    save = worker._save

    def then_stop(*arguments: Any, **named: Any) -> None:
        save(*arguments, **named)
        if len(line.of(Stop)) == 0 and checkpoint_path(folder, 0).with_name("000000.pt.previous").exists():
            line.words.append(Stop())

    monkeypatch.setattr(worker, "_save", then_stop)
    worker.train(work)
    assert [done.saved for done in line.of(Done)] == [True]
    monkeypatch.undo()
    return checkpoint_path(folder, 0)


@pytest.mark.parametrize("kind", [*UNREADABLE, *UNFIT])
def test_training_goes_on_from_the_one_before(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = interrupted(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    path.write_bytes({**UNREADABLE, **UNFIT}[kind](checkpoint.load(path)))
    line = Line()
    worker, work = made(tmp_path, line)
    worker.train(work)
    from tuner.executors.protocol import Started

    (started,) = line.of(Started)
    assert started.epoch > 0
    (note,) = started.notes
    assert note.startswith(str(path)) and note.endswith(", using the one before")
    assert ("cannot be read" in note) == (kind in UNREADABLE)
    assert len(note.splitlines()) == 1
    assert len(line.of(Ended)) == 2
    assert not Path("code-ran").exists()


@pytest.mark.parametrize("kind", ["code", "no-optimizer", "other-shape"])
def test_training_begins_anew_where_both_are_of_no_use(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = interrupted(tmp_path, monkeypatch)
    content = {**UNREADABLE, **UNFIT}[kind](checkpoint.load(path))
    for one in path.parent.iterdir():
        one.write_bytes(content)
    line, fresh = Line(), Line()
    worker, work = made(tmp_path, line)
    worker.train(work)
    assert len(line.of(Ended)) == 2
    other, same = made(tmp_path / "other", fresh)
    other.train(same)
    kept = [checkpoint.load(weights_path(folder, 0))["weights"] for folder in (tmp_path, tmp_path / "other")]
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[1])


def test_a_state_that_is_refused_changes_nothing(tmp_path: Path) -> None:
    from tuner.training.loop import Training
    from tuner.workloads.network.runner import NetworkTrainer

    worker, work = made(tmp_path, Line())
    assert isinstance(worker.trainer, NetworkTrainer)
    training = Training(work.payload, worker.trainer.arrays)
    before = {name: value.clone() for name, value in training.stack.state().items()}
    state = {**training.state(), "epoch": "x"}
    with pytest.raises(CheckpointCorrupt, match="does not fit its trials"):
        training.restore(state)
    assert training.epoch == 0
    assert all(torch.equal(before[name], value) for name, value in training.stack.state().items())


WEIGHTS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "code": UNREADABLE["code"],
    "half-a-file": UNREADABLE["half-a-file"],
    "no-weights": lambda _: saved({"other": 1}),
    "weights-are-a-list": lambda _: saved({"weights": [1]}),
    "missing": changed(lambda state: state["weights"].pop(next(iter(state["weights"])))),
    "other-shape": changed(lambda state: state["weights"].update({name: one[:1, :1] for name, one in _matrix(state)})),
    "no-tensors": changed(lambda state: state["weights"].update(dict.fromkeys(state["weights"], "x"))),
}


def _matrix(state: dict[str, Any]) -> list[tuple[str, torch.Tensor]]:
    return [(name, one) for name, one in state["weights"].items() if one.dim() == 2][:1]


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("complete")
    content = studies.study(search={"trials": 2}, train={"epochs": 1})
    assert tuner.launch(studies.write(folder, content), home=folder / "home").state == "complete"
    return folder


@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_winner_whose_weights_are_of_no_use_is_trained_again(
    kind: str, complete: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tuner.errors import StudyMissing
    from tuner.inference.explain import Best

    monkeypatch.chdir(tmp_path)
    shutil.copytree(complete / "home", tmp_path / "home")
    folder = tmp_path / "home" / "studies" / "small"
    best = int(json.loads((folder / "champion" / "card.json").read_text())["trial"]["number"])
    example = (folder / "champion" / "example.json").read_text()
    path = weights_path(folder, best)
    path.write_bytes(WEIGHTS[kind](checkpoint.load(path)))
    with pytest.raises(StudyMissing, match=f"the weights of trial {best} of small are lost"):
        Best.of(folder)
    shutil.rmtree(folder / "champion")
    study = tuner.launch(complete / "study.yaml", home=tmp_path / "home")
    assert study.state == "complete"
    assert f"training trial {best} again" in "".join(capfd.readouterr())
    assert (folder / "champion" / "example.json").read_text() == example
    assert not Path("code-ran").exists()
