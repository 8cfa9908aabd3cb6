"""The command tree. Nothing heavy is imported here: `--help` must be instant."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from fedmedlora import __version__
from fedmedlora.cli import adapter, corpus, evaluate, extract, model, report, study
from fedmedlora.cli.console import run_app

app = typer.Typer(
    name="fedmedlora",
    help="Train one language model across hospitals; only LoRA adapters travel.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # loading rich's Markdown and colours takes longer than all the rest
)
app.add_typer(adapter.app, name="adapter")
app.add_typer(corpus.app, name="corpus")
app.add_typer(model.app, name="model")
app.add_typer(study.app, name="study")
app.command(
    "extract",
    short_help="Mark the entities in notes, with exact offsets.",
    epilog="Example: fedmedlora extract --adapter runs/demo-1a2b3c4d-001 notes/ --out predicted. "
    "With --to html it writes a page to look at.",
)(extract.extract)
app.command("evaluate", short_help="Score predictions against gold annotations.")(evaluate.evaluate)
app.command("report", short_help="Write one page about finished runs.")(report.report)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"fedmedlora {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Train one language model across hospitals; only LoRA adapters travel."""


def main() -> None:
    """Run the command line and exit with 0 done, 1 failed or 2 wrong usage."""
    sys.exit(run_app(app, sys.argv[1:]))
