"""What several verbs take, how it is completed, and how the help is laid out.

It knows typer and completion. It must never know what a verb does.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tuner.cli import completion
from tuner.terminal.tables import Output

DEFAULT_HOME = Path("tuner-home")

StudyFile = Annotated[
    Path,
    typer.Argument(
        metavar="STUDY.yaml", help="The study file.", show_default=False, autocompletion=completion.study_files
    ),
]
OptionalStudyFile = Annotated[
    Path | None,
    typer.Argument(
        metavar="[STUDY.yaml]", help="A study file.", show_default=False, autocompletion=completion.study_files
    ),
]
StudyName = Annotated[
    str,
    typer.Argument(
        metavar="STUDY", help="The study's name.", show_default=False, autocompletion=completion.study_names
    ),
]
AnyStudy = Annotated[
    str | None,
    typer.Argument(
        metavar="[STUDY]", help="One study; all of them unless named.", autocompletion=completion.study_names
    ),
]
Home = Annotated[Path, typer.Option("--home", envvar="TUNER_HOME", help="Folder of the studies.")]
Cluster = Annotated[
    str | None,
    typer.Option("--cluster", envvar="TUNER_CLUSTER", help="Ask a Ray cluster, at its dashboard's host:port."),
]
Format = Annotated[Output, typer.Option("--output", "-o", help="Output format.")]
Wide = Annotated[bool, typer.Option("--wide", "-w", help="Every column of the table, however wide the terminal is.")]
Name = Annotated[str | None, typer.Option(help="Another name than the file's `study`.")]
Trials = Annotated[int | None, typer.Option(help="Another number than the file's `search.trials`.")]
AcceptCode = Annotated[
    bool, typer.Option("--accept-code", help="Go on although the file of your own network has changed.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Replace one value of the file; may be repeated.",
        autocompletion=completion.overrides,
    ),
]
Item = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME]",
        help="One of them, in detail; all of them unless named.",
        show_default=False,
        autocompletion=completion.item_names,
    ),
]


class Verbs(TyperGroup):
    """The program: its verbs in groups, and a near option where one is unknown, told as everywhere else."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - click's own signature
        """Each group under its own heading, all of them indented alike."""
        groups: dict[str, list[tuple[str, str]]] = {}
        width = max(map(len, self.commands))
        for name, command in self.commands.items():
            line = command.get_short_help_str(formatter.width - width - 6)
            groups.setdefault(getattr(command, "rich_help_panel", None) or "Commands", []).append(
                (f"{name:<{width}}", line)
            )
        for title, rows in groups.items():
            with formatter.section(title):
                formatter.write_dl(rows)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except Exception as error:  # click's UsageError, which typer hides: a verb that there is not
            _suggest(error, args[0] if args else "", self.commands)
            raise

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            if near := getattr(error, "possibilities", None):  # an unknown option, with those that are spelt alike
                error.possibilities = None  # type: ignore[attr-defined]
                _suggest(error, getattr(error, "option_name", ""), near)
            raise


def _suggest(error: Any, name: str, known: Iterable[str]) -> None:
    """Add to the message what may have been meant."""
    from tuner.search_spaces.spelling import nearest

    near = nearest(name, known)
    if near is not None and hasattr(error, "message"):
        error.message = f"{error.message.rstrip('.')}. Did you mean {near!r}?"
