"""Studies that begin a Ray of their own from the command line, to the end: Ray ends a process that calls it late."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import studies


@pytest.mark.slow
@pytest.mark.parametrize("run", [{"executor": "ray"}, {"executor": "ray-tune", "scheduler": "fifo"}])
def test_a_launch_with_a_ray_of_its_own_comes_to_its_end(tmp_path: Path, run: dict[str, Any]) -> None:
    content = studies.study(search={"trials": 4}, train={"epochs": 2}, run={"workers": 2, **run})
    said = studies.run(studies.write(tmp_path, content), tmp_path / "home")
    assert "study small complete: 4 trials" in said
    assert (tmp_path / "home" / "studies" / "small" / "champion").is_dir()
