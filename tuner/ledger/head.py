"""The head file of a study's folder, `ledger.head`: the number and the digest of the newest event, beside the ledger.

A ledger that has lost its end (SQLite's log deleted, an old copy put back, a database restored) looks whole from
inside; this file says how far it had come. The driver writes it in place after each commit, 33 bytes without a sync:
a power cut may leave an older head, never one that is ahead. Knows that file alone.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from zlib import crc32

from tuner.home import HEAD

_LINE = re.compile(r"(\d{15}) ([0-9a-f]{16}) ([0-9a-f]{8})\n")
_ATTEMPTS = 5  # to read a line that is being written


class Head:
    """The file, opened by the driver at its first commit."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / HEAD
        self._handle: int | None = None

    def write(self, seq: int, digest: str) -> None:
        """The newest event. A disk that refuses this has taken the event itself: an older head only tells less."""
        with contextlib.suppress(OSError):
            if self._handle is None:
                self._handle = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)
            os.pwrite(self._handle, _line(seq, digest), 0)

    def close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            with contextlib.suppress(OSError):
                os.fsync(handle)
            os.close(handle)


def read(folder: Path) -> tuple[int, str] | None:
    """Number and digest of the newest event that a driver here has stored; None where the file tells nothing."""
    for _ in range(_ATTEMPTS):
        try:
            text = (folder / HEAD).read_text("ascii", "replace")
        except OSError:
            return None
        found = _LINE.fullmatch(text)
        if found and _line(int(found[1]), found[2]).decode() == text:
            return int(found[1]), found[2]
    return None


def _line(seq: int, digest: str) -> bytes:
    text = f"{seq:015d} {digest}"
    return f"{text} {crc32(text.encode()):08x}\n".encode()
