"""The verbs around studies: a first study file, what there is to choose from, the machine's health, completion.

As the command line does with its own, it reads arguments, calls one function for each verb and prints what it
returns; nothing heavy is imported until a verb needs it.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from tuner.cli.arguments import DEFAULT_HOME, Format, Home, Item, OptionalStudyFile
from tuner.cli.completion import SCRIPTS, family_names
from tuner.errors import InputError, TunerError
from tuner.terminal.tables import Output, print_lines, print_rows

DISTRIBUTION = "cohort-tuner"

LISTS = {  # verb of a list → its line of help
    "models": "List the networks, or the hyperparameters of one.",
    "spaces": "List the search spaces, or the parameters of one.",
    "datasets": "List the built-in datasets, or describe one.",
    "samplers": "List the samplers, or the settings of one.",
    "pruners": "List the pruners, or the settings of one.",
}


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print_lines([f"tuner {version(DISTRIBUTION)}"])
        raise typer.Exit


def program(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Hyperparameter tuning and experiment tracking for PyTorch."""


def explain(
    context: typer.Context,
    verb: Annotated[str | None, typer.Argument(metavar="[VERB]", help="A verb; all of them unless named.")] = None,
) -> None:
    """Show the help of a verb, or of the program."""
    above = context.parent
    assert above is not None
    if verb is None:
        print_lines([above.get_help()])
        return
    group: Any = above.command
    name, command, _ = group.resolve_command(above, [verb])  # an unknown one is told as everywhere else
    with context.__class__(command, info_name=name, parent=above) as inner:
        print_lines([command.get_help(inner)])


def init(
    *,
    data: Annotated[str | None, typer.Option(help="Your file, or a name from `tuner datasets`.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="A table's column to predict; may be repeated.")] = None,
    drop: Annotated[list[str] | None, typer.Option(help="A table's column to leave out; may be repeated.")] = None,
    types: Annotated[
        list[str] | None, typer.Option("--type", help="COLUMN=number, category, date or id; may be repeated.")
    ] = None,
    modality: Annotated[str | None, typer.Option(help="How a network sees an example; told from the data.")] = None,
    family: Annotated[str | None, typer.Option(help="The network.", autocompletion=family_names)] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="How many; 64 unless told.")] = None,
    name: Annotated[str | None, typer.Option(help="The study's name; the file's unless told.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file; NAME.yaml unless told.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Write a first study file for your own data.

    At a terminal it asks what it is not told; what it writes passes `tuner check`."""
    from tuner.cli.starter import StarterOptions, write

    told = dict(_pair(text) for text in types or ())
    wish = StarterOptions(data, tuple(target or ()), family, trials, name, tuple(drop or ()), told, modality)
    file, plan = write(wish, output, force=force, ask=_ask if sys.stdin.isatty() else None)
    print_lines([*plan, "", f"wrote {file}: look at it, then `tuner launch {shlex.quote(str(file))}`"])


def _pair(text: str) -> tuple[str, str]:
    """COLUMN=TYPE, as it is written behind --type."""
    from tuner.models.interface import COLUMN_TYPES

    column, equals, kind = text.rpartition("=")
    if not equals or kind not in COLUMN_TYPES:
        raise InputError(f"--type: expected COLUMN=TYPE, TYPE one of {', '.join(COLUMN_TYPES)}, got {text!r}")
    return column, kind


def listing(kind: str) -> Callable[..., None]:
    """The verb that lists one kind of thing, and tells more of one of them."""

    def show(name: Item = None, *, output: Format = Output.TABLE) -> None:
        from tuner.cli.catalogue import detail, listing

        rows = listing(kind) if name is None else detail(kind, name)
        print_rows(rows, output, rows)

    return show


def doctor(file: OptionalStudyFile = None, *, home: Home = DEFAULT_HOME, output: Format = Output.TABLE) -> None:
    """Check that this machine is ready for studies.

    With a study file: also that the MLflow it names answers. Exits with 1 where there is a problem."""
    from tuner.cli.doctor import PROBLEM, Place, address_in, examine

    findings = []
    for finding in examine(Place(home) if file is None else Place(home, address_in(file))):
        findings.append(finding)
        if output is Output.TABLE:
            print_lines([finding.line()])  # as it is found: some checks take seconds
    if output is not Output.TABLE:
        rows = [finding.to_dict() for finding in findings]
        print_rows(rows, output, rows)
    if any(finding.state == PROBLEM for finding in findings):
        raise typer.Exit(1)


def completion(
    shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="Your shell.", show_default=False)],
) -> None:
    """Print the script that completes commands in your shell."""
    if shell not in SCRIPTS:
        raise InputError(f"shell: expected one of {', '.join(SCRIPTS)}, got {shell!r}")
    print_lines([SCRIPTS[shell].strip()])


def _ask(question: str, default: str | None, make: Callable[[str], Any]) -> Any:
    """Ask until the answer makes something."""
    while True:
        try:
            return make(typer.prompt(question, default=default, err=True))
        except TunerError as error:
            typer.echo(str(error), err=True)
