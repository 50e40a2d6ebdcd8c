"""Studies on a Ray cluster as seen from outside it: handed over, heard, asked after and stopped.

A study's driver runs in the cluster, as a Ray job named after it, and outlives whoever handed it over. Knows Ray's job
API, and the files that a study names; never what is in the ledger, which lies in the cluster's home.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.errors import InputError, StudyMissing, TunerError, first_line
from tuner.models import FAMILIES, code

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

    from tuner.spec import StudySpec
    from tuner.spec.trial_section import TrialSection

PORT = 8265  # of Ray's dashboard, which answers for jobs
SAVE_SECONDS = 20  # what a driver has to save in when told to stop; Ray's own 3 s are too few
_STUDY = "tuner.study"  # in a job's metadata
_ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})


@dataclass(frozen=True)
class Job:
    """One hand-over of a study. `state` is Ray's own: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""

    number: str
    study: str
    state: str
    message: str
    began: float  # seconds since 1970

    @property
    def ended(self) -> bool:
        return self.state in _ENDED


class Cluster:
    """A Ray cluster's jobs. Every method raises TunerError, in plain words, where the cluster does not answer.

    The token is RAY_AUTH_TOKEN's, or in the file that RAY_AUTH_TOKEN_PATH names, with RAY_AUTH_MODE=token.
    """

    def __init__(self, address: str) -> None:
        """`address`: host, host:port or an http address."""
        self.address = _address(address)
        with self._told():
            from ray.job_submission import JobSubmissionClient

            logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)  # says that a log has ended
            self._client: JobSubmissionClient = JobSubmissionClient(self.address)

    def submit(self, spec: StudySpec, file: Path, given: Sequence[str]) -> Job:
        """Start a driver for the study in the cluster; `given` are the launch's further arguments.

        What the study file names by a relative path goes with it; an absolute path must be there already, on every
        node. Raises InputError where a study of that name runs there, or a relative path leads out of the folder.
        """
        running = [job for job in self.jobs(spec.study) if not job.ended]
        if running:
            raise InputError(f"study {spec.study} runs on {self.address} already; `tuner stop {spec.study}` stops it")
        command = ["tuner", "launch", file.name, *given]
        with _package(spec, file) as folder, self._told():
            number = self._client.submit_job(
                entrypoint=shlex.join(command),
                submission_id=f"{spec.study}-{int(time.time() * 1000):x}",
                metadata={_STUDY: spec.study},
                runtime_env={
                    "working_dir": str(folder),
                    "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(SAVE_SECONDS)},
                },
            )
        return Job(number, spec.study, "PENDING", "", time.time())

    def jobs(self, study: str | None = None) -> list[Job]:
        """The jobs of one study, or of all, the latest first. Ray forgets them when its head node restarts."""
        with self._told():
            details = self._client.list_jobs()
        found = []
        for one in details:
            named = (one.metadata or {}).get(_STUDY)
            if one.submission_id and named and study in (None, named):
                began = (one.start_time or 0) / 1e3
                found.append(Job(one.submission_id, named, one.status.value, one.message or "", began))
        return sorted(found, key=lambda job: job.began, reverse=True)

    def latest(self, study: str) -> Job:
        """The study's last job. Raises StudyMissing where the cluster has had none."""
        found = self.jobs(study)
        if not found:
            raise StudyMissing(f"no study {study!r} on {self.address}; `tuner submit` hands one over")
        return found[0]

    def log(self, job: Job, *, follow: bool) -> Iterator[str]:
        """What the driver printed, in pieces; with `follow` until it ends."""
        with self._told():
            if not follow:
                yield self._client.get_job_logs(job.number)
                return
            pieces = self._client.tail_job_logs(job.number)
            loop = asyncio.new_event_loop()
            try:
                with contextlib.suppress(StopAsyncIteration):
                    while True:
                        yield loop.run_until_complete(anext(pieces))
            finally:
                loop.close()

    def stop(self, job: Job) -> Job:
        """Tell the driver to save and leave, and wait until it has."""
        with self._told():
            self._client.stop_job(job.number)
            deadline = time.monotonic() + SAVE_SECONDS + 5
            while not (now := self.latest(job.study)).ended:
                if time.monotonic() > deadline:
                    raise TunerError(
                        f"job {job.number} on {self.address} still runs {SAVE_SECONDS + 5} s after the stop"
                    )
                time.sleep(0.2)
        return now

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Ray's errors in a person's words."""
        try:
            yield
        except ConnectionError as error:
            raise TunerError(
                f"{self.address}: no Ray cluster answers; expected its dashboard's address, port {PORT} as a rule"
            ) from error
        except ImportError as error:
            raise TunerError(
                f"jobs need more of Ray than is installed ({error}); pip install 'ray[default]'"
            ) from error
        except _rays_own() as error:
            text = first_line(error)
            if any(word in str(error).lower() for word in ("401", "403", "unauthorized", "authentication")):
                text = (
                    "it refuses us; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, the cluster's own, in the environment"
                )
            raise TunerError(f"{self.address}: {text}") from error


def _rays_own() -> tuple[type[Exception], ...]:
    """What Ray raises where a cluster answers, but not as asked; looked up when something was raised."""
    from ray.exceptions import RayError

    return RuntimeError, RayError


def _address(given: str) -> str:
    """http://host:port of what a person wrote."""
    scheme, found, rest = given.rpartition("://")
    host, _, port = rest.rstrip("/").rpartition(":")
    if not port.isdigit():
        host, port = rest.rstrip("/"), str(PORT)
    if found and scheme not in ("http", "https"):
        raise InputError(
            f"--cluster {given}: expected the address of Ray's dashboard, host:{PORT} as a rule, got {scheme}://"
        )
    return f"{scheme or 'http'}://{host}:{port}"


