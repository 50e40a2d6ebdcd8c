"""Tracking: a study's ledger, repeated in MLflow.

How far it has come is kept as a tag of the parent run, and every write may be repeated without a trace: whoever dies
between any two calls, the next one goes on from the cursor and adds nothing twice; where MLflow's side was deleted it
starts from nothing. Imports mlflow when it first needs it (2 s). Knows what to show through `projection`, and runs
behind the training in a process of its own (`process`). Must never know training, samplers or the study loop, and never
writes to the ledger.
"""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tuner import champion
from tuner.errors import LedgerError
from tuner.events import TERMINAL, Asked, Created, Event, Extended, Failed, Reported, Started, Tested, TrialEvent
from tuner.ledger import Ledger
from tuner.tracking import in_the_way, model_registry, shared_view, trial_files
from tuner.tracking.client_writer import RunWriter, Written
from tuner.tracking.dashboard import SQLITE, first_use, sqlite_path
from tuner.tracking.projection import Projection, milliseconds, reported
from tuner.tracking.relocation import relocate
from tuner.tracking.rest import remedy_for
from tuner.tracking.sql_writer import writer_for
from tuner.tracking.sqlite_store import connect

if TYPE_CHECKING:
    from mlflow import MlflowClient


_CURSOR = "tuner.cursor"
_PARENT = "mlflow.parentRunId"
_TRACEBACK, _OUTPUT = "traceback.txt", "output.txt"
_FORM, _NEWEST = "tuner.form", "2"  # what is shown of a study; 2: the best epoch of each trial, and the view by it
_SLICE = 5_000  # events between two cursors: what is written again after a crash, at most
_PAGE = 1_000  # runs per search


@dataclass(frozen=True)
class Progress:
    """Points (metric values of trials) written by this process, points still waiting, and what is in the way.

    `warning` says what MLflow shows to be wrong with the ledger. `runs` are the ids of those runs that trials still to
    end may write to by themselves, as far as they are new, `experiment` is theirs.
    """

    written: int
    waiting: int
    error: str | None = None
    warning: str | None = None
    runs: Mapping[int, str] = field(default_factory=dict)
    experiment: str = ""


