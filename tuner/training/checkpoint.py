"""Files of tensors that are whole or refused: written beside, synced, renamed; read against a checksum.

A file is the SHA-256 of its body followed by the body, torch.save's format with plain values alone
(`weights_only`). `save` keeps the generation before as NAME.previous.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tuner.errors import CheckpointCorrupt

FORMAT = 1  # of what lies in a file; raised when an older Tuner could no longer go on from it
_DIGEST = 32  # bytes of a SHA-256


def pack(state: dict[str, Any]) -> bytes:
    """The content of a file that holds `state` (tensors, numbers, strings, lists and dicts of them)."""
    buffer = io.BytesIO()
    buffer.write(bytes(_DIGEST))
    torch.save({"format": FORMAT, **state}, buffer)
    with buffer.getbuffer() as content:
        content[:_DIGEST] = hashlib.sha256(content[_DIGEST:]).digest()
    return buffer.getvalue()


def save(path: Path, state: dict[str, Any] | bytes, *, generations: int = 2) -> None:
    """Write `state`, or what `pack` made of one, so that a crash leaves old or new.

    Raises OSError where there is no room; the file that was there stays, nothing partial is left.
    """
    content = state if isinstance(state, bytes) else pack(state)
    write(path, content, previous=_previous(path) if generations > 1 else None)


def write(path: Path, content: bytes, *, previous: Path | None = None) -> None:
    """Write a file's content whole or not at all; what the file was before becomes `previous`. Raises as `save`."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            path.replace(previous)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Have what was renamed in a folder outlive a power cut."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def size(state: Any) -> int:
    """The bytes of all tensors in `state`, about what its file will take; of what is packed, what it does take."""
    if isinstance(state, bytes):
        return len(state)
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(map(size, state.values()))
    return 0


def load(path: Path) -> dict[str, Any]:
    """Read one file. Raises FileNotFoundError, and CheckpointCorrupt where it is not what was written or too new."""
    return _unpack(str(path), path.read_bytes())


def _unpack(name: str, content: bytes) -> dict[str, Any]:
    body = content[_DIGEST:]
    if len(content) <= _DIGEST or hashlib.sha256(body).digest() != content[:_DIGEST]:
        raise CheckpointCorrupt(f"{name} is corrupt (sha256)")
    state: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    if (found := state.pop("format", 1)) > FORMAT:
        raise CheckpointCorrupt(f"{name} was written in format {found}, this Tuner reads up to {FORMAT}")
    return state


def generations(path: Path) -> Iterator[tuple[str, bytes]]:
    """What there is of a file's generations, the newest first: the name and the content of each."""
    for candidate in (path, _previous(path)):
        if candidate.exists():
            yield str(candidate), candidate.read_bytes()


def newest(contents: Iterable[tuple[str, bytes]]) -> tuple[dict[str, Any] | None, list[str]]:
    """The first whole one of `generations` (None where there is none), and a message for each one that is not whole."""
    messages: list[str] = []
    for name, content in contents:
        try:
            return _unpack(name, content), messages
        except CheckpointCorrupt as error:
            messages.append(str(error))
    return None, messages


def latest(path: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest whole generation (None where there is none), and a message for each one that is not whole."""
    return newest(generations(path))


def fill(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a network its weights. Raises CheckpointCorrupt where they are not its own."""
    try:
        with torch.no_grad():
            for name, place in (*network.named_parameters(), *network.named_buffers()):
                if weights[name].shape != place.shape:
                    raise CheckpointCorrupt(f"{name}: expected {list(place.shape)}, got {list(weights[name].shape)}")
                place.copy_(weights[name])
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointCorrupt(f"no weights of this network ({error})") from error


def _previous(path: Path) -> Path:
    return path.with_name(path.name + ".previous")
