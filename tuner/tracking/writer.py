"""The writing process as a driver has it: started beside the study, heard, and waited for at the end.

Knows the process's command and what it says; never MLflow, nor what is written. Training never waits for it.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
from pathlib import Path
from typing import Self

from tuner.progress import Progress, Tracking
from tuner.tracking.dashboard import OFF, command, uri_of

DRAIN_SECONDS = 60.0  # at the end a launch waits so long for the process; `tuner sync` writes the rest


class Writer:
    """The process that writes MLflow from the ledger; training never waits for it."""

    def __init__(self, folder: Path, home: Path, store: str) -> None:
        """`store` is a study file's `tracking.mlflow`; with "off" nothing is started."""
        self.said: Tracking | None = None
        self._process: subprocess.Popen[str] | None = None
        if store == OFF:
            return
        (folder / "logs").mkdir(exist_ok=True)
        with (folder / "logs" / "tracking.log").open("w") as log:
            self._process = subprocess.Popen(
                command(folder, *uri_of(store, home)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def _listen(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(json.JSONDecodeError):
                self.said = json.loads(line)

    def __enter__(self) -> Self:
        return self

    def drain(self, progress: Progress, *, patient: bool) -> Tracking | None:
        """Tell the writer that no more will come, and wait for it; says what was written and what was not."""
        if self._process is None or self._process.stdin is None:
            return None
        self._process.stdin.close()
        deadline = time.monotonic() + (DRAIN_SECONDS if patient else DRAIN_SECONDS / 12)
        while self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        code = self._process.poll()
        if code is not None:
            self._reader.join(timeout=5)
        said = self.said or Tracking()
        if code == 0:
            progress.message(f"MLflow: everything is written ({said.get('written', 0)} points)")
        else:
            why = said.get("error") or ("still writing" if code is None else f"the writer ended with exit code {code}")
            progress.message(f"MLflow: {said.get('waiting', 'some')} points waiting ({why}); `tuner sync` writes them")
            said = Tracking(written=said.get("written", 0), waiting=said.get("waiting", 0), error=why)
        return said

    def __exit__(self, *_: object) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait()
