"""The answer's side of the relation task: modifiers tagged in copied text, with their numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmedlora.core.example import Example, Segment
from fedmedlora.prompts.pieces import cut
from fedmedlora.prompts.relation_answer import parse_relations
from fedmedlora.prompts.relation_marks import allowed_numbers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fedmedlora.core.document import Document, Entity, Span
    from fedmedlora.core.example import RelationPrompt
    from fedmedlora.core.schema import TaskSchema
    from fedmedlora.prompts.pieces import Piece
    from fedmedlora.prompts.relation_format import RelationFormat, Tag

MAX_DEPTH = 2
"""A modifier may lie within another one; deeper nesting is counted as lost."""


def render_relations(
    formatted: RelationFormat, document: Document, prompt: RelationPrompt, schema: TaskSchema
) -> Example:
    """The example of a prompt: its source with the document's modifiers tagged and linked.

    `num_lost` counts modifiers that tags cannot hold and links to entities that are not given.
    """
    pieces = cut(prompt.source)
    kept, lost = _placeable(document, prompt, pieces)
    numbers, lost_links = _numbers(document, prompt, kept, schema)
    while True:
        segments = _segments(formatted, prompt, pieces, kept, numbers)
        # A note may hold our own tag strings, so that two different taggings read the same. What
        # would be read back otherwise is not taught.
        same = _same_as_read(formatted, segments, prompt, kept, numbers)
        if same is None:
            return Example(prompt, tuple(segments), "relations", len(kept), lost + lost_links)
        del kept[min(same, len(kept) - 1)]
        lost += 1


def _placeable(
    document: Document, prompt: RelationPrompt, pieces: Sequence[Piece]
) -> tuple[list[Entity], int]:
    """The window's modifiers that nested tags at piece boundaries can hold; how many cannot.

    Of two that cross, the longer one wins, and so does the outer one where too many nest.
    """
    window: Span = prompt.window
    words = [piece for piece in pieces if piece.core_start < piece.end]
    starts = {window.start + piece.core_start for piece in words}
    ends = {window.start + piece.end for piece in words}
    order = {label: index for index, label in enumerate(prompt.labels)}
    here = [e for e in document.entities if e.label in order and e.cover.overlaps(window)]
    here.sort(key=lambda e: (e.start - e.end, e.start, order[e.label], e.id))
    kept: list[Entity] = []
    for entity in here:
        around = [other for other in kept if other.cover.overlaps(entity.cover)]
        fits = (
            not entity.is_discontinuous
            and window.contains(entity.cover)
            and entity.start in starts
            and entity.end in ends
            and all(other.cover.contains(entity.cover) for other in around)
            and all((other.label, other.start) != (entity.label, entity.start) for other in around)
            and len(around) < MAX_DEPTH
        )
        if fits:
            kept.append(entity)
    # Outer ones first: `here` has the longer ones first, and sorting keeps that order.
    kept.sort(key=lambda e: (e.start, -e.end))
    return kept, len(here) - len(kept)


def _numbers(
    document: Document, prompt: RelationPrompt, kept: Sequence[Entity], schema: TaskSchema
) -> tuple[dict[str, tuple[int, ...]], int]:
    """The numbers of each modifier's entities, by its id, and how many links are lost."""
    by_id = {entity.id: number for number, entity in enumerate(prompt.given, start=1)}
    found: dict[str, tuple[int, ...]] = {}
    lost = 0
    for modifier in kept:
        allowed = set(allowed_numbers(prompt.given, modifier.label, schema))
        tails = {r.tail for r in document.relations if r.head == modifier.id}
        numbers = {by_id[tail] for tail in tails if tail in by_id} & allowed
        found[modifier.id] = tuple(sorted(numbers))
        lost += len(tails) - len(numbers)
    return found, lost if prompt.linked else 0


def _segments(
    formatted: RelationFormat,
    prompt: RelationPrompt,
    pieces: Sequence[Piece],
    modifiers: Sequence[Entity],
    numbers: Mapping[str, tuple[int, ...]],
) -> list[Segment]:
    base = prompt.window.start
    close = formatted.close_tag(linked=prompt.linked)
    segments: list[Segment] = []
    stack: list[Entity] = []
    for piece in pieces:
        start = piece.start
        if piece.core_start < piece.end:
            for modifier in (m for m in modifiers if m.start - base == piece.core_start):
                if not formatted.space_inside and start < piece.core_start:
                    segments.append(Segment(prompt.source[start : piece.core_start], tag=False))
                    start = piece.core_start
                tag = formatted.open_tag(modifier.label, linked=prompt.linked)
                segments += tag_segments(tag, numbers[modifier.id])
                stack.append(modifier)
        segments.append(Segment(prompt.source[start : piece.end], tag=False))
        while stack and stack[-1].end - base == piece.end:
            segments += tag_segments(close, numbers[stack.pop().id])
    return segments


def tag_segments(tag: Tag, numbers: Sequence[int]) -> list[Segment]:
    """A tag as it is tokenised: its start, and each number with the comma or end behind it."""
    segments = [Segment(tag.start, tag=True)]
    if tag.after_numbers is not None:
        told = [str(number) for number in numbers or (0,)]
        for index, number in enumerate(told, start=1):
            segments.append(Segment(number, tag=True))
            segments.append(Segment("," if index < len(told) else tag.after_numbers, tag=True))
    return segments


def _same_as_read(
    formatted: RelationFormat,
    segments: Sequence[Segment],
    prompt: RelationPrompt,
    kept: Sequence[Entity],
    numbers: Mapping[str, tuple[int, ...]],
) -> int | None:
    """None if the answer reads as it was meant; else the index of the first that does not."""
    read = parse_relations(formatted, "".join(segment.text for segment in segments), prompt)
    linked = {e.id: set[str]() for e in read.entities}
    for relation in read.relations:
        linked[relation.head].add(relation.tail)
    found = [(e.label, e.start, e.end, linked[e.id]) for e in read.entities]
    for index, modifier in enumerate(kept):
        tails = {prompt.given[n - 1].id for n in numbers[modifier.id] if prompt.linked}
        wanted = (modifier.label, modifier.start, modifier.end, tails)
        if index >= len(found) or found[index] != wanted:
            return index
    return None if len(found) == len(kept) else len(kept) - 1
