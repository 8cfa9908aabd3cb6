"""The windows of a note, counted in a base model's own tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmedlora.corpora.sentences import sentence_spans
from fedmedlora.prompts.windows import Window, windows

if TYPE_CHECKING:
    from fedmedlora.models.tokens import PieceTokenizer


def note_windows(
    text: str, tokenizer: PieceTokenizer, *, budget_tokens: int, overlap_tokens: int = 16
) -> list[Window]:
    """Sentence groups of at most `budget_tokens` source tokens that cover the whole note."""
    return windows(
        text,
        sentence_spans(text),
        lambda piece: len(tokenizer.encode(piece)),
        budget_tokens=budget_tokens,
        overlap_tokens=overlap_tokens,
    )
