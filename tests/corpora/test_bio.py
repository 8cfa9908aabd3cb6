"""BIO files: what is read and repaired, what is refused, what the format cannot hold."""

from collections import Counter

import pytest
from seqeval.metrics.sequence_labeling import get_entities

from fedmedlora.core.document import Document, Entity, Relation, Span
from fedmedlora.core.errors import CorpusError
from fedmedlora.corpora.bio import BioReader, bio_file, fit_bio, write_bio
from fedmedlora.corpora.reader import BadNote


def read(tmp_path, content, name="n1.bio"):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    reader = BioReader(tmp_path)
    return list(reader), reader


def faults(tmp_path, content):
    (tmp_path / "n1.bio").write_text(content)
    notes = [note for note in BioReader(tmp_path).notes() if isinstance(note, BadNote)]
    return [(fault.line, fault.code) for note in notes for fault in note.faults]


def test_tokens_and_tags_become_a_text_with_mentions(tmp_path):
    content = (
        "No\tB-negation\nchest\tB-problem\npain\tI-problem\n.\tO\n\n\nTakes\tO\naspirin\tB-drug\n"
    )
    [document], reader = read(tmp_path, content)
    assert document.text == "No chest pain .\nTakes aspirin"
    assert [(e.id, e.label, document.entity_text(e)) for e in document.entities] == [
        ("T1", "negation", "No"), ("T2", "problem", "chest pain"), ("T3", "drug", "aspirin"),
    ]  # fmt: skip
    assert reader.adjusted == {}


@pytest.mark.parametrize(
    ("tags", "mentions", "num_repaired"),
    [
        ("I-a I-a O", ["t0 t1"], 1),
        ("B-a I-b I-b", ["t0", "t1 t2"], 1),
        ("B-a O I-a", ["t0", "t2"], 1),
        ("B-a B-a I-a", ["t0", "t1 t2"], 0),
        ("B-a | I-a", ["t0", "t1"], 1),
    ],
)
def test_an_i_tag_that_continues_nothing_begins_a_mention_and_is_counted(
    tmp_path, tags, mentions, num_repaired
):
    lines, number = [], 0
    for tag in tags.split():
        lines.append("" if tag == "|" else f"t{number}\t{tag}")
        number += tag != "|"
    [document], reader = read(tmp_path, "\n".join(lines))
    assert [document.entity_text(e) for e in document.entities] == mentions
    assert sum(reader.adjusted.values()) == num_repaired


def test_line_ends_of_windows_are_no_part_of_a_tag(tmp_path):
    [document], _ = read(tmp_path, b"pain\tB-a\r\n\r\nnow\tO\r\n")
    assert (document.text, document.entities[0].label) == ("pain\nnow", "a")


def test_a_docstart_line_begins_another_note(tmp_path):
    documents, _ = read(tmp_path, "-DOCSTART-\tO\n\na\tB-x\n\n-DOCSTART-\tO\n\nb\tO\n")
    assert [(d.id, d.text) for d in documents] == [("n1-1", "a"), ("n1-2", "b")]


@pytest.mark.parametrize(
    "line", ["pain", "pain B-a", "pain\tX-a", "pain\tB-", "pain\tB-a\tO", "\tO"]
)
def test_a_line_that_is_no_token_with_a_tag_is_a_fault_of_that_line(tmp_path, line):
    assert faults(tmp_path, f"a\tO\n{line}\nb\tO\n") == [(2, "broken-line")]


def test_two_files_of_one_note_and_an_empty_folder_are_faults(tmp_path):
    assert [n.faults[0].code for n in BioReader(tmp_path).notes()] == ["empty-file"]
    (tmp_path / "a.bio").write_text("x\tO\n")
    (tmp_path / "a.txt").write_text("x\tO\n")
    with pytest.raises(CorpusError, match=r"a\.txt: document id 'a' occurs twice"):
        list(BioReader(tmp_path))


def test_bad_bytes_are_refused_and_skipped_when_asked(tmp_path):
    (tmp_path / "a.bio").write_bytes(b"caf\xe9\tO\n")
    (tmp_path / "b.bio").write_text("x\tO\n")
    with pytest.raises(CorpusError, match=r"a\.bio:1: byte 3 of the file is not UTF-8"):
        list(BioReader(tmp_path))
    reader = BioReader(tmp_path, skip_bad_notes=True)
    assert [d.id for d in reader] == ["b"]
    assert reader.num_skipped == 1


