"""What the end of a study needs is imported while it trains, and never when Python shuts down."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import studies
from tests.study.test_study import launch
from tuner import startup
from tuner.study.loop import StudyLoop


@pytest.fixture
def importing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An import that goes on until somebody waits for it; the thread that does it."""
    awaited = threading.Event()
    found: list[threading.Thread] = []

    class Thread(threading.Thread):
        def __init__(self, **named: Any) -> None:
            super().__init__(**named)
            found.append(self)

        def join(self, timeout: float | None = None) -> None:
            awaited.set()
            super().join(timeout)

    monkeypatch.setattr(startup, "threading", SimpleNamespace(Thread=Thread))
    monkeypatch.setattr(startup, "importlib", SimpleNamespace(import_module=lambda _: awaited.wait(60)))
    yield found
    awaited.set()
    for thread in found:
        threading.Thread.join(thread)


def raises(driver: StudyLoop, *_: Any) -> bool:
    driver._session.ahead.begin()
    raise RuntimeError("of the machine")


def stops(driver: StudyLoop, *_: Any) -> bool:
    driver._session.ahead.begin()
    return False


@pytest.mark.parametrize("end", [raises, stops])
def test_a_study_without_a_winner_waits_for_what_was_being_imported_for_it(
    end: Any, importing: list[threading.Thread], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StudyLoop, "run", end)
    if end is raises:
        with pytest.raises(RuntimeError, match="of the machine"):
            launch(tmp_path, studies.study())
    else:
        assert launch(tmp_path, studies.study())[0].state == "interrupted"
    (thread,) = importing
    assert not thread.is_alive()


def test_nobody_waits_where_nothing_was_begun(importing: list[threading.Thread]) -> None:
    with startup.ImportAhead(["pandas"]).finished():
        pass
    assert importing == []


def test_a_module_that_is_not_there_is_passed_over() -> None:
    code = (
        "import sys\n"
        "from tuner.startup import ImportAhead\n"
        "ImportAhead(['torch.export._gone', 'pandas']).wait()\n"
        "print('pandas' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_a_process_may_end_in_the_middle_of_it() -> None:
    code = (
        "from tuner.startup import ImportAhead\n"
        "ahead = ImportAhead(['torch.export._trace', 'pandas'])\n"
        "with ahead.finished():\n    ahead.begin()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert (done.stdout, done.stderr) == ("", "")
