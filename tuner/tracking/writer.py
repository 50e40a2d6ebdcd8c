"""The writing process as a driver has it: started beside the study, heard, and waited for at the end.

Knows the process's command and what it says; never MLflow, nor what is written. Training never waits for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from tuner.home import private
from tuner.terminal.progress import Progress, Tracking
from tuner.tracking.dashboard import OFF, command, uri_of
from tuner.tracking.standby import FOLLOW, Standby

PATIENT, IMPATIENT = 60.0, 2.0  # seconds that `drain` waits for the process; `tuner sync` writes the rest
_LEAVE_SECONDS = 3.0  # what the process has to finish in when an exception ends the driver
_END_SECONDS = 2.0  # and to die in when told to
_NICE = 10  # from its first import on: training comes first
_RUN_SECONDS = 120.0  # that a trial waits for its run: a store's first use takes long on a slow machine
_LIVES = 3  # of the process: somebody who kills it again and again means it


class Writer:
    """The process that writes MLflow from the ledger; training never waits for it.

    Follows the ledger until `drain` or `wait`, or until the `with` block ends: a study that is complete already gets
    what is missing. With `once` it goes to the ledger's last event and ends by itself, whoever drives the study.
    """

    def __init__(
        self,
        folder: Path,
        home: Path,
        store: str,
        *,
        once: bool = False,
        patience: float = PATIENT,
        log: str = "tracking.log",
        standby: Standby | None = None,
        ahead: bool = False,
    ) -> None:
        """`store` is a study file's `tracking.mlflow`; with "off" nothing is started, and who stands by is ended.

        With `ahead` a trial has its run before it begins, which `variables` tells.
        The process gives up when MLflow has not answered for `patience` seconds after the end. What Python and
        MLflow have to say goes to `log` in the study's folder for logs.
        """
        self.said: Tracking | None = None
        self.log = folder / "logs" / log
        self._once, self._told, self._left = once, False, False
        self._process: subprocess.Popen[str] | None = None
        self._ahead = ahead
        self._runs: dict[int, str] = {}  # of trials, as far as they are made
        self._experiment = ""
        self._awaited: dict[int, float] = {}  # trial → since when its run is waited for
        if store == OFF:
            if standby is not None:
                standby.end()
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)  # a ledger may be elsewhere
        self._uri, artifacts = uri_of(store, home)
        self._command = command(folder, self._uri, artifacts, once=once, patience=patience, ahead=ahead)
        self._lives = _LIVES
        self._guard = threading.Lock()  # of the process: it is replaced by the thread that hears it
        if not self._begin(standby):
            self._spawn()
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def _begin(self, standby: Standby | None) -> bool:
        """Let the process that stands by write this study; False where there is none."""
        if standby is None or (process := standby.take()) is None:
            return False
        assert process.stdin is not None
        told = {"log": str(self.log), "arguments": self._command[len(FOLLOW) :]}
        try:
            process.stdin.write(json.dumps(told) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            return False
        self._process = process
        return True

    def _spawn(self) -> None:
        self._lives -= 1
        with private(), self.log.open("a" if self.log.exists() and self._lives < _LIVES - 1 else "w") as file:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL if self._once or self._told else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                start_new_session=True,
            )
        with contextlib.suppress(OSError):  # it has ended already
            os.setpriority(os.PRIO_PROCESS, self._process.pid, _NICE)

    def _listen(self) -> None:
        """Hear the process; one that was killed is followed by another, which goes on from the cursor in MLflow."""
        while True:
            process = self._process
            assert process is not None and process.stdout is not None
            for line in process.stdout:
                with contextlib.suppress(json.JSONDecodeError):
                    told = json.loads(line)
                    self._experiment = told.pop("experiment", self._experiment)
                    self._runs |= {int(number): run for number, run in told.pop("runs", {}).items()}
                    self.said = told
            with self._guard:
                if process.wait() >= 0 or self._left or not self._lives:
                    return
                self.said = None
                self._spawn()

    def variables(self, number: int) -> Mapping[str, str] | None:
        """What tells MLflow's client in a trial's own code of the trial's run; None while the run is being made.

        Empty where there is none: nothing is tracked, MLflow does not answer, or nobody has asked for runs `ahead`.
        """
        if not self._ahead or self._process is None:
            return {}
        if number in self._runs:
            names = ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID")
            return dict(zip(names, (self._runs[number], self._uri, self._experiment), strict=True))
        waited = time.monotonic() - self._awaited.setdefault(number, time.monotonic())
        failing = bool(self.said and self.said.get("error")) or not self._reader.is_alive()
        return {} if failing or waited > _RUN_SECONDS else None

    def __enter__(self) -> Self:
        return self

    def drain(
        self,
        progress: Progress,
        *,
        patient: bool,
        seconds: float | None = None,
        hurried: Callable[[], bool] = lambda: False,
    ) -> Tracking | None:
        """Tell the writer that no more will come, wait for it, and tell the person what was written and what was not.

        Waits PATIENT or IMPATIENT seconds at most, or `seconds` where given, and not on once `hurried` says so. None
        where nothing is tracked.
        """
        deadline = time.monotonic() + ((PATIENT if patient else IMPATIENT) if seconds is None else seconds)
        if self.wait(0.0) is None:
            return None
        while self._reader.is_alive() and time.monotonic() < deadline and not hurried():
            self.wait(0.1)
        said = self.wait(0.0)  # once more: it may have ended since
        assert said is not None
        if warning := said.get("warning"):
            progress.message(f"warning: {warning}")
        if why := said.get("error"):
            points = f"{said['waiting']:,} points" if "waiting" in said else "points"
            if said.get("waiting", 1):
                progress.message(f"MLflow: {points} waiting ({why}); `tuner sync` writes them")
            else:
                progress.message(f"MLflow: not finished ({why}); `tuner sync` makes sure")
        else:
            progress.message(f"MLflow is up to date ({said.get('written', 0):,} points)")
        return said

    def wait(self, seconds: float | None = None) -> Tracking | None:
        """As `drain`, without a word, and to the end unless told; `error` is None where everything is written."""
        if self._process is None:
            return None
        self._tell()
        self._reader.join(seconds)  # ends with the last of the processes
        code = None if self._reader.is_alive() else self._process.poll()
        said = self.said or Tracking()
        if code is not None and code < 0:
            ended = signal.Signals(-code).name
            return Tracking(written=said.get("written", 0), error=f"the writer was ended by {ended}")
        why = said.get("error") or ("still writing" if code is None else f"the writer ended with exit code {code}")
        told = Tracking(
            written=said.get("written", 0), waiting=said.get("waiting", 0), error=None if code == 0 else why
        )
        return {**told, "warning": said["warning"]} if "warning" in said else told

    def _tell(self) -> None:
        """No more events will come."""
        with self._guard:
            assert self._process is not None
            self._told = True
            if self._process.stdin is not None:
                self._process.stdin.close()

    def __exit__(self, *_: object) -> None:
        """End the process; where nobody has waited for it, an exception say, it has a few seconds to write the rest."""
        if self._process is None:
            return
        if not (self._told or self._once):
            self._tell()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_LEAVE_SECONDS)
        self._left = True
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_SECONDS)
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
