"""Where a home keeps its studies: a folder each, by name.

It knows folders and what a study may be called. It must never open what is in them, nor import anything that takes
time: completion asks it at every TAB.
"""

from __future__ import annotations

from pathlib import Path

from tuner.errors import InputError
from tuner.trial import STUDY_NAME

LEDGER = "ledger.db"  # the file that makes a folder a study's


def study_folder(home: Path, name: str) -> Path:
    """The folder of a study in a home. Raises InputError where `name` may not become a path."""
    if not STUDY_NAME.fullmatch(name):
        raise InputError(
            f"study name: expected 1 to 64 of a-z 0-9 . _ - beginning with a letter or a digit, got {name[:80]!r}"
        )
    return home / "studies" / name


def studies(home: Path) -> list[str]:
    """The names of the studies in a home, sorted; none where the home does not exist."""
    return sorted(
        path.parent.name for path in (home / "studies").glob(f"*/{LEDGER}") if STUDY_NAME.fullmatch(path.parent.name)
    )
