"""The three blocks of a result and their further figures, counted for every document."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from fedmedlora.evaluation.counting import count_entities, count_links, scored_labels
from fedmedlora.evaluation.items import mention_items
from fedmedlora.evaluation.rates import unaligned
from fedmedlora.evaluation.semeval import CATEGORIES, SCHEMES, categories

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from fedmedlora.core.document import Document
    from fedmedlora.evaluation.labels import ScoredLabels
    from fedmedlora.evaluation.presets import Preset
    from fedmedlora.evaluation.scores import DocumentCounts

BLOCKS = ENTITIES, MODIFIERS, RELATIONS = "entities", "modifiers", "relations"


def count_blocks(
    aligned: Sequence[tuple[Document, Document]],
    preset: Preset,
    labels: ScoredLabels,
    annotated_relations: Collection[str] | None,
) -> dict[str, DocumentCounts]:
    """The counts of the figures by name: the blocks, and e.g. `entities.lenient`.

    All but `count_gold_entities`.
    """
    found = {}
    for name, further in {"": None, **{f".{name}": name for name in preset.further}}.items():
        for block, own in ((ENTITIES, labels.entities), (MODIFIERS, labels.modifiers)):
            found[block + name] = count_entities(aligned, preset, own, further=further)
        found[RELATIONS + name] = count_links(
            aligned, preset, labels.both, annotated_relations, further=further
        )
    return found


def count_gold_entities(
    aligned: Sequence[tuple[Document, Document]],
    preset: Preset,
    labels: ScoredLabels,
    annotated_relations: Collection[str] | None,
) -> dict[str, DocumentCounts]:
    """The counts of the links between mentions that both sides have, by the figure's name.

    Two systems cannot be compared by them: each has other mentions in common with the gold, so
    they are scored on other links.
    """
    counts = count_links(aligned, preset, labels.both, annotated_relations, given_mentions=True)
    return {f"{RELATIONS}.gold_entities": counts}


def count_categories(
    aligned: Sequence[tuple[Document, Document]], labels: ScoredLabels
) -> dict[str, dict[str, dict[str, int]]]:
    """The categories of SemEval 2013 by block of mentions and scheme, summed over documents.

    Predictions that could not be placed are spurious.
    """
    found = {}
    for block, own in ((ENTITIES, labels.entities), (MODIFIERS, labels.modifiers)):
        sums = {scheme: Counter(dict.fromkeys(CATEGORIES, 0)) for scheme in SCHEMES}
        for gold, predicted in aligned:
            scored = scored_labels(gold, own)
            here = categories(
                mention_items(e for e in gold.entities if e.label in scored),
                mention_items(e for e in predicted.entities if e.label in scored),
            )
            num_unplaced = sum(n for label, n in unaligned(predicted).items() if label in scored)
            for scheme in SCHEMES:
                sums[scheme].update(here[scheme])
                sums[scheme]["spurious"] += num_unplaced
        found[block] = {scheme: dict(sums[scheme]) for scheme in SCHEMES}
    return found
