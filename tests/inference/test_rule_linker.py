"""The rule linker: which entity a modifier goes with, and what it never does."""

from __future__ import annotations

import random
import re
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.core.document import Document, Entity, Span
from fedmedlora.core.schema import TaskSchema, default_schema
from fedmedlora.inference.rule_linker import BREAK_CHARS, REACH_CHARS, link_by_rule

SCHEMA = default_schema()
_MENTION = re.compile(r"\[([^\]|]+)\|(\w+)\]")


def note(marked: str) -> Document:
    """A document from text such as `takes [aspirin|drug]`; ids are the mentions' words."""
    entities: list[Entity] = []
    text = ""
    at = 0
    for match in _MENTION.finditer(marked):
        text += marked[at : match.start()]
        start = len(text)
        text += match[1]
        entities.append(Entity.at(match[1], match[2], start, len(text)))
        at = match.end()
    return Document("n", text + marked[at:], tuple(entities))


def links(document: Document, schema: TaskSchema | None = None) -> dict[str, str]:
    linked = link_by_rule(document, schema)
    assert linked.entities == document.entities
    found = {relation.head: relation.tail for relation in linked.relations}
    assert len(found) == len(linked.relations)
    return found


def test_a_modifier_goes_with_the_nearest_entity_that_its_label_may_modify() -> None:
    document = note("[Fever|problem] and [aspirin|drug] was given [daily|frequency].")
    assert links(document) == {"daily": "aspirin"}

    # The fever is nearer, but a problem has no frequency.
    document = note("[aspirin|drug] for his [fever|problem] [daily|frequency]")
    assert links(document) == {"daily": "aspirin"}


def test_of_two_equally_near_entities_a_negation_takes_the_later_and_a_dose_the_earlier() -> None:
    document = note("[cough|problem] [no|negation] [fever|problem]")
    assert links(document) == {"no": "fever"}

    document = note("[aspirin|drug] [81 mg|dosage] [heparin|drug]")
    assert links(document) == {"81 mg": "aspirin"}


def test_an_entity_that_contains_the_modifier_comes_before_a_nearer_one_and_the_shortest_wins() -> (
    None
):
    text = "pain, severe lower back pain"
    document = Document(
        "n",
        text,
        (
            Entity.at("near", "problem", 0, 4),
            Entity.at("whole", "problem", 6, 28),
            Entity.at("inner", "problem", 6, 23),
            Entity.at("M", "severity", 6, 12),
        ),
    )
    assert links(document) == {"M": "inner"}


def test_an_item_of_a_list_keeps_its_own_attributes() -> None:
    # Three characters to the next drug, fourteen to its own: the comma tells them apart.
    document = note("[aspirin|drug] given in the [evening|frequency], [heparin|drug]")
    assert links(document) == {"evening": "aspirin"}


def test_no_entity_of_another_sentence_or_beyond_reach_is_taken() -> None:
    assert links(note("[Fever|problem] was seen. [Severe|severity] it was not.")) == {}

    for num, linked in ((REACH_CHARS, {"daily": "aspirin"}), (REACH_CHARS + 1, {})):
        gap = " " + "x" * (num - 2) + " "
        assert links(note(f"[aspirin|drug]{gap}[daily|frequency]")) == linked
    # Reach is distance in the note: what a comma adds to it only decides between entities.
    gap = ", " + "x" * (REACH_CHARS - BREAK_CHARS) + " "
    assert links(note(f"[aspirin|drug]{gap}[daily|frequency]")) == {"daily": "aspirin"}


def test_the_nearest_fragment_of_a_discontinuous_entity_counts() -> None:
    text = "left knee hurts and the hip, worse lately"
    document = Document(
        "n",
        text,
        (
            Entity("far", "problem", (Span(0, 4), Span(24, 27))),
            Entity.at("near", "problem", 5, 15),
            Entity.at("M", "course", 29, 34),
        ),
    )
    assert links(document) == {"M": "far"}


def test_links_that_were_there_are_replaced_and_named_as_asked() -> None:
    linked = link_by_rule(note("[aspirin|drug] [daily|frequency]"))
    again = link_by_rule(linked, name="hasAttr")

    assert [r.label for r in linked.relations] == ["modifies"]
    assert [r.label for r in again.relations] == ["hasAttr"]


def test_another_schema_brings_its_own_labels_and_pairs() -> None:
    schema = TaskSchema(
        "mine", "v1", {"plant": "a plant"}, {"colour": "its colour"}, {"plant": ("colour",)}
    )
    document = note("[rose|plant] [red|colour] [aspirin|drug] [daily|frequency]")
    assert links(document, schema) == {"red": "rose"}


def test_a_note_without_text_or_without_entities_has_no_links() -> None:
    assert links(Document("n", "")) == {}
    assert links(note("[daily|frequency]")) == {}


WORDS = st.sampled_from(["pain", "and", "was seen.", "given,", "\n", "for a very long time"])
MENTIONS = st.sampled_from([f"[{{}}|{label}]" for label in SCHEMA.labels])


@settings(max_examples=60)
@given(st.lists(st.one_of(WORDS, MENTIONS), max_size=25), st.integers(0, 9))
def test_links_are_allowed_near_at_most_one_each_and_do_not_depend_on_the_order_of_mentions(
    pieces: list[str], seed: int
) -> None:
    document = note(" ".join(piece.format(f"w{i}") for i, piece in enumerate(pieces)))
    found = links(document)

    by_id = {entity.id: entity for entity in document.entities}
    for head, tail in found.items():
        modifier, entity = by_id[head], by_id[tail]
        assert SCHEMA.allows(modifier.label, entity.label)
        assert max(entity.start - modifier.end, modifier.start - entity.end) <= REACH_CHARS
    shuffled = list(document.entities)
    random.Random(seed).shuffle(shuffled)
    assert links(replace(document, entities=tuple(shuffled))) == found


def test_each_drug_of_a_long_run_on_sentence_keeps_its_dose() -> None:
    document = note(" ".join(f"[d{i}|drug] [m{i}|dosage]" for i in range(300)))

    assert links(document) == {f"m{i}": f"d{i}" for i in range(300)}
