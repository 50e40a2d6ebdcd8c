"""Data: what is read, who is in which split, what is learnt from the training rows, and what is said of bad files."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.servers import PATIENCE
from tuner import models
from tuner.data import Dataset, Preprocess, batches, load
from tuner.data.splits import split
from tuner.errors import DataError
from tuner.models.interface import Signature

SETTINGS = settings(max_examples=60, deadline=None)


def customers(rows: int = 60) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": draw.integers(18, 80, rows),
            "income": draw.normal(3e4, 1e4, rows).round(2),
            "city": draw.choice(["Paris", "Rome", "Oslo"], rows),
            "member": draw.choice([True, False], rows),
            "churned": draw.choice(["yes", "no"], rows),
        }
    )


def write(path: Path, frame: pd.DataFrame) -> Path:
    {".csv": lambda: frame.to_csv(path, index=False), ".parquet": lambda: frame.to_parquet(path)}[path.suffix]()
    return path


def complaints(source: Path | str, **arguments: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        load(str(source), **arguments)
    return list(caught.value.problems)


# Sources ---------------------------------------------------------------------------------------------------------


def like(line: str, pattern: str) -> bool:
    """Whether the parts of `pattern` between its asterisks stand in `line`, in order, and its ends at the ends."""
    parts = pattern.split("*")
    place = 0
    for part in parts:
        place = line.find(part, place)
        if place < 0:
            return False
        place += len(part)
    return line.startswith(parts[0]) and line.endswith(parts[-1])


@pytest.mark.parametrize(
    ("source", "signature", "rows"),
    [
        ("mnist", Signature("classification", "image", (1, 28, 28), 10), 5_000),
        ("digits", Signature("classification", "image", (1, 8, 8), 10), 1_797),
        ("breast_cancer", Signature("classification", "numbers", (30,), 2), 569),
    ],
)
def test_built_in_sources_are_what_their_packages_carry(source: str, signature: Signature, rows: int) -> None:
    dataset = load(source)
    assert dataset.signature == signature
    assert sum(dataset.rows.values()) == rows
    assert dataset.classes is not None
    assert len(dataset.classes) == signature.outputs
    assert dataset.train.inputs.dtype == np.float32
    assert dataset.train.targets.dtype == np.int64
    assert dataset.train.inputs.shape == (dataset.rows["train"], *signature.inputs)


def test_digits_and_breast_cancer_equal_scikit_learns_own_loaders() -> None:
    from sklearn.datasets import load_breast_cancer, load_digits

    for source, reference in (("digits", load_digits()), ("breast_cancer", load_breast_cancer())):
        dataset = load(source)
        part = dataset.validation
        expected = dataset.preprocess.apply(reference.data[part.rows])
        np.testing.assert_array_equal(part.inputs, expected)
        np.testing.assert_array_equal(part.targets, reference.target[part.rows])
        assert dataset.classes == tuple(map(str, reference.target_names))
        if source == "breast_cancer":
            assert list(dataset.preprocess.columns) == list(reference.feature_names)


def test_batches_and_augmentation_import_torch_and_numpy_alone_and_built_in_sources_nothing_heavy() -> None:
    program = """
import sys
import tuner.data.augmentation, tuner.data.batches
assert "tuner.data.dataset" not in sys.modules
from tuner import data
[data.load(name) for name in ("mnist", "digits", "breast_cancer")]
heavy = {"pandas", "pyarrow", "sklearn", "mlxtend", "pydantic", "optuna", "mlflow", "ray"} & sys.modules.keys()
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE)


def test_a_table_is_the_same_data_set_as_csv_and_as_parquet(tmp_path: Path) -> None:
    one, other = (
        load(str(write(tmp_path / f"customers{end}", customers())), target="churned") for end in (".csv", ".parquet")
    )
    assert one.digest == other.digest
    assert one.split_digest == other.split_digest
    assert one.preprocess == other.preprocess
    np.testing.assert_array_equal(one.train.inputs, other.train.inputs)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_separators_line_ends_a_byte_order_mark_and_blank_lines_do_not_matter(
    tmp_path: Path, separator: str, ending: str
) -> None:
    plain, other = write(tmp_path / "plain.csv", customers()), tmp_path / "other.csv"
    lines = plain.read_text().replace(",", separator).splitlines()
    other.write_text("\ufeff" + ending.join([*lines[:3], "", *lines[3:], ""]), newline="")
    assert load(str(plain), target="churned").digest == load(str(other), target="churned").digest


