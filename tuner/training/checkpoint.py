"""Files of tensors that are whole or refused: written beside, synced, renamed; read against a checksum.

A file is the SHA-256 of its body followed by the body, torch.save's format with plain values alone
(`weights_only`). `save` keeps the generation before as NAME.previous.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch

from tuner.errors import CheckpointCorrupt

FORMAT = 1  # of what lies in a file; raised when an older Tuner could no longer go on from it
_DIGEST = 32  # bytes of a SHA-256


def save(path: Path, state: dict[str, Any], *, generations: int = 2) -> None:
    """Write `state` (tensors, numbers, strings, lists and dicts of them) so that a crash leaves old or new.

    Raises OSError where there is no room; the file that was there stays, nothing partial is left.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    body = buffer.getbuffer()
    beside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with beside.open("wb") as file:
            file.write(hashlib.sha256(body).digest())
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        if generations > 1 and path.exists():
            path.replace(_previous(path))
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def size(state: Any) -> int:
    """The bytes of all tensors in `state`, about what its file will take."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(map(size, state.values()))
    return 0


def load(path: Path) -> dict[str, Any]:
    """Read one file. Raises FileNotFoundError, and CheckpointCorrupt where it is not what was written or too new."""
    content = path.read_bytes()
    body = content[_DIGEST:]
    if len(content) <= _DIGEST or hashlib.sha256(body).digest() != content[:_DIGEST]:
        raise CheckpointCorrupt(f"{path} is corrupt (sha256)")
    state: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    if (found := state.pop("format", 1)) > FORMAT:
        raise CheckpointCorrupt(f"{path} was written in format {found}, this Tuner reads up to {FORMAT}")
    return state


def latest(path: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest whole generation (None where there is none), and a message for each one that is not whole."""
    messages: list[str] = []
    for candidate in (path, _previous(path)):
        try:
            return load(candidate), messages
        except FileNotFoundError:
            continue
        except CheckpointCorrupt as error:
            messages.append(str(error))
    return None, messages


def _previous(path: Path) -> Path:
    return path.with_name(path.name + ".previous")
