"""Conversion: exact both ways, an account of every note, nothing left behind on failure."""

import pytest

from fedmedlora.core.document import Document, Entity, Relation, Span
from fedmedlora.core.errors import ConfigError, CorpusError
from fedmedlora.corpora.brat_writer import write_brat
from fedmedlora.corpora.card import CorpusCard, write_card
from fedmedlora.corpora.convert import convert
from fedmedlora.corpora.jsonl import read_jsonl, write_jsonl
from fedmedlora.corpora.open_corpus import load_corpus

NOTES = [
    Document(
        "n1",
        'Left and\r\nright arm <span class="drug">\t& \U0001f600 pain.',
        (
            Entity("T1", "problem", (Span(0, 4), Span(16, 19)), 0.5),
            Entity.at("m2", "bodyloc", 5, 19),
            Entity.at("T3", "drug", 20, 39),
        ),
        (Relation("R1", "modifies", "m2", "T1"),),
    ),
    Document("sub/n2", ""),
]


def test_from_json_lines_to_brat_and_back_nothing_changes(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", NOTES)
    there = convert(tmp_path / "a.jsonl", "jsonl", "brat", tmp_path / "brat")
    back = convert(tmp_path / "brat", "brat", "jsonl", tmp_path / "b.jsonl.gz")
    assert read_jsonl(tmp_path / "b.jsonl.gz") == NOTES
    for account in (there, back):
        assert (account.num_read, account.num_written, account.num_skipped) == (2, 2, 0)
        assert (account.num_entities, account.num_relations) == (3, 1)
        assert account.dropped == {}


def test_the_card_goes_with_the_notes_into_a_folder(tmp_path):
    write_jsonl(tmp_path / "a" / "d.jsonl.zst", NOTES)
    write_card(tmp_path / "a", CorpusCard("north", "d.jsonl.zst", ("drug",), licence="MIT"))
    convert(tmp_path / "a", "jsonl", "brat", tmp_path / "b")
    convert(tmp_path / "b", "brat", "jsonl", tmp_path / "c")
    first, last = load_corpus(tmp_path / "a"), load_corpus(tmp_path / "c")
    assert last.documents == first.documents
    assert (last.card.licence, last.card.num_entities) == ("MIT", 3)


def test_metadata_that_brat_cannot_hold_is_counted(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [Document("n1", "x", metadata={"patient_id": "p"})])
    account = convert(tmp_path / "a.jsonl", "jsonl", "brat", tmp_path / "brat")
    assert (account.dropped, account.lost) == ({}, {"metadata": 1})
    assert account.to_json()["dropped"] == {"metadata": 1}


def broken_brat(folder):
    write_brat(folder, NOTES)
    (folder / "n1.ann").write_text("T1\tdrug 0 4\tleft\nA1\tx T1\n")
    (folder / "sub" / "n2.ann").write_text("#1\tAnnotatorNotes T1\tx\n")
    return folder


def test_a_bad_note_refuses_the_conversion_and_leaves_nothing(tmp_path):
    broken_brat(tmp_path / "brat")
    with pytest.raises(CorpusError, match=r"n1\.ann:1: T1: its text"):
        convert(tmp_path / "brat", "brat", "jsonl", tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["brat"]


def test_a_bad_note_is_left_out_and_counted_when_asked(tmp_path):
    broken_brat(tmp_path / "brat")
    account = convert(
        tmp_path / "brat", "brat", "jsonl", tmp_path / "out.jsonl", skip_bad_notes=True
    )
    assert [d.id for d in read_jsonl(tmp_path / "out.jsonl")] == ["sub/n2"]
    told = account.to_json()
    assert (told["num_read"], told["num_skipped"], told["num_written"]) == (2, 1, 1)
    assert told["skipped_reasons"] == {"text-mismatch": 1}
    assert told["dropped"] == {"annotator's note": 1}


def test_a_note_that_the_target_cannot_hold_counts_as_a_bad_one(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [*NOTES, Document("../n3", "x")])
    with pytest.raises(CorpusError, match="cannot be a file name"):
        convert(tmp_path / "a.jsonl", "jsonl", "brat", tmp_path / "brat")
    assert not (tmp_path / "brat").exists()
    account = convert(tmp_path / "a.jsonl", "jsonl", "brat", tmp_path / "brat", skip_bad_notes=True)
    assert (account.num_written, account.num_skipped) == (2, 1)
    assert [fault.code for fault in account.faults] == ["unwritable"]


def test_nothing_is_written_when_no_note_is_left(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n")
    with pytest.raises(CorpusError, match="no note is left"):
        convert(tmp_path / "a.jsonl", "jsonl", "brat", tmp_path / "brat", skip_bad_notes=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_source_of_another_format_is_a_wrong_option(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", NOTES)
    with pytest.raises(ConfigError, match="holds jsonl, not brat"):
        convert(tmp_path / "a.jsonl", "brat", "jsonl", tmp_path / "b.jsonl")
