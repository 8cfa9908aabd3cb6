"""Writing tags into copied text and reading them back; shared by the tag formats."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fedmedlora.core.document import Entity, Span
from fedmedlora.core.example import Example, ParseProblem, ParseResult, Segment
from fedmedlora.prompts.pieces import cut

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.core.document import Document
    from fedmedlora.core.example import Prompt
    from fedmedlora.prompts.format import TagFormat
    from fedmedlora.prompts.pieces import Piece

# An answer with dead ends is read in so many steps more than it has characters, one character or
# tag each. Then what was read up to the furthest place counts.
_MORE_STEPS = 100_000


def placeable(
    entities: Sequence[Entity], window: Span, labels: Sequence[str], pieces: Sequence[Piece]
) -> tuple[list[Entity], int]:
    """The window's entities that flat tags at piece boundaries can hold, and how many cannot.

    Entities count as the window's when they overlap it. Among overlapping ones the longest wins;
    equally long ones go by position, then by the order of `labels`. Pieces count from the window.
    """
    words = [piece for piece in pieces if piece.core_start < piece.end]
    starts = {window.start + piece.core_start for piece in words}
    ends = {window.start + piece.end for piece in words}
    order = {label: index for index, label in enumerate(labels)}
    here = [e for e in entities if e.label in order and e.cover.overlaps(window)]
    here.sort(key=lambda e: (-(e.end - e.start), e.start, order[e.label], e.id))
    kept: list[Entity] = []
    for entity in here:
        fits = (
            not entity.is_discontinuous
            and window.contains(entity.cover)
            and entity.start in starts
            and entity.end in ends
            and not any(entity.cover.overlaps(other.cover) for other in kept)
        )
        if fits:
            kept.append(entity)
    kept.sort(key=lambda e: e.start)
    return kept, len(here) - len(kept)


def render_tagged(tags: TagFormat, document: Document, prompt: Prompt) -> Example:
    """The example of a prompt: its source with the document's entities tagged."""
    pieces = cut(prompt.source)
    kept, lost = placeable(document.entities, prompt.window, prompt.labels, pieces)
    segments = _segments(tags, prompt, pieces, kept)
    wanted = [(e.label, e.start, e.end) for e in kept]
    # A note may hold our own tag strings, so that two different taggings read the same. What
    # would be read back otherwise is not taught.
    while kept:
        wanted = [(e.label, e.start, e.end) for e in kept]
        read = _read_back(tags, segments, prompt)
        if read == wanted:
            break
        same = 0
        while same < min(len(read), len(wanted)) and read[same] == wanted[same]:
            same += 1
        del kept[min(same, len(kept) - 1)]
        lost += 1
        segments = _segments(tags, prompt, pieces, kept)
    return Example(prompt, tuple(segments), "entities", len(kept), lost)


def _read_back(
    tags: TagFormat, segments: Sequence[Segment], prompt: Prompt
) -> list[tuple[str, int, int]]:
    result = parse_tagged(tags, "".join(segment.text for segment in segments), prompt)
    return [(e.label, e.start, e.end) for e in result.entities]


def _segments(
    tags: TagFormat, prompt: Prompt, pieces: Sequence[Piece], entities: Sequence[Entity]
) -> list[Segment]:
    opening = {entity.start - prompt.window.start: entity for entity in entities}
    closing = {entity.end - prompt.window.start for entity in entities}
    segments: list[Segment] = []
    for piece in pieces:
        entity = opening.get(piece.core_start) if piece.core_start < piece.end else None
        start = piece.start
        if entity is not None:
            if not tags.space_inside and piece.num_space:
                segments.append(Segment(prompt.source[start : piece.core_start], tag=False))
                start = piece.core_start
            segments.append(Segment(tags.open_tag(entity.label), tag=True))
        segments.append(Segment(prompt.source[start : piece.end], tag=False))
        if piece.end in closing:
            segments.append(Segment(tags.close_tag(), tag=True))
    return segments


class _State(NamedTuple):
    """Where the reader is: in the answer, in the source, and in which open tag since when."""

    at: int
    source_at: int
    label: str | None
    opened_at: int
    entities: tuple[tuple[str, int, int], ...]


def parse_tagged(tags: TagFormat, completion: str, prompt: Prompt) -> ParseResult:
    """The entities of an answer that copies the prompt's source with tags.

    Tags and source are told apart by following the source: where both readings fit, the tag is
    tried first and taken back if the rest cannot be read. An answer that departs from the source
    gives the entities closed before that place, and a problem there.
    """
    source = prompt.source
    opens = [(tags.open_tag(label), label) for label in prompt.labels]
    close = tags.close_tag()
    state = _State(0, 0, None, 0, ())
    furthest = state
    alternatives: list[_State] = []
    for _ in range(len(completion) + _MORE_STEPS):
        steps = _steps(completion, source, state, opens, close)
        if state.at == len(completion) and state.source_at == len(source) and state.label is None:
            return ParseResult(_entities(state, prompt))
        if steps:
            state, *others = steps
            alternatives += reversed(others)
            if state.at > furthest.at:
                furthest = state
            continue
        if not alternatives:
            break
        state = alternatives.pop()
    return ParseResult(_entities(furthest, prompt), (), (_problem(furthest, completion, source),))


def _steps(
    completion: str, source: str, state: _State, opens: Sequence[tuple[str, str]], close: str
) -> list[_State]:
    """What may come next, best reading first."""
    at, source_at, label, opened_at, entities = state
    steps: list[_State] = []
    if label is None:
        for tag, opened in opens:
            if completion.startswith(tag, at):
                steps.append(_State(at + len(tag), source_at, opened, source_at, entities))
    elif completion.startswith(close, at):
        start, end = _trim(source, opened_at, source_at)
        if start < end:
            found = (*entities, (label, start, end))
            steps.append(_State(at + len(close), source_at, None, 0, found))
    if at < len(completion) and source_at < len(source) and completion[at] == source[source_at]:
        steps.append(_State(at + 1, source_at + 1, label, opened_at, entities))
    return steps


def _trim(source: str, start: int, end: int) -> tuple[int, int]:
    while start < end and source[start].isspace():
        start += 1
    while end > start and source[end - 1].isspace():
        end -= 1
    return start, end


def _entities(state: _State, prompt: Prompt) -> tuple[Entity, ...]:
    base = prompt.window.start
    return tuple(
        Entity(f"T{number}", label, (Span(base + start, base + end),))
        for number, (label, start, end) in enumerate(state.entities, start=1)
    )


def _problem(state: _State, completion: str, source: str) -> ParseProblem:
    if state.at == len(completion):
        return ParseProblem("unclosed" if state.source_at == len(source) else "truncated", state.at)
    return ParseProblem("not-in-source", state.at)
