"""Wrong links: as many as the relation score counts, and told apart from wrong mentions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmedlora.core.document import Document, Entity, Relation
from fedmedlora.evaluation.counting import count_links
from fedmedlora.evaluation.link_mistakes import LINK, LINK_END, find_link_mistakes
from fedmedlora.evaluation.presets import STRICT

LABELS = ("problem", "drug", "dosage", "severity")
MENTIONS = [("dosage", 0, 2), ("drug", 3, 6), ("severity", 7, 9), ("problem", 10, 14)]


def note(mentions: list[tuple[str, int, int]], links: list[tuple[int, int]]) -> Document:
    entities = tuple(Entity.at(f"T{i}", *mention) for i, mention in enumerate(mentions))
    relations = tuple(
        Relation(f"R{i}", "modifies", f"T{head}", f"T{tail}")
        for i, (head, tail) in enumerate(links)
        if head < len(mentions) and tail < len(mentions)
    )
    return Document("n1", "x" * 20, entities, relations)


def kinds(gold: Document, predicted: Document) -> list[tuple[str, str]]:
    return [
        (m.kind, "missed" if m.gold else "false")
        for m in find_link_mistakes([(gold, predicted)], LABELS)
    ]


def test_a_right_link_is_no_mistake() -> None:
    assert kinds(note(MENTIONS, [(0, 1)]), note(MENTIONS, [(0, 1)])) == []


def test_a_modifier_with_another_entity_is_one_link_missed_and_one_false() -> None:
    found = kinds(note(MENTIONS, [(2, 3)]), note(MENTIONS, [(2, 1)]))

    assert found == [(LINK, "missed"), (LINK, "false")]


@pytest.mark.parametrize("wrong_end", [("dosage", 0, 1), ("severity", 0, 2)])
def test_where_a_mention_at_an_end_is_wrong_the_link_is_not_what_is_wrong(wrong_end) -> None:
    found = kinds(note(MENTIONS, [(0, 1)]), note([wrong_end, *MENTIONS[1:]], [(0, 1)]))

    assert found == [(LINK_END, "missed"), (LINK_END, "false")]


mentions = st.lists(
    st.tuples(st.sampled_from(LABELS), st.integers(0, 3), st.integers(4, 7)), max_size=4
)
links = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=5)


@given(gold=st.builds(note, mentions, links), predicted=st.builds(note, mentions, links))
def test_there_are_as_many_as_the_strict_scores_count(gold: Document, predicted: Document) -> None:
    aligned = [(gold, predicted)]
    found = find_link_mistakes(aligned, LABELS)

    def numbers(kinds: set[str]) -> tuple[int, int]:
        of_kinds = [m for m in found if m.kind in kinds]
        return sum(m.predicted is not None for m in of_kinds), sum(
            m.gold is not None for m in found if m.kind in kinds
        )

    total = count_links(aligned, STRICT, LABELS).total()
    assert numbers({LINK, LINK_END}) == (total.fp, total.fn)
    given_mentions = count_links(aligned, STRICT, LABELS, given_mentions=True).total()
    assert numbers({LINK}) == (given_mentions.fp, given_mentions.fn)


def test_links_of_other_names_and_labels_that_nobody_annotated_are_not_judged() -> None:
    gold = Document("n1", "x" * 20, annotated_labels=frozenset({"drug", "problem", "severity"}))
    predicted = note(MENTIONS, [(0, 1), (2, 3)])

    found = find_link_mistakes([(gold, predicted)], LABELS)

    assert [m.predicted.pair for m in found if m.predicted] == ["severity-problem"]
    assert find_link_mistakes([(gold, predicted)], LABELS, names=("causes",)) == []
