"""The command line: reads arguments, calls one function for each verb, prints what it returns, sets the exit code.

It knows every part's front door and no part's inside, and imports nothing heavy until a verb needs it. It must never
compute a result: what it prints stands in the ledger, the plan or the spec. Results go to stdout, and nothing else
does; progress, logs and errors go to stderr.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuner import aids, handover, looks
from tuner.arguments import (
    DEFAULT_HOME,
    AnyStudy,
    Cluster,
    Format,
    Home,
    Name,
    Overrides,
    StudyFile,
    StudyName,
    Trials,
    Verbs,
)
from tuner.errors import InputError, LedgerError, StudyMissing, TunerError
from tuner.output import Output, print_json, print_lines, print_pairs, print_rows

if TYPE_CHECKING:
    from tuner.history import History
    from tuner.spec import StudySpec

SYNC_SECONDS = 30.0  # without an answer from MLflow, until `sync` gives up


# The headings of the help.
RUN, LOOK, USE, CHOOSE, MACHINE = (
    "Run studies",
    "Look at them",
    "Use the winner",
    "What there is to choose from",
    "This machine",
)

app = typer.Typer(
    name="tuner",
    cls=Verbs,
    help="Hyperparameter tuning and experiment tracking for PyTorch.",
    no_args_is_help=True,
    add_completion=False,  # `tuner completion` prints scripts of our own, for bash cuts words at "="
    rich_markup_mode=None,  # plain help: rich alone would take half of the 0.3 s that --help may take
    pretty_exceptions_enable=False,  # what is no TunerError is a bug, and a bug's traceback is shown as Python shows it
)


app.command(rich_help_panel=RUN)(aids.init)


@app.command(rich_help_panel=RUN)
def launch(
    file: StudyFile,
    *,
    name: Name = None,
    trials: Trials = None,
    overrides: Overrides = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Another number than the file's `run.workers`.")
    ] = None,
    home: Home = DEFAULT_HOME,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and print the plan; start nothing.")] = False,
) -> None:
    """Run a study, or go on where it was interrupted.

    A finished study is extended when it is asked for more trials with --trials."""
    # Until there is something to save, Ctrl-C leaves at once: raised in the middle of an import it would end anywhere.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    _one_thread()
    if dry_run:
        _print_plan(_read(file, overrides, name, trials), Output.TABLE)
        return
    from tuner.tracking.standby import Standby

    with Standby(file, overrides or ()) as standby:  # it imports MLflow while we import torch
        spec = _read(file, overrides, name, trials)
        from tuner.progress import progress_for
        from tuner.study import launch as launch_study

        gc.freeze()  # what is imported stays: workers share it, and nobody looks for garbage in it
        options: dict[str, Any] = {"home": home, "workers": workers, "progress": progress_for()}
        study = launch_study(spec, **options, forking=True, standby=standby)
    from tuner.summary import ending

    # What a person can paste: the program as they called it, where it is not on their path.
    program = "tuner" if shutil.which("tuner") else min(sys.argv[0], os.path.relpath(sys.argv[0]), key=len)
    where = "" if home == DEFAULT_HOME else f" --home {shlex.quote(str(home))}"
    print_lines(ending(study.name, study.history, study.state, study.tracking, program=program, where=where))
    if study.state == "interrupted":
        raise typer.Exit(128 + (study.signal or signal.SIGINT))
    if study.state == "failed":
        raise typer.Exit(1)


@app.command(rich_help_panel=RUN)
def check(
    file: StudyFile,
    *,
    name: Name = None,
    trials: Trials = None,
    overrides: Overrides = None,
    output: Format = Output.TABLE,
) -> None:
    """Validate a study file and print its plan.

    The plan tells the size of the space, the parameters of the smallest and the largest network, the epochs."""
    _one_thread()
    with contextlib.redirect_stdout(sys.stderr):  # what a person's own file prints is none of our output
        spec = _read(file, overrides, name, trials)
    _print_plan(spec, output)


@app.command("list", rich_help_panel=LOOK)
def list_studies(*, home: Home = DEFAULT_HOME, output: Format = Output.TABLE) -> None:
    """List the studies of a home."""
    _print_standings(_standings(home), output, home)


@app.command(rich_help_panel=LOOK)
def status(
    study: AnyStudy = None, *, home: Home = DEFAULT_HOME, cluster: Cluster = None, output: Format = Output.TABLE
) -> None:
    """Tell how far studies are, and who drives them."""
    if cluster is not None:
        handover.status(study, cluster, output)
        return
    if study is None:
        _print_standings(_standings(home, full=True), output, home)
        return
    from tuner.summary import standing

    found = standing(study, *_history(study, home), full=True)
    if output is Output.TABLE:
        print_pairs(found)
    else:
        print_rows([found], output, found)


@app.command(rich_help_panel=LOOK)
def results(study: StudyName, *, home: Home = DEFAULT_HOME, output: Format = Output.TABLE) -> None:
    """Print every trial of a study."""
    from tuner.results import as_json

    history, holder = _history(study, home)
    document = as_json(history, driven=holder is not None)
    print_rows([_row(trial) for trial in document["trials"]], output, document)


@app.command(rich_help_panel=LOOK)
def best(study: StudyName, *, home: Home = DEFAULT_HOME, output: Format = Output.TABLE) -> None:
    """Print the best completed trial, or the Pareto front."""
    from tuner.results import best_json

    history, _ = _history(study, home)
    found = best_json(history)
    if found is None:
        raise StudyMissing(f"study {study} has no completed trial yet; `tuner status {study}` tells how far it is")
    if output is Output.TABLE and not isinstance(found, list):
        print_pairs(_row(found))
    else:
        print_rows([_row(trial) for trial in (found if isinstance(found, list) else [found])], output, found)


@app.command(rich_help_panel=RUN)
def stop(study: StudyName, home: Home = DEFAULT_HOME, cluster: Cluster = None) -> None:
    """Stop a running study; it can be launched again.

    Its process saves its trials and ends; `tuner launch` goes on with them."""
    if cluster is not None:
        handover.stop(study, cluster)
        return
    from tuner.ledger import study_folder
    from tuner.stopping import stop as stop_study

    stop_study(study_folder(home, study), lambda text: typer.echo(text, err=True))


app.command(rich_help_panel=RUN)(handover.submit)
app.command(rich_help_panel=LOOK)(handover.logs)
app.command(rich_help_panel=USE)(looks.predict)
app.command(rich_help_panel=USE)(looks.generate)
app.command(rich_help_panel=USE)(looks.attend)


@app.command(rich_help_panel=CHOOSE)
def schema() -> None:
    """Print the JSON Schema of study files."""
    from tuner.spec.schema import schema as schema_of_file

    print_json(schema_of_file())


@app.command(rich_help_panel=LOOK)
def sync(
    study: AnyStudy = None,
    *,
    home: Home = DEFAULT_HOME,
    mlflow: Annotated[str | None, typer.Option(help="Another address than the study's `tracking.mlflow`.")] = None,
) -> None:
    """Write to MLflow what is not written yet.

    For when its server was away, or its store was deleted and is to be rebuilt."""
    from tuner.ledger import studies

    if mlflow is not None:
        from tuner.spec.sections import store_problem

        if problem := store_problem(mlflow):
            raise InputError(f"--mlflow: {problem}")
    waiting = 0
    for name in [study] if study is not None else studies(home):
        waiting += _sync(name, home, mlflow)
    if waiting:
        raise typer.Exit(1)


@app.command(rich_help_panel=LOOK)
def ui(
    study: AnyStudy = None,
    *,
    home: Home = DEFAULT_HOME,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where to listen; another one if it is taken.")] = 5000,
) -> None:
    """Start the MLflow dashboard and print its link.

    It listens on 127.0.0.1 and ends with Ctrl-C."""
    from tuner.tracking.dashboard import serve

    serve(home, study, port)


for kind, told in aids.LISTS.items():
    app.command(kind, help=told, rich_help_panel=CHOOSE)(aids.listing(kind))
app.command(rich_help_panel=MACHINE)(aids.doctor)
app.command(rich_help_panel=MACHINE)(aids.completion)


def _sync(study: str, home: Path, mlflow: str | None) -> int:
    """Repeat one study in MLflow, in the process that a launch uses for it; returns the points that still wait."""
    from tuner.ledger import Ledger, study_folder
    from tuner.tracking.writer import Writer

    folder = study_folder(home, study)
    with Ledger.open(folder, read_only=True) as ledger:
        address = mlflow or ledger.history().tracking
    if address == "off":
        typer.echo(f"{study}: launched with `tracking: {{mlflow: off}}`; --mlflow embedded writes it all the same")
        return 0
    with Writer(folder, home, address, once=True, patience=SYNC_SECONDS, log="sync.log") as writer:
        said = writer.wait()
    assert said is not None, address
    if not said["error"]:
        typer.echo(f"{study}: everything is in MLflow ({said['written']:,} points written now)")
        return 0
    waiting = said.get("waiting", 0)
    typer.echo(f"{study}: {waiting:,} points waiting ({said['error']}); {writer.log} has more", err=True)
    return max(1, waiting)


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


def _print_plan(spec: StudySpec, output: Output) -> None:
    from tuner.plan import load, plan

    with contextlib.redirect_stdout(sys.stderr):
        made = plan(spec, load(spec))
    if output is Output.TABLE:
        print_lines(made.lines())
    else:
        print_rows([made.to_dict()], output, made.to_dict())


def _history(study: str, home: Path) -> tuple[History, Mapping[str, Any] | None]:
    """The study's facts, and who drives it now."""
    from tuner.ledger import Ledger, study_folder

    with Ledger.open(study_folder(home, study), read_only=True) as ledger:
        holder = ledger.holder()  # before the history: a study seen as driven may have ended since, never the reverse
        return ledger.history(), holder


