"""A champion that somebody hands over runs no code, whatever is in its folder: each kind of attack, at each verb.

Every payload would make the file MARK. That it is a real one is shown where torch's own reader is led by it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

import tuner
from tests import studies
from tuner import champion, cli
from tuner.champion import Predictor
from tuner.data import Dataset
from tuner.errors import TunerError
from tuner.inference import champion_writer
from tuner.inference import export as exported

MARK = "code-ran"
Run = Callable[..., tuple[int, str]]


class Payload:
    """Makes the file MARK in the working directory when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (MARK,)


def torch_pickle() -> bytes:
    content = io.BytesIO()
    torch.save(Payload(), content)
    return content.getvalue()


SYMPY = f"__import__('os').mkdir('{MARK}')"


# --- what torch.export.load runs -----------------------------------------------------------------


def archive(change: Callable[[dict[str, bytes]], None]) -> bytes:
    """torch's own file of a small network, with a change to the files in it."""
    program = torch.export.export(
        nn.Linear(30, 2), (torch.zeros(3, 30),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
    )
    content = io.BytesIO()
    torch.export.save(program, content)
    with zipfile.ZipFile(content) as read:
        files = {name: read.read(name) for name in read.namelist()}
    change(files)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as written:
        for name, body in files.items():
            written.writestr(name, body)
    return made.getvalue()


def edit(files: dict[str, bytes], name: str, change: Callable[[Any], None]) -> None:
    document = json.loads(files[f"archive/{name}"])
    change(document)
    files[f"archive/{name}"] = json.dumps(document).encode()


def weights(files: dict[str, bytes]) -> None:
    def mark(document: Any) -> None:
        document["config"]["weight"]["use_pickle"] = True

    edit(files, "data/weights/model_weights_config.json", mark)
    files["archive/data/weights/weight_0"] = torch_pickle()


def constant(name: str, content: Callable[[], bytes]) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        entry = {"path_name": name, "is_param": False, "use_pickle": True, "tensor_meta": None}
        edit(files, "data/constants/model_constants_config.json", lambda one: one["config"].update(evil=entry))
        files[f"archive/data/constants/{name}"] = content()

    return change


def sample_inputs(files: dict[str, bytes]) -> None:
    files["archive/data/sample_inputs/model.pt"] = torch_pickle()


def legacy_weights(files: dict[str, bytes]) -> None:
    files["archive/data/weights/model.pt"] = torch_pickle()


def sympy_string(files: dict[str, bytes]) -> None:
    files["archive/models/model.json"] = (
        files["archive/models/model.json"]
        .decode()
        .replace(next(iter(symbols(files))), SYMPY.replace('"', '\\"'))
        .encode()
    )


def symbols(files: dict[str, bytes]) -> set[str]:
    graph = json.loads(files["archive/models/model.json"])["graph_module"]["graph"]
    sizes = [size for value in graph["tensor_values"].values() for size in value["sizes"]]
    return {f"{size['as_expr']['expr_str']}" for size in sizes if "as_expr" in size}


def foreign_target(files: dict[str, bytes]) -> None:
    def change(document: Any) -> None:
        nodes = document["graph_module"]["graph"]["nodes"]
        nodes[0]["target"] = "torch.serialization.os.mkdir"
        nodes[0]["inputs"] = [{"name": "", "arg": {"as_string": MARK}, "kind": 1}]

    edit(files, "models/model.json", change)


def climbing(files: dict[str, bytes]) -> None:
    files[f"archive/../../../{MARK}"] = b"climbed"
    files[f"../{MARK}"] = b"climbed"


ARCHIVES: dict[str, Callable[[dict[str, bytes]], None]] = {
    "weights": weights,
    "constants": constant("tensor_0", torch_pickle),
    "opaque-object": constant("opaque_obj_0", lambda: pickle.dumps(Payload())),
    "custom-object": constant("custom_obj_0", torch_pickle),
    "sample-inputs": sample_inputs,
    "legacy-weights": legacy_weights,
    "sympy": sympy_string,
    "foreign-operator": foreign_target,
    "path-traversal": climbing,
}


@pytest.mark.parametrize("kind", ["weights", "constants", "opaque-object", "sample-inputs", "legacy-weights", "sympy"])
def test_these_attacks_are_real(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(Exception):  # what torch makes of the rest is no matter
        torch.export.load(io.BytesIO(archive(ARCHIVES[kind])))
    assert Path(MARK).exists()


# --- the folders of a study that was handed over ---------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    study = tuner.launch(
        studies.write(folder, studies.study(search={"trials": 1}, train={"epochs": 1})), home=folder / "home"
    )
    assert study.state == "complete"
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The champion's folder in a home of its own; `new.csv` is there to be predicted."""
    shutil.copytree(made / "home", tmp_path / "home")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNER_HOME", str(tmp_path / "home"))
    place = tmp_path / "home" / "studies" / "small" / "champion"
    champion.example(place)[0].to_csv("new.csv", index=False)  # type: ignore[union-attr]
    return place


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["tuner", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), capsys.readouterr().err

    return call


def put(folder: Path, content: bytes, name: str = "network.safetensors", **card: Any) -> None:
    """A network's file, and the card rewritten beside it so that it promises just that."""
    (folder / name).write_bytes(content)
    written = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**written, "sha256": hashlib.sha256(content).hexdigest(), **card}))


