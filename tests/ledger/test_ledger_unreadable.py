"""A ledger that cannot be read: cut off, no database, of a newer format. One plain line, exit code 2, no harm."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import studies
from tests.events import asked
from tuner import cli
from tuner.errors import LedgerDamaged
from tuner.events import Failed
from tuner.ledger import FORMAT, Ledger, study_folder

REPORT = {"metrics": {"a": "b"}, "seconds": 1}
CREATED = {"spec": {"a": 1}, "digest": 1, "text": 2, "id": 3, "data": 4}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tuner(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["tuner", *arguments, "--home", str(tmp_path)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        seen = capsys.readouterr()
        return int(ended.value.code or 0), seen.out, seen.err

    return run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of a ledger of a few hundred events."""
    folder = study_folder(tmp_path, "small")
    with Ledger.create(folder) as ledger, ledger.lock():
        ledger.append([asked(n, rate=n / 100) for n in range(300)])
        ledger.append([Failed(n, message="x" * 80) for n in range(300)])
    assert (folder / "ledger.db").stat().st_size > 10 * 4096
    return folder / "ledger.db"


def execute(path: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(statement)


def refused(tuner: Run, path: Path) -> str:
    """What `status` says, and a launch finds too; the file is left as it is."""
    before = path.read_bytes()
    code, out, err = tuner("status", "small")
    assert (code, "Traceback" in err) == (2, False)
    assert str(path) in err
    with pytest.raises(LedgerDamaged), Ledger.create(path.parent, print) as ledger, ledger.lock():
        ledger.checked(accept_loss=False, tell=print)
    assert path.read_bytes() == before
    return out + err


@pytest.mark.parametrize("left", [0, 1, 15, 16, 50, 99, 100, 511, 512, 4095, 4096, 5000, 8192, 20480, -4096, -100, -1])
def test_a_file_that_is_cut_off_is_told(tuner: Run, path: Path, left: int) -> None:
    path.write_bytes(path.read_bytes()[:left])
    assert "backup" in refused(tuner, path)


@pytest.mark.parametrize("content", [b"\0" * 8192, b"study: small\n" * 900, b"SQLite format 3\0" + b"\xff" * 9000])
def test_a_file_that_is_no_database_is_told(tuner: Run, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert "backup" in refused(tuner, path)


@pytest.mark.parametrize("format_", [FORMAT + 1, 99])
def test_a_newer_format_is_told(tuner: Run, path: Path, format_: int) -> None:
    execute(path, f"UPDATE meta SET value = '{format_}' WHERE key = 'format'")
    said = refused(tuner, path)
    assert f"written in format {format_}, this Tuner reads up to {FORMAT}; install a newer Tuner" in said


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE events",
        "DROP TABLE meta",
        "DELETE FROM meta WHERE key = 'format'",
        "UPDATE meta SET value = 'one' WHERE key = 'format'",
        "ALTER TABLE events DROP COLUMN body",
        "UPDATE events SET kind = 'dreamt' WHERE seq = 7",
        "UPDATE events SET body = '[]' WHERE seq = 7",
        "UPDATE events SET body = '{}' WHERE seq = 7",
        "UPDATE events SET body = x'ff00' WHERE seq = 7",
        "UPDATE events SET time = 'noon' WHERE seq = 600",
        "UPDATE events SET trial = 'first' WHERE seq = 400",
        "UPDATE events SET kind = 'opened', trial = NULL, body = '[1]' WHERE seq = 600",
        f"UPDATE events SET kind = 'reported', epoch = 1, body = '{json.dumps(REPORT)}' WHERE seq = 301",
        f"UPDATE events SET kind = 'created', trial = NULL, body = '{json.dumps(CREATED)}' WHERE seq = 600",
    ],
)
def test_tables_and_events_that_are_no_tuner_s_are_told(tuner: Run, path: Path, statement: str) -> None:
    execute(path, statement)
    refused(tuner, path)


def test_a_launch_tells_it_too_and_makes_nothing(tmp_path: Path, path: Path) -> None:
    path.write_bytes(b"no database at all")
    (path.parent / "ledger.head").unlink()
    before = sorted(path.parent.iterdir())
    said = studies.run(studies.write(tmp_path, studies.study()), tmp_path, expect=2)
    assert "the file is no ledger" in said
    assert "Traceback" not in said
    assert sorted(path.parent.iterdir()) == before


def test_all_studies_are_listed_with_the_unreadable_one(tuner: Run, tmp_path: Path, path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])
    Ledger.create(study_folder(tmp_path, "other")).close()
    code, out, _ = tuner("status", "-o", "json")
    assert (code, [(row["study"], row["state"]) for row in json.loads(out)]) == (
        2,
        [("other", "interrupted"), ("small", "unreadable")],
    )
