"""What all tests stand on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

import tuner  # noqa: F401 # before numpy: its BLAS is told of the processor when it is loaded

if TYPE_CHECKING:
    from tests.forks import Forks, Run
    from tests.postgres import Server


# No example is late on a slow machine, and every run tries the same ones: what fails is what the change did.
# HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("same", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", settings.get_profile("same"), derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# Ray's workers else come last on a busy machine, thirty times slower.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - as Ray spells it
os.environ.pop("TUNER_LEDGER", None)  # a test that wants a database says so, and has one of its own


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL, started by the first test that asks for it: one for each process of tests."""
    from tests.postgres import Server

    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A small Ray, on loopback, with a folder and a token of its own. A module that shares it is one xdist_group."""
    from tests.crews import small_ray

    with small_ray() as ray:
        yield ray


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """A process that is copied for what tests launch: one for each process of tests."""
    from tests.forks import Forks

    forks = Forks()
    yield forks
    forks.close()


@pytest.fixture
def run(forks: Forks) -> Run:
    """`tuner launch` by a copy, to its end."""
    from tests.forks import running

    return running(forks)


@pytest.fixture
def copied_workers(forks: Forks) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Workers of studies that this process launches begin as copies, and import nothing."""
    from tests.forks import copying, spawning

    with copying(forks):
        yield spawning


@pytest.fixture
def spawned_workers(copied_workers: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Where all others of a module are copies: workers as the program starts them, each a new interpreter."""
    with copied_workers():
        yield


@pytest.fixture(scope="session", autouse=True)
def _patient() -> None:
    """Workers that save and a writer that imports MLflow are waited for on any machine."""
    from tests.servers import PATIENCE
    from tuner.study import loop
    from tuner.tracking import writer

    loop.STOP_SECONDS = PATIENCE
    writer.PATIENT = PATIENCE


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_reaches_what_tests_start() -> None:
    """A shell starts its background jobs with Ctrl-C ignored, and what they start inherits that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
