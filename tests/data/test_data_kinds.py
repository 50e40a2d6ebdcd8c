"""Every kind of data from its file to a network's inputs: sequences, texts, pictures, tables with holes, functions."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.data.test_data import complaints, customers, like, write
from tuner.data import Preprocess, load
from tuner.data.built_in import _stem
from tuner.data.columns import Role
from tuner.data.splits import split
from tuner.errors import DataError
from tuner.models.interface import PADDING, UNKNOWN, Signature

SETTINGS = settings(max_examples=60, deadline=None)


def again(preprocess: Preprocess) -> Preprocess:
    """As a champion reads it years later."""
    back = Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict())))
    assert back == preprocess
    return back


# Built-in sets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "signature", "rows"),
    [
        ("wine", Signature("classification", "numbers", (13,), 3), 178),
        ("diabetes", Signature("regression", "numbers", (10,), 1), 442),
        ("digits-rows", Signature("classification", "sequence", (8, 8), 10), 1_797),
        ("mnist-rows", Signature("classification", "sequence", (28, 28), 10), 5_000),
        ("syllables", Signature("classification", "text", (17,), 6, vocabulary=29), 20_000),
    ],
)
def test_every_built_in_set_has_its_signature_and_all_its_rows(source: str, signature: Signature, rows: int) -> None:
    dataset = load(source, seed=7)
    assert dataset.signature == signature
    assert sum(dataset.rows.values()) == rows
    assert dataset.train.inputs.shape == (dataset.rows["train"], *signature.inputs)
    assert dataset.train.inputs.dtype == signature.example(1).numpy().dtype


def test_wine_and_diabetes_equal_scikit_learns_own_loaders() -> None:
    from sklearn.datasets import load_diabetes, load_wine

    for source, reference in (("wine", load_wine()), ("diabetes", load_diabetes(scaled=False))):
        dataset = load(source)
        part = dataset.validation
        np.testing.assert_array_equal(part.inputs, dataset.preprocess.apply(reference.data[part.rows]))
        np.testing.assert_array_equal(part.targets.reshape(-1), reference.target[part.rows])
        assert list(dataset.preprocess.columns) == list(reference.feature_names)


def test_rows_of_images_are_the_images_as_steps_and_the_same_rows_are_split_off() -> None:
    rows, images = load("digits-rows", seed=3), load("digits", seed=3)
    assert rows.split_digest == images.split_digest
    assert rows.digest != images.digest
    back, pixels = rows.preprocess.raw(rows.train.inputs), images.preprocess.raw(images.train.inputs)
    np.testing.assert_allclose(back, pixels, atol=1e-4)
    np.testing.assert_allclose(rows.train.inputs.astype(np.float64).mean((0, 1)), 0, atol=1e-6)


def test_syllables_keep_the_forms_of_one_word_on_one_side_of_the_split() -> None:
    dataset = load("syllables", seed=1)
    test = dataset.open_test()
    sides: dict[str, set[int]] = {}
    for side, part in enumerate((dataset.train, dataset.validation, test)):
        for word in dataset.preprocess.raw(part.inputs)["word"]:
            sides.setdefault(_stem(word), set()).add(side)
    # a word longer than every training word is cut, and its stem with it
    assert sum(len(found) > 1 for found in sides.values()) <= 2
    assert len({_stem(word) for word in ("running", "runs", "runner's", "run")}) == 1
    shares = Counter({name: len(part) / 20_000 for name, part in (("v", dataset.validation), ("t", test))})
    assert all(abs(share - 0.2) < 0.01 for share in shares.values())
    assert dataset.classes == ("1", "2", "3", "4", "5", "6 or more")


@SETTINGS
@given(
    sizes=st.lists(st.integers(1, 6), min_size=9, max_size=40),
    seed=st.integers(0, 2**40),
    classes=st.booleans(),
)
def test_a_group_is_never_parted(sizes: list[int], seed: int, classes: bool) -> None:
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    labels = groups % 3
    names = ("a", "b", "c") if classes else None
    rows = split(
        len(groups), labels if classes else None, names, validation=0.3, test=0.3, seed=seed, source="s", groups=groups
    )
    parts = [set(groups[part].tolist()) for part in (rows.train, rows.validation, rows.test)]
    assert all(parts)
    assert sum(map(len, parts)) == len(sizes)
    everything = np.concatenate([rows.train, rows.validation, rows.test])
    np.testing.assert_array_equal(np.sort(everything), np.arange(len(groups)))


# Text to be continued ---------------------------------------------------------------------------------------------


def novel(characters: int = 6_000) -> str:
    draw = np.random.default_rng(0)
    words = ["it", "was", "the", "best", "of", "times,", "naïve", "age", "of", "wisdom.\n"]
    return " ".join(draw.choice(words, characters // 4))[:characters]


def test_a_text_file_becomes_windows_whose_targets_are_the_next_characters(tmp_path: Path) -> None:
    (tmp_path / "novel.txt").write_text(novel(), encoding="utf-8")
    dataset = load("novel.txt", folder=tmp_path, length=20)
    vocabulary = len(dataset.preprocess.characters) + 2
    assert dataset.signature == Signature("language", "text", (20,), vocabulary, vocabulary=vocabulary)
    assert dataset.train.targets.dtype == np.int64
    for part in (dataset.train, dataset.validation, dataset.open_test()):
        np.testing.assert_array_equal(part.inputs[:, 1:], part.targets[:, :-1])
        texts = dataset.preprocess.raw(part.inputs)["text"]
        assert all(text in novel() for text in texts.tolist())


def test_no_character_stands_in_two_splits_of_a_text(tmp_path: Path) -> None:
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 5_000)))  # every character once
    (tmp_path / "t.txt").write_text(text, encoding="utf-8")
    dataset = load("t.txt", folder=tmp_path, length=16)
    assert set(dataset.preprocess.characters) <= set(text)
    raw, _, rows, _ = dataset._sealed
    assert isinstance(raw.inputs, np.ndarray)
    sides = [set(dataset.preprocess.characters), set("".join(raw.inputs.tolist()))]
    assert not sides[0] & sides[1]
    assert (dataset.validation.inputs == UNKNOWN).all()  # none was ever seen in training
    used = len(dataset.preprocess.characters) / 5_000
    assert used > 0.55
    assert len(np.intersect1d(rows, dataset.train.rows)) == 0


def test_blocks_are_contiguous_and_hold_sixteen_windows(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(novel(60_000))
    dataset = load("t.txt", folder=tmp_path)
    sides = np.concatenate(
        [np.zeros(len(dataset.train)), np.ones(len(dataset.validation)), np.full(len(dataset.open_test()), 2)]
    )
    order = np.argsort(np.concatenate([dataset.train.rows, dataset.validation.rows, dataset.open_test().rows]))
    sides = sides[order]
    whole = len(sides) // 16
    blocks = sides[: whole * 16].reshape(whole, 16)
    assert (blocks == blocks[:, :1]).all()
    assert whole > 50


def test_what_a_text_file_must_hold_is_said(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("too short")
    (tmp_path / "bytes.txt").write_bytes(b"fine\n\xff")
    (tmp_path / "novel.txt").write_text(novel())
    cases: list[tuple[dict[str, Any], str]] = [
        ({"source": "short.txt"}, "*short.txt: expected at least 195 characters, *, got 9; use a longer text or *"),
        ({"source": "bytes.txt"}, "*bytes.txt:2: expected UTF-8 text, got the byte 0xff; *"),
        (
            {"source": "novel.txt", "task": "regression"},
            "data.task: expected language for the text *, got 'regression'",
        ),
        ({"source": "novel.txt", "target": "y"}, "data.target: expected none for the text *, got 'y'"),
        ({"source": "novel.txt", "modality": "image"}, "data.modality: expected text for the text *, got 'image'"),
        ({"source": "digits", "length": 5}, "data.length: expected none for image, got 5; it is for text"),
        ({"source": "novl.txt"}, "data.source: expected a file, got nothing at *; did you mean novel.txt?"),
    ]
    for arguments, expected in cases:
        found = complaints(folder=tmp_path, **arguments)
        assert like(found[0], expected), found


# Texts to be told apart -------------------------------------------------------------------------------------------


def reviews(rows: int = 60) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    good = draw.integers(0, 2, rows)
    texts = [f"{'great' if g else 'awful'} thing, number {i}" for i, g in enumerate(good)]
    return pd.DataFrame({"id": range(rows), "review": texts, "stars": np.where(good, "five", "one")})


@pytest.mark.parametrize("end", [".csv", ".parquet"])
def test_a_column_of_text_is_read_by_character_and_a_new_file_as_training_was(tmp_path: Path, end: str) -> None:
    path = write(tmp_path / f"reviews{end}", reviews())
    dataset = load(str(path), target="stars", columns=["review"], modality="text")
    longest = max(len(text) for text in reviews()["review"][dataset.train.rows])
    assert dataset.signature.inputs == (longest,)
    assert dataset.signature.vocabulary == len(dataset.preprocess.characters) + 2
    assert dataset.classes == ("five", "one")
    back = dataset.preprocess.raw(dataset.train.inputs)
    assert back["review"].tolist() == reviews()["review"][dataset.train.rows].tolist()
    new = again(dataset.preprocess).read(write(tmp_path / f"new{end}", reviews()[["id", "review"]]))
    np.testing.assert_array_equal(dataset.preprocess.apply(new)[dataset.train.rows], dataset.train.inputs)
    alone = load(str(write(tmp_path / f"alone{end}", reviews()[["review", "stars"]])), target="stars")
    assert alone.signature == dataset.signature  # one column of text that does not repeat is told to be text


def test_characters_never_seen_longer_and_shorter_texts() -> None:
    raw = np.array(["abc", "ba"], np.dtypes.StringDType())
    preprocess = again(Preprocess.fit(raw, modality="text", columns=("text",)))
    assert preprocess.characters == "abc"
    tokens = preprocess.apply(["cab!", "x", "", "abcd"])
    assert tokens.tolist() == [[4, 2, 3], [UNKNOWN, PADDING, PADDING], [PADDING] * 3, [2, 3, 4]]
    assert preprocess.apply(["xabc"], end=True).tolist() == [[2, 3, 4]]


@SETTINGS
@given(texts=st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=20))
def test_texts_survive_encoding_and_json(texts: list[str]) -> None:
    raw = np.array(texts, np.dtypes.StringDType())
    preprocess = again(Preprocess.fit(raw, modality="text", columns=("text",)))
    tokens = preprocess.apply(texts)
    assert preprocess.vocabulary is not None
    assert tokens.max() < preprocess.vocabulary
    assert UNKNOWN not in tokens
    assert preprocess.raw(tokens)["text"].tolist() == texts


def test_a_table_of_text_says_which_column_it_wants(tmp_path: Path) -> None:
    path = write(tmp_path / "reviews.csv", reviews())
    assert like(complaints(path, target="stars", modality="text")[0], "data.columns: expected the one column of text*")
    assert like(complaints(path, target="stars", columns=["reviw"])[0], "*did you mean 'review'?")
    assert like(complaints(path, target="stars", columns=["stars"])[0], "data.columns: expected none of the target*")
    assert load(str(path), target="stars").signature.modality == "text", "but for its rows' numbers, all there is"
    several = write(tmp_path / "more.csv", reviews().assign(price=range(60)))
    (role,) = [role for role in load(str(several), target="stars").roles if role.column == "review"]
    assert role.role == "id" and role.about.endswith("read alone with modality: text, columns: [review]")
    holes = reviews().assign(review=reviews()["review"].where(reviews().index != 4, ""))
    path = write(tmp_path / "holes.csv", holes)
    found = complaints(path, target="stars", columns=["review"], modality="text")
    assert like(found[0], f"{path}:6:2: row 5, column 'review': expected text, got an empty cell; *")


# Sequences --------------------------------------------------------------------------------------------------------


def signals(rows: int = 40, longest: int = 6) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    lengths = np.concatenate([[longest], draw.integers(1, longest + 1, rows - 1)])
    x = draw.normal(5, 3, (rows, longest + 2, 3))
    x[np.arange(longest + 2) >= lengths[:, None]] = np.nan  # padding may hold anything
    return {"x": x, "y": np.arange(rows) % 2, "lengths": lengths}


def test_sequences_of_one_length_are_standardised_per_feature(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(3, 2, (40, 7, 2))
    np.savez(tmp_path / "s.npz", x=x, y=np.arange(40) % 2)
    dataset = load("s.npz", folder=tmp_path, modality="sequence")
    assert dataset.signature == Signature("classification", "sequence", (7, 2), 2)
    np.testing.assert_allclose(dataset.train.inputs.mean((0, 1)), 0, atol=1e-6)
    np.testing.assert_allclose(
        dataset.preprocess.raw(dataset.train.inputs), x[dataset.train.rows], rtol=1e-5, atol=1e-5
    )
    np.savez(tmp_path / "one.npz", x=x[..., 0], y=np.arange(40) % 2)
    assert load("one.npz", folder=tmp_path, modality="sequence").signature.inputs == (7, 1)


def test_sequences_of_unequal_length_are_masked_and_their_padding_is_zero(tmp_path: Path) -> None:
    arrays = signals()
    np.savez(tmp_path / "s.npz", **arrays)  # type: ignore[arg-type]
    dataset = load("s.npz", folder=tmp_path)
    assert dataset.signature == Signature("classification", "sequence", (6, 4), 2, masked=True)
    lengths = arrays["lengths"][dataset.train.rows]
    real = np.arange(6) < lengths[:, None]
    np.testing.assert_array_equal(dataset.train.inputs[..., -1], real)
    assert (dataset.train.inputs[~real] == 0).all()
    steps = dataset.train.inputs[real][:, :-1].astype(np.float64)
    np.testing.assert_allclose(steps.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(steps.std(0), 1, atol=1e-6)
    back = dataset.preprocess.raw(dataset.train.inputs)
    assert isinstance(back, np.ndarray)
    np.testing.assert_allclose(back[real], arrays["x"][dataset.train.rows, :6][real], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(again(dataset.preprocess).apply(back)[..., -1], real)


def test_what_stands_in_the_padding_changes_nothing(tmp_path: Path) -> None:
    arrays = signals()
    other = {**arrays, "x": np.nan_to_num(arrays["x"], nan=1e9)}
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    np.savez(tmp_path / "b.npz", **other)  # type: ignore[arg-type]
    one, two = load("a.npz", folder=tmp_path), load("b.npz", folder=tmp_path)
    assert one.digest == two.digest
    np.testing.assert_array_equal(one.train.inputs, two.train.inputs)


def test_equal_lengths_need_no_mask(tmp_path: Path) -> None:
    arrays = signals()
    arrays["x"], arrays["lengths"] = np.ones((40, 8, 3)).cumsum(0), np.full(40, 5)
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    assert load("a.npz", folder=tmp_path).signature == Signature("classification", "sequence", (5, 3), 2)


def test_new_sequences_may_be_longer_or_shorter(tmp_path: Path) -> None:
    arrays = signals()
    np.savez(tmp_path / "s.npz", **arrays)  # type: ignore[arg-type]
    dataset = load("s.npz", folder=tmp_path)
    for longest in (3, 9):
        new = signals(5, longest)
        np.savez(tmp_path / "new.npz", x=new["x"], lengths=new["lengths"])
        inputs = dataset.preprocess.apply(dataset.preprocess.read(tmp_path / "new.npz"))
        assert inputs.shape == (5, 6, 4)
        np.testing.assert_array_equal(inputs[..., -1].sum(1), new["lengths"].clip(max=6))


@pytest.mark.parametrize(
    ("changed", "arguments", "expected"),
    [
        ({"lengths": np.full(40, 9)}, {}, "*: lengths[0] (row 1): expected from 1 to 8 steps, got 9"),
        ({"lengths": np.zeros(40, int)}, {}, "*: lengths[0] (row 1): expected from 1 to 8 steps, got 0"),
        (
            {"lengths": np.full(39, 2)},
            {},
            "*: lengths: expected a whole number for each of 40 sequences, got int64 [39]",
        ),
        ({"lengths": np.full(40, 2.5)}, {}, "*: lengths: expected a whole number for each *, got float64 [40]"),
        ({}, {"modality": "image"}, "data.modality: expected sequence, because * has lengths, got image"),
        (
            {"x": np.zeros((40, 2, 2, 2))},
            {"modality": "sequence"},
            "*: x: expected sequences [N, T, features] or [N, T]*",
        ),
        ({"lengths": np.full(40, 8)}, {}, "*: x[0, 6, 0] (row 1): expected a number up to 3.4e38, got nan; *"),
    ],
)
def test_bad_sequences_are_named(
    tmp_path: Path, changed: dict[str, np.ndarray], arguments: dict[str, str], expected: str
) -> None:
    np.savez(tmp_path / "s.npz", **{**signals(), **changed})  # type: ignore[arg-type]
    found = complaints("s.npz", folder=tmp_path, **arguments)
    assert like(found[0], expected), found


# Tables with holes ------------------------------------------------------------------------------------------------


def holed() -> pd.DataFrame:
    frame = customers().astype({"age": float})
    frame.loc[[3, 7, 20], "age"] = np.nan
    frame.loc[[4, 9, 30, 31, 32], "city"] = None
    return frame


@pytest.mark.parametrize("end", [".csv", ".parquet"])
def test_empty_cells_are_filled_marked_and_told_of(tmp_path: Path, end: str) -> None:
    path = write(tmp_path / f"a{end}", holed())
    dataset = load(str(path), target="churned")
    roles = {role.column: role for role in dataset.roles}
    assert roles["age"] == Role("age", "number", 3, "filled with the training rows' mean, and marked")
    assert roles["city"] == Role("city", "category", 5, "4 values, an input each; missing is one of them")
    assert roles["churned"] == Role("churned", "target", 0, "2 classes")
    assert dataset.preprocess.categories["city"] == ("", "Oslo", "Paris", "Rome")
    assert dataset.signature.inputs == (2 + 1 + 4 + 2,)  # age and its mark, income, cities, member
    both = [(part.inputs, part.rows) for part in (dataset.train, dataset.validation, dataset.open_test())]
    inputs = np.concatenate([part for part, _ in both])[np.argsort(np.concatenate([rows for _, rows in both]))]
    empty = holed()["age"].isna().to_numpy()
    np.testing.assert_array_equal(inputs[:, 1], empty)
    assert (inputs[empty, 0] == 0).all()
    assert (inputs[~empty, 0] != 0).any()
    np.testing.assert_array_equal(inputs[:, 3], holed()["city"].isna())
    known = dataset.train.inputs[dataset.train.inputs[:, 1] == 0, 0].astype(np.float64)
    np.testing.assert_allclose([known.mean(), known.std()], [0, 1], atol=1e-6)


def test_empty_cells_go_through_a_new_file_json_and_back(tmp_path: Path) -> None:
    dataset = load(str(write(tmp_path / "a.csv", holed())), target="churned")
    preprocess = again(dataset.preprocess)
    read = preprocess.read(write(tmp_path / "new.csv", holed().drop(columns="churned")))
    np.testing.assert_array_equal(preprocess.apply(read)[dataset.train.rows], dataset.train.inputs)
    back = preprocess.raw(dataset.train.inputs)
    assert isinstance(back, pd.DataFrame)
    assert back["age"].isna().to_numpy().tolist() == holed()["age"].isna()[dataset.train.rows].tolist()
    np.testing.assert_allclose(preprocess.apply(back), dataset.train.inputs, atol=1e-4)


def test_a_hole_where_training_had_none_is_the_mean_or_no_category(tmp_path: Path) -> None:
    dataset = load(str(write(tmp_path / "a.csv", customers())), target="churned")
    assert dataset.notes == ()
    new = customers(2).astype({"age": float})
    new.loc[0, ["age", "city"]] = [np.nan, None]
    first, second = dataset.preprocess.apply(new)
    assert first[0] == 0 and (first[2:5] == 0).all()
    assert second[0] != 0 and second[2:5].sum() == 1


# Pictures ---------------------------------------------------------------------------------------------------------


def photos(folder: Path, mode: str = "RGB", size: tuple[int, int] = (40, 30), each: int = 5) -> Path:
    draw = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = draw.integers(0, 256, (size[1] + number, size[0], 3)).astype(np.uint8)
            Image.fromarray(pixels).convert(mode).save(folder / name / f"{number}.png")
    return folder


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1), ("1", 1), ("P", 3), ("RGBA", 3), ("LA", 1)])
@pytest.mark.parametrize("size", [None, 8])
def test_folders_of_pictures_are_classes_of_one_size(
    tmp_path: Path, mode: str, channels: int, size: int | None
) -> None:
    photos(tmp_path / "photos", mode)
    dataset = load("photos", folder=tmp_path, size=size)
    assert dataset.signature == Signature("classification", "image", (channels, size or 32, size or 32), 2)
    assert dataset.classes == ("cats", "dogs")
    assert sum(dataset.rows.values()) == 10
    back = dataset.preprocess.raw(dataset.train.inputs)
    assert isinstance(back, np.ndarray)
    np.testing.assert_allclose(back, back.round(), atol=1e-3)
    new = again(dataset.preprocess).read(tmp_path / "photos")
    np.testing.assert_array_equal(dataset.preprocess.apply(new)[dataset.train.rows], dataset.train.inputs)
    one = dataset.preprocess.read(tmp_path / "photos" / "cats" / "3.png")
    np.testing.assert_array_equal(one[0], new[3])


def test_the_middle_of_a_picture_is_kept_in_its_proportions_and_a_cameras_note_obeyed(tmp_path: Path) -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200  # the middle square
    wide[:5, 10:20, 0] = 100
    for name in ("a", "b"):
        (tmp_path / "p" / name).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(wide).save(tmp_path / "p" / name / f"{number}.png")
    note = Image.Exif()
    note[0x0112] = 3  # upside down
    Image.fromarray(wide).save(tmp_path / "p" / "a" / "0.png", exif=note)
    preprocess = load("p", folder=tmp_path, size=10).preprocess
    turned, plain = (
        preprocess.read(tmp_path / "p" / "a" / "0.png")[0],
        preprocess.read(tmp_path / "p" / "b" / "0.png")[0],
    )
    np.testing.assert_array_equal(plain, wide[:, 10:20])
    np.testing.assert_array_equal(turned, wide[::-1, 19:9:-1])


def test_bad_folders_of_pictures_are_named(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    broken = tmp_path / "photos" / "dogs" / "9.png"
    broken.write_bytes((tmp_path / "photos" / "dogs" / "1.png").read_bytes()[:200])
    (tmp_path / "photos" / "cats" / "9.jpg").write_text("no picture")
    found = complaints("photos", folder=tmp_path)
    assert [line.partition(": ")[0] for line in found] == [str(tmp_path / "photos" / "cats" / "9.jpg"), str(broken)]
    assert "expected a picture, got a file that cannot be read" in found[0]
    (tmp_path / "one" / "cats").mkdir(parents=True)
    found = complaints("one", folder=tmp_path)
    assert like(found[0], "*one: expected a sub-folder of pictures for each of two classes or more, got one, cats; *")
    assert like(found[1], "*cats: expected pictures (.png, *), got none; add some or remove the folder")
    assert like(complaints("photos", folder=tmp_path, target="y")[0], "data.target: expected none for the folder *")
    assert like(complaints("photos", folder=tmp_path, modality="text")[0], "data.modality: expected image for *")


# Functions --------------------------------------------------------------------------------------------------------

LOADERS = """
import numpy as np
import torch
from torch.utils.data import Dataset

