"""What is done early or at once so that a study starts and ends sooner."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Iterator, Sequence


class ImportAhead:
    """Modules that the end of a study needs and training does not, imported in the background while workers train."""

    def __init__(self, modules: Sequence[str] = ()) -> None:
        self._modules = modules
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Begin, unless it has begun before."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._load, name="import-ahead", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Have it done."""
        self.begin()
        assert self._thread is not None
        self._thread.join()

    def _load(self) -> None:
        for module in self._modules:
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
