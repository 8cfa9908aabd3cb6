"""`fedmedlora model fetch | list`."""

from __future__ import annotations

from typing import Annotated

import typer

from fedmedlora.cli.console import print_json

app = typer.Typer(help="Base models on this machine.", no_args_is_help=True)


@app.command(epilog="Example: fedmedlora model fetch smollm2-135m")
def fetch(
    name: Annotated[str, typer.Argument(help="A name of `model list`.")] = "smollm2-135m",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make a base model available on this machine, checksum verified; prints its folder."""
    from fedmedlora.models.fetch import fetch as fetch_model

    folder = fetch_model(name, say=lambda text: typer.echo(text, err=True))
    if as_json:
        print_json({"name": name, "folder": str(folder)})
    else:
        typer.echo(folder)


@app.command("list", epilog="Example: fedmedlora model list --json")
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Base models known by a short name, and whether they are on this machine."""
    from fedmedlora.models.catalog import PRESETS, WheelSource
    from fedmedlora.models.fetch import is_fetched

    rows = [
        {
            "name": preset.name,
            "parameters": preset.num_parameters,
            "licence": preset.licence,
            "fetched": is_fetched(preset.name),
            "source": preset.source.requirement
            if isinstance(preset.source, WheelSource)
            else preset.source,
            "note": preset.note,
        }
        for preset in PRESETS.values()
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        state = "fetched" if row["fetched"] else "-"
        size = f"{row['parameters'] / 1e9:.2f} B"  # type: ignore[operator]
        typer.echo(f"{row['name']:30} {size:>8}  {state:8} {row['licence']:12} {row['note']}")