@pytest.mark.parametrize("kind", ARCHIVES)
@pytest.mark.parametrize("old", [True, False])
def test_torchs_own_files_are_never_read(folder: Path, run: Run, kind: str, old: bool) -> None:
    content = archive(ARCHIVES[kind])
    if old:
        (folder / "network.safetensors").unlink()
        put(folder, content, "network.pt2", format=1)
    else:
        put(folder, content)
    code, said = run("predict", "small", "new.csv")
    assert not list(folder.parents[3].rglob(f"*{MARK}*"))
    assert code == 2
    assert "Traceback" not in said
    assert (
        "was made by an older Tuner; `tuner launch` of its study restores it" if old else "no file of tensors"
    ) in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("old", [True, False])
def test_a_bomb_of_compressed_zeros_is_not_unpacked(
    folder: Path, run: Run, old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as written:
        written.writestr("archive/data/weights/weight_0", bytes(50_000_000))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("an archive was opened"))
    put(folder, made.getvalue(), "network.pt2" if old else "network.safetensors", format=1 if old else champion.FORMAT)
    assert run("predict", "small", "new.csv")[0] == 2


# --- our own format ------------------------------------------------------------------------------


def node(op: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    return {"op": op, "args": list(args), "kwargs": kwargs}


def file(program: Any, text: str | None = None) -> bytes:
    return save({"w": torch.zeros(2, 30)}, {"program": json.dumps(program) if text is None else text})


def program(*nodes: Any, inputs: Any = 1, outputs: Any = None) -> Any:
    return {"inputs": inputs, "nodes": list(nodes), "outputs": outputs or [{"value": len(nodes)}]}


LINEAR = node("aten.linear.default", {"value": 0}, {"tensor": "w"})
REFUSED: dict[str, Any] = {
    "reads-files": program(node("aten.from_file.default", MARK, True, 8), LINEAR),
    "foreign-library": program(node("torchvision.nms.default", {"value": 0})),
    "inductor": program(node("inductor._alloc_from_pool.default", {"value": 0})),
    "python": program(node("os.mkdir", MARK)),
    "builtin": program(node("__import__", "os")),
    "eval": program(node("eval", SYMPY)),
    "torch-attribute": program(node("torch.serialization.os.mkdir", MARK)),
    "attribute-of-an-operator": program(node("aten.add.__class__", {"value": 0})),
    "dunder-operator": program(node("aten.__class__.mro", {"value": 0})),
    "op-attribute": program(node("aten.linear.default.__globals__", {"value": 0})),
    "prim": program(node("prim.device.default", {"value": 0})),
    "no-name": program(node("", {"value": 0})),
    "name-is-a-list": program(node(["aten.linear.default"], {"value": 0})),
    "out-overload": program(node("aten.add.out", {"value": 0}, {"value": 0})),
    "no-such-overload": program(node("aten.linear.nothing", {"value": 0})),
    "higher-order": program(node("while_loop", {"graph": program()}, {"graph": program()}, [])),
    "call-torchbind": program(node("call_torchbind", {"value": 0}, "run")),
    "graph-to-an-operator": program(node("aten.linear.default", {"graph": program()})),
    "cond-without-graphs": program(node("cond", {"value": 0}, "os", "mkdir", [])),
    "object-of-a-kind": program(node("aten.linear.default", {"object": "os"})),
    "pickle": program(node("aten.linear.default", {"pickle": pickle.dumps(Payload()).hex()})),
    "two-keys": program(node("aten.linear.default", {"value": 0, "tensor": "w"})),
    "value-ahead": program(node("aten.linear.default", {"value": 1}, {"tensor": "w"})),
    "value-behind": program(node("aten.linear.default", {"value": -1}, {"tensor": "w"})),
    "value-is-true": program(node("aten.linear.default", {"value": True}, {"tensor": "w"})),
    "no-such-tensor": program(node("aten.linear.default", {"value": 0}, {"tensor": "v"})),
    "no-such-dtype": program(node("aten.to.dtype", {"value": 0}, {"dtype": "__class__"})),
    "another-device": program(node("aten.to.device", {"value": 0}, {"device": "meta"}, {"dtype": "float32"})),
    "no-nodes": {"inputs": 1, "outputs": []},
    "a-list": [],
    "a-number": 3,
    "nodes-are-text": {"inputs": 1, "nodes": "ab", "outputs": [{"value": 0}]},
    "a-node-is-text": {"inputs": 1, "nodes": ["ab"], "outputs": [{"value": 0}]},
    "args-are-an-object": {"inputs": 1, "nodes": [{"op": "mul", "args": {}, "kwargs": {}}], "outputs": [{"value": 1}]},
    "inputs-are-many": program(LINEAR, inputs=10**30),
    "two-inputs": program(LINEAR, inputs=2),
    "two-outputs": program(LINEAR, outputs=[{"value": 1}, {"value": 1}]),
}
FAILING: dict[str, Any] = {  # allowed operators with arguments that they do not take
    "a-name-for-a-tensor": program(node("aten.linear.default", "os", {"tensor": "w"})),
    "item-of-text": program(node("getitem", "__class__", 0)),
    "item-by-name": program(node("getitem", [{"value": 0}], "__class__")),
    "many-lists": program(node("mul", [0], 10**12)),
    "more-memory-than-there-is": program(node("aten.zeros.default", [10**15])),
    "beyond-the-storage": program(node("aten.as_strided.default", {"value": 0}, [10**9], [1], 10**6)),
    "no-such-argument": program(node("aten.linear.default", {"value": 0}, {"tensor": "w"}, __class__=1)),
    "bags-beyond-the-indices": program(
        node("aten.zeros.default", [2], dtype={"dtype": "int64"}),
        node("aten.full.default", [2], 10**9, dtype={"dtype": "int64"}),
        node("aten.embedding_bag.default", {"tensor": "w"}, {"value": 1}, {"value": 2}, False, 1),
        node("getitem", {"value": 3}, 0),
    ),
    "answers-a-number": program(node("aten.sym_size.int", {"value": 0}, 0)),
    "answers-another-shape": program(node("aten.relu.default", {"value": 0})),
    "answers-one-row-for-all": program(node("aten.zeros.default", [1, 2])),
    "answers-nowhere": program(
        node("aten.sym_size.int", {"value": 0}, 0), node("aten.zeros.default", [{"value": 1}, 2], device="meta")
    ),
    "answers-sparsely": program(
        node("aten.linear.default", {"value": 0}, {"tensor": "w"}), node("aten.to.dtype", 0, 0)
    ),
    "number-beyond-64-bits": program(node("aten.select.int", {"value": 0}, 0, 2**70)),
    "divides-by-nothing": program(node("floordiv", 1, 0)),
}


def test_the_programs_here_are_programs() -> None:
    network = exported.unpack(file(program(LINEAR)))
    assert network(torch.ones(4, 30)).tolist() == [[0, 0]] * 4


@pytest.mark.parametrize("kind", REFUSED)
def test_a_program_of_anything_but_allowed_operators_is_refused_before_it_runs(
    folder: Path, run: Run, kind: str
) -> None:
    put(folder, file(REFUSED[kind]))
    code, said = run("predict", "small", "new.csv")
    assert code == 2
    assert "network.safetensors is no network of a champion: " in said
    assert "Traceback" not in said
    assert not list(folder.parents[3].rglob(f"*{MARK}*"))


@pytest.mark.parametrize("kind", FAILING)
def test_a_program_that_fails_is_told(folder: Path, run: Run, kind: str) -> None:
    put(folder, file(FAILING[kind]))
    code, said = run("predict", "small", "new.csv")
    assert code == 2
    assert "network.safetensors" in said
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        (2**62).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{}",
        save({"w": torch.zeros(1)}),
        file(None, "[" * 100_000),
        file(None, '{"inputs": ' + "9" * 5_000 + "}"),
        file(None, json.dumps(program()).replace("[]", "[" * 900 + "]" * 900)),
        file(None, "\ud7ff"),
        pickle.dumps(Payload()),
    ],
    ids=["empty", "zip", "long", "nothing", "no-program", "deep", "digits", "nested", "text", "pickle"],
)
def test_what_is_no_file_of_ours_is_told(folder: Path, run: Run, content: bytes) -> None:
    put(folder, content)
    code, said = run("predict", "small", "new.csv")
    assert code == 2
    assert "network.safetensors is no network of a champion" in said
    assert not Path(MARK).exists()