def test_quoted_cells_may_hold_separators_quotes_and_line_ends_and_lines_are_still_counted(tmp_path: Path) -> None:
    path = tmp_path / "quoted.csv"
    cells = ['"a, b"', '"say ""x"""', '"two\nlines"']
    lines = ["text,number,y"] + [f"{cells[i % 3]},{i},{'pq'[i % 2]}" for i in range(30)]
    path.write_text("\n".join(lines))
    dataset = load(str(path), target="y")
    assert dataset.preprocess.categories == {"text": ("a, b", 'say "x"', "two\nlines")}
    path.write_text("\n".join([*lines, "x,inf,p"]))
    assert complaints(path, target="y")[0].startswith(
        f"{path}:42:2: row 31, column 'number': "
    )  # ten cells of two lines


@pytest.mark.parametrize(
    ("target", "task", "told"),
    [
        ("churned", None, ("classification", 2)),
        ("member", None, ("classification", 2)),
        ("age", None, ("regression", 1)),
        ("income", None, ("regression", 1)),
        ("few", None, ("classification", 3)),
        ("few", "regression", ("regression", 1)),
        (["age", "income"], None, ("regression", 2)),
    ],
)
@pytest.mark.parametrize("end", [".csv", ".parquet"])
def test_the_task_is_told_from_the_target_unless_named(
    tmp_path: Path, end: str, target: str | list[str], task: str | None, told: tuple[str, int]
) -> None:
    frame = customers().assign(few=np.arange(60) % 3 * 10 - 10)
    dataset = load(str(write(tmp_path / f"t{end}", frame)), target=target, task=task)
    assert (dataset.signature.task, dataset.signature.outputs) == told
    if told[0] == "regression":
        assert dataset.classes is None
        expected = frame[[target] if isinstance(target, str) else target].to_numpy(np.float32)
        np.testing.assert_array_equal(dataset.train.targets, expected[dataset.train.rows])
    elif target == "few":
        assert dataset.classes == ("-10", "0", "10")


@pytest.mark.parametrize(
    ("shape", "modality", "inputs"),
    [
        ((40, 5), None, (5,)),
        ((40, 6, 4), None, (1, 6, 4)),
        ((40, 6, 4, 3), None, (3, 6, 4)),
        ((40, 6, 4, 3), "numbers", (72,)),
    ],
)
def test_an_npz_holds_vectors_or_images(
    tmp_path: Path, shape: tuple[int, ...], modality: str | None, inputs: tuple[int, ...]
) -> None:
    x = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    y = np.array(["cat", "dog"])[np.arange(40) % 2]
    np.savez(tmp_path / "a.npz", x=x, y=y)
    dataset = load("a.npz", folder=tmp_path, modality=modality)
    assert dataset.signature.inputs == inputs
    assert dataset.classes == ("cat", "dog")
    back = dataset.train.inputs
    if len(inputs) == 3:
        back = np.moveaxis(back, 1, -1)
    mean, scale = np.array(dataset.preprocess.mean), np.array(dataset.preprocess.scale)
    restored = (back * scale + mean).reshape(-1, *shape[1:])
    np.testing.assert_allclose(restored, x[dataset.train.rows], atol=1e-3)


def test_the_digest_follows_content_and_meaning_and_nothing_else(tmp_path: Path) -> None:
    frame = customers()
    first = load(str(write(tmp_path / "a.csv", frame)), target="churned")
    assert load(str(write(tmp_path / "b.csv", frame)), target="churned", seed=5, test=0.1).digest == first.digest
    for number, (changed, target) in enumerate(
        [
            (frame.assign(age=frame["age"].where(frame.index != 7, 99)), "churned"),
            (frame.assign(city=frame["city"].where(frame.index != 7, "Bonn")), "churned"),
            (frame.assign(churned=frame["churned"].map({"yes": "no", "no": "yes"})), "churned"),
            (frame.rename(columns={"age": "years"}), "churned"),
            (frame.assign(churned=frame["churned"].replace("yes", "yea")), "churned"),
            (frame, "member"),
        ]
    ):
        assert load(str(write(tmp_path / f"{number}.csv", changed)), target=target).digest != first.digest


