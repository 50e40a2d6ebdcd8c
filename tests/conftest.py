"""What all tests stand on."""

from __future__ import annotations

import signal

import pytest

import tuner  # noqa: F401 # before numpy: its BLAS is told of the processor when it is loaded


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_reaches_what_tests_start() -> None:
    """A shell starts its background jobs with Ctrl-C ignored, and what they start inherits that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
