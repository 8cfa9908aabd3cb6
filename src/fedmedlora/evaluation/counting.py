"""Documents to counts: what is scored in each document, and what was right there.

A document is scored on its annotated labels only: a label that nobody looked for is unknown, so
neither a miss nor a false positive can be counted on it.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from fedmedlora.evaluation.document_counts import DocumentCounts
from fedmedlora.evaluation.items import side_of, without_gaps
from fedmedlora.evaluation.matching import shared_characters
from fedmedlora.evaluation.rates import unaligned
from fedmedlora.evaluation.scores import Counts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from fedmedlora.core.document import Document
    from fedmedlora.evaluation.items import Item, Side
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
        sides = side_of(gold, scored), side_of(predicted, scored)
        ids.append(gold.id)
        by_label.append(mention_counts(*sides, rule, scored, unaligned(predicted)))
    return DocumentCounts(tuple(ids), by_label, tuple(labels), preset.macro_over_documents)


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
        sides = side_of(gold, scored, names), side_of(predicted, scored, names)
        ids.append(gold.id)
        by_pair.append(link_counts(*sides, rule, given_mentions=given_mentions))
    return DocumentCounts(tuple(ids), by_pair, macro_over_documents=preset.macro_over_documents)


def mention_counts(
    gold: Side,
    predicted: Side,
    rule: Rule,
    labels: Collection[str],
    unplaced: Mapping[str, int],
) -> dict[str, Counts]:
    """The counts of one document's mentions of these labels, by label; see `count_entities`."""
    counts = _counts(
        rule,
        [item for item in gold.items if item.label in labels],
        [item for item in predicted.items if item.label in labels],
    )
    for label, num in unplaced.items():
        if label in labels:
            counts[label] = counts.get(label, Counts()) + Counts(fp=num)
    return counts


def link_counts(
    gold: Side, predicted: Side, rule: Rule, *, given_mentions: bool = False
) -> dict[str, Counts]:
    """The counts of one document's links, by pair; see `count_links`."""
    of_gold, of_predicted = gold.link_items, predicted.link_items
    if given_mentions and (of_gold or of_predicted):
        known = set(gold.items).intersection(predicted.items)
        of_gold = _between_known(gold, predicted, known, rule)
        of_predicted = _between_known(predicted, gold, known, lambda p, g: rule(g, p))
    return _counts(rule, of_gold, of_predicted)


def _between_known(own: Side, other: Side, known: Collection[Item], rule: Rule) -> list[Item]:
    """The links of one side between mentions that the other has, too; `known` are on both."""
    ends = {end.id for link in own.links for end in (link.head, link.tail)}
    mentions = zip(own.mentions, own.items, strict=True)
    # A rule takes two that are the same for the same; most are, and only the others are compared.
    unsure = [(e.id, item) for e, item in mentions if e.id in ends and item not in known]
    if unsure:
        items = [item for _, item in unsure]
        # Without gaps: a rule may take the gap of a discontinuous mention for a part of it.
        near = shared_characters(without_gaps(items), without_gaps(other.items))
        found = {unsure[i][0] for i, o in near if _accepts(rule, items[i], other.items[o])}
        ends = ends - {id for id, _ in unsure if id not in found}
    pairs = zip(own.links, own.link_items, strict=True)
    return [item for link, item in pairs if link.head.id in ends and link.tail.id in ends]


def _rule(preset: Preset, further: str | None) -> Rule:
    return preset.rule if further is None else preset.further[further]


def _accepts(rule: Rule, gold: Item, predicted: Item) -> bool:
    matched = rule([gold], [predicted])
    return bool(matched.right or matched.half_right)


def _counts(rule: Rule, gold: Sequence[Item], predicted: Sequence[Item]) -> dict[str, Counts]:
    """Counts by label: a hit counts for the gold label, a false positive for the predicted one."""
    if not gold and not predicted:
        return {}
    matched = rule(gold, predicted)
    tp: defaultdict[str, float] = defaultdict(int)
    fp: defaultdict[str, float] = defaultdict(int)
    fn: defaultdict[str, float] = defaultdict(int)
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
