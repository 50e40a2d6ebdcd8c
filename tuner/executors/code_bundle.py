"""A person's code on its way to a worker that sees none of their folders: its file, and what that needs.

Knows files; never what is in them. Whether they are the ones that the study was made with, the worker checks.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from tuner.errors import InputError
from tuner.models import code

MOST_BYTES = 512 * 2**20  # of source and weights: more is no code but somebody's home


def pack(place: str, folder: Path) -> dict[str, bytes]:
    """The file of `file.py:Name` or `package.module:Name` and what it needs of what lies beside it, by path.

    Empty for an installed module.

    Raises InputError where that is more than code can need.
    """
    path = code.locate(place.rpartition(":")[0], folder)
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
                "workers, got more; give it a folder of its own"
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

    def located(self, place: str, folder: str) -> tuple[str, str]:
        """What `place` in `folder` is called here, and the folder that it is to be found from."""
        if self._folder is None:
            return place, folder
        file, _, name = place.rpartition(":")
        parts = Path(file).parts if file.endswith(".py") else (*file.split(".")[:-1], f"{file.split('.')[-1]}.py")
        there = Path(self._folder.name)
        inner = next(p for start in range(len(parts)) if (there / (p := Path(*parts[start:]))).is_file())
        return f"{inner}:{name}", self._folder.name