@pytest.mark.parametrize(
    "change",
    [
        {"format": "2"},
        {"format": None},
        {"study": 1},
        {"sha256": 7},
        {"classes": "ab"},
        {"classes": [1, 2]},
        {"classes": None},
        {"signature": []},
        {"signature": {"task": "classification", "modality": "numbers", "inputs": [30], "outputs": "2"}},
        {"signature": {"task": "classification", "modality": "numbers", "inputs": [-1], "outputs": 2}},
        {"signature": {"task": "regression", "modality": "numbers", "inputs": [30], "outputs": 10**15}},
        {"signature": {"task": "x", "modality": "numbers", "inputs": [30], "outputs": 2}},
        {"preprocess": {"modality": "numbers", "shape": [30], "categories": {}, "mean": ["0"] * 30}},
        {"preprocess": {"modality": "text", "shape": [30], "categories": {}}},
        {"preprocess": {"modality": "numbers", "shape": [30], "categories": {}, "evil": 1}},
    ],
    ids=str,
)
def test_a_card_that_cannot_be_so_is_told(folder: Path, run: Run, change: dict[str, Any]) -> None:
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | change))
    code, said = run("predict", "small", "new.csv")
    assert code == 2
    assert "card.json is damaged" in said
    assert len(said.splitlines()) == 1


