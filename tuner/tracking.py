"""Tracking: MLflow is written behind the training, from the ledger, by a process of its own.

`python -P -m tuner.tracking FOLDER --uri URI` follows a study's ledger and repeats it in MLflow. How far it has come
is kept as a tag of the parent run, and every write may be repeated without a trace: whoever dies between any two
calls, the next one goes on from the cursor and adds nothing twice; where MLflow's side was deleted it starts from
nothing. The only module that imports mlflow (when it first needs it: 2 s). Knows the ledger's events through `mirror`.
Must never know training, samplers or the study loop, and never writes to the ledger.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.ledger import Ledger
from tuner.mirror import RUNNING, Mirror, Point, milliseconds
from tuner.trial import Event, Kind

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EMBEDDED, OFF = "embedded", "off"
DRAINED, BEHIND = 0, 3  # how the process ends: all is written, or points wait for a server

_CURSOR = "tuner.cursor"
_PARENT = "mlflow.parentRunId"
_SLICE = 5_000  # events between two cursors: what is written again after a crash, at most
_PAGE = 1_000  # runs per search
_SQLITE = "sqlite:///"
_SETTINGS = {
    # A request is repeated by us alone, after a look at what has arrived: repeated blindly it could make two runs.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # a stopped server accepts connections for ever
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass(frozen=True)
class Progress:
    """Points (metric values of trials) written by this process, points still waiting, and what is in the way."""

    written: int
    waiting: int
    error: str | None = None


@dataclass
class _Written:
    """A run as MLflow has it."""

    id: str
    status: str
    params: set[str] = field(default_factory=set)
    tags: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run) -> _Written:
        return cls(run.info.run_id, run.info.status, set(run.data.params), dict(run.data.tags))


def uri_of(tracking: str, home: Path) -> tuple[str, str | None]:
    """MLflow's address for a study file's `tracking.mlflow`, and the folder for artifacts where we choose it.

    `embedded` is a store inside the home, a SQLite address keeps its artifacts beside it, a server has its own.
    """
    if tracking == EMBEDDED:
        folder = home.absolute() / "mlflow"
        return f"{_SQLITE}{folder / 'mlflow.db'}", str(folder / "artifacts")
    if tracking.startswith(_SQLITE):
        path = Path(tracking.removeprefix(_SQLITE)).absolute()
        return f"{_SQLITE}{path}", str(path.parent / "artifacts")
    return tracking, None


def command(folder: Path, uri: str, artifacts: str | None, *, once: bool = False, patience: float = 60) -> list[str]:
    """The command line that follows the study in `folder`; see `main`."""
    line = [sys.executable, "-P", "-m", "tuner.tracking", str(folder), "--uri", uri, "--patience", str(patience)]
    return line + (["--artifacts", artifacts] if artifacts else []) + (["--once"] if once else [])


@contextmanager
def first_use(uri: str) -> Iterator[None]:
    """Hold an embedded store while it is opened: two first uses at once would both create its tables."""
    if not uri.startswith(_SQLITE):
        yield
        return
    folder = Path(uri.removeprefix(_SQLITE)).parent
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def connect(uri: str) -> MlflowClient:
    """A client for `uri`, which for an embedded store exists with all its tables when this returns."""
    from mlflow import MlflowClient

    with first_use(uri):
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    return client


class Tracker:
    """Repeats one study's ledger in MLflow, a cycle at a time. One per study at work, by a lock in its folder.

    `driver` is the process whose death or leave ends the study: once told that it has gone (`cycle(closing=True)`)
    the study is not alive unless another process has taken it up.
    """

    def __init__(self, folder: Path, uri: str, artifacts: str | None, driver: int | None = None) -> None:
        self.folder, self.uri, self.artifacts, self.driver = folder, uri, artifacts, driver
        self.unsure = False  # a call has failed: what it wrote, or made twice, is looked at again when all is written
        self._ledger = Ledger.open(folder, read_only=True)
        self._mirror = Mirror()
        self._backlog: deque[Event] = deque()
        self._waiting = self._done = 0
        self._client: MlflowClient | None = None
        self._lock: int | None = None
        self._attached = False
        self._experiment = ""
        self._parent = _Written("", "")
        self._children: dict[int, _Written] = {}
        self._incomplete: set[int] = set()  # trials to be written whole, whatever the cursor says
        self._curve = 0  # points of the parent's curve that are written
        self._cursor = 0

    def cycle(self, closing: bool = False) -> Progress:
        """Read what is new in the ledger and write the next slice. Never raises for MLflow's sake: says what is wrong."""
        error = None
        try:
            self._read()
            if self._take_lock():
                self._write(self._alive(closing))
            else:
                error = f"another process writes this study to MLflow ({self.folder / 'tracking.lock'})"
        except Exception as problem:  # noqa: BLE001 # MLflow, its SQL and its HTTP raise what they like; we go on trying
            error = _explain(problem)
            self._attached, self.unsure = False, True
        return Progress(self._done, self._waiting, error)

    @property
    def drained(self) -> bool:
        """Everything read is written, and nothing is in doubt."""
        return self._attached and not self._backlog and not self.unsure

    def close(self) -> None:
        self._ledger.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _read(self) -> None:
        for event in self._ledger.read(after=self._mirror.history.seq):
            self._mirror.fold(event)
            self._backlog.append(event)
            self._waiting += _points(event)

    def _take_lock(self) -> bool:
        if self._lock is None:
            handle = os.open(self.folder / "tracking.lock", os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                return False
            self._lock = handle
        return True

    def _alive(self, closing: bool) -> bool:
        """Whether somebody drives the study: a dead driver writes no event, but lets go of the lock."""
        if not self._mirror.under_way:
            return False
        holder = self._ledger.holder()
        return holder is not None and not (closing and holder["pid"] == self.driver)

    def _write(self, alive: bool) -> None:
        """The next slice of events: first the trials, then the study, the cursor last."""
        if not self._mirror.history.study_id:
            return  # the driver is still writing down what the study is
        if self._client is None:
            self._client = connect(self.uri)
        if not self._attached or (self.unsure and not self._backlog):
            self.unsure = False
            self._attach(self._client)
        slice_ = [self._backlog[i] for i in range(min(_SLICE, len(self._backlog)))]
        for number, epochs in self._due(slice_).items():
            self._write_trial(self._client, number, epochs, alive)
        for number, child in self._children.items():
            if number in self._mirror.began:
                self._settle(self._client, number, child, alive)
        self._write_study(self._client, slice_, alive)
        for event in slice_:
            self._backlog.popleft()
            self._waiting -= _points(event)
            self._done += _points(event)

    def _due(self, events: Sequence[Event]) -> dict[int, set[int] | None]:
        """Trials to be written, and which epochs; None for all of them."""
        due: dict[int, set[int] | None] = {}
        for event in events:
            if event.trial is not None and event.trial in self._mirror.began and event.kind is not Kind.ASKED:
                epochs = due.setdefault(event.trial, set())
                if event.kind is Kind.REPORTED and event.epoch is not None and epochs is not None:
                    epochs.add(event.epoch)
            elif event.kind is Kind.STARTED:
                for number in event.body["trials"]:
                    due.setdefault(number, set())
        return due | dict.fromkeys(sorted(self._incomplete))

    def _attach(self, client: MlflowClient) -> None:
        """Find what MLflow has of this study, make what every study has, and take up the cursor."""
        history = self._mirror.history
        self._experiment = self._find_experiment(client)
        parents: list[_Written] = []
        children: dict[int, list[_Written]] = {}
        wanted = f"tags.`tuner.ledger` = '{history.study_id}'"
        token = None
        while True:
            found = client.search_runs([self._experiment], wanted, max_results=_PAGE, page_token=token)
            for run in map(_Written.of, found):
                number = run.tags.get("tuner.trial")
                (parents if number is None else children.setdefault(int(number), [])).append(run)
            token = found.token
            if not token:
                break
        # A request whose answer was lost may have made a run that we made again: the one known here, or else the one
        # that was written to, stays.
        self._parent, twins = _keep(parents, self._parent.id) if parents else (self._create_parent(client), [])
        self._incomplete = set()
        kept = {}
        for number, runs in children.items():
            known = self._children.get(number)
            kept[number], more = _keep(runs, known.id if known else "")
            if more or kept[number].tags.get(_PARENT) != self._parent.id:
                self._incomplete.add(number)
            twins += more
        for twin in twins:
            client.delete_run(twin.id)
        self._children = kept
        self._incomplete |= self._mirror.began.keys() - kept.keys()
        self._rewind(_whole(self._parent.tags.get(_CURSOR)))
        self._attached = True

    def _rewind(self, cursor: int) -> None:
        """Begin after `cursor`, or at the beginning where the ledger does not reach so far (an older copy of it)."""
        last = self._mirror.history.seq
        self._cursor = cursor if cursor <= last else 0
        self._curve = 0
        self._backlog = deque(event for event in self._ledger.read(after=self._cursor) if event.seq <= last)
        self._waiting = sum(map(_points, self._backlog))

    def _find_experiment(self, client: MlflowClient) -> str:
        name = self._mirror.study
        found = client.get_experiment_by_name(name)
        if found is None:
            place = Path(self.artifacts, name).absolute().as_uri() if self.artifacts else None
            return str(client.create_experiment(name, artifact_location=place))
        if found.lifecycle_stage != "active":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _create_parent(self, client: MlflowClient) -> _Written:
        tags = {"tuner.study": self._mirror.study, "tuner.ledger": self._mirror.history.study_id}
        began = milliseconds(self._mirror.history.created_at)
        run = client.create_run(self._experiment, began, tags, self._mirror.study)
        return _Written(run.info.run_id, RUNNING, tags=tags)

    def _write_trial(self, client: MlflowClient, number: int, epochs: set[int] | None, alive: bool) -> None:
        tags = {**self._mirror.tags(number, alive), _PARENT: self._parent.id}
        child = self._children.get(number)
        if child is None:
            run = client.create_run(self._experiment, self._mirror.began[number], tags, f"trial-{number:04d}")
            child = self._children[number] = _Written(run.info.run_id, RUNNING, tags=tags)
        params = {name: value for name, value in self._mirror.params(number).items() if name not in child.params}
        _log(client, child, self._mirror.points(number, epochs), tags, params)
        self._incomplete.discard(number)

    def _settle(self, client: MlflowClient, number: int, child: _Written, alive: bool) -> None:
        """Give a trial's run the status and the state that it should have."""
        status = self._mirror.status(number, alive)
        if child.status == status:
            return
        _log(client, child, (), self._mirror.tags(number, alive))
        _end(client, child, status, self._mirror.ended(number))

    def _write_study(self, client: MlflowClient, events: Sequence[Event], alive: bool) -> None:
        mirror = self._mirror
        for event in events:
            if event.kind in (Kind.CREATED, Kind.EXTENDED):
                client.log_text(self._parent.id, event.body["text"], "study.yaml")
                client.log_inputs(self._parent.id, [_dataset(mirror)])
        points = mirror.curve[self._curve :]
        tests = [event for event in events if event.kind is Kind.TESTED and event.trial is not None]
        for event in tests:
            assert event.trial is not None
            scores = mirror.test_points(event.trial)
            _log(client, self._children[event.trial], scores)
            points += [Point(p.key, p.value, p.timestamp, mirror.test_order(event.trial)) for p in scores]
        if tests:
            from tuner.registry import register

            register(client, self._experiment, self.folder, mirror.study, self._children)
        status = mirror.study_status(alive)
        cursor = events[-1].seq if events else self._cursor
        _log(client, self._parent, points, {**mirror.study_tags(alive), _CURSOR: str(cursor)})
        if self._parent.status != status:
            _end(client, self._parent, status, milliseconds(mirror.history.updated_at))
        self._curve, self._cursor = len(mirror.curve), cursor
