r"""Documents: a note's text with entities and relations at exact character offsets.

All offsets are Unicode code points of the stored text, end exclusive. The text is never
normalised: `\r\n` stays `\r\n`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from fedmedlora.core.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A stretch of text, `start` inclusive to `end` exclusive, never empty.

    Raises:
        CorpusError: `start` is negative or `end` is not beyond `start`.
    """

    start: int
    end: int

    def __post_init__(self) -> None:
        if self.start < 0 or self.end <= self.start:
            raise CorpusError(
                f"span: expected 0 <= start < end, got start={self.start}, end={self.end}. "
                "Offsets are code points of the note, end exclusive."
            )

    def __len__(self) -> int:
        return self.end - self.start

    def overlaps(self, other: Span) -> bool:
        """Whether the two spans share at least one character."""
        return self.start < other.end and other.start < self.end

    def contains(self, other: Span) -> bool:
        """Whether `other` lies inside this span; equal spans contain each other."""
        return self.start <= other.start and other.end <= self.end


@dataclass(frozen=True, slots=True)
class Entity:
    """A labelled mention. More than one span, in text order, makes it discontinuous.

    `score` is the probability that the extractor gave the mention; gold has none.

    Raises:
        CorpusError: There is no span, or the spans overlap or are out of order.
    """

    id: str
    label: str
    spans: tuple[Span, ...]
    score: float | None = None

    def __post_init__(self) -> None:
        if not self.spans:
            raise CorpusError(f"entity {self.id}: expected at least one span, got none.")
        if len(self.spans) == 1:  # nearly all: corpora are read at the speed of these lines
            return
        for before, after in pairwise(self.spans):
            if after.start < before.end:
                raise CorpusError(
                    f"entity {self.id}: fragments overlap or are out of order at offset "
                    f"{after.start}; expected fragments in text order."
                )

    @classmethod
    def at(cls, id: str, label: str, start: int, end: int, *, score: float | None = None) -> Entity:
        """A continuous entity."""
        return cls(id, label, (Span(start, end),), score)

    @property
    def start(self) -> int:
        """Where the first span starts."""
        return self.spans[0].start

    @property
    def end(self) -> int:
        """Where the last span ends, exclusive."""
        return self.spans[-1].end

    @property
    def cover(self) -> Span:
        """The smallest span that holds every fragment."""
        return Span(self.start, self.end)

    @property
    def is_discontinuous(self) -> bool:
        """Whether there is more than one fragment."""
        return len(self.spans) > 1


@dataclass(frozen=True, slots=True)
class Relation:
    """A link between two entities of one document, by id: `head` is the modifier."""

    id: str
    label: str
    head: str
    tail: str


@dataclass(frozen=True, slots=True)
class Document:
    """A note with what is known about it.

    `annotated_labels` are the labels that the annotators looked for; a label outside it is
    unknown here, not absent. `None` says that nobody stated it.

    Raises:
        CorpusError: An entity lies beyond the text, an id occurs twice, or a relation names an
            entity that is not there.
    """

    id: str
    text: str
    entities: tuple[Entity, ...] = ()
    relations: tuple[Relation, ...] = ()
    annotated_labels: frozenset[str] | None = None
    source: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for entity in self.entities:
            if entity.id in seen:
                raise CorpusError(f"document {self.id}: entity id {entity.id} occurs twice.")
            seen.add(entity.id)
            if entity.end > len(self.text):
                raise CorpusError(
                    f"document {self.id}: entity {entity.id} ends at {entity.end}, but the note "
                    f"has {len(self.text)} characters; expected end <= length."
                )
        for relation in self.relations:
            for end in (relation.head, relation.tail):
                if end not in seen:
                    raise CorpusError(
                        f"document {self.id}: relation {relation.id} names entity {end}, "
                        "which the document does not have."
                    )

    def entity_text(self, entity: Entity) -> str:
        """The note's characters from the entity's start to its end, gaps included."""
        return self.text[entity.start : entity.end]

    def with_entities(
        self, entities: Iterable[Entity], relations: Iterable[Relation] = ()
    ) -> Document:
        """The same note with other entities and relations."""
        return replace(self, entities=tuple(entities), relations=tuple(relations))

    def only_labels(self, labels: Iterable[str]) -> Document:
        """The same note with the entities of these labels, and the relations between them."""
        wanted = frozenset(labels)
        entities = tuple(e for e in self.entities if e.label in wanted)
        ids = {e.id for e in entities}
        relations = tuple(r for r in self.relations if r.head in ids and r.tail in ids)
        return replace(self, entities=entities, relations=relations)
