"""A ledger of a study that has nothing yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tuner.ledger import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    with Ledger.create(tmp_path / "studies" / "one") as ledger:
        yield ledger