def test_the_example_of_a_champion_holds_no_pickle(folder: Path) -> None:
    stored = json.loads((folder / "example.json").read_text())
    (folder / "example.json").write_text(json.dumps({**stored, "inputs": None}))
    np.save(folder / "example.npy", np.array([Payload()], dtype=object), allow_pickle=True)
    with pytest.raises((ValueError, TunerError)):
        champion.example(folder)
    assert not Path(MARK).exists()


def test_the_reason_of_a_study_without_a_champion_moves_no_cursor(folder: Path, run: Run) -> None:
    (folder / "refused.txt").write_text("because\x1b[2J\nof this")
    code, said = run("predict", "small", "new.csv")
    assert code == 2
    assert "\x1b" not in said


def test_the_model_that_mlflow_loads_is_read_in_the_same_way(folder: Path) -> None:
    put(folder, archive(weights))
    loaded = champion._load_pyfunc(str(folder))
    with pytest.raises(TunerError, match="no network of a champion"):
        loaded.predict(champion.example(folder)[0])
    assert not Path(MARK).exists()


# --- what a champion of a person's own can hold ---------------------------------------------------


class Varied(nn.Module):
    """Sizes that are computed, constants, buffers, recurrence, bags, attention, branches on data, no gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 4, batch_first=True, bidirectional=True)
        self.bags = nn.EmbeddingBag(5, 4)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.norm = nn.BatchNorm1d(7)
        self.register_buffer("mask", torch.ones(7, 7).tril().bool())
        self.register_buffer("calls", torch.zeros(()))
        self.constant = torch.arange(4.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        with torch.no_grad():
            mean = x.mean()
        y, _ = self.gru(x)
        y = self.norm(self.block(y))
        y = torch.full((7, 7), float("-inf")).masked_fill(self.mask, 0.0).softmax(-1) @ y
        y = torch.cond((mean > 0).all(), lambda y: y + 1, lambda y: y - 1, (y,))
        count = x.shape[0]
        y = y.reshape(count * 7, 8).view(count, -1).to(torch.float32)
        bags = self.bags((x[:, :, 0] > 0).to(torch.int64))
        return torch.einsum("bi,ij->bj", y, torch.eye(56))[:, :4] + self.constant + bags


def test_a_network_of_ones_own_computes_as_torchs_own_reader_of_its_export() -> None:
    from tests.zoo import SEQUENCES

    torch.manual_seed(0)
    program = champion_writer._program(Varied().eval(), SEQUENCES)
    network, reference = exported.unpack(exported.pack(program)), program.module()
    for count in (1, 2, 5):
        for sign in (-1.0, 1.0):
            x = torch.randn(count, 7, 3) + sign
            with torch.inference_mode():
                torch.testing.assert_close(network(x.clone()), reference(x.clone()))


@pytest.mark.parametrize(
    "name", ["mlp-silu-batch", "cnn-steps-masked-batch", "lstm-masked-attention", "gru-language", "transformer"]
)
def test_our_families_compute_to_the_bit_what_torchs_own_reader_of_their_export_does(name: str) -> None:
    from tests import zoo
    from tuner import models

    torch.set_num_threads(1)
    case = next(case for case in zoo.CASES if case.name == name)
    program = champion_writer._program(models.build(case.family, case.signature, case.network).eval(), case.signature)
    network, reference = exported.unpack(exported.pack(program)), program.module()
    x = case.signature.example(5)
    x = torch.randint(0, 8, x.shape) if case.signature.vocabulary else torch.randn(x.shape)
    with torch.inference_mode():
        assert torch.equal(network(x), reference(x))


def test_an_operator_of_ones_own_cannot_be_exported(tmp_path: Path) -> None:
    from tuner import data

    @torch.library.custom_op("tuner_tests::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @twice.register_fake
    def _(x: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(x)

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(30, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return twice(self.layer(x))

    dataset: Dataset = data.load("breast_cancer")
    with pytest.raises(
        champion_writer.ExportError, match=r"Own cannot be written: the operator 'tuner_tests.twice.default'"
    ):
        champion_writer.export(tmp_path, Own(), dataset, {"number": 0})


# --- studies with code of a person's own -----------------------------------------------------------

NET = """
from pathlib import Path
from torch import nn

