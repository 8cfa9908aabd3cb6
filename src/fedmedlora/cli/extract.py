"""`fedmedlora extract`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fedmedlora.cli.console import print_json


def extract(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT...", help=".txt files, folders, JSON lines.")
    ],
    adapter: Annotated[
        Path, typer.Option("--adapter", help="A run directory or a peft adapter folder.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")],
    to: Annotated[Literal["jsonl", "brat"], typer.Option("--to", help="Format.")] = "jsonl",
    model: Annotated[
        str | None, typer.Option("--model", help="Base model; default: the adapter's own.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option("--labels", help="Entity labels, comma-separated; default: all.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows decoded side by side.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Mark the entities in notes, with exact offsets; prints the path of what was written."""
    from fedmedlora.cli.progress import ConsoleObserver
    from fedmedlora.study.extract import extract_to

    wanted = None if labels is None else tuple(label.strip() for label in labels.split(","))
    with ConsoleObserver() as observer:
        summary = extract_to(
            inputs, adapter, out, to, observer, model=model, labels=wanted, batch_size=batch_size
        )
    if as_json:
        print_json(summary)
    else:
        typer.echo(summary["written"])
