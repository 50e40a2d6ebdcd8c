"""The process that begins to import MLflow before it is known what it will write."""

from __future__ import annotations

from pathlib import Path

import pytest

import tuner
from tests import studies
from tests.stores import Store
from tuner.terminal.progress import PlainProgress
from tuner.tracking.dashboard import OFF
from tuner.tracking.standby import Standby
from tuner.tracking.writer import Writer


def test_who_stands_by_ends_without_a_trace_where_there_is_no_study(tmp_path: Path) -> None:
    with Standby() as standby:
        process = standby.take()
        assert process is not None
        process.communicate()  # as when the launch dies
        assert process.returncode == 0
    with Standby() as standby:
        assert Writer(tmp_path / "one", tmp_path, OFF, standby=standby).wait() is None
        assert standby.take() is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "overrides", "begins"),
    [
        ("tracking: {mlflow: embedded}", [], True),
        ("", [], True),
        ("tracking: {mlflow: off}", [], False),
        ('{"tracking": {"mlflow": "off"}}', [], False),
        ("tracking:\n  mlflow:   'off'", [], False),
        ("study: a", ["tracking.mlflow=off"], False),
        ("study: offer\ntracking: {mlflow: offline.db}", [], True),
    ],
)
def test_nobody_stands_by_for_a_study_that_is_not_tracked(
    text: str, overrides: list[str], begins: bool, tmp_path: Path
) -> None:
    (tmp_path / "study.yaml").write_text(text)
    with Standby(tmp_path / "study.yaml", overrides) as standby:
        assert (standby._process is not None) is begins
    with Standby(tmp_path / "missing.yaml") as standby:
        assert standby._process is not None


@pytest.mark.usefixtures("copied_workers")
@pytest.mark.parametrize("killed", [False, True], ids=["ready", "killed"])
def test_who_stood_by_writes_the_study_and_a_new_process_where_that_has_died(killed: bool, tmp_path: Path) -> None:
    content = studies.study(search={"trials": 3}, train={"epochs": 2}, tracking={"mlflow": "embedded"})
    with Standby() as standby:
        process = standby._process
        assert process is not None
        if killed:
            process.kill()
            process.wait()
        path = studies.write(tmp_path, content)
        study = tuner.launch(path, home=tmp_path, progress=PlainProgress(), standby=standby)
        assert process.poll() == (-9 if killed else 0)
    assert study.tracking is not None and study.tracking["error"] is None
    Store(tmp_path).assert_equals("small", study.history)
