"""An MLflow server with users: who we say we are to it, and what a person is told whom it refuses."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.error import URLError

import pytest

from tests.servers import PATIENCE, answering, ended
from tests.stories import Story
from tuner.cli.doctor import OK, PROBLEM, Finding, Place, examine
from tuner.errors import InputError, TunerError
from tuner.events import Opened
from tuner.tracking import process as follow
from tuner.tracking import rest
from tuner.tracking.dashboard import command, serve
from tuner.tracking.sync import Tracker

USER, PASSWORD = "anna", "s%cret:1"


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No name, no token and no file of them, but those that a test gives."""
    for name in (rest.USER, rest.PASSWORD, rest.TOKEN, "TUNER_MLFLOW", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "person"))


@pytest.fixture
def anna(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(rest.USER, USER)
    monkeypatch.setenv(rest.PASSWORD, PASSWORD)


class Guarded(BaseHTTPRequestHandler):
    """One experiment, shown to who says the right words; the path /closed answers 403, /other is another's page."""

    basic = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    bearer = "Bearer t0ken"

    def do_GET(self) -> None:
        if self.headers.get("Authorization") not in (self.basic, self.bearer):
            self._answer(401, b"You are not authenticated.")
        elif self.path.startswith("/closed"):
            self._answer(403, b"Permission denied")
        elif self.path.startswith("/named"):
            self._answer(403, b"Invalid Host header - possible DNS rebinding attack detected")
        elif self.path.startswith("/other"):
            self._answer(200, b"<html>")
        elif "experiment_name=shown" in self.path:
            self._answer(200, json.dumps({"experiment": {"experiment_id": "7", "tags": []}}).encode())
        else:
            self._answer(404 if "get-by-name" in self.path else 200, b"{}")

    do_POST = do_GET  # noqa: N815

    def _answer(self, code: int, content: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def guarded() -> Iterator[str]:
    with answering(Guarded) as address:
        yield address


def tracked(home: Path, address: str, name: str = "shown") -> Story:
    story = Story(home, name).whole()
    story.tell(Opened(host="here", pid=1, tracking=address))
    return story


def served(home: Path, study: str | None) -> str:
    out = io.StringIO()
    serve(home, study, 5000, out)
    return out.getvalue()


def health(home: Path, address: str) -> Finding:
    (finding,) = [one for one in examine(Place(home, address)) if one.check == "mlflow"]
    return finding


# --- who we are ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("anna")
def test_the_link_is_found_by_name_and_password(guarded: str, tmp_path: Path) -> None:
    tracked(tmp_path, guarded)
    assert served(tmp_path, "shown").startswith(f"{guarded}/#/experiments/7/runs?")


def test_a_token_and_a_file_are_who_we_are_as_they_are_for_mlflows_own_client(
    guarded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.utils.credentials import get_default_host_creds

    with monkeypatch.context() as patch:
        patch.setenv(rest.TOKEN, "t0ken")
        assert rest.get(guarded, "experiments/search", 5) == {}
    file = tmp_path / "person" / ".mlflow" / "credentials"
    file.parent.mkdir(parents=True)
    file.write_text(f"[mlflow]\n{rest.USER.lower()} = {USER}\n{rest.PASSWORD.lower()} = other\n")
    with pytest.raises(rest.Refused, match="it does not accept the user anna"):
        rest.get(guarded, "experiments/search", 5)
    monkeypatch.setenv(rest.PASSWORD, PASSWORD)
    assert rest.get(guarded, "experiments/search", 5) == {}
    theirs = get_default_host_creds(guarded)
    assert (theirs.username, theirs.password) == (USER, PASSWORD)
    file.write_text("no file of settings")
    with pytest.raises(rest.Refused):
        rest.get(guarded, "experiments/search", 5)


@pytest.mark.usefixtures("anna")
def test_a_server_that_leads_elsewhere_tells_nobody_there_who_we_are(guarded: str) -> None:
    class Leading(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", guarded + self.path)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with answering(Leading) as address, pytest.raises(rest.Refused, match="401"):
        rest.get(address, "experiments/search", 5)


# --- what a person is told -------------------------------------------------------------------------


def test_who_is_not_accepted_is_told_what_to_set_and_never_the_password(
    guarded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked(tmp_path, guarded)
    wanted = "answers 401; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the"
    with pytest.raises(TunerError, match=wanted):
        serve(tmp_path, "shown", 5000)
    finding = health(tmp_path, guarded)
    assert (finding.state, finding.found) == (PROBLEM, f"{guarded}: it answers 401")
    assert finding.remedy.startswith("set MLFLOW_TRACKING_USERNAME")
    monkeypatch.setenv(rest.USER, USER)
    monkeypatch.setenv(rest.PASSWORD, "wr0ng")
    with pytest.raises(TunerError, match="it does not accept the user anna") as refused:
        serve(tmp_path, "shown", 5000)
    assert "wr0ng" not in str(refused.value) + health(tmp_path, guarded).line()


@pytest.mark.usefixtures("anna")
def test_who_may_not_see_a_study_is_told_so(guarded: str, tmp_path: Path) -> None:
    tracked(tmp_path, f"{guarded}/closed")
    with pytest.raises(TunerError, match="answers 403; have the user anna granted"):
        serve(tmp_path, "shown", 5000)
    assert health(tmp_path, guarded).state == OK
    assert "have the user anna granted" in health(tmp_path, f"{guarded}/closed").remedy
    assert "--allowed-hosts" in health(tmp_path, f"{guarded}/named").remedy


@pytest.mark.usefixtures("anna")
def test_another_page_is_not_taken_for_mlflow(guarded: str, tmp_path: Path) -> None:
    tracked(tmp_path, f"{guarded}/other")
    with pytest.raises(TunerError, match="does not answer as an MLflow server does"):
        serve(tmp_path, "shown", 5000)
    finding = health(tmp_path, f"{guarded}/other")
    assert (finding.state, finding.remedy) == (PROBLEM, "is this an MLflow server?")


def test_the_writer_says_what_to_set_too(guarded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in follow.SETTINGS.items():
        monkeypatch.setenv(key, value)
    tracker = Tracker(tracked(tmp_path, guarded).folder, guarded, None)
    error = tracker.cycle().error
    tracker.close()
    assert error is not None
    assert error.startswith("the MLflow server answers 401; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")


# --- a service's own server ------------------------------------------------------------------------


@pytest.mark.usefixtures("anna")
def test_where_a_service_has_a_server_the_dashboard_and_the_doctor_are_its(
    guarded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "studies").mkdir()
    monkeypatch.setenv("TUNER_MLFLOW", guarded)
    assert served(tmp_path, None) == f"{guarded}/#/experiments?workflowType=machine_learning\n"
    (finding,) = [one for one in examine(Place(tmp_path)) if one.check == "mlflow"]
    assert finding.found == f"{guarded} answers"


def test_a_services_address_is_held_to_what_a_study_files_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tuner.spec import StudySpec

    example = Path(__file__).parents[2] / "examples" / "digits-mlp.yaml"
    monkeypatch.setenv("TUNER_MLFLOW", "http://anna:s3cret@mlflow:5000")
    with pytest.raises(InputError, match=r"TUNER_MLFLOW: expected .* MLFLOW_TRACKING_USERNAME") as refused:
        assert StudySpec.read(example).store
    assert "s3cret" not in str(refused.value)


# --- MLflow's own users ----------------------------------------------------------------------------


@pytest.fixture
def with_users(tmp_path: Path) -> Iterator[str]:
    """MLflow's server as docker-compose.yml starts it, on SQLite."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = tmp_path / "server"
    place.mkdir()
    shipped = Path(__file__).parents[2] / "deploy" / "mlflow-auth.ini"
    (place / "auth.ini").write_text(shipped.read_text().replace("sqlite:////artifacts", f"sqlite:///{place}"))
    settings = {
        "MLFLOW_AUTH_CONFIG_PATH": str(place / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_USERNAME": USER,
        "MLFLOW_AUTH_ADMIN_PASSWORD": "a-long-enough-passw0rd",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "canary",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    words = ["--host=127.0.0.1", f"--port={port}", "--workers=1", "--app-name=basic-auth"]
    words += [f"--backend-store-uri=sqlite:///{place}/mlflow.db", f"--artifacts-destination=file://{place}/artifacts"]
    with (place / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "mlflow", "server", *words],
            stdout=log,
            stderr=log,
            env=os.environ | settings,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            with suppress(URLError, rest.Refused):
                rest.get(address, "experiments/search", 5)
            if socket.socket().connect_ex(("127.0.0.1", port)) == 0:
                break
            assert process.poll() is None and time.monotonic() < deadline, (place / "log").read_text()
            time.sleep(0.3)
        yield address
    finally:
        ended(process)


@pytest.mark.slow
def test_mlflows_own_users_see_their_study_and_others_are_told_why_not(
    with_users: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = tracked(tmp_path / "home", with_users)
    once = command(story.folder, with_users, None, once=True, patience=30)
    assert health(tmp_path, with_users).found.endswith("it answers 401")
    monkeypatch.setenv(rest.USER, USER)
    monkeypatch.setenv(rest.PASSWORD, "a-long-enough-passw0rd")
    done = subprocess.run(once, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == follow.DRAINED, done.stdout + done.stderr
    link = served(tmp_path / "home", "shown")
    assert link.startswith(f"{with_users}/#/experiments/") and "viewStateShareKey" in link
    assert health(tmp_path, with_users).state == OK
    import mlflow.server.auth.client as users

    client = users.AuthServiceClient(with_users)
    client.create_user("bert", "another-passw0rd")
    monkeypatch.setenv(rest.USER, "bert")
    monkeypatch.setenv(rest.PASSWORD, "another-passw0rd")
    with pytest.raises(TunerError, match="answers 403; have the user bert granted"):
        serve(tmp_path / "home", "shown", 5000)
