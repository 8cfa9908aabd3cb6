"""Documents with entities in, the same with modifiers and links out, wherever windows are cut."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.core.document import Document, Entity, Relation, Span
from fedmedlora.core.example import Prompt, RelationPrompt
from fedmedlora.core.records import SilentObserver
from fedmedlora.core.schema import default_schema
from fedmedlora.inference.decoder import Decoder, FoundSpan, WindowAnswer
from fedmedlora.inference.decoders import make_decoder
from fedmedlora.inference.relation_extractor import RelationExtractor
from fedmedlora.models.load import BaseModel
from fedmedlora.models.tokens import PieceTokenizer
from fedmedlora.models.windowing import note_windows
from fedmedlora.prompts.pieces import cut
from fedmedlora.prompts.relation_formats import get_relation_format
from fedmedlora.testing.tiny import tiny_tokenizer

BaseOf = Callable[..., BaseModel]
SCHEMA = default_schema()
LABELS = ("severity", "temporal")
TOKENIZER = PieceTokenizer(tiny_tokenizer(), "tiny")
WINDOW_TOKENS = 40

TEXT = "Severe pain since Monday. Mild fever, then severe cough since May. "


@dataclass
class Marker:
    """Marks each word of a small list, with the numbers of all entities that are given nearby."""

    prompts: list[RelationPrompt] = field(default_factory=list)

    def decode(
        self, prompts: Sequence[Prompt], on_done: Callable[[int], None]
    ) -> list[WindowAnswer]:
        answers = []
        for index, prompt in enumerate(prompts):
            assert isinstance(prompt, RelationPrompt)
            self.prompts.append(prompt)
            numbers = tuple(range(1, min(len(prompt.given), 2) + 1)) if prompt.linked else None
            spans = [
                FoundSpan(label, word.start(), word.end(), -0.5, numbers=numbers)
                for label, words in (("severity", "Severe|severe|Mild"), ("temporal", "Monday|May"))
                if label in prompt.labels
                for word in re.finditer(words, prompt.source)
            ]
            answers.append(WindowAnswer(tuple(sorted(spans, key=lambda span: span.start))))
            on_done(index)
        return answers


@dataclass
class Watcher(SilentObserver):
    """How many notes were announced as done."""

    done: list[float] = field(default_factory=list)

    def advance(self, amount: float, **_: float) -> None:
        self.done.append(amount)


def entities_in(text: str) -> tuple[Entity, ...]:
    return tuple(
        Entity.at(f"T{number}", "problem", word.start(), word.end())
        for number, word in enumerate(re.finditer("pain|fever|cough", text), start=1)
    )


def note(text: str, name: str = "n") -> Document:
    return Document(name, text, entities_in(text), metadata={"visit": 3, "num_windows": 9})


def related(
    documents: Sequence[Document],
    decoder: Decoder,
    *,
    labels: Sequence[str] = LABELS,
    linked: bool = True,
    chunk_windows: int = 512,
    watcher: Watcher | None = None,
    name: str = "compact",
    tokenizer: PieceTokenizer = TOKENIZER,
    answered: Sequence[Document] = (),
) -> list[Document]:
    extractor = RelationExtractor(
        decoder,
        tokenizer,
        get_relation_format(name),
        window_tokens=WINDOW_TOKENS,
        linked=linked,
        chunk_windows=chunk_windows,
    )
    earlier = {document.id: document for document in answered}
    return list(extractor.extract(documents, labels, watcher or SilentObserver(), earlier))


def modifiers_of(document: Document) -> list[Entity]:
    return [entity for entity in document.entities if entity.label in SCHEMA.modifier_labels]


def test_modifiers_and_links_are_added_and_the_rest_of_the_note_stays() -> None:
    (found,) = related([note("Severe pain since Monday.")], Marker())

    assert found.entities == (
        Entity.at("T1", "problem", 7, 11),
        Entity("M1", "severity", (Span(0, 6),), 0.606531),
        Entity("M2", "temporal", (Span(18, 24),), 0.606531),
    )
    assert found.relations == (
        Relation("R1", "modifies", "M1", "T1"),
        Relation("R2", "modifies", "M2", "T1"),
    )
    # What was counted when the entities were found is not counted again.
    assert found.metadata == {"visit": 3, "num_windows": 9}


def test_each_window_answers_for_the_modifiers_that_start_in_its_core() -> None:
    long = "pain and severe fever " * 30  # one sentence, cut into windows that overlap
    windows = note_windows(long, TOKENIZER, budget_tokens=WINDOW_TOKENS)
    assert sum(len(w.span) for w in windows) > len(long)  # they do overlap

    marker = Marker()
    (found,) = related([note(long)], marker)

    assert sum(long[w.span.start : w.span.end].count("severe") for w in windows) > 30
    assert len(marker.prompts) < len(windows)  # some are the same, word for word
    placed = [(m.start, m.end) for m in modifiers_of(found)]
    assert placed == [word.span() for word in re.finditer("severe", long)]
    by_id = {entity.id: entity for entity in found.entities}
    for modifier in modifiers_of(found):
        (window,) = [w for w in windows if w.core.start <= modifier.start < w.core.end]
        inside = [
            e.id for e in found.entities if e.label == "problem" and e.start < window.span.end
        ]
        inside = [i for i in inside if by_id[i].end > window.span.start]
        # Numbers are those of the window that answers, not of the note.
        assert [r.tail for r in found.relations if r.head == modifier.id] == inside[:2]


def test_ids_are_unique_even_where_a_note_has_used_them() -> None:
    text = TEXT * 2
    taken = [replace(e, id=f"M{number}") for number, e in enumerate(entities_in(text), start=1)]
    (found,) = related([Document("n", text, tuple(taken))], Marker())

    for ids in ([e.id for e in found.entities], [r.id for r in found.relations]):
        assert len(set(ids)) == len(ids)
    assert len(modifiers_of(found)) == 10
    assert len(found.relations) > len(modifiers_of(found))
    assert {r.tail for r in found.relations} <= {entity.id for entity in taken}


def test_without_labels_nothing_is_asked_and_gold_is_dropped() -> None:
    marker, watcher = Marker(), Watcher()
    gold = note("Severe pain.").with_entities(
        (*entities_in("Severe pain."), Entity.at("X", "severity", 0, 6)),
        [Relation("R1", "modifies", "X", "T1")],
    )

    (found,) = related([gold], marker, labels=(), watcher=watcher)

    assert marker.prompts == []
    assert found.entities == entities_in("Severe pain.")
    assert found.relations == ()
    assert watcher.done == [1]


def test_only_the_labels_in_question_are_asked_for() -> None:
    marker = Marker()
    (found,) = related([note(TEXT)], marker, labels=("temporal",))

    assert {prompt.labels for prompt in marker.prompts} == {("temporal",)}
    assert {m.label for m in modifiers_of(found)} == {"temporal"}


def test_where_nobody_taught_links_none_are_asked_for_and_none_come_out() -> None:
    marker = Marker()
    (found,) = related([note(TEXT)], marker, linked=False)

    assert not any(prompt.linked for prompt in marker.prompts)
    assert len(modifiers_of(found)) == 5
    assert found.relations == ()


def test_chunks_change_nothing_and_every_note_is_told_once() -> None:
    documents = [note(TEXT * (number % 4), f"n{number}") for number in range(9)]
    whole = related(documents, Marker())

    for size in (1, 2, 5):
        watcher = Watcher()
        assert related(documents, Marker(), chunk_windows=size, watcher=watcher) == whole
        assert sum(watcher.done) == len(documents)
    assert [d.id for d in whole] == [d.id for d in documents]


# What was answered before ------------------------------------------------------------------------


def renamed(document: Document) -> Document:
    """The same entities under ids of another reader."""
    names = {entity.id: f"G{entity.id}" for entity in document.entities}
    return document.with_entities([replace(e, id=names[e.id]) for e in document.entities])


def test_windows_that_were_answered_between_the_same_entities_are_not_asked_again() -> None:
    documents = [note(TEXT * number, f"n{number}") for number in range(4)]
    before = related(documents, Marker())
    again, marker, watcher = [renamed(document) for document in documents], Marker(), Watcher()

    found = related(again, marker, answered=before, watcher=watcher)

    assert marker.prompts == []
    assert sum(watcher.done) == len(documents)
    assert found == related(again, Marker())
    assert any(document.relations for document in found)


def test_only_the_windows_whose_entities_have_changed_are_asked_again() -> None:
    long = note(TEXT * 6)
    before = related([long], Marker())
    first, *others = long.entities
    for changed in (
        [replace(first, label="drug"), *others],
        [replace(first, spans=(Span(first.start, first.end - 1),)), *others],
        others,
    ):
        other, marker = long.with_entities(changed), Marker()

        found = related([other], marker, answered=before)

        assert [prompt.window.start for prompt in marker.prompts] == [0]
        assert found == related([other], Marker())


def test_answers_of_another_text_are_not_taken_over() -> None:
    marker = Marker()
    before = related([note("Mild pain.")], Marker())

    (found,) = related([note("Fine, pain.")], marker, answered=before)

    assert len(marker.prompts) == 1
    assert modifiers_of(found) == []


def test_a_question_that_several_notes_ask_is_asked_once_and_each_note_is_told() -> None:
    notes = [note("Severe pain.", name) for name in "abc"]
    other = notes[0].with_entities([Entity.at("T1", "drug", 7, 11)])
    marker, watcher = Marker(), Watcher()

    found = related([*notes, replace(other, id="d")], marker, watcher=watcher)

    assert len(marker.prompts) == 2
    assert watcher.done == [1, 1, 1, 1]
    assert [d.id for d in found] == ["a", "b", "c", "d"]
    assert all(len(d.relations) == 1 for d in found)


# What is known of gold modifiers ---------------------------------------------------------------


@st.composite
def annotated_notes(draw: st.DrawFn) -> Document:
    """A note with entities, and modifiers and links that a model must not be told."""
    words = draw(st.lists(st.sampled_from(["pain", "mild", "<1 problem>", "day.", "\n", "of"])))
    text = " ".join(words)
    pieces = [(p.core_start, p.end) for p in cut(text) if p.core_start < p.end]
    entities: list[Entity] = []
    relations: list[Relation] = []
    for index, (start, end) in enumerate(pieces):
        kind = draw(st.sampled_from(["", "entity", "modifier", "both"]))
        if kind in ("entity", "both"):
            label = draw(st.sampled_from(sorted(SCHEMA.entity_labels)))
            entities.append(Entity.at(f"T{index}", label, start, end))
        if kind in ("modifier", "both"):
            label = draw(st.sampled_from(LABELS))
            entities.append(Entity.at(f"X{index}", label, start, end))
    main = [e.id for e in entities if e.label in SCHEMA.entity_labels]
    for entity in entities:
        if entity.id.startswith("X") and main:
            tail = draw(st.sampled_from(main))
            relations.append(Relation(f"R{entity.id}", "modifies", entity.id, tail))
    return Document("n", text, tuple(entities), tuple(relations))


@settings(max_examples=60, deadline=None)
@given(document=annotated_notes(), name=st.sampled_from(["compact", "html"]), linked=st.booleans())
def test_gold_modifiers_never_leak_into_a_prompt(
    document: Document, name: str, linked: bool
) -> None:
    """In extraction nor in training: the prompt is that of the note without any modifier."""
    bare = document.only_labels(SCHEMA.entity_labels)
    told, untold = Marker(), Marker()

    related([document], told, linked=linked, name=name)
    related([bare], untold, linked=linked, name=name)

    assert [p.text for p in told.prompts] == [p.text for p in untold.prompts]
    formatted = get_relation_format(name)
    for prompt in told.prompts:
        trained = formatted.render(document, prompt.window, LABELS, linked=linked).prompt
        assert trained.text == prompt.text


def test_gold_entities_do_stand_in_the_prompt_and_predicted_ones_instead_of_them() -> None:
    """Else the test above would hold for prompts that tell nothing at all."""
    gold, marker = note("Severe pain."), Marker()
    related([gold, gold.with_entities([Entity.at("T1", "drug", 0, 6)])], marker)

    first, second = (prompt.text for prompt in marker.prompts)
    assert "Severe<1 problem> pain</>." in first
    assert "<1 drug>Severe</> pain." in second


# With a model -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["compact", "html"])
def test_whatever_a_model_answers_is_a_valid_document_with_allowed_links(
    tiny: BaseOf, name: str
) -> None:
    base = tiny("llama", 1)
    documents = [note(TEXT * (number % 3), f"n{number}") for number in range(4)]
    documents.append(note("pain </1> <severity> fever " * 12, "hostile"))
    decoder = make_decoder("copy", base, get_relation_format(name), 4)

    found = related(documents, decoder, name=name, tokenizer=base.tokenizer)

    assert sum(len(modifiers_of(d)) for d in found) > 10
    assert sum(len(d.relations) for d in found) > 3
    for before, after in zip(documents, found, strict=True):
        assert after.text == before.text
        assert [e for e in after.entities if e.label not in SCHEMA.modifier_labels] == list(
            before.entities
        )
        for entity in modifiers_of(after):
            words = after.text[entity.start : entity.end]
            assert words == words.strip() != ""
            assert entity.label in LABELS
            assert entity.score is not None
            assert 0 < entity.score <= 1
        labels = {entity.id: entity.label for entity in after.entities}
        for relation in after.relations:
            assert SCHEMA.allows(labels[relation.head], labels[relation.tail])


@pytest.mark.parametrize("name", ["compact", "html"])
def test_what_is_taken_over_is_what_the_model_would_have_answered(tiny: BaseOf, name: str) -> None:
    base = tiny("llama", 1)
    predicted = [note(TEXT * (number + 1), f"n{number}") for number in range(3)]
    gold = [renamed(d.with_entities(d.entities[number:])) for number, d in enumerate(predicted)]

    def between(documents: Sequence[Document], answered: Sequence[Document] = ()) -> list[Document]:
        decoder = make_decoder("copy", base, get_relation_format(name), 4)
        tokenizer = base.tokenizer
        return related(documents, decoder, name=name, tokenizer=tokenizer, answered=answered)

    found, expected = between(gold, between(predicted)), between(gold)

    assert sum(len(modifiers_of(d)) for d in found) > 10
    for taken, asked in zip(found, expected, strict=True):
        assert taken.relations == asked.relations
        for one, other in zip(taken.entities, asked.entities, strict=True):
            assert replace(one, score=None) == replace(other, score=None)
            # Passes of other windows side by side round differently.
            assert (one.score or 0) == pytest.approx(other.score or 0, abs=1e-5)
