"""What may come next in an answer of the relation task.

As in the entity task, the source is copied piece by piece; but tags may nest, and one of the two
tags of a modifier holds the numbers of entities, of which only those are offered that the schema
allows for its label. So no answer holds a link that cannot be.
"""

from __future__ import annotations

import copy
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, NamedTuple

from fedmedlora.inference.cursor import Choice
from fedmedlora.inference.decoder import FoundSpan
from fedmedlora.prompts.pieces import cut
from fedmedlora.prompts.relation_marks import allowed_numbers
from fedmedlora.prompts.relation_tagging import MAX_DEPTH

if TYPE_CHECKING:
    from fedmedlora.core.example import RelationPrompt
    from fedmedlora.models.tokens import PieceTokenizer
    from fedmedlora.prompts.relation_format import RelationFormat, Tag


class _Open(NamedTuple):
    """A tag that is open: its label, its first piece, its numbers, and how likely all that was."""

    label: str
    at: int
    numbers: tuple[int, ...]
    log_probability: float


class RelationCursor:
    """A place in one window's source, with the tags that are open there, outer ones first."""

    def __init__(
        self, prompt: RelationPrompt, formatted: RelationFormat, tokenizer: PieceTokenizer
    ) -> None:
        self._source = prompt.source
        self._pieces = cut(prompt.source)
        self._tokenizer = tokenizer
        self._opens = [
            (label, formatted.open_tag(label, linked=prompt.linked)) for label in prompt.labels
        ]
        self._close: Tag = formatted.close_tag(linked=prompt.linked)
        self._space_inside = formatted.space_inside
        self._allowed = {
            label: allowed_numbers(prompt.given, label, formatted.schema) for label in prompt.labels
        }
        self._linked = prompt.linked
        self._middle = {
            number: (entity.start + entity.end) // 2 - prompt.window.start
            for number, entity in enumerate(prompt.given, start=1)
        }
        self._at = 0
        self._space_written = False
        self._stack: tuple[_Open, ...] = ()
        # The tag whose numbers come next: what stands behind them, and whether it closes.
        self._numbering: str | None = None
        self._closing = False
        self.found: list[FoundSpan] = []
        # Choices by state; a window is walked several times, so forks share what was worked out.
        self._known: dict[tuple[object, ...], list[Choice]] = {}

    @property
    def at(self) -> int:
        """The index of the next piece."""
        return self._at

    @property
    def opened_at(self) -> int:
        """The index of the first piece of the innermost open span; -1 where none is."""
        return self._stack[-1].at if self._stack else -1

    @property
    def num_told(self) -> int:
        """How many numbers of the present tag are written; -1 where no number comes next."""
        return -1 if self._numbering is None else len(self._stack[-1].numbers)

    def nearest(self) -> str:
        """The number to expect next: of the nearest entity that is allowed; `0` if none is."""
        top = self._stack[-1]
        here = (self._pieces[top.at].core_start + self._pieces[max(top.at, self._at - 1)].end) // 2
        numbers = self._allowed[top.label]
        return str(min(numbers, key=lambda n: abs(self._middle[n] - here), default=0))

    def word(self, index: int) -> str:
        """A piece of the source without its white space."""
        piece = self._pieces[index]
        return self._source[piece.core_start : piece.end]

    def extent(self, span: FoundSpan) -> tuple[str, str, int]:
        """The first word of a span that was found, its label, and its number of pieces."""
        ends = [piece.end for piece in self._pieces]
        first = bisect_right(ends, span.start)
        return self.word(first), span.label, bisect_left(ends, span.end) - first + 1

    def fork(self) -> RelationCursor:
        """A second cursor at the same place; it has found nothing yet."""
        other = copy.copy(self)
        other.found = []
        return other

    @property
    def done(self) -> bool:
        """Whether the source is copied and no tag is open."""
        return self._at == len(self._pieces) and not self._stack

    def choices(self) -> list[Choice]:
        """All that may come next: copy, close, the labels in their order; or the numbers.

        Never empty unless `done`. One choice means that there is nothing to decide.
        """
        opened = tuple((tag.label, tag.at, tag.numbers) for tag in self._stack)
        state = (self._at, self._space_written, self._numbering, opened)
        if state not in self._known:
            self._known[state] = self._choices() if self._numbering is None else self._numbers()
        return self._known[state]

    def _choices(self) -> list[Choice]:
        found: list[Choice] = []
        if self._at < len(self._pieces):
            found.append(Choice("copy", "", self._copied()))
        if self._stack and self._at > self._stack[-1].at:
            found.append(Choice("close", "", self._tokenizer.encode(self._close.start)))
        if self._at < len(self._pieces) and len(self._stack) < MAX_DEPTH:
            piece = self._pieces[self._at]
            if piece.core_start < piece.end:
                begin = piece.start if not self._space_written else piece.core_start
                space = () if self._space_inside else self._encode(begin, piece.core_start)
                here = {tag.label for tag in self._stack if tag.at == self._at}
                found += [
                    Choice("open", label, space + self._tokenizer.encode(tag.start))
                    for label, tag in self._opens
                    if label not in here
                ]
        return found

    def _numbers(self) -> list[Choice]:
        """Each number that may come next, as the last one and as one before others."""
        top = self._stack[-1]
        last = top.numbers[-1] if top.numbers else 0
        numbers = [number for number in self._allowed[top.label] if number > last]
        end = self._tokenizer.encode(str(self._numbering))
        comma = self._tokenizer.encode(",")
        found = []
        for number in numbers:
            digits = self._tokenizer.encode(str(number))
            found.append(Choice("number", str(number), digits + end))
            if number != numbers[-1]:
                found.append(Choice("more", str(number), digits + comma))
        if not top.numbers:
            found.append(Choice("number", "0", self._tokenizer.encode("0") + end))
        return found

    def take(self, choice: Choice, log_probability: float) -> None:
        """Go on by this choice, which was taken with this log-probability."""
        if choice.kind == "copy":
            self._at += 1
            self._space_written = False
            return
        if choice.kind == "open":
            self._stack = (*self._stack, _Open(choice.label, self._at, (), log_probability))
            self._space_written = not self._space_inside
            tag = dict(self._opens)[choice.label]
            self._numbering, self._closing = tag.after_numbers, False
            return
        *outer, top = self._stack
        told = (int(choice.label),) if choice.label not in ("", "0") else ()
        top = top._replace(
            numbers=top.numbers + told, log_probability=top.log_probability + log_probability
        )
        self._stack = (*outer, top)
        if choice.kind == "close":
            self._numbering, self._closing = self._close.after_numbers, True
        elif choice.kind == "number":
            self._numbering = None
        if self._closing and self._numbering is None:
            self._closing = False
            self._end(top)

    def _end(self, top: _Open) -> None:
        """Take the innermost tag from the stack and keep what it marks."""
        self._stack = self._stack[:-1]
        start = self._pieces[top.at].core_start
        end = self._pieces[self._at - 1].end
        end -= len(self._source[start:end]) - len(self._source[start:end].rstrip())
        numbers = top.numbers if self._linked else None
        self.found.append(FoundSpan(top.label, start, end, top.log_probability, numbers=numbers))

    def copied_on(self, choice: Choice) -> int:
        """The token that follows this choice if copying goes on; the end token after the last."""
        index = self._at + (choice.kind == "copy")
        if index == len(self._pieces):
            return self._tokenizer.end_id
        piece = self._pieces[index]
        bare = choice.kind == "open" and not self._space_inside
        return self._encode(piece.core_start if bare else piece.start, piece.end)[0]

    def _copied(self) -> tuple[int, ...]:
        piece = self._pieces[self._at]
        return self._encode(piece.core_start if self._space_written else piece.start, piece.end)

    def _encode(self, start: int, end: int) -> tuple[int, ...]:
        return self._tokenizer.encode(self._source[start:end]) if start < end else ()
