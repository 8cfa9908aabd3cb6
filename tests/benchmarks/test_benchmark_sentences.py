"""What is extracted: sentences with their own exact gold, of notes that no adapter has seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.ways.sentences import artificial_notes, corpus_notes, sentences_of
from fedmedlora.core.document import Document, Entity, Span
from fedmedlora.core.errors import ConfigError
from fedmedlora.corpora.jsonl import write_jsonl
from fedmedlora.corpora.synthetic import FIVE
from fedmedlora.models.load import BaseModel

NOTE = Document(
    "n1",
    "  Knee pain since May.\r\nTook aspirin, no fever.\n",
    (
        Entity("T1", "problem", (Span(2, 11),)),
        Entity("T2", "drug", (Span(29, 36),)),
        Entity("T3", "problem", (Span(41, 46),)),
        Entity("T4", "temporal", (Span(12, 21),)),
        Entity("T5", "problem", (Span(2, 11), Span(41, 46))),
    ),
)


def test_entities_move_with_their_sentence_and_stay_the_same_words(
    base: BaseModel, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "notes.jsonl", [NOTE])
    notes = corpus_notes(tmp_path / "notes.jsonl", seed=0)

    found = sentences_of(notes, base.tokenizer, count=2, max_source_tokens=99)

    assert [s.document.text for s in found] == ["Knee pain since May.", "Took aspirin, no fever."]
    words = [
        [(e.label, s.document.text[e.start : e.end]) for e in s.document.entities] for s in found
    ]
    assert words == [[("problem", "Knee pain")], [("drug", "aspirin"), ("problem", "fever")]]
    assert all(s.labels == ("problem", "drug") for s in found)


def test_sentences_that_are_too_long_are_left_out(base: BaseModel) -> None:
    notes = [Document("n1", "A b.\nC d e f g h i.\nJ k.", annotated_labels=frozenset({"drug"}))]

    found = sentences_of(notes, base.tokenizer, count=2, max_source_tokens=6)

    assert [sentence.document.text for sentence in found] == ["A b.", "J k."]


def test_too_few_sentences_are_said(base: BaseModel) -> None:
    with pytest.raises(ConfigError, match="expected 3, got 0"):
        sentences_of([], base.tokenizer, count=3, max_source_tokens=9)


def test_notes_to_train_on_and_notes_to_measure_come_from_different_hospitals() -> None:
    def hospitals(notes: list[Document]) -> set[str]:
        return {note.id.rpartition("-")[0] for note in notes}

    trained = hospitals(artificial_notes("train", 2, 0))
    measured = hospitals(artificial_notes("external", 2, 0))

    assert not trained & measured
    assert trained | measured == {site.name for site in FIVE}


def test_a_corpus_is_shuffled_the_same_way_each_time(tmp_path: Path) -> None:
    notes = [Document(f"n{number}", f"Note {number}.") for number in range(9)]
    write_jsonl(tmp_path / "notes.jsonl", notes)

    first, second = (corpus_notes(tmp_path / "notes.jsonl", seed=3) for _ in range(2))

    assert [note.id for note in first] == [note.id for note in second]
    assert sorted(note.id for note in first) == [note.id for note in notes]
    assert [note.id for note in first] != [note.id for note in notes]
