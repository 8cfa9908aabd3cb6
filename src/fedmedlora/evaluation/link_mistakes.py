"""Which links are wrong: because of the link itself, or because of a mention at one of its ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmedlora.evaluation.counting import scored_labels
from fedmedlora.evaluation.items import link_items, links_of, mention_items
from fedmedlora.evaluation.matching import same_offsets_and_label

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from fedmedlora.core.document import Document
    from fedmedlora.evaluation.items import Item, Link

LINK, LINK_END = "link", "link-end"
LINK_KINDS = (LINK, LINK_END)


@dataclass(frozen=True, slots=True)
class LinkMistake:
    """A gold link that was not predicted, or a predicted one that is not gold; never both."""

    document_id: str
    kind: str
    gold: Link | None = None
    predicted: Link | None = None


def find_link_mistakes(
    aligned: Iterable[tuple[Document, Document]],
    labels: Collection[str],
    names: Collection[str] | None = None,
) -> list[LinkMistake]:
    """Every link that is wrong under `strict`, in the order of the documents.

    `link`: both sides have the two mentions, but not the link. `link-end`: one of the mentions is
    wrong, so the link cannot be right. There are as many as the false positives and negatives of
    the strict relation score; those of `link` are those of the score with gold entities.
    """
    found: list[LinkMistake] = []
    for gold, predicted in aligned:
        scored = scored_labels(gold, labels)
        of_gold, of_predicted = (links_of(d, scored, names) for d in (gold, predicted))
        if not of_gold and not of_predicted:
            continue
        known = _mentions(gold, scored) & _mentions(predicted, scored)
        right = same_offsets_and_label(link_items(of_gold), link_items(of_predicted)).right
        right_gold, right_predicted = {g for g, _ in right}, {p for _, p in right}
        found += [
            LinkMistake(gold.id, _kind(link, known), gold=link)
            for index, link in enumerate(of_gold)
            if index not in right_gold
        ]
        found += [
            LinkMistake(gold.id, _kind(link, known), predicted=link)
            for index, link in enumerate(of_predicted)
            if index not in right_predicted
        ]
    return found


def _mentions(document: Document, labels: Collection[str]) -> set[Item]:
    return set(mention_items(e for e in document.entities if e.label in labels))


def _kind(link: Link, known: set[Item]) -> str:
    return LINK if known.issuperset(mention_items((link.head, link.tail))) else LINK_END
