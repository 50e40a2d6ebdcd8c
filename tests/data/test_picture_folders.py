"""Folders of pictures as people have them: splits, editors' copies, links, other files, pictures that fill memory."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tuner.data import load
from tuner.errors import DataError


def pictures(*folders: Path, count: int = 15) -> None:
    draw = np.random.default_rng(0)
    for folder in folders:
        folder.mkdir(parents=True)
        for number in range(count):
            Image.fromarray(draw.integers(0, 256, (12, 12), np.uint8)).save(folder / f"{number}.png")


def complaint(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(str(folder))
    return str(caught.value)


@pytest.mark.parametrize(
    "splits", [("train", "val", "test"), ("Train", "Test"), ("training", "validation"), ("train",), ("test", "valid")]
)
def test_splits_that_hold_the_classes_are_no_classes(tmp_path: Path, splits: tuple[str, ...]) -> None:
    pictures(*(tmp_path / "pics" / split / name for split in splits for name in ("cat", "dog")))
    pictures(tmp_path / "pics" / splits[0] / "rare")
    (tmp_path / "pics" / ".git" / "objects").mkdir(parents=True)
    found = complaint(tmp_path / "pics")
    assert "expected a sub-folder for each class, got those of a split" in found
    assert f"name the one to learn from, such as {tmp_path / 'pics' / splits[0]}:" in found
    assert load(str(tmp_path / "pics" / splits[0])).classes == ("cat", "dog", "rare")


def test_splits_of_unsorted_pictures_and_splits_beside_other_folders_are_no_classes(tmp_path: Path) -> None:
    pictures(tmp_path / "flat" / "train", tmp_path / "flat" / "test")
    assert "sort the pictures by class" in complaint(tmp_path / "flat")
    pictures(*(tmp_path / "more" / split / name for split in ("train", "test") for name in ("cat", "dog")))
    pictures(tmp_path / "more" / "samples")
    assert str(tmp_path / "more" / "train") in complaint(tmp_path / "more")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    pictures(tmp_path / "p" / "train", tmp_path / "p" / "bus" / "london", tmp_path / "p" / "bus" / "paris")
    assert load(str(tmp_path / "p")).classes == ("bus", "train")


@pytest.mark.parametrize("copies", [".ipynb_checkpoints", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "sub/.thumbnails"])
def test_hidden_copies_are_no_pictures(tmp_path: Path, copies: str) -> None:
    pictures(tmp_path / "p" / "cat", tmp_path / "p" / "dog")
    pictures(tmp_path / "p" / "cat" / copies, tmp_path / "p" / ".cache")
    (tmp_path / "p" / "cat" / "._1.png").write_bytes(b"a resource fork")
    dataset = load(str(tmp_path / "p"))
    assert sum(dataset.rows.values()) == 30
    assert dataset.notes == ()
    read = dataset.preprocess.read(tmp_path / "p" / "cat")
    assert len(read) == 15


def test_what_is_left_out_among_pictures_is_told_with_its_number(tmp_path: Path) -> None:
    pictures(tmp_path / "p" / "cat", tmp_path / "p" / "dog", tmp_path / "elsewhere")
    for name in ("1.heic", "2.HEIC", "3.jfif", "4"):
        (tmp_path / "p" / "cat" / name).write_bytes(b"?")
    (tmp_path / "p" / "dog" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "p" / "dog" / "99.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "p" / "LICENCE").write_text("beside the classes")
    dataset = load(str(tmp_path / "p"))
    assert sum(dataset.rows.values()) == 30
    files, links = dataset.notes
    assert f"{tmp_path / 'p'}: 4 files are left out" in files and ".heic (2), " in files
    assert ".jfif (1)" in files and "no ending (1)" in files
    assert (
        "2 links to folders, or to nothing, are left out" in links and str(tmp_path / "p" / "dog" / "99.png") in links
    )


@pytest.mark.parametrize("mode", ["1", "L"])
def test_a_picture_too_large_for_memory_is_named_with_its_size(tmp_path: Path, mode: str) -> None:
    pictures(tmp_path / "p" / "cat", tmp_path / "p" / "dog")
    preprocess = load(str(tmp_path / "p")).preprocess
    slide = tmp_path / "p" / "cat" / "slide.png"
    Image.new(mode, (10_000, 9_000), 1).save(slide, compress_level=1)
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = complaint(tmp_path / "p")
        with pytest.raises(DataError, match=r"slide.png: expected a picture of at most 89 million pixels"):
            preprocess.read(slide)
    assert found == (
        f"{slide}: expected a picture of at most 89 million pixels, got 10,000×9,000; "
        "scale it down (it is brought to 32×32), or remove it"
    )
    assert limit == Image.MAX_IMAGE_PIXELS


PEAK = """
import resource, sys
from tuner.data import load
from tuner.errors import DataError
load("digits")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(sum(load("p").rows.values()))
except DataError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize(("name", "said"), [("bomb.png", "20,000×20,000"), ("large.jpg", "31")])
def test_a_large_picture_takes_a_bounded_part_of_memory(tmp_path: Path, name: str, said: str) -> None:
    pictures(tmp_path / "p" / "cat", tmp_path / "p" / "dog")
    side = 20_000 if name.endswith("png") else 12_000
    Image.new("L", (side, side), 128).save(tmp_path / "p" / "cat" / name)
    done = subprocess.run(
        [sys.executable, "-c", PEAK], capture_output=True, text=True, cwd=tmp_path, env=os.environ, check=True
    )
    *lines, grown = done.stdout.splitlines()
    assert said in lines[0]
    assert done.stderr == ""
    assert int(grown) < 300 * 1024  # KiB; the picture alone would take 400 MB


@pytest.mark.parametrize("splits", [("train_set", "test_set"), ("seg_train", "seg_test"), ("trainset", "holdout")])
def test_splits_are_known_by_a_part_of_their_names(tmp_path: Path, splits: tuple[str, ...]) -> None:
    pictures(*(tmp_path / "pics" / split / name for split in splits for name in ("cat", "dog")))
    pictures(tmp_path / "pics" / "more")
    assert f"such as {tmp_path / 'pics' / splits[0]}:" in complaint(tmp_path / "pics")


@pytest.mark.parametrize("classes", [("test positive", "test negative"), ("strain_a", "attest"), ("train ride", "bus")])
def test_classes_whose_names_are_like_those_of_splits_are_classes(tmp_path: Path, classes: tuple[str, ...]) -> None:
    pictures(*(tmp_path / "p" / name / month for name in classes for month in ("may", "june")))
    assert load(str(tmp_path / "p")).classes == tuple(sorted(classes))
