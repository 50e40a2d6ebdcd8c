"""Files of checkpoints: large ones are written and read without copies, as the same files."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from tuner.checkpoints import format as checkpoint

STATE = {"rows": [3, 1], "epoch": 2, "stack": {"flat": torch.arange(6.0).view(2, 3), "buffer:n": torch.tensor(7)}}


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_LARGE", 0)


@pytest.mark.usefixtures("streamed")
def test_a_large_state_is_the_file_that_a_small_one_would_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path / "large.pt", STATE)
    content = (tmp_path / "large.pt").read_bytes()
    loaded = checkpoint.load(tmp_path / "large.pt")
    assert (loaded["rows"], loaded["epoch"]) == ([3, 1], 2)
    assert all(torch.equal(loaded["stack"][name], value) for name, value in STATE["stack"].items())
    assert len(content) == len(checkpoint.pack(STATE))
    (tmp_path / "large.pt").write_bytes(content[:-20] + bytes(20))
    with pytest.raises(checkpoint.CheckpointCorrupt, match="sha256"):
        checkpoint.load(tmp_path / "large.pt")


@pytest.mark.usefixtures("streamed")
def test_a_full_disk_is_told_as_one_and_leaves_the_file_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.pt"
    checkpoint.save(path, STATE)
    before = path.read_bytes()

    def full(self: Any, part: bytes) -> int:
        self.error = OSError(errno.ENOSPC, "No space left on device")
        raise self.error

    monkeypatch.setattr(checkpoint._Digesting, "write", full)
    with pytest.raises(OSError, match="No space left") as refused:
        checkpoint.save(path, {**STATE, "epoch": 3})
    assert refused.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]
