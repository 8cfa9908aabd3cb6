"""Windows: nothing of a note is left out, nothing is answered twice, the budget holds."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.core.document import Span
from fedmedlora.corpora.sentences import sentence_spans
from fedmedlora.prompts.pieces import cut
from fedmedlora.prompts.windows import Window, windows
from fedmedlora.testing.generators import note_texts


def size_of(piece: str) -> int:
    """Tokens of a piece as far as these tests go: one for every four characters begun."""
    return 1 + (len(piece) - 1) // 4


def tokens(text: str) -> int:
    return sum(size_of(text[p.start : p.end]) for p in cut(text))


def one(_piece: str) -> int:
    return 1


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, list[Window], int, int]:
    text = draw(note_texts(max_parts=60))
    budget = draw(st.integers(1, 40))
    overlap = draw(st.integers(0, budget - 1))
    found = windows(
        text, sentence_spans(text), size_of, budget_tokens=budget, overlap_tokens=overlap
    )
    return text, found, budget, overlap


@settings(deadline=None)
@given(cases())
def test_cores_partition_the_note_and_lie_in_their_windows(
    case: tuple[str, list[Window], int, int],
) -> None:
    text, found, _, _ = case

    assert "".join(text[w.core.start : w.core.end] for w in found) == text
    assert all(w.span.contains(w.core) for w in found)
    assert [w.core.start for w in found[1:]] == [w.core.end for w in found[:-1]]


@settings(deadline=None)
@given(cases())
def test_the_budget_is_kept_except_by_a_single_piece(
    case: tuple[str, list[Window], int, int],
) -> None:
    text, found, budget, _ = case

    for window in found:
        words = text[window.span.start : window.span.end]
        assert tokens(words) <= budget or len(cut(words)) == 1


@settings(deadline=None)
@given(cases())
def test_windows_go_forward_and_share_no_more_than_the_overlap(
    case: tuple[str, list[Window], int, int],
) -> None:
    text, found, _, overlap = case

    for before, after in itertools.pairwise(found):
        assert before.span.start < after.span.start <= before.span.end < after.span.end
        assert tokens(text[after.span.start : before.span.end]) <= overlap


def test_a_long_sentence_is_cut_with_overlap_and_cores_meet_in_its_middle() -> None:
    text = "a b c d e f g h i j"  # ten pieces: " b" is one
    found = windows(text, [Span(0, 19)], one, budget_tokens=6, overlap_tokens=2)

    assert [(text[w.span.start : w.span.end], text[w.core.start : w.core.end]) for w in found] == [
        ("a b c d e f", "a b c d e"),
        (" e f g h i j", " f g h i j"),
    ]


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 60), st.integers(1, 12))
def test_a_mention_of_half_the_overlap_is_seen_whole_by_the_window_that_answers_for_it(
    overlap: int, more: int, first_word: int, num_words: int
) -> None:
    num_words = min(num_words, overlap // 2 + 1)
    text = " ".join(["word"] * 80)
    start = 5 * first_word
    mention = Span(start, start + 5 * num_words - 1)
    found = windows(
        text,
        [Span(0, len(text))],
        one,
        budget_tokens=overlap + more,
        overlap_tokens=overlap,
    )

    (answering,) = [w for w in found if w.core.start <= start < w.core.end]
    assert answering.span.contains(mention)


def test_short_sentences_share_a_window_up_to_the_budget() -> None:
    text = "One. Two. Three. Four."
    spans = sentence_spans(text)
    found = windows(text, spans, one, budget_tokens=6, overlap_tokens=1)

    assert [text[w.span.start : w.span.end] for w in found] == ["One. Two. ", "Three. Four."]
    assert all(w.span == w.core for w in found)


def test_each_piece_of_a_long_line_is_counted_once() -> None:
    text = "x" * 20_000 + " word" * 4_000
    calls = []
    found = windows(
        text,
        sentence_spans(text),
        lambda piece: calls.append(piece) or 2,
        budget_tokens=96,
    )

    assert len(calls) == len(cut(text))
    assert len(found) < 200
    assert (found[0].core.start, found[-1].core.end) == (0, len(text))


def test_an_empty_note_has_no_windows() -> None:
    assert windows("", [], one, budget_tokens=8, overlap_tokens=2) == []


@pytest.mark.parametrize(("budget", "overlap"), [(0, 0), (8, 8), (8, 9), (8, -1)])
def test_an_overlap_that_leaves_no_room_is_refused(budget: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="overlap_tokens < budget_tokens"):
        windows("x", [Span(0, 1)], one, budget_tokens=budget, overlap_tokens=overlap)


@pytest.mark.parametrize("spans", [[], [Span(1, 4)], [Span(0, 3)], [Span(0, 1), Span(2, 4)]])
def test_sentences_that_leave_a_gap_are_refused(spans: list[Span]) -> None:
    with pytest.raises(ValueError, match="no sentence covers offset"):
        windows("word", spans, one, budget_tokens=8, overlap_tokens=2)
