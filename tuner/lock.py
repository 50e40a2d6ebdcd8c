"""The lock of a study's folder: one living process drives a study at a time.

It knows two files of that folder: `lock`, held with flock, so that the kernel frees it however the driver dies, and
`stop`, which names a driver that is asked to leave. It must never know what the driver does, nor what else is there.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuner import processes
from tuner.errors import LedgerError, StudyLocked

_FILE, _WISH = "lock", "stop"
_PROBE_SECONDS = 0.5  # far longer than a probe holds the lock, or a new driver takes to sign it
_PAUSE_SECONDS = 0.005
_NAMELESS = {"pid": 0, "host": "unknown", "since": "unknown"}


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold the study of `folder`. Raises StudyLocked, naming who holds it, or LedgerError where it cannot be written.

    Processes made by `fork` without `exec` share the lock and keep it alive: start workers by spawn.
    """
    try:
        handle = os.open(folder / _FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise LedgerError(
            f"{folder / _FILE}: expected a file that can be written, got: {error.strerror}; "
            "check the folder's permissions"
        ) from error
    try:
        _take(handle, folder)
        _sign(handle, json.dumps(processes.signature()))
        try:
            yield
        finally:
            _sign(handle, "")
            (folder / _WISH).unlink(missing_ok=True)
    finally:
        os.close(handle)  # frees the lock


def wait(handle: int, path: Path, seconds: float) -> None:
    """Lock an open file or folder, until closed. Raises LedgerError, naming who keeps it for longer or is stopped."""
    give_up = time.monotonic() + seconds
    while not _try(handle, fcntl.LOCK_EX):
        pids = processes.holders(path)
        if any(map(processes.stopped, pids)) or time.monotonic() > give_up:
            who = ", ".join(f"{processes.named(pid)}; {processes.remedy(pid)}" for pid in pids) or "another process"
            raise LedgerError(f"{path} is locked by {who}")
        processes.pause()


def holder(folder: Path) -> dict[str, Any] | None:
    """Who holds the study of `folder` now: {"pid", "host", "since" (ISO 8601)}; None where nobody does."""
    try:
        handle = os.open(folder / _FILE, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        give_up = time.monotonic() + _PROBE_SECONDS
        while not _try(handle, fcntl.LOCK_SH):
            found = _signature(handle)
            # Between taking the lock and signing it a driver is nameless, or still bears the name of a dead one.
            if found is not None and lives(found):
                return found
            if time.monotonic() > give_up:
                return found or dict(_NAMELESS)
            time.sleep(_PAUSE_SECONDS)
        return None
    finally:
        os.close(handle)


def ask_to_stop(folder: Path, who: dict[str, Any]) -> None:
    """Leave word for the driver that `holder` has told of. Raises LedgerError where the folder cannot be written."""
    draft = folder / f"{_WISH}.new"
    try:
        draft.write_text(json.dumps(who))
        draft.rename(folder / _WISH)
    except OSError as error:
        raise LedgerError(f"{folder}: cannot be written ({error.strerror}); stop the study as its owner") from error


def asked_to_stop(folder: Path) -> bool:
    """Whether word is there for the driver that holds the study now; who held it earlier is not meant."""
    try:
        wish = json.loads((folder / _WISH).read_text())
        return wish is not None and wish == json.loads((folder / _FILE).read_text())
    except (OSError, ValueError):
        return False


def _take(handle: int, folder: Path) -> None:
    give_up = time.monotonic() + _PROBE_SECONDS
    while not _try(handle, fcntl.LOCK_EX):
        who = holder(folder)
        # A `holder` elsewhere takes the lock for some microseconds to see whether it is free: nobody is then named.
        if who is None and time.monotonic() < give_up:
            time.sleep(_PAUSE_SECONDS)
            continue
        who = who or _NAMELESS
        raise StudyLocked(refusal(folder.name, who))


def refusal(study: str, who: dict[str, Any]) -> str:
    """What a second driver of a study is told of the first."""
    here = who["host"] == socket.gethostname()
    end = processes.remedy(who["pid"]) if here and processes.stopped(who["pid"]) else f"`tuner stop {study}` ends it"
    return f"study {study} is already running on {who['host']}:{who['pid']} since {who['since']}; {end}"


def _try(handle: int, how: int) -> bool:
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(handle: int, text: str) -> None:
    os.ftruncate(handle, 0)
    os.pwrite(handle, text.encode(), 0)


def _signature(handle: int) -> dict[str, Any] | None:
    try:
        found = json.loads(os.pread(handle, 4096, 0))
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.keys() >= _NAMELESS.keys() else None


def lives(holder: dict[str, Any]) -> bool:
    """False where the process is known to be dead; those of other hosts are taken at their word."""
    if holder["host"] != socket.gethostname():
        return True
    if processes.gone(holder):
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's, and alive
    return True
