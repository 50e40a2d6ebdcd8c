"""Data larger than memory: mapped from a cache, with the numbers that they would have in memory, to the bit."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests import zoo
from tests.data.test_data_kinds import photos
from tuner.data import Dataset, batches, load, streams
from tuner.errors import DataError
from tuner.training.config import TrainConfig
from tuner.training.loop import Training
from tuner.training.task import Row, Task
from tuner.workloads.base import Epoch
from tuner.workloads.network.runner import arrays

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.set_num_threads(1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(rows: int = 9_000, columns: int = 3) -> None:
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({f"c{i}": draw.normal(i, 2, rows) for i in range(columns)})
    frame.loc[frame.index % 7 == 0, "c1"] = np.nan
    frame["kind"] = draw.choice(["a", "b", "c"], rows)
    frame["whole"] = draw.integers(0, 9, rows)
    frame.assign(y=np.where(frame["c0"] > 0, "yes", "no")).to_parquet("t.parquet")


SOURCES: dict[str, dict[str, Any]] = {
    "parquet": {"source": "t.parquet", "target": "y"},
    "pictures": {"source": "photos", "size": 9},
}


@pytest.fixture(params=SOURCES)
def both(request: pytest.FixtureRequest) -> tuple[Dataset, Dataset]:
    """(held in memory, mapped)"""
    table() if request.param == "parquet" else photos(Path("photos"), each=40)
    arguments = SOURCES[request.param]
    return load(**arguments), load(**arguments, memory=0)


def test_mapped_data_are_equal_to_the_bit_to_what_they_are_in_memory(both: tuple[Dataset, Dataset]) -> None:
    held, mapped = both
    assert not isinstance(held.train.inputs, np.memmap)
    assert held.preprocess == mapped.preprocess
    assert (held.digest, held.split_digest, held.signature) == (mapped.digest, mapped.split_digest, mapped.signature)
    for one, other in ((held.train, mapped.train), (held.validation, mapped.validation)):
        assert isinstance(other.inputs, np.memmap)
        assert one.inputs.tobytes() == other.inputs.tobytes()
        np.testing.assert_array_equal(one.targets, other.targets)
    test, sealed = held.open_test(), mapped.open_test()
    assert test.inputs.tobytes() == sealed.inputs.tobytes()
    np.testing.assert_array_equal(test.rows, sealed.rows)


def curve(dataset: Dataset) -> list[Any]:
    rows = tuple(Row(n, n, {"width": 8}, TrainConfig(epochs=2, batch_size=16, learning_rate=0.01)) for n in range(2))
    task = Task(rows, "mlp", dataset.signature, True, 1, "val/accuracy", True, zoo.NAMED)
    training = Training(task, arrays(dataset, CPU))
    return [event.metrics for event in training.run() if isinstance(event, Epoch)]


def test_training_on_mapped_data_gives_the_same_numbers(both: tuple[Dataset, Dataset]) -> None:
    held, mapped = both
    assert isinstance(arrays(mapped, CPU).train_inputs, batches.Mapped)
    assert isinstance(arrays(held, CPU).train_inputs, torch.Tensor)
    assert curve(held) == curve(mapped)


@pytest.mark.parametrize("first", [0, 2, 4])
def test_batches_are_visited_in_order_from_any_step_on(first: int, place: Path) -> None:
    values = np.arange(140, dtype=np.float32).reshape(70, 2)
    np.save(place / "v.npy", values)
    mapped = batches.place(np.load(place / "v.npy", mmap_mode="c"), CPU)
    order = batches.order(1, 16, 0, 70)
    found, plain = (list(batches.visit(one, order, 16, first)) for one in (mapped, torch.from_numpy(values)))
    assert len(found) == batches.steps(70, 16) - first
    for (rows, x), (wanted,) in zip(found, plain, strict=True):
        assert torch.equal(rows, wanted)
        assert torch.equal(x, torch.from_numpy(values)[rows])


def test_a_visit_that_is_given_up_leaves_no_thread(place: Path) -> None:
    import threading

    np.save(place / "v.npy", np.zeros((70, 2), np.float32))
    mapped = batches.place(np.load(place / "v.npy", mmap_mode="c"), CPU)
    before = threading.active_count()
    visit = batches.visit(mapped, batches.order(1, 16, 0, 70), 16, 0)
    next(visit)
    visit.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_a_mapped_table_takes_a_fraction_of_its_size_in_memory(place: Path) -> None:
    """40 columns of 60,000 rows are 19 MB as read and 10 MB as trained on; numpy's own memory is traced."""
    rows, columns = 60_000, 40
    draw = np.random.default_rng(0)
    frame = pd.DataFrame(draw.normal(size=(rows, columns)), columns=[f"c{i}" for i in range(columns)])
    frame.assign(y=frame["c0"] > 0).to_parquet("wide.parquet")
    del frame
    load("wide.parquet", target="y", memory=0)  # imports, and fills the cache
    for path in (place / "cache").rglob("*.npy"):
        path.unlink()
    tracemalloc.start()
    load("wide.parquet", target="y", memory=0)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < rows * columns * 8 * 0.6, most


def test_the_cache_is_written_once_and_again_when_the_source_changes(place: Path) -> None:
    table(500)
    load("t.parquet", target="y", memory=0)
    first = {path: path.stat().st_mtime_ns for path in streams.cache().iterdir()}
    assert len(first) == 3  # the numbers, training, validation
    load("t.parquet", target="y", memory=0)
    assert {path: path.stat().st_mtime_ns for path in streams.cache().iterdir()} == first
    table(600)
    held, mapped = load("t.parquet", target="y"), load("t.parquet", target="y", memory=0)
    assert held.train.inputs.tobytes() == mapped.train.inputs.tobytes()
    assert len(list(streams.cache().iterdir())) == 6


def test_no_room_for_the_cache_is_told(place: Path) -> None:
    table(500)
    (place / "cache").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"expected room for .* GiB .*; set XDG_CACHE_HOME to a larger disk"):
        load("t.parquet", target="y", memory=0)


def test_memory_changes_no_number_and_so_not_the_studys_digest(place: Path) -> None:
    from tuner.spec import StudySpec

    def spec(**data: Any) -> StudySpec:
        return StudySpec(
            study="s",
            data={"source": "digits", **data},
            model={"family": "mlp"},
            search={
                "space": {"learning_rate": {"type": "float", "low": 0.01, "high": 0.1}},
                "objective": {"metric": "val/accuracy", "goal": "maximize"},
                "trials": 2,
            },
        )

    assert spec(memory=3.5).digest == spec().digest
    assert spec(memory=3.5).data.memory == 3.5


def test_what_is_left_of_a_writer_that_died_is_no_array(place: Path) -> None:
    table(500)
    streams.cache().mkdir(parents=True)

    def dies(out: np.ndarray) -> None:
        raise RuntimeError("died")

    with pytest.raises(RuntimeError, match="died"):
        streams.mapped("key", (3,), np.float64, dies)
    assert list(streams.cache().iterdir()) == []
