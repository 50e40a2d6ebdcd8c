"""A person's network on its way to a worker that sees none of their folders: its file, and what that needs.

Knows files; never what is in them. Whether they are the ones that the study was made with, the worker checks.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tuner.errors import InputError
from tuner.models import FAMILIES, code
from tuner.training.task import Task

MOST_BYTES = 512 * 2**20  # of source and weights: more is no network but somebody's home


def pack(family: str, folder: Path) -> dict[str, bytes]:
    """The file of a network `file.py:Class` and what it needs of what lies beside it, by path.

    Raises InputError where that is more than a network can need.
    """
    path = None if family in FAMILIES else code.locate(family.rpartition(":")[0], folder)
    if path is None:
        return {}
    packed: dict[str, bytes] = {}
    size = 0
    base = code.root(path)
    for file in code.needed(path):
        packed[str(file.relative_to(base))] = content = file.read_bytes()
        size += len(content)
        if size > MOST_BYTES:
            raise InputError(
                f"expected at most {MOST_BYTES >> 20} MiB of Python files and weights beside {path}, to be sent to the "
                "workers, got more; give the network a folder of its own"
            )
    return packed


class CodeBundle:
    """What `pack` made, laid out in a folder of this process's own, which goes with it."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tuner-network-") if files else None
        for name, content in files.items():
            assert self._folder is not None
            path = Path(self._folder.name) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def close(self) -> None:
        """For a process that is to be killed, and will have no end of its own."""
        if self._folder is not None:
            self._folder.cleanup()

    def unpacked(self, task: Task) -> Task:
        """The task, its network to be found here."""
        if self._folder is None:
            return task
        place, _, name = task.family.rpartition(":")
        parts = Path(place).parts if place.endswith(".py") else (*place.split(".")[:-1], f"{place.split('.')[-1]}.py")
        there = Path(self._folder.name)
        inner = next(p for start in range(len(parts)) if (there / (p := Path(*parts[start:]))).is_file())
        return replace(task, family=f"{inner}:{name}", folder=self._folder.name)
