"""The prompt's side of the relation task: a window's text with its entities marked and numbered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmedlora.core.example import Segment
from fedmedlora.prompts.pieces import cut

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.core.document import Document, Entity, Span
    from fedmedlora.core.schema import TaskSchema
    from fedmedlora.prompts.relation_format import RelationFormat


def given_entities(document: Document, window: Span, schema: TaskSchema) -> tuple[Entity, ...]:
    """The main entities that overlap a window, in text order, outer ones first: their numbers."""
    here = [
        entity
        for entity in document.entities
        if entity.label in schema.entity_labels and entity.cover.overlaps(window)
    ]
    order = {label: index for index, label in enumerate(schema.entity_labels)}
    here.sort(key=lambda e: (e.start, -e.end, order[e.label], e.id))
    return tuple(here)


def marked_source(
    formatted: RelationFormat, document: Document, window: Span, given: Sequence[Entity]
) -> tuple[Segment, ...]:
    """The window's text, an opening mark before each given entity and a closing one behind it.

    An entity that reaches beyond the window is marked as far as the window goes.
    """
    source = document.text[window.start : window.end]
    front = {piece.core_start: piece.start for piece in cut(source)}
    marks: list[tuple[int, int, int, str]] = []
    for number, entity in enumerate(given, start=1):
        start = max(entity.start, window.start) - window.start
        end = min(entity.end, window.end) - window.start
        if formatted.space_inside:
            start = front.get(start, start)
        # At one place what ends comes first, inner before outer; then what begins, outer first.
        marks.append((start, 1, number, formatted.mark_open(number, entity.label)))
        marks.append((end, 0, -number, formatted.mark_close()))
    segments: list[Segment] = []
    at = 0
    for place, _, _, text in sorted(marks):
        if place > at:
            segments.append(Segment(source[at:place], tag=False))
            at = place
        segments.append(Segment(text, tag=True))
    if at < len(source):
        segments.append(Segment(source[at:], tag=False))
    return tuple(segments)


def allowed_numbers(given: Sequence[Entity], modifier: str, schema: TaskSchema) -> tuple[int, ...]:
    """The numbers of the entities that a modifier of this label may belong to."""
    return tuple(
        number
        for number, entity in enumerate(given, start=1)
        if schema.allows(modifier, entity.label)
    )
