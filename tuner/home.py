"""Where a home keeps its studies: a folder each, by name.

It knows folders and what a study may be called. It must never open what is in them, nor import anything that takes
time: completion asks it at every TAB.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tuner.errors import InputError
from tuner.events import STUDY_NAME

LEDGER = "ledger.db"  # the file that makes a folder a study's
ELSEWHERE = "ledger.elsewhere"  # or this one, which says in which database the study's events are
HEAD = "ledger.head"  # how far they had come: where it stands alone, the ledger itself is lost
ADDRESS = "TUNER_LEDGER"  # in the environment: that database's address, never written to any file
EMBEDDED = "embedded"  # the MLflow that a study file need not name
UMASK = "TUNER_UMASK"  # in the environment: which permissions a home's files do not have, 077 unless given
MLFLOW = "TUNER_MLFLOW"  # in the environment: the MLflow server of a service


def expanded(path: str) -> Path:
    """A path as a person writes it: ~ is their home; ~name of nobody stays what it is, and is told as any other."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises RuntimeError there


def study_folder(home: Path, name: str) -> Path:
    """The folder of a study in a home. Raises InputError where `name` may not become a path."""
    if not STUDY_NAME.fullmatch(name):
        raise InputError(
            f"study name: expected 1 to 64 of a-z 0-9 . _ - beginning with a letter or a digit, got {name[:80]!r}"
        )
    return home / "studies" / name


def studies(home: Path) -> list[str]:
    """The names of the studies that have a folder in a home, sorted; none where the home does not exist."""
    folders = {path.parent.name for mark in (LEDGER, ELSEWHERE, HEAD) for path in (home / "studies").glob(f"*/{mark}")}
    return sorted(name for name in folders if STUDY_NAME.fullmatch(name))


@contextmanager
def private() -> Iterator[None]:
    """What this process and its children make meanwhile is for its owner alone, or for whom TUNER_UMASK leaves it.

    Raises InputError for a TUNER_UMASK that is none."""
    given = os.environ.get(UMASK) or "077"
    if not re.fullmatch(r"0?[0-7]{1,3}", given):
        raise InputError(f"{UMASK}: expected an octal number such as 027, got {given[:80]!r}")
    before = os.umask(int(given, 8))
    try:
        yield
    finally:
        os.umask(before)


def embedded() -> str:
    """What a study's `tracking: {mlflow: embedded}` means here: the service's own server, where there is one."""
    return os.environ.get(MLFLOW) or EMBEDDED
