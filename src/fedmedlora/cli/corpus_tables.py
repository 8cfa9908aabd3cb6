"""What the `corpus` commands show to people; `--json` is for scripts."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedmedlora.core.words import counted
from fedmedlora.corpora.convert import Conversion
from fedmedlora.corpora.duplicates import MIN_WORDS, THRESHOLD, NearDuplicate
from fedmedlora.corpora.summary import CorpusSummary
from fedmedlora.corpora.validate import Validation

_PIPED_WIDTH = 200
_MAX_PAIRS = 20


def show_conversion(conversion: Conversion) -> None:
    """Print what was read, mapped, written, left out and dropped, and why."""
    typer.echo(
        f"read     {counted(conversion.num_read, 'note')}, "
        f"{counted(conversion.num_entities_read, 'entity', 'entities')}, "
        f"{counted(conversion.num_relations_read, 'relation')}"
    )
    typer.echo(
        f"written  {counted(conversion.num_written, 'note')}, "
        f"{counted(conversion.num_entities, 'entity', 'entities')}, "
        f"{counted(conversion.num_relations, 'relation')} -> {conversion.written_to}"
    )
    typer.echo(f"skipped  {counted(conversion.num_skipped, 'note')}")
    for fault in conversion.faults:
        typer.echo(f"  {fault}")
    for verb, counts in (
        ("mapped", conversion.mapped),
        ("adjusted", conversion.adjusted),
        ("dropped", conversion.dropped),
        ("lost", conversion.lost),
    ):
        for kind, count in counts.items():
            typer.echo(f"{verb:8} {count} x {kind}")
    if conversion.lost:
        typer.echo("Lost is what the target format cannot hold.")


def show_validations(results: Sequence[Validation]) -> None:
    """Print every fault, then one line a corpus."""
    for result in results:
        for fault in result.faults:
            typer.echo(str(fault))
    for result in results:
        if result.faults:
            kinds = Counter(fault.code for fault in result.faults)
            told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
            typer.echo(f"{result.path}: {counted(len(result.faults), 'fault')} ({told})")
            if result.num_bad_notes and not result.num_documents:
                typer.echo("No note can be read. If they are in another format, name it: --from.")
        else:
            typer.echo(f"{result.path}: {counted(result.num_documents, 'document')}, no fault")


def validations_json(results: Sequence[Validation]) -> dict[str, Any]:
    """Plain values for `--json`: the faults of all corpora in one list."""
    faults = [fault.to_json() for result in results for fault in result.faults]
    return {
        "corpora": [str(result.path) for result in results],
        "num_documents": sum(result.num_documents for result in results),
        "num_bad_notes": sum(result.num_bad_notes for result in results),
        "num_faults": len(faults),
        "faults": faults,
    }


def show_summaries(summaries: Sequence[CorpusSummary], between: Sequence[dict[str, Any]]) -> None:
    """Print counts by corpus, label and pair, then the divergence of each two corpora."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)
    console.print(_totals(summaries))
    console.print(_counts("label", summaries, [_entity_cells(s) for s in summaries]))
    relations = [{pair: f"{n:,}" for pair, n in s.relations.items()} for s in summaries]
    console.print(_counts("modifier-entity", summaries, relations))
    if between:
        table = Table()
        for heading in ("corpus", "other corpus", "label divergence, bits"):
            table.add_column(heading, justify="right" if "bits" in heading else "left")
        for pair in between:
            bits = "no entities" if pair["bits"] is None else f"{pair['bits']:.3f}"
            table.add_row(Text(pair["first"]), Text(pair["second"]), bits)
        console.print(table)


def show_near_duplicates(pairs: Sequence[NearDuplicate], num_corpora: int) -> None:
    """Print the notes that two corpora share, by id, or that there are none."""
    if num_corpora == 1:
        return
    for pair in pairs[:_MAX_PAIRS]:
        typer.echo(
            f"nearly the same ({pair.similarity:.0%}): {pair.first} {pair.first_id}, "
            f"{pair.second} {pair.second_id}"
        )
    if len(pairs) > _MAX_PAIRS:
        typer.echo(f"... and {len(pairs) - _MAX_PAIRS} more (--json lists all)")
    typer.echo(
        f"{counted(len(pairs), 'pair')} of notes in different corpora that are nearly the same "
        f"(at least {THRESHOLD:.0%} of their shingles; notes under {MIN_WORDS} words are not "
        "compared)."
    )


def _totals(summaries: Sequence[CorpusSummary]) -> Table:
    table = Table("corpus")
    for heading in ("documents", "sentences", "characters", "entities", "relations"):
        table.add_column(heading, justify="right")
    for s in summaries:
        totals = (s.num_documents, s.num_sentences, s.num_characters, s.num_entities)
        table.add_row(Text(s.name), *(f"{count:,}" for count in (*totals, s.num_relations)))
    return table


def _entity_cells(summary: CorpusSummary) -> dict[str, str]:
    """The counts by label; `0` only where annotators looked for a label and found none."""
    annotated = dict.fromkeys(summary.annotated_labels or (), 0)
    return {label: f"{count:,}" for label, count in (annotated | dict(summary.entities)).items()}


def _counts(
    heading: str, summaries: Sequence[CorpusSummary], cells: Sequence[Mapping[str, str]]
) -> Table:
    table = Table(heading)
    for summary in summaries:
        table.add_column(Text(summary.name), justify="right")
    for name in sorted({name for column in cells for name in column}):
        table.add_row(Text(name), *(column.get(name, "-") for column in cells))
    return table
