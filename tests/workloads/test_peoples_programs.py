"""What a person's own program, terminal and disk may do: end early, return one table, know ASCII alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.studies import plan
from tuner.data import load
from tuner.errors import DataError, InputError, SpecError
from tuner.spec import StudySpec

STUDY = """
study: s
data: {DATA}
model: {MODEL}
train: {epochs: 2, batch_size: 8, optimizer: adam}
search:
  space: {learning_rate: {type: float, low: 0.001, high: 0.1, log: true}}
  objective: {metric: val/loss, goal: minimize}
  trials: 2
"""


def study(folder: Path, data: str, model: str = "family: mlp") -> Path:
    file = folder / "s.yaml"
    file.write_text(STUDY.replace("DATA", data).replace("MODEL", model))
    return file


def tuner(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tuner", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **environment},
        check=False,
    )


ENDINGS = {
    "sys.exit(0)": "import sys\n\ndef load():\n    sys.exit(0)\n",
    "argparse": "import argparse\n\nargparse.ArgumentParser().parse_args(['--what'])\ndef load(): ...\n",
    "an item": "class D:\n    def __len__(self): return 3\n"
    "    def __getitem__(self, i): raise SystemExit(2)\ndef load(): return D()\n",
    "a kind of its own": "class Halt(BaseException): ...\ndef load():\n    raise Halt('no')\n",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_data_function_that_ends_the_program_is_named_instead(tmp_path: Path, ending: str) -> None:
    (tmp_path / "own.py").write_text(ENDINGS[ending])
    with pytest.raises(DataError, match=r"own.py:\d: expected data, got (SystemExit.*behind if __name__|Halt: no)"):
        load("own.py:load", folder=tmp_path)


def test_a_program_that_ends_the_check_says_so_and_exits_with_2(tmp_path: Path) -> None:
    (tmp_path / "zero.py").write_text(ENDINGS["sys.exit(0)"])
    done = tuner(tmp_path, "check", str(study(tmp_path, 'source: "zero.py:load"')))
    assert done.returncode == 2
    assert "zero.py:4: expected data, got SystemExit: 0; it ends the program" in done.stderr


def test_a_networks_file_that_ends_the_program_is_named_with_its_own_line(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("import argparse\n\nargparse.ArgumentParser().parse_args(['--what'])\n")
    with pytest.raises(SpecError, match=r"SystemExit: 2 \(net.py:3\)"):
        StudySpec.read(study(tmp_path, "source: digits", 'family: "net.py:Net"'))


ANSWERS = """
import numpy as np, pandas as pd, torch
X, Y = np.zeros((30, 4)), np.arange(30) % 2
class Items:
    def __init__(self, make): self.make = make
    def __len__(self): return 30
    def __getitem__(self, i): return self.make(i)
def dicts(): return Items(lambda i: {"image": X[i], "label": Y[i]})
def triples(): return Items(lambda i: (X[i], 1.0, Y[i]))
def singles(): return Items(lambda i: X[i])
def frame(): return pd.DataFrame({"a": Y, "y": Y})
def series(): return pd.Series(Y)
def array(): return X
def tensor(): return torch.zeros(30, 4)
"""


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (
            "dicts",
            "item 0: expected a pair (input, target), got dict with the keys image, label; return a pair",
        ),
        ("triples", "item 0: expected a pair (input, target), got tuple of 3"),
        ("singles", "item 0: expected a pair (input, target), got ndarray"),
        ("frame", "got one DataFrame; return (frame[[…inputs]].to_numpy(), frame[target].to_numpy())"),
        ("series", "got one Series; return it with y"),
        ("array", "got one ndarray; return it with y"),
        ("tensor", "got one Tensor; return it with y"),
    ],
)
def test_an_answer_that_is_no_pair_is_told_what_to_return(tmp_path: Path, function: str, said: str) -> None:
    (tmp_path / "own.py").write_text(ANSWERS)
    with pytest.raises(DataError) as caught:
        load(f"own.py:{function}", folder=tmp_path)
    assert said in str(caught.value)


def test_a_terminal_that_knows_ascii_alone_gets_escapes(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "pics" / name).mkdir(parents=True)
        for number in range(15):
            Image.new("L", (8, 8), 9 * number).save(tmp_path / "pics" / name / f"{number}.png")
    done = tuner(tmp_path, "check", str(study(tmp_path, "source: pics")), PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert r"images 1\xd732\xd732, 2 classes" in done.stdout


def test_a_file_that_cannot_be_written_is_wrong_input(tmp_path: Path) -> None:
    from tuner.cli.starter import StarterOptions, write

    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder.yaml").mkdir()
    wish = StarterOptions("digits", family="mlp")
    for output in (tmp_path / "file" / "new.yaml", tmp_path / "folder.yaml", tmp_path / ("x" * 300)):
        with pytest.raises(InputError, match=r"expected a file that can be written, got: .*; name another"):
            write(wish, output, force=True, ask=None)


def test_a_column_that_is_no_name_is_told_by_itself(tmp_path: Path) -> None:
    for key in ("columns", "target"):
        with pytest.raises(SpecError, match=r'got a list, its element 2 the integer 1; write "1" in quotes'):
            StudySpec.read(study(tmp_path, f"source: t.csv, {key}: [a, 1]"))


def test_measurements_over_time_are_told_how_to_become_a_sequence(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).normal(size=(60, 20, 3)), y=np.arange(60) % 2)
    spec = StudySpec.read(study(tmp_path, "source: d.npz", "family: rnn"))
    with pytest.raises(SpecError, match=r"expected a network for image, got rnn.*or say data.modality: sequence"):
        plan(spec)
