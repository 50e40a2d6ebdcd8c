"""Arrays of an npz file, opened one by one: no Python objects, and nothing that would fill memory by surprise.

Knows numpy's files. Must never know what an array is for.
"""

from __future__ import annotations

import contextlib
import math
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tuner.data.streams import packed, too_packed
from tuner.errors import DataError

_BROKEN = (  # what numpy raises for a file that lies about itself
    OSError,
    ValueError,
    RuntimeError,  # encrypted, or compressed in a way that zipfile does not know
    EOFError,
    MemoryError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_npz(path: Path, names: Sequence[str], more: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """These arrays of an npz, and those of `more` that it has. No pickle is opened."""
    try:
        archive = np.load(path, allow_pickle=False)
        there = archive.files if isinstance(archive, np.lib.npyio.NpzFile) else []
        wanted = [name for name in (*names, *more) if name in there]
        with contextlib.closing(archive) if there else contextlib.nullcontext():
            if there:
                _refuse_unlike(path, archive.zip, wanted)
            arrays = {name: archive[name] for name in wanted}
    except DataError:
        raise
    except _BROKEN:
        raise DataError(
            f"{path}: expected an npz file of arrays of numbers or text, got one that is broken, or of another kind; "
            "write it with numpy.savez(file, x=…, y=…)"
        ) from None
    lost = [name for name in names if name not in arrays]
    if not lost:
        return arrays
    found = ", ".join(there) or "none"
    raise DataError([f"{path}: expected an array '{name}', got {found}; numpy.savez(file, x=…, y=…)" for name in lost])


def _refuse_unlike(path: Path, archive: zipfile.ZipFile, names: Sequence[str]) -> None:
    """Raises DataError for arrays that are never opened: Python objects, and those that would fill memory."""
    problems = []
    members = {name: name if name in archive.NameToInfo else f"{name}.npy" for name in names}
    for name, member in members.items():
        with archive.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
        if dtype.hasobject:
            problems.append(
                f"{path}: {name}: expected an array of numbers or text, got one of Python objects, which are never "
                f"loaded; save {name}.astype(str) where it is text, {name}.astype(float) where it is numbers"
            )
        elif math.prod(shape) * dtype.itemsize > archive.NameToInfo[member].file_size:
            raise ValueError(shape)  # it lies about itself
    content = sum(archive.NameToInfo[member].file_size for member in members.values())
    if packed(content, path) and not problems:
        problems.append(too_packed(path, content, "numpy.savez, which does not compress"))
    if problems:
        raise DataError(problems)
