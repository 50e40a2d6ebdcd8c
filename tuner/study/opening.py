"""A study that is taken up: made, gone on with, extended, or refused where its file, data or code are others.

Knows the spec, the workload and the history that a ledger tells; writes how the study begins. Never who trains.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from tuner.checkpoints import migrate
from tuner.errors import StudyChanged
from tuner.events import Created, Event, Extended, Opened
from tuner.history.fold import History
from tuner.spec import StudySpec
from tuner.study import code_versions
from tuner.study.session import StudySession
from tuner.terminal.progress import Progress
from tuner.workloads.base import Workload
from tuner.workloads.devices import device_of


def remember_extension(spec: StudySpec, history: History, say: Callable[[str], None]) -> StudySpec:
    """A study that was extended on the command line goes on with its number, not the file's smaller one."""
    told: dict[str, Any] = json.loads(json.dumps(history.spec))
    if not told or spec.extends or told["search"]["trials"] <= spec.search.trials:
        return spec
    known = told["search"]["trials"]
    told["search"]["trials"] = spec.search.trials
    if told != spec.canonical():
        return spec
    say(f"study {spec.study} was extended to {known} trials, and goes on with them")
    return spec.extended(known)


def open_study(session: StudySession, *, accept_code: bool) -> None:
    """Create, check or extend the study; the history then has what was added."""
    spec, workload, progress = session.spec, session.workload, session.progress
    history, written = session.history, as_written(spec)
    number = history.study_id or uuid.uuid4().hex
    if not history.digest:
        facts, code = workload.fingerprint(), workload.code()
        first: Event | None = Created(*written, number, spec.seed, facts, code, str(spec.folder))
    elif history.digest != spec.digest:
        check_extends(spec, history)
        first = Extended(*written)
    elif history.completed and history.unfinished:  # a ledger that has lost how they ended, which was accepted
        first = Extended(*written)
    else:
        first = None
    more = first is not None or not history.completed
    code, version = check_same(spec, workload, history, accept_code=accept_code, more=more)
    machine = _machine(spec, workload, history, progress)
    storage = migrate.address(spec.run.storage, spec.study, number)
    changed = (code or "") if version else ""
    opened = Opened(socket.gethostname(), os.getpid(), spec.store, machine, storage, changed)
    if more:
        if history.digest not in ("", spec.digest) and any(trial.tested for trial in history.trials.values()):
            progress.message("the test split was already used for an earlier winner; new test scores are optimistic")
        migrate.begin(session.folder, storage, spec.study, history, progress.message)
        ended = code_versions.left_behind(history, progress.message) if version else []
        session.log.append([*([first] if first else []), opened, *ended])


def check_same(
    spec: StudySpec, workload: Workload, history: History, *, accept_code: bool, more: bool
) -> tuple[str | None, bool]:
    """The digest of a person's code, and whether it has changed, which was accepted; see `code_versions`.

    Raises StudyChanged where the data are others than those that the study was made with.
    """
    if history.digest:
        known, facts = history.data, workload.fingerprint()
        if any(facts.get(name) != known[name] for name in ("digest", "split") if name in known):
            raise StudyChanged(
                f"the data of study {spec.study} changed since it was created (digest {known['digest'][:12]} was, "
                f"{facts['digest'][:12]} is); restore them, or give the study another name"
            )
    code = workload.code()
    if history.digest and not workload.code_changed(history.network):
        code = history.network  # perhaps as an older Tuner took it
    return code, code_versions.changed(history, spec.study, workload.name, code, accept=accept_code, more=more)


def as_written(spec: StudySpec) -> tuple[Mapping[str, Any], str, str]:
    """What the events that tell a study's spec begin with."""
    return spec.canonical(), spec.digest, spec.text


def _machine(spec: StudySpec, workload: Workload, history: History, progress: Progress) -> dict[str, str]:
    """What numbers hang on here; what is another than at the last launch is told."""
    machine = {
        "device": device_of(spec),
        **workload.versions(),
        "python": platform.python_version(),
    }
    for name, before in history.machine.items():
        if history.trials and not history.completed and machine.get(name, before) != before:
            progress.message(f"{name} was {before}, now {machine[name]}: trials that go on may round differently")
    return machine


def check_extends(spec: StudySpec, history: History) -> None:
    """More trials, asked for in so many words, are an extension; anything else is another study."""
    before = history.spec
    more = json.loads(json.dumps(before))
    more["search"]["trials"] = spec.search.trials
    grows = spec.search.trials > before["search"]["trials"]
    if more == spec.canonical() and grows and spec.extends:
        return
    if more == spec.canonical() and not grows and spec.extends:
        known = before["search"]["trials"]
        raise StudyChanged(f"study {spec.study} has {known} trials already; --trials can only raise that number")
    lines = spec.difference(before)
    remedy = (
        f"launch with --trials {spec.search.trials} to extend it"
        if more == spec.canonical() and grows
        else "use the original file and options, or another --name"
    )
    raise StudyChanged(
        [f"study {spec.study} exists with other settings:", *(f"  {line}" for line in lines), f"{remedy}"]
    )
