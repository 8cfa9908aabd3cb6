"""Notes that belong together stay together, whatever it is that joins them."""

from __future__ import annotations

from fedmedlora.core.document import Document
from fedmedlora.corpora.grouping import source_groups
from fedmedlora.corpora.split import split_documents

SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}


def test_sentences_of_one_abstract_never_stand_on_both_sides_of_a_split() -> None:
    notes = [Document(f"{a}_{s}", f"text {a} {s}") for a in range(40) for s in range(3)]
    group = source_groups(notes, r"^(\d+)_")
    parts = split_documents(notes, SHARES, 0, group)
    where: dict[str, set[str]] = {}
    for name, documents in parts.items():
        for document in documents:
            where.setdefault(document.id.split("_")[0], set()).add(name)
    assert len(where) == 40
    assert all(len(names) == 1 for names in where.values())


def test_without_a_pattern_the_same_sentences_are_parted() -> None:
    notes = [Document(f"{a}_{s}", f"text {a} {s}") for a in range(40) for s in range(3)]
    group = source_groups(notes)
    assert len({group(note) for note in notes}) == 120


def test_equal_texts_are_one_group_even_across_sources() -> None:
    notes = [
        Document("1_a", "No  pain."),
        Document("2_a", "no pain.\n"),
        Document("2_b", "Fever."),
        Document("3_a", "Cough."),
    ]
    group = source_groups(notes, r"^(\d+)_")
    assert group(notes[0]) == group(notes[1]) == group(notes[2])
    assert group(notes[3]) != group(notes[0])


def test_notes_of_one_patient_are_one_group() -> None:
    notes = [
        Document("a", "one", metadata={"patient_id": "p"}),
        Document("b", "two", metadata={"patient_id": "p"}),
        Document("c", "three", metadata={"patient_id": "q"}),
    ]
    group = source_groups(notes)
    assert group(notes[0]) == group(notes[1]) != group(notes[2])
