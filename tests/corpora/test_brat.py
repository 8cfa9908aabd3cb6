"""BRAT standoff: what is taken from it, what is refused, and what BRAT gets to see."""

from dataclasses import replace

import pytest

from fedmedlora.core.document import Document, Entity, Relation, Span
from fedmedlora.core.errors import CorpusError
from fedmedlora.corpora.brat import BratReader, holds_brat, read_brat
from fedmedlora.corpora.brat_writer import brat_losses, note_files, write_brat
from fedmedlora.corpora.reader import BadNote

TEXT = "Severe pain in the\r\nleft and right arm \U0001f600.\nTakes aspirin 81 mg."


def write_note(folder, annotations, text=TEXT, name="n1"):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    raw = annotations if isinstance(annotations, bytes) else annotations.encode()
    (folder / f"{name}.ann").write_bytes(raw)
    return folder


def faults(folder):
    return [
        (fault.file.name, fault.line, fault.code)
        for item in BratReader(folder).notes()
        if isinstance(item, BadNote)
        for fault in item.faults
    ]


def test_offsets_count_code_points_with_both_characters_of_a_line_end(tmp_path):
    start = TEXT.index("aspirin")
    write_note(tmp_path, f"T1\tdrug {start} {start + 7}\taspirin\n")
    [document] = read_brat(tmp_path)
    assert document == Document("n1", TEXT, (Entity.at("T1", "drug", start, start + 7),))


def test_fragments_are_kept_apart_and_put_in_text_order(tmp_path):
    write_note(tmp_path, "T1\tproblem 35 38;20 24\tarm left\n")
    assert read_brat(tmp_path)[0].entities[0].spans == (Span(20, 24), Span(35, 38))


def test_an_event_id_stands_for_its_trigger(tmp_path):
    write_note(
        tmp_path,
        "T1\tseverity 0 6\tSevere\nT2\tSign 7 11\tpain\nE1\tSign:T2 \nE2\tsev:T1 Theme:E1\n"
        "R1\tMODIFY Arg1:E2 Arg2:E1\n",
    )
    assert read_brat(tmp_path)[0].relations == (Relation("R1", "MODIFY", "T1", "T2"),)


def test_head_is_arg1_whichever_stands_first(tmp_path):
    mentions = "T1\tdrug 48 55\taspirin\nT2\tstrength 56 61\t81 mg\n"
    write_note(tmp_path, mentions + "R1\ta Arg1:T2 Arg2:T1\nR2\tb Arg2:T2 Arg1:T1\t\n")
    links = [(r.head, r.tail) for r in read_brat(tmp_path)[0].relations]
    assert links == [("T2", "T1"), ("T1", "T2")]


def test_attributes_groups_and_event_roles_are_kept_in_the_metadata(tmp_path):
    write_note(
        tmp_path,
        "T1\tSign 7 11\tpain\nT2\tdrug 48 55\taspirin\nE1\tSign:T1\nE2\tSign:T1 Arm2:T2 Leg:E1\n"
        "A1\tPOLARITY E1 NEG\nM1\tHedged E1\nA2\tSure R1\n*\tOVERLAP T2 E1\n"
        "R1\tMODIFY Arg1:E1 Arg2:T2\n"
        '#1\tFedMedLoRA T2\t{"id": "m2"}\n',
    )
    [document] = read_brat(tmp_path)
    assert document.metadata == {
        "attributes": [
            {"target": "T1", "name": "POLARITY", "value": "NEG"},
            {"target": "T1", "name": "Hedged", "value": True},
            {"target": "R1", "name": "Sure", "value": True},
        ],
        "groups": [{"label": "OVERLAP", "members": ["m2", "T1"]}],
        "roles": [
            {"label": "Arm", "head": "T1", "tail": "m2"},
            {"label": "Leg", "head": "T1", "tail": "T1"},
        ],
    }


def test_attributes_and_groups_are_written_back(tmp_path):
    lines = "T1\tSign 7 11\tpain\nA1\tPOLARITY T1 NEG\nA2\tSure T1\n*\tOVERLAP T1\n"
    write_note(tmp_path / "a", lines)
    notes = read_brat(tmp_path / "a")
    write_brat(tmp_path / "b", notes)
    assert (tmp_path / "b" / "n1.ann").read_text() == lines
    assert read_brat(tmp_path / "b") == notes