def _standings(home: Path, *, full: bool = False) -> list[dict[str, Any]]:
    """Every study of the home, in a row each; what is wrong with one is told on stderr and hides no other."""
    from tuner.ledger import studies
    from tuner.summary import standing

    found: list[dict[str, Any]] = []
    for name in studies(home):
        try:
            found.append(standing(name, *_history(name, home), full=full))
        except LedgerError as error:
            typer.echo(str(error), err=True)
            found.append({"study": name, "state": "unreadable"})
    return found


def _print_standings(standings: list[dict[str, Any]], output: Output, home: Path) -> None:
    if not standings and output is Output.TABLE:
        typer.echo(f"no studies in {home}", err=True)
    else:
        print_rows(standings, output, standings)


def _row(trial: Mapping[str, Any]) -> dict[str, Any]:
    """A trial of `results --output json` for a table: without its last epoch, which would double the columns."""
    return {name: value for name, value in trial.items() if name != "last"}


def main() -> None:
    """The console script. Ends with 0 done, 1 failed, 2 wrong input, 130 or 143 interrupted."""
    # Imports make a million objects that live to the end: to look for garbage among them would take a fifth of their
    # time, and at the end half a second more.
    gc.set_threshold(200_000)
    atexit.register(gc.freeze)
    if "_TUNER_COMPLETE" in os.environ:
        from tuner.completion import switch_on

        switch_on()
    try:
        app(prog_name="tuner")
    except TunerError as error:
        typer.echo(str(error), err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # a disk, a permission, a closed connection: the machine's trouble, in its own words
        typer.echo(f"tuner: {error}", err=True)
        sys.exit(1)
