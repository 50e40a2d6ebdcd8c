"""Start-up tricks: what is done so that a study starts and ends sooner, and the switch that turns each of them off.

None changes a number, and a study works without any: `TUNER_PLAIN_START=1` turns all off, `fork,writer` those two.
What each saves is in docs/performance.md, measured by benchmarks/tricks.py. Imports nothing that takes time.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import threading
from collections.abc import Iterator, Sequence

SWITCH = "TUNER_PLAIN_START"
TRICKS = {
    "fork": "local workers begin as copies of the launch, with torch and the data in memory",
    "writer": "the process that writes MLflow begins before the launch imports torch",
    "ahead": "what the end of a study needs is imported while workers train",
    "garbage": "the garbage collector rests during imports and at the end",
}


def enabled(trick: str) -> bool:
    """Whether a trick is on."""
    off = os.environ.get(SWITCH, "")
    return off != "1" and trick not in off.split(",")


def raise_gc_threshold() -> None:
    """Let the collector look for garbage seldom: an import's objects live on."""
    if enabled("garbage"):
        gc.set_threshold(200_000)


def freeze_gc() -> None:
    """What there is now is never looked at again, by this process and its copies."""
    if enabled("garbage"):
        gc.freeze()


class ImportAhead:
    """Modules that the end of a study needs and training does not, imported in the background while workers train."""

    def __init__(self, modules: Sequence[str] = ()) -> None:
        self._modules = modules
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Begin, unless it has begun before."""
        if self._thread is None and enabled("ahead"):
            self._thread = threading.Thread(target=self._load, name="import-ahead", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Have it done."""
        self.begin()
        if self._thread is not None:
            self._thread.join()

    def _load(self) -> None:
        for module in self._modules:
            with contextlib.suppress(ImportError):  # who needs it imports it again, or does without
                importlib.import_module(module)

    @contextlib.contextmanager
    def finished(self) -> Iterator[None]:
        """At the end, wait for what was begun inside.

        An import that goes on while Python shuts down fails, and says so at the end of everything that a person reads.
        """
        try:
            yield
        finally:
            if self._thread is not None:
                self._thread.join()
