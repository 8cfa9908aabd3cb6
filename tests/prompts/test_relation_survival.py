"""Modifiers and links on their whole way: read, rendered, parsed, written, and read again."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.core.document import Document, Entity, Relation, Span
from fedmedlora.core.example import RelationPrompt
from fedmedlora.core.schema import default_schema
from fedmedlora.corpora.brat import read_brat
from fedmedlora.corpora.brat_writer import write_brat
from fedmedlora.corpora.jsonl import read_jsonl, write_jsonl
from fedmedlora.corpora.open_corpus import load_corpus
from fedmedlora.corpora.sentences import sentence_spans
from fedmedlora.prompts.relation_format import RelationFormat
from fedmedlora.prompts.relation_formats import CompactRelations, HtmlRelations

SCHEMA = default_schema()
MODIFIERS = tuple(SCHEMA.modifier_labels)
FORMATS = [CompactRelations(), HtmlRelations()]
CORPORA = os.environ.get("FEDMEDLORA_CORPORA", "")

Fact = tuple[object, ...]


def facts_of(document: Document) -> set[Fact]:
    """Every modifier by its place, with the places of what it belongs to: ids do not matter."""
    by_id = {entity.id: entity for entity in document.entities}
    return {
        (m.label, m.spans, frozenset((by_id[r.tail].label, by_id[r.tail].spans)
         for r in document.relations if r.head == m.id))
        for m in document.entities
        if m.label in MODIFIERS
    }  # fmt: skip


def answered(document: Document, formatted: RelationFormat) -> Document:
    """The note as it comes out if the model writes exactly what it was taught."""
    example = formatted.render(document, Span(0, len(document.text)), MODIFIERS, linked=True)
    prompt = example.prompt
    assert isinstance(prompt, RelationPrompt)
    result = formatted.parse(example.completion_text, prompt)
    assert not result.problems
    renamed = {e.id: replace(e, id=f"M{i}") for i, e in enumerate(result.entities)}
    links = [replace(r, head=renamed[r.head].id) for r in result.relations]
    return document.with_entities((*prompt.given, *renamed.values()), links)


@st.composite
def linked_notes(draw: st.DrawFn) -> Document:
    """Notes of whole words: entities side by side, modifiers within, between and nested.

    A modifier has no link, one or several, all of pairs that the schema allows.
    """
    num_words = draw(st.integers(4, 14))
    words = draw(st.lists(st.sampled_from(["pain", "5", "mg", "é", "😀"]), min_size=num_words,
                          max_size=num_words))  # fmt: skip
    glue = draw(st.lists(st.sampled_from([" ", "\n", "\t", "  "]), min_size=num_words,
                         max_size=num_words))  # fmt: skip
    text, places = "", []
    for word, space in zip(words, glue, strict=True):
        places.append((len(text), len(text) + len(word)))
        text += word + space
    entities: list[Entity] = []
    at = 0
    while at < num_words:
        length = draw(st.integers(1, 3))
        if draw(st.booleans()):
            label = draw(st.sampled_from(tuple(SCHEMA.entity_labels)))
            last = min(at + length, num_words) - 1
            name = f"T{len(entities)}"
            entities.append(Entity.at(name, label, places[at][0], places[last][1]))
        at += length
    mains = list(entities)
    at = 0
    while at < num_words:
        length = draw(st.integers(1, 2))
        last = min(at + length, num_words) - 1
        outer = draw(st.sampled_from((None, *MODIFIERS)))
        if outer is not None:
            name = f"T{len(entities)}"
            entities.append(Entity.at(name, outer, places[at][0], places[last][1]))
            if last > at and draw(st.booleans()):
                inner = draw(st.sampled_from([label for label in MODIFIERS if label != outer]))
                name = f"T{len(entities)}"
                entities.append(Entity.at(name, inner, places[at][0], places[at][1]))
        at += length
    relations = []
    for modifier in entities[len(mains) :]:
        allowed = [e for e in mains if SCHEMA.allows(modifier.label, e.label)]
        if allowed:
            for tail in draw(st.lists(st.sampled_from(allowed), unique=True, max_size=3)):
                name = f"R{len(relations)}"
                relations.append(Relation(name, "modifies", modifier.id, tail.id))
    return Document("note", text, tuple(entities), tuple(relations))


@settings(deadline=None, max_examples=80)
@given(document=linked_notes(), formatted=st.sampled_from(FORMATS), brat=st.booleans())
def test_unlinked_and_many_headed_modifiers_survive_the_whole_way(
    document: Document, formatted: RelationFormat, brat: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        start, end = Path(folder, "gold.jsonl"), Path(folder, "predicted")
        write_jsonl(start, [document])
        (read,) = read_jsonl(start)
        out = answered(read, formatted)
        if brat:
            write_brat(end, [out])
            (found,) = read_brat(end)
        else:
            write_jsonl(end.with_suffix(".jsonl"), [out])
            (found,) = read_jsonl(end.with_suffix(".jsonl"))
    assert found.text == document.text
    assert facts_of(found) == facts_of(document)


def sentence_of(document: Document, span: Span) -> Document:
    """The mentions that lie in a sentence, and the links between them, as a note."""
    inside = [e for e in document.entities if span.contains(e.cover)]
    names = {e.id for e in inside}
    moved = [
        replace(e, spans=tuple(Span(s.start - span.start, s.end - span.start) for s in e.spans))
        for e in inside
    ]
    links = tuple(r for r in document.relations if {r.head, r.tail} <= names)
    return Document("s", document.text[span.start : span.end], tuple(moved), links)


@pytest.mark.corpora
@pytest.mark.skipif(not CORPORA, reason="FEDMEDLORA_CORPORA does not name a folder with cohorts")
@pytest.mark.parametrize("formatted", FORMATS, ids=lambda f: f.id)
@pytest.mark.parametrize("name", ["chia", "lct", "maccrobat", "phee"])
def test_nearly_all_modifiers_and_links_of_real_sentences_survive(
    name: str, formatted: RelationFormat
) -> None:
    known = (*SCHEMA.entity_labels, *MODIFIERS)
    num_modifiers = num_kept = num_links = num_links_kept = 0
    for document in load_corpus(Path(CORPORA, name)).documents:
        if num_modifiers >= 200:
            break
        document = document.only_labels(known)
        for span in sentence_spans(document.text):
            sentence = sentence_of(document, span)
            gold = {fact[:2]: fact[2] for fact in facts_of(sentence)}
            if not gold:
                continue
            found = {fact[:2]: fact[2] for fact in facts_of(answered(sentence, formatted))}
            num_modifiers += len(gold)
            num_kept += len(gold.keys() & found.keys())
            num_links += sum(map(len, gold.values()))
            num_links_kept += sum(len(found[m] & gold[m]) for m in gold.keys() & found.keys())
    assert min(num_modifiers, num_links) > 100
    assert num_kept / num_modifiers >= 0.99
    assert num_links_kept / num_links >= 0.99


def test_nothing_is_invented_for_a_corpus_without_links() -> None:
    document = Document(
        "d",
        "Timolol 0.5% daily",
        (Entity.at("T1", "drug", 0, 7), Entity.at("T2", "strength", 8, 12)),
    )
    window = Span(0, len(document.text))
    for formatted in FORMATS:
        example = formatted.render(document, window, ("strength",), linked=False)
        assert isinstance(example.prompt, RelationPrompt)
        result = formatted.parse(example.completion_text, example.prompt)
        assert [e.label for e in result.entities] == ["strength"]
        assert result.relations == ()
