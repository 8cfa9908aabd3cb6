"""Near-duplicates across corpora: all of them, none within a corpus, in a fixed order."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.core.document import Document
from fedmedlora.corpora.duplicates import near_duplicates
from fedmedlora.corpora.open_corpus import Corpus, NotesOnDisk, load_corpus

FOLDER = os.environ.get("FEDMEDLORA_CORPORA", "")
NOTE = "The patient takes aspirin 81 mg daily for chest pain and has no fever since " + " ".join(
    f"day{n}" for n in range(60)
)


def corpus(name, *texts):
    return Corpus(name, tuple(Document(f"{name}{i}", t) for i, t in enumerate(texts)), None)


def pairs(*corpora, **options):
    return [(p.first_id, p.second_id) for p in near_duplicates(corpora, **options)]


def test_a_note_that_was_copied_with_small_changes_is_found():
    changed = NOTE.replace("aspirin", "heparin").replace("\n", " ").upper()
    north, south = corpus("n", "other words " * 9, NOTE), corpus("s", changed, NOTE + " x y")
    assert pairs(north, south) == [("n1", "s1"), ("n1", "s0")]
    [first, second] = near_duplicates([north, south])
    assert 0.8 <= second.similarity < first.similarity < 1
    assert (first.first, first.second) == ("n", "s")


def test_the_order_of_notes_and_corpora_does_not_matter():
    north, south = corpus("n", NOTE, NOTE + " x"), corpus("s", NOTE, NOTE + " y")
    there = {frozenset(p) for p in pairs(north, south)}
    assert there == {frozenset(p) for p in pairs(south, north)}
    assert len(there) == 4


def test_notes_of_one_corpus_and_notes_with_few_words_are_not_compared():
    assert pairs(corpus("n", NOTE, NOTE), corpus("s", "something else entirely")) == []
    short = "no known drug allergies to date here"
    assert pairs(corpus("n", short), corpus("s", short)) == []
    assert pairs(corpus("n", short), corpus("s", short), min_words=7) == [("n0", "s0")]
    assert near_duplicates([corpus("n", NOTE)]) == []


def test_of_a_single_corpus_no_note_is_read_as_there_is_nothing_to_compare_it_with():
    class Unread:
        def __iter__(self):
            raise AssertionError("read")

    assert near_duplicates([NotesOnDisk("n", Unread(), None)]) == []


texts = st.lists(
    st.lists(st.sampled_from("abcd"), min_size=3, max_size=9).map(" ".join), min_size=1, max_size=5
)


@settings(max_examples=150)
@given(texts, texts, st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.8, 1.0]))
def test_exactly_the_pairs_at_or_above_the_threshold_are_found(first, second, threshold):
    def shingles(text):
        words = text.split()
        return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}

    expected = {
        (f"n{i}", f"s{j}")
        for i, a in enumerate(first)
        for j, b in enumerate(second)
        if len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b)) >= threshold
    }
    found = pairs(corpus("n", *first), corpus("s", *second), threshold=threshold, min_words=3)
    assert set(found) == expected
    assert len(found) == len(expected)


@pytest.mark.corpora
@pytest.mark.skipif(
    not FOLDER, reason="FEDMEDLORA_CORPORA does not name a folder with the real cohorts"
)
def test_the_five_cohorts_share_no_note_and_a_planted_one_is_found():
    names = ["chia", "glaucoma_ohsu", "lct", "maccrobat", "phee"]
    corpora = [load_corpus(Path(FOLDER, name)) for name in names]
    planted = Document("planted", corpora[0].documents[5].text + " More.")
    assert near_duplicates(corpora) == []
    corpora.append(Corpus("other", (planted,), None))
    found = near_duplicates(corpora)
    assert [(p.first_id, p.second_id) for p in found] == [(corpora[0].documents[5].id, "planted")]
