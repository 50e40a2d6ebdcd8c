"""Data from a source to its splits, the second half."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.data.test_data import SETTINGS, complaints, customers, like, write
from tuner.data import Preprocess, load
from tuner.errors import DataError


def test_a_category_never_seen_in_training_is_none_of_the_known(tmp_path: Path) -> None:
    dataset = load(str(write(tmp_path / "a.csv", customers())), target="churned")
    known, unknown = dataset.preprocess.apply(customers(2).assign(city=["Rome", "Atlantis"]))
    assert known[2:5].tolist() == [0, 0, 1]
    assert unknown[2:5].tolist() == [0, 0, 0]


@SETTINGS
@example(values=[0.0, 2e-311], texts=["a"] * 30)  # its deviation has no finite inverse
@given(
    values=st.lists(st.floats(-1e30, 1e30), min_size=2, max_size=30),
    texts=st.lists(st.text(max_size=5), min_size=30, max_size=30),
)
def test_preprocess_survives_json_and_treats_each_row_by_itself(values: list[float], texts: list[str]) -> None:
    frame = pd.DataFrame({"number": values, "text": [f"t{text}" for text in texts[: len(values)]]})
    from tuner.data.column_kinds import typed
    from tuner.data.tables import Table

    preprocess = Preprocess.fit(typed(Table.of_frame(frame)), modality="numbers", classes=("a", "b"), targets=("y",))
    again = Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict())))
    assert again == preprocess
    whole = again.apply(frame)
    assert whole.shape == (len(frame), *preprocess.inputs)
    assert np.isfinite(whole).all()
    one_by_one = np.concatenate([again.apply(frame.iloc[i : i + 1]) for i in range(len(frame))])
    np.testing.assert_array_equal(one_by_one, whole)


@pytest.mark.parametrize("end", [".csv", ".parquet"])
def test_a_new_file_without_the_target_is_read_and_treated_as_the_training_rows_were(tmp_path: Path, end: str) -> None:
    frame = customers()
    dataset = load(str(write(tmp_path / f"a{end}", frame)), target="churned")
    preprocess = dataset.preprocess
    shuffled = frame[["city", "churned", "member", "age", "income"]].assign(extra="?")
    for number, new in enumerate((frame, frame.drop(columns="churned"), shuffled)):
        raw = preprocess.read(write(tmp_path / f"new{number}{end}", new))
        assert isinstance(raw, pd.DataFrame)
        np.testing.assert_array_equal(preprocess.apply(raw)[dataset.train.rows], dataset.train.inputs)


def test_new_images_are_read_from_npz_and_from_csv(tmp_path: Path) -> None:
    dataset = load("digits")
    x = np.random.default_rng(0).integers(0, 17, (4, 8, 8))
    np.savez(tmp_path / "new.npz", x=x)
    pd.DataFrame(x.reshape(4, 64)).to_csv(tmp_path / "new.csv", index=False)
    expected = dataset.preprocess.apply(x)
    assert expected.shape == (4, 1, 8, 8)
    for name in ("new.npz", "new.csv"):
        raw = dataset.preprocess.read(tmp_path / name)
        np.testing.assert_array_equal(dataset.preprocess.apply(raw), expected)


# Bad input -------------------------------------------------------------------------------------------------------


def cell(row: int, column: int, value: str) -> str:
    """The customers as CSV text with one cell changed; row from 1, column from 0."""
    return cells((row, column, value))


def cells(*changes: tuple[int, int, str]) -> str:
    lines = [line.split(",") for line in customers().to_csv(index=False).splitlines()]
    for row, column, value in changes:
        lines[row][column] = value
    return "\n".join(map(",".join, lines))


def with_line(line: str) -> str:
    lines = customers().to_csv(index=False).splitlines()
    return "\n".join([*lines[:5], line, *lines[5:]])


BAD_CSV: dict[str, tuple[str | bytes, list[str]]] = {
    "infinite": (
        cell(41, 1, "inf"),
        ["{file}:42:2: row 41, column 'income': expected a number up to 3.4e38, got inf; *"],
    ),
    "no target": (
        customers().assign(churned="").to_csv(index=False),
        ["{file}: target churned: expected values, got empty cells alone"],
    ),
    "classes too rare": (
        "age,churned\n1,y\n2,y\n3,n\n4,n\n",
        ["{file}: expected 3 rows or more of a class, one for every split, got 'n' in rows 3, 4, 'y' in rows 1, 2; *"],
    ),
    "short row": (with_line("1,2"), ["{file}:6:3: row 5: expected 5 fields as in the header, got 2; *"]),
    "long row": (with_line("1,2,Rome,True,no,6"), ["{file}:6:6: row 5: expected 5 fields as in the header, got 6; *"]),
    "everything at once": (
        cells((3, 0, "inf"), (4, 1, "inf"), (5, 4, "maybe")),
        [
            "*row 3, column 'age': expected a number up to 3.4e38, got inf*",
            "*row 4, column 'income': expected a number up to 3.4e38, got inf*",
        ],
    ),
    "no class but one": (
        customers().assign(churned="yes").to_csv(index=False),
        ["{file}: target 'churned': expected two classes or more, got 'yes' in all 60 rows"],
    ),
    "a class for each row": (
        customers().assign(churned=[f"c{i}" for i in range(60)]).to_csv(index=False),
        ["{file}: target 'churned': expected classes that repeat, got 60 different values in 60 rows; *"],
    ),
    "identifiers alone": (
        pd.DataFrame({n: [f"{n}{i}" for i in range(60)] for n in "ab"} | {"churned": ["y", "n"] * 30}).to_csv(
            index=False
        ),
        [f"*: column '{n}': expected numbers, or text that repeats, got 60 different texts in 60 rows *" for n in "ab"],
    ),
    "empty file": ("", ["{file}: expected a table with a header line, got an empty file"]),
    "no rows": ("age,churned\n", ["{file}: expected a header line and rows below it, got no rows"]),
    "target alone": ("churned\na\nb\n" * 9, ["{file}: expected columns beside the target churned, got none"]),
    "an open quote": ('age,churned\n"1,a\n2,b\n', ["{file}:2: expected a CSV record, got one that cannot be read *"]),
    "not UTF-8": (b"age,churned\n1,a\n\xff,b\n", ["{file}:3: expected UTF-8 text, got the byte 0xff; *"]),
}


@pytest.mark.parametrize("case", BAD_CSV)
def test_a_bad_csv_is_named_by_line_row_and_column(tmp_path: Path, case: str) -> None:
    content, expected = BAD_CSV[case]
    path = tmp_path / "bad.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = complaints(path, target="churned")
    assert [
        like(line, pattern.replace("{file}", str(path))) for line, pattern in zip(found, expected, strict=True)
    ] == [True for _ in expected], found


def test_only_the_first_complaints_of_a_column_are_listed_and_the_rest_counted(tmp_path: Path) -> None:
    frame = customers().astype({"age": float})
    frame.loc[:29, "age"] = np.inf
    found = complaints(write(tmp_path / "a.parquet", frame), target="churned")
    assert len(found) == 6
    assert found[0].endswith(
        "row 1, column 'age' (column 1): expected a number up to 3.4e38, got inf; correct it or remove the row"
    )
    assert found[-1].endswith("a.parquet: column 'age': and 25 more")


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (customers(0), "*: expected rows, got none"),
    ],
)
def test_a_bad_parquet_is_named_by_row_and_column(tmp_path: Path, frame: pd.DataFrame, expected: str) -> None:
    assert like(complaints(write(tmp_path / "a.parquet", frame), target="churned")[0], expected)


def test_what_is_no_parquet_is_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_text("age,churned\n")
    assert "expected a Parquet file, got one that cannot be read" in complaints(path, target="churned")[0]


X, Y = np.random.default_rng(0).normal(size=(30, 6, 6)), np.arange(30) % 3
HOLE = np.where(np.arange(36).reshape(6, 6) == 8, np.nan, X)


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"x": X}, "*: expected an array 'y', got x; *"),
        ({"y": Y}, "*: expected an array 'x', got y; *"),
        ({"x": X[:4], "y": Y}, "*: expected as many rows in y as in x, got 30 and 4"),
        ({"x": HOLE[:1].repeat(30, 0), "y": Y}, "*: x[0, 1, 2] (row 1): expected a number up to 3.4e38, got nan; *"),
        ({"x": X, "y": np.where(Y == 2, np.inf, Y)}, "*: y[2] (row 3): expected a number up to 3.4e38, got inf; *"),
        ({"x": X.astype(object), "y": Y}, "*Python objects, which are never loaded*"),
        ({"x": X.astype(str), "y": Y}, "*: x: expected numbers, or texts [N], got <U* [30, 6, 6]"),
        ({"x": X[:, 0, 0], "y": Y}, "*: x: expected [N, features], [N, H, W] or [N, H, W, channels], got [30]"),
        ({"x": X.reshape(30, 1, 6, 6), "y": Y}, "*which looks like channels first; save x.transpose(0, 2, 3, 1)"),
        ({"x": X, "y": Y.reshape(30, 1, 1)}, "*: y: expected labels [N] or numbers [N, targets], got int64 [30, 1, 1]"),
        ({"x": X, "y": np.zeros(30)}, "*: target 'y': expected two classes or more, got '0' in all 30 rows"),
    ],
)
def test_a_bad_npz_is_named_by_array_and_row(tmp_path: Path, arrays: dict[str, np.ndarray], expected: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    assert like(complaints("a.npz", folder=tmp_path)[0], expected), complaints("a.npz", folder=tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04torn"])
def test_a_torn_npz_is_said_to_be_broken(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    assert "expected an npz file of arrays" in complaints("a.npz", folder=tmp_path)[0]
    np.save(tmp_path / "b.npy", X)
    (tmp_path / "b.npy").rename(tmp_path / "b.npz")
    assert "b.npz: expected an array 'x', got none" in complaints("b.npz", folder=tmp_path)[0]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"source": "mnits"}, ["data.source: expected mnist, *, got 'mnits'; did you mean mnist?"]),
        ({"source": "gone.csv", "target": "y"}, ["data.source: expected a file, got nothing at *gone.csv; look in *"]),
        ({"source": "custmers.csv", "target": "y"}, ["data.source: expected a file, *; did you mean customers.csv?"]),
        (
            {"source": "folder.csv", "target": "y"},
            ["data.source: expected a file that can be read, got *Is a directory"],
        ),
        ({"source": "n\0ul.csv", "target": "y"}, ["data.source: expected a file that can be read, got *null*"]),
        ({"source": "x" * 300 + ".csv", "target": "y"}, ["data.source: expected a file that can be read, got *long"]),
        ({"source": "customers.csv"}, ["data.target: expected the name of the column to predict in *, got none"]),
        (
            {"source": "customers.csv", "target": "churn"},
            ["*: expected a column 'churn', got *; did you mean 'churned'?"],
        ),
        (
            {"source": "customers.csv", "target": ["age", "age"]},
            ["data.target: expected different columns, got age, age"],
        ),
        (
            {"source": "customers.csv", "target": ["age", "income"], "task": "classification"},
            ["*: expected one target column for a classification, got age, income"],
        ),
        (
            {"source": "customers.csv", "target": "churned", "task": "regression"},
            [*["*column 'churned': expected a number*"] * 5, "*column 'churned': and 55 more"],
        ),
        (
            {"source": "customers.csv", "target": "age", "modality": "image"},
            ["data.modality: expected numbers or text *"],
        ),
        (
            {"source": "mnist", "target": "y", "task": "regression"},
            ["data.target: expected none, *", "data.task: expected classification for mnist, got 'regression'"],
        ),
        ({"source": "breast_cancer", "modality": "image"}, ["data.modality: expected numbers for breast_cancer, *"]),
        (
            {"source": "mnist", "modality": "sound", "task": "guess"},
            ["data.task: expected one of *, got 'guess'", "data.modality: expected one of *, got 'sound'"],
        ),
        (
            {"source": "digits", "validation": 0, "test": -0.1},
            ["data.test: expected a share from 0 to below 1, got -0.1", "data.validation: expected a share above 0, *"],
        ),
        (
            {"source": "digits", "validation": 0.5, "test": 0.5},
            ["data.validation: expected less than 1 together with data.test, got 0.5 + 0.5"],
        ),
    ],
)
def test_a_wrong_data_section_gets_every_complaint_with_its_remedy(
    tmp_path: Path, arguments: dict[str, Any], expected: list[str]
) -> None:
    write(tmp_path / "customers.csv", customers())
    (tmp_path / "folder.csv").mkdir()
    found = complaints(folder=tmp_path, **arguments)
    assert len(found) == len(expected), found
    assert all(map(like, found, expected)), found


def test_new_inputs_that_do_not_fit_are_named(tmp_path: Path) -> None:
    table = load(str(write(tmp_path / "a.csv", customers())), target="churned").preprocess
    images = load("digits").preprocess
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 9, 9)))
    cases: list[tuple[Any, str]] = [
        (
            lambda: table.apply(customers().drop(columns="age")),
            "expected a column 'age', got income, city, member, churned",
        ),
        (lambda: table.apply(customers(3).assign(age=["1", "x", "3"])), "row 2, column 'age': expected a number"),
        (
            lambda: table.apply(np.zeros((3, 4))),
            "expected a table with the columns age, income, city, member, got an array",
        ),
        (lambda: table.read(tmp_path / "a.npz"), "expected a table with the columns"),
        (lambda: images.read(tmp_path / "a.npz"), r"expected \[N, 8, 8\] .* got an array of shape \[2, 9, 9\]"),
        (lambda: images.read(tmp_path / "a.csv"), "column 'city'"),
        (lambda: images.read(tmp_path / "a.doc"), "^expected a file that ends in"),
        (lambda: images.apply(np.array([["a"] * 64])), "expected an array of numbers"),
    ]
    for attempt, expected in cases:
        with pytest.raises(DataError, match=expected):
            attempt()


def test_an_npz_that_lies_about_its_size_or_its_header_is_broken(tmp_path: Path) -> None:
    import io
    import zipfile

    def member(header: str) -> bytes:
        text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
        return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text

    for header in ("{'descr': '<f8', 'fortran_order': False, 'shape': (2000000000000, 1), }", "(" * 300):
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            archive.writestr("x.npy", member(header))
            archive.writestr("y.npy", member("{'descr': '<i8', 'fortran_order': False, 'shape': (0,), }"))
        (tmp_path / "lies.npz").write_bytes(content.getvalue())
        with pytest.raises(DataError, match=r"expected an npz file of arrays .* got one that is broken"):
            load(str(tmp_path / "lies.npz"))


def test_labels_that_numbers_cannot_tell_apart_are_text_in_a_table_and_refused_in_an_array(tmp_path: Path) -> None:
    labels = [2**53 + n % 3 for n in range(60)]
    (tmp_path / "ids.csv").write_text("\n".join(["a,id", *(f"{n},{label}" for n, label in enumerate(labels))]))
    assert load(str(tmp_path / "ids.csv"), target="id", task="classification").classes == tuple(map(str, labels[:3]))
    np.savez(tmp_path / "ids.npz", x=np.arange(60.0)[:, None], y=np.array(labels))
    with pytest.raises(DataError, match=r"target 'y': expected labels up to 9,007,199,254,740,992"):
        load(str(tmp_path / "ids.npz"), task="classification")


def test_new_rows_with_categories_never_seen_are_told(tmp_path: Path) -> None:
    rows = [f"{n},{bool(n % 2)},{'ab'[n % 2]}" for n in range(60)]
    (tmp_path / "t.csv").write_text("n,member,y\n" + "\n".join(rows) + "\n")
    preprocess = load(str(tmp_path / "t.csv"), target="y").preprocess
    (tmp_path / "new.csv").write_text("n,member\n1,True\n2,yes\n3,no\n")
    told = "2 of 3 rows hold what training never saw, such as 'yes'; they are taken for none of 'False', 'True'"
    assert preprocess.strangers(preprocess.read(tmp_path / "new.csv")) == [f"column 'member': {told}"]
