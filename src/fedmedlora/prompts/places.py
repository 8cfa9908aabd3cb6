"""Finding stretches of an answer in its source, as given, nearly as given, and each place once."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right
from functools import cache, lru_cache
from typing import NamedTuple

from fedmedlora.prompts.pieces import cut

# Typographic signs that models write in their plain form.
_PLAIN = str.maketrans(
    "\u2018\u2019\u201c\u201d\u2010\u2011\u2012\u2013\u2014\u2212", "''\"\"------"
)
# Longer stretches are never almost equal; a search costs one step for each character searched.
_MOST_CHARACTERS = 256
_MOST_STEPS = 500_000
# The nearest ends of a stretch may turn out to lie within longer words; so many are tried.
_MOST_TRIES = 16


class Stretch(NamedTuple):
    """`source[start:end]`."""

    start: int
    end: int


@lru_cache(maxsize=4096)
def _fold(char: str) -> str:
    if char.isspace():
        return ""
    folded = unicodedata.normalize("NFKD", char).casefold().translate(_PLAIN)
    return "".join(folded.split())


class Flat:
    """A text without white space, case and typography, and where each character left is from."""

    def __init__(self, text: str) -> None:
        self.origins: list[int] = []
        parts: list[str] = []
        for origin, char in enumerate(text):
            folded = _fold(char)
            parts.append(folded)
            self.origins += [origin] * len(folded)
        self.text = "".join(parts)

    def index(self, origin: int) -> int:
        """The first flat character that is from this place of the text or behind it."""
        return bisect_left(self.origins, origin)

    def stretch(self, start: int, end: int) -> Stretch | None:
        """Where `text[start:end]` is from; None if it begins or ends within a character."""
        first, last = self.origins[start], self.origins[end - 1]
        if start and self.origins[start - 1] == first:
            return None
        if end < len(self.origins) and self.origins[end] == last:
            return None
        return Stretch(first, last + 1)


class Places:
    """The places of one source, each of which can be taken once.

    All stretches that are found begin and end at pieces (`prompts/pieces.py`), so that a word is
    never found within another. What is found is what is there, taken or not.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.flat = Flat(source)
        words = [piece for piece in cut(source) if piece.core_start < piece.end]
        self._starts = [piece.core_start for piece in words]
        self._ends = [piece.end for piece in words]
        self._are_starts = frozenset(self._starts)
        self._are_ends = frozenset(self._ends)
        self._taken = bytearray(len(source))
        self._steps_left = _MOST_STEPS
        self.exact = cache(self._exact)
        self.normalised = cache(self._normalised)

    def take(self, stretch: Stretch) -> bool:
        """Whether the stretch was free, all of it; it no longer is."""
        if not self.is_free(stretch):
            return False
        self._taken[stretch.start : stretch.end] = b"\1" * (stretch.end - stretch.start)
        return True

    def is_free(self, stretch: Stretch) -> bool:
        """Whether nothing of the stretch has been taken."""
        return self._taken.find(1, stretch.start, stretch.end) < 0

    def at_pieces(self, stretch: Stretch) -> bool:
        """Whether the stretch begins and ends at pieces."""
        return stretch.start in self._are_starts and stretch.end in self._are_ends

    def _exact(self, words: str) -> list[Stretch]:
        """The stretches that are these words, in order."""
        found = []
        start = self.source.find(words) if words else -1
        while start >= 0:
            stretch = Stretch(start, start + len(words))
            if self.at_pieces(stretch):
                found.append(stretch)
            start = self.source.find(words, start + 1)
        return found

    def _normalised(self, flat_words: str) -> list[Stretch]:
        """The stretches that are these words but for what `Flat` leaves out, in order."""
        return self.normalised_within(flat_words, 0, len(self.flat.text))

    def normalised_within(self, flat_words: str, start: int, end: int) -> list[Stretch]:
        """As `normalised`, of the flat characters from `start` to `end` only."""
        found = []
        at = self.flat.text.find(flat_words, start, end) if flat_words else -1
        while at >= 0:
            stretch = self.flat.stretch(at, at + len(flat_words))
            if stretch is not None and self.at_pieces(stretch):
                found.append(stretch)
            at = self.flat.text.find(flat_words, at + 1, end)
        return found

    def nearly(
        self, flat_words: str, most_edits: int, start: int = 0, end: int | None = None
    ) -> Stretch | None:
        """The stretch that is these words but for few edits, with the same digits in it.

        Among equally near ones the first. None, too, once too much has been searched, which bounds
        the time that an answer full of inventions can take.

        Args:
            flat_words: As `Flat` has them.
            most_edits: Characters that may be put in, left out or replaced.
            start: First flat character that may belong to the stretch.
            end: Behind the last one.
        """
        end = len(self.flat.text) if end is None else end
        if most_edits < 1 or not 0 < len(flat_words) <= _MOST_CHARACTERS or start >= end:
            return None
        self._steps_left -= end - start
        if self._steps_left < 0:
            return None
        distances = _edits(flat_words, self.flat.text[start:end], anchored=False)
        near = [(edits, at) for at, edits in enumerate(distances, start) if edits <= most_edits]
        tried: set[Stretch] = set()
        for edits, last in sorted(near)[:_MOST_TRIES]:
            # Read backward from its end, the stretch begins where that makes the fewest edits.
            first = max(start, last + 1 - len(flat_words) - edits)
            backward = self.flat.text[first : last + 1][::-1]
            sizes = _edits(flat_words[::-1], backward, anchored=True)
            stretch = self._to_pieces(last - sizes.index(min(sizes)), last)
            if stretch in tried:
                continue
            words = Flat(self.source[stretch.start : stretch.end]).text
            if _digits(words) == _digits(flat_words) and (
                _edits(flat_words, words, anchored=True)[-1] <= most_edits
            ):
                return stretch
            tried.add(stretch)
        return None

    def _to_pieces(self, first: int, last: int) -> Stretch:
        """The pieces that these flat characters, first to last, belong to."""
        start, end = self.flat.origins[first], self.flat.origins[last]
        index = max(0, bisect_right(self._starts, start) - 1)
        return Stretch(self._starts[index], self._ends[bisect_right(self._ends, end)])


def _digits(text: str) -> list[str]:
    return [char for char in text if char.isdigit()]


def _edits(pattern: str, text: str, *, anchored: bool) -> list[int]:
    """For each character of the text how many edits make the pattern end there.

    It may begin anywhere, or, `anchored`, at the start of the text only. Bit-parallel: one step for
    each character (Myers 1999, in Hyyrö's form).
    """
    masks: dict[str, int] = {}
    for index, char in enumerate(pattern):
        masks[char] = masks.get(char, 0) | 1 << index
    every, top = (1 << len(pattern)) - 1, 1 << len(pattern) - 1
    more, less = every, 0  # where the column rises and falls from one row to the next
    edits = len(pattern)
    found = []
    for char in text:
        equal = masks.get(char, 0)
        diagonal = ((((equal & more) + more) ^ more) | equal | less) & every
        rises = (less | ~(diagonal | more)) & every
        falls = more & diagonal
        edits += bool(rises & top) - bool(falls & top)
        rises = (rises << 1 | anchored) & every
        falls = falls << 1 & every
        more = (falls | ~(diagonal | rises)) & every
        less = rises & diagonal
        found.append(edits)
    return found
