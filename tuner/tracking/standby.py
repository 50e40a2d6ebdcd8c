"""The writing process, begun before it is known what it will write.

To import MLflow takes two seconds of a processor. A launch that will need it begins with that, on a core that idles
while it imports torch itself. Knows one process and its first line. Imports nothing heavy: a launch starts here.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tuner.startup import enabled

FOLLOW = (sys.executable, "-P", "-m", "tuner.tracking.process")  # the process's command, before its arguments
_NICE = 10  # from its first import on: training comes first


_OFF = re.compile(r"\bmlflow\b[\"']?\s*[:=]\s*[\"']?off\b")


class Standby:
    """The process; without a study it ends with this object's `with` block, or its parent, and leaves no trace."""

    def __init__(self, file: Path | None = None, overrides: Sequence[str] = ()) -> None:
        """No process where the file or an override seems to turn tracking off; a wrong guess costs time alone."""
        self._process: subprocess.Popen[str] | None = None
        text = ""
        if file is not None:
            with contextlib.suppress(OSError):
                text = file.read_text(encoding="utf-8", errors="replace")
        if not enabled("writer") or _OFF.search("\n".join((text, *overrides))):
            return
        self._process = subprocess.Popen(
            [*FOLLOW, "--standby"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # until it has a log
            text=True,
            start_new_session=True,
        )
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self._process.pid, _NICE)

    def take(self) -> subprocess.Popen[str] | None:
        """The process, for who tells it its study in a line of JSON; None where it was taken, or has ended."""
        process, self._process = self._process, None
        return process if process is not None and process.poll() is None else None

    def end(self) -> None:
        """End the process, unless it was taken."""
        if (process := self.take()) is not None:
            process.kill()
            process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
