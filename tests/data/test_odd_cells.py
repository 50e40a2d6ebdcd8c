"""One odd cell in an otherwise plain column; new rows are read as those of training were, whoever stands beside."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tuner.data import load
from tuner.data.cells import numbers
from tuner.data.dates import format_of, seconds, written
from tuner.data.text_columns import Texts
from tuner.errors import DataError


def column(*texts: str) -> Texts:
    return Texts.of(texts)


def table(path: Path, header: str, *rows: str) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_one_decimal_comma_among_decimal_points_makes_no_thousands_of_them() -> None:
    cells = column(*[f"{5 + i / 1000:.3f}" for i in range(125, 225)], "3,5")
    for separator in (",", ";"):
        read = numbers(cells, separator)
        assert read.values[0] == 5.125
        assert read.is_text.tolist() == [False] * 100 + [True]


def test_a_column_of_commas_with_points_for_thousands_is_read_so() -> None:
    read = numbers(column("1.250,50", "980", "1.250", "3.100"), ";")
    assert read.values.tolist() == [1250.5, 980, 1250, 3100]


def test_a_sign_may_stand_apart() -> None:
    read = numbers(column("3", "4", "- 5", "7"))
    assert read.values.tolist() == [3, 4, -5, 7]
    assert read.notation == ""


@pytest.mark.parametrize("beside", [[], ["980,00"], ["?"], ["nil"]])
def test_a_cell_means_the_same_whatever_stands_beside_it(beside: list[str]) -> None:
    assert numbers(column("1.250", *beside), ";", "decimal comma").values[0] == 1250


def test_new_rows_that_another_program_wrote_are_read_as_it_wrote_them() -> None:
    assert numbers(column("1.5", "2.125"), ",", "decimal comma").values.tolist() == [1.5, 2.125]


def test_a_mark_for_a_missing_number_may_have_an_underscore() -> None:
    read = numbers(column("1", "no_data", "1_000"), marks=["no_data"])
    assert read.is_text.tolist() == [False, False, True]
    assert np.isnan(read.values[1:]).all()


def test_a_long_text_is_no_number() -> None:
    assert numbers(column("9 " * 50_000, "1")).is_text.tolist() == [True, False]


def test_the_order_of_day_and_month_is_looked_for_in_the_whole_column() -> None:
    days = [dt.date(2023, 1, 1) + dt.timedelta(days=i) for i in range(60) for _ in range(50)]
    texts = [f"{day:%d/%m/%Y}" for day in days]
    assert format_of(texts) == "%d/%m/%Y"


def test_a_time_keeps_its_fraction() -> None:
    assert written(seconds(["2024-01-01 00:00:00.250", "2024-01-01"], "ISO8601")) == [
        "2024-01-01 00:00:00.250000", "2024-01-01 00:00:00.000000",
    ]  # fmt: skip
    assert written(np.array([0.0, np.nan])) == ["1970-01-01 00:00:00", None]


def test_numbers_in_the_place_of_dates_are_refused(tmp_path: Path) -> None:
    days = pd.date_range("2024-01-01", periods=40)
    pd.DataFrame({"day": days, "y": range(40)}).to_parquet(tmp_path / "t.parquet")
    dataset = load(str(tmp_path / "t.parquet"), target="y", task="regression")
    pd.DataFrame({"day": [20240105]}).to_parquet(tmp_path / "new.parquet")
    with pytest.raises(DataError, match=r"expected a date, got the number 20240105"):
        dataset.preprocess.read(tmp_path / "new.parquet")


def test_rows_are_counted_as_in_the_file_also_where_some_are_left_out(tmp_path: Path) -> None:
    frame = pd.DataFrame({"income": [1.0] * 40, "y": [float(i % 7) for i in range(40)]})
    frame.loc[:2, "y"] = np.nan
    frame.loc[9, "income"] = np.inf
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="row 10, column 'income'"):
        load(str(tmp_path / "t.parquet"), target="y", task="regression")


def test_a_category_that_a_frame_lacks_is_the_empty_one(tmp_path: Path) -> None:
    path = table(
        tmp_path / "t.csv", "plan,x,y", *[f"{('gold', '', 'basic')[i % 3]},{i},{'ab'[i % 2]}" for i in range(60)]
    )
    preprocess = load(str(path), target="y").preprocess
    empty = preprocess.apply(pd.DataFrame({"plan": [""], "x": [1.0]}))
    assert (preprocess.apply(pd.DataFrame({"plan": [np.nan], "x": [1.0]})) == empty).all()


def test_sequences_of_one_length_are_read_back_as_they_were_trained_on(tmp_path: Path) -> None:
    x, lengths = np.random.default_rng(0).random((40, 8, 3)), np.full(40, 5)
    np.savez(tmp_path / "s.npz", x=x, y=np.arange(40) % 2, lengths=lengths)
    preprocess = load(str(tmp_path / "s.npz")).preprocess
    assert preprocess.read(tmp_path / "s.npz").shape == (40, 5, 3)


def test_texts_that_are_saved_as_bytes_are_read_back(tmp_path: Path) -> None:
    x = np.array([b"one", b"two", b"three", b"four"] * 10)
    np.savez(tmp_path / "t.npz", x=x, y=np.arange(40) % 2)
    read = load(str(tmp_path / "t.npz")).preprocess.read(tmp_path / "t.npz")
    assert read.iloc[2, 0] == "three"


@pytest.mark.parametrize("shape", [(3,), (4, 4)])
def test_an_array_with_a_number_that_is_none_has_no_answer(tmp_path: Path, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).random((40, *shape))
    np.savez(tmp_path / "t.npz", x=x, y=np.arange(40) % 2)
    preprocess = load(str(tmp_path / "t.npz")).preprocess
    x[7].flat[0] = np.nan
    with pytest.raises(DataError, match=r"x\[7, .*\(row 8\): expected a number up to 3.4e38, got nan"):
        preprocess.apply(x)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_picture_is_brought_to_the_channels_of_training(tmp_path: Path, channels: int) -> None:
    from PIL import Image

    x = np.random.default_rng(0).integers(0, 255, (40, 8, 8, channels), dtype=np.uint8)
    np.savez(tmp_path / "t.npz", x=x, y=np.arange(40) % 2)
    preprocess = load(str(tmp_path / "t.npz"), modality="image").preprocess
    Image.new("RGB", (20, 10), (255, 0, 0)).save(tmp_path / "new.png")
    assert preprocess.read(tmp_path / "new.png").shape == (1, 8, 8, channels)


@pytest.mark.parametrize("values", [np.linspace(0, 1, 64, dtype=np.float32), np.arange(64, dtype=np.int32) * 5_000])
def test_a_picture_of_32_bits_is_refused_where_it_would_turn_black(tmp_path: Path, values: np.ndarray) -> None:
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / name / "1.png")
    Image.fromarray(values.reshape(8, 8)).save(tmp_path / "dog" / "2.tif")
    with pytest.raises(DataError, match=r"2\.tif: expected 8 or 16 bits a channel, got numbers from 0 to"):
        load(str(tmp_path))


def test_a_file_without_an_answer_in_a_folder_of_new_pictures_is_told(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("cat", "dog", "new"):
        (tmp_path / name).mkdir()
        for number in range(10):
            Image.new("L", (8, 8), number).save(tmp_path / name / f"{number}.png")
    (tmp_path / "new").rename(tmp_path.parent / f"{tmp_path.name}-new")
    new = tmp_path.parent / f"{tmp_path.name}-new"
    preprocess = load(str(tmp_path)).preprocess
    (new / "notes.txt").write_text("mine")
    assert len(preprocess.read(new)) == 10
    (new / "11.HEIC").write_bytes(b"?")
    with pytest.raises(DataError, match=r"11\.HEIC: expected a picture that ends in"):
        preprocess.read(new)


def test_targets_that_float32_cannot_tell_apart_are_refused(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", "x,y", *[f"{i},{1_700_000_000 + i}" for i in range(100)])
    with pytest.raises(DataError, match="that float32 tells apart, got 1700000000 to 1700000099; subtract a constant"):
        load(str(path), target="y", task="regression")


def test_a_line_ends_where_an_editor_ends_it(tmp_path: Path) -> None:
    path = tmp_path / "new.txt"
    path.write_text("one\u2028still one\ntwo\x0cstill two\n")
    (tmp_path / "t.txt").write_text("some text to learn from\n" * 50)
    preprocess = load(str(tmp_path / "t.txt"), length=8).preprocess
    assert len(preprocess.read(path)) == 2


@pytest.mark.parametrize("header", ["#id,text,y", "#size|kind|y"])
def test_a_header_may_begin_with_a_hash(tmp_path: Path, header: str) -> None:
    separator = "|" if "|" in header else ","
    rows = [separator.join([f"{i}", f'"a{separator} {"bc"[i % 2]}"', "pq"[i % 2]]) for i in range(40)]
    dataset = load(str(table(tmp_path / "t.csv", header, *rows)), target="y")
    assert sum(dataset.rows.values()) == 40


def test_a_column_of_lists_is_left_out_unless_it_is_named(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": range(40), "tags": [["a"]] * 40, "y": [i % 2 for i in range(40)]})
    path = tmp_path / "t.parquet"
    frame.to_parquet(path)
    dataset = load(str(path), target="y")
    assert dataset.preprocess.columns == ("x",)
    assert any("column 'tags': list" in note and "left out" in note for note in dataset.notes)
    assert len(dataset.preprocess.read(path)) == 40
    with pytest.raises(DataError, match="column 'tags': expected numbers"):
        load(str(path), target="y", columns=["x", "tags"])


def test_a_named_index_is_left_out_unless_it_is_named(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": [i * i % 41 for i in range(40)], "x": range(40), "y": [i % 2 for i in range(40)]})
    frame = frame.set_index("id")
    path = tmp_path / "t.parquet"
    frame.to_parquet(path)
    dataset = load(str(path), target="y")
    assert dataset.preprocess.columns == ("x",)
    assert any("column 'id': the index" in note for note in dataset.notes)
    named = load(str(path), target="y", columns=["id", "x"]).preprocess
    assert named.columns == ("id", "x")
    assert len(named.read(path)) == 40


def test_rows_without_a_target_leave_a_mapped_table_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    frame = pd.DataFrame(
        {"x": np.arange(2_000.0), "z": np.arange(2_000.0) ** 2, "y": [float(i % 2) for i in range(2_000)]}
    )
    frame.loc[5, "y"] = np.nan
    frame.to_parquet(tmp_path / "t.parquet")
    small = load(str(tmp_path / "t.parquet"), target="y", memory=1e-6)
    whole = load(str(tmp_path / "t.parquet"), target="y")
    assert sum(small.rows.values()) == 1_999
    assert np.array_equal(np.asarray(small.train.inputs), np.asarray(whole.train.inputs))
    assert small.digest == whole.digest
