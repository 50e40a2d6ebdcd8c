"""Events, and processes to tell them in, for the tests of the ledger."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from tests.servers import PATIENCE
from tuner.trial import Event, Kind

fork = multiprocessing.get_context("fork")  # the child needs no imports of its own: a kill costs milliseconds


def asked(trial: int, **params: Any) -> Event:
    return Event(Kind.ASKED, {"params": params, "seed": trial * 7}, trial=trial)


def reported(trial: int, epoch: int, **metrics: float) -> Event:
    return Event(Kind.REPORTED, {"metrics": metrics, "seconds": 0.5}, trial=trial, cohort=0, epoch=epoch)


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
