"""Windows of a note, counted in a model's own tokens."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.models.tokens import PieceTokenizer
from fedmedlora.models.windowing import note_windows
from fedmedlora.prompts.pieces import cut
from fedmedlora.testing.generators import note_texts
from fedmedlora.testing.tiny import tiny_tokenizer

TOKENIZER = PieceTokenizer(tiny_tokenizer(), "tiny")


def num_tokens(text: str) -> int:
    return sum(len(TOKENIZER.encode(text[p.start : p.end])) for p in cut(text))


@settings(deadline=None)
@given(note_texts(max_parts=60), st.integers(17, 60))
def test_windows_cover_the_note_within_the_budget(text: str, budget: int) -> None:
    found = note_windows(text, TOKENIZER, budget_tokens=budget)

    assert "".join(text[w.core.start : w.core.end] for w in found) == text
    for window in found:
        words = text[window.span.start : window.span.end]
        assert num_tokens(words) <= budget or len(cut(words)) == 1


@pytest.mark.parametrize("unit", ["x", "word ", "é", "😀", "\u0301", "Stop. ", "<problem>", "\n"])
def test_a_note_of_one_long_line_is_cut_in_linear_time(unit: str, grows_linearly) -> None:
    def windows(length: int) -> None:
        text = unit * (length // len(unit))
        assert note_windows(text, TOKENIZER, budget_tokens=96)[-1].core.end == len(text)

    assert grows_linearly(windows, 24_000)
