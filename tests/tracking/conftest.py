"""A store for a module's tests, and a driver that is patient on any machine."""

from __future__ import annotations

import pytest

from tests.servers import PATIENCE
from tests.stores import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("home"))


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that waits for its writer on any machine."""
    monkeypatch.setattr("tuner.tracking.writer.PATIENT", PATIENCE)