# Splits ----------------------------------------------------------------------------------------------------------

SHARES = st.tuples(st.floats(0.01, 0.6), st.one_of(st.just(0.0), st.floats(0.01, 0.6))).filter(lambda s: sum(s) < 0.99)


@SETTINGS
@given(counts=st.lists(st.integers(3, 60), min_size=2, max_size=6), shares=SHARES, seed=st.integers(0, 2**40))
def test_splits_are_disjoint_complete_stratified_and_never_empty(
    counts: list[int], shares: tuple[float, float], seed: int
) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    classes = tuple(f"c{c}" for c in range(len(counts)))
    validation, test = shares
    rows = split(len(labels), labels, classes, validation=validation, test=test, seed=seed, source="s")
    everything = np.concatenate([rows.train, rows.validation, rows.test])
    np.testing.assert_array_equal(np.sort(everything), np.arange(len(labels)))
    for c, count in enumerate(counts):
        found = [int((labels[part] == c).sum()) for part in (rows.train, rows.validation, rows.test)]
        assert found[0] >= 1
        assert found[1] >= 1
        assert (found[2] >= 1) == (test > 0)
        if count * min(share for share in (validation, test, 1 - validation - test) if share) >= 1.5:
            assert abs(found[1] - validation * count) <= 0.5 + 1e-9
            assert abs(found[2] - test * count) <= 0.5 + 1e-9


@SETTINGS
@given(seed=st.integers(0, 2**40), rows=st.integers(20, 400), validations=st.tuples(SHARES, SHARES))
def test_the_test_rows_depend_on_the_seed_and_the_test_share_alone(
    seed: int, rows: int, validations: tuple[tuple[float, float], tuple[float, float]]
) -> None:
    one, other = (
        split(rows, None, None, validation=v * 0.6, test=0.3, seed=seed, source="s") for (v, _) in validations
    )
    np.testing.assert_array_equal(one.test, other.test)
    again = split(rows, None, None, validation=validations[0][0] * 0.6, test=0.3, seed=seed, source="s")
    assert again.digest == one.digest
    assert split(rows, None, None, validation=0.3, test=0.3, seed=seed + 1, source="s").digest != one.digest


def test_splits_never_change_from_one_version_to_the_next() -> None:
    """A study resumed under a newer numpy, or a newer Tuner, must find the same rows: these digests were recorded."""
    assert load("digits", seed=7).split_digest == "803699203bb468a5b35f79a60af181abb2a2b61c6026de5493a5725aa441ab8a"
    assert batches.order(7, 64, 3, 6).tolist() == [2, 0, 5, 4, 3, 1]


def test_test_rows_are_set_aside_raw_and_opened_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = Preprocess.apply

    def apply(self: Preprocess, raw: Any) -> np.ndarray:
        seen.append(len(raw))
        return real(self, raw)

    monkeypatch.setattr(Preprocess, "apply", apply)
    dataset = load("digits")
    assert seen == [dataset.rows["train"], dataset.rows["validation"]]
    part = dataset.open_test()
    assert len(part) == dataset.rows["test"]
    taken = {*dataset.train.rows.tolist(), *dataset.validation.rows.tolist()}
    assert taken.isdisjoint(part.rows.tolist())
    assert abs(part.inputs.mean()) < 0.1


def test_a_study_without_test_rows_says_so_when_they_are_opened() -> None:
    dataset = load("digits", test=0)
    assert dataset.rows["test"] == 0
    with pytest.raises(DataError, match=r"^data\.test: expected a share above 0"):
        dataset.open_test()


def test_a_data_set_survives_pickling(tmp_path: Path) -> None:
    dataset = load(str(write(tmp_path / "a.csv", customers())), target="churned")
    copy: Dataset = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(copy.open_test().inputs, dataset.open_test().inputs)


