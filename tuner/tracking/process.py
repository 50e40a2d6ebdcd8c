"""The process that follows a study's ledger into MLflow, so that training never waits.

`python -P -m tuner.tracking.process FOLDER --uri URI` reads until its stdin ends, which it does when the driver closes
it or dies, then writes what is left. Knows when to try again and when to give up. Must never know what is written.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from tuner.errors import LedgerError, TunerError
from tuner.home import private
from tuner.startup import enabled
from tuner.tracking.rest import spare_loopback
from tuner.tracking.sqlite_store import close, load
from tuner.tracking.sync import Progress, Tracker

DRAINED, BEHIND = 0, 3  # how the process ends: all is written, or points wait for a server

_PAUSE_SECONDS = 2.0  # between two looks at the ledger
_SHARE = 4.0  # and so many times what the last cycle took, so that a long study is written in larger pieces
_LONGEST_PAUSE = 5.0  # but a person who watches the dashboard sees a study go on
_LOOK_SECONDS = 0.25  # a look takes a millisecond
_RETRY_SECONDS = 1.0
SETTINGS = {
    # A request is repeated by us alone, after a look at what has arrived: repeated blindly it could make two runs.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # a stopped server accepts connections for ever
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # says nothing of its migrations
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout carries our own lines
}


@private()
def main(arguments: Sequence[str] | None = None) -> int:
    """Follow a study until stdin ends (with --once: no longer than to its last event), then drain.

    With `--standby` alone, MLflow is imported while the study's arguments are awaited on stdin; without them nothing
    is done.

    Prints one JSON line a cycle: {"written", "waiting", "error"}, a "warning" where there is one, and with --ahead the
    ids of new "runs" by trial and their "experiment". Returns DRAINED,
    or BEHIND where MLflow has not answered for `--patience` seconds after the end.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tuner.tracking.process", description="Write a study's ledger to MLflow."
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--uri", required=True)
    parser.add_argument("--artifacts")
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--ahead", action="store_true")
    parser.add_argument("--patience", type=float, default=60)
    os.environ.update(SETTINGS)
    spare_loopback(os.environ)
    parent = os.getppid()  # now: once it is dead we have another
    if enabled("garbage"):
        gc.disable()  # MLflow's imports and tables make a million objects that stay; `follow` turns it on after them
    words = list(sys.argv[1:] if arguments is None else arguments)
    given = parser.parse_args(_await_study() if words == ["--standby"] else words)
    ended = threading.Event()
    if given.once:
        ended.set()
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver; we go on until it has closed stdin
        threading.Thread(target=_await_end, args=(ended,), daemon=True).start()
    try:
        make = partial(Tracker, given.folder, given.uri, given.artifacts, parent, ahead=given.ahead)
        tracker = _open(make, ended, given.patience, _say)
    except TunerError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    try:
        return follow(tracker, ended, given.patience, _say)
    finally:
        tracker.close()
        close()


def _open(
    make: Callable[[], Tracker], ended: threading.Event, patience: float, say: Callable[[Progress], None]
) -> Tracker:
    """The tracker, once its ledger can be read: a database that restarts is waited for as a server is."""
    trouble: float | None = None
    while True:
        try:
            return make()
        except LedgerError as error:
            closing = ended.is_set()
            trouble = trouble if trouble is not None and closing else time.monotonic()
            if closing and time.monotonic() - trouble >= patience:
                raise
            say(Progress(0, 0, str(error) if closing else None))
            (time.sleep if closing else ended.wait)(_RETRY_SECONDS)


def follow(tracker: Tracker, ended: threading.Event, patience: float, say: Callable[[Progress], None]) -> int:
    """Cycle until `ended` is set and all is written, or nothing could be written for `patience` seconds after that."""
    trouble: float | None = None
    while True:
        closing = ended.is_set()  # before the cycle, which then sees everything that came before the end
        began = time.monotonic()
        progress = tracker.cycle(closing)
        say(replace(progress, error=None) if tracker.blind and not closing else progress)
        now = time.monotonic()
        if not gc.isenabled() and (tracker.connected or progress.error is not None):
            gc.freeze()
            gc.enable()
        if progress.error is not None:
            trouble = trouble if trouble is not None and closing else began
            if closing and now - trouble > patience:
                return BEHIND
            (time.sleep if closing else ended.wait)(_RETRY_SECONDS)
            continue
        trouble = None
        if closing and tracker.drained:
            return DRAINED
        if not (closing or progress.waiting):
            if not tracker.connected:
                tracker.prepare()
            _rest(tracker, ended, _pause(0.0 if tracker.connected else now - began))


def _rest(tracker: Tracker, ended: threading.Event, seconds: float) -> None:
    """Until so many seconds have passed, or no more trials will come: the rest is written while the winner is made."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not tracker.look():
        if ended.wait(min(left, _LOOK_SECONDS)):
            return


def _pause(worked: float) -> float:
    """Seconds until the next look at the ledger, after a cycle that took `worked` seconds to write."""
    return min(max(_PAUSE_SECONDS, _SHARE * worked), _LONGEST_PAUSE)


def _await_study() -> list[str]:
    """The arguments that the driver sends in a line of JSON, with the log to write to; ends here where none come."""
    lines: list[bytes] = []

    def hear() -> None:
        lines.append(os.read(0, 65_536))  # short enough to come whole; what follows is the end
        if not lines[0]:
            os._exit(DRAINED)  # in the middle of an import: nothing has been made yet

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    hearing = threading.Thread(target=hear, daemon=True)
    hearing.start()
    load()
    hearing.join()
    told = json.loads(lines[0])
    with open(told["log"], "w") as log:  # noqa: PTH123
        os.dup2(log.fileno(), 2)
    arguments: list[str] = told["arguments"]
    return arguments


def _await_end(ended: threading.Event) -> None:
    with suppress(OSError):  # closed from the beginning
        while os.read(0, 4096):
            pass
    ended.set()


def _say(progress: Progress) -> None:
    try:
        told = asdict(progress)
        told = {name: value for name, value in told.items() if value or name in ("written", "waiting", "error")}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # the driver is gone; what it wrote is still to be repeated
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


if __name__ == "__main__":
    sys.exit(main())