def test_what_a_document_cannot_hold_is_counted(tmp_path):
    write_note(
        tmp_path,
        "T1\tSign 7 11\tpain\nE1\tSign:T1 Arm:T9\nA1\tPOLARITY E9 NEG\n*\tOVERLAP T1 T8 E9\n"
        "#1\tAnnotatorNotes T1\tis this right?\nN1\tReference T1 UMLS:C1\tpain\n",
    )
    reader = BratReader(tmp_path)
    assert len(list(reader)) == 1
    assert reader.dropped == {
        "event role of what is not in the file": 1, "attribute of what is not in the file": 1,
        "group member that is not in the file": 2, "annotator's note": 1, "normalization": 1,
    }  # fmt: skip


def test_a_text_that_stops_at_a_line_end_is_taken_only_when_asked(tmp_path):
    write_note(tmp_path, "T1\tproblem 7 38\tpain in the\nT2\tproblem 7 38\tpain in\n")
    assert faults(tmp_path) == [("n1.ann", line, "text-mismatch") for line in (1, 2)]
    write_note(tmp_path, "T1\tproblem 7 38\tpain in the\n")
    reader = BratReader(tmp_path, text_may_stop_at_line_end=True)
    assert [d.entities for d in reader] == [(Entity.at("T1", "problem", 7, 38),)]
    assert sum(reader.adjusted.values()) == 1
    write_note(tmp_path, "T1\tproblem 7 38\tpain in\n")
    with pytest.raises(CorpusError, match="its text is not"):
        list(reader)


@pytest.mark.parametrize(
    ("metadata", "lost"),
    [
        ({"patient_id": "p", "ward": 3}, {"metadata": 1}),
        ({"attributes": "many"}, {"metadata": 1}),
        ({"attributes": [{"target": "T9", "name": "Sure", "value": True}]}, {"attribute": 1}),
        ({"attributes": [{"target": "T1", "name": "is sure", "value": True}]}, {"attribute": 1}),
        ({"attributes": [{"target": "T1", "name": "x", "value": "a\nT2\tb"}]}, {"attribute": 1}),
        ({"groups": [{"label": "g", "members": []}]}, {"group": 1}),
        ({"roles": [{"label": "Arm", "head": "T1", "tail": "T1"}]}, {"event role": 1}),
    ],
)
def test_metadata_that_brat_cannot_hold_is_left_out_and_counted(tmp_path, metadata, lost):
    note = Document("n1", TEXT, (Entity.at("T1", "drug", 48, 55),), metadata=metadata)
    assert brat_losses(note) == lost
    assert note_files(note) == note_files(replace(note, metadata={}))


def test_a_line_that_was_broken_with_its_mention_is_joined(tmp_path):
    write_note(
        tmp_path,
        "T1\tbodyloc 12 24\tin the\nleft\nT2\tproblem 7 38\tpain in the\r\n"
        "left and right arm\nT3\tdrug 48 55\taspirin\n",
    )
    spans = [(e.start, e.end) for e in read_brat(tmp_path)[0].entities]
    assert spans == [(12, 24), (7, 38), (48, 55)]


def test_a_line_end_in_a_mention_may_be_written_as_a_blank(tmp_path):
    write_note(tmp_path, "T1\tbodyloc 12 24\tin the left\n")
    assert read_brat(tmp_path)[0].entities[0].cover == Span(12, 24)


def test_sub_folders_give_ids_with_a_slash_and_hidden_files_are_passed_over(tmp_path):
    write_note(tmp_path, "", name="b.2")
    write_note(tmp_path / "batch1", "", name="a")
    write_note(tmp_path, b"\0", name="._b.2", text=b"\0")
    assert [d.id for d in read_brat(tmp_path)] == ["b.2", "batch1/a"]


def test_an_empty_note_and_a_note_without_mentions_are_read(tmp_path):
    write_note(tmp_path, "", text="", name="empty")
    write_note(tmp_path, "\n", name="plain")
    assert [(d.id, d.text, d.entities) for d in read_brat(tmp_path)] == [
        ("empty", "", ()),
        ("plain", TEXT, ()),
    ]


