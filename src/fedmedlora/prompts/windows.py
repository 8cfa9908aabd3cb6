"""Windows: the stretches of a note that the model reads one at a time.

A window is a group of sentences up to a token budget. Windows cover every character of a note; a
sentence longer than the budget is cut at piece boundaries with an overlap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmedlora.core.document import Span
from fedmedlora.prompts.pieces import cut

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fedmedlora.prompts.pieces import Piece


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch that the model reads, and the part of it that it answers for.

    The `core` spans of a note's windows partition the note: an entity found in two overlapping
    windows is kept from the one whose core holds its start. Cores meet in the middle of an overlap,
    so that an entity near the end of a window comes from the window that sees it whole.
    """

    span: Span
    core: Span


def windows(
    text: str,
    sentences: Sequence[Span],
    count_tokens: Callable[[str], int],
    *,
    budget_tokens: int,
    overlap_tokens: int = 16,
) -> list[Window]:
    """The windows of a note, in order; none for an empty note.

    Args:
        text: The note.
        sentences: Its sentence spans, covering the text without gaps.
        count_tokens: Tokens of one piece.
        budget_tokens: Source tokens a window may hold. A single piece may exceed it.
        overlap_tokens: Context that a cut sentence shares with the window before.

    Raises:
        ValueError: The overlap is not smaller than the budget, or sentences leave gaps.
    """
    if not 0 <= overlap_tokens < budget_tokens:
        raise ValueError("windows: expected 0 <= overlap_tokens < budget_tokens.")
    found: list[Window] = []
    group: Span | None = None
    group_tokens = 0
    position = 0
    for sentence in sentences:
        if sentence.start != position:
            raise ValueError(f"windows: no sentence covers offset {position}.")
        position = sentence.end
        words = text[sentence.start : sentence.end]
        pieces = cut(words)
        sizes = [count_tokens(words[piece.start : piece.end]) for piece in pieces]
        size = sum(sizes)
        if group is not None and group_tokens + size > budget_tokens:
            found.append(Window(group, group))
            group, group_tokens = None, 0
        if size > budget_tokens:
            found += _cut_sentence(sentence, pieces, sizes, budget_tokens, overlap_tokens)
        else:
            group = Span(group.start if group else sentence.start, sentence.end)
            group_tokens += size
    if position != len(text):
        raise ValueError(f"windows: no sentence covers offset {position}.")
    if group is not None:
        found.append(Window(group, group))
    return found


def _cut_sentence(
    sentence: Span, pieces: Sequence[Piece], sizes: Sequence[int], budget: int, overlap: int
) -> list[Window]:
    """Windows over one long sentence; each but the first repeats up to `overlap` tokens."""
    found: list[Window] = []
    first = 0
    core_start = sentence.start
    while core_start < sentence.end:
        last, used = first, sizes[first]
        while last + 1 < len(pieces) and used + sizes[last + 1] <= budget:
            last += 1
            used += sizes[last]
        start = sentence.start + pieces[first].start
        end = sentence.start + pieces[last].end
        core_end = end
        if last + 1 < len(pieces):
            # Step back for context, but always leave room for at least one new piece.
            first, context = last + 1, 0
            room = budget - sizes[last + 1]
            while first > 0 and context + sizes[first - 1] <= min(overlap, room):
                first -= 1
                context += sizes[first]
            core_end = sentence.start + pieces[(first + last + 1) // 2].start
        found.append(Window(Span(start, end), Span(core_start, core_end)))
        core_start = core_end
    return found
