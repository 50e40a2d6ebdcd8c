"""Arrays larger than memory: written once to a cache, then mapped from it instead of read.

Knows files of numbers. Must never know what the numbers mean. A mapped array is read page by page as
rows are asked for, and its pages are given back when memory is short: that is the bounded buffer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from tuner.errors import DataError

SURPRISE = 2**28  # bytes that any file may hold
_CHUNK = 65_536  # rows that are held at a time
RATIO = 100  # content to file; measurements compress to a half, one-hot arrays to a fiftieth
_SHARE = 0.25  # of the machine's memory that a data set's inputs may take in one process


def room(gibibytes: float | None) -> float:
    """Bytes that inputs may take in memory: as named, or a quarter of the machine's."""
    import psutil

    return psutil.virtual_memory().total * _SHARE if gibibytes is None else gibibytes * 2**30


def cache() -> Path:
    """Where mapped arrays lie, each under a name that says what is in it; any may be deleted between two studies."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tuner" / "arrays"


def identity(files: Iterable[Path], *more: object) -> str:
    """A key for what is read from these files: it changes with their places, sizes and times."""
    found = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    return hashlib.sha256(json.dumps([found, more]).encode()).hexdigest()


def packed(content: int, path: Path) -> bool:
    """Whether `content` bytes are so many more than the file's own that reading it could fill memory by surprise."""
    return content > max(SURPRISE, RATIO * path.stat().st_size)


def too_packed(path: Path, content: int, unpacked: str) -> str:
    """The complaint about it; `unpacked` is a way of writing it as it is."""
    return (
        f"{path}: expected a file about as large as its content, got {content / 2**30:,.3g} GiB packed into "
        f"{path.stat().st_size / 2**20:,.3g} MiB; where that is meant, write it with {unpacked}, so that the file is "
        "as large as what is read"
    )


def taken(values: np.ndarray, rows: np.ndarray, *key: object) -> np.ndarray:
    """`values[rows]`, mapped where `values` [N] are; `key` tells them from others of their file."""
    if not isinstance(values, np.memmap):
        found: np.ndarray = values[rows]
        return found
    told = [str(values.filename), *map(str, key), hashlib.sha256(rows.tobytes()).hexdigest()]

    def fill(out: np.ndarray) -> None:
        for start in range(0, len(rows), _CHUNK):
            out[start : start + _CHUNK] = values[rows[start : start + _CHUNK]]

    name = hashlib.sha256("\0".join(told).encode()).hexdigest()
    return mapped(name, (len(rows),), values.dtype.type, fill)


def mapped(key: str, shape: tuple[int, ...], dtype: type, fill: Callable[[np.ndarray], None]) -> np.ndarray:
    """The array of that key, mapped from the cache, where `fill` writes it unless it is there already.

    Processes that write the same one at once do no harm: each writes its own, and the last stays.
    Raises DataError where the disk has no room.
    """
    path = cache() / f"{key}.npy"
    draft = path.with_suffix(f".{os.getpid()}.new")
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            out = np.lib.format.open_memmap(draft, "w+", dtype, shape)
            fill(out)
            out.flush()
            draft.replace(path)
        found: np.ndarray = np.load(path, mmap_mode="c")  # writable as torch wants it, and never written
    except OSError as error:
        size = np.prod(shape) * np.dtype(dtype).itemsize / 2**30
        raise DataError(
            f"{path.parent}: expected room for {size:.3g} GiB of data that do not fit into memory, got: "
            f"{error.strerror or error}; set XDG_CACHE_HOME to a larger disk, or data.memory to more GiB"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
    return found
