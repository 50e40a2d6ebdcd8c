"""The verbs that look at studies: list, status, results, best; their dashboard, and what it has not been told yet.

As all verbs do, they read arguments, call one function and print what it returns; nothing heavy is imported until a
verb needs it. They must never compute a result: what they print stands in the ledger.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuner.cli import cluster as handover
from tuner.cli.arguments import DEFAULT_HOME, AnyStudy, Cluster, Format, Home, StudyName, Wide
from tuner.errors import InputError, LedgerDamaged, LedgerError, StudyMissing
from tuner.terminal.tables import Output, print_pairs, print_rows, print_table

if TYPE_CHECKING:
    from tuner.history.fold import History

_ORDER = ("COMPLETE", "PRUNED", "RUNNING", "WAITING", "FAILED")  # of the states, in a table of trials
SYNC_SECONDS = 30.0  # without an answer from MLflow, until `sync` gives up


def list_studies(*, home: Home = DEFAULT_HOME, output: Format = Output.TABLE, wide: Wide = False) -> None:
    """List the studies of a home."""
    _print_standings(_standings(home), output, home, wide)


def status(
    study: AnyStudy = None,
    *,
    home: Home = DEFAULT_HOME,
    cluster: Cluster = None,
    output: Format = Output.TABLE,
    wide: Wide = False,
) -> None:
    """Show the progress of studies, and the process that runs each."""
    if cluster is not None:
        handover.status(study, cluster, output)
        return
    if study is None:
        standings = _standings(home, full=True)
        _print_standings(standings, output, home, wide)
        if any(row["state"] in ("damaged", "unreadable") for row in standings):
            raise typer.Exit(LedgerDamaged.exit_code)
        return
    from tuner.cli.summary import for_people

    found, damage = _standing(study, home, full=True)
    if output is Output.TABLE:
        print_pairs(for_people(found))
        if (note := found.get("note")) is not None:
            typer.echo(note)
    else:
        print_rows([found], output, found)
    if damage:
        raise LedgerDamaged(damage)


def results(study: StudyName, *, home: Home = DEFAULT_HOME, output: Format = Output.TABLE, wide: Wide = False) -> None:
    """Print every trial of a study.

    The best first in a table, in CSV and JSON by number, with all digits."""
    from tuner.history.results import as_json

    history, holder = _history(study, home)
    document = as_json(history, driven=holder is not None)
    if output is Output.TABLE and not document["trials"]:
        typer.echo(f"study {study} has no trials yet", err=True)
    elif output is Output.TABLE:
        _print_trials(_best_first(document), document, wide)
    else:
        print_rows([_row(trial) for trial in document["trials"]], output, document)


def best(study: StudyName, *, home: Home = DEFAULT_HOME, output: Format = Output.TABLE, wide: Wide = False) -> None:
    """Print the best completed trial, or the Pareto front."""
    from tuner.cli.summary import overlooked
    from tuner.history.results import as_json, best_json

    history, _ = _history(study, home)
    found = best_json(history)
    if found is None:
        if history.completed:
            raise StudyMissing(f"none of the trials of study {study} completed; `tuner results {study}` tells why")
        raise StudyMissing(f"study {study} has no completed trial yet; `tuner status {study}` tells how far it is")
    if output is Output.TABLE and isinstance(found, list):
        _print_trials(found, as_json(history), wide)
    elif output is Output.TABLE and not isinstance(found, list):
        print_pairs(_row(found))
    else:
        print_rows([_row(trial) for trial in (found if isinstance(found, list) else [found])], output, found)
    if (pruned := overlooked(history)) is not None:
        typer.echo(pruned, err=output is not Output.TABLE)


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
        try:
            waiting += _sync(name, home, mlflow)
        except LedgerError as error:
            if study is not None:
                raise
            typer.echo(str(error), err=True)  # the others are written all the same
            waiting += 1
    if waiting:
        raise typer.Exit(1)


def ui(
    study: AnyStudy = None,
    *,
    home: Home = DEFAULT_HOME,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where to listen; another one if it is taken.")] = 5000,
) -> None:
    """Start the MLflow dashboard and print its link.

    It listens on 127.0.0.1 and ends with Ctrl-C."""
    shown = f"study {study}" if study else f"the studies in {home}"
    typer.echo(f"starting MLflow's server for {shown}", err=True)  # before all that takes seconds
    from tuner.tracking.dashboard import serve

    serve(home, study, port)


def _sync(study: str, home: Path, mlflow: str | None) -> int:
    """Repeat one study in MLflow, in the process that a launch uses for it; returns the points that still wait."""
    from tuner.ledger import Ledger, study_folder
    from tuner.tracking.writer import Writer

    folder = study_folder(home, study)
    with Ledger.open(folder, read_only=True) as ledger:
        address = mlflow or ledger.history().tracking
    if mlflow is None and _is_written(folder):
        typer.echo(f"{study}: its launch is running, and writes to MLflow")
        return 0
    if address == "off":
        typer.echo(f"{study}: launched with `tracking: {{mlflow: off}}`; --mlflow embedded writes it all the same")
        return 0
    with Writer(folder, home, address, once=True, patience=SYNC_SECONDS, log="sync.log") as writer:
        said = writer.wait()
    assert said is not None, address
    if warning := said.get("warning"):
        typer.echo(f"{study}: {warning}", err=True)
    if not said["error"]:
        typer.echo(f"{study}: everything is in MLflow ({said['written']:,} points written now)")
        return 0
    waiting = said.get("waiting", 0)
    typer.echo(f"{study}: {waiting:,} points waiting ({said['error']}); {writer.log} has more", err=True)
    return max(1, waiting)


def _is_written(folder: Path) -> bool:
    """Whether a process writes the study to MLflow now, and goes on with it."""
    from tuner import processes
    from tuner.tracking.in_the_way import LOCK

    holders = processes.holders(folder / LOCK)
    return bool(holders) and not any(map(processes.stopped, holders))


def _history(study: str, home: Path) -> tuple[History, Mapping[str, Any] | None]:
    """The study's facts, and who drives it now."""
    history, holder, damage = _examined(study, home, partly=False)
    if damage:
        typer.echo(damage, err=True)
    return history, holder


