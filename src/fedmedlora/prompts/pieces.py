"""Cutting text into pieces: the units that extraction copies and between which a tag may stand.

A piece is white space in front plus one word, one run of digits, or one other character. Pieces
are short, so nearly every annotated boundary is a piece boundary, and they never lose a character.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# The bounds keep a piece short in notes without spaces; they cut only what no annotator cuts.
_PIECE = re.compile(r"\s{0,64}(?:[^\W\d_]{1,64}|\d{1,64}|[^\w\s]|_)|\s{1,64}")


@dataclass(frozen=True, slots=True)
class Piece:
    """`text[start:end]`, of which the first `num_space` characters are white space."""

    start: int
    end: int
    num_space: int

    @property
    def core_start(self) -> int:
        """Where the piece starts after its white space; `end` for white space alone."""
        return self.start + self.num_space


def cut(text: str) -> list[Piece]:
    """The pieces of a text, in order; together they are the text."""
    pieces = []
    for match in _PIECE.finditer(text):
        piece = match.group()
        pieces.append(Piece(match.start(), match.end(), len(piece) - len(piece.lstrip())))
    return pieces