BAD_LINES = {
    "no tab": "T1 drug 48 55 aspirin",
    "no text": "T1\tdrug 48 55",
    "no offsets": "T1\tdrug\taspirin",
    "offsets that are no numbers": "T1\tdrug a b\taspirin",
    "offsets without end": f"T1\tdrug {'9' * 5000} 55\taspirin",
    "an unknown kind": "X1\tdrug 48 55\taspirin",
    "a relation with one argument": "R1\tm Arg1:T9",
    "a relation with three arguments": "R1\tm Arg1:T9 Arg2:T9 Arg3:T9",
    "an event without a trigger": "E1\tSign",
    "an attribute of nothing": "A1\tPOLARITY",
    "an empty group": "*\tOVERLAP",
    "a damaged note of our own": '#1\tFedMedLoRA T9\t{"score": "',
    "a note of our own with text for a score": '#1\tFedMedLoRA T9\t{"score": "high"}',
    "a note of our own with empty spans": '#1\tFedMedLoRA T9\t{"spans": [[3, 3]]}',
}


@pytest.mark.parametrize("what", BAD_LINES)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_broken_line_is_a_fault_of_that_line(tmp_path, what, end):
    lines = ["T9\tdrug 48 55\taspirin", BAD_LINES[what], "T8\tproblem 7 11\tpain", ""]
    write_note(tmp_path, end.join(lines))
    assert faults(tmp_path) == [("n1.ann", 2, "broken-line")]


def test_a_broken_first_line_is_a_fault_of_that_line(tmp_path):
    write_note(tmp_path, "nothing\n\nT1\tproblem 7 11\tpain\n")
    assert faults(tmp_path) == [("n1.ann", 1, "broken-line")]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("T1\tdrug 48 999\taspirin", [(1, "offset")]),
        ("T1\tdrug 999 48\taspirin", [(1, "offset")]),
        ("T1\tdrug 55 48\taspirin", [(1, "offset")]),
        ("T1\tdrug 48 48\t", [(1, "offset")]),
        ("T1\tdrug 48 55;51 57\taspirin in 8", [(1, "offset")]),
        ("T1\tdrug 47 54\taspirin", [(1, "text-mismatch")]),
        ("T1\tdrug 48 55\taspirin 81 mg", [(1, "text-mismatch")]),
        ("T1\tdrug 48 55\taspi\nrin", [(1, "text-mismatch"), (2, "broken-line")]),
        ("T1\tdrug 48 55\taspirin\nand more", [(2, "broken-line")]),
        ("T1\tdrug 48 55\taspirin\nT1\tdrug 48 55\taspirin", [(2, "duplicate-id")]),
        ("R1\tm Arg1:T1 Arg2:T2\nT1\tdrug 48 55\taspirin", [(1, "dangling-relation")]),
        ("R1\tm Arg1:R1 Arg2:A1\nA1\tx R1", [(1, "dangling-relation")] * 2),
        ("E1\tSign:T7", [(1, "dangling-relation")]),
        # the fault of the mention is told once, not again by its relation
        (
            "T1\tdrug 48 55\taspirin\nT2\tdrug 0 999\tx\n"
            "R1\tm Arg1:T1 Arg2:T2\nR2\tm Arg1:E1 Arg2:T1",
            [(2, "offset"), (4, "dangling-relation")],
        ),
    ],
)
def test_every_fault_in_a_note_is_told_with_its_line(tmp_path, lines, expected):
    write_note(tmp_path, lines + "\n")
    assert faults(tmp_path) == [("n1.ann", line, code) for line, code in expected]


@pytest.mark.parametrize(
    ("text", "annotations", "expected"),
    [
        (b"a\ncaf\xe9", b"", ("n1.txt", 2, "encoding")),
        (b"a", b"T1\tdrug 0 1\ta\n#1\tx T1\t\xff", ("n1.ann", 2, "encoding")),
        ("a".encode("utf-16"), b"", ("n1.txt", 1, "encoding")),
        (b"\xef\xbb\xbfa", b"", ("n1.txt", 1, "bom")),
        (b"a", b"\xef\xbb\xbfT1\tdrug 0 1\ta\n", ("n1.ann", 1, "bom")),
        (b"a\n\nb\0", b"", ("n1.txt", 3, "nul")),
        (b"a", b"\n\0", ("n1.ann", 2, "nul")),
    ],
)
def test_bad_bytes_are_faults_of_the_right_kind(tmp_path, text, annotations, expected):
    write_note(tmp_path, annotations, text=text)
    assert faults(tmp_path) == [expected]


