"""Files of tensors that are whole or refused: written beside, synced, renamed; read against a checksum.

A file is the SHA-256 of its body followed by the body, torch.save's format with plain values alone
(`weights_only`). `save` keeps the generation before as NAME.previous.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tuner.errors import CheckpointCorrupt, first_line

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT = 1  # of what lies in a file; raised when an older Tuner could no longer go on from it
_DIGEST = 32  # bytes of a SHA-256
_LARGE = 64_000_000  # bytes of tensors that are written without a copy of the file in memory

Restore = Callable[[dict[str, Any]], None]


def pack(state: dict[str, Any]) -> bytes:
    """The content of a file that holds `state` (tensors, numbers, strings, lists and dicts of them)."""
    import torch

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
    previous = _previous(path) if generations > 1 else None
    if isinstance(state, bytes):
        write(path, state, previous=previous)
    elif size(state) < _LARGE:
        write(path, pack(state), previous=previous)
    else:
        write(path, partial(_stream, state), previous=previous)


class _Digesting:
    """A file as torch.save sees it, hashed on its way; `error` is what the disk said, which torch hides."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.sha256 = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, part: bytes) -> int:
        self.sha256.update(part)
        try:
            return self._file.write(part)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """It is flushed when it is whole."""


def _stream(state: dict[str, Any], file: BinaryIO) -> None:
    """What `pack` makes, without a copy of it in memory."""
    import torch

    file.write(bytes(_DIGEST))
    through = _Digesting(file)
    try:
        torch.save({"format": FORMAT, **state}, through)  # type: ignore[arg-type] # it asks for no more than this
    except RuntimeError:
        if through.error is not None:
            raise through.error from None
        raise
    file.seek(0)
    file.write(through.sha256.digest())


def write(path: Path, content: bytes | Callable[[BinaryIO], None], *, previous: Path | None = None) -> None:
    """Write a file's content whole or not at all; what the file was before becomes `previous`. Raises as `save`."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with beside.open("wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
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
    if isinstance(state, dict):
        return sum(map(size, state.values()))
    return state.numel() * state.element_size() if hasattr(state, "element_size") else 0


def load(path: Path) -> dict[str, Any]:
    """Read one file. Raises FileNotFoundError, and CheckpointCorrupt where it is not what was written or too new."""
    return _unpack(str(path), path.read_bytes())


def load_weights(path: Path) -> dict[str, Tensor]:
    """The weights that a trial left. Raises as `load`."""
    weights = load(path).get("weights")
    if not isinstance(weights, dict):
        raise CheckpointCorrupt(f"{path} holds no weights")
    return weights


class _Body(io.BytesIO):
    """A file's content behind its digest, without a copy of it."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.seek(0)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return super().seek(offset + _DIGEST if whence == os.SEEK_SET else offset, whence) - _DIGEST

    def tell(self) -> int:
        return super().tell() - _DIGEST


def _unpack(name: str, content: bytes) -> dict[str, Any]:
    import torch

    body = memoryview(content)[_DIGEST:]
    if len(content) <= _DIGEST or hashlib.sha256(body).digest() != content[:_DIGEST]:
        raise CheckpointCorrupt(f"{name} is corrupt (sha256)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's of the pickles in other files
            state: dict[str, Any] = torch.load(_Body(content), map_location="cpu", weights_only=True)
        found = state.pop("format", 1)
        newer = found > FORMAT
    except (
        Exception
    ) as error:  # another torch's file, or one that holds more than plain values: torch raises what it likes
        raise CheckpointCorrupt(f"{name} cannot be read ({type(error).__name__}: {first_line(error)})") from error
    if newer:
        raise CheckpointCorrupt(f"{name} was written in format {found}, this Tuner reads up to {FORMAT}")
    return state


def files(path: Path) -> tuple[Path, Path]:
    """Where the generations of a file are, the newest first; none of them need be there."""
    return path, _previous(path)


def generations(path: Path) -> Iterator[tuple[str, bytes]]:
    """What there is of a file's generations, the newest first: the name and the content of each."""
    for candidate in files(path):
        if candidate.exists():
            yield str(candidate), candidate.read_bytes()


def newest(
    contents: Iterable[tuple[str, bytes]], restore: Restore = lambda _: None
) -> tuple[dict[str, Any] | None, list[str]]:
    """The first whole one of `generations` (None where there is none), and a message for each one that is not.

    Whole is also what `restore` takes; it raises CheckpointCorrupt for what it does not.
    """
    messages: list[str] = []
    for name, content in contents:
        try:
            state = _unpack(name, content)
        except CheckpointCorrupt as error:
            messages.append(str(error))
            continue
        try:
            restore(state)
        except CheckpointCorrupt as error:
            messages.append(f"{name} cannot be used ({error})")
            continue
        return state, messages
    return None, messages


def latest(path: Path, restore: Restore = lambda _: None) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest whole generation (None where there is none), and a message for each one that is not; see `newest`."""
    return newest(generations(path), restore)


Parts = dict[str, dict[str, Any]]


def fitting(
    state: Mapping[str, Any], numbers: Collection[int], own: Parts, *, ghost: bool, open_ended: bool
) -> tuple[list[int], Parts]:
    """Where these trials are in a training's `state`, and the parts of it that are theirs, by the names of `own`.

    A row alone stands there twice where it has a `ghost`. `open_ended`: the one network and its optimizer may have made
    more of their parts while they trained. Raises ValueError, or what comes of it, where it is another training's.
    """
    import torch

    keep = [index for index, number in enumerate(state["rows"]) if number in numbers]
    if {state["rows"][index] for index in keep} != set(numbers) or len(keep) != len(numbers):
        raise ValueError(f"expected trials {sorted(numbers)}, got {state['rows']}")
    rows = torch.tensor(keep * 2 if ghost and len(keep) == 1 else keep, dtype=torch.int64)
    found: Parts = {}
    for part, mine in own.items():
        given = state if part == "rows" else state[part]
        whole = open_ended and part != "rows"
        found[part] = dict(given) if whole else {name: given[name][rows] for name in mine}
        for name, value in mine.items():
            got = found[part][name]
            if (got.shape[1:], got.dtype) != (value.shape[1:], value.dtype):
                raise ValueError(f"expected {name} {list(value.shape[1:])}, got {list(got.shape[1:])}")
    return keep, found


def fill(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a network its weights. Raises CheckpointCorrupt where they are not its own."""
    import torch

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
