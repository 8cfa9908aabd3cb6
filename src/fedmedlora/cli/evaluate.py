"""`fedmedlora evaluate`: predicted annotations against gold ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmedlora.cli.console import print_json
from fedmedlora.core.errors import ConfigError
from fedmedlora.core.schema import load_schema

if TYPE_CHECKING:
    from rich.table import Table

    from fedmedlora.evaluation.evaluate import Evaluation
    from fedmedlora.evaluation.scores import Counts, Scores

ALL = "all"


def evaluate(
    gold: Annotated[Path, typer.Option("--gold", help="Gold corpus: a folder or a .jsonl file.")],
    predicted: Annotated[Path, typer.Option("--predicted", help="Predictions on the same notes.")],
    preset: Annotated[
        str, typer.Option("--preset", help="How to count: strict, lenient or all.")
    ] = "strict",
    labels: Annotated[
        str | None, typer.Option("--labels", help="Score only these labels, e.g. problem,drug.")
    ] = None,
    schema: Annotated[
        Path | None,
        typer.Option(
            "--schema", exists=True, dir_okay=False, help="Schema file, if not clinical-ie-v1."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score predictions against gold annotations, with 95 % intervals over documents.

    A gold corpus with a card is scored on its annotated labels only.

    Example: fedmedlora evaluate --gold hospital-a --predicted predictions.jsonl --preset lenient
    """
    # Here, not above: `--help` of every command imports this file.
    from fedmedlora.corpora.open_corpus import load_corpus
    from fedmedlora.evaluation.evaluate import evaluate_documents
    from fedmedlora.evaluation.presets import PRESETS, find_preset

    presets = list(PRESETS.values()) if preset == ALL else [find_preset(preset)]
    task_schema = load_schema(schema) if schema else None
    wanted = None if labels is None else _split(labels)
    gold_corpus, predictions = load_corpus(gold), load_corpus(predicted).documents
    card = gold_corpus.card
    results = [
        evaluate_documents(
            gold_corpus.documents,
            predictions,
            each,
            schema=task_schema,
            labels=wanted,
            annotated_relations=card.annotated_relations if card else None,
        )
        for each in presets
    ]
    if results[0].not_scored:
        names = ", ".join(results[0].not_scored)
        typer.echo(f"not scored, because the gold is not annotated for it: {names}", err=True)
    if not json:
        for result in results:
            _show(result)
    elif preset == ALL:
        print_json({result.preset: result.to_json() for result in results})
    else:
        print_json(results[0].to_json())


def _split(labels: str) -> list[str]:
    names = [name.strip() for name in labels.split(",") if name.strip()]
    if not names:
        raise ConfigError("--labels: expected names with commas between, such as problem,drug.")
    return names


def _show(result: Evaluation) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    title = f"preset {result.preset}, documents: {result.num_documents}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for heading in ("tp", "fp", "fn", "P", "R", "F1", "95 % interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    blocks = (result.entities, result.modifiers, result.relations)
    for name, block in zip(("entities", "modifiers", "relations"), blocks, strict=True):
        if block.labels:
            _add_block(table, name, block)
    Console().print(table)
    if result.num_unaligned:
        typer.echo(f"{result.num_unaligned} predictions could not be placed: false positives.")


def _add_block(table: Table, name: str, scores: Scores) -> None:
    for label, counts in scores.labels.items():
        table.add_row(label, *_figures(counts), "")
    low, high = scores.f1_ci95
    table.add_row(f"{name}, micro", *_figures(scores.micro), f"{low:.3f}-{high:.3f}")
    macro = f"{scores.macro_f1:.3f}"
    table.add_row(f"{name}, macro", "", "", "", "", "", macro, "", end_section=True)


def _figures(counts: Counts) -> list[str]:
    ratios = (counts.precision, counts.recall, counts.f1)
    return [str(n) for n in (counts.tp, counts.fp, counts.fn)] + [f"{r:.3f}" for r in ratios]