def test_files_without_their_other_half_are_faults(tmp_path):
    write_note(tmp_path, "", name="whole")
    (tmp_path / "a.ann").write_text("")
    (tmp_path / "b.txt").write_text("")
    assert faults(tmp_path) == [("a.ann", None, "orphan"), ("b.txt", None, "orphan")]
    assert [d.id for d in read_brat(tmp_path, skip_bad_notes=True)] == ["whole"]


def test_a_folder_without_notes_is_a_fault(tmp_path):
    assert faults(tmp_path) == [(tmp_path.name, None, "empty-file")]
    assert not holds_brat(tmp_path)


def test_brat_gets_fragments_without_line_ends_and_ids_of_its_own_form():
    document = Document(
        "n1",
        TEXT,
        (Entity.at("mention-1", "bodyloc", 12, 24, score=0.25), Entity.at("T1", "drug", 48, 55)),
        (Relation("link", "modifies", "mention-1", "T1"),),
    )
    text, annotations = note_files(document)
    assert text == TEXT.encode()
    assert annotations.decode() == (
        "T2\tbodyloc 12 18;20 24\tin the left\n"
        "T1\tdrug 48 55\taspirin\n"
        "R1\tmodifies Arg1:T2 Arg2:T1\n"
        '#1\tFedMedLoRA T2\t{"id": "mention-1", "spans": [[12, 24]], "score": 0.25}\n'
        '#2\tFedMedLoRA R1\t{"id": "link"}\n'
    )


def test_a_mention_that_was_moved_in_brat_stays_where_it_was_moved_to(tmp_path):
    write_brat(tmp_path / "out", [Document("n1", TEXT, (Entity.at("T1", "bodyloc", 12, 24),))])
    path = tmp_path / "out" / "n1.ann"
    moved = path.read_text().replace("12 18;20 24\tin the left", "20 24\tleft")
    path.write_text(moved)
    assert read_brat(tmp_path / "out")[0].entities[0].spans == (Span(20, 24),)


@pytest.mark.parametrize(
    "document",
    [
        Document("../n1", "a"),
        Document("/etc/n1", "a"),
        Document("a//b", "a"),
        Document(".", "a"),
        Document("a\\b", "a"),
        Document("a\nb", "a"),
        Document("a" * 201, "a"),
        Document("n1", "a\0"),
        Document("n1", "\ufeffa"),
        Document("n1", "\ud83d"),
        Document("n1", "a", (Entity.at("T1", "two words", 0, 1),)),
        Document("n1", "a", (Entity.at("T1", "", 0, 1),)),
        Document("fine", "twice"),
    ],
    ids=lambda document: ascii(document.id)[:12],
)
def test_what_brat_cannot_hold_is_refused_and_nothing_is_left_behind(tmp_path, document):
    with pytest.raises(CorpusError):
        write_brat(tmp_path / "in" / "out", [Document("fine", "fine"), document])
    assert [path.name for path in tmp_path.rglob("*")] == ["in"]


def test_notes_are_not_mixed_into_a_folder_that_holds_something(tmp_path):
    write_note(tmp_path / "out", "")
    with pytest.raises(CorpusError, match="not empty"):
        write_brat(tmp_path / "out", [Document("n2", "a")])
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["n1.ann", "n1.txt"]
    (tmp_path / "empty").mkdir()
    assert write_brat(tmp_path / "empty", [Document("n2", "a")]) == 1


def test_what_a_killed_run_left_behind_does_not_get_in_the_way(tmp_path):
    write_note(tmp_path / "out.partial", "", name="half")
    write_brat(tmp_path / "out", [Document("n1", "a")])
    assert [d.id for d in read_brat(tmp_path / "out")] == ["n1"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
