"""What `evaluate` shows a person: scores, mistakes and differences, at most 80 columns wide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fedmedlora import __version__
from fedmedlora.evaluation.blocks import BLOCKS, RELATIONS
from fedmedlora.evaluation.mistakes import KINDS, mistake_rows
from fedmedlora.evaluation.scores import Counts
from fedmedlora.report.wording import interval, points, signed_points

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.evaluation.evaluate import Evaluation
    from fedmedlora.evaluation.scores import Scores

_MOST_MISTAKES_SHOWN = 10


def show_scores(result: Evaluation) -> None:
    """Print the blocks of one preset, and what went wrong before anything could be scored."""
    title = f"preset {result.preset}, documents: {result.num_documents}, fedmedlora {__version__}"
    table = _table(f"{title}, in points", "")
    for heading in ("tp", "fp", "fn", "P", "R", "F1", "95 % CI"):
        table.add_column(heading, justify="right", no_wrap=True)
    for block in BLOCKS:
        if result.figures[block].labels:
            _add_block(table, block, result)
    if table.row_count:
        Console().print(table)
    else:
        typer.echo(f"{title}\nNothing to score: no mention on either side.")
    rates = result.rates
    if rates.num_unaligned:
        unplaced = f"{rates.num_unaligned} predictions ({rates.hallucination:.1%} of all)"
        typer.echo(f"{unplaced} could not be placed in their note: false positives.")
    for what, rate in (("unreadable", rates.parse_failure), ("cut off", rates.truncation)):
        if rate is not None:
            typer.echo(f"Answers of the model that were {what}: {rate:.1%}")


def show_mistakes(result: Evaluation) -> None:
    """Print how many mistakes of each kind there are, and the most frequent ones."""
    rows = mistake_rows(result.mistake_numbers)
    if not rows:
        return
    totals = {kind: sum(row["count"] for row in rows if row["kind"] == kind) for kind in KINDS}
    typer.echo("mistakes: " + ", ".join(f"{number} {kind}" for kind, number in totals.items()))
    table = _table(None, "kind")
    for heading in ("gold", "predicted"):
        table.add_column(heading, no_wrap=True)
    table.add_column("count", justify="right", no_wrap=True)
    most_frequent = sorted(rows, key=lambda row: -row["count"])[:_MOST_MISTAKES_SHOWN]
    for row in most_frequent:
        table.add_row(row["kind"], row["gold"] or "-", row["predicted"] or "-", str(row["count"]))
    Console().print(table)


def show_differences(results: Sequence[Evaluation]) -> None:
    """Print the paired differences, if predictions were compared with others."""
    differences = [d for result in results for d in result.differences or ()]
    if not differences:
        return
    table = _table("F1 of --predicted and --against, in points", "figure")
    for heading in ("F1", "against", "difference", "95 % CI", "p", "p, Holm"):
        table.add_column(heading, justify="right", no_wrap=True)
    preset = None
    for d in differences:
        if len(results) > 1 and d.preset != preset:
            table.add_row(f"{d.preset}:")
        preset = d.preset
        table.add_row(
            d.figure,
            points(d.f1),
            points(d.against_f1),
            signed_points(d.difference),
            interval(d.ci95),
            f"{d.p:.4f}",
            f"{d.p_holm:.4f}",
        )
    Console().print(table)


def _table(title: str | None, first_column: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
    # Long names break, figures never.
    table.add_column(first_column, overflow="fold")
    return table


def _add_block(table: Table, block: str, result: Evaluation) -> None:
    scores = result.figures[block]
    never_gold = [
        counts
        for label, counts in scores.labels.items()
        if block == RELATIONS and not counts.tp + counts.fn
    ]
    for label, counts in scores.labels.items():
        if counts not in never_gold:
            table.add_row(label, *_figures(counts), interval(scores.labels_f1_ci95[label]))
    if never_gold:
        total = sum(never_gold, Counts())
        table.add_row(f"other pairs ({len(never_gold)})", *_figures(total), "")
    table.add_row(f"{block}, micro", *_micro(scores))
    table.add_row(f"{block}, macro", "", "", "", "", "", points(scores.macro_f1), "")
    for name, further in result.further(block).items():
        table.add_row(f"  {name.replace('_', ' ')}, micro", *_micro(further))
    table.add_section()


def _micro(scores: Scores) -> list[str]:
    return [*_figures(scores.micro), interval(scores.f1_ci95)]


def _figures(counts: Counts) -> list[str]:
    ratios = (counts.precision, counts.recall, counts.f1)
    numbers = [_number(n) for n in (counts.tp, counts.fp, counts.fn)]
    return numbers + [points(r) for r in ratios]


def _number(count: float) -> str:
    return str(int(count)) if count == int(count) else f"{count:.1f}"
