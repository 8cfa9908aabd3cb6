"""Stretches of a source: found as given or nearly so, never within a word, each given out once."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.prompts.pieces import cut
from fedmedlora.prompts.places import Flat, Places, Stretch
from fedmedlora.testing.generators import note_texts

NOTE = "MIld MI, no mi. Chest\n pain; ICD\u20112 on 2021\u20132022, K 3.5, ﬁbrosis, Straße 5, 50 mg"


def words_of(places: Places, stretches: list[Stretch]) -> list[str]:
    return [places.source[stretch.start : stretch.end] for stretch in stretches]


def test_a_word_is_not_found_within_another() -> None:
    places = Places(NOTE)

    assert places.exact("MI") == [Stretch(5, 7)]
    assert places.exact("ld") == []
    assert places.exact("") == []
    assert places.exact("0") == []


@pytest.mark.parametrize(
    ("given_words", "found"),
    [
        ("mi", ["MI", "mi"]),
        ("chest pain", ["Chest\n pain"]),
        ("CHESTPAIN", ["Chest\n pain"]),
        ("ICD-2", ["ICD\u20112"]),
        ("2021-2022", ["2021\u20132022"]),
        ("fibrosis", ["ﬁbrosis"]),
        ("STRASSE", ["Straße"]),
        ("stras", []),
        ("3", ["3"]),
        ("fever", []),
        (" ", []),
    ],
)
def test_case_white_space_and_typography_do_not_count_once_normalised(
    given_words: str, found: list[str]
) -> None:
    places = Places(NOTE)

    assert words_of(places, places.normalised(Flat(given_words).text)) == found


@pytest.mark.parametrize(
    ("source", "words", "most_edits", "found"),
    [
        ("given asprin daily", "aspirin", 1, "asprin"),
        ("given aspirin daily", "asprin", 1, "aspirin"),
        ("given aspirin daily", "asprn", 1, None),  # two
        ("given aspirin daily", "asprn", 2, "aspirin"),
        ("a painful knee", "pain", 1, None),  # the whole word counts
        ("a painful knee, pian too", "pain", 2, "pian"),
        ("50 mg", "500 mg", 1, None),
        ("50 mg", "5 mg", 1, None),
        ("50 mg", "50 mgs", 1, "50 mg"),
        ("Hypotension", "hypertension", 2, "Hypotension"),
        ("aspirin", "aspirin", 0, None),
        ("", "aspirin", 9, None),
    ],
)
def test_near_stretches_are_whole_words_with_the_same_digits(
    source: str, words: str, most_edits: int, found: str | None
) -> None:
    places = Places(source)
    stretch = places.nearly(Flat(words).text, most_edits)

    assert (source[stretch.start : stretch.end] if stretch else None) == found


def edits(one: str, other: str) -> int:
    """The textbook's table."""
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, start=1):
        before, row = row, [i]
        for j, right in enumerate(other, start=1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (left != right)))
    return row[-1]


WORDS = st.lists(st.sampled_from(["pain", "pian", "fever", "81", "mg", "a", "chest"]), max_size=9)


@settings(deadline=None)
@given(source=WORDS.map(" ".join), words=WORDS.map("".join), most_edits=st.integers(0, 4))
def test_what_is_near_is_within_the_edits_by_the_textbook(
    source: str, words: str, most_edits: int
) -> None:
    found = Places(source).nearly(words, most_edits)
    pieces = [(piece.core_start, piece.end) for piece in cut(source)]
    stretches = [source[s:e] for s, _ in pieces for _, e in pieces if s < e]
    near = [edits(words, text.replace(" ", "")) for text in stretches]

    if found is not None:
        flat = source[found.start : found.end].replace(" ", "")
        assert source[found.start : found.end] in stretches
        assert edits(words, flat) <= most_edits
        assert [c for c in flat if c.isdigit()] == [c for c in words if c.isdigit()]
    if words and most_edits > 0 and min(near, default=1) == 0 and len(words) > most_edits:
        assert found is not None


def test_a_place_is_given_out_once() -> None:
    places = Places("pain and fever")

    assert places.take(Stretch(0, 8))
    assert not places.take(Stretch(5, 8))
    assert places.take(Stretch(9, 14))
    assert not places.is_free(Stretch(13, 14))


@settings(deadline=None)
@given(source=note_texts(), data=st.data())
def test_every_stretch_between_pieces_is_found_as_it_is_and_normalised(
    source: str, data: st.DataObject
) -> None:
    pieces = [piece for piece in cut(source) if piece.core_start < piece.end]
    if not pieces:
        return
    first = data.draw(st.integers(0, len(pieces) - 1))
    last = data.draw(st.integers(first, len(pieces) - 1))
    stretch = Stretch(pieces[first].core_start, pieces[last].end)
    words = source[stretch.start : stretch.end]
    places = Places(source)

    assert stretch in places.exact(words)
    assert {source[s:e] for s, e in places.exact(words)} == {words}
    assert stretch in places.normalised(Flat(words).text)
