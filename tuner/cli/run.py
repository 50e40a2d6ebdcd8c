"""The verbs that run studies: launch and check one on this machine, stop one wherever it runs; a study file's schema.

As all verbs do, they read arguments, call one function and print what it returns; nothing heavy is imported until a
verb needs it.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuner.cli import cluster as handover
from tuner.cli.arguments import (
    DEFAULT_HOME,
    AcceptCode,
    Cluster,
    Format,
    Home,
    Name,
    Overrides,
    StudyFile,
    StudyName,
    Trials,
)
from tuner.terminal.tables import Output, print_json, print_lines, print_rows

if TYPE_CHECKING:
    from tuner.spec import StudySpec
    from tuner.workloads.base import Workload


def launch(
    file: StudyFile,
    *,
    name: Name = None,
    trials: Trials = None,
    overrides: Overrides = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Another number than the file's `run.workers`.")
    ] = None,
    accept_code: AcceptCode = False,
    home: Home = DEFAULT_HOME,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and print the plan; start nothing.")] = False,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Go on from a ledger that has lost events, without them.")
    ] = False,
) -> None:
    """Run a study, or resume it.

    A finished study is extended when it is asked for more trials with --trials; with --accept-code they may be trained
    by a network that was corrected since."""
    # Until there is something to save, Ctrl-C leaves at once: raised in the middle of an import it would end anywhere.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    _one_thread()
    # Before the imports, which take a second or two.
    typer.echo(f"{'checking' if dry_run else 'launching'} {file}: reading the study file and its data", err=True)
    if dry_run:
        spec = _read(file, overrides, name, trials)
        from tuner.study.launch import foreseen
        from tuner.workloads.kinds import workload

        with contextlib.redirect_stdout(sys.stderr):  # what a person's own file prints is none of our output
            trained = workload(spec)
            spec, said = foreseen(spec, home, trained, accept_code=accept_code, accept_loss=accept_loss)
        _print_plan(spec, Output.TABLE, trained)
        print_lines(said)
        return
    from tuner.tracking.standby import Standby

    with Standby(file, overrides or ()) as standby:  # it imports MLflow while we import torch
        spec = _read(file, overrides, name, trials)
        from tuner.study.launch import launch as launch_study
        from tuner.terminal.progress import progress_for

        options: dict[str, Any] = {"home": home, "workers": workers, "progress": progress_for()}
        options |= {"accept_loss": accept_loss, "accept_code": accept_code}
        with contextlib.redirect_stdout(sys.stderr):  # what a person's own file prints is none of our output
            study = launch_study(spec, **options, forking=True, standby=standby)
    from tuner.cli.summary import called, ending
    from tuner.history.counts import counts
    from tuner.history.failures import too_many

    where = "" if home == DEFAULT_HOME else f" --home {shlex.quote(str(home))}"
    now = counts(study.history, study.folder) if study.state == "interrupted" else None
    told = ending(study.name, study.history, study.state, study.tracking, now=now, program=called(), where=where)
    print_lines(told)
    if study.state == "interrupted":
        raise typer.Exit(128 + (study.signal or signal.SIGINT))
    if study.state == "failed" or too_many(study.history):
        raise typer.Exit(1)


def check(
    file: StudyFile,
    *,
    name: Name = None,
    trials: Trials = None,
    overrides: Overrides = None,
    try_one: Annotated[
        bool, typer.Option("--try", help="Train one trial with the smallest values until its first report.")
    ] = False,
    output: Format = Output.TABLE,
) -> None:
    """Validate a study file and print its plan.

    The plan tells the size of the space, the parameters of the smallest and the largest network, the epochs. Code of
    your own is imported; with --try it runs."""
    _one_thread()
    with contextlib.redirect_stdout(sys.stderr):  # what a person's own file prints is none of our output
        spec = _read(file, overrides, name, trials)
        from tuner.workloads.kinds import workload

        trained = workload(spec)
    _print_plan(spec, output, trained, thorough=True)
    if try_one:
        _try(spec, trained, output)


def stop(study: StudyName, home: Home = DEFAULT_HOME, cluster: Cluster = None) -> None:
    """Stop a running study; it can be launched again.

    Its process saves its trials and ends; `tuner launch` goes on with them."""
    if cluster is not None:
        handover.stop(study, cluster)
        return
    from tuner.cli.stopping import stop as stop_study
    from tuner.ledger import study_folder

    stop_study(study_folder(home, study), lambda text: typer.echo(text, err=True))


def schema() -> None:
    """Print the JSON Schema of study files."""
    from tuner.spec.json_schema import schema as schema_of_file

    print_json(schema_of_file())


def _one_thread() -> None:
    """Compute with one thread in this process, as workers do, unless the person says otherwise.

    Two examples through small networks need no more, threads that start take up to half a second, and only a process
    of one thread can be copied. Before numpy and torch are imported, which read it then.
    """
    for library in ("OMP", "OPENBLAS"):  # MKL heeds the first of them
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")


def _read(file: Path, overrides: Sequence[str] | None, name: str | None, trials: int | None) -> StudySpec:
    from tuner.spec import StudySpec

    return StudySpec.read(file, overrides=overrides or (), name=name, trials=trials)


def _print_plan(spec: StudySpec, output: Output, trained: Workload, *, thorough: bool = False) -> None:
    from tuner.study.preflight import plan

    with contextlib.redirect_stdout(sys.stderr):
        made = plan(spec, trained, thorough=thorough)
    if output is Output.TABLE:
        print_lines(made.lines())
    else:
        print_rows([made.to_dict()], output, made.to_dict())


def _try(spec: StudySpec, trained: Workload, output: Output) -> None:
    """Print the first report of one trial; where it fails, its traceback and why."""
    from tuner.errors import TrialError, TunerError
    from tuner.study.trying import first_report

    try:
        with contextlib.redirect_stdout(sys.stderr):
            report = first_report(spec, trained)
    except TrialError as error:
        if error.trace:
            typer.echo(error.trace, err=True)
        raise TunerError(f"a trial with the smallest values fails: {error}") from None
    for line in report.lines(spec.metric):
        typer.echo(line, err=output is not Output.TABLE)
