"""`fedmedlora evaluate`: predicted annotations against gold ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmedlora.cli.console import print_json
from fedmedlora.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fedmedlora.core.document import Document

ALL = "all"


def evaluate(
    gold: Annotated[Path, typer.Option("--gold", help="Gold corpus: a folder or a .jsonl file.")],
    predicted: Annotated[
        Path,
        typer.Option(
            "--predicted",
            help="Predictions on the same notes: a folder, such as extract writes, or a file.",
        ),
    ],
    preset: Annotated[
        str,
        typer.Option(
            "--preset",
            help="How to count: strict, lenient, exact, partial, paper, n2c2-2018, i2b2-2010 "
            "or all.",
        ),
    ] = "strict",
    against: Annotated[
        Path | None,
        typer.Option("--against", help="Another system's predictions, to compare with."),
    ] = None,
    rule_linker: Annotated[
        bool,
        typer.Option(
            "--rule-linker", help="Compare with links by distance and type on the same mentions."
        ),
    ] = False,
    labels: Annotated[
        str | None, typer.Option("--labels", help="Score only these labels, e.g. problem,drug.")
    ] = None,
    schema: Annotated[
        Path | None,
        typer.Option(
            "--schema", exists=True, dir_okay=False, help="Schema file, if not clinical-ie-v1."
        ),
    ] = None,
    errors: Annotated[
        Path | None,
        typer.Option(
            "--errors", dir_okay=False, help="Write every wrong mention to this .jsonl file."
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            dir_okay=False,
            help="Write a page with gold and predicted notes side by side to this .html file.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score predictions against gold annotations, with 95 % intervals over documents.

    A gold corpus with a card is scored on its annotated labels only.

    Example: fedmedlora evaluate --gold hospital-a --predicted predictions.jsonl --preset lenient

    To look at every error in its note, add: --html errors.html
    """
    # Here, not above: `--help` of every command imports this file.
    from fedmedlora.cli.evaluate_page import refuse_page_name, write_page
    from fedmedlora.cli.evaluate_tables import show_differences, show_mistakes, show_scores
    from fedmedlora.core.schema import load_schema
    from fedmedlora.corpora.open_corpus import find_source
    from fedmedlora.evaluation.evaluate import evaluate_presets
    from fedmedlora.evaluation.mistakes import write_mistakes
    from fedmedlora.evaluation.presets import PRESETS, find_preset
    from fedmedlora.inference.rule_linker import LINK, link_by_rule

    if rule_linker and against:
        raise ConfigError("--rule-linker and --against: expected one system to compare with.")
    if errors and errors in (gold, predicted, against):
        raise ConfigError("--errors: the file holds notes; expected the name of a file to write.")
    refuse_page_name(html)
    presets = list(PRESETS.values()) if preset == ALL else [find_preset(preset, and_all=True)]
    source = find_source(gold)
    card = source.card
    found = find_source(predicted).reader()
    other: Iterable[Document] | None = find_source(against).reader() if against else None
    own_schema = load_schema(schema) if schema else None
    if rule_linker:
        links = card.annotated_relations if card else ()
        link = links[0] if len(links) == 1 else LINK
        again = find_source(predicted).reader()
        other = (link_by_rule(document, own_schema, name=link) for document in again)
    wanted = None if labels is None else _split(labels)
    results = evaluate_presets(
        source.reader(),
        found,
        presets,
        against=other,
        schema=own_schema,
        labels=wanted,
        annotated_relations=card.annotated_relations if card else None,
        keep_mistakes=bool(errors or html),
    )
    for side in ("predicted", *(["against"] if against else [])):
        if number := results[0].num_missing[side]:
            missing = f"{number} of the gold notes"
            typer.echo(f"--{side} lacks {missing}: all their mentions count as missed", err=True)
    if results[0].not_scored:
        names = ", ".join(results[0].not_scored)
        typer.echo(f"not scored, because the gold is not annotated for it: {names}", err=True)
    if errors:
        num_written = write_mistakes(errors, results[0].mistakes)
        typer.echo(f"{num_written} wrong mentions written to {errors}", err=True)
    if html:
        facts = [("Gold", str(gold)), ("Predicted", str(predicted))]
        write_page(html, source, found, presets, results, facts, own_schema, wanted)
        typer.echo(f"gold and predicted notes written to {html}", err=True)
    if json and preset == ALL:
        print_json({result.preset: result.to_json() for result in results})
    elif json:
        print_json(results[0].to_json())
    else:
        for result in results:
            show_scores(result)
        show_mistakes(results[0])
        show_differences(results)


def _split(labels: str) -> list[str]:
    names = [name.strip() for name in labels.split(",") if name.strip()]
    if not names:
        raise ConfigError("--labels: expected names with commas between, such as problem,drug.")
    return names
