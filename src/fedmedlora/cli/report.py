"""`fedmedlora report`: one page about finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write to; else the run or, for several, the folder around."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print results.json.")] = False,
) -> None:
    """Write report.html, results.json and results.csv, and print the path of the page.

    Several runs are compared on one page. The page is one file that loads nothing.

    Example: fedmedlora report runs/demo-1a2b3c4d-001
    """
    # Here, not above: `--help` of every command imports this file.
    from fedmedlora.report.page import RESULTS_JSON, write_report

    page = write_report(runs, out)
    typer.echo(str(page), err=json)
    if json:
        typer.echo(page.with_name(RESULTS_JSON).read_text("utf-8"), nl=False)
