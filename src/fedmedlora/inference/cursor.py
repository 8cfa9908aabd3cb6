"""What may come next in an answer: the next source piece, an opening tag, or the closing tag.

This is the whole grammar of copy-constrained decoding. It guarantees that the text is copied
exactly, that tags balance, that no span is empty, and that the answer ends.
"""

from __future__ import annotations

import copy
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, Self

from fedmedlora.inference.decoder import FoundSpan
from fedmedlora.prompts.pieces import cut

if TYPE_CHECKING:
    from fedmedlora.core.example import Prompt
    from fedmedlora.models.tokens import PieceTokenizer
    from fedmedlora.prompts.format import TagFormat


@dataclass(frozen=True, slots=True)
class Choice:
    """One way on, and the token ids that it takes. Choices are listed in the order of ties.

    `label` is that of an opening tag, or a number: the last one of its tag (kind `number`) or one
    that others follow (`more`).
    """

    kind: Literal["copy", "close", "open", "number", "more"]
    label: str
    token_ids: tuple[int, ...]


class Cursor(Protocol):
    """The grammar of one answer, and a place in it."""

    found: list[FoundSpan]

    @property
    def at(self) -> int:
        """The index of the next piece."""

    @property
    def opened_at(self) -> int:
        """The index of the first piece of the innermost open span; -1 where none is."""

    @property
    def num_told(self) -> int:
        """How many numbers of the present tag are written; -1 where no number comes next."""

    @property
    def done(self) -> bool:
        """Whether the source is copied and no tag is open."""

    def nearest(self) -> str:
        """The number to expect next, where one comes."""

    def word(self, index: int) -> str:
        """A piece of the source without its white space."""

    def extent(self, span: FoundSpan) -> tuple[str, str, int]:
        """The first word of a span that was found, its label, and its number of pieces."""

    def fork(self) -> Self:
        """A second cursor at the same place; it has found nothing yet."""

    def choices(self) -> list[Choice]:
        """All that may come next, in the order of ties; never empty unless `done`."""

    def take(self, choice: Choice, log_probability: float) -> None:
        """Go on by this choice, which was taken with this log-probability."""

    def copied_on(self, choice: Choice) -> int:
        """The token that follows this choice if copying goes on; the end token after the last."""


class CopyCursor:
    """A place in one window's source, with the tag that is open there, if any."""

    def __init__(self, prompt: Prompt, tags: TagFormat, tokenizer: PieceTokenizer) -> None:
        self._source = prompt.source
        self._pieces = cut(prompt.source)
        self._tokenizer = tokenizer
        self._opens = [(label, tokenizer.encode(tags.open_tag(label))) for label in prompt.labels]
        self._close = Choice("close", "", tokenizer.encode(tags.close_tag()))
        self._space_inside = tags.space_inside
        self._at = 0
        self._space_written = False
        self._label = ""
        self._opened_at = -1
        self._log_probability = 0.0
        self.found: list[FoundSpan] = []
        # Choices by state; a window is walked several times, so forks share what was worked out.
        self._known: dict[tuple[int, int, bool], list[Choice]] = {}

    @property
    def at(self) -> int:
        """The index of the next piece."""
        return self._at

    @property
    def opened_at(self) -> int:
        """The index of the first piece of the span that is open; -1 where none is."""
        return self._opened_at if self._label else -1

    @property
    def num_told(self) -> int:
        """-1: no tag holds numbers."""
        return -1

    def nearest(self) -> str:
        """Nothing: no tag holds numbers."""
        return ""

    def word(self, index: int) -> str:
        """A piece of the source without its white space."""
        piece = self._pieces[index]
        return self._source[piece.core_start : piece.end]

    def extent(self, span: FoundSpan) -> tuple[str, str, int]:
        """The first word of a span that was found, its label, and its number of pieces."""
        ends = [piece.end for piece in self._pieces]
        first = bisect_right(ends, span.start)
        return self.word(first), span.label, bisect_left(ends, span.end) - first + 1

    def fork(self) -> CopyCursor:
        """A second cursor at the same place; it has found nothing yet."""
        other = copy.copy(self)
        other.found = []
        return other

    @property
    def done(self) -> bool:
        """Whether the source is copied and no tag is open."""
        return self._at == len(self._pieces) and not self._label

    def choices(self) -> list[Choice]:
        """All that may come next: copy, then close, then the labels in their order.

        Never empty unless `done`. One choice means that there is nothing to decide.
        """
        inside = (self._at > self._opened_at) + 1 if self._label else 0
        state = (self._at, inside, self._space_written)
        if state not in self._known:
            self._known[state] = self._choices()
        return self._known[state]

    def _choices(self) -> list[Choice]:
        found: list[Choice] = []
        if self._at < len(self._pieces):
            found.append(Choice("copy", "", self._copied()))
        if self._label:
            if self._at > self._opened_at:
                found.append(self._close)
        elif self._at < len(self._pieces):
            piece = self._pieces[self._at]
            if piece.core_start < piece.end:
                space = () if self._space_inside else self._encode(piece.start, piece.core_start)
                found += [Choice("open", label, space + tag) for label, tag in self._opens]
        return found

    def take(self, choice: Choice, log_probability: float) -> None:
        """Go on by this choice, which was taken with this log-probability."""
        if choice.kind == "copy":
            self._at += 1
            self._space_written = False
        elif choice.kind == "open":
            self._label, self._opened_at = choice.label, self._at
            self._log_probability = log_probability
            self._space_written = not self._space_inside
        else:
            start = self._pieces[self._opened_at].core_start
            end = self._pieces[self._at - 1].end
            end -= len(self._source[start:end]) - len(self._source[start:end].rstrip())
            total = self._log_probability + log_probability
            self.found.append(FoundSpan(self._label, start, end, total))
            self._label = ""

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