X = np.arange(120.0).reshape(30, 4) % 7
Y = np.arange(30) % 3


def pair():
    return X, Y


def mapping():
    return {"x": torch.tensor(X), "y": list("abc" * 10)}


class Birds(Dataset):
    def __len__(self):
        return 30

    def __getitem__(self, i):
        return torch.tensor(X[i]), int(Y[i])


def dataset():
    return Birds()


def unequal():
    return [np.ones((1 + i % 4, 2)) * i for i in range(30)], Y


def texts():
    return [f"song {i}" for i in range(30)], Y


def numbers():
    return X, X[:, :2] * 1.5


def nothing():
    pass


def ragged():
    return [np.ones((2, 1 + i % 2)) for i in range(30)], Y


def fails():
    return X[1], Y[100]


def lost():
    return {"x": X, "labels": Y}
"""


@pytest.mark.parametrize(
    ("function", "signature"),
    [
        ("pair", Signature("classification", "numbers", (4,), 3)),
        ("mapping", Signature("classification", "numbers", (4,), 3)),
        ("dataset", Signature("classification", "numbers", (4,), 3)),
        ("unequal", Signature("classification", "sequence", (4, 3), 3, masked=True)),
        ("texts", Signature("classification", "text", (7,), 3, vocabulary=17)),
        ("numbers", Signature("regression", "numbers", (4,), 2)),
    ],
)
def test_a_function_may_return_arrays_tensors_texts_lists_or_a_torch_dataset(
    tmp_path: Path, function: str, signature: Signature
) -> None:
    (tmp_path / "loaders.py").write_text(LOADERS)
    dataset = load(f"loaders.py:{function}", folder=tmp_path)
    assert dataset.signature == signature
    assert sum(dataset.rows.values()) == 30


def test_the_digest_of_a_functions_file_belongs_to_the_datas(tmp_path: Path) -> None:
    path = tmp_path / "loaders.py"
    path.write_text(LOADERS)
    first = load("loaders.py:pair", folder=tmp_path).digest
    assert load("loaders.py:pair", folder=tmp_path).digest == first
    path.write_text(LOADERS + "\n# changed\n")
    assert load("loaders.py:pair", folder=tmp_path).digest != first


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("pairs", "data.source: expected a function of *loaders.py, got 'pairs'; it has pair, *; did you mean pair?"),
        ("nothing", "*loaders.py:nothing: expected it to return (x, y), *, got NoneType"),
        ("ragged", "*: x: expected examples that differ in their first axis alone, got shapes [2, 1] and [2, 2]"),
        ("fails", "*loaders.py:51: expected data, got IndexError: index 100 is out of bounds *"),
        ("lost", "*: expected the arrays x and y, and lengths where they differ, got x, labels"),
    ],
)
def test_what_a_function_does_wrong_is_told_with_file_and_line(tmp_path: Path, function: str, expected: str) -> None:
    (tmp_path / "loaders.py").write_text(LOADERS)
    found = complaints(f"loaders.py:{function}", folder=tmp_path)
    assert like(found[0], expected), found


def test_a_file_that_is_no_python_or_is_not_there_is_told(tmp_path: Path) -> None:
    path = tmp_path / "loaders.py"
    path.write_text("x = 1\ndef birds(:\n")
    assert like(complaints("loaders.py:birds", folder=tmp_path)[0], f"{path}:2: expected data, got SyntaxError: *")
    path.write_text("import no_such_package\n")
    assert like(complaints("loaders.py:birds", folder=tmp_path)[0], f"{path}:1: expected data, got ModuleNotFound*")
    assert like(complaints("loader.py:birds", folder=tmp_path)[0], "data.source: *; did you mean loaders.py?")


def test_an_error_in_a_function_is_told_with_its_line_wherever_it_is_called_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.py").write_text("def boom():\n    x = [1]\n    return x, labels\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"^bad.py:3: expected data, got NameError: name 'labels' is not defined$"):
        load("bad.py:boom")


def test_an_empty_line_among_new_texts_is_named_and_shifts_no_row(tmp_path: Path) -> None:
    from tuner.data.sources import read_inputs

    (tmp_path / "new.txt").write_text("one\n\nthree\n")
    with pytest.raises(DataError, match=r"new.txt:2: expected text, got an empty line; remove it"):
        read_inputs(tmp_path / "new.txt")
