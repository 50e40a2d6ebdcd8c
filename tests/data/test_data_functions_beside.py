"""Functions that make data, in files with others beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuner.data import load
from tuner.errors import DataError

LOADER = """
from {module} import ROWS

def made():
    return [[float(row)] for row in range(ROWS)], [row % 2 for row in range(ROWS)]
"""


@pytest.mark.parametrize("module", ["rows_beside", "package_beside.rows"])
def test_what_lies_beside_can_be_imported_and_belongs_to_the_data(module: str, tmp_path: Path) -> None:
    helper = tmp_path / f"{module.replace('.', '/')}.py"
    helper.parent.mkdir(exist_ok=True)
    (tmp_path / "loader.py").write_text(LOADER.format(module=module))
    sizes, digests = [], set()
    for rows in (40, 80):
        helper.write_text(f"ROWS = {rows}\n")
        dataset = load("loader.py:made", folder=tmp_path)
        sizes.append(len(dataset.train.rows))
        digests.add(dataset.digest)
    assert sizes[1] == 2 * sizes[0]
    assert len(digests) == 2


def test_a_helper_that_ends_the_program_is_told_by_the_line_that_imports_it(tmp_path: Path) -> None:
    (tmp_path / "ends_beside.py").write_text("raise SystemExit('set DATA_DIR')\n")
    (tmp_path / "loader.py").write_text(LOADER.format(module="ends_beside"))
    with pytest.raises(
        DataError, match=r"loader\.py:2: expected data, got SystemExit: set DATA_DIR; it ends the program: keep"
    ):
        load("loader.py:made", folder=tmp_path)
