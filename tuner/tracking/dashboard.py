"""The dashboard: where MLflow is, and how a person gets to see it.

Addresses of the embedded store and of servers, the lock of a store's first use, and `tuner ui`: MLflow's own server
as a process on 127.0.0.1 with a link that opens a study as a person wants to see it. Knows MLflow's command line and
pages. Must never import mlflow (2 s), nor write to a store.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any, TextIO
from urllib.error import HTTPError
from urllib.parse import quote, unquote
from urllib.request import Request

from tuner import processes
from tuner.errors import InputError, StudyMissing, TunerError
from tuner.home import EMBEDDED, embedded, private
from tuner.ledger import Ledger, study_folder
from tuner.tracking import in_the_way, rest
from tuner.tracking.relocation import relocate
from tuner.tracking.shared_view import TRIALS, VIEW, VIEW_TAG
from tuner.tracking.standby import FOLLOW

OFF = "off"
SQLITE = "sqlite:///"

_HOST = "127.0.0.1"
_USE_SECONDS = 180.0  # longer than a server takes to start
_START_SECONDS = 120  # the first start on a slow machine imports MLflow twice and makes the tables
_SETTINGS = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven helper processes and 1 GB that tuning has no use for
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def uri_of(tracking: str, home: Path) -> tuple[str, str | None]:
    """MLflow's address for a study file's `tracking.mlflow`, and the folder for artifacts where we choose it.

    `embedded` is a store inside the home, a SQLite address keeps its artifacts beside it, a server has its own.
    """
    if tracking == EMBEDDED:
        tracking = f"{SQLITE}{home / 'mlflow' / 'mlflow.db'}"
    if tracking.startswith(SQLITE):
        path = Path(tracking.removeprefix(SQLITE)).absolute()
        return sqlite_uri(path), str(path.parent / "artifacts")
    return tracking, None


def sqlite_uri(path: Path) -> str:
    """The address of an embedded store; a `?` or `%` in the path is none of the address's own."""
    return SQLITE + quote(str(path))


def sqlite_path(uri: str) -> Path:
    """The inverse of `sqlite_uri`."""
    return Path(unquote(uri.removeprefix(SQLITE)))


def command(
    folder: Path, uri: str, artifacts: str | None, *, once: bool = False, patience: float = 60, ahead: bool = False
) -> list[str]:
    """The command line of the process that writes the study in `folder` to MLflow; see `tuner.tracking.process`."""
    line = [*FOLLOW, str(folder), "--uri", uri, "--patience", str(patience)]
    flags = [name for name, on in (("--once", once), ("--ahead", ahead)) if on]
    return line + (["--artifacts", artifacts] if artifacts else []) + flags


@contextmanager
def first_use(uri: str) -> Iterator[None]:
    """Hold an embedded store while it is opened: two first uses at once would both create its tables.

    Raises TunerError, naming the process, where one that is stopped, or takes too long, holds it.
    """
    if not uri.startswith(SQLITE):
        yield
        return
    folder = sqlite_path(uri).parent
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    with path.open("w") as file:
        until = time.monotonic() + _USE_SECONDS
        while not _locked(file):
            who = in_the_way.clear(path)
            if (who and in_the_way.is_stopped(path)) or time.monotonic() > until:
                raise TunerError(f"{path} is held by {who or 'another process'}")
            processes.pause()
        yield


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@private()
def serve(home: Path, study: str | None, port: int, out: TextIO = sys.stdout) -> None:
    """Run MLflow's server for the store of `study` (the home's own unless told) until interrupted; prints the link.

    Listens on 127.0.0.1 alone, at `port` or, where that is taken, at a free one. A study that is tracked by a server
    has its pages there: only the link is printed. Raises StudyMissing for a study that the home has not, TunerError
    where the server does not start.
    """
    objective, store = None, embedded()
    if study is None and not (home / "studies").is_dir():
        raise StudyMissing(f"no studies in {home}; launch one, or name its folder with --home")
    if study is not None:
        with Ledger.open(study_folder(home, study), read_only=True) as ledger:
            history = ledger.history()
        objective = history.spec.get("search", {}).get("objective")
        objective = objective[0] if isinstance(objective, list) else objective
        store = store if history.tracking == OFF else history.tracking
    uri, artifacts = uri_of(store, home)
    if artifacts is None:
        base = uri.rstrip("/")
        print(link(base, _experiment(base, study) if study else None, objective), file=out, flush=True)
        return
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the server would outlive us
    chosen = _free_port(port)
    with first_use(uri), (Path(artifacts).parent / "server.log").open("w") as log:
        relocate(sqlite_path(uri), Path(artifacts))
        process = subprocess.Popen(
            _server_command(uri, artifacts, chosen),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | _SETTINGS,
            start_new_session=True,  # Ctrl-C is for us: we end the server and its workers
        )
        try:
            _await(process, chosen, Path(log.name))
        except BaseException:
            _end(process)
            raise
    try:
        base = f"http://{_HOST}:{chosen}"
        experiment = None if study is None else _experiment(base, study)
        if study is not None and experiment is None:
            print(f"MLflow has nothing of {study} yet; `tuner sync {study}` writes it", file=out)
        print(link(base, experiment, objective), file=out, flush=True)
        print("Ctrl-C ends the dashboard", file=out, flush=True)
        process.wait()
        raise TunerError(f"the MLflow server ended by itself with exit code {process.returncode}; see {log.name}")
    except KeyboardInterrupt:
        return
    finally:
        _end(process)


