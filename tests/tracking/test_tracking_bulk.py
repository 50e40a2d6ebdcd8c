"""Runs written in bulk are those that MLflow's client would have written, row by row, whatever dies or is deleted."""

from __future__ import annotations

import math
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tests.servers import PATIENCE
from tests.stores import Store, drain
from tests.stories import Story, instalments
from tuner.tracking import sql_writer
from tuner.tracking.client_writer import ClientWriter, RunWriter
from tuner.tracking.projection import Point
from tuner.tracking.sql_writer import SqlWriter, writer_for
from tuner.tracking.sqlite_store import close
from tuner.tracking.sync import Tracker

FORMS: dict[str, Callable[[MlflowClient], RunWriter]] = {"bulk": writer_for, "client": ClientWriter}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("home"))


def engine(store: Store) -> sa.Engine:
    found = store.client._tracking_client.store.engine
    assert isinstance(found, sa.Engine)
    return found


# --- the same as by the client ---------------------------------------------------------------------


def tables(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table of a store, with names in the places of ids, and no times but those of the ledger."""
    with sqlite3.connect(folder / "mlflow" / "mlflow.db") as database:
        names = dict(database.execute("SELECT run_uuid, name FROM runs"))
        ids = {str(key): "an input" for (key,) in database.execute("SELECT input_uuid FROM inputs")}
        ids |= {str(key): "a dataset" for (key,) in database.execute("SELECT dataset_uuid FROM datasets")}
        told = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]

        def plain(value: object) -> object:
            if isinstance(value, str):
                for key, name in {**names, **ids, str(folder): "HOME"}.items():
                    value = value.replace(key, name)
            return value

        found = {}
        for table in told:
            columns = [name for _, name, *_ in database.execute(f"PRAGMA table_info({table})")]
            kept = [place for place, name in enumerate(columns) if name not in {"creation_time", "last_update_time"}]
            rows = [tuple(plain(row[place]) for place in kept) for row in database.execute(f"SELECT * FROM {table}")]
            found[table] = sorted(rows, key=repr)
    database.close()
    return found


def chapters(story: Story) -> Iterator[None]:
    """A study with everything in it, told in pieces between which MLflow is written."""
    story.ask(range(4))
    story.start(0, [0, 2])
    yield
    story.report(1, [0, 2])
    story.start(1, [1, 3])
    yield
    story.report(2, [0, 2])
    story.report(1, [1, 3])
    story.end([0, 2])
    story.interrupt()
    yield
    story.start(1, [1, 3], attempt=2, epoch=1)
    story.report(2, [1, 3])
    yield
    story.end([1, 3])
    story.test(0, accuracy=0.5)
    story.complete()
    yield
    story.extend(5)
    story.ask([4])
    story.start(2, [4])
    story.report(1, [4])
    story.end([4])
    story.test(0, accuracy=0.5)
    story.complete()
    yield


def test_both_ways_of_writing_a_study_leave_the_same_rows_in_every_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tracker, "_take_lock", lambda _: True)  # both at once
    story = Story(tmp_path, "both-ways")
    trackers = {}
    for form in FORMS:
        trackers[form] = Store(tmp_path / form).track(story)
    for number, _ in enumerate(chapters(story)):
        with story.ledger.lock() if number % 2 == 0 else nullcontext():
            for form, tracker in trackers.items():
                with monkeypatch.context() as patched:
                    patched.setattr("tuner.tracking.sync.writer_for", FORMS[form])
                    assert tracker.cycle().error is None
        found = {form: tables(tmp_path / form) for form in FORMS}
        assert found["bulk"] == found["client"]
    assert type(trackers["bulk"]._writer) is SqlWriter
    assert type(trackers["client"]._writer) is ClientWriter
    counts = {name: len(rows) for name, rows in found["bulk"].items()}
    assert counts["runs"] == 6
    assert min(counts[name] for name in ("metrics", "latest_metrics", "params", "tags", "inputs")) > 0
    for tracker in trackers.values():
        tracker.close()


CURVE = [
    [Point("loss", 0.5, 1_000, 1), Point("loss", 0.25, 2_000, 2), Point("other", -0.0, 1_000, 0)],
    [Point("loss", 0.5, 1_000, 1), Point("loss", 0.25, 2_000, 2)],  # again
    [Point("loss", 0.75, 2_000, 2), Point("loss", 0.125, 2_000, 2)],  # of the same step and time
    [Point("diverging", math.inf, 1_000, 1), Point("diverging", -math.inf, 1_000, 1)],
    [Point("other", math.nan, 1_000, 0), Point("other", math.nan, 1_000, 0)],  # kept as 0, which is there already
    [Point("other", math.nan, 1_000, 3), Point("other", 0.0, 1_000, 3), Point("other", -1.0, 1_000, 3)],
    [Point("loss", 9.0, 9_000, 1)],  # later, of an earlier step: never the latest
]


def write(client: MlflowClient, writer: RunWriter, name: str, separately: bool) -> str:
    """Two nested runs with all that is unusual; the child's id."""
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name)
    parent = writer.create(experiment, "parent", 1, {"own": "yes"})
    child = writer.create(experiment, "child", 2, {"mlflow.parentRunId": parent.id})
    for number, points in enumerate(CURVE):
        writer.log(child, points, {"number": str(number), "long": "t" * 9_000}, {f"p{number}": "x" * 7_000})
        writer.settle(child, ("KILLED", "RUNNING", "FINISHED", "FAILED")[number % 4], 100 + number)
        if separately:
            writer.flush()
    writer.log(parent, (), {}, {"a/b c.d-e_f": "", "again": "1"})
    writer.flush()
    writer.log(parent, (), {"own": "no"}, {"again": "1"})
    writer.flush()
    return child.id


