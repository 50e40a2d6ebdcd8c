"""The verbs that use a study's winner: predictions, text in its own words, and what mattered to it in an example.

As the command line does with its own, it reads arguments, calls one function for each verb and prints what it
returns; nothing heavy is imported until a verb needs it.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuner.cli.arguments import DEFAULT_HOME, Format, Home, StudyName
from tuner.terminal.tables import Output, print_lines, print_rows, printable

if TYPE_CHECKING:
    from tuner.champion import Predictor

MOST = 20  # examples of a file that are shown to a person; programs and folders get all


def predict(
    study: StudyName,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="New rows: a file or folder like the data of the study.", show_default=False
        ),
    ],
    home: Home = DEFAULT_HOME,
    output: Format = Output.CSV,
) -> None:
    """Predict new rows with a study's champion."""
    predictor = _predictor(study, home)
    raw = predictor.read(file)
    for line in predictor.preprocess.strangers(raw):
        typer.echo(f"{file}: {line}", err=True)
    frame = predictor.predict(raw)
    rows: list[dict[str, Any]] = [dict(zip(frame.columns, row, strict=True)) for row in frame.itertuples(index=False)]
    print_rows(rows, output, rows)


def generate(
    study: StudyName,
    *,
    prompt: Annotated[str, typer.Option(help="What to go on from.", show_default=False)],
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0 is greedy, 1 the model's distribution, higher is more random.")
    ] = 1.0,
    length: Annotated[int, typer.Option(min=0, help="Characters to write.")] = 500,
    seed: Annotated[int, typer.Option(help="Another seed, another text.")] = 0,
    home: Home = DEFAULT_HOME,
) -> None:
    """Continue a text with a study's champion.

    Prints what follows the prompt, and nothing else, on stdout. Equal arguments give equal text."""
    from tuner.inference.generate import strangers

    predictor = _predictor(study, home)
    text = predictor.generate(prompt, length, temperature, seed)
    if unknown := strangers(predictor.preprocess, prompt):
        said = " ".join(repr(character) for character in unknown)
        typer.echo(f"--prompt: training never saw {said}; read as unknown", err=True)
    lines = text.split("\n") if sys.stdout.isatty() else None  # a terminal must not be moved by what a network writes
    print_lines([text] if lines is None else map(printable, lines))


def attend(
    study: StudyName,
    example: Annotated[
        str,
        typer.Argument(
            metavar="FILE|INDEX",
            help="New examples, or the number of a test row (of a validation row, without a test split).",
            show_default=False,
        ),
    ],
    *,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PLACE|table|json|csv",
            help="A .png or .html file or a folder to write to, or what stdout gets.",
        ),
    ] = None,
    own_code: Annotated[
        bool,
        typer.Option(
            "--own-code", help="Run the study's own Python files, too: a network that has no champion, a data function."
        ),
    ] = False,
    home: Home = DEFAULT_HOME,
) -> None:
    """Show which parts of an input mattered to the best trial.

    Images and sequences become a picture, STUDY-attended.png unless told; text is marked, columns are ranked."""
    form = Output(output) if output in list(Output) else None
    folder = _folder(study, home)
    with contextlib.redirect_stdout(sys.stderr):  # what a person's own file prints is none of our output
        from tuner.inference.explain import Best

        best = Best.of(folder, own_code=own_code)
        if re.fullmatch(r"-?\d+", example):
            look, where = best.row(int(example))
        else:
            everything = form in (Output.JSON, Output.CSV) or (output is not None and not Path(output).suffix)
            look, where = best.file(folder, Path(example), None if everything else MOST + 1), example
    if not re.fullmatch(r"-?\d+", example) and not everything and len(look.examples) > MOST:
        look = type(look)(look.modality, look.method, look.examples[:MOST])
        typer.echo(f"{example}: the first {MOST} examples are shown; -o json, csv or a folder has them all", err=True)
    title = f"trial {best.number} of {study}, {where}"
    typer.echo(f"{title}: by {look.method}", err=True)
    _show(look, study, title, {"study": study, "trial": best.number, "examples_of": where}, output, form)


def _show(look: Any, study: str, title: str, about: dict[str, Any], output: str | None, form: Output | None) -> None:
    from tuner.inference.render import PICTURES, marked, write

    if form is None and output is None and look.modality in PICTURES:
        output = f"{study}-attended.png"
    if form is None and output is not None:
        files = write(look, title, Path(output))
        typer.echo(f"wrote {files[0] if len(files) == 1 else f'{len(files)} files to {output}'}", err=True)
    elif form is None and look.modality == "text" and sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        print_lines(map(marked, look.examples))
    else:
        if form in (None, Output.TABLE):
            print_lines(f"row {one.row}: {printable(one.verdict)}" for one in look.examples)
        print_rows(look.rows(), form or Output.TABLE, about | look.to_dict())


def _predictor(study: str, home: Path) -> Predictor:
    """The study's champion. Raises StudyMissing where it has none, with what to do about it."""
    from tuner.champion import Predictor
    from tuner.errors import StudyMissing
    from tuner.ledger import Ledger

    folder = _folder(study, home)
    try:
        return Predictor.load(folder)
    except StudyMissing:
        with Ledger.open(folder, read_only=True) as ledger:
            failed = ledger.history().completed == "failed"
        if not failed:
            raise
    none = f"none of the trials of study {study} completed, so it has no champion"
    raise StudyMissing(f"{none}; `tuner results {study}` tells why they failed")


def _folder(study: str, home: Path) -> Path:
    """The study's folder. Raises StudyMissing, with a suggestion, where there is no such study."""
    from tuner.ledger import Ledger, study_folder

    folder = study_folder(home, study)
    Ledger.open(folder, read_only=True).close()
    return folder
