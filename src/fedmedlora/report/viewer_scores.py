"""The score tables of the viewer: the figures of `evaluate`, laid out and not counted again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmedlora.evaluation.blocks import ENTITIES, MODIFIERS, RELATIONS
from fedmedlora.evaluation.scores import Counts
from fedmedlora.report.wording import interval, points

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.evaluation.evaluate import Evaluation
    from fedmedlora.evaluation.intervals import Interval
    from fedmedlora.evaluation.scores import Scores

GOLD_ENTITIES = f"{RELATIONS}.gold_entities"


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One figure: its name, counts and ratios as `evaluate` prints them, and the interval."""

    title: str
    cells: tuple[str, ...]
    interval: str


@dataclass(frozen=True, slots=True)
class PresetScores:
    """All figures of one preset: the three scores, then each by label or pair."""

    preset: str
    rows: Sequence[ScoreRow]
    details: Sequence[tuple[str, Sequence[ScoreRow]]]


def preset_scores(result: Evaluation, by_rule: Evaluation | None) -> PresetScores:
    """The tables of one preset.

    Args:
        result: Of the predictions.
        by_rule: Of the same mentions with links by rule; None where no links are annotated.
    """
    figures = [
        ("Entities", result.entities),
        ("Modifiers, end to end", result.modifiers),
        ("Relations, end to end", result.relations),
    ]
    further = [("Relations between mentions that both sides have", result.figures[GOLD_ENTITIES])]
    if by_rule is not None:
        figures.append(("Relations by the rule linker, end to end", by_rule.relations))
        theirs = by_rule.figures[GOLD_ENTITIES]
        further.append(("The same by the rule linker", theirs))
    for block, name in ((ENTITIES, "Entities"), (MODIFIERS, "Modifiers"), (RELATIONS, "Relations")):
        own = result.further(block)
        further += [(f"{name}, {key}", own[key]) for key in own if key != "gold_entities"]
    kept = [(title, scores) for title, scores in (*figures, *further) if scores.labels]
    return PresetScores(
        result.preset,
        [_row(title, scores.micro, scores.f1_ci95) for title, scores in kept],
        [(title, _by_label(scores)) for title, scores in figures if scores.labels],
    )


def _by_label(scores: Scores) -> list[ScoreRow]:
    """A row for each label or pair; those that are never gold are one row, as in `evaluate`."""
    rows, never_gold = [], []
    for label, counts in scores.labels.items():
        if counts.tp + counts.fn:
            rows.append(_row(label, counts, scores.labels_f1_ci95[label]))
        elif counts.fp:
            never_gold.append(counts)
    if never_gold:
        title = f"not in gold ({len(never_gold)})"
        rows.append(_row(title, sum(never_gold, Counts()), None))
    return rows


def _row(title: str, counts: Counts, ci95: Interval | None) -> ScoreRow:
    numbers = [
        str(int(n)) if n == int(n) else f"{n:.1f}" for n in (counts.tp, counts.fp, counts.fn)
    ]
    ratios = [points(r) for r in (counts.precision, counts.recall, counts.f1)]
    return ScoreRow(title, (*numbers, *ratios), interval(ci95))