@pytest.mark.parametrize("separately", [True, False])
def test_unusual_values_come_to_rest_as_the_client_leaves_them(tmp_path: Path, separately: bool) -> None:
    for form, writer in FORMS.items():
        client = Store(tmp_path / form).client
        write(client, writer(client), "unusual", separately)
    assert tables(tmp_path / "bulk") == tables(tmp_path / "client")


def test_an_mlflow_client_reads_what_was_written_in_bulk(store: Store) -> None:
    client = store.client
    child = write(client, writer_for(client), "read", separately=False)
    run = client.get_run(child)
    (parent,) = client.search_runs([run.info.experiment_id], "tags.own = 'no'")
    (found,) = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert found.info.run_id == child
    assert (run.info.run_name, run.info.status, run.info.start_time, run.info.end_time) == ("child", "FINISHED", 2, 106)
    assert (run.info.lifecycle_stage, run.info.user_id) == ("active", "unknown")
    assert run.info.artifact_uri.endswith(f"/{child}/artifacts")
    assert run.data.metrics["loss"] == 0.75, "the highest of step 2"
    assert run.data.metrics["diverging"] == pytest.approx(1.797e308, rel=1e-3), "as near to infinity as SQL comes"
    assert math.isnan(run.data.metrics["other"])
    history = [(point.step, point.value) for point in client.get_metric_history(child, "loss")]
    assert sorted(history) == [(1, 0.5), (1, 9.0), (2, 0.125), (2, 0.25), (2, 0.75)]
    assert run.data.tags["long"] == "t" * 8_000
    assert run.data.params["p0"] == "x" * 6_000
    assert parent.data.params == {"a/b c.d-e_f": "", "again": "1"}
    ordered = client.search_runs([run.info.experiment_id], order_by=["metrics.loss DESC"])
    assert ordered[0].info.run_id == child


@pytest.mark.parametrize(
    ("points", "tags", "params"),
    [
        ([Point("a$b", 0.5, 1, 1)], {}, {}),
        ([Point("m" * 251, 0.5, 1, 1)], {}, {}),
        ([Point("m", 0.5, -1, 1)], {}, {}),
        ([], {"t" * 251: ""}, {}),
        ([], {"../t": ""}, {}),
        ([], {}, {"p" * 251: ""}),
        ([], {}, {"p;q": ""}),
    ],
)
def test_what_the_client_refuses_is_refused_in_its_words(store: Store, points: Any, tags: Any, params: Any) -> None:
    client = store.client
    run = client.create_run("0").info.run_id
    said = []
    for form in FORMS.values():
        writer = form(client)
        with pytest.raises(MlflowException) as refused:
            writer.log(sql_writer.Written(run), points, tags, params)
        said.append(str(refused.value).replace("metrics[0].", "").replace("params[0].", "").replace("tags[0].", ""))
    assert said[0] == said[1]


