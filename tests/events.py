"""Events, and processes to tell them in, for the tests of the ledger."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from tests.servers import PATIENCE
from tuner.events import Asked, Event, Reported

fork = multiprocessing.get_context("fork")  # the child needs no imports of its own: a kill costs milliseconds


def place(event: Event) -> tuple[int | None, int | None, int | None]:
    """What stands beside the body in a ledger: trial, cohort and epoch."""
    trial, cohort, epoch = ((getattr(event, n) if n in event.columns else None) for n in ("trial", "cohort", "epoch"))
    return trial, cohort, epoch


def asked(trial: int, **params: Any) -> Event:
    return Asked(trial, params=params, seed=trial * 7)


def reported(trial: int, epoch: int, **metrics: float) -> Event:
    return Reported(trial, epoch, metrics=metrics, seconds=0.5)


def in_a_process(work: Callable[[Connection], None]) -> Any:
    ours, theirs = fork.Pipe()
    process = fork.Process(target=work, args=(theirs,))
    process.start()
    theirs.close()
    try:
        assert ours.poll(PATIENCE), "the process said nothing"
        return ours.recv()
    finally:
        process.join(PATIENCE)
