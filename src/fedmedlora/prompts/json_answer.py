"""Reading an answer that should be a JSON list of mentions, and placing them in the source."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from fedmedlora.core.document import Entity, Span
from fedmedlora.core.example import ParseProblem, ParseResult
from fedmedlora.prompts.alignment import UNKNOWN_LABEL, AlignedAnswer, AlignedSpan, labels_by_name
from fedmedlora.prompts.places import Flat, Places, Stretch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fedmedlora.core.example import Prompt
    from fedmedlora.prompts.alignment import Alignment

# Lenient: a model may write line breaks and tabs into its strings as they are.
_DECODER = json.JSONDecoder(strict=False)
_EMPTY_LIST = re.compile(r"\[\s*\]")
# Of the equal places around the one that an item names, how many on either side are looked at.
_MOST_PLACES = 16
# The shortest text that is looked for with one character put in, left out or replaced.
_SHORTEST_FUZZY = 5


class _Item(NamedTuple):
    """A mention as the answer has it; `occurrence` counts from 1, or is not stated."""

    label: str
    words: str
    occurrence: int | None
    offset: int


@dataclass(frozen=True, slots=True)
class _Read:
    """What an answer says, before anything is looked up."""

    items: list[_Item]
    problems: list[ParseProblem]
    is_list: bool


def parse_list(completion: str, prompt: Prompt) -> ParseResult:
    """The entities whose words are in the source exactly; all else is in `problems`."""
    read = _read(completion, prompt)
    problems = list(read.problems)
    spans = []
    for item, placed in _place(read.items, prompt):
        if placed is None or placed.alignment not in ("exact", "moved"):
            code = "unknown-label" if item.label == UNKNOWN_LABEL else "not-in-source"
            problems.append(ParseProblem(code, item.offset))
        else:
            spans.append(placed)
    base = prompt.window.start
    spans.sort(key=lambda span: span.start)
    entities = tuple(
        Entity(f"T{number}", span.label, (Span(base + span.start, base + span.end),))
        for number, span in enumerate(spans, start=1)
    )
    return ParseResult(entities, (), tuple(sorted(problems, key=lambda p: p.offset)))


def align_list(completion: str, prompt: Prompt) -> AlignedAnswer:
    """The mentions of an answer, placed in the prompt's source."""
    read = _read(completion, prompt)
    spans = []
    unaligned: Counter[str] = Counter()
    for item, placed in _place(read.items, prompt):
        if placed is None:
            unaligned[item.label] += 1
        else:
            spans.append(placed)
    spans.sort(key=lambda span: span.start)
    return AlignedAnswer(tuple(spans), dict(unaligned), not read.is_list)


def _read(completion: str, prompt: Prompt) -> _Read:
    """The items of the answer, whatever stands around them, up to where it is cut off."""
    labels = labels_by_name(prompt.labels)
    items: list[_Item] = []
    problems: list[ParseProblem] = []
    end = 0
    start = completion.find("{")
    while start >= 0:
        try:
            value, end = _DECODER.raw_decode(completion, start)
        except (ValueError, RecursionError):
            start = completion.find("{", start + 1)
            continue
        found = list(_mentions(value))
        if not found:
            problems.append(ParseProblem("empty", start))
        for mention in found:
            words = mention["text"].strip()
            if words:
                label = labels.get(mention["label"].strip().casefold(), UNKNOWN_LABEL)
                items.append(_Item(label, words, _occurrence(mention), start))
            else:
                problems.append(ParseProblem("empty", start))
        start = completion.find("{", end)
    is_empty = not items and _EMPTY_LIST.search(completion) is not None
    if not is_empty and "]" not in completion[end:]:
        problems.append(ParseProblem("truncated", len(completion)))
    return _Read(items, problems, bool(items) or is_empty)


def _mentions(value: Any) -> Iterator[dict[str, Any]]:
    """The mentions in a decoded value; some models wrap the list in an object."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += reversed(value)
        elif isinstance(value, dict):
            if isinstance(value.get("text"), str) and isinstance(value.get("label"), str):
                yield value
            else:
                waiting += reversed(value.values())


def _occurrence(mention: dict[str, Any]) -> int | None:
    stated = mention.get("occurrence")
    return stated if type(stated) is int and stated >= 1 else None


def _place(items: Sequence[_Item], prompt: Prompt) -> Iterator[tuple[_Item, AlignedSpan | None]]:
    """Each item with its place, or None; items that say again what was placed are left out."""
    places = Places(prompt.source)
    for item in items:
        if item.label == UNKNOWN_LABEL:
            yield item, None
            continue
        found = _find(item, places)
        if found is None:
            yield item, None
        elif places.take(found[0]):
            yield item, AlignedSpan(item.label, *found[0], found[1])


def _find(item: _Item, places: Places) -> tuple[Stretch, Alignment] | None:
    """Where an item's words are; a place that is taken only if there is no other."""
    if same := places.exact(item.words):
        stretch = _nearest(item, same, places)
        stated = item.occurrence
        here = stated is None or (stated <= len(same) and same[stated - 1] == stretch)
        return stretch, "exact" if here else "moved"
    flat_words = Flat(item.words).text
    if equal := places.normalised(flat_words):
        return _nearest(item, equal, places), "normalised"
    if len(flat_words) >= _SHORTEST_FUZZY:
        near = places.nearly(flat_words, 1)
        return None if near is None else (near, "fuzzy")
    return None


def _nearest(item: _Item, stretches: Sequence[Stretch], places: Places) -> Stretch:
    """The free one nearest to the stated occurrence; without one, the first that is free."""
    if item.occurrence is None:
        return next((s for s in stretches if places.is_free(s)), stretches[0])
    stated = min(item.occurrence, len(stretches)) - 1
    first = max(0, stated - _MOST_PLACES)
    near = range(first, min(len(stretches), stated + _MOST_PLACES + 1))
    free = [index for index in near if places.is_free(stretches[index])] or [stated]
    return stretches[min(free, key=lambda index: abs(index - stated))]
