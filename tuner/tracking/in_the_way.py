"""Who is in the way of a process that writes to MLflow: a writer that was stopped, and holds what others wait for.

A writer holds `tracking.lock` of its study, with its name and its driver's in it. One that is stopped (SIGSTOP) while
its driver is gone would keep its study, and an embedded store with all others, for ever: who comes next ends it. That
is safe: it is the process that has signed, on this machine, its driver has ended, and all that it writes may be
written again. Anybody else is named. Must never know what is written.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from tuner import processes

LOCK = "tracking.lock"


def take(folder: Path, driver: int | None) -> int | None:
    """Hold the writing of the study in `folder`, signed; a handle that lets go when closed, None where it is held."""
    path = folder / LOCK
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    for attempt in (1, 2):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempt == 1:
                clear(path)
            continue
        who = {**processes.signature(), "driver": driver and {"pid": driver, "start": processes.start(driver)}}
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(who).encode(), 0)
        return handle
    os.close(handle)
    return None


def clear(*paths: Path) -> str:
    """End the stopped writers without a driver that hold one of the files; who else holds it, and what to do.

    "" where nobody is known to.
    """
    said = []
    for pid in processes.holders(*paths):
        who = _signature(pid)
        if who is not None and processes.stopped(pid) and _abandoned(who) and processes.end(who):
            continue
        name = f"the MLflow writer of study {who['study']}, {processes.named(pid)}" if who else processes.named(pid)
        said.append(f"{name}; {processes.remedy(pid)}")
    return " and ".join(said)


def is_stopped(*paths: Path) -> bool:
    """Whether one who holds a file is stopped: to wait for it is no use."""
    return any(map(processes.stopped, processes.holders(*paths)))


def _signature(pid: int) -> dict[str, Any] | None:
    """What the writer has signed; None where the process is no writer, or somebody else's."""
    path = processes.opened(pid, LOCK)
    if path is None:
        return None
    try:
        who = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(who, dict) or who.get("pid") != pid:
        return None
    return {**who, "study": path.parent.name}


def _abandoned(who: dict[str, Any]) -> bool:
    driver = who.get("driver")
    if not isinstance(driver, dict):
        return False
    # One that had ended before its writer could sign has no start.
    return driver.get("start") is None or processes.gone({**driver, "host": who.get("host")})
