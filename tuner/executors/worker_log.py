"""A worker's log: all that its process prints, a person's code included, with marks that say whose code it was.

One file a worker in the study's folder, `logs/worker-0.log`; later launches add to it. Processes of this machine write
it themselves, as their stdout and stderr; an actor of a cluster, which sees no such folder, is read by `Capture` and
what it printed travels as a message. Knows files and marks; never what is printed, nor who carries it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

FOLDER = "logs"
# Seconds since 1970, and the numbers of the trials whose code runs from here on: none between two cohorts.
MARK = re.compile(rb"\x1e(\d+\.\d+) ((?:\d+(?:,\d+)*)?)\n")

_PIECE = 8 * 2**20  # bytes that are taken from an actor at once
_LONGEST = 64 * 2**20  # bytes of an actor's file, before it goes on in a fresh one


def log_path(folder: Path, worker: int) -> Path:
    return folder / FOLDER / f"worker-{worker}.log"


def mark(trials: Sequence[int]) -> None:
    """What this process prints from now on comes from these trials' code."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed by somebody
            stream.flush()
    with contextlib.suppress(OSError):  # a full disk: what is printed is lost, and no trial
        os.write(1, f"\x1e{time.time():.3f} {','.join(map(str, sorted(trials)))}\n".encode())


def speak_to(descriptor: int) -> None:
    """Let all that this process says, also from beneath Python, go to an open file, line by line."""
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    sys.stdout, sys.stderr = (
        os.fdopen(stream, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
        for stream in (1, 2)
    )


class Capture:
    """All that this process says from now on, to be taken from time to time.

    Where it crashes is still told to the stderr that it had: nobody takes anything from a process that is gone.
    """

    def __init__(self) -> None:
        faulthandler.enable(os.dup(2))
        self._begin()

    def _begin(self) -> None:
        self._file, self._taken = tempfile.TemporaryFile(), 0  # noqa: SIM115 # open while the process lives
        speak_to(self._file.fileno())

    def take(self) -> bytes:
        """What was said since the last call, in several pieces where it is very much."""
        content = os.pread(self._file.fileno(), _PIECE, self._taken)
        self._taken += len(content)
        if self._taken > _LONGEST and len(content) < _PIECE:
            with self._file as file:
                taken = self._taken
                self._begin()
                content += os.pread(file.fileno(), _PIECE, taken)  # of a thread that said it meanwhile
        return content
