"""How a study's driver is told to stop by another process: with a signal on its own machine, else through the ledger.

Knows who drives a study; must never know what a driver does then. Either way it saves its trials and leaves.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tuner.errors import TunerError
from tuner.ledger import Ledger

NEAR_SECONDS = 15.0  # a driver that was told to stop saves and leaves within 10 s
FAR_SECONDS = 30.0  # and looks into a database for such a word every 3 s


def stop(folder: Path, tell: Callable[[str], None]) -> None:
    """Tell the driver of the study in `folder` to stop, and wait until it has left.

    Raises StudyMissing where there is no such study, TunerError where its driver does not leave.
    """
    study = folder.name
    with Ledger.open(folder, read_only=True) as ledger:
        who = ledger.holder()
        if who is None:
            tell(f"study {study} is not running")
            return
        tell(f"stopping study {study} (process {who['pid']} on {who['host']})")
        near = _signalled(who)
        if not near:
            with Ledger.open(folder) as writable:
                writable.ask_to_stop(who)
        seconds = NEAR_SECONDS if near else FAR_SECONDS
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if ledger.holder() != who:
                tell(f"stopped; `tuner launch` with its file goes on with {study}")
                return
            time.sleep(0.1)
    held = f"process {who['pid']} on {who['host']} still holds study {study} after {seconds:.0f} s"
    raise TunerError(f"{held}; end it there, and `tuner launch` goes on with what it has stored")


def _signalled(who: Mapping[str, Any]) -> bool:
    """Whether the driver is a process of this machine that takes a signal from us."""
    if who["host"] != socket.gethostname() or who["pid"] <= 1:  # 1: of a container, which has numbers of its own
        return False
    try:
        os.kill(who["pid"], signal.SIGTERM)
        os.kill(who["pid"], signal.SIGCONT)  # one that was stopped (Ctrl-Z) hears it only then
    except (ProcessLookupError, PermissionError):
        return False
    return True
