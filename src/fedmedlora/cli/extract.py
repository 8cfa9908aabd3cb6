"""`fedmedlora extract`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fedmedlora.cli.console import print_json
from fedmedlora.inference.decoders import DecoderName


def extract(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT...",
            help=".txt files, JSON lines (.jsonl, .gz, .zst), .csv or .tsv with a header, folders "
            'of these, or - for standard input: JSON lines if it begins with {", else one note.',
        ),
    ],
    adapter: Annotated[
        Path, typer.Option("--adapter", help="A run directory or a peft adapter folder.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")],
    to: Annotated[
        Literal["jsonl", "brat", "label-studio", "html"],
        typer.Option("--to", help="Format; html is a page to look at, beside documents.jsonl."),
    ] = "jsonl",
    model: Annotated[
        str | None, typer.Option("--model", help="Base model; default: the adapter's own.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option("--labels", help="Labels, comma-separated; default: all.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", min=0, max=1, help="Drop entities with a lower score."),
    ] = None,
    decoder: Annotated[DecoderName, typer.Option("--decoder", help="How to decode.")] = "copy",
    text_column: Annotated[
        str, typer.Option("--text-column", help="Column of the notes in .csv and .tsv files.")
    ] = "text",
    id_column: Annotated[
        str | None,
        typer.Option(
            "--id-column", help="Column of their ids; default: id if it is there, else row numbers."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows decoded side by side.")] = 64,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what was interrupted in --out.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Mark the entities in notes, with exact offsets; prints the path of what was written.

    An adapter that was trained for relations also marks modifiers and what they belong to.

    Work is saved chunk by chunk: after an interruption the same command with --resume goes on, and
    the result is that of an uninterrupted one. Notes are never all in memory.
    """
    from fedmedlora.cli.extract_page import page_writer
    from fedmedlora.cli.progress import ConsoleObserver
    from fedmedlora.study.extract import ExtractionRequest, extract_to
    from fedmedlora.study.extraction_inputs import Columns

    request = ExtractionRequest(
        inputs=tuple(inputs),
        adapter=adapter,
        out=out,
        to=to,
        model=model,
        labels=None if labels is None else tuple(label.strip() for label in labels.split(",")),
        decoder=decoder,
        threshold=threshold,
        batch_size=batch_size,
        columns=Columns(text_column, id_column),
        resume=resume,
    )
    begun: list[bool] = []
    try:
        with ConsoleObserver() as observer:
            summary = extract_to(
                request,
                observer,
                stdin=sys.stdin.buffer,
                started=lambda: begun.append(True),
                write_page=page_writer(adapter, model),
            )
    except BaseException:
        if begun:
            typer.echo("To go on: the same command with --resume", err=True)
        raise
    if as_json:
        print_json(summary)
    else:
        typer.echo(_in_words(summary), err=True)
        typer.echo(summary["written"])


def _in_words(summary: dict[str, Any]) -> str:
    below = ""
    if summary["threshold"] is not None:
        below = f" ({summary['dropped_below_threshold']:,} below {summary['threshold']} dropped)"
    return (
        f"{summary['documents']:,} notes, {summary['entities']:,} entities, "
        f"{summary['modifiers']:,} modifiers{below}, {summary['relations']:,} relations; of "
        f"{summary['windows']:,} windows {summary['unparsable']:,} unparsable and "
        f"{summary['truncated']:,} truncated; {summary['unaligned']:,} mentions not in their note"
    )
