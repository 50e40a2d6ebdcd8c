"""Cells as people have them: texts as long as a book, and classes that look like numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tuner.data import load

ROWS = 120


def test_no_column_is_searched_for_dates_in_a_cell_as_long_as_a_book(tmp_path: Path) -> None:
    """In a process of its own: Python cannot interrupt a search in a text."""
    notes = ["w" * 300_000 if i == 7 else f"w{i % 3}" for i in range(ROWS)]
    lines = ["size,note,kind", *(f"{i},{notes[i]},{'oak' if i % 2 else 'elm'}" for i in range(ROWS))]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    script = "import sys; from tuner.data import load; print(load(sys.argv[1], target='kind').signature.inputs)"
    told = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "t.csv")], capture_output=True, text=True, timeout=300, check=True
    )
    assert told.stdout == "(5,)\n"


@pytest.mark.parametrize(
    ("form", "told"), [("{} kg", True), ("<{}", True), ("{}k", True), ("{}", False), ("0{}", False), ("v{}", False)]
)
def test_a_target_of_texts_that_look_like_numbers_is_told(form: str, told: bool, tmp_path: Path) -> None:
    rows = "\n".join(f"{i % 7},{form.format(10 + i % 6)}" for i in range(ROWS))
    (tmp_path / "t.csv").write_text(f"visits,weight\n{rows}\n")
    dataset = load(str(tmp_path / "t.csv"), target="weight")
    assert dataset.classes is not None
    line = f"target 'weight': 6 different texts that look like numbers, such as '{form.format(15)}': taken as classes"
    assert any(line in note for note in dataset.notes) == told
