"""A home that was moved or copied keeps its artifacts: in MLflow, and for what uses the champion."""

from __future__ import annotations

import csv
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests import studies
from tests.forks import Run
from tests.servers import PATIENCE
from tests.stores import Store
from tests.stories import Story
from tuner.tracking.dashboard import uri_of
from tuner.tracking.relocation import relocate
from tuner.tracking.writer import Writer


def paths(home: Path) -> set[str]:
    """Every place of artifacts that the store names, but for MLflow's own empty experiment."""
    with sqlite3.connect(home / "mlflow" / "mlflow.db") as database:
        found = database.execute(
            "SELECT artifact_location FROM experiments WHERE name != 'Default' UNION SELECT artifact_uri FROM runs "
            "UNION SELECT artifact_location FROM logged_models UNION SELECT source FROM model_versions "
            "UNION SELECT storage_location FROM model_versions"
        )
        places = {place for (place,) in found}
    database.close()
    return places


def adopt(home: Path) -> int:
    return relocate(home / "mlflow" / "mlflow.db", home / "mlflow" / "artifacts")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with one study in MLflow; blanks and signs in its path."""
    found = tmp_path / "a home, 100% mine"
    store, story = Store(found), Story(found, "moved").whole()
    store.sync(story)
    story.ledger.close()
    return found


@pytest.mark.parametrize("copied", [False, True])
def test_a_home_elsewhere_finds_its_own_artifacts_and_a_copy_leaves_the_original_alone(
    copied: bool, home: Path, tmp_path: Path
) -> None:
    there = tmp_path / "elsewhere" / "it's there"
    before = paths(home)
    shutil.copytree(home, there) if copied else (there.parent.mkdir(), home.rename(there))
    assert adopt(there) == 1
    assert paths(there) == {place.replace(home.as_uri(), there.as_uri()) for place in before}
    assert adopt(there) == 0
    if copied:
        assert paths(home) == before
        shutil.rmtree(home)
    store = Store(there)
    text = store.client.download_artifacts(store.parent("moved").info.run_id, "study.yaml", str(tmp_path))
    assert Path(text).read_text() == "study: moved\n"


def test_a_sync_writes_where_the_home_is(home: Path, tmp_path: Path) -> None:
    there = home.rename(tmp_path / "there")
    story = Story(there, "moved", begin=False)
    story.extend(5)
    with Writer(story.folder, there, "embedded", once=True) as writer:  # a process of its own: MLflow remembers places
        said = writer.wait()
    assert said is not None and said["error"] is None
    assert all(place.startswith(there.as_uri()) for place in paths(there))
    assert not home.exists()


def test_artifacts_that_are_kept_elsewhere_or_under_another_name_stay_where_they_are(
    home: Path, tmp_path: Path
) -> None:
    alias = tmp_path / "alias"
    alias.symlink_to(home)
    assert adopt(alias) == 0, "the same folder by another name"
    bucket = "s3://bucket/artifacts/moved"
    own = (tmp_path / "kept" / "moved").as_uri()
    for place in (bucket, own):
        with sqlite3.connect(home / "mlflow" / "mlflow.db") as database:
            database.execute("UPDATE experiments SET artifact_location = ? WHERE name = 'moved'", (place,))
        database.close()
        assert adopt(home) == 0
        assert place in paths(home)
    assert relocate(tmp_path / "nothing.db", tmp_path) == 0


@pytest.mark.slow
def test_the_champion_of_a_moved_home_predicts_and_loads_and_the_dashboard_shows_its_artifacts(
    tmp_path: Path, run: Run
) -> None:
    from urllib.request import urlopen

    import mlflow.pyfunc
    from sklearn.datasets import load_breast_cancer

    home, there = tmp_path / "home", tmp_path / "there"
    written = studies.study(search={"trials": 2}, train={"epochs": 2}, tracking={"mlflow": "embedded"})
    run(studies.write(tmp_path, written), home)
    home.rename(there)
    command = [sys.executable, "-P", "-c", "from tuner.cli import main; main()"]
    rows = tmp_path / "rows.csv"
    table = load_breast_cancer(as_frame=True).data.head(3)
    table.to_csv(rows, index=False)
    ran = subprocess.run(
        [*command, "predict", "small", str(rows), "--home", str(there)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert len(list(csv.DictReader(ran.stdout.splitlines()))) == 3
    ui = subprocess.Popen([*command, "ui", "small", "--home", str(there)], stdout=subprocess.PIPE, text=True)
    assert ui.stdout is not None
    try:
        base = ui.stdout.readline().split("/#/")[0]
        parent = next(one for one in Store(there).runs("small") if "mlflow.parentRunId" not in one.data.tags)
        with urlopen(f"{base}/get-artifact?path=study.yaml&run_uuid={parent.info.run_id}") as answer:
            assert b"small" in answer.read()
    finally:
        ui.terminate()
        ui.communicate(timeout=PATIENCE)
    mlflow.set_tracking_uri(uri_of("embedded", there)[0])
    try:
        assert len(mlflow.pyfunc.load_model("models:/small@champion").predict(table)) == 3
    finally:
        mlflow.set_tracking_uri(None)