def test_sqlite_is_written_in_bulk_and_a_server_through_the_client(store: Store) -> None:
    assert type(writer_for(store.client)) is SqlWriter
    assert type(writer_for(MlflowClient("http://127.0.0.1:9"))) is ClientWriter


@pytest.mark.parametrize("lost", ["client", "module", *sql_writer._RULES])
def test_without_mlflows_private_interfaces_runs_are_written_through_the_client(
    store: Store, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    client: Any = store.client
    if lost == "client":
        client = SimpleNamespace()
    elif lost == "module":
        monkeypatch.setitem(sys.modules, "mlflow.utils.validation", None)
        monkeypatch.delattr("mlflow.utils.validation")
    else:
        monkeypatch.setattr(f"mlflow.utils.validation.{lost}", lambda value: value)
    sql_writer._strange.cache_clear()
    try:
        assert type(writer_for(client)) is ClientWriter
    finally:
        sql_writer._strange.cache_clear()


@pytest.mark.parametrize("table", sql_writer._KNOWN)
def test_unknown_columns_send_a_study_through_the_client_and_that_is_said_once(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], table: str
) -> None:
    monkeypatch.setitem(sql_writer._KNOWN, table, sql_writer._KNOWN[table] | {"colour"})
    sql_writer._strange.cache_clear()
    try:
        story = Story(tmp_path, f"other-{table}").whole()
        for _ in range(2):
            tracker = store.track(story)
            drain(tracker)
            assert type(tracker._writer) is ClientWriter
            tracker.close()
    finally:
        sql_writer._strange.cache_clear()
    store.assert_mirrors(story)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("MLflow ")]
    assert len(said) == 1
    assert f"({table}): runs are written by its client" in said[0]


# --- one transaction -------------------------------------------------------------------------------


