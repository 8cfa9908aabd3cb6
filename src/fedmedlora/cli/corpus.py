"""`fedmedlora corpus`: write, convert, summarise and check annotated notes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fedmedlora.cli.console import EXIT_FAILED, print_json

app = typer.Typer(help="Write, convert, summarise and check annotated notes.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
CorpusPath = Annotated[
    Path,
    typer.Argument(
        exists=True,
        help="A folder with corpus.toml, of such folders or of BRAT files, or a JSON lines file.",
    ),
]


class SourceFormat(StrEnum):
    """Storage formats that can be read."""

    jsonl = "jsonl"
    brat = "brat"
    i2b2_2010 = "i2b2-2010"
    bio = "bio"
    doccano = "doccano"
    kiwi_json = "kiwi-json"
    label_studio = "label-studio"


class TargetFormat(StrEnum):
    """Storage formats that can be written."""

    jsonl = "jsonl"
    brat = "brat"
    bio = "bio"
    doccano = "doccano"
    label_studio = "label-studio"


@app.command(epilog="Example: fedmedlora corpus synthesize --out hospitals --notes 40")
def synthesize(
    out: Annotated[Path, typer.Option(help="Folder that gets one folder a hospital.")],
    sites: Annotated[int, typer.Option(min=1, help="Number of hospitals.")] = 5,
    notes: Annotated[int, typer.Option(min=1, help="Notes at a hospital of middle size.")] = 40,
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


@app.command(
    epilog="Example: fedmedlora corpus convert n2c2/ --from brat --map n2c2-2018 --to jsonl --out n"
)
def convert(
    source: Annotated[Path, typer.Argument(exists=True, help="A folder or a file of notes.")],
    source_format: Annotated[SourceFormat, typer.Option("--from", help="What SOURCE holds.")],
    target_format: Annotated[TargetFormat, typer.Option("--to", help="What to write.")],
    out: Annotated[Path, typer.Option(help="A new folder or, for all but brat and bio, a file.")],
    mapping: Annotated[
        str | None,
        typer.Option("--map", help="A mapping file (TOML), or a name such as maccrobat."),
    ] = None,
    skip_bad_notes: Annotated[
        bool, typer.Option("--skip-bad-notes", help="Leave out and count notes with faults.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Store notes in another format or with other labels; say what was read, mapped and dropped."""
    from fedmedlora.cli import corpus_tables
    from fedmedlora.corpora.convert import convert as convert_corpus
    from fedmedlora.corpora.mapping import load_mapping

    conversion = convert_corpus(
        source,
        source_format.value,
        target_format.value,
        out,
        mapping=load_mapping(mapping) if mapping else None,
        skip_bad_notes=skip_bad_notes,
    )
    if as_json:
        print_json(conversion.to_json())
    else:
        corpus_tables.show_conversion(conversion)


@app.command(epilog="Example: fedmedlora corpus summarize hospitals/north hospitals/south")
def summarize(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH", exists=True, help="Corpora, or a folder of them."),
    ],
    as_json: AsJson = False,
) -> None:
    """Show what corpora hold, how far apart their labels are, and notes that two of them share."""
    from fedmedlora.cli import corpus_tables
    from fedmedlora.corpora.duplicates import near_duplicates
    from fedmedlora.corpora.open_corpus import find_corpora, find_source
    from fedmedlora.corpora.summary import divergences
    from fedmedlora.corpora.summary import summarize as summarize_corpus

    corpora = [find_source(corpus).notes() for path in paths for corpus in find_corpora(path)]
    summaries = [summarize_corpus(corpus) for corpus in corpora]
    between, shared = divergences(summaries), near_duplicates(corpora)
    if as_json:
        counts = [summary.to_json() for summary in summaries]
        pairs = [pair.to_json() for pair in shared]
        print_json({"corpora": counts, "divergence": between, "near_duplicates": pairs})
    else:
        corpus_tables.show_summaries(summaries, between)
        corpus_tables.show_near_duplicates(shared, len(corpora))


@app.command(epilog="Example: fedmedlora corpus validate hospitals/north")
def validate(
    path: CorpusPath,
    source_format: Annotated[
        SourceFormat | None,
        typer.Option("--from", help="What PATH holds, if no card says it and it is not obvious."),
    ] = None,
    schema: Annotated[
        Path | None, typer.Option(exists=True, help="Labels to check against (TOML).")
    ] = None,
    any_label: Annotated[
        bool, typer.Option("--any-label", help="Take labels outside the schema, too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List every fault with file, line and reason; exit 1 if there is any."""
    from fedmedlora.cli import corpus_tables
    from fedmedlora.core.schema import default_schema, load_schema
    from fedmedlora.corpora.open_corpus import find_corpora
    from fedmedlora.corpora.validate import validate as validate_corpus

    chosen = load_schema(schema) if schema else default_schema()
    labels = None if any_label else chosen
    if source_format:
        results = [validate_corpus(path, labels, source_format.value)]
    else:
        results = [validate_corpus(corpus, labels) for corpus in find_corpora(path)]
    if as_json:
        print_json(corpus_tables.validations_json(results))
    else:
        corpus_tables.show_validations(results)
    if any(result.faults for result in results):
        raise typer.Exit(EXIT_FAILED)