TEXT = "Severe left-sided pain; took aspirin 2.5mg.\r\nNo fever \U0001f600."


def at(number, label, phrase, score=None):
    start = TEXT.index(phrase)
    return Entity.at(f"T{number}", label, start, start + len(phrase), score=score)


def test_what_the_format_cannot_hold_is_left_out_and_counted():
    far = TEXT.index("fever") + 60
    note = Document(
        "n1",
        TEXT + " " * 60 + "End.",
        (
            at(1, "problem", "left-sided pain", score=0.5),
            at(2, "bodyloc", "left-sided"),
            Entity("T3", "severity", (Span(0, 6), Span(18, 20))),
            Entity("T4", "drug", (Span(0, 3), Span(far, far + 1))),
            at(5, "negation", "No"),
            Entity.at("T6", "x", len(TEXT), len(TEXT) + 1),
            at(7, "drug", "aspirin", score=0.5),
        ),
        (
            Relation("R1", "m", "T2", "T1"),
            Relation("R2", "m", "T5", "T4"),
            Relation("R3", "m", "T5", "T7"),
        ),
        metadata={"ward": 1},
    )
    lost = Counter()
    fitted = fit_bio(note, lost)
    assert [(e.id, e.cover) for e in fitted.entities] == [
        ("T3", Span(0, 20)),
        ("T5", note.entities[4].cover),
        ("T7", note.entities[6].cover),
    ]
    assert fitted.relations == ()
    assert {kind.split(":")[0]: count for kind, count in (+lost).items()} == {
        "fragments of a mention": 1,
        "mention in fragments over more than 60 characters": 1,
        "mention that overlaps a longer one": 2,
        "mention of white space only": 1,
        "relation of a mention that is left out": 2,
        "relation": 1,
        "score": 1,
        "id of a mention": 3,
        "metadata of a note": 1,
        "white space of a note": 1,
    }


def test_a_mention_may_begin_and_end_within_a_word():
    start = TEXT.index("mg")
    note = Document("n1", TEXT, (Entity.at("T1", "unit", start, start + 2),))
    lines = bio_file(note).decode().split("\n")
    assert "2.5\tO" in lines
    assert "mg\tB-unit" in lines


def test_other_tools_see_the_same_mentions():
    note = Document(
        "n1",
        TEXT,
        (at(1, "problem", "left-sided pain"), at(2, "drug", "aspirin"), at(3, "drug", "2.5")),
    )
    lines = [line for line in bio_file(note).decode().split("\n") if line]
    tokens, tags = zip(*(line.split("\t") for line in lines), strict=True)
    found = [(label, " ".join(tokens[s : e + 1])) for label, s, e in get_entities(list(tags))]
    assert found == [("problem", "left - sided pain"), ("drug", "aspirin"), ("drug", "2.5")]


def test_no_sentence_ends_within_a_mention():
    note = Document("n1", TEXT, (at(1, "x", "2.5mg.\r\nNo"),))
    assert "2.5\tB-x\nmg\tI-x\n.\tI-x\nNo\tI-x\n" in bio_file(note).decode()


@pytest.mark.parametrize(
    "note",
    [
        Document("a/../b", "x"),
        Document("n1", "x", (Entity.at("T1", "two words", 0, 1),)),
        Document("n1", "ab", (Entity.at("T1", "a", 0, 2), Entity.at("T2", "b", 1, 2))),
        Document("n1", "abc", (Entity("T1", "a", (Span(0, 1), Span(2, 3))),)),
        Document("n1", "\ud83d"),
        Document("n1", "\ufeffa"),
        Document("n1", "a\0"),
    ],
    ids=["id", "label", "overlap", "fragments", "surrogate", "bom", "nul"],
)
def test_what_would_not_be_read_back_is_refused_and_nothing_is_left(tmp_path, note):
    with pytest.raises(CorpusError):
        write_bio(tmp_path / "out", [Document("fine", "x"), note])
    assert list(tmp_path.iterdir()) == []
