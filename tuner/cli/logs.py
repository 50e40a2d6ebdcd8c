"""The verb for what trials printed and why they failed: from a study's folder, or from the cluster that it runs on.

As all verbs do, it reads arguments, calls one function and prints what it returns; nothing heavy is imported until it
is needed.
"""

from __future__ import annotations

import time
from typing import Annotated

import typer

from tuner.cli import cluster as handover
from tuner.cli.arguments import DEFAULT_HOME, Cluster, Home, StudyName
from tuner.errors import InputError
from tuner.terminal.tables import print_lines

_LOOK_SECONDS = 0.3  # between two looks at a study that runs


def logs(
    study: StudyName,
    *,
    trial: Annotated[int | None, typer.Option(min=0, help="What concerns one trial alone, by its number.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the study ends.")] = False,
    home: Home = DEFAULT_HOME,
    cluster: Cluster = None,
) -> None:
    """Show what trials printed, and why they failed.

    With --cluster what the driver there says. With --follow it exits as the launch does: 0 complete, 1 failed."""
    if cluster is not None:
        if trial is not None:
            raise InputError("--trial: a cluster tells what a study's driver says, not its trials; leave out --cluster")
        handover.logs(study, cluster, follow=follow)
        return
    from tuner.history.failures import too_many
    from tuner.ledger import Ledger, study_folder
    from tuner.logs import Logs

    with Ledger.open(study_folder(home, study), read_only=True) as ledger:
        told = Logs(ledger, trial)
        printed = 0
        while True:
            running = follow and ledger.holder() is not None  # before the look, which then sees all that was said
            for section in told.new(whole=not running):
                print_lines(section.lines())
                printed += 1
            if not running:
                break
            time.sleep(_LOOK_SECONDS)
        if not printed:
            whose = study if trial is None else f"trial {trial} of {study}"
            typer.echo(f"{whose} printed nothing, and nothing failed", err=True)
        if follow:
            history = ledger.history()
            if history.completed != "complete" or too_many(history):
                raise typer.Exit(1)
