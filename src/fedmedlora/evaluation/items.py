"""What is scored: a mention has one end, a link has two; every rule treats both alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from fedmedlora.core.document import Document, Entity

    End = tuple[tuple[int, int], ...]


class Item(NamedTuple):
    """A mention or a link as a rule sees it: plain tuples, because a great many are compared.

    Attributes:
        label: The mention's label; for a link, the labels of its ends, e.g. `dosage-drug`.
        ends: Start and end of each span of the mention; for a link, those of the modifier and then
            those of the entity.
        name: The link's name, which no rule forgives; mentions have none.
    """

    label: str
    ends: tuple[End, ...]
    name: str = ""


class Link(NamedTuple):
    """A relation with its two mentions: `head` is the modifier, `tail` the entity."""

    label: str
    head: Entity
    tail: Entity

    @property
    def pair(self) -> str:
        """The labels of the two ends, e.g. `dosage-drug`."""
        return f"{self.head.label}-{self.tail.label}"


class Side(NamedTuple):
    """What is scored of a document on one side, gold or predicted; each with its item.

    Attributes:
        mentions: The entities and modifiers.
        items: Of the mentions.
        links: Between them.
        link_items: Of the links.
    """

    mentions: Sequence[Entity]
    items: Sequence[Item]
    links: Sequence[Link]
    link_items: Sequence[Item]


def side_of(
    document: Document, labels: Collection[str], names: Collection[str] | None = None
) -> Side:
    """The document's entities of these labels, and its links of these names (`None`: any)."""
    mentions = [e for e in document.entities if e.label in labels]
    links = links_of(document, labels, names)
    return Side(mentions, mention_items(mentions), links, link_items(links))


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
    return [Item(e.label, (_offsets(e),)) for e in entities]


def link_items(links: Iterable[Link]) -> list[Item]:
    """One item for each link, in order."""
    return [Item(k.pair, (_offsets(k.head), _offsets(k.tail)), k.label) for k in links]


def without_gaps(items: Iterable[Item]) -> list[Item]:
    """The same items with one span at each end, from the first fragment to the last."""
    return [
        item
        if all(len(spans) == 1 for spans in item.ends)
        else item._replace(ends=tuple(((spans[0][0], spans[-1][1]),) for spans in item.ends))
        for item in items
    ]


def _offsets(entity: Entity) -> End:
    spans = entity.spans
    if len(spans) == 1:  # nearly all
        return ((spans[0].start, spans[0].end),)
    return tuple((span.start, span.end) for span in spans)
