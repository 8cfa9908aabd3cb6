"""What is scored: a mention has one end, a link has two; every rule treats both alike."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fedmedlora.core.document import Span

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from fedmedlora.core.document import Document, Entity

    End = tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Item:
    """A mention or a link as a rule sees it.

    Attributes:
        label: The mention's label; for a link, the labels of its ends, e.g. `dosage-drug`.
        ends: The spans of the mention; for a link, of the modifier and then of the entity.
        name: The link's name, which no rule forgives; mentions have none.
    """

    label: str
    ends: tuple[End, ...]
    name: str = ""


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


def mention_items(entities: Iterable[Entity]) -> list[Item]:
    """One item for each entity, in order."""
    return [Item(e.label, (e.spans,)) for e in entities]


def link_items(links: Iterable[Link]) -> list[Item]:
    """One item for each link, in order."""
    return [Item(k.pair, (k.head.spans, k.tail.spans), k.label) for k in links]


def without_gaps(items: Iterable[Item]) -> list[Item]:
    """The same items with one span at each end, from the first fragment to the last."""
    return [
        item
        if all(len(spans) == 1 for spans in item.ends)
        else replace(item, ends=tuple((Span(s[0].start, s[-1].end),) for s in item.ends))
        for item in items
    ]
