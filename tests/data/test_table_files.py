"""A table is one table, whatever kind of file it is in, and however many."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tuner.data import Dataset, load
from tuner.errors import DataError

ROWS = 60
FRAME = pd.DataFrame(
    {
        "when": pd.date_range("2023-01-01", periods=ROWS, freq="D"),
        "size": [None if i == 7 else i * 0.25 for i in range(ROWS)],
        "count": range(ROWS),
        "town": [("Oslo", "Rome, the old", 'the "Hague"', None)[i % 4] for i in range(ROWS)],
        "kind": [("elm", "oak")[i % 2] for i in range(ROWS)],
    }
)
TEXT = FRAME.to_csv(index=False)


def parts(folder: Path) -> Path:
    for i, start in enumerate(range(0, ROWS, 25)):
        FRAME[start : start + 25].to_csv(folder / f"part-{i}.csv", index=False)
    return folder / "part-*.csv"


def wrote(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def lines(folder: Path) -> Path:
    FRAME.astype({"when": str}).to_json(folder / "t.jsonl", orient="records", lines=True)
    return folder / "t.jsonl"


def listed(folder: Path) -> Path:
    FRAME.astype({"when": str}).to_json(folder / "t.json", orient="records")
    return folder / "t.json"


def sheet(folder: Path) -> Path:
    FRAME.to_excel(folder / "t.xlsx", index=False)
    return folder / "t.xlsx"


KINDS: dict[str, Callable[[Path], Path]] = {
    "csv": lambda folder: wrote(folder / "t.csv", TEXT.encode()),
    "CRLF": lambda folder: wrote(folder / "t.csv", b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode()),
    "semicolons": lambda folder: wrote(folder / "t.csv", FRAME.to_csv(index=False, sep=";").encode()),
    "tabs": lambda folder: wrote(folder / "t.tsv", FRAME.to_csv(index=False, sep="\t").encode()),
    "an index by pandas": lambda folder: wrote(folder / "t.csv", FRAME.to_csv().encode()),
    "gzip": lambda folder: wrote(folder / "t.csv.gz", gzip.compress(TEXT.encode())),
    "bzip2": lambda folder: wrote(folder / "t.csv.bz2", bz2.compress(TEXT.encode())),
    "xz": lambda folder: wrote(folder / "t.csv.xz", lzma.compress(TEXT.encode())),
    "JSON lines": lines,
    "packed JSON lines": lambda folder: wrote(folder / "t.jsonl.gz", gzip.compress(lines(folder).read_bytes())),
    "a list of objects": listed,
    "Excel": sheet,
    "a pattern": parts,
}  # fmt: skip


def read(path: Path) -> Dataset:
    return load(str(path), target="kind")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_rows(kind: str, tmp_path: Path) -> None:
    path = KINDS[kind](tmp_path)
    reference, dataset = read(KINDS["csv"](Path(tmp_path.joinpath("csv").mkdir() or tmp_path / "csv"))), read(path)
    np.testing.assert_array_equal(dataset.train.inputs, reference.train.inputs)
    np.testing.assert_array_equal(dataset.train.rows, reference.train.rows)
    assert dataset.preprocess.categories == reference.preprocess.categories
    roles = [(role.column, role.role, role.missing) for role in dataset.roles if role.column != "Unnamed: 0"]
    assert roles == [(role.column, role.role, role.missing) for role in reference.roles]
    assert dataset.name == ("part" if kind == "a pattern" else "t")
    new = dataset.preprocess.apply(dataset.preprocess.read(path))
    np.testing.assert_array_equal(new[dataset.train.rows], dataset.train.inputs)


def test_columns_without_a_name_and_of_one_name_are_named_and_told(tmp_path: Path) -> None:
    rows = "".join(f"{i},{i % 5},{i % 3},,{'ab'[i % 2]}\n" for i in range(ROWS))
    dataset = read(wrote(tmp_path / "t.csv", f",x,x,,kind\n{rows}".encode()))
    assert [(role.column, role.role) for role in dataset.roles] == [
        ("Unnamed: 0", "id"), ("x", "number"), ("x.1", "number"), ("Unnamed: 3", "empty"), ("kind", "target"),
    ]  # fmt: skip
    assert dataset.notes == (
        f"{tmp_path / 't.csv'}:1:3: a further column 'x' is called 'x.1'",
        f"{tmp_path / 't.csv'}:1:4: a column without a name is called 'Unnamed: 3'",
    )


def test_a_cell_of_one_of_several_files_is_told_with_its_file_and_row(tmp_path: Path) -> None:
    path = parts(tmp_path)
    second = tmp_path / "part-1.csv"
    second.write_text(second.read_text().replace(",28,", ",nil,"))
    assert "1 of 60 cells are no numbers, such as 'nil' (row 29): taken as empty" in read(path).notes[0]
    with pytest.raises(DataError, match=r"part-1.csv: row 4, column 'count': expected a number .*, got 'nil'"):
        load(str(path), target="kind", strict=True)


def packed(folder: Path) -> Path:
    content = gzip.compress(TEXT.encode())
    return wrote(folder / "t.csv.gz", content[: len(content) // 2])


def other_columns(folder: Path) -> Path:
    FRAME.drop(columns=["size"]).assign(more=1).to_csv(folder / "part-3.csv", index=False)
    return parts(folder)


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "half a gzip": (packed, r"t.csv.gz: expected a gz file, got one that cannot be unpacked"),
    "no gzip": (lambda f: wrote(f / "t.csv.gz", b"a,b\n1,2\n"), "expected a gz file, got one that cannot be unpacked"),
    "ragged inside": (lambda f: wrote(f / "t.csv.gz", gzip.compress(b"a,kind\n1,x\n2\n3,y\n")), r"t.csv.gz:3:2: row 2"),
    "no JSON": (lambda f: wrote(f / "t.jsonl", b'{"a": 1}\n{"a": \n'), r"t.jsonl:2:7: expected a JSON object"),
    "a number": (lambda f: wrote(f / "t.jsonl", b'{"a": 1}\n\n5\n'), r"t.jsonl:3: expected an object .*, got 5"),
    "no list": (lambda f: wrote(f / "t.json", b'[{"a": 1}, '), r"t.json:1:12: expected JSON"),
    "no workbook": (lambda f: wrote(f / "t.xlsx", TEXT.encode()), "expected an Excel workbook, got one that cannot"),
    "no files": (lambda f: f / "none-*.csv", "expected files, got none like .*none-"),
    "other columns": (other_columns, "part-3.csv: expected the columns of .*part-0.csv, got no 'size', 'more' as well"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_table_is_told_with_its_file(case: str, tmp_path: Path) -> None:
    make, told = BAD[case]
    with pytest.raises(DataError, match=told):
        read(make(tmp_path))


def test_nested_values_of_json_are_left_out_and_told(tmp_path: Path) -> None:
    rows = [
        {"x": i, "tags": ["a"], "deep": {"y": 1}, "kind": "ab"[i % 2], **({"seldom": i} if i % 2 else {})}
        for i in range(ROWS)
    ]
    path = wrote(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows)).encode())
    dataset = read(path)
    assert dataset.preprocess.columns == ("x", "seldom") and dataset.roles[-1].missing == ROWS // 2
    assert [note.partition("column ")[2] for note in dataset.notes] == [
        "'tags': lists and objects cannot be read: left out", "'deep': lists and objects cannot be read: left out",
    ]  # fmt: skip
