"""Links by distance and type: the baseline without a model that every linker has to beat.

A modifier belongs to the nearest entity of its sentence that the schema lets it belong to:

1. Only entities of the same sentence and at most `REACH_CHARS` away; none there, no link. An entity
   that shares characters with the modifier is always within reach.
2. An entity that contains the modifier comes first, the shortest if there are several.
3. Then the fewest characters between the two. Each comma, semicolon or line end among them counts
   `BREAK_CHARS` more: beyond it another item of a list has begun.
4. Equally near: words that usually come first, such as a negation, go with the entity after them,
   all others with the one before.

So a modifier never has more than one link.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from typing import TYPE_CHECKING

from fedmedlora.core.document import Relation
from fedmedlora.core.schema import default_schema
from fedmedlora.corpora.sentences import sentence_spans

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fedmedlora.core.document import Document, Entity
    from fedmedlora.core.schema import TaskSchema

    Gap = tuple[int, int]

REACH_CHARS = 80
BREAK_CHARS = 20
LINK = "modifies"
# Of clinical-ie-v1; a modifier of another schema is taken to follow its entity.
COME_FIRST = frozenset({"condition", "course", "negation", "severity", "subject", "uncertain"})

_BREAK = re.compile(r"[,;]|\r\n?|\n")


def link_by_rule(
    document: Document, schema: TaskSchema | None = None, *, name: str = LINK
) -> Document:
    """The same note and mentions with links by rule, called `name`, in place of those it had."""
    schema = schema or default_schema()
    starts = [sentence.start for sentence in sentence_spans(document.text)]
    in_sentence: defaultdict[int, list[Entity]] = defaultdict(list)
    for entity in document.entities:
        if entity.label in schema.entity_labels:
            # A mention may run over the end of a sentence; it is in all that it touches.
            for index in _sentences(entity, starts):
                in_sentence[index].append(entity)
    links: list[Relation] = []
    for modifier in document.entities:
        if modifier.label in schema.modifier_labels:
            candidates = {
                entity.id: entity
                for index in _sentences(modifier, starts)
                for entity in in_sentence[index]
                if schema.allows(modifier.label, entity.label)
            }
            nearest = _nearest(document.text, modifier, candidates.values())
            if nearest is not None:
                links.append(Relation(f"R{len(links) + 1}", name, modifier.id, nearest.id))
    return document.with_entities(document.entities, links)


def _sentences(entity: Entity, starts: list[int]) -> range:
    return range(bisect_right(starts, entity.start), bisect_right(starts, entity.end - 1) + 1)


def _nearest(text: str, modifier: Entity, candidates: Iterable[Entity]) -> Entity | None:
    """The candidate within reach that comes first by the rules of this file."""
    within = [
        (_order(text, modifier, entity, gaps), entity)
        for entity in candidates
        if (gaps := _gaps_within_reach(modifier, entity))
    ]
    return min(within, key=lambda ranked: ranked[0])[1] if within else None


def _order(text: str, modifier: Entity, entity: Entity, gaps: list[Gap]) -> tuple[int | str, ...]:
    """What `min` takes the nearest entity by; the last items only make it a total order."""
    distance = min(
        end - start + BREAK_CHARS * len(_BREAK.findall(text, start, end)) for start, end in gaps
    )
    is_before = entity.start < modifier.start
    contains = entity.cover.contains(modifier.cover)
    return (
        not contains,
        len(entity.cover) if contains else 0,
        distance,
        is_before == (modifier.label in COME_FIRST),
        len(entity.cover),
        entity.start,
        entity.label,
        entity.id,
    )


def _gaps_within_reach(modifier: Entity, entity: Entity) -> list[Gap]:
    """Start and end of what lies between a fragment of the one and a fragment of the other."""
    pairs = ((own, other) for own in modifier.spans for other in entity.spans)
    gaps = [(min(a.end, b.end), max(a.start, b.start)) for a, b in pairs]
    # Where the two overlap, what ends first ends beyond the start of the other: nothing between.
    return [(start, max(start, end)) for start, end in gaps if end - start <= REACH_CHARS]
