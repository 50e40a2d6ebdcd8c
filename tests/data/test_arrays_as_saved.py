"""Arrays as people save them: narrow types, bytes, objects, one-hot labels, channels first, far more than a file."""

from __future__ import annotations

import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tuner.data import load
from tuner.errors import DataError

DRAW = np.random.default_rng(0)
LABELS = np.arange(60) % 3


def saved(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


def complaint(source: str, **arguments: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(source, **arguments)
    return str(caught.value)


def test_numbers_of_two_bytes_are_read_and_an_overflow_in_them_is_named(tmp_path: Path) -> None:
    x = DRAW.normal(size=(60, 3)).astype(np.float16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        good = load(saved(tmp_path / "d.npz", x=x, y=LABELS))
        assert good.train.inputs.dtype == np.float32
        x[4, 1] = np.inf
        found = complaint(saved(tmp_path / "d.npz", x=x, y=LABELS))
        assert "x[4, 1] (row 5): expected a number up to 3.4e38, got inf" in found
        y = np.where(LABELS == 2, np.nan, DRAW.normal(size=60)).astype(np.float16)
        assert "y[2] (row 3): expected a number up to 3.4e38, got nan" in complaint(
            saved(tmp_path / "e.npz", x=x[5:], y=y[5:].copy() * 0 + y[:55])
        )


@pytest.mark.parametrize("shape", [(60, 4, 16, 16), (60, 12, 16, 16), (60, 4, 24, 32), (60, 8, 9, 9), (60, 3, 8, 6)])
def test_channels_first_are_refused_however_many(tmp_path: Path, shape: tuple[int, ...]) -> None:
    source = saved(tmp_path / "d.npz", x=DRAW.normal(size=shape), y=LABELS)
    assert "which looks like channels first; save x.transpose(0, 2, 3, 1)" in complaint(source)


@pytest.mark.parametrize("shape", [(60, 16, 16, 4), (60, 16, 16, 12), (60, 8, 8, 100), (60, 24, 32, 8), (60, 5, 4, 3)])
def test_channels_last_are_read(tmp_path: Path, shape: tuple[int, ...]) -> None:
    dataset = load(saved(tmp_path / "d.npz", x=DRAW.normal(size=shape), y=LABELS))
    assert dataset.signature.inputs == (shape[3], *shape[1:3])


def test_a_person_who_names_images_has_the_last_word(tmp_path: Path) -> None:
    source = saved(tmp_path / "d.npz", x=DRAW.normal(size=(60, 8, 16, 16)), y=LABELS)
    assert "or say data.modality: image" in complaint(source)
    assert load(source, modality="image").signature.inputs == (16, 8, 16)


def test_new_images_of_equal_size_and_other_axes_are_refused(tmp_path: Path) -> None:
    preprocess = load(saved(tmp_path / "d.npz", x=DRAW.normal(size=(60, 6, 8, 4)), y=LABELS)).preprocess
    np.savez(tmp_path / "new.npz", x=np.zeros((2, 4, 6, 8)))
    with pytest.raises(DataError, match=r"expected \[N, 6, 8, 4\] .* got an array of shape \[2, 4, 6, 8\]"):
        preprocess.read(tmp_path / "new.npz")
    np.savez(tmp_path / "flat.npz", x=np.zeros((2, 192)))
    assert preprocess.apply(preprocess.read(tmp_path / "flat.npz")).shape == (2, 4, 6, 8)


def test_new_numbers_that_are_none_are_named_rather_than_predicted(tmp_path: Path) -> None:
    preprocess = load(saved(tmp_path / "d.npz", x=DRAW.normal(size=(60, 3)), y=LABELS)).preprocess
    np.savez(tmp_path / "new.npz", x=np.array([[0, 1, 2], [0, np.nan, 2]]))
    with pytest.raises(DataError, match=r"new.npz: x\[1, 1\] \(row 2\): expected a number up to 3.4e38, got nan"):
        preprocess.read(tmp_path / "new.npz")


def test_images_with_lengths_are_no_sequences(tmp_path: Path) -> None:
    lengths = DRAW.integers(2, 7, 60)
    found = complaint(saved(tmp_path / "d.npz", x=DRAW.normal(size=(60, 6, 8, 8)), y=LABELS, lengths=lengths))
    assert "x: expected sequences [N, T, features] or [N, T], got [60, 6, 8, 8]; it has lengths" in found
    found = complaint(saved(tmp_path / "d.npz", x=DRAW.normal(size=60), y=LABELS, lengths=lengths))
    assert "x: expected sequences [N, T, features] or [N, T], got [60]" in found


def test_labels_of_objects_are_told_how_to_be_saved_and_bytes_are_text(tmp_path: Path) -> None:
    x, names = DRAW.normal(size=(60, 3)), np.array(["cat", "dog", "owl"])[LABELS]
    found = complaint(saved(tmp_path / "d.npz", x=x, y=names.astype(object)))
    assert "d.npz: y: expected an array of numbers or text, got one of Python objects" in found
    assert "save y.astype(str)" in found
    assert load(saved(tmp_path / "d.npz", x=x, y=names.astype("S3"))).classes == ("cat", "dog", "owl")
    wrong = np.where(LABELS == 0, b"\xff\xfe", names.astype("S3"))
    assert "y: expected text in UTF-8" in complaint(saved(tmp_path / "d.npz", x=x, y=wrong))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("dtype", [float, int, bool])
def test_one_hot_labels_are_no_targets_of_a_regression(tmp_path: Path, classes: int, dtype: type) -> None:
    hot = np.eye(classes, dtype=dtype)[np.arange(60) % classes]
    source = saved(tmp_path / "d.npz", x=DRAW.normal(size=(60, 3)), y=hot)
    if dtype is bool:
        assert "y: expected labels [N]" in complaint(source)
        return
    for task in (None, "classification"):
        found = complaint(source, task=task)
        assert f"got {classes} columns that look one-hot; one column" in found
        assert "y.argmax(1)" in found
    assert load(source, task="regression").signature.outputs == classes


def test_one_hot_columns_of_a_table_are_no_targets_of_a_regression(tmp_path: Path) -> None:
    rows = [f"{i},{int(i % 3 == 0)},{int(i % 3 == 1)},{int(i % 3 == 2)}" for i in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["a,cat,dog,owl", *rows]))
    found = complaint(str(tmp_path / "t.csv"), target=["cat", "dog", "owl"])
    assert "look one-hot" in found


BOMB = """
import resource, sys
from pathlib import Path
from tuner.data import load
from tuner.errors import DataError
dataset = load(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for attempt in (lambda: load(sys.argv[2]), lambda: dataset.preprocess.read(Path(sys.argv[2]))):
    try:
        attempt()
    except DataError as error:
        print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_an_npz_that_would_fill_memory_is_named_before_it_does(tmp_path: Path) -> None:
    small = saved(tmp_path / "small.npz", x=DRAW.normal(size=(60, 3)), y=LABELS)
    bomb = tmp_path / "bomb.npz"
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (4000000, 100), }"
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("x.npy", "w", force_zip64=True) as member:
            member.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
            for _ in range(100):
                member.write(bytes(32_000_000))
        with archive.open("y.npy", "w") as member:
            np.save(member, np.arange(4_000_000) % 2)
    done = subprocess.run([sys.executable, "-c", BOMB, small, str(bomb)], capture_output=True, text=True, check=True)
    first, second, grown = done.stdout.splitlines()
    for found in (first, second):
        assert f"{bomb}: expected a file about as large as its content, got " in found
        assert "numpy.savez, which does not compress" in found
    assert int(grown) < 64 * 1024  # KiB


def test_what_compresses_well_and_is_small_is_read(tmp_path: Path) -> None:
    x = np.zeros((6_000, 100))
    x[:, 0] = np.arange(6_000) % 7
    np.savez_compressed(tmp_path / "d.npz", x=x, y=np.arange(6_000) % 3)
    assert sum(load(str(tmp_path / "d.npz")).rows.values()) == 6_000


def test_an_encrypted_archive_is_said_to_be_broken(tmp_path: Path) -> None:
    path = Path(saved(tmp_path / "d.npz", x=DRAW.normal(size=(60, 3)), y=LABELS))
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(mark)
        while at >= 0:
            content[at + offset] |= 1  # "this member is encrypted"
            at = content.find(mark, at + 1)
    path.write_bytes(content)
    assert "expected an npz file of arrays" in complaint(str(path))
