"""What stands behind an extractor: prompts in, one answer a prompt out, whatever the backend."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fedmedlora.core.example import Prompt
    from fedmedlora.prompts.alignment import Alignment


@dataclass(frozen=True, slots=True)
class FoundSpan:
    """A marked span; offsets count from the start of the window's text.

    Attributes:
        label: As asked for.
        start: First character.
        end: Behind the last character.
        log_probability: Of the decisions that made the span, among the choices that there were.
            Not a number where the backend cannot tell.
        numbers: Numbers of the given entities that it belongs to; None where nobody asked.
        alignment: How the span was found in the window's text; constrained decoding copies the
            text, so that it is always exact there.
    """

    label: str
    start: int
    end: int
    log_probability: float
    alignment: Alignment = "exact"
    numbers: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class WindowAnswer:
    """What one window's answer holds.

    Attributes:
        spans: In text order.
        unaligned: How many marked stretches are not in the window's text, by label.
        unparsable: The answer could not be read as an answer.
        truncated: The answer was cut off because it was too long.
    """

    spans: tuple[FoundSpan, ...]
    unaligned: Mapping[str, int] = field(default_factory=dict)
    unparsable: bool = False
    truncated: bool = False


class Decoder(Protocol):
    """A way to answer prompts of one format."""

    def decode(
        self, prompts: Sequence[Prompt], on_done: Callable[[int], None]
    ) -> list[WindowAnswer]:
        """The answers, in the order of the prompts.

        Which prompts are computed side by side, and in which order, is a function of the prompts
        alone, so that the same call gives the same answers to the last bit.

        Args:
            prompts: Of any length.
            on_done: Told the index of each prompt as soon as it is answered.
        """


def longest_first(prompts: Sequence[Prompt]) -> list[int]:
    """The indices of the prompts by falling length of their source, ties in their order."""
    return sorted(range(len(prompts)), key=lambda index: (-len(prompts[index].source), index))
