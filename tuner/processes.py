"""Processes of this machine: which one holds a lock, whether it is the one that it was, lives, or is stopped.

Reads /proc, and knows nothing where there is none (macOS): then nobody is named, and nobody is ever ended. A process
is known by its number and its start, so that another one of the same number is never taken for it. Must never know
what a process does.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_PROC = Path("/proc")
_END_SECONDS = 5.0  # for the kernel to take a killed process away


def signature() -> dict[str, Any]:
    """This process, as a file may name it: {"pid", "host", "since" (ISO 8601), "start"}."""
    now = datetime.now(UTC).astimezone().isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": now, "start": start(os.getpid())}


def start(pid: int) -> str | None:
    """When a living process began, in words that no other one of that number has; None where there is none."""
    found = _stat(pid)
    if found is None or found[0] in ("Z", "X"):
        return None
    return f"{(_PROC / 'sys/kernel/random/boot_id').read_text().strip()}:{found[1]}"


def gone(who: dict[str, Any]) -> bool:
    """Whether the process of a signature is known to have ended: one of this machine, by its number and its start."""
    known = who.get("start")
    return bool(known) and who.get("host") == socket.gethostname() and start(int(who["pid"])) != known


def stopped(pid: int) -> bool:
    """Whether it was stopped, as Ctrl-Z and SIGSTOP do: it lives, keeps what it holds, and does nothing."""
    found = _stat(pid)
    return found is not None and found[0] in ("T", "t")


def remedy(pid: int) -> str:
    """What a person can do about a process that is in the way."""
    if stopped(pid):
        return f"it is stopped: `kill -CONT {pid}` lets it go on, `kill -KILL {pid}` ends it"
    return f"`kill {pid}` ends it"


def named(pid: int) -> str:
    """`process 123 (python, since 2026-11-30T15:29:00+00:00)`; no arguments, which may hold a password."""
    found = _stat(pid)
    try:
        name = (_PROC / str(pid) / "comm").read_text().strip()
        booted = next(line for line in (_PROC / "stat").read_text().splitlines() if line.startswith("btime"))
    except (OSError, StopIteration):
        return f"process {pid}"
    if found is None:
        return f"process {pid}"
    began = int(booted.split()[1]) + int(found[1]) // os.sysconf("SC_CLK_TCK")
    return f"process {pid} ({name}, since {datetime.fromtimestamp(began, UTC).astimezone().isoformat()})"


def holders(*paths: Path) -> list[int]:
    """The other processes that hold a file locked so that nobody else may write, by flock or as SQLite does."""
    wanted = set()
    for path in paths:
        try:
            found = path.stat()
        except OSError:
            continue
        wanted.add((f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}", str(found.st_ino)))
    return list(dict.fromkeys(pid for pid, device, inode in _locks() if (device, inode) in wanted and pid > 0))


def opened(pid: int, name: str) -> Path | None:
    """A file of that name that the process has open; None where it has none, or is somebody else's."""
    try:
        files = list((_PROC / str(pid) / "fd").iterdir())
    except OSError:
        return None
    for file in files:
        try:
            path = file.readlink()
        except OSError:
            continue
        if path.name == name:
            return path
    return None


def removed_from(path: Path) -> list[int]:
    """The processes that still have open a file that was removed from `path`."""
    name, found = f"{path.absolute()} (deleted)", []
    for folder in _PROC.glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            if any(str(file.readlink()) == name for file in folder.iterdir()):
                found.append(int(folder.parent.name))
    return sorted(found)


def end(who: dict[str, Any]) -> bool:
    """Kill the process of a signature, if it is that one and no other; whether it has ended."""
    try:
        handle = os.pidfd_open(int(who["pid"]))  # from here on the number cannot become another process's
    except (OSError, AttributeError):
        return False
    try:
        if not who.get("start") or who.get("host") != socket.gethostname() or start(int(who["pid"])) != who["start"]:
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        return bool(select.select([handle], [], [], _END_SECONDS)[0])
    except PermissionError:
        return False
    finally:
        os.close(handle)


def _stat(pid: int) -> tuple[str, str] | None:
    """State and start (ticks since the machine's) of a process."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], fields[19]


def _locks() -> Iterator[tuple[int, str, str]]:
    """Process, device and inode of every exclusive lock but our own."""
    try:
        lines = (_PROC / "locks").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        words = line.split()
        if len(words) < 6 or words[1] == "->" or words[3] != "WRITE":  # "->": one that waits
            continue
        major, minor, inode = words[5].split(":")
        if int(words[4]) != os.getpid():
            yield int(words[4]), f"{int(major, 16):02x}:{int(minor, 16):02x}", inode


def pause() -> None:
    """Between two looks at a lock that somebody holds."""
    time.sleep(0.05)
