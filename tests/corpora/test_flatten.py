"""Fewer mentions for formats that hold less: the longest wins, and each loss is counted."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fedmedlora.core.document import Document, Entity, Relation, Span
from fedmedlora.corpora.flatten import without_fragments, without_overlaps

TEXT = "x" * 200


def test_the_longest_of_overlapping_mentions_wins():
    entities = [
        Entity.at(f"T{i}", "a", *s) for i, s in enumerate([(0, 4), (3, 9), (9, 10), (5, 8)])
    ]
    lost = Counter()
    flat = without_overlaps(Document("n", TEXT, tuple(entities)), lost)
    assert [e.id for e in flat.entities] == ["T1", "T2"]
    assert sum(lost.values()) == 2


def test_of_equally_long_mentions_the_first_wins():
    spans = [(4, 8), (2, 6), (2, 6)]
    note = Document("n", TEXT, tuple(Entity.at(f"T{i}", "a", *s) for i, s in enumerate(spans)))
    assert [e.id for e in without_overlaps(note, Counter()).entities] == ["T1"]


def test_fragments_become_the_span_that_covers_them_up_to_60_characters():
    entities = (
        Entity("T1", "a", (Span(0, 2), Span(58, 60))),
        Entity("T2", "a", (Span(0, 2), Span(59, 61))),
        Entity.at("T3", "a", 0, 150),
    )
    relations = (Relation("R1", "m", "T1", "T3"), Relation("R2", "m", "T2", "T3"))
    lost = Counter()
    whole = without_fragments(Document("n", TEXT, entities, relations), lost)
    assert [(e.id, e.spans) for e in whole.entities] == [
        ("T1", (Span(0, 60),)), ("T3", (Span(0, 150),)),
    ]  # fmt: skip
    assert [r.id for r in whole.relations] == ["R1"]
    assert sorted(lost.values()) == [1, 1, 1]


spans = st.tuples(st.integers(0, 30), st.integers(1, 12))


@given(st.lists(spans, max_size=12))
def test_what_is_left_out_overlaps_something_at_least_as_long_that_stays(pairs):
    entities = tuple(Entity.at(f"T{i}", "a", s, s + n) for i, (s, n) in enumerate(pairs))
    lost = Counter()
    flat = without_overlaps(Document("n", TEXT, entities), lost)
    kept = flat.entities
    assert len(kept) + sum(lost.values()) == len(entities)
    assert not any(a.cover.overlaps(b.cover) for i, a in enumerate(kept) for b in kept[:i])
    for gone in set(entities) - set(kept):
        rivals = [e for e in kept if e.cover.overlaps(gone.cover)]
        assert max(len(e.cover) for e in rivals) >= len(gone.cover)
