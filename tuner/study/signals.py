"""Ctrl-C and SIGTERM while a study runs: counted instead of raised.

Knows signals alone; never what is stopped.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self


class Signals:
    """Ctrl-C and SIGTERM, counted instead of raised; a second one ends the process at once.

    Word from another machine (`asked`) is taken for a SIGTERM."""

    def __init__(self, asked: Callable[[], bool]) -> None:
        self.first: int | None = None
        self._asked = asked
        self._before: dict[int, Any] = {}

    def pending(self) -> bool:
        return self.first is not None or self._asked()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.first is not None:
            if os.isatty(2):
                os.write(2, b"\x1b[?25h\n")  # the cursor, which a table that moves has hidden
            os._exit(128 + number)  # workers die with their driver; the ledger holds what was acknowledged
        self.first = number

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
