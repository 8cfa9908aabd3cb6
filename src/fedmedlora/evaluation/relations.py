"""Which predicted links are right: the link's name and both ends must be.

The ends are matched as entities are, by offsets and label, not by what else the entity matcher
paired: a link between two rightly found mentions is right even where a duplicate mention exists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmedlora.evaluation.assignment import best_assignment
from fedmedlora.evaluation.matching import Pair, pair_equal, shared_characters

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from fedmedlora.core.document import Document, Entity


@dataclass(frozen=True, slots=True)
class Link:
    """A relation with its two mentions: `head` is the modifier, `tail` the entity."""

    label: str
    head: Entity
    tail: Entity

    @property
    def pair(self) -> str:
        """The labels of the two ends, e.g. `dosage-drug`."""
        return f"{self.head.label}-{self.tail.label}"


def links_of(
    document: Document, labels: Collection[str], names: Collection[str] | None = None
) -> list[Link]:
    """The document's relations of these names (`None`: any) between entities of these labels."""
    ends = {e.id: e for e in document.entities if e.label in labels}
    return [
        Link(r.label, ends[r.head], ends[r.tail])
        for r in document.relations
        if r.head in ends and r.tail in ends and (names is None or r.label in names)
    ]


def match_links_strict(gold: Sequence[Link], predicted: Sequence[Link]) -> list[Pair]:
    """Pairs with equal name and, at both ends, equal label and equal offsets."""
    return pair_equal(
        [(k.label, k.pair, k.head.spans, k.tail.spans) for k in gold],
        [(k.label, k.pair, k.head.spans, k.tail.spans) for k in predicted],
    )


def match_links_lenient(gold: Sequence[Link], predicted: Sequence[Link]) -> list[Pair]:
    """Pairs with equal name whose heads and whose tails have equal label and share a character.

    One-to-one: most pairs, then largest total overlap of both ends.
    """
    heads = shared_characters([k.head.spans for k in gold], [k.head.spans for k in predicted])
    tails = shared_characters([k.tail.spans for k in gold], [k.tail.spans for k in predicted])
    return best_assignment(
        {
            (g, p): heads[g, p] + tails[g, p]
            for g, p in heads.keys() & tails.keys()
            if (gold[g].label, gold[g].pair) == (predicted[p].label, predicted[p].pair)
        }
    )
