"""Documents to counts: what is scored in each document, and what was right there.

A document is scored on its annotated labels only: a label that nobody looked for is unknown, so
neither a miss nor a false positive can be counted on it.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from fedmedlora.evaluation.items import link_items, links_of, mention_items, without_gaps
from fedmedlora.evaluation.matching import shared_characters
from fedmedlora.evaluation.rates import unaligned
from fedmedlora.evaluation.scores import Counts, DocumentCounts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from fedmedlora.core.document import Document
    from fedmedlora.evaluation.items import Item, Link
    from fedmedlora.evaluation.matching import Rule
    from fedmedlora.evaluation.presets import Preset

    Aligned = Iterable[tuple[Document, Document]]


def scored_labels(document: Document, labels: Collection[str]) -> frozenset[str]:
    """Those of `labels` that can be scored in a gold document."""
    if document.annotated_labels is None:
        return frozenset(labels)
    return document.annotated_labels & frozenset(labels)


def count_entities(
    aligned: Aligned, preset: Preset, labels: Sequence[str], *, further: str | None = None
) -> DocumentCounts:
    """Counts of the entities with one of `labels`, for `(gold, predicted)` documents.

    Predictions that could not be placed in the note count as false positives. `further` names one
    of the preset's further figures. A rule that is blind to labels pairs all of `labels` with one
    another: pass those of one block.
    """
    rule = _rule(preset, further)
    ids, by_label = [], []
    for gold, predicted in aligned:
        scored = scored_labels(gold, labels)
        counts = _counts(
            rule,
            mention_items(e for e in gold.entities if e.label in scored),
            mention_items(e for e in predicted.entities if e.label in scored),
        )
        for label, num in unaligned(predicted).items():
            if label in scored:
                counts[label] = counts.get(label, Counts()) + Counts(fp=num)
        ids.append(gold.id)
        by_label.append(counts)
    return DocumentCounts(tuple(ids), tuple(by_label), tuple(labels), preset.macro_over_documents)


def count_links(
    aligned: Aligned,
    preset: Preset,
    labels: Collection[str],
    names: Collection[str] | None = None,
    *,
    further: str | None = None,
    given_mentions: bool = False,
) -> DocumentCounts:
    """Counts of the links whose two ends carry `labels`, by pair such as `dosage-drug`.

    Args:
        aligned: `(gold, predicted)` documents.
        preset: How links are counted.
        labels: Labels of the mentions whose links are scored.
        names: The link names that were annotated; other links are not scored. `None`: all are.
        further: One of the preset's further figures.
        given_mentions: Leave out links with an end that only one side has, which says how well
            mentions were linked rather than found.
    """
    rule = _rule(preset, further)
    ids, by_pair = [], []
    for gold, predicted in aligned:
        scored = scored_labels(gold, labels)
        of_gold, of_predicted = (links_of(d, scored, names) for d in (gold, predicted))
        if given_mentions and (of_gold or of_predicted):
            known_gold, known_predicted = _on_both_sides(rule, gold, predicted, scored)
            of_gold = [k for k in of_gold if _ends(k) <= known_gold]
            of_predicted = [k for k in of_predicted if _ends(k) <= known_predicted]
        ids.append(gold.id)
        by_pair.append(_counts(rule, link_items(of_gold), link_items(of_predicted)))
    return DocumentCounts(
        tuple(ids), tuple(by_pair), macro_over_documents=preset.macro_over_documents
    )


def _rule(preset: Preset, further: str | None) -> Rule:
    return preset.rule if further is None else preset.further[further]


def _ends(link: Link) -> set[str]:
    return {link.head.id, link.tail.id}


def _on_both_sides(
    rule: Rule, gold: Document, predicted: Document, labels: Collection[str]
) -> tuple[set[str], set[str]]:
    """The ids of gold and predicted mentions that the rule accepts for one of the other side."""
    of_gold = [e for e in gold.entities if e.label in labels]
    of_predicted = [e for e in predicted.entities if e.label in labels]
    items_gold, items_predicted = mention_items(of_gold), mention_items(of_predicted)
    # Without gaps: a rule may take the gap of a discontinuous mention for a part of it.
    near = shared_characters(without_gaps(items_gold), without_gaps(items_predicted))
    known_gold, known_predicted = set(), set()
    for g, p in near:
        matched = rule([items_gold[g]], [items_predicted[p]])
        if matched.right or matched.half_right:
            known_gold.add(of_gold[g].id)
            known_predicted.add(of_predicted[p].id)
    return known_gold, known_predicted


def _counts(rule: Rule, gold: Sequence[Item], predicted: Sequence[Item]) -> dict[str, Counts]:
    """Counts by label: a hit counts for the gold label, a false positive for the predicted one."""
    if not gold and not predicted:
        return {}
    matched = rule(gold, predicted)
    tp, fp, fn = (defaultdict[str, float](int) for _ in range(3))
    for item in gold:
        fn[item.label] += 1
    for index, item in enumerate(predicted):
        fp[item.label] += index not in matched.ignored
    for pairs, credit in ((matched.right, 1), (matched.half_right, 0.5)):
        for g, p in pairs:
            tp[gold[g].label] += credit
            fn[gold[g].label] -= credit
            fp[predicted[p].label] -= credit
    return {label: Counts(tp[label], fp[label], fn[label]) for label in sorted({*fn, *fp})}