def _standing(study: str, home: Path, *, full: bool) -> tuple[dict[str, Any], str]:
    """One study in one row, and what is wrong with its ledger."""
    from tuner.cli.summary import standing
    from tuner.ledger import study_folder

    history, holder, damage = _examined(study, home)
    folder = study_folder(home, study)
    if not damage:
        return standing(study, history, holder, folder, full=full), ""
    try:
        row = standing(study, history, holder, folder, full=full)
    except Exception:  # noqa: BLE001 - what is not as it was stored may be anything
        row = {"study": study}
    return row | {"state": "damaged"}, damage


def _examined(study: str, home: Path, *, partly: bool = True) -> tuple[History, Mapping[str, Any] | None, str]:
    """The same, and what is wrong with its ledger, "" where nothing is.

    Raises LedgerDamaged where a part of the history alone can be read, unless that will do."""
    from tuner.ledger import Ledger, study_folder

    with Ledger.open(study_folder(home, study), read_only=True) as ledger:
        holder = ledger.holder()  # before the history: a study seen as driven may have ended since, never the reverse
        history, audit = ledger.examine()
        if audit.fatal and not partly:
            raise LedgerDamaged(ledger.damage(audit))
        return history, holder, ledger.damage(audit)


def _standings(home: Path, *, full: bool = False) -> list[dict[str, Any]]:
    """Every study of the home, in a row each; what is wrong with one is told on stderr and hides no other."""
    from tuner.ledger import studies

    found: list[dict[str, Any]] = []
    for name in studies(home):
        try:
            row, damage = _standing(name, home, full=full)
            if damage:
                typer.echo(damage, err=True)
            found.append(row)
        except LedgerError as error:
            typer.echo(str(error), err=True)
            found.append({"study": name, "state": "unreadable"})
    return found


def _print_standings(standings: list[dict[str, Any]], output: Output, home: Path, wide: bool) -> None:
    from tuner.cli.summary import for_people

    if not standings and output is Output.TABLE:
        typer.echo(f"no studies in {home}", err=True)
    elif output is Output.TABLE:
        rows = [{key: value for key, value in for_people(row).items() if key != "progress"} for row in standings]
        _tell_left_out(print_table(rows, wide=wide))
    else:
        print_rows(standings, output, standings)


def _row(trial: Mapping[str, Any]) -> dict[str, Any]:
    """A trial of `results --output json` for CSV: without its last epoch, which would double the columns."""
    return {name: value for name, value in trial.items() if name != "last"}


def _best_first(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The trials, those that completed before those that did not, the best first; equal ones by number."""
    signs = {one["metric"]: -1.0 if one["goal"] == "maximize" else 1.0 for one in document["objectives"]}

    def place(trial: Mapping[str, Any]) -> tuple[float, ...]:
        values = (sign * trial["metrics"].get(name, sign * math.inf) for name, sign in signs.items())
        return _ORDER.index(trial["state"]), *values, trial["number"]

    return sorted(document["trials"], key=place)


def _print_trials(trials: Sequence[Mapping[str, Any]], document: Mapping[str, Any], wide: bool) -> None:
    """A table of trials, what people look for first on the left."""
    objectives = [objective["metric"] for objective in document["objectives"]]
    rows = []
    for trial in trials:
        row = {name: trial[name] for name in ("number", "state", "pareto") if name in trial}
        metrics = trial["metrics"]
        row |= {name: metrics.get(name) for name in objectives}
        row |= {"best_epoch": trial["best_epoch"], "epochs": trial["epochs"], "params": trial["params"]}
        row["metrics"] = {name: value for name, value in metrics.items() if name not in objectives}
        rows.append(row | {name: trial[name] for name in ("code", "message", "seconds", "seed") if name in trial})
    _tell_left_out(print_table(rows, wide=wide))


def _tell_left_out(columns: Sequence[str]) -> None:
    if columns:
        named = ", ".join(columns[:4]) + (f" and {len(columns) - 4} more" if len(columns) > 4 else "")
        typer.echo(f"no room for {named}; --wide shows every column", err=True)
