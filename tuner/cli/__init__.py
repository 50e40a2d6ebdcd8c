"""The command line: every verb under its heading, the program's exit code. One module for each group of verbs.

It knows every part's front door and no part's inside, and imports nothing heavy until a verb needs it. It must never
compute a result: what it prints stands in the ledger, the plan or the spec. Results go to stdout, and nothing else
does; progress, logs and errors go to stderr.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Mapping

import typer

from tuner.cli import cluster, deletion, inference, logs, run, setup, studies
from tuner.cli.arguments import Verbs
from tuner.errors import TunerError
from tuner.startup import freeze_gc, raise_gc_threshold
from tuner.terminal.tables import tolerate_any_text

VERBS: Mapping[str, Mapping[str, Callable[..., None]]] = {  # as the help shows them
    "Run studies": {
        "init": setup.init,
        "launch": run.launch,
        "check": run.check,
        "stop": run.stop,
        "submit": cluster.submit,
        "delete": deletion.delete,
    },
    "Inspect": {
        "list": studies.list_studies,
        "status": studies.status,
        "results": studies.results,
        "best": studies.best,
        "logs": logs.logs,
        "sync": studies.sync,
        "ui": studies.ui,
    },
    "Use the best model": {"predict": inference.predict, "generate": inference.generate, "attend": inference.attend},
    "Reference": {"schema": run.schema, **{kind: setup.listing(kind) for kind in setup.LISTS}},
    "This machine": {"doctor": setup.doctor, "completion": setup.completion, "help": setup.explain},
}

app = typer.Typer(
    name="tuner",
    cls=Verbs,
    help="Hyperparameter tuning and experiment tracking for PyTorch.",
    no_args_is_help=True,
    suggest_commands=False,  # `Verbs` suggests only what is spelt nearly alike
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,  # `tuner completion` prints scripts of our own, for bash cuts words at "="
    rich_markup_mode=None,  # plain help: rich alone would take half of the 0.3 s that --help may take
    pretty_exceptions_enable=False,  # what is no TunerError is a bug, and a bug's traceback is shown as Python shows it
)
app.callback()(setup.program)
for heading, verbs in VERBS.items():
    for name, verb in verbs.items():
        app.command(name, help=setup.LISTS.get(name), rich_help_panel=heading)(verb)


def main() -> None:
    """The console script. Exits with 0 done, 1 failed, 2 wrong input, 130 or 143 interrupted."""
    raise_gc_threshold()
    atexit.register(freeze_gc)
    tolerate_any_text()
    if "_TUNER_COMPLETE" in os.environ:
        from tuner.cli.completion import switch_on

        switch_on()
    try:
        app(prog_name="tuner")
    except TunerError as error:
        typer.echo(str(error), err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # a disk, a permission, a closed connection: the machine's trouble, in its own words
        typer.echo(f"tuner: {error}", err=True)
        sys.exit(1)
