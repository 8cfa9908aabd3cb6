"""Documents to counts: what is scored in each document, and what was right there.

A document is scored on its annotated labels only: a label that nobody looked for is unknown, so
neither a miss nor a false positive can be counted on it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from fedmedlora.evaluation.relations import links_of
from fedmedlora.evaluation.scores import Counts, DocumentCounts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from fedmedlora.core.document import Document
    from fedmedlora.evaluation.matching import Pair
    from fedmedlora.evaluation.presets import Preset

UNALIGNED = "unaligned_predictions"
"""Metadata key of a predicted document: how many answers by label could not be placed in it."""


def scored_labels(document: Document, labels: Collection[str]) -> frozenset[str]:
    """Those of `labels` that can be scored in a gold document."""
    if document.annotated_labels is None:
        return frozenset(labels)
    return document.annotated_labels & frozenset(labels)


def count_entities(
    aligned: Iterable[tuple[Document, Document]], preset: Preset, labels: Sequence[str]
) -> DocumentCounts:
    """Counts of the entities with one of `labels`, for `(gold, predicted)` documents.

    Predictions that could not be placed in the note count as false positives.
    """
    ids, by_label = [], []
    for gold, predicted in aligned:
        scored = scored_labels(gold, labels)
        of_gold = [e for e in gold.entities if e.label in scored]
        of_predicted = [e for e in predicted.entities if e.label in scored]
        counts = _counts(
            [e.label for e in of_gold],
            [e.label for e in of_predicted],
            preset.match_entities(of_gold, of_predicted),
        )
        for label, num in unaligned(predicted).items():
            if label in scored:
                counts[label] = counts.get(label, Counts()) + Counts(fp=num)
        ids.append(gold.id)
        by_label.append(counts)
    return DocumentCounts(tuple(ids), tuple(by_label), tuple(labels))


def count_links(
    aligned: Iterable[tuple[Document, Document]],
    preset: Preset,
    labels: Collection[str],
    names: Collection[str] | None = None,
) -> DocumentCounts:
    """Counts of the links whose two ends carry `labels`, by pair such as `dosage-drug`.

    `names` are the link names that were annotated; other links are not scored. `None`: all are.
    """
    ids, by_pair = [], []
    for gold, predicted in aligned:
        scored = scored_labels(gold, labels)
        of_gold = links_of(gold, scored, names)
        of_predicted = links_of(predicted, scored, names)
        pairs = preset.match_links(of_gold, of_predicted)
        ids.append(gold.id)
        by_pair.append(_counts([k.pair for k in of_gold], [k.pair for k in of_predicted], pairs))
    return DocumentCounts(tuple(ids), tuple(by_pair))


def unaligned(predicted: Document) -> Mapping[str, int]:
    """Answers that could not be placed in the note, by label, as the extractor recorded them."""
    recorded = predicted.metadata.get(UNALIGNED)
    if not isinstance(recorded, dict):
        return {}
    return {label: num for label, num in recorded.items() if isinstance(num, int) and num > 0}


def _counts(
    gold: Sequence[str], predicted: Sequence[str], pairs: Sequence[Pair]
) -> dict[str, Counts]:
    hit_gold = Counter(gold[g] for g, _ in pairs)
    hit_predicted = Counter(predicted[p] for _, p in pairs)
    num_gold, num_predicted = Counter(gold), Counter(predicted)
    return {
        label: Counts(
            tp=hit_gold[label],
            fp=num_predicted[label] - hit_predicted[label],
            fn=num_gold[label] - hit_gold[label],
        )
        for label in sorted(num_gold.keys() | num_predicted.keys())
    }