class Tracker:
    """Repeats one study's ledger in MLflow, a cycle at a time. One per study at work, by a lock in its folder.

    `driver` is the process whose death or leave ends the study: once told that it has gone (`cycle(closing=True)`)
    the study is not alive unless another process has taken it up. With `ahead` a trial's run is made when the trial is
    asked, and the trial's own code may write to it: what it has written stays.
    """

    def __init__(
        self, folder: Path, uri: str, artifacts: str | None, driver: int | None = None, *, ahead: bool = False
    ) -> None:
        self.folder, self.uri, self.artifacts, self.driver, self.ahead = folder, uri, artifacts, driver, ahead
        self.drained = False  # after a cycle: everything read is written, and nothing is in doubt
        self.blind = False  # after a cycle: it was the ledger that could not be read, of which its driver tells
        self.connected = False  # after a cycle: it had to connect first, which takes much longer than writing
        self._prepared = False
        self._unsure = False  # a call has failed: what it may have made twice is looked for when all is written
        self._ledger = Ledger.open(folder, read_only=True)
        self._printed = trial_files.Printed(self._ledger)
        self._projection = Projection(ahead)
        self._backlog: deque[Event] = deque()
        self._waiting = self._done = 0
        self._client: MlflowClient | None = None
        self._writer: RunWriter  # made anew by `_attach`, so that nothing is left in it from before a fault
        self._lock: int | None = None
        self._attached = False
        self._experiment = ""
        self._parent = Written("", "")
        self._children: dict[int, Written] = {}
        self._told: set[int] = set()  # trials whose runs have been told
        self._last_look = not ahead  # whether it was seen what trials' own code has left
        self._curve = 0  # points of the parent's curve that are written
        self._warning: str | None = None

    def cycle(self, closing: bool = False) -> Progress:
        """Read what is new in the ledger, write the next slice; what goes wrong is said, never raised."""
        error = None
        self.drained = self.connected = self.blind = False
        runs: dict[int, str] = {}
        if closing and not self._last_look:
            self._last_look = self._unsure = True
        try:
            self._read()
            if self._take_lock():
                self._write(self._alive(closing))
                runs = self._new_runs()
                self.drained = not (self._backlog or self._unsure)
            else:
                path = self.folder / in_the_way.LOCK
                error = f"another process writes this study to MLflow ({path}): {in_the_way.clear(path)}".rstrip(": ")
        except Exception as problem:  # noqa: BLE001 # MLflow, its SQL and its HTTP raise what they like; we go on trying
            error = explain(problem)
            if "database is locked" in error and (who := self._clear_store()):
                error = f"the store {sqlite_path(self.uri)} is locked by {who}"
            self.blind = isinstance(problem, LedgerError)
            self._attached, self._unsure = False, True
        return Progress(self._done, self._waiting, error, self._warning, runs, self._experiment if runs else "")

    def _new_runs(self) -> dict[int, str]:
        """Of trials that have not ended, where their own code may write."""
        trials = self._projection.history.trials if self.ahead else {}
        new = {
            number: child.id
            for number, child in self._children.items()
            if number not in self._told and number in trials and not trials[number].ended
        }
        self._told.update(new)
        return new

    def look(self) -> bool:
        """Read what is new in the ledger; whether it is worth writing at once: no more trials come, or one waits."""
        try:
            self._read()
        except Exception:  # noqa: BLE001 # the next cycle meets it too, and says so
            return True
        waited = self.ahead and any(isinstance(event, Asked) for event in self._backlog)
        return waited or (bool(self._backlog) and self._projection.over)

    def prepare(self) -> None:
        """Do ahead, once, what the champion will need, where a study is still to come to its end."""
        if self._client is not None and self._projection.under_way and not self._prepared:
            self._prepared = True
            with suppress(Exception):  # what goes wrong will be met, and told, with the champion itself
                model_registry.rehearse(self._client, self._projection.study, self._experiment)

    def close(self) -> None:
        self._ledger.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _read(self) -> None:
        for event in self._ledger.read(after=self._projection.history.seq):
            self._projection.fold(event)
            self._backlog.append(event)
            self._waiting += reported(event)

    def _take_lock(self) -> bool:
        if self._lock is None:
            self._lock = in_the_way.take(self.folder, self.driver)
        return self._lock is not None

    def _clear_store(self) -> str:
        """End who holds an embedded store, stopped and without a driver; who else holds it."""
        if not self.uri.startswith(SQLITE):
            return ""
        path = sqlite_path(self.uri)
        return in_the_way.clear(path, path.with_name(f"{path.name}-shm"))  # SQLite's two ways to lock

    def _alive(self, closing: bool) -> bool:
        """Whether somebody drives the study: a dead driver writes no event, but lets go of the lock."""
        if not self._projection.under_way:
            return False
        holder = self._ledger.holder()
        return holder is not None and not (closing and holder["pid"] == self.driver)

    def _write(self, alive: bool) -> None:
        """The next slice of events: first the trials, then the study, the cursor last."""
        if not self._projection.history.study_id:
            self._backlog.clear()  # the driver is still to write down what the study is, or died before it did
            return
        self._clear_store()
        if self._client is None:
            if self.artifacts is not None:
                with first_use(self.uri):
                    relocate(sqlite_path(self.uri), Path(self.artifacts))
            self._client, self.connected = connect(self.uri), True
        if not self._attached:
            self._attach(self._client)
        elif self._unsure and not self._backlog:
            self._attach(self._client)  # what a stopped server had taken in without an answer has arrived by now
            self._unsure = False
        events = list(islice(self._backlog, _SLICE))
        for number, epochs in self._due(events).items():
            self._write_trial(self._writer, number, epochs, alive)
        for number, child in self._children.items():
            if number in self._projection.history.trials:
                self._settle_trial(self._writer, number, child, alive)
        self._explain_failures(self._client, self._writer, events)
        self._keep_files(self._client, self._writer, events)
        self._write_study(self._client, self._writer, events, alive)
        self._writer.flush()
        for event in events:
            self._backlog.popleft()
            self._waiting -= reported(event)
            self._done += reported(event)

    def _due(self, events: Sequence[Event]) -> dict[int, set[int]]:
        """The trials that the events are about, and the epochs that they report."""
        due: dict[int, set[int]] = {}
        for event in events:
            if isinstance(event, Started):
                for number in event.trials:
                    due.setdefault(number, set())
            elif isinstance(event, TrialEvent) and event.trial in self._projection.began:
                epochs = due.setdefault(event.trial, set())
                if isinstance(event, Reported):
                    epochs.add(event.epoch)
        return due

    def _attach(self, client: MlflowClient) -> None:
        """Find what MLflow has of this study, make what every study has, and take up the cursor."""
        history, writer = self._projection.history, writer_for(client)
        self._experiment = self._find_experiment(client)
        parents: list[Written] = []
        children: dict[int, list[Written]] = {}
        wanted = f"tags.`tuner.ledger` = '{history.study_id}'"
        token = None
        while True:
            found = client.search_runs([self._experiment], wanted, max_results=_PAGE, page_token=token)
            for run in map(Written.of, found):
                trial = run.tags.get("tuner.trial")
                (parents if trial is None else children.setdefault(int(trial), [])).append(run)
            token = found.token
            if not token:
                break
        # A request whose answer was lost may have made a run that we made again: the one known here, or else the one
        # that was written to, stays.
        self._parent, twins = _keep(parents, self._parent.id) if parents else (self._create_parent(writer), [])
        kept: dict[int, Written] = {}
        for number, runs in children.items():
            known = self._children.get(number)
            kept[number], more = _keep(runs, known.id if known else "")
            twins += more
        self._children = kept
        text = self._parent.tags.get(_CURSOR, "")
        cursor = int(text) if text.isdecimal() else 0
        strays = any(child.tags.get(_PARENT) != self._parent.id for child in kept.values())
        lost = any(event.seq <= cursor and number not in kept for number, event in self._projection.began.items())
        if cursor > (last := self._ledger.last()):
            self._warning = (
                f"{cursor:,} events of this study have been written to MLflow, and its ledger holds {last:,}: "
                "the others are lost (an older copy of the study's folder?); MLflow now shows what the ledger holds"
            )
        older = self._parent.tags.get(_FORM) != _NEWEST
        # Once more from the beginning, also where an older copy of the ledger was put back.
        if twins or strays or lost or older or cursor > history.seq:
            cursor = 0
            writer.log(self._parent, (), {_CURSOR: "0", _FORM: _NEWEST})
        writer.flush()
        for twin in twins:
            client.delete_run(twin.id)
        self._writer, self._curve, self._told = writer, 0, set()
        self._backlog = deque(event for event in self._ledger.read(after=cursor) if event.seq <= history.seq)
        self._waiting = sum(map(reported, self._backlog))
        self._attached = True

    def _find_experiment(self, client: MlflowClient) -> str:
        name = self._projection.study
        found = client.get_experiment_by_name(name)
        if found is None:
            place = Path(self.artifacts, name).absolute().as_uri() if self.artifacts else None
            return str(client.create_experiment(name, artifact_location=place))
        if found.lifecycle_stage != "active":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _create_parent(self, writer: RunWriter) -> Written:
        study, history = self._projection.study, self._projection.history
        tags = {"tuner.study": study, "tuner.ledger": history.study_id, _FORM: _NEWEST}
        return writer.create(self._experiment, study, milliseconds(history.created_at), tags)

    def _write_trial(self, writer: RunWriter, number: int, epochs: set[int], alive: bool) -> None:
        projection = self._projection
        tags = {**projection.tags(number, alive), _PARENT: self._parent.id}
        child = self._children.get(number)
        if child is None:
            began = milliseconds(projection.began[number].time)
            child = self._children[number] = writer.create(self._experiment, f"trial-{number:04d}", began, tags)
        elif self.ahead and projection.history.trials[number].ended:
            assert self._client is not None
            child = self._children[number] = Written.of(self._client.get_run(child.id))
        # MLflow takes a param once: what the trial's own code gives one as comes first.
        later = self.ahead and not projection.history.trials[number].ended
        writer.log(child, projection.points(number, epochs), tags, {} if later else projection.params(number))

    def _settle_trial(self, writer: RunWriter, number: int, child: Written, alive: bool) -> None:
        status = self._projection.status(number, alive)
        if child.status != status or not self._projection.pareto(number).items() <= child.tags.items():
            writer.log(child, (), self._projection.tags(number, alive))
        writer.settle(child, status, self._projection.ended(number))

    def _explain_failures(self, client: MlflowClient, writer: RunWriter, events: Sequence[Event]) -> None:
        """The tracebacks of trials that failed, each as an artifact of its run; written again it is the same file."""
        failed = [event for event in events if isinstance(event, Failed) and event.traceback]
        if failed:
            writer.flush()  # the runs that these belong to
        for event in failed:
            client.log_text(self._children[event.trial].id, event.traceback, _TRACEBACK)

    def _keep_files(self, client: MlflowClient, writer: RunWriter, events: Sequence[Event]) -> None:
        """What trials of a person's own training wrote and printed; written again it is the same files."""
        trial = self._projection.history.spec.get("trial")
        if trial is None:
            return
        ended = [event.trial for event in events if isinstance(event, TERMINAL) and event.trial in self._children]
        files = {number: list(trial_files.of_trial(self.folder, number, trial["artifacts"])) for number in ended}
        texts = self._printed.of(ended)
        if texts or any(files.values()):
            writer.flush()  # the runs that these belong to
        for number, text in texts.items():
            client.log_text(self._children[number].id, text, _OUTPUT)
        for number, paths in files.items():
            for path, inside in paths:
                client.log_artifact(self._children[number].id, str(path), inside)

    def _write_study(self, client: MlflowClient, writer: RunWriter, events: Sequence[Event], alive: bool) -> None:
        projection = self._projection
        if any(isinstance(event, Created | Extended) for event in events):
            self._describe(client)
        tested = [event for event in events if isinstance(event, Tested)]
        if tested:
            writer.flush()  # the runs that these belong to
            for event in tested:
                self._show(client, event.trial)
            self._register(client)
        tests = projection.test_points() if tested else []
        cursor = {_CURSOR: str(events[-1].seq)} if events else {}
        writer.log(self._parent, [*projection.curve[self._curve :], *tests], projection.study_tags(alive))
        writer.settle(self._parent, projection.study_status(alive), milliseconds(projection.history.updated_at))
        writer.log(self._parent, (), cursor)  # the last call of all
        self._curve = len(projection.curve)

    def _describe(self, client: MlflowClient) -> None:
        """The study file and the data, as the parent's artifact and input; what MLflow's page shows at first."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        client.log_text(self._parent.id, self._projection.history.text, "study.yaml")
        dataset = Dataset(**self._projection.dataset())
        client.log_inputs(self._parent.id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
        client.set_experiment_tag(self._experiment, shared_view.VIEW_TAG, shared_view.view_of(self._projection.history))

    def _show(self, client: MlflowClient, number: int) -> None:
        """Log what the study's folder shows of a winner to its run; a file that is there is written over."""
        place, run = champion.looks(self.folder, number), self._children.get(number)
        if place.is_dir() and run is not None:
            client.log_artifacts(run.id, str(place), "looks")

    def _register(self, client: MlflowClient) -> None:
        """Log and register the champion in the study's folder, unless that is done, or somebody took it away."""
        place = self.folder / champion.FOLDER
        if not (place / champion.CARD).exists():
            return  # lost, or refused: a network that cannot be exported
        card = json.loads((place / champion.CARD).read_text())
        run = self._children.get(card["trial"]["number"])
        if run is None:
            return  # the champion of an extension, whose own test is still to come
        tags = {"tuner.champion": card["sha256"], "tuner.ledger": self._projection.history.study_id}
        model_registry.register(
            client,
            place,
            self._projection.study,
            tags,
            experiment=self._experiment,
            run=run.id,
            note=self._projection.note(alive=False),
            params=self._projection.params(card["trial"]["number"]),
        )


def explain(problem: Exception) -> str:
    """One line about what is wrong, without the passwords that addresses may carry."""
    text = " ".join(str(problem).split()) or type(problem).__name__
    text = re.sub(r"//\S*@", "//", text)
    status = getattr(problem, "get_http_status_code", None)  # of MLflow's own errors
    if status is not None and (remedy := remedy_for(status(), text)) is not None:
        return f"the MLflow server answers {status()}; {remedy}"
    return text[:300]


def _keep(runs: Sequence[Written], known: str) -> tuple[Written, list[Written]]:
    """Of runs made twice, the one to keep and the others: the known one, else one that was written to."""
    first, *others = sorted(runs, key=lambda run: (run.id != known, _CURSOR not in run.tags, not run.params, run.id))
    return first, others
