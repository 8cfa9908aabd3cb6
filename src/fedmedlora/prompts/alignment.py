"""What placing a free answer in its source gave, whatever the format."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Alignment = Literal["exact", "moved", "normalised", "fuzzy"]
"""How a stretch of an answer was found in the source.

`exact`: character for character, where the answer says. `moved`: character for character, but not
where the answer says. `normalised`: equal but for case, white space and typography. `fuzzy`: nearly
equal, and with the same digits.
"""

UNKNOWN_LABEL = "(unknown)"
"""Stands for every label that was not asked for; what a model invents may hold words of a note."""


@dataclass(frozen=True, slots=True)
class AlignedSpan:
    """A stretch that an answer marks; offsets count from the start of the prompt's source."""

    label: str
    start: int
    end: int
    alignment: Alignment


@dataclass(frozen=True, slots=True)
class AlignedAnswer:
    """What a free answer holds.

    Attributes:
        spans: In text order, without overlap.
        unaligned: How many marked stretches are not in the source, by label. A stretch that is
            there but has been marked already, or lies within a longer one, is in neither.
        unparsable: The answer is no answer: nothing in it could be placed, and it has no likeness
            to one.
    """

    spans: tuple[AlignedSpan, ...]
    unaligned: Mapping[str, int] = field(default_factory=dict)
    unparsable: bool = False


def labels_by_name(labels: tuple[str, ...]) -> dict[str, str]:
    """The labels that were asked for, by their case-folded names."""
    return {label.casefold(): label for label in reversed(labels)}
