"""Spans, entities and documents refuse what would make an offset a lie."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmedlora.core.document import Document, Entity, Relation, Span
from fedmedlora.core.errors import CorpusError

CANARY = "Wilhelmina"

spans = st.tuples(st.integers(0, 30), st.integers(1, 10)).map(lambda s: Span(s[0], s[0] + s[1]))


def characters(span: Span) -> set[int]:
    """The offsets that a span covers: an oracle that knows no inequality."""
    return set(range(span.start, span.end))


@given(spans, spans)
def test_spans_overlap_exactly_when_they_share_a_character(one: Span, other: Span) -> None:
    assert one.overlaps(other) == bool(characters(one) & characters(other))
    assert one.overlaps(other) == other.overlaps(one)


@given(spans, spans)
def test_a_span_contains_exactly_the_spans_whose_characters_it_holds(
    one: Span, other: Span
) -> None:
    assert one.contains(other) == (characters(other) <= characters(one))
    assert len(one) == len(characters(one))


@pytest.mark.parametrize(("start", "end"), [(-1, 3), (3, 3), (4, 3), (-5, -2)])
def test_a_span_that_is_empty_or_lies_before_the_text_is_refused(start: int, end: int) -> None:
    with pytest.raises(CorpusError, match=f"start={start}, end={end}"):
        Span(start, end)


def test_an_entity_without_a_span_is_refused() -> None:
    with pytest.raises(CorpusError, match="entity T7: expected at least one span"):
        Entity("T7", "drug", ())


@pytest.mark.parametrize("fragments", [((5, 8), (0, 3)), ((0, 4), (3, 6)), ((0, 4), (0, 4))])
def test_fragments_out_of_order_or_overlapping_are_refused(
    fragments: tuple[tuple[int, int], ...],
) -> None:
    with pytest.raises(CorpusError, match="entity T1: fragments"):
        Entity("T1", "drug", tuple(Span(*f) for f in fragments))


def test_fragments_that_touch_are_two_fragments() -> None:
    entity = Entity("T1", "drug", (Span(0, 3), Span(3, 5)))

    assert entity.is_discontinuous
    assert entity.cover == Span(0, 5)


def test_the_text_of_a_discontinuous_entity_includes_its_gap() -> None:
    document = Document(
        "n", "left and right knee", (Entity("T1", "x", (Span(0, 4), Span(15, 19))),)
    )

    assert document.entity_text(document.entities[0]) == "left and right knee"
    assert not Entity.at("T2", "x", 0, 4).is_discontinuous


def test_offsets_count_code_points_and_keep_line_ends_as_they_are() -> None:
    text = "😀 pain\r\nnaïve\tcough"
    document = Document("n", text, (Entity.at("T1", "p", 2, 6), Entity.at("T2", "p", 14, 19)))

    assert [document.entity_text(e) for e in document.entities] == ["pain", "cough"]


def test_an_entity_may_end_with_the_text_but_not_beyond_it() -> None:
    assert Document("n", "cough", (Entity.at("T1", "problem", 0, 5),)).entities

    with pytest.raises(CorpusError, match=r"T1 ends at 6, but the note has 5 characters"):
        Document("n", "cough", (Entity.at("T1", "problem", 0, 6),))


def test_two_entities_with_one_id_are_refused() -> None:
    twins = (Entity.at("T1", "a", 0, 1), Entity.at("T1", "b", 1, 2))

    with pytest.raises(CorpusError, match="entity id T1 occurs twice"):
        Document("n", "abc", twins)


@pytest.mark.parametrize(("head", "tail"), [("T1", "T9"), ("T9", "T1")])
def test_a_relation_to_an_entity_that_is_not_there_is_refused(head: str, tail: str) -> None:
    with pytest.raises(CorpusError, match="relation R1 names entity T9"):
        Document("n", "abc", (Entity.at("T1", "a", 0, 1),), (Relation("R1", "m", head, tail),))


@pytest.mark.parametrize(
    ("entities", "relations"),
    [
        ((Entity.at("T1", "a", 0, 99),), ()),
        ((Entity.at("T1", "a", 0, 1), Entity.at("T1", "a", 1, 2)), ()),
        ((Entity.at("T1", "a", 0, 1),), (Relation("R1", "m", "T1", "T2"),)),
    ],
)
def test_no_refusal_shows_a_word_of_the_note(
    entities: tuple[Entity, ...], relations: tuple[Relation, ...]
) -> None:
    with pytest.raises(CorpusError) as refusal:
        Document("note-3", f"{CANARY} has a cough", entities, relations)

    assert CANARY not in str(refusal.value)
    assert "note-3" in str(refusal.value)


def test_keeping_some_labels_keeps_the_links_between_them_and_only_those() -> None:
    document = Document(
        "n",
        "aspirin 5 mg daily",
        (
            Entity.at("T1", "drug", 0, 7),
            Entity.at("T2", "strength", 8, 12),
            Entity.at("T3", "frequency", 13, 18),
        ),
        (Relation("R1", "m", "T2", "T1"), Relation("R2", "m", "T3", "T1")),
        metadata={"ward": 3},
    )

    kept = document.only_labels(["drug", "strength"])

    assert [e.id for e in kept.entities] == ["T1", "T2"]
    assert [r.id for r in kept.relations] == ["R1"]
    assert (kept.text, kept.metadata) == (document.text, {"ward": 3})
    assert len(document.entities) == 3


def test_replacing_entities_checks_them_again() -> None:
    document = Document("n", "abc")

    with pytest.raises(CorpusError, match="ends at 9"):
        document.with_entities([Entity.at("T1", "a", 0, 9)])


def test_values_cannot_be_changed_in_place() -> None:
    document = Document("n", "abc", (Entity.at("T1", "a", 0, 1),))

    with pytest.raises(dataclasses.FrozenInstanceError):
        document.text = "xyz"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        document.entities[0].label = "b"  # type: ignore[misc]