@contextmanager
def watching(at: sa.Engine, moment: str, act: Callable[[int], object]) -> Iterator[list[str]]:
    """Every statement and commit of the engine; `act` is told their number before or after each is carried out."""
    seen: list[str] = []

    def count(what: str) -> None:
        seen.append(what)
        act(len(seen))

    def execute(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        count(statement)

    def commit(_connection: Any) -> None:
        count("COMMIT")

    sa.event.listen(at, f"{moment}_cursor_execute", execute)
    sa.event.listen(at, "commit", commit)
    try:
        yield seen
    finally:
        sa.event.remove(at, f"{moment}_cursor_execute", execute)
        sa.event.remove(at, "commit", commit)


def die(store: Store, story: Story, number: int, moment: str) -> bool:
    """Let a process of its own write what there is and die at one of its statements; whether it came to that."""
    close()  # SQLite's connections must not be taken into another process
    engine(store).dispose()
    process = os.fork()
    if not process:
        signal.alarm(int(PATIENCE))
        with watching(engine(store), moment, lambda n: n == number and os._exit(9)):
            store.sync(story)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert code in (0, 9)
    return code == 9


def deaths(store: Store, folder: Path, number: int, moment: str) -> int:
    """Write a short study by processes that die at their `number`-th statement; how many have died."""
    story = Story(folder, f"{folder.name}-dies-{number}-{moment}", trials=2)
    died = 0
    for _ in instalments(story):
        died += die(store, story, number, moment)
        store.sync(story)
    store.assert_mirrors(story)
    return died


def fault(store: Store, folder: Path, number: int, moment: str) -> bool:
    """Write a short study by one process, one of whose statements fails; whether there were as many."""

    def fail(at: int) -> None:
        if at == number:
            raise OSError("the disk is gone")

    story = Story(folder, f"{folder.name}-fails-{number}-{moment}", trials=2)
    tracker = store.track(story)
    with watching(engine(store), moment, fail) as seen:
        for _ in instalments(story):
            for _ in range(4):
                tracker.cycle()
                if tracker.drained:
                    break
    tracker.close()
    store.assert_mirrors(story)
    return len(seen) >= number


@pytest.mark.parametrize("moment", ["before", pytest.param("after", marks=pytest.mark.slow)])
def test_a_death_at_some_statements_adds_nothing_twice_and_misses_nothing(
    store: Store, tmp_path: Path, moment: str
) -> None:
    number = 4 if moment == "before" else 1
    while deaths(store, tmp_path, number, moment):
        number += 9
    assert number > 30, "the study was too short to be a test"


def test_a_fault_at_some_statements_adds_nothing_twice_and_misses_nothing(store: Store, tmp_path: Path) -> None:
    number = 1
    while fault(store, tmp_path, number, "before" if number % 2 else "after"):
        number += 9
    assert number > 60


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("ends", [deaths, fault])
def test_an_end_at_any_statement_adds_nothing_twice_and_misses_nothing(
    store: Store, tmp_path: Path, moment: str, ends: Callable[[Store, Path, int, str], int]
) -> None:
    number = 1
    while ends(store, tmp_path, number, moment):
        number += 1
    assert number > 30


@pytest.mark.slow
def test_a_cycle_that_dies_leaves_no_part_of_it_and_one_that_ends_leaves_it_all(tmp_path: Path) -> None:
    store, story = Store(tmp_path), Story(tmp_path, "whole-or-not", trials=2)
    story.ask([0, 1])
    story.start(0, [0, 1])
    store.sync(story)
    before, number = tables(tmp_path), 1
    story.report(1, [0, 1])
    story.end([0])
    while die(store, story, number, "after"):
        assert tables(tmp_path) == before
        number += 1
    assert number > 10
    assert tables(tmp_path)["metrics"] != before["metrics"]
    assert store.parent("whole-or-not").data.tags["tuner.cursor"] == str(story.ledger.last())


def test_nothing_is_asked_of_the_store_where_nothing_is_new(store: Store, tmp_path: Path) -> None:
    story = Story(tmp_path, "quiet").whole()
    tracker = store.track(story)
    drain(tracker)
    with watching(engine(store), "before", id) as seen:
        for _ in range(3):
            assert tracker.cycle().error is None
    assert seen == []
    tracker.close()


def test_a_cycle_is_one_transaction_however_many_trials_it_is_about(store: Store, tmp_path: Path) -> None:
    counts = []
    for trials in (2, 40):
        story = Story(tmp_path, f"trials-{trials}", trials=trials)
        story.ask(range(trials))
        tracker = store.track(story)
        drain(tracker)
        story.start(0, range(trials))
        story.report(1, range(trials))
        story.end(range(trials))
        with watching(engine(store), "before", id) as seen:
            assert tracker.cycle().error is None
        assert seen.count("COMMIT") == 1
        counts.append(len(seen))
        tracker.close()
    assert counts[0] == counts[1] < 15


# --- what people do meanwhile ----------------------------------------------------------------------


@pytest.mark.parametrize("gone", ["child", "parent", "experiment"])
def test_what_a_person_deletes_while_it_is_written_comes_back(store: Store, tmp_path: Path, gone: str) -> None:
    story = Story(tmp_path, f"deleted-{gone}")
    tell = chapters(story)
    tracker = store.track(story)
    for _ in range(2):
        next(tell)
        assert tracker.cycle().error is None
    parent = store.parent(story.name)
    if gone == "child":
        store.client.delete_run(store.children(story.name)[0].info.run_id)
    elif gone == "parent":
        store.client.delete_run(parent.info.run_id)
    else:
        store.client.delete_experiment(parent.info.experiment_id)
    next(tell)
    progress = tracker.cycle()
    assert progress.error is not None
    assert "deleted while" in progress.error
    for _ in tell:
        pass
    drain(tracker)
    tracker.close()
    store.assert_mirrors(story)


def test_a_run_that_a_person_restores_beside_its_successor_is_taken_away(store: Store, tmp_path: Path) -> None:
    story = Story(tmp_path, "twins").whole()
    store.sync(story)
    first = store.children("twins")[2].info.run_id
    store.client.delete_run(first)
    store.sync(story)
    store.client.restore_run(first)
    store.sync(story)
    store.assert_mirrors(story)
