"""Placing the tags of an answer that copies its source with faults.

A model that writes freely corrects typing errors, changes case and white space, leaves out, repeats
or invents sentences, and uses labels that nobody asked for. What it marks is looked up in the
source: first where the copy stands at that point, then elsewhere.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from fedmedlora.prompts.alignment import UNKNOWN_LABEL, AlignedAnswer, AlignedSpan, labels_by_name
from fedmedlora.prompts.following import follow
from fedmedlora.prompts.places import Flat, Places, Stretch
from fedmedlora.prompts.tagging import parse_tagged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.core.example import Prompt
    from fedmedlora.prompts.alignment import Alignment
    from fedmedlora.prompts.format import TagFormat

# What a tag may hold between the format's own signs if it is no label that was asked for.
_NAME = r"[A-Za-z][\w-]{0,39}"
# Flat characters of context, on each side, by which one of several places is told from the others;
# with `_SURE` of them, that it is the one which was meant.
_CONTEXT = 16
_SURE = 8
# Of the places that are equal to a mark, how many on either side are looked at.
_MOST_PLACES = 16
# The shortest mark that is looked for elsewhere with one character put in, left out or replaced.
_SHORTEST_FUZZY = 5


class _Mark(NamedTuple):
    """`words` of the answer's text, which are its flat characters from `first` to before `end`."""

    label: str
    words: str
    first: int
    end: int


def align_tagged(tags: TagFormat, completion: str, prompt: Prompt) -> AlignedAnswer:
    """The spans that an answer marks, placed in the prompt's source.

    An answer that copies the source faultlessly gives exactly what `parse_tagged` reads. Otherwise
    the longest marks are placed first. Tags that are never closed or hold nothing mark nothing.
    """
    strict = parse_tagged(tags, completion, prompt)
    if not strict.problems:
        base = prompt.window.start
        return AlignedAnswer(
            tuple(
                AlignedSpan(e.label, e.start - base, e.end - base, "exact") for e in strict.entities
            )
        )
    text, stretches = _untagged(tags, completion, prompt)
    places = Places(prompt.source)
    reading = _Reading(text, places)
    marks = [
        _Mark(label, text[start:end], reading.answer.index(start), reading.answer.index(end))
        for label, start, end in stretches
    ]
    spans: list[AlignedSpan] = []
    unaligned: Counter[str] = Counter()

    def place(mark: _Mark, found: tuple[Stretch, Alignment]) -> None:
        stretch, alignment = found
        if places.take(stretch):
            spans.append(AlignedSpan(mark.label, stretch.start, stretch.end, alignment))

    strays = []
    for mark in sorted(marks, key=lambda mark: (mark.first - mark.end, mark.first)):
        if mark.label == UNKNOWN_LABEL:
            unaligned[UNKNOWN_LABEL] += 1
            continue
        here = reading.in_place(mark)
        if here is None:
            strays.append(mark)
        else:
            place(mark, here)
    for mark in sorted(strays, key=lambda mark: mark.first):
        elsewhere = reading.elsewhere(mark)
        if elsewhere is None:
            unaligned[mark.label] += 1
        else:
            place(mark, elsewhere)
    spans.sort(key=lambda span: span.start)
    return AlignedAnswer(tuple(spans), dict(unaligned), not spans and not reading.is_likeness)


def _untagged(
    tags: TagFormat, completion: str, prompt: Prompt
) -> tuple[str, list[tuple[str, int, int]]]:
    """The answer without its tags, and what they mark there: label, start, end."""
    labels = labels_by_name(prompt.labels)
    before, after = (re.escape(part) for part in tags.open_tag("\0").split("\0"))
    names = "|".join([*map(re.escape, sorted(prompt.labels, key=len, reverse=True)), _NAME])
    closing = f"{re.escape(tags.close_tag())}|</{_NAME}>"
    any_tag = re.compile(f"{before}(?P<name>{names}){after}|{closing}", re.IGNORECASE)
    copied = _copied(any_tag, completion, prompt.source)
    parts: list[str] = []
    length = at = 0
    marked: list[tuple[str, int, int]] = []
    opened: list[tuple[str, int]] = []
    for found in any_tag.finditer(completion):
        if found.start() in copied:
            continue
        parts.append(completion[at : found.start()])
        length += found.start() - at
        at = found.end()
        if found["name"] is not None:
            opened.append((labels.get(found["name"].casefold(), UNKNOWN_LABEL), length))
        elif opened:
            marked.append((*opened.pop(), length))
    text = "".join([*parts, completion[at:]])
    return text, [(label, *span) for label, *ends in marked if (span := _trim(text, *ends))]


def _trim(text: str, start: int, end: int) -> tuple[int, int] | None:
    words = text[start:end]
    start += len(words) - len(words.lstrip())
    end -= len(words) - len(words.rstrip())
    return (start, end) if start < end else None