@contextlib.contextmanager
def _package(spec: StudySpec, file: Path) -> Iterator[Path]:
    """A folder with the study file and what it names beside it, for the time of the hand-over."""
    with tempfile.TemporaryDirectory(prefix="tuner-submit-") as place:
        folder = Path(place)
        shutil.copyfile(file, folder / file.name)
        for key, path in _named(spec):
            inside = Path(os.path.normpath(path))
            if inside.is_absolute():
                continue  # the cluster's own
            if inside.parts[:1] == ("..",):
                raise InputError(
                    f"{key}: expected a path inside {spec.folder}, or an absolute one that every node has, got {path}"
                )
            _lay(spec.folder / inside, folder / inside)
        yield folder


def _named(spec: StudySpec) -> Iterator[tuple[str, Path]]:
    """The files that a study names: its data's, and its network's, with what each file of code needs beside it."""
    if spec.trial is not None:
        yield from _of_trial(spec, spec.trial)
        return
    from tuner.data import table_files

    source: str = spec.data.source
    path, _, function = source.rpartition(":")
    data = Path(path if function.isidentifier() and path.endswith(".py") else source)
    if data.is_absolute() or (spec.folder / data).exists():
        yield "data.source", data
    elif table_files.is_pattern(spec.folder / source):
        for found in table_files.matching(spec.folder / source):
            yield "data.source", Path(os.path.relpath(found, spec.folder))
    if spec.data.split is not None and (files := spec.data.split.files) is not None:
        yield from (("data.split.files", Path(file)) for file in (files.validation, files.test) if file)
    family: str = spec.model["family"]
    network = "" if family in FAMILIES else family.rpartition(":")[0]
    for key, place in (("model.family", network), ("data.source", path if path.endswith(".py") else "")):
        file = code.locate(place, spec.folder) if place and not Path(place).is_absolute() else None
        if file is not None and file.is_file():
            for each in code.needed(file):
                yield key, Path(os.path.relpath(each, spec.folder.resolve()))


def _of_trial(spec: StudySpec, trial: TrialSection) -> Iterator[tuple[str, Path]]:
    """The files of a function, or those that a command's words name."""
    if trial.function is not None:
        file = code.locate(trial.function.rpartition(":")[0], spec.folder)
        for each in code.needed(file) if file is not None and file.is_file() else ():
            yield "trial.function", Path(os.path.relpath(each, spec.folder.resolve()))
    for word in trial.command or ():
        if not Path(word).is_absolute() and (spec.folder / word).is_file():
            yield "trial.command", Path(word)


def _lay(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    elif not target.exists():
        shutil.copyfile(source, target)


def lines(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Jobs as rows of a table."""
    return [{"study": job.study, "state": job.state.lower(), "job": job.number, "message": job.message} for job in jobs]
