"""Checkpoints at a storage: kept whole, two of them, through whatever happens to it; the same on every kind of storage.

A test takes `kept`, one kind: a folder, an object store, and a file system that must be asked to move what is whole.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from tests import studies
from tests.crews import begun
from tests.executors.test_worker import Line, made
from tests.servers import until
from tests.studies import plan
from tuner.checkpoints import remote as storing
from tuner.checkpoints.remote import Storage
from tuner.errors import MachineError, SpecError, TunerError
from tuner.executors import actor
from tuner.executors import worker as working
from tuner.executors.protocol import Alive, Done, Notice, Report, Started
from tuner.spec import StudySpec
from tuner.workloads.network.plan import load

COHORT = 7


def no_pause(notice: str | None) -> None:
    raise AssertionError(notice)


class Pauses:
    """What is said while a storage is away, until it is `mended`."""

    def __init__(self, mended: Callable[[], object], after: int = 3) -> None:
        self.said: list[str | None] = []
        self._mended, self._after = mended, after

    def __call__(self, notice: str | None) -> None:
        self.said.append(notice)
        if len(self.said) == self._after:
            self._mended()


@pytest.fixture(params=["folder", "object store", "file system"])
def kept(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    monkeypatch.setattr(storing, "_BETWEEN", 0.0)
    if request.param == "file system":
        monkeypatch.setattr(storing, "_WHOLE", frozenset())
    yield begun(f"file://{tmp_path}/small-1" if request.param == "folder" else "memory://bucket/small-1")
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def names(kept: Storage, cohort: int = 7) -> list[str]:
    folder = kept._folder(cohort)
    return sorted(path.rpartition("/")[2] for path in kept._files.ls(folder, detail=False))


def state(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "weights": torch.arange(100.0) + epoch}


def keep(kept: Storage, *epochs: int, attempt: int = 1) -> None:
    for epoch in epochs:
        kept.save(COHORT, attempt, state(epoch), no_pause)


def newest(kept: Storage) -> tuple[int | None, list[str]]:
    found, notes = kept.latest(COHORT, no_pause)
    return (None if found is None else found["epoch"]), notes


def broken(kept: Storage, content: Callable[[bytes], bytes], nth: int = -1) -> str:
    """Make another content of the newest, or of the one before."""
    path = f"{kept._folder(7)}/{names(kept)[nth]}"
    kept._files.pipe_file(path, content(kept._files.cat_file(path)))
    return path.removeprefix(kept._root)


def test_the_newest_is_read_and_two_are_kept(kept: Storage) -> None:
    assert newest(kept) == (None, [])
    keep(kept, 1, 2, 3)
    assert newest(kept) == (3, [])
    found, _ = kept.latest(COHORT, no_pause)
    assert found is not None and torch.equal(found["weights"], state(3)["weights"])
    assert names(kept) == ["0001-000002.pt", "0001-000003.pt"]
    assert kept.latest(8, no_pause) == (None, [])


@pytest.mark.parametrize(
    "tear",
    [lambda c: c[: len(c) // 2], lambda c: b"", lambda c: c[:200] + bytes([c[200] ^ 1]) + c[201:]],
    ids=["torn", "empty", "a bit flipped"],
)
def test_a_broken_newest_is_told_and_the_one_before_is_used(kept: Storage, tear: Callable[[bytes], bytes]) -> None:
    keep(kept, 1, 2)
    name = broken(kept, tear)
    assert newest(kept) == (1, [f"{kept.url}{name} is corrupt (sha256)"])
    broken(kept, tear, 0)
    epoch, notes = newest(kept)
    assert epoch is None and len(notes) == 2
    keep(kept, 3)
    assert newest(kept) == (3, [])


def test_a_worker_that_dies_while_it_writes_leaves_what_was_there(
    kept: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before what it wrote is whole; what is left over is read by nobody, and goes with the next one."""
    keep(kept, 1, 2)

    def dies(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if "file" in kept._protocols:
            patch.setattr(os, "fsync", dies)
        else:
            patch.setattr(MemoryFileSystem, "mv" if not storing._WHOLE else "pipe_file", dies)
        with pytest.raises(KeyboardInterrupt):
            keep(kept, 3)
    left = f"{kept._folder(7)}/0001-000002.pt.99.partial"
    kept._files.pipe_file(left, b"half of it")
    assert newest(kept) == (2, [])
    keep(kept, 3)
    keep(kept, 4)
    assert newest(kept) == (4, []) and [name for name in names(kept) if not name.endswith(".pt")] == []


def test_a_worker_that_comes_back_writes_behind_the_attempt_that_took_its_place(kept: Storage) -> None:
    keep(kept, 1, 2, attempt=1)
    keep(kept, 3, attempt=2)
    keep(kept, 4, 5, 6, attempt=1)
    assert newest(kept) == (3, [])
    keep(kept, 7, 8, attempt=2)
    assert newest(kept) == (8, []) and len(names(kept)) == 2


def test_a_storage_that_is_away_is_waited_for_with_one_notice(kept: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(kept, 1)
    files, gone = kept._files, OSError(errno.EHOSTUNREACH, "No route to host")

    def away(*_: Any, **__: Any) -> None:
        raise gone

    for act in (lambda pause: kept.save(COHORT, 1, state(2), pause), lambda pause: kept.latest(COHORT, pause)):
        with monkeypatch.context() as patch:
            patch.setattr(files, "ls", away)
            pauses = Pauses(lambda patch=patch: patch.delattr(files, "ls", raising=False))
            act(pauses)
            first, *others = pauses.said
        assert first is not None and "cohort 7" in first and "No route to host; paused until it is there" in first
        assert kept.url in first and others == [None, None]
    assert newest(kept) == (2, [])


def test_a_full_storage_is_waited_for_and_what_was_there_stays(kept: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(kept, 1)
    full = [True] * 3

    def crowded(path: Any, content: bytes) -> None:
        if full and full.pop():
            assert newest(kept) == (1, [])
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    write = kept._write
    monkeypatch.setattr(kept, "_write", crowded)
    pauses = Pauses(lambda: None)
    kept.save(COHORT, 1, state(2), pauses)
    assert pauses.said[0] is not None and "MB) cannot go to" in pauses.said[0] and "No space left" in pauses.said[0]
    assert ("MB free" in pauses.said[0]) == ("file" in kept._protocols)
    assert pauses.said[1:] == [None, None] and newest(kept) == (2, [])


def test_a_folder_that_is_not_mounted_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    """Neither read as one nor written to: both wait until the study's card is there again."""
    (tmp_path / "shared").mkdir()
    kept = begun(f"{tmp_path}/shared/small-1")
    keep(kept, 1)
    for act, expected in (
        (lambda pause: kept.latest(COHORT, pause)[0]["epoch"], 1),  # type: ignore[index]
        (lambda pause: kept.save(COHORT, 1, state(2), pause), None),
    ):
        (tmp_path / "shared").rename(tmp_path / "away")
        (tmp_path / "shared").mkdir()

        def mount() -> None:
            assert not list((tmp_path / "shared").iterdir())
            (tmp_path / "shared").rmdir()
            (tmp_path / "away").rename(tmp_path / "shared")

        pauses = Pauses(mount)
        assert act(pauses) == expected
        assert "study.json is not there; is it mounted?" in str(pauses.said[0])
    assert newest(kept) == (2, [])


def test_what_no_waiting_mends_is_the_machines_fault(kept: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Access Denied")

    monkeypatch.setattr(kept, "_write", forbidden)
    with pytest.raises(MachineError, match=r"checkpoint of cohort 7 .* cannot go to .*Access Denied"):
        keep(kept, 1)
    with pytest.raises(TunerError, match=r"cannot be used: Access Denied; mend it and launch again"):
        kept.put(7, b"content")


def test_a_driver_tries_a_few_times_and_says_what_to_do(kept: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def away(*_: Any, **__: Any) -> None:
        tries.append(1)
        raise ConnectionError("no answer")

    monkeypatch.setattr(kept._files, "ls", away)
    with pytest.raises(TunerError, match=r"small-1 cannot be used: no answer; mend it and launch again"):
        list(kept.generations(7))
    assert len(tries) == storing._TRIES


def test_a_cohorts_checkpoints_go_when_it_is_done_and_all_at_the_end(kept: Storage) -> None:
    keep(kept, 1, 2)
    kept.put(8, b"another's")
    kept.drop(7)
    until(lambda: not kept._files.exists(kept._folder(7)))
    assert [content for _, content in kept.generations(8)] == [b"another's"]
    kept.clear()
    kept.clear()
    assert not kept._files.exists(kept._root)


def test_checkpoints_of_an_earlier_launch_that_are_not_there_are_missed(kept: Storage) -> None:
    kept.begin({}, known=True)
    kept.clear()
    with pytest.raises(TunerError, match=r"expected the checkpoints of an earlier launch at .*mount it again"):
        kept.begin({}, known=True)
    kept.begin({}, known=False)
    assert newest(kept) == (None, [])


# --- a worker with one ----------------------------------------------------------------------------


def trained(kept: Storage, folder: Path, **task: Any) -> tuple[Line, list[Any]]:
    """A worker of a cluster, in this process: what it said, and what it sent to the study's folder."""
    line, store = Line(), actor.Connection()
    worker, work = made(folder, line, **task)
    worker.checkpoints, worker.weights = kept, store.wire
    worker.train(work)
    return line, [store.said.get_nowait() for _ in range(store.said.qsize())]


def test_a_worker_goes_on_from_its_storage_to_the_numbers_of_an_unbroken_one(kept: Storage, tmp_path: Path) -> None:
    unbroken = Line()
    worker, work = made(tmp_path, unbroken)
    worker.train(work)
    first, sent = trained(kept, tmp_path, rungs=frozenset({2}))
    again, _ = trained(kept, tmp_path, rungs=frozenset({2}))
    expected = [(report.epoch, report.metrics) for report in unbroken.of(Report)]
    assert [(report.epoch, report.metrics) for report in first.of(Report)] == expected
    assert [started.epoch for started in again.of(Started)] == [2]
    assert [(report.epoch, report.metrics) for report in again.of(Report)] == expected[2:]
    assert [file.trial for file in sent] == [0, 1], "weights alone are for the study's folder"


def test_a_worker_whose_storage_is_away_lives_and_says_so_once(
    kept: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working, "ALIVE_SECONDS", -1.0)
    monkeypatch.setattr(working, "_LISTEN_SECONDS", 1e9)
    monkeypatch.setattr(working, "_RETRY_SECONDS", 0.0)
    met, away = kept._marker_exists, [True] * 3

    def gone() -> bool:
        return not (away and away.pop()) and met()

    monkeypatch.setattr(kept, "_marker_exists", gone)
    line, _ = trained(kept, tmp_path)
    paused = [type(message) for message in line.said].index(Notice)
    assert [type(message) for message in line.said[paused : paused + 5]] == [Notice, *[Alive] * 3, Started]
    assert len(line.of(Notice)) == 1 and line.of(Done)


# --- what is written in a study file --------------------------------------------------------------


def told(folder: Path, **run: Any) -> str:
    """What `tuner check` says of a study with these keys under `run`."""

    def check(path: Path) -> None:
        spec = StudySpec.read(path)
        plan(spec, load(spec))

    with pytest.raises(SpecError) as raised:
        check(studies.write(folder, studies.study(run=run)))
    return str(raised.value)


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("s33://bucket/folder", "fsspec knows, such as s3, gs or abfs, got s33://; did you mean 's3'?"),
        ("sharepoint9://x", "fsspec knows, such as s3, gs or abfs, got sharepoint9://"),
        ("adl://bucket/folder", "here and on every node, got"),
        ("memory://folder", "that every node can write to, got memory://folder; write an absolute folder"),
        ("/nowhere/at", "a folder that every node sees, got /nowhere/at, which is not here; make it, or mount it"),
        ("file:///nowhere/at", "which is not here"),
    ],
)
def test_a_storage_that_cannot_be_used_is_told_at_its_line(address: str, problem: str, tmp_path: Path) -> None:
    said = told(tmp_path, executor="ray", storage=address)
    assert problem in said and "study.yaml:" in said and ": run.storage: " in said
    assert len(said.splitlines()) == 1


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(_address: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(storing.fsspec.core, "url_to_fs", missing)
    said = told(tmp_path, executor="ray", storage="s3://bucket/folder")
    assert said.endswith(
        "run.storage: expected what reaches s3:// to be installed, here and on every node, "
        "got 'Install s3fs to access S3'; pip install s3fs"
    )


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("checkpoints", "got the text 'checkpoints'; begin it with /"),
        ("s3://", "got the text 's3://'"),
        (7, "got the integer 7"),
        ("simplecache::s3://bucket", "write one address without ::"),
        ("s3://key:canary@bucket/x", "got an address with a password or options in it; remove them"),
        ("s3://bucket/x?secret=canary", "credentials are read from each node's environment"),
    ],
)
def test_an_address_is_written_as_one_and_never_with_a_secret(address: Any, problem: str, tmp_path: Path) -> None:
    for executor in ("ray", "local", "ray-tune"):
        said = told(tmp_path, executor=executor, storage=address)
        assert "run.storage: expected an absolute folder or an address such as s3://bucket/folder, got" in said
        assert problem in said and "canary" not in said


def test_only_rays_workers_have_a_storage(tmp_path: Path) -> None:
    said = told(tmp_path, storage=str(tmp_path))
    assert "run.storage: expected none with executor local, got one; write executor: ray, or remove it" in said
    said = told(tmp_path, storage=str(tmp_path), executor="ray-tune")
    assert "run.storage: expected none with executor ray-tune" in said and "use executor ray" in said


def test_where_checkpoints_are_kept_makes_no_other_study_of_it(tmp_path: Path) -> None:
    one = StudySpec(**studies.study())
    other = StudySpec(**studies.study(run={"executor": "ray", "storage": str(tmp_path)}))
    assert one.digest == other.digest
