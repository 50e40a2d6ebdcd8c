"""The verb that deletes a study.

As all verbs do, it reads arguments, calls one function and prints what it says; nothing heavy is imported until it is
needed.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tuner.cli.arguments import DEFAULT_HOME, Home, StudyName
from tuner.errors import InputError


def delete(
    study: StudyName,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    keep_mlflow: Annotated[bool, typer.Option("--keep-mlflow", help="Leave its runs and its model in MLflow.")] = False,
    home: Home = DEFAULT_HOME,
) -> None:
    """Delete a study and all that is kept of it.

    Its folder, its events, its checkpoints, and its runs and registered model in MLflow; a running study is refused."""
    from tuner import deletion

    what = deletion.described(home, study)
    if not yes:
        if not sys.stdin.isatty():
            raise InputError("not a terminal, so nobody can be asked: pass --yes to delete the study")
        also = "" if keep_mlflow else ", and what MLflow has of it"
        typer.confirm(f"delete {what}{also}?", abort=True, err=True)
    deletion.delete(home, study, lambda text: typer.echo(text, err=True), keep_mlflow=keep_mlflow)