# Batches ---------------------------------------------------------------------------------------------------------


@SETTINGS
@given(seed=st.integers(0, 2**40), batch=st.integers(1, 70), epoch=st.integers(0, 1000), rows=st.integers(1, 300))
def test_a_batch_order_is_a_permutation_told_by_seed_batch_size_and_epoch(
    seed: int, batch: int, epoch: int, rows: int
) -> None:
    order = batches.order(seed, batch, epoch, rows)
    assert order.dtype == torch.int64
    assert torch.equal(order.sort().values, torch.arange(rows))
    assert torch.equal(order, batches.order(seed, batch, epoch, rows))
    assert batches.steps(rows, batch) == len(order.split(batch))
    if rows > 20:
        for other in ((seed + 1, batch, epoch), (seed, batch + 1, epoch), (seed, batch, epoch + 1)):
            assert not torch.equal(order, batches.order(*other, rows))


def _channels_last(values: np.ndarray) -> np.ndarray:
    """As a reader of pictures leaves them: for one channel numpy calls both orders row-major, torch does not."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(values, 1, -1)), -1, 1)


def _unaligned(values: np.ndarray) -> np.ndarray:
    room = np.empty(values.nbytes + 128, np.uint8)
    start = -room.ctypes.data % 64 + 4
    there = room[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    there[...] = values
    return there


@pytest.mark.parametrize("arranged", [_channels_last, _unaligned])
def test_values_lie_the_same_whatever_way_an_array_came_and_a_network_answers_the_same_to_the_bit(
    arranged: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Through Ray one came with other strides than from a file, and validation losses differed in their last bits."""
    plain = np.random.default_rng(0).normal(size=(512, 1, 28, 28)).astype(np.float32)
    network = models.build("cnn", Signature("classification", "image", (1, 28, 28), 10), {"width": 8, "depth": 2})
    network.eval()
    expected = batches.place(plain, torch.device("cpu"))
    found = batches.place(arranged(plain), torch.device("cpu"))
    assert isinstance(found, torch.Tensor) and isinstance(expected, torch.Tensor)
    assert found.stride() == expected.stride() == (784, 784, 28, 1)
    assert found.data_ptr() % 64 == expected.data_ptr() % 64 == 0
    with torch.no_grad():
        assert torch.equal(network(found), network(expected))


def test_values_that_lie_well_are_not_copied() -> None:
    room = torch.zeros(64, 30).numpy()
    placed = batches.place(room, torch.device("cpu"))
    assert isinstance(placed, torch.Tensor) and placed.data_ptr() == room.ctypes.data


# Preprocessing ---------------------------------------------------------------------------------------------------


def test_normalisation_is_fitted_on_the_training_rows_only(tmp_path: Path) -> None:
    frame = customers()
    first = load(str(write(tmp_path / "a.csv", frame)), target="churned")
    held = np.concatenate([first.validation.rows, first.open_test().rows])
    frame.loc[held, "income"] = 1e9
    second = load(str(write(tmp_path / "b.csv", frame)), target="churned")
    assert second.preprocess == first.preprocess
    np.testing.assert_array_equal(second.train.inputs, first.train.inputs)


@pytest.mark.parametrize("source", ["mnist", "digits", "breast_cancer"])
def test_training_inputs_have_mean_0_and_deviation_1_per_column_or_channel(source: str) -> None:
    x = load(source).train.inputs.astype(np.float64)
    over = (0,) if x.ndim == 2 else (0, 2, 3)
    np.testing.assert_allclose(x.mean(over), 0, atol=1e-6)
    np.testing.assert_allclose(x.std(over), 1, atol=1e-6)


def test_a_constant_column_becomes_0_whatever_a_later_row_holds() -> None:
    raw = np.column_stack([np.full(10, 0.1), np.arange(10.0)])
    preprocess = Preprocess.fit(raw, modality="numbers", columns=("same", "other"))
    assert preprocess.scale[0] == 0
    assert (preprocess.apply(np.array([[123.0, 4.5]])) == [[0, 0]]).all()