def _copied(any_tag: re.Pattern[str], completion: str, source: str) -> set[int]:
    """Where the answer copies tag strings that the source itself holds."""
    own = {found.start() for found in any_tag.finditer(source)}
    if not own:
        return set()
    flat, flat_source = Flat(completion), Flat(source)
    places = follow(flat.text, flat_source.text)
    copied = set()
    for found in any_tag.finditer(completion):
        first, last = flat.index(found.start()), flat.index(found.end()) - 1
        whole = places[first] >= 0 and places[last] - places[first] == last - first
        if whole and flat_source.origins[places[first]] in own:
            copied.add(found.start())
    return copied


class _Reading:
    """An answer's text followed through its source."""

    def __init__(self, text: str, places: Places) -> None:
        self.answer = Flat(text)
        self._places = places
        self._source = places.flat
        self._followed = follow(self.answer.text, self._source.text)
        size = len(self._source.text)
        # For each gap between flat characters the source's that are followed on its two sides.
        self._before, self._behind = [-1], [size]
        for place in self._followed:
            self._before.append(place if place >= 0 else self._before[-1])
        for place in reversed(self._followed):
            self._behind.append(place if place >= 0 else self._behind[-1])
        self._behind.reverse()

    @property
    def is_likeness(self) -> bool:
        """Whether half of the shorter of the two texts is a copy."""
        copied = sum(place >= 0 for place in self._followed)
        return 2 * copied >= min(len(self._followed), len(self._source.text)) > 0 or (
            not self._source.text
        )

    def in_place(self, mark: _Mark) -> tuple[Stretch, Alignment] | None:
        """Where a mark stands if it is near what surrounds it in the answer."""
        flat_words = self.answer.text[mark.first : mark.end]
        if not flat_words:
            return None
        size = len(flat_words)
        for start in (self._followed[mark.first], self._followed[mark.end - 1] - size + 1):
            if start >= 0 and self._source.text.startswith(flat_words, start):
                stretch = self._source.stretch(start, start + size)
                if stretch is not None:
                    return self._equal(mark, stretch)
        start, end = self._surrounded(mark)
        if equal := self._places.normalised_within(flat_words, start, end):
            free = (stretch for stretch in equal if self._places.is_free(stretch))
            return self._equal(mark, next(free, equal[0]))
        near = self._places.nearly(flat_words, size // 3, start, end)
        return None if near is None else (near, "fuzzy")

    def elsewhere(self, mark: _Mark) -> tuple[Stretch, Alignment] | None:
        """Where a mark stands if it can be anywhere; maybe where another one stands already."""
        flat_words = self.answer.text[mark.first : mark.end]
        if same := self._places.exact(mark.words):
            return self._choose(mark, same), "moved"
        if equal := self._places.normalised(flat_words):
            return self._choose(mark, equal), "normalised"
        if len(flat_words) >= _SHORTEST_FUZZY:
            near = self._places.nearly(flat_words, 1)
            return None if near is None else (near, "fuzzy")
        return None

    def _equal(self, mark: _Mark, stretch: Stretch) -> tuple[Stretch, Alignment]:
        exact = self._places.source[stretch.start : stretch.end] == mark.words
        return stretch, "exact" if exact else "normalised"

    def _surrounded(self, mark: _Mark) -> tuple[int, int]:
        """The flat characters of the source among which a mark must be to be in place; few."""
        start, end = self._before[mark.first] + 1, self._behind[mark.end]
        reach = 2 * (mark.end - mark.first) + 8
        if end - start > reach:
            followed = self._followed
            if mark.first == 0 or followed[mark.first - 1] >= 0:
                end = start + reach
            elif mark.end < len(followed) and followed[mark.end] >= 0:
                start = end - reach
            else:
                end = start
        return start, end

    def _choose(self, mark: _Mark, stretches: Sequence[Stretch]) -> Stretch:
        """Of equal places that with the mark's context; else the next free one, or the nearest."""
        start, _ = self._surrounded(mark)
        expected = self._source.origins[start] if start < len(self._source.origins) else 0
        behind = sum(stretch.start < expected for stretch in stretches)
        near = stretches[max(0, behind - _MOST_PLACES) : behind + _MOST_PLACES]
        contexts = {stretch: self._context(mark, stretch) for stretch in near}
        best = max(contexts.values())
        if best >= _SURE:
            near = [stretch for stretch in near if contexts[stretch] == best]
        near = [stretch for stretch in near if self._places.is_free(stretch)] or near
        later = [stretch for stretch in near if stretch.start >= expected]
        return later[0] if later else near[-1]

    def _context(self, mark: _Mark, stretch: Stretch) -> int:
        """How many flat characters around the stretch are those around the mark."""
        start, end = self._source.index(stretch.start), self._source.index(stretch.end)
        left = _agreeing(
            self.answer.text[max(0, mark.first - _CONTEXT) : mark.first][::-1],
            self._source.text[max(0, start - _CONTEXT) : start][::-1],
        )
        return left + _agreeing(
            self.answer.text[mark.end : mark.end + _CONTEXT],
            self._source.text[end : end + _CONTEXT],
        )


def _agreeing(one: str, other: str) -> int:
    """How many characters the two have in common from their start."""
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return index
    return min(len(one), len(other))
