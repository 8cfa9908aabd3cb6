"""Mentions for formats that hold less: without fragments, or without overlaps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable

    from fedmedlora.core.document import Document, Entity

MAX_COVER_CHARACTERS = 60


def without_fragments(document: Document, lost: Counter[str]) -> Document:
    """The document with the covering span for each mention in fragments.

    A mention whose covering span is longer than `MAX_COVER_CHARACTERS` is left out.
    """
    kept = []
    for entity in document.entities:
        if not entity.is_discontinuous:
            kept.append(entity)
        elif len(entity.cover) <= MAX_COVER_CHARACTERS:
            lost["fragments of a mention: the span that covers them is written"] += 1
            kept.append(replace(entity, spans=(entity.cover,)))
        else:
            lost[f"mention in fragments over more than {MAX_COVER_CHARACTERS} characters"] += 1
    return keep_entities(document, kept, lost)


def without_overlaps(document: Document, lost: Counter[str]) -> Document:
    """The document without the shorter of each two mentions that share a character.

    Of two that are equally long, the first in the text stays, then the first in the document. Takes
    mentions without fragments.
    """
    taken = bytearray(len(document.text))
    kept: set[str] = set()
    for entity in sorted(document.entities, key=lambda e: (-len(e.cover), e.start)):
        if not any(taken[entity.start : entity.end]):
            taken[entity.start : entity.end] = b"\1" * len(entity.cover)
            kept.add(entity.id)
    if num_lost := len(document.entities) - len(kept):
        lost["mention that overlaps a longer one"] += num_lost
    return keep_entities(document, [e for e in document.entities if e.id in kept], lost)


def keep_entities(document: Document, entities: Iterable[Entity], lost: Counter[str]) -> Document:
    """The document with these mentions and the relations between them; others are counted."""
    entities = tuple(entities)
    ids = {entity.id for entity in entities}
    relations = [r for r in document.relations if r.head in ids and r.tail in ids]
    if num_lost := len(document.relations) - len(relations):
        lost["relation of a mention that is left out"] += num_lost
    return document.with_entities(entities, relations)
