"""Kinds of mistakes: each mention in one of them at most, and not a word of the note in any."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.core.document import Document, Entity, Span
from fedmedlora.evaluation.counting import count_entities
from fedmedlora.evaluation.mistakes import find_mistakes, mistake_table, write_mistakes
from fedmedlora.evaluation.presets import STRICT

TEXT = "Severe ankle pain, takes ibuprofen."
LABELS = ("problem", "drug", "treatment", "test")
Mention = tuple[str, int, int]


def note(*mentions: Mention) -> Document:
    return Document("n1", TEXT, tuple(Entity.at(f"T{i}", *m) for i, m in enumerate(mentions)))


@pytest.mark.parametrize(
    ("gold", "predicted", "expected"),
    [
        pytest.param([("drug", 0, 4)], [("drug", 0, 4)], [], id="right"),
        pytest.param([("drug", 0, 4)], [("drug", 1, 4)], ["boundary"], id="boundary"),
        pytest.param([("drug", 0, 4)], [("test", 0, 4)], ["type"], id="type"),
        pytest.param([("drug", 0, 4)], [("test", 1, 4)], ["boundary+type"], id="both"),
        pytest.param([("drug", 0, 4)], [], ["missed"], id="missed"),
        pytest.param([], [("drug", 0, 4)], ["spurious"], id="spurious"),
        pytest.param([("drug", 0, 4)], [("drug", 4, 8)], ["missed", "spurious"], id="touching"),
        pytest.param(
            [("drug", 0, 4)], [("drug", 0, 2), ("drug", 2, 4)], ["boundary", "spurious"], id="split"
        ),
        pytest.param(
            [("drug", 0, 4)], [("drug", 0, 4), ("test", 0, 4)], ["spurious"], id="second label"
        ),
        pytest.param(
            [("drug", 0, 4)],
            [("test", 0, 4), ("drug", 0, 3)],
            ["boundary", "spurious"],
            id="own label first",
        ),
    ],
)
def test_each_mistake_has_its_kind(
    gold: list[Mention], predicted: list[Mention], expected: list[str]
) -> None:
    found = find_mistakes([(note(*gold), note(*predicted))], LABELS)

    assert [mistake.kind for mistake in found] == expected


@st.composite
def tangled_notes(draw: st.DrawFn) -> Document:
    mentions = draw(
        st.lists(st.tuples(st.sampled_from(LABELS), st.integers(0, 20), st.integers(1, 9)))
    )
    return note(*((label, start, start + length) for label, start, length in mentions))


@given(tangled_notes(), tangled_notes())
@settings(max_examples=80)
def test_mistakes_and_what_is_right_account_for_every_mention_once(
    gold: Document, predicted: Document
) -> None:
    found = find_mistakes([(gold, predicted)], LABELS)

    strict = count_entities([(gold, predicted)], STRICT, LABELS).total()
    of_gold = [m.gold.id for m in found if m.gold]
    of_predicted = [m.predicted.id for m in found if m.predicted]
    assert len(set(of_gold)) == len(of_gold) == strict.fn
    assert len(set(of_predicted)) == len(of_predicted) == strict.fp
    assert sum(row["count"] for row in mistake_table(found)) == len(found)


def test_labels_that_were_not_annotated_are_in_no_mistake() -> None:
    gold = Document("n1", TEXT, annotated_labels=frozenset({"drug"}))

    assert find_mistakes([(gold, note(("test", 0, 4)))], LABELS) == []


def test_the_table_counts_pairs_of_labels_with_the_most_frequent_first() -> None:
    gold = note(("drug", 0, 2), ("drug", 3, 5), ("test", 6, 8), ("drug", 9, 11))
    predicted = note(("test", 0, 2), ("test", 3, 5), ("drug", 6, 8))

    assert mistake_table(find_mistakes([(gold, predicted)], LABELS)) == [
        {"kind": "type", "gold": "drug", "predicted": "test", "count": 2},
        {"kind": "type", "gold": "test", "predicted": "drug", "count": 1},
        {"kind": "missed", "gold": "drug", "predicted": None, "count": 1},
    ]


def test_the_file_holds_ids_and_offsets_and_not_a_word_of_the_note(tmp_path: Path) -> None:
    gap = Entity("T0", "problem", (Span(0, 6), Span(13, 17)))
    gold = Document("n1", TEXT, (gap,))
    path = tmp_path / "new" / "mistakes.jsonl"

    assert write_mistakes(path, find_mistakes([(gold, note(("drug", 0, 12)))], LABELS)) == 1

    written = path.read_text("utf-8")
    assert json.loads(written) == {
        "document": "n1",
        "kind": "boundary+type",
        "gold": {"id": "T0", "label": "problem", "spans": [[0, 6], [13, 17]]},
        "predicted": {"id": "T0", "label": "drug", "spans": [[0, 12]]},
    }
    assert not any(word.strip(",.") in written for word in TEXT.split())
