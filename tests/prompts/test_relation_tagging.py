"""Modifiers and links survive being rendered and read; what cannot be held is counted."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.core.document import Document, Entity, Relation, Span
from fedmedlora.core.example import RelationPrompt
from fedmedlora.core.schema import default_schema
from fedmedlora.prompts.pieces import cut
from fedmedlora.prompts.relation_format import RelationFormat
from fedmedlora.prompts.relation_formats import CompactRelations, HtmlRelations
from fedmedlora.testing.generators import note_texts

SCHEMA = default_schema()
MODIFIERS = ("severity", "bodyloc", "negation", "temporal", "strength", "labvalue")
FORMATS = [CompactRelations(), HtmlRelations()]
TEXT = "Severe left knee pain, no fever since May; aspirin 81 mg."


def note(*entities: tuple[str, str, str], links: tuple[tuple[str, str], ...] = ()) -> Document:
    """A note whose entities are given as id, label, words; links as modifier id, entity id."""
    found = [
        Entity.at(name, label, TEXT.index(words), TEXT.index(words) + len(words))
        for name, label, words in entities
    ]
    relations = [Relation(f"R{i}", "modifies", a, b) for i, (a, b) in enumerate(links)]
    return Document("d", TEXT, tuple(found), tuple(relations))


def links_of(document: Document, labels: tuple[str, ...]) -> set[tuple[object, ...]]:
    """Every modifier with its place and the places of what it belongs to."""
    by_id = {entity.id: entity for entity in document.entities}
    return {
        (
            modifier.label,
            modifier.start,
            modifier.end,
            frozenset(
                (by_id[r.tail].label, by_id[r.tail].start, by_id[r.tail].end)
                for r in document.relations
                if r.head == modifier.id
            ),
        )
        for modifier in document.entities
        if modifier.label in labels
    }


def read_back(formatted: RelationFormat, document: Document, *, linked: bool = True) -> Document:
    window = Span(0, len(document.text))
    example = formatted.render(document, window, MODIFIERS, linked=linked)
    prompt = example.prompt
    assert isinstance(prompt, RelationPrompt)
    result = formatted.parse(example.completion_text, prompt)
    assert not result.problems
    return document.with_entities((*prompt.given, *result.entities), result.relations)


@pytest.mark.parametrize("formatted", FORMATS, ids=lambda f: f.id)
def test_unlinked_many_headed_and_nested_modifiers_survive(formatted: RelationFormat) -> None:
    document = note(
        ("T1", "problem", "knee pain"),
        ("T2", "problem", "fever"),
        ("T3", "drug", "aspirin"),
        ("T4", "severity", "Severe"),
        ("T5", "bodyloc", "left knee"),  # reaches into the problem
        ("T6", "negation", "no"),
        ("T7", "temporal", "since May"),  # of both
        ("T8", "strength", "81 mg"),
        ("T9", "labvalue", "81"),  # within another modifier, and of nothing
        links=(("T4", "T1"), ("T5", "T1"), ("T6", "T2"), ("T7", "T1"), ("T7", "T2"), ("T8", "T3")),
    )
    found = read_back(formatted, document)
    assert links_of(found, MODIFIERS) == links_of(document, MODIFIERS)


def test_the_compact_answer_is_written_as_documented() -> None:
    document = note(
        ("T1", "problem", "knee pain"),
        ("T2", "problem", "fever"),
        ("T3", "severity", "Severe"),
        ("T4", "temporal", "since May"),
        ("T5", "negation", "no"),
        links=(("T3", "T1"), ("T4", "T2"), ("T4", "T1")),
    )
    window = Span(0, len(TEXT))
    compact = CompactRelations().render(document, window, MODIFIERS, linked=True)
    html = HtmlRelations().render(document, window, MODIFIERS, linked=True)
    assert "".join(part.text for part in compact.prompt.passage) == (
        "Severe left<1 problem> knee pain</>, no<2 problem> fever</> since May; aspirin 81 mg."
    )
    assert compact.completion_text == (
        "<severity>Severe</1> left knee pain,<negation> no</0> fever<temporal> since May</1,2>; "
        "aspirin 81 mg."
    )
    assert html.completion_text.startswith(
        '<span class="severity" of="1">Severe</span> left knee pain, '
        '<span class="negation" of="0">no</span>'
    )


@pytest.mark.parametrize("formatted", FORMATS, ids=lambda f: f.id)
def test_nothing_is_said_of_links_where_they_were_not_annotated(formatted: RelationFormat) -> None:
    document = note(("T1", "problem", "fever"), ("T2", "negation", "no"))
    example = formatted.render(document, Span(0, len(TEXT)), MODIFIERS, linked=False)
    assert not any(word in example.prompt.text for word in ("number", "of="))
    assert not any(word in example.completion_text for word in ("of=", "/0"))
    assert read_back(formatted, document, linked=False).relations == ()


@pytest.mark.parametrize("formatted", FORMATS, ids=lambda f: f.id)
def test_what_tags_cannot_hold_is_counted(formatted: RelationFormat) -> None:
    document = note(
        ("T1", "problem", "knee pain"),
        ("T2", "bodyloc", "left knee"),
        ("T3", "severity", "Severe left"),  # crosses the longer one
        ("T4", "negation", "evere"),  # starts within a word
        links=(("T2", "T1"),),
    )
    example = formatted.render(document, Span(0, len(TEXT)), MODIFIERS, linked=True)
    assert (example.num_entities, example.num_lost) == (1, 2)
    # A window that does not hold the entity: the modifier stays, its link is lost.
    cut_off = formatted.render(document, Span(0, 11), MODIFIERS, linked=True)
    assert cut_off.num_entities == 1
    assert cut_off.num_lost == 2


def test_a_number_that_no_entity_has_is_a_problem_and_no_link() -> None:
    document = note(("T1", "problem", "fever"))
    prompt = CompactRelations().prompt(document, Span(0, len(TEXT)), MODIFIERS, linked=True)
    answer = TEXT.replace(" no", "<negation> no</7>")
    result = CompactRelations().parse(answer, prompt)
    assert [e.label for e in result.entities] == ["negation"]
    assert result.relations == ()
    assert [problem.code for problem in result.problems] == ["unknown-number"]


@st.composite
def annotated_notes(draw: st.DrawFn) -> Document:
    """Hostile text, entities at piece boundaries, links that the schema allows."""
    text = draw(note_texts(max_parts=16).filter(lambda t: bool(t.strip())))
    words = [piece for piece in cut(text) if piece.core_start < piece.end]
    spans = st.tuples(st.integers(0, len(words) - 1), st.integers(0, 3))
    entities: list[Entity] = []
    wanted = st.tuples(st.sampled_from(("problem", "drug", "test", *MODIFIERS)), spans)
    for label, (first, more) in draw(st.lists(wanted, max_size=7)):
        last = min(first + more, len(words) - 1)
        start, end = words[first].core_start, words[last].end
        if any((e.label, e.start, e.end) == (label, start, end) for e in entities):
            continue
        entities.append(Entity.at(f"T{len(entities)}", label, start, end))
    pairs = [(m.id, e.id) for m in entities for e in entities if SCHEMA.allows(m.label, e.label)]
    links = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    relations = [Relation(f"R{i}", "modifies", a, b) for i, (a, b) in enumerate(links)]
    return Document("d", text, tuple(entities), tuple(relations))


@settings(deadline=None, max_examples=150)
@given(document=annotated_notes(), formatted=st.sampled_from(FORMATS), linked=st.booleans())
def test_everything_that_is_kept_is_read_back_and_the_rest_is_counted(
    document: Document, formatted: RelationFormat, linked: bool
) -> None:
    window = Span(0, len(document.text))
    example = formatted.render(document, window, MODIFIERS, linked=linked)
    found = read_back(formatted, document, linked=linked)
    gold = links_of(document, MODIFIERS)
    read = links_of(found, MODIFIERS)
    if not linked:
        gold = {(*item[:3], frozenset()) for item in gold}
    assert read <= gold
    assert len(read) == example.num_entities
    assert len(gold) - len(read) == example.num_lost
    marked = [part.text for part in example.prompt.passage if not part.tag]
    assert "".join(marked) == document.text
