"""The dashboard as a person sees it: the link that `tuner ui` prints, in a real browser without a screen."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import studies
from tests.forks import Run
from tests.servers import PATIENCE

if TYPE_CHECKING:
    from playwright.sync_api import Page

TRIALS = 8
PLACE = "link => link.closest('.ag-row').getAttribute('row-index')"  # the grid draws its rows in any order


@pytest.fixture
def page() -> Iterator[Page]:
    """A window of a browser; where there is none the test is skipped, and says what to install."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("no playwright here, which drives a browser: pip install -c constraints.txt -e '.[browser]'")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium here: apt install chromium, or Google Chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        window = browser.new_page(viewport={"width": 1400, "height": 1000})
        window.set_default_timeout(PATIENCE * 1000)
        yield window
        browser.close()


@pytest.fixture
def link(run: Run, tmp_path: Path) -> Iterator[str]:
    """What `tuner ui` prints of a study that was just launched."""
    written = studies.study(search={"trials": TRIALS}, tracking={"mlflow": "embedded"})
    run(studies.write(tmp_path, written), tmp_path / "home")
    command = [sys.executable, "-P", "-c", "from tuner.cli import main; main()", "ui", "small"]
    server = subprocess.Popen([*command, "--home", str(tmp_path / "home")], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield server.stdout.readline().strip()
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=PATIENCE)


@pytest.mark.slow
def test_the_link_opens_the_trials_best_first_with_their_curves(page: Page, link: str, tmp_path: Path) -> None:
    page.goto(link)
    page.locator(".ag-row a", has_text="trial-").nth(TRIALS - 1).wait_for()
    page.locator(".js-plotly-plot .scatterlayer .trace").nth(TRIALS - 1).wait_for(state="attached")
    rows = page.locator(".ag-row a", has_text="trial-").all()
    placed = {int(row.evaluate(PLACE)): int(row.inner_text().removeprefix("trial-")) for row in rows}
    trials = studies.history(tmp_path / "home").trials
    values = [trials[placed[place]].best_value("val/accuracy", maximize=True) or 0.0 for place in sorted(placed)]
    assert len(values) == TRIALS
    assert values == sorted(values, reverse=True)
    shown = page.inner_text("body")
    assert "val/accuracy" in shown
    assert "Parallel Coordinates" in shown
