"""`fedmedlora extract`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fedmedlora import __version__
from fedmedlora.cli.console import print_json
from fedmedlora.core.words import counted
from fedmedlora.inference.decoders import DecoderName
from fedmedlora.models.starter import CARD_FILE, STARTER, adapter_folder

ABOUT_STARTER = (
    "Marking with the starter: a small adapter trained on public literature (case reports, trial "
    "criteria, drug-safety sentences), not on your notes."
)
_SUFFIXES = (".txt", ".jsonl", ".gz", ".zst", ".csv", ".tsv")


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
        str,
        typer.Option(
            "--adapter",
            metavar="DIR",
            help="A run directory or an adapter folder; starter: the one that ships with the "
            "package, trained on public literature.",
        ),
    ] = STARTER,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Folder to write to; default: named after the input, as in note-marked.",
        ),
    ] = None,
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
    prompt: Annotated[
        Literal["compact", "html"] | None,
        typer.Option("--prompt", help="Prompt format; default: that of the adapter's training."),
    ] = None,
    window_tokens: Annotated[
        int | None,
        typer.Option(
            "--window-tokens", min=32, help="Tokens a window; default: as in the training."
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads; default: all cores.")
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option("--device", help="Where the model runs; auto: on a GPU if there is one."),
    ] = "auto",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option("--dtype", help="Number type; auto: as in training, if fast here."),
    ] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Windows decoded side by side.")] = 64,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what was interrupted in --out.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Mark the entities in notes, with exact offsets; prints the path of what was written.

    Without --adapter the starter does it: a small adapter that comes with the package.
    An adapter that was trained for relations also marks modifiers and what they belong to.

    Work is saved chunk by chunk: after an interruption the same command with --resume goes on, and
    the result is that of an uninterrupted one. Notes are never all in memory.
    """
    from fedmedlora.cli.extract_page import page_writer
    from fedmedlora.cli.progress import ConsoleObserver
    from fedmedlora.study.extract import ExtractionRequest, extract_to
    from fedmedlora.study.extraction_inputs import Columns
    from fedmedlora.study.extraction_machine import MachineRequest

    folder = adapter_folder(adapter)
    if adapter == STARTER:
        typer.echo(f"{ABOUT_STARTER} Its card: {folder / CARD_FILE}", err=True)
    request = ExtractionRequest(
        inputs=tuple(inputs),
        adapter=folder,
        out=default_out(inputs) if out is None else out,
        to=to,
        model=model,
        labels=None if labels is None else tuple(label.strip() for label in labels.split(",")),
        decoder=decoder,
        threshold=threshold,
        batch_size=batch_size,
        columns=Columns(text_column, id_column),
        prompt=prompt,
        window_tokens=window_tokens,
        machine=MachineRequest(threads, device, dtype),
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
                write_page=page_writer(
                    f"the {STARTER} of fedmedlora {__version__}" if adapter == STARTER else adapter,
                    model,
                ),
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


def default_out(inputs: list[Path]) -> Path:
    """A folder in the working directory, named after what is read."""
    if len(inputs) > 1:
        return Path("notes-marked")
    name = "stdin" if inputs[0] == Path("-") else inputs[0].resolve().name
    while name.endswith(_SUFFIXES):
        name = name.rpartition(".")[0]
    return Path(f"{name or 'notes'}-marked")


def _in_words(summary: dict[str, Any]) -> str:
    def below(kind: str) -> str:
        if summary["threshold"] is None:
            return ""
        return f" ({summary[f'dropped_{kind}']:,} below {summary['threshold']} dropped)"

    found = ", ".join(
        [
            counted(summary["documents"], "note"),
            counted(summary["entities"], "entity", "entities") + below("entities"),
            counted(summary["modifiers"], "modifier") + below("modifiers"),
            counted(summary["relations"], "relation"),
        ]
    )
    return (
        f"{found}; of {counted(summary['windows'], 'window')} {summary['unparsable']:,} "
        f"unparsable and {summary['truncated']:,} truncated; "
        f"{counted(summary['unaligned'], 'mention')} not in their note"
    )
