"""`fedmedlora corpus`: write, convert, summarise and check annotated notes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedmedlora.cli.console import print_json

app = typer.Typer(help="Write, convert, summarise and check annotated notes.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.callback()
def corpus() -> None:
    """Write, convert, summarise and check annotated notes."""


@app.command(epilog="Example: fedmedlora corpus synthesize --out hospitals --notes 40")
def synthesize(
    out: Annotated[Path, typer.Option(help="Folder that gets one folder a hospital.")],
    sites: Annotated[int, typer.Option(min=1, max=5, help="Number of hospitals.")] = 5,
    notes: Annotated[int, typer.Option(min=1, help="Notes at the largest hospital.")] = 40,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Write artificial hospitals: made-up notes with gold entities, modifiers and links."""
    from fedmedlora.corpora.synthetic import synthesize as write_hospitals

    folders = write_hospitals(out, num_sites=sites, num_notes=notes, seed=seed)
    if as_json:
        print_json({"sites": [str(folder) for folder in folders]})
    else:
        typer.echo("\n".join(str(folder) for folder in folders))