Path({mark!r}).touch()


class Net(nn.Module):
    def __init__(self, signature, width: int = 8):
        super().__init__()
        hidden = nn.Linear(signature.inputs[0], width)
        self.layers = nn.Sequential(hidden, nn.ReLU(), nn.Linear(width, signature.outputs))

    def forward(self, x):
        return self.layers(x)
"""


def test_looking_at_a_study_runs_its_own_network_only_when_asked(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / MARK
    (tmp_path / "net.py").write_text(NET.format(mark=str(mark)))
    content = studies.study(search={"trials": 1}, train={"epochs": 1})
    content["model"] = {"family": "net.py:Net"}
    del content["search"]["space"]["dropout"]
    study = tuner.launch(studies.write(tmp_path, content), home=tmp_path / "home")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNER_HOME", str(tmp_path / "home"))
    champion.example(study.folder / "champion")[0].to_csv("new.csv", index=False)  # type: ignore[union-attr]
    mark.unlink()
    from tuner.models import code as files

    files._NEWEST.clear()
    files._IMPORTED.clear()  # as in another process
    assert run("predict", "small", "new.csv")[0] == 0
    code, said = run("attend", "small", "new.csv")
    assert (code, "by gradient × input" in said) == (0, True)
    code, said = run("attend", "small", "0")
    assert (code, "add --own-code to run it, or name a file of examples" in said) == (2, True)
    assert not mark.exists()
    assert run("attend", "small", "0", "--own-code")[0] == 0
    assert mark.exists()


def test_an_older_tuners_champion_is_written_anew_by_the_next_launch(made: Path, folder: Path) -> None:
    expected = (folder / "example.json").read_text()
    (folder / "network.safetensors").rename(folder / "network.pt2")
    put(folder, b"", "network.pt2", format=1)
    study = tuner.launch(made / "study.yaml", home=folder.parents[2])
    assert study.state == "complete"
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "example.json", "network.safetensors"]
    assert (folder / "example.json").read_text() == expected
    Predictor.load(folder.parent)
