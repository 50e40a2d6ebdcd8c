"""What all tests stand on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

import tuner  # noqa: F401 # before numpy: its BLAS is told of the processor when it is loaded

if TYPE_CHECKING:
    from tests.postgres import Server


os.environ.pop("TUNER_LEDGER", None)  # a test that wants a database says so, and has one of its own


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL, started by the first test that asks for it: one for each process of tests."""
    from tests.postgres import Server

    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_reaches_what_tests_start() -> None:
    """A shell starts its background jobs with Ctrl-C ignored, and what they start inherits that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
