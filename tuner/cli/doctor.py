"""Is this machine ready? One check after another, each with what was found and, where something is amiss, the remedy.

It looks and changes nothing but a file that it removes again. Nothing that it says holds a secret: of an address it
shows no user, password or query. Knows the machine and where Tuner's parts keep things; must never know a study's
numbers. A check that itself fails is a problem found, never a traceback.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from http.client import HTTPException, InvalidURL
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

from packaging.requirements import Requirement

import tuner
from tuner.errors import InputError, LedgerError
from tuner.home import ADDRESS, LEDGER, embedded
from tuner.ledger import Ledger, server, studies, study_folder
from tuner.tracking import rest
from tuner.tracking.dashboard import OFF, SQLITE, sqlite_path, uri_of

OK, WARNING, PROBLEM = "ok", "warning", "problem"

_SERVER_SECONDS = 3.0  # without an answer from MLflow
_SKEW_SECONDS = 60.0  # a ledger may be so much younger than now before the clock is doubted
_GB = 1e9
_FULL, _TIGHT = 0.1, 2.0  # GB free: less is a problem, a warning


@dataclass(frozen=True)
class Finding:
    """One line: `state` is ok, warning or problem, `remedy` what to do unless it is ok."""

    check: str
    state: str
    found: str
    remedy: str = ""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)

    def line(self) -> str:
        """For a person."""
        return f"{self.state:<8} {self.check:<9} {self.found}" + (f"; {self.remedy}" if self.remedy else "")


@dataclass(frozen=True)
class Place:
    """What is looked at: the home, and the address of MLflow that a study names."""

    home: Path
    mlflow: str = field(default_factory=embedded)


def examine(place: Place) -> Iterator[Finding]:
    """Every check in turn, as it ends."""
    for name, check in CHECKS.items():
        try:
            yield from check(place)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with this machine is what is asked for
            yield Finding(name, PROBLEM, f"{type(error).__name__}: {redacted(str(error))}", "mend it and ask again")


def redacted(text: str) -> str:
    """Text without what may be a secret: user and password of an address, and what stands behind its question mark."""
    return re.sub(r"\?\S*", "?…", re.sub(r"//\S*@", "//…@", text))


def _python(_: Place) -> Iterator[Finding]:
    yield Finding("python", OK, f"{platform.python_version()} at {sys.executable} on {platform.platform()}")


def _packages(_: Place) -> Iterator[Finding]:
    """All that the project names, each at the version that it asks for."""
    found, wrong = [f"tuner {tuner.__version__}"], []
    for requirement in map(Requirement, importlib.metadata.requires("cohort-tuner") or ()):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is not installed")
            continue
        found.append(f"{requirement.name} {version}")
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} is not {requirement.specifier}")
    yield Finding("packages", OK, ", ".join(found))
    for line in wrong:
        yield Finding("packages", PROBLEM, line, "pip install -c constraints.txt -e . in Tuner's folder")


def _device(_: Place) -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        built = "no GPU that torch can use" if torch.version.cuda else "a torch built without CUDA"
        yield Finding("device", OK, f"cpu ({built})")
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        found = f"cuda:{index} {name}, {free / _GB:.1f} of {total / _GB:.1f} GB free"
        short = free < total / 10
        yield Finding("device", WARNING if short else OK, found, "end what else runs on it" if short else "")


def _cores(_: Place) -> Iterator[Finding]:
    import psutil
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = psutil.virtual_memory()
    found = (
        f"{cores} cores for this process, {torch.get_num_threads()} threads in torch, "
        f"{memory.available / _GB:.1f} of {memory.total / _GB:.1f} GB of memory free"
    )
    short = memory.available < _GB
    yield Finding(
        "cores", WARNING if short else OK, found, "close something, or use fewer run.workers" if short else ""
    )


def _home(place: Place) -> Iterator[Finding]:
    """Writable, and with room; a home that is not there yet is made by the first launch."""
    home = place.home.absolute()
    folder = next(parent for parent in (home, *home.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        found = f"{folder} cannot be written ({error.strerror})"
        yield Finding("home", PROBLEM, found, "name another folder with --home or TUNER_HOME")
        return
    free = shutil.disk_usage(folder).free / _GB
    state = PROBLEM if free < _FULL else WARNING if free < _TIGHT else OK
    there = "" if home.exists() else ", made by the first launch"
    remedy = "" if state == OK else "make room, or name another disk with --home or TUNER_HOME"
    yield Finding("home", state, f"{home} is writable{there}, {free:.1f} GB free", remedy)


def _ledgers(place: Place) -> Iterator[Finding]:
    try:
        named, names = server(), studies(place.home)
    except (LedgerError, InputError) as error:
        yield Finding("ledgers", PROBLEM, str(error), f"start it, or unset {ADDRESS}")
        return
    trials = older = 0
    for name in names:
        try:
            with Ledger.open(study_folder(place.home, name), read_only=True) as ledger:
                history, audit = ledger.examine()
                damage = ledger.damage(audit)
        except LedgerError as error:
            yield Finding("ledgers", PROBLEM, str(error))
            continue
        trials += len(history.trials)
        older += audit.uncovered
        if damage:
            yield Finding("ledgers", PROBLEM, damage)
    where = named or place.home / "studies"
    unsure = f"; {older:,} events are older than digests, and cannot be proved whole" if older else ""
    yield Finding("ledgers", OK, f"{len(names)} studies in {where}, {trials:,} trials that can be read{unsure}")


def _mlflow(place: Place) -> Iterator[Finding]:
    yield _store(place.mlflow, place.home)
    if (named := os.environ.get("MLFLOW_TRACKING_URI")) and named != place.mlflow:
        found = f"MLFLOW_TRACKING_URI is {redacted(named)}, which Tuner does not read"
        yield Finding("mlflow", WARNING, found, "write it under tracking.mlflow in the study file")


def _store(address: str, home: Path) -> Finding:
    if address == OFF:
        return Finding("mlflow", OK, "off")
    uri, _ = uri_of(address, home)
    if not uri.startswith(SQLITE):
        return _server(uri)
    path = sqlite_path(uri)
    if not path.exists():
        return Finding("mlflow", OK, f"{address}: {path} is made by the first launch")
    from tuner.tracking.sqlite_store import connect

    experiments = connect(uri).search_experiments(max_results=1_000)
    return Finding("mlflow", OK, f"{address}: {path} opens, {len(experiments)} experiments")


def _server(address: str) -> Finding:
    """Whether MLflow answers us; its health page would answer anybody."""
    shown, remedy = redacted(address), "start it, or write `tracking: {mlflow: embedded}`; studies run without it"
    if urlsplit(address).scheme not in ("http", "https"):
        return Finding("mlflow", PROBLEM, f"{shown} is no http(s) address", "correct it")
    try:
        rest.get(address, "experiments/search", _SERVER_SECONDS, max_results=1)
    except rest.Refused as error:
        return Finding("mlflow", PROBLEM, f"{shown}: {error.found}", error.remedy)
    except HTTPError as error:
        return Finding("mlflow", PROBLEM, f"{shown} answers {error.code}", "is this an MLflow server?")
    except OSError as error:
        return Finding("mlflow", PROBLEM, f"{shown} does not answer ({getattr(error, 'reason', error)})", remedy)
    except InvalidURL:  # its words may hold a password
        return Finding("mlflow", PROBLEM, f"{shown} is no address", "correct it")
    except (ValueError, HTTPException):
        return Finding("mlflow", PROBLEM, f"{shown} answers, but not as MLflow does", "is this an MLflow server?")
    return Finding("mlflow", OK, f"{shown} answers")


def _clock(place: Place) -> Iterator[Finding]:
    """Facts are stamped with it: a clock that went back shows trials that end before they begin."""
    files = (place.home / "studies").glob(f"*/{LEDGER}*")
    ahead = max((file.stat().st_mtime for file in files), default=0.0) - time.time()
    now = time.strftime("%Y-%m-%d %H:%M:%S %z")
    if ahead > _SKEW_SECONDS:
        yield Finding("clock", WARNING, f"{now}, {ahead:,.0f} s behind the newest ledger", "set the machine's clock")
    else:
        yield Finding("clock", OK, now)


CHECKS: dict[str, Callable[[Place], Iterator[Finding]]] = {
    "python": _python,
    "packages": _packages,
    "device": _device,
    "cores": _cores,
    "home": _home,
    "ledgers": _ledgers,
    "mlflow": _mlflow,
    "clock": _clock,
}


def address_in(study: Path) -> str:
    """The address of MLflow that a study file names. Raises SpecError."""
    from tuner.spec import StudySpec

    return StudySpec.read(study).store
