"""Reading the answers of the relation task."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from fedmedlora.core.document import Entity, Relation, Span
from fedmedlora.core.example import ParseProblem, ParseResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.core.example import RelationPrompt
    from fedmedlora.prompts.relation_format import RelationFormat, Tag

# An answer with dead ends is read in so many steps more than it has characters, one character or
# tag each. Then what was read up to the furthest place counts.
_MORE_STEPS = 100_000
_NUMBERS = re.compile(r"0|[1-9][0-9]{0,5}(?:,[1-9][0-9]{0,5})*")

MODIFIES = "modifies"
"""The label of every relation: from a modifier to an entity."""


class _Open(NamedTuple):
    """A tag that is open: its label, where it stands in the source, and its numbers."""

    label: str
    start: int
    numbers: tuple[int, ...]


class _State(NamedTuple):
    """Where the reader is: in the answer and in the source, what is open, what was closed."""

    at: int
    source_at: int
    stack: tuple[_Open, ...]
    found: tuple[tuple[_Open, int], ...]


def parse_relations(
    formatted: RelationFormat, completion: str, prompt: RelationPrompt
) -> ParseResult:
    """The modifiers of an answer that copies the prompt's source with tags, and their relations.

    Tags and source are told apart by following the source: where both readings fit, the tag is
    tried first and taken back if the rest cannot be read. An answer that departs from the source
    gives the modifiers closed before that place, and a problem there. A number that no given entity
    has links nothing and is a problem too.
    """
    source = prompt.source
    opens = [(formatted.open_tag(label, linked=prompt.linked), label) for label in prompt.labels]
    close = formatted.close_tag(linked=prompt.linked)
    state = furthest = _State(0, 0, (), ())
    alternatives: list[_State] = []
    for _ in range(len(completion) + _MORE_STEPS):
        if state.at == len(completion) and state.source_at == len(source) and not state.stack:
            return _result(state, prompt, ())
        steps = _steps(completion, source, state, opens, close)
        if steps:
            state, *others = steps
            alternatives += reversed(others)
            if state.at > furthest.at:
                furthest = state
            continue
        if not alternatives:
            break
        state = alternatives.pop()
    return _result(furthest, prompt, (_problem(furthest, completion, source),))


def _steps(
    completion: str,
    source: str,
    state: _State,
    opens: Sequence[tuple[Tag, str]],
    close: Tag,
) -> list[_State]:
    """What may come next, best reading first."""
    at, source_at, stack, found = state
    steps: list[_State] = []
    if stack:
        read = _read_tag(completion, at, close)
        start, end = _trim(source, stack[-1].start, source_at)
        if read is not None and start < end:
            behind, numbers = read
            top = stack[-1]._replace(start=start)
            if close.after_numbers is not None:
                top = top._replace(numbers=numbers)
            steps.append(_State(behind, source_at, stack[:-1], (*found, (top, end))))
    for tag, label in opens:
        read = _read_tag(completion, at, tag)
        if read is not None:
            opened = _Open(label, source_at, read[1])
            steps.append(_State(read[0], source_at, (*stack, opened), found))
    if at < len(completion) and source_at < len(source) and completion[at] == source[source_at]:
        steps.append(_State(at + 1, source_at + 1, stack, found))
    return steps


def _read_tag(completion: str, at: int, tag: Tag) -> tuple[int, tuple[int, ...]] | None:
    """Where the tag that starts here ends, and its numbers; None if it does not start here."""
    if not completion.startswith(tag.start, at):
        return None
    at += len(tag.start)
    if tag.after_numbers is None:
        return at, ()
    told = _NUMBERS.match(completion, at)
    if told is None or not completion.startswith(tag.after_numbers, told.end()):
        return None
    numbers = tuple(int(number) for number in told.group().split(","))
    return told.end() + len(tag.after_numbers), tuple(n for n in numbers if n)


def _trim(source: str, start: int, end: int) -> tuple[int, int]:
    while start < end and source[start].isspace():
        start += 1
    while end > start and source[end - 1].isspace():
        end -= 1
    return start, end


def _result(
    state: _State, prompt: RelationPrompt, problems: tuple[ParseProblem, ...]
) -> ParseResult:
    base = prompt.window.start
    # Outer ones first, which were closed last.
    order = range(len(state.found) - 1, -1, -1)
    ordered = sorted(
        (state.found[index] for index in order), key=lambda item: (item[0].start, -item[1])
    )
    entities: list[Entity] = []
    relations: list[Relation] = []
    unknown = False
    for number, (opened, end) in enumerate(ordered, start=1):
        span = Span(base + opened.start, base + end)
        entities.append(Entity(f"M{number}", opened.label, (span,)))
        for told in dict.fromkeys(opened.numbers):
            if told > len(prompt.given):
                unknown = True
                continue
            tail = prompt.given[told - 1].id
            relations.append(Relation(f"R{len(relations) + 1}", MODIFIES, f"M{number}", tail))
    if unknown:
        problems = (*problems, ParseProblem("unknown-number", state.at))
    return ParseResult(tuple(entities), tuple(relations), problems)


def _problem(state: _State, completion: str, source: str) -> ParseProblem:
    if state.at == len(completion):
        return ParseProblem("unclosed" if state.source_at == len(source) else "truncated", state.at)
    return ParseProblem("not-in-source", state.at)
