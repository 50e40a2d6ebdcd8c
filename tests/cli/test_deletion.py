"""A deleted study is gone from its home, its database and MLflow; another's things, and a running study, are not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import studies
from tests.servers import PATIENCE
from tests.stores import Store
from tests.stories import Story
from tests.tracking.test_tracking_driver import crown
from tuner import deletion
from tuner.checkpoints.remote import Storage
from tuner.errors import StudyLocked, StudyMissing, TunerError
from tuner.events import Opened
from tuner.ledger import Ledger, study_folder
from tuner.ledger import studies as listed
from tuner.tracking.dashboard import SQLITE

if TYPE_CHECKING:
    from tests.postgres import Server


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def stories(tmp_path: Path, store: Store) -> Iterator[list[Story]]:
    """Two studies with a champion, in one home and one MLflow."""
    made = []
    for name in ("one", "two"):
        story = Story(tmp_path, name, trials=4).whole()
        crown(story, 0)
        story.test(0, accuracy=0.5)
        store.sync(story)
        made.append(story)
    yield made
    for story in made:
        story.ledger.close()


def run(home: Path, *words: str, expect: int) -> str:
    line = [sys.executable, "-P", "-c", "from tuner.cli import main; main()", *words, "--home", str(home)]
    how = {"capture_output": True, "text": True, "timeout": PATIENCE, "env": studies.environment()}
    done = subprocess.run(line, check=False, stdin=subprocess.DEVNULL, **how)  # type: ignore[call-overload]
    assert done.returncode == expect, done.stdout + done.stderr
    assert not done.stdout and "Traceback" not in done.stderr
    said: str = done.stderr
    return said


def test_all_that_is_kept_of_a_study_goes_and_nothing_of_another(
    stories: list[Story], store: Store, tmp_path: Path
) -> None:
    said = run(tmp_path, "delete", "one", "--yes", expect=0)
    assert "removed from MLflow: 1 version of the registered model one, 5 runs, the experiment one\n" in said
    assert listed(tmp_path) == ["two"] and not list((tmp_path / "studies").glob("*one*"))
    assert store.client.get_experiment_by_name("one") is None
    assert {model.name for model in store.client.search_registered_models()} == {"two"}
    store.assert_mirrors(stories[1])
    stranger = store.client.create_run(store.client.get_experiment_by_name("two").experiment_id)
    heard: list[str] = []
    deletion.delete(tmp_path, "two", heard.append)
    assert heard[0] == "removed from MLflow: 1 version of the registered model two, 5 runs"
    assert [one.info.run_id for one in store.runs("two")] == [stranger.info.run_id]


def test_a_study_of_that_name_begins_anew_afterwards(stories: list[Story], store: Store, tmp_path: Path) -> None:
    deletion.delete(tmp_path, "one", lambda _: None)
    again = Story(tmp_path, "one", trials=4).whole()
    store.sync(again)
    store.assert_mirrors(again)
    assert len(store.runs("one")) == 5


def test_without_a_terminal_nobody_is_asked_and_nothing_is_deleted(stories: list[Story], tmp_path: Path) -> None:
    assert "pass --yes" in run(tmp_path, "delete", "one", expect=2)
    assert "no study 'three'" in run(tmp_path, "delete", "three", "--yes", expect=2)
    assert listed(tmp_path) == ["one", "two"]


def test_a_running_study_is_refused_by_the_name_of_its_process(stories: list[Story], tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\nfrom tuner.ledger import Ledger\n"
        "with Ledger.open(pathlib.Path(sys.argv[1])) as ledger, ledger.lock():\n"
        "    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    folder = str(study_folder(tmp_path, "one"))
    driver = subprocess.Popen(
        [sys.executable, "-c", code, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert driver.stdout is not None and driver.stdout.readline() == "held\n"
        said = run(tmp_path, "delete", "one", "--yes", expect=1)
        assert f":{driver.pid} since" in said and "`tuner stop one` ends it" in said
        with pytest.raises(StudyLocked):
            deletion.delete(tmp_path, "one", lambda _: None)
    finally:
        driver.communicate("")
    assert listed(tmp_path) == ["one", "two"]


def test_where_mlflow_is_away_the_study_is_kept_unless_its_copy_may_stay(tmp_path: Path) -> None:
    with Story(tmp_path, "far", trials=4).whole().ledger as ledger:
        ledger.append([Opened(host="h", pid=1, tracking="http://127.0.0.1:9")])
    said = run(tmp_path, "delete", "far", "--yes", expect=1)
    assert "MLflow does not do it" in said and "--keep-mlflow" in said
    assert listed(tmp_path) == ["far"]
    run(tmp_path, "delete", "far", "--yes", "--keep-mlflow", expect=0)
    assert listed(tmp_path) == []


def test_what_mlflow_has_stays_where_it_is_to_be_kept(stories: list[Story], store: Store, tmp_path: Path) -> None:
    deletion.delete(tmp_path, "one", lambda _: None, keep_mlflow=True)
    assert len(store.runs("one")) == 5 and store.client.get_registered_model("one")


def test_no_store_is_made_to_delete_from(tmp_path: Path) -> None:
    Story(tmp_path, "alone", trials=4).whole().ledger.close()
    heard: list[str] = []
    deletion.delete(tmp_path, "alone", heard.append)
    assert heard[0] == "removed from MLflow: nothing, it had nothing of this study"
    assert not (tmp_path / "mlflow").exists()


def test_checkpoints_at_a_storage_go_with_it(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/shared/far-1"
    (tmp_path / "shared").mkdir()
    storage = Storage(url)
    storage.begin({"study": "far"}, known=False)
    storage.put(0, b"state")
    with Story(tmp_path, "far", trials=4).ledger as ledger:
        ledger.append([Opened(host="h", pid=1, tracking="off", storage=url)])
    heard: list[str] = []
    deletion.delete(tmp_path, "far", heard.append)
    assert heard == [f"removed its checkpoints at {url}", f"removed {study_folder(tmp_path, 'far')}"]
    assert not list((tmp_path / "shared").iterdir())


def test_the_rows_of_a_database_go_with_it_and_others_stay(
    postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNER_LEDGER", postgres.fresh())
    for name in ("one", "two"):
        Story(tmp_path, name, trials=4).whole().ledger.close()
    heard: list[str] = []
    deletion.delete(tmp_path, "one", heard.append, keep_mlflow=True)
    assert heard[0].startswith("removed its events from the PostgreSQL database")
    assert listed(tmp_path) == ["two"]
    with pytest.raises(StudyMissing):
        Ledger.open(study_folder(tmp_path, "one"))
    with Ledger.open(study_folder(tmp_path, "two"), read_only=True) as ledger:
        assert len(ledger.history().trials) == 4
    import psycopg

    with psycopg.connect(os.environ["TUNER_LEDGER"]) as connection:
        left = connection.execute("SELECT DISTINCT split_part(key, '/', 2) FROM tuner_meta WHERE key LIKE '%/%'")
        assert len(left.fetchall()) == 1, "of one study there are digests"
    with Story(tmp_path, "one", trials=2).ledger as ledger:
        assert not ledger.history().trials


def test_a_study_that_somebody_writes_to_mlflow_is_kept(stories: list[Story], store: Store, tmp_path: Path) -> None:
    tracker = store.track(stories[0])
    try:
        tracker.cycle()
        with pytest.raises(TunerError, match="another process writes study one to MLflow"):
            deletion.delete(tmp_path, "one", lambda _: None)
    finally:
        tracker.close()
    assert listed(tmp_path) == ["one", "two"] and store.uri.startswith(SQLITE)
