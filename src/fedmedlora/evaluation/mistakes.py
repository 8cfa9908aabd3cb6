"""What kind of mistake each wrong mention is; ids and offsets only, never a word of the note."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedmedlora.corpora.compressed import replace_bytes
from fedmedlora.evaluation.counting import scored_labels
from fedmedlora.evaluation.items import side_of
from fedmedlora.evaluation.matching import (
    Rule,
    overlap,
    overlap_and_label,
    same_offsets,
    same_offsets_and_label,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from fedmedlora.core.document import Document, Entity, Span
    from fedmedlora.evaluation.items import Side

    MistakeNumbers = Counter[tuple[str, str | None, str | None]]

BOUNDARY, TYPE, BOTH = "boundary", "type", "boundary+type"
MISSED, SPURIOUS = "missed", "spurious"
KINDS = (BOUNDARY, TYPE, BOTH, MISSED, SPURIOUS)
# Each takes its pairs from what the one before it left; what is right is left out first.
_STAGES: tuple[tuple[str, Rule], ...] = (
    ("right", same_offsets_and_label),
    (BOUNDARY, overlap_and_label),
    (TYPE, same_offsets),
    (BOTH, overlap),
)


@dataclass(frozen=True, slots=True)
class Mistake:
    """A gold mention, a predicted one, or two that should have been the same."""

    document_id: str
    kind: str
    gold: Entity | None = None
    predicted: Entity | None = None

    def to_json(self) -> dict[str, Any]:
        """The document, the kind and both mentions with id, label and offsets."""
        return {
            "document": self.document_id,
            "kind": self.kind,
            "gold": _mention(self.gold),
            "predicted": _mention(self.predicted),
        }


def find_mistakes(
    aligned: Iterable[tuple[Document, Document]], labels: Collection[str]
) -> list[Mistake]:
    """Every mistake in mentions of these labels, by document, kind and place.

    `boundary` is the right label at other offsets that share a character, `type` another label at
    the same offsets, `boundary+type` another label at other offsets that share a character. Gold
    mentions that are left over are missed, predicted ones spurious. Each mention is in one mistake
    at most.
    """
    found: list[Mistake] = []
    for gold, predicted in aligned:
        scored = scored_labels(gold, labels)
        found += mistakes_in(gold.id, side_of(gold, scored), side_of(predicted, scored))
    return found


def mistakes_in(document_id: str, gold: Side, predicted: Side) -> list[Mistake]:
    """Every mistake in the mentions of one document; see `find_mistakes`."""
    found: list[Mistake] = []
    of_gold = list(zip(gold.mentions, gold.items, strict=True))
    of_predicted = list(zip(predicted.mentions, predicted.items, strict=True))
    for kind, rule in _STAGES:
        if not of_gold or not of_predicted:
            break
        pairs = rule([item for _, item in of_gold], [item for _, item in of_predicted]).right
        if kind in KINDS:
            found += [
                Mistake(document_id, kind, of_gold[g][0], of_predicted[p][0]) for g, p in pairs
            ]
        paired_gold, paired_predicted = {g for g, _ in pairs}, {p for _, p in pairs}
        of_gold = [e for i, e in enumerate(of_gold) if i not in paired_gold]
        of_predicted = [e for i, e in enumerate(of_predicted) if i not in paired_predicted]
    found += [Mistake(document_id, MISSED, gold=e) for e, _ in of_gold]
    found += [Mistake(document_id, SPURIOUS, predicted=e) for e, _ in of_predicted]
    return sorted(found, key=_place)


def write_mistakes(path: Path, mistakes: Iterable[Mistake]) -> int:
    """The number of mistakes written, one JSON object a line; the file is replaced as a whole."""
    num_written = 0
    with replace_bytes(path) as file:
        for mistake in mistakes:
            file.write(json.dumps(mistake.to_json(), ensure_ascii=False).encode() + b"\n")
            num_written += 1
    return num_written


def mistake_numbers(mistakes: Iterable[Mistake]) -> MistakeNumbers:
    """How often each kind of mistake was made for each pair of labels, gold and predicted."""
    return Counter((m.kind, _label(m.gold), _label(m.predicted)) for m in mistakes)


def mistake_table(mistakes: Iterable[Mistake]) -> list[dict[str, Any]]:
    """The same as rows, by kind and the most frequent first."""
    return mistake_rows(mistake_numbers(mistakes))


def mistake_rows(numbers: MistakeNumbers) -> list[dict[str, Any]]:
    """Numbers of mistakes as rows, by kind and the most frequent first."""
    rows = sorted(
        numbers.items(),
        key=lambda row: (KINDS.index(row[0][0]), -row[1], row[0][1] or "", row[0][2] or ""),
    )
    return [
        {"kind": kind, "gold": gold, "predicted": predicted, "count": number}
        for (kind, gold, predicted), number in rows
    ]


def _place(mistake: Mistake) -> tuple[int, list[tuple[tuple[Span, ...], str]]]:
    mentions = [e for e in (mistake.gold, mistake.predicted) if e is not None]
    return KINDS.index(mistake.kind), [(e.spans, e.label) for e in mentions]


def _label(entity: Entity | None) -> str | None:
    return None if entity is None else entity.label


def _mention(entity: Entity | None) -> dict[str, Any] | None:
    if entity is None:
        return None
    spans = [[span.start, span.end] for span in entity.spans]
    return {"id": entity.id, "label": entity.label, "spans": spans}
