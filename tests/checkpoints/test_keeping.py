"""A study's checkpoints from launch to launch: brought over when their place changes, missed where they should be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.stories import Story
from tuner.checkpoints import migrate
from tuner.checkpoints import remote as storing
from tuner.checkpoints.store import StudyCheckpoints
from tuner.errors import TunerError
from tuner.events import Opened
from tuner.history.fold import History

HOME = ""


@pytest.fixture(params=["folder", "object store"])
def shared(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An address for studies."""
    monkeypatch.setattr(storing, "_BETWEEN", 0.0)
    (tmp_path / "shared").mkdir()
    yield str(tmp_path / "shared") if request.param == "folder" else "memory://bucket"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """One cohort that trains, and one that has ended."""
    story = Story(tmp_path, "small", begin=False)
    story.begin()
    story.ask(range(4))
    story.start(0, [0, 1])
    story.start(1, [2, 3])
    story.end([2, 3])
    return story


def launched(story: Story, storage: str) -> list[str]:
    """What the study loop does of it at a launch; what was said."""
    said: list[str] = []
    migrate.begin(story.folder, storage, story.name, story.ledger.history(), said.append)
    body = {"host": "here", "pid": 3, **({"storage": storage} if storage else {})}
    story.tell(Opened(**body))
    return said


def contents(kept: StudyCheckpoints, cohort: int = 0) -> list[bytes]:
    return [content for _, content in kept.generations(cohort)]


def fill(kept: StudyCheckpoints) -> None:
    for cohort in (0, 1):
        for content in (b"first", b"second", b"third"):
            kept.put(cohort, content + b" %d" % cohort)


def test_what_open_cohorts_kept_is_brought_along_wherever_a_launch_keeps_it(story: Story, shared: str) -> None:
    """From home to one storage, to another, back to the first with newer ones, and home."""
    first, second = (migrate.address(shared, name, "id-of-it") for name in ("small", "other"))
    expected = [b"third 0", b"second 0"]
    fill(migrate.place(story.folder, HOME))
    assert launched(story, first) == [f"checkpoints of 1 cohort brought from the study's folder to {first}"]
    assert contents(migrate.place(story.folder, first)) == expected
    assert launched(story, first) == []
    assert launched(story, second) == [f"checkpoints of 1 cohort brought from {first} to {second}"]
    assert contents(migrate.place(story.folder, second)) == expected
    migrate.place(story.folder, second).put(0, b"fourth 0")
    launched(story, first)
    assert contents(migrate.place(story.folder, first))[:2] == [b"fourth 0", b"third 0"]
    assert launched(story, HOME) == [f"checkpoints of 1 cohort brought from {first} to the study's folder"]
    assert contents(migrate.place(story.folder, HOME))[:2] == [b"fourth 0", b"third 0"]
    assert not contents(migrate.place(story.folder, second), 1)
    assert story.ledger.history().storages == [HOME, first, second, first, HOME]


def test_what_a_cohort_kept_goes_from_the_studys_folder_when_nobody_goes_on_from_it(story: Story) -> None:
    kept = migrate.place(story.folder, HOME)
    fill(kept)
    kept.drop(1)
    kept.drop(1)
    assert contents(kept, 1) == [] and contents(kept) == [b"third 0", b"second 0"]
    assert [path.name for path in sorted((story.folder / "checkpoints").iterdir())] == [
        "000000.pt",
        "000000.pt.previous",
    ]


def test_a_storage_that_has_lost_its_checkpoints_refuses_the_next_launch(story: Story, shared: str) -> None:
    address = migrate.address(shared, "small", "id-of-it")
    launched(story, address)
    migrate.place(story.folder, address).clear()
    with pytest.raises(TunerError, match=r"expected the checkpoints of an earlier .*name another run\.storage"):
        launched(story, address)


def test_what_a_lost_storage_had_begins_anew_where_a_person_names_another(story: Story, shared: str) -> None:
    address = migrate.address(shared, "small", "id-of-it")
    launched(story, address)
    migrate.place(story.folder, address).clear()
    (said,) = launched(story, HOME)
    assert said.startswith(f"checkpoints cannot be brought from {address}, trials that had begun begin anew: ")
    assert not contents(migrate.place(story.folder, HOME))


def test_a_storage_that_cannot_be_written_to_ends_the_launch(
    story: Story, shared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    address = migrate.address(shared, "small", "id-of-it")
    monkeypatch.setattr(storing.Storage, "_write", full)
    with pytest.raises(TunerError, match=r"small-id-of-it cannot be used: No space left on device.*; mend it"):
        launched(story, address)
    assert story.ledger.history().storages == [HOME]


def test_a_complete_study_leaves_nothing_anywhere_and_says_what_it_had_to_leave(
    story: Story, shared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (migrate.address(shared, name, "id-of-it") for name in ("small", "other"))
    fill(migrate.place(story.folder, HOME))
    launched(story, first)
    launched(story, second)
    said: list[str] = []
    clear = storing.Storage.clear

    def away(self: storing.Storage) -> None:
        if self.url == first:
            raise TunerError(f"{first} cannot be used: no answer")
        clear(self)

    with monkeypatch.context() as patch:
        patch.setattr(storing.Storage, "clear", away)
        migrate.clear(story.folder, story.ledger.history(), said.append)
    assert said == [f"checkpoints are left behind: {first} cannot be used: no answer"]
    migrate.clear(story.folder, story.ledger.history(), said.append)
    assert len(said) == 1 and not (story.folder / "checkpoints").exists()
    for address in (first, second):
        files, path, _ = storing.reach(address)
        assert not files.exists(path)


def test_an_extended_study_begins_at_a_storage_that_was_cleared(story: Story, shared: str) -> None:
    address = migrate.address(shared, "small", "id-of-it")
    launched(story, address)
    story.end([0, 1])
    story.complete()
    migrate.clear(story.folder, story.ledger.history(), print)
    assert launched(story, address) == []
    migrate.place(story.folder, address).put(2, b"content")


def test_the_parts_of_a_halved_cohort_have_all_that_it_had(story: Story, shared: str) -> None:
    address = migrate.address(shared, "small", "id-of-it")
    launched(story, address)
    for storage in (HOME, address):
        kept = migrate.place(story.folder, storage)
        fill(kept)
        migrate.split(kept, 0, [5, 6])
        migrate.split(kept, 4, [7])
        assert contents(kept, 5) == contents(kept, 6) == contents(kept, 0) == [b"third 0", b"second 0"]
        assert not contents(kept, 7)


def test_launches_of_before_there_were_storages_kept_checkpoints_at_home() -> None:
    told = [Opened(host="here", pid=1, seq=n) for n in (1, 2)]
    assert History.of(told).storages == [HOME]
