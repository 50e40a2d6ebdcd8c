"""Checkpoints at an address that all nodes see: a folder, or whatever fsspec reaches (`s3://bucket/folder`).

Knows fsspec and storages that go away; never training, nor what is in a checkpoint. A study has a folder of its own
there with a card in it, which its driver writes before anybody else comes: a folder without one is a disk that is not
mounted, and no study's beginning. A cohort's checkpoints are `ATTEMPT-SERIAL.pt`, each name written once, the highest
the newest: so nothing is renamed that an object store would have to copy, and a worker that comes back from a cut
network writes behind those of the attempt that took its place.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.registry import known_implementations

from tuner.checkpoints import format as checkpoint
from tuner.checkpoints.store import Pause, State
from tuner.errors import InputError, MachineError, TunerError, first_line

CARD = "study.json"
GENERATIONS = 2
_NAME = re.compile(r"(\d+)-(\d+)\.pt(\..*)?")  # attempt, serial, and what only the unfinished have
_WHOLE = frozenset(
    {"abfs", "abfss", "adl", "az", "gcs", "gs", "memory", "oci", "oss", "s3", "s3a", "tos"}
)  # see `_write`
_ALONE = frozenset(
    {"memory", "data", "reference", "zip", "tar", "http", "https"}
)  # a process's own, or only to be read
_REFUSED = (  # what no waiting mends
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    FileExistsError,
    NotImplementedError,
    ImportError,
    TypeError,
    ValueError,
)
_TRIES, _BETWEEN = 4, 1.0  # of the driver, for which a whole study waits; seconds

Found = TypeVar("Found")
Mark = tuple[int, int]  # attempt, serial


def reach(address: str) -> tuple[Any, str, frozenset[str]]:
    """The file system of an address, the path in it, and its protocols. Raises InputError with what to do."""
    protocol, _, rest = address.rpartition("://")
    if protocol and not rest:
        raise InputError(f"expected a bucket or a folder behind {address}, got none; write {address}NAME/FOLDER")
    try:
        files, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        told = known_implementations.get(protocol, {"class": "", "err": ""})
        package = told["class"].partition(".")[0]
        remedy = f"pip install {package}" if package != "fsspec" else str(told["err"])
        got = f"expected what reaches {protocol}:// to be installed, here and on every node, got {first_line(error)!r}"
        raise InputError(f"{got}; {remedy}") from None
    except ValueError:
        from tuner.search_spaces.document import suggest

        got = f"expected a folder or a protocol that fsspec knows, such as s3, gs or abfs, got {protocol}://"
        raise InputError(f"{got}{suggest(protocol, sorted(known_implementations))}") from None
    protocols = (files.protocol,) if isinstance(files.protocol, str) else files.protocol
    return files, str(path).rstrip("/"), frozenset(protocols)


def problem(address: str) -> str | None:
    """Why no study can keep checkpoints at an address, as seen from here; None where nothing speaks against it."""
    try:
        files, path, protocols = reach(address)
    except InputError as error:
        return str(error)
    if protocols & _ALONE:
        return f"expected a storage that every node can write to, got {address}; write an absolute folder, or s3://…"
    if "file" in protocols and not Path(path).is_dir():
        return f"expected a folder that every node sees, got {address}, which is not here; make it, or mount it"
    try:
        with contextlib.suppress(FileNotFoundError):  # the first study makes it
            files.ls(path, detail=False)
    except Exception as error:  # noqa: BLE001 - every file system has errors of its own
        return f"expected a storage that answers, got nothing at {address}: {first_line(error)}"
    return None


class Storage:
    """One study's checkpoints at a storage; `url` is the study's own folder. For its workers, and for its driver."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._files, self._root, self._protocols = reach(url)

    # --- a worker's side: it waits for as long as it takes ---------------------------------------

    def latest(
        self, cohort: int, pause: Pause, restore: checkpoint.Restore = lambda _: None
    ) -> tuple[State | None, list[str]]:
        what = f"checkpoints of cohort {cohort} cannot be read from {self.url}"
        return self._retry_forever(lambda: checkpoint.newest(self._contents(cohort), restore), what, pause)

    def save(self, cohort: int, attempt: int, state: State, pause: Pause) -> None:
        """Raises MachineError where no waiting helps, and whatever `pause` raises."""
        content = checkpoint.pack(state)
        what = f"the checkpoint of cohort {cohort} ({len(content) / 1e6:.1f} MB) cannot go to {self.url}"
        self._retry_forever(lambda: self._add(cohort, content, attempt), what, pause)

    # --- the driver's: it tries a few times ------------------------------------------------------

    def begin(self, card: Mapping[str, str], *, known: bool) -> None:
        """Write the study's card. Raises TunerError where it cannot, or where it is `known` to be there and is not."""

        def write() -> None:
            if self._marker_exists():
                return
            if known:
                message = f"expected the checkpoints of an earlier launch at {self.url}, got nothing; mount it again"
                raise TunerError(f"{message}, or name another run.storage: what began before then begins anew")
            self._write(f"{self._root}/{CARD}", json.dumps(card).encode())

        self._retry_few(write)

    def generations(self, cohort: int) -> Iterator[tuple[str, bytes]]:
        yield from self._retry_few(lambda: list(self._contents(cohort)))

    def put(self, cohort: int, content: bytes) -> None:
        self._retry_few(lambda: self._add(cohort, content))

    def drop(self, cohort: int) -> None:
        """In the background, for nobody waits for it; what fails goes with `clear`."""

        def remove() -> None:
            with contextlib.suppress(Exception):
                self._files.rm(self._folder(cohort), recursive=True)

        threading.Thread(target=remove, name="tuner-drop", daemon=True).start()

    def clear(self) -> None:
        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._files.rm(self._root, recursive=True)

        self._retry_few(remove)

    # --- what both stand on ----------------------------------------------------------------------

    def _folder(self, cohort: int) -> str:
        return f"{self._root}/{cohort:06d}"

    def _marker_exists(self) -> bool:
        """Whether the study's card is there."""
        self._files.invalidate_cache()
        try:
            self._files.info(f"{self._root}/{CARD}")
        except FileNotFoundError:
            return False
        return True

    def _listed(self, cohort: int) -> list[tuple[Mark, str, bool]]:
        """What there is of a cohort, the newest first: its mark, its path, whether it was written to its end.

        Raises OSError where the storage itself is not there."""
        if not self._marker_exists():
            raise FileNotFoundError(errno.ENOENT, f"{CARD} is not there; is it mounted?")
        try:
            paths = [str(path) for path in self._files.ls(self._folder(cohort), detail=False)]
        except FileNotFoundError:
            return []
        found = [(_NAME.fullmatch(path.rpartition("/")[2]), path) for path in paths]
        listed = [((int(name[1]), int(name[2])), path, name[3] is None) for name, path in found if name is not None]
        return sorted(listed, reverse=True)

    def _contents(self, cohort: int) -> Iterator[tuple[str, bytes]]:
        for _, path, whole in self._listed(cohort):
            if whole:
                with contextlib.suppress(FileNotFoundError):  # another attempt's, cleared away a moment ago
                    yield f"{self.url}{path.removeprefix(self._root)}", self._files.cat_file(path)

    def _add(self, cohort: int, content: bytes, attempt: int | None = None) -> None:
        """As the newest of that attempt, unless told of the last one; then leave two, and nothing unfinished."""
        there = self._listed(cohort)
        last = max((mark[0] for mark, _, _ in there), default=0)
        mark = (last if attempt is None else attempt, 1 + max((mark[1] for mark, _, _ in there), default=0))
        self._write(f"{self._folder(cohort)}/{mark[0]:04d}-{mark[1]:06d}.pt", content)
        before = [(path, whole) for older, path, whole in there if older < mark]
        kept = [path for path, whole in before if whole][: GENERATIONS - 1]
        for path, _ in before:
            if path not in kept:
                with contextlib.suppress(Exception):  # it goes with the next one
                    self._files.rm_file(path)

    def _write(self, path: str, content: bytes) -> None:
        """All or nothing. What an object store is sent is seen when it is there; on other file systems it is moved."""
        if "file" in self._protocols:
            Path(path).parent.mkdir(exist_ok=True)  # not the parents': they are there, or not mounted
            checkpoint.write(Path(path), content)
        elif self._protocols & _WHOLE:
            self._files.pipe_file(path, content)
        else:
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            beside = f"{path}.partial"
            self._files.pipe_file(beside, content)
            self._files.mv(beside, path)

    def _retry_forever(self, act: Callable[[], Found], what: str, pause: Pause) -> Found:
        """Do it, again and again while the storage is away or full."""
        told = False
        while True:
            try:
                return act()
            except (MemoryError, TunerError):
                raise
            except _REFUSED as error:
                raise MachineError(f"{what}: {first_line(error)}") from error
            except Exception as error:  # noqa: BLE001 - every file system has errors of its own
                notice = f"{what}: {self._reason(error)}; paused until it is there again"
            pause(None if told else notice)
            told = True

    def _reason(self, error: Exception) -> str:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT) and "file" in self._protocols:
            with contextlib.suppress(OSError):  # gone since
                return f"{error.strerror}, {shutil.disk_usage(self._root).free / 1e6:.1f} MB free"
        return (isinstance(error, OSError) and error.strerror) or first_line(error)

    def _retry_few(self, act: Callable[[], Found]) -> Found:
        """Do it within a few tries. Raises TunerError where that fails."""
        for left in reversed(range(_TRIES)):
            try:
                return act()
            except TunerError:
                raise
            except Exception as error:
                if not left or isinstance(error, _REFUSED):
                    remedy = "mend it and launch again: nothing acknowledged is lost"
                    raise TunerError(f"{self.url} cannot be used: {self._reason(error)}; {remedy}") from error
                time.sleep(_BETWEEN)
        raise AssertionError