def link(base: str, experiment: Mapping[str, Any] | None, objective: Mapping[str, str] | None) -> str:
    """The address of MLflow's model-training page; of one experiment: its trials sorted, their curves open.

    MLflow opens its generative-AI pages and folds nested runs away unless the address says otherwise. The view that is
    kept with the experiment does; one that was written before there were views gets as near as an address can.
    """
    if experiment is None or objective is None:
        return f"{base}/#/experiments?workflowType=machine_learning"
    options = {"workflowType": "machine_learning", "compareRunsMode": "CHART"}
    if any(tag["key"] == VIEW_TAG for tag in experiment.get("tags", ())):
        options["viewStateShareKey"] = VIEW
    else:
        options["orderByKey"] = f"metrics.`{objective['metric']}`"
        options["orderByAsc"] = str(objective["goal"] == "minimize").lower()
        options["searchFilter"] = TRIALS
    query = "&".join(f"{key}={quote(value, safe='')}" for key, value in options.items())
    return f"{base}/#/experiments/{experiment['experiment_id']}/runs?{query}"


def _server_command(uri: str, artifacts: str, port: int) -> list[str]:
    return [
        *(sys.executable, "-P", "-m", "mlflow", "server"),
        *("--host", _HOST, "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", uri, "--registry-store-uri", uri),  # not what MLFLOW_REGISTRY_STORE_URI says
        *("--artifacts-destination", Path(artifacts).as_uri()),
    ]


def _free_port(wanted: int) -> int:
    """`wanted` where nobody listens there, else any free port."""
    for port in (wanted, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((_HOST, port))
            return int(probe.getsockname()[1])
    raise InputError(f"--port {wanted}: expected a port to listen on at {_HOST}, got none, not even another one")


def _await(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    give_up = time.monotonic() + _START_SECONDS
    while time.monotonic() < give_up:
        if process.poll() is not None:
            break
        with suppress(OSError), rest.ask(Request(f"http://{_HOST}:{port}/health"), 5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise TunerError(f"the MLflow server did not start at {_HOST}:{port}; {log} says why")


def _experiment(base: str, study: str) -> dict[str, Any] | None:
    """What MLflow says of the study's experiment."""
    try:
        found: dict[str, Any] = rest.get(base, "experiments/get-by-name", 30, experiment_name=study)["experiment"]
    except rest.Refused as error:
        raise TunerError(f"the MLflow server {base} does not tell of the study {study}: {error}") from None
    except (KeyError, ValueError, HTTPException) as error:
        raise TunerError(f"{base} does not answer as an MLflow server does; correct the address") from error
    except HTTPError as error:
        if error.code == 404:
            return None
        raise TunerError(f"the MLflow server answers {error.code} when asked for the study {study}") from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise TunerError(f"the MLflow server {base} cannot be reached ({reason}); start it, or ask later") from error
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and the workers it started, whose process group it leads."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
