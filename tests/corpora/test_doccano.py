"""Doccano's JSON lines: both shapes, a blanked id, faults with their line, what is written."""

import gzip
import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from fedmedlora.core.document import Document, Entity, Relation, Span
from fedmedlora.core.errors import CorpusError
from fedmedlora.corpora.doccano import DoccanoReader, doccano_line, fit_doccano, write_doccano
from fedmedlora.corpora.jsonl import read_jsonl
from fedmedlora.corpora.mapped import MappedReader
from fedmedlora.corpora.mapping import load_mapping
from fedmedlora.corpora.reader import BadNote

FOLDER = os.environ.get("FEDMEDLORA_CORPORA", "")
TEXT = "\U0001f600 aspirin\r\n81 mg"


def write(tmp_path, *lines, name="d.jsonl"):
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    (tmp_path / name).write_bytes(b"".join(line + b"\n" for line in raw))
    return tmp_path / name


def faults(path):
    notes = [note for note in DoccanoReader(path).notes() if isinstance(note, BadNote)]
    return [(fault.line, fault.code) for note in notes for fault in note.faults]


@pytest.mark.parametrize("key", ["label", "labels"])
def test_spans_are_read_with_offsets_in_code_points(tmp_path, key):
    path = write(tmp_path, {"id": 7, "text": TEXT, key: [[2, 9, "DRUG"], [11, 16, "DOSE"]]})
    assert list(DoccanoReader(path)) == [
        Document("7", TEXT, (Entity.at("T0", "DRUG", 2, 9), Entity.at("T1", "DOSE", 11, 16)))
    ]


def test_entities_with_relations_are_read(tmp_path):
    entities = [
        {"id": 31, "label": "DRUG", "start_offset": 2, "end_offset": 9},
        {"id": 30, "label": "DOSE", "start_offset": 11, "end_offset": 16},
    ]
    relations = [{"id": 5, "from_id": 30, "to_id": 31, "type": "modifies"}]
    line = {"id": "a", "text": TEXT, "entities": entities, "relations": relations}
    [document] = DoccanoReader(write(tmp_path, line))
    assert [(e.id, e.label, e.start) for e in document.entities] == [
        ("T31", "DRUG", 2), ("T30", "DOSE", 11),
    ]  # fmt: skip
    assert document.relations == (Relation("R5", "modifies", "T30", "T31"),)


def test_other_columns_become_metadata_and_empty_ones_are_passed_over(tmp_path):
    line = {
        "id": 1,
        "text": "x",
        "label": [],
        "meta": {},
        "Comments": [],
        "ward": "3",
        "user": None,
    }
    [document] = DoccanoReader(write(tmp_path, line))
    assert document.metadata == {"ward": "3"}


def test_a_blanked_id_is_replaced_by_the_line_and_counted(tmp_path):
    path = write(
        tmp_path,
        {"id": 4, "text": "a"},
        b'{"id": *****, "text": "b ***", "labels": [[0, 1, "x"]]}',
        b'{"id": **, "text": "c\\*"}',
        {"text": "d"},
    )
    reader = DoccanoReader(path, skip_bad_notes=True)
    assert [(d.id, d.text) for d in reader] == [
        ("4", "a"),
        ("line00001", "b ***"),
        ("line00003", "d"),
    ]
    assert sum(reader.adjusted.values()) == 1
    assert [(f.line, f.code) for f in reader.faults] == [(3, "broken-line")]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"[1]", "wrong-type"),
        (b'{"text": 3}', "wrong-type"),
        (b'{"text": "a"', "broken-line"),
        (b'{"text": "\xff"}', "encoding"),
        ({"text": "a\0"}, "nul"),
        ({"text": "\ud83d"}, "encoding"),
        ({"text": "a", "label": 3}, "wrong-type"),
        ({"text": "a", "label": [["x"]]}, "wrong-type"),
        ({"text": "a", "label": [[0, True, "x"]]}, "wrong-type"),
        ({"text": "a", "label": [[0, 1, ""]]}, "wrong-type"),
        ({"text": "a", "label": [[0, 2, "x"]]}, "offset"),
        ({"text": "a", "label": [[-1, 1, "x"]]}, "offset"),
        ({"text": "a", "label": [[1, 1, "x"]]}, "offset"),
        ({"text": "a", "entities": [{"id": 1, "label": "x", "start_offset": 0}]}, "wrong-type"),
        ({"text": "a", "relations": [{"id": 1, "type": "m", "from_id": 1, "to_id": 1}]}, None),
        ({"text": "a", "metadata": 3}, "wrong-type"),
        ({"document_id": "first", "text": "a"}, "duplicate-id"),
    ],
)
def test_a_bad_line_is_a_fault_of_that_line(tmp_path, line, code):
    path = write(tmp_path, {"document_id": "first", "text": "x"}, line)
    expected = [(2, code)] if code else [(2, "dangling-relation")] * 2
    assert faults(path) == expected
    assert [d.id for d in DoccanoReader(path, skip_bad_notes=True)] == ["first"]


def test_two_entities_with_one_id_are_a_fault(tmp_path):
    entity = {"id": 1, "label": "x", "start_offset": 0, "end_offset": 1}
    assert faults(write(tmp_path, {"text": "a", "entities": [entity, entity]})) == [
        (1, "duplicate-id")
    ]


def test_a_folder_and_compressed_files_are_read_and_nothing_is_a_fault(tmp_path):
    assert faults(tmp_path) == [(None, "empty-file")]
    write(tmp_path, {"id": 1, "text": "x"}, name="b.jsonl")
    whole = gzip.compress(b'{"id": 2, "text": "y"}\n')
    (tmp_path / "a.jsonl.gz").write_bytes(whole)
    assert [d.text for d in DoccanoReader(tmp_path)] == ["y", "x"]
    (tmp_path / "a.jsonl.gz").write_bytes(whole[:-9])
    assert [code for _, code in faults(tmp_path)] == ["damaged-file"]


def test_doccano_gets_numbers_for_ids_and_whole_spans(tmp_path):
    note = Document(
        "n1",
        TEXT,
        (
            Entity.at("T4", "drug", 2, 9, score=0.5),
            Entity("dose", "dosage", (Span(11, 13), Span(14, 16))),
        ),
        (Relation("link", "modifies", "dose", "T4"),),
        metadata={"ward": 3},
    )
    lost = Counter()
    fitted = fit_doccano(note, lost)
    assert json.loads(doccano_line(fitted)) == {
        "document_id": "n1",
        "text": TEXT,
        "entities": [
            {"id": 4, "label": "drug", "start_offset": 2, "end_offset": 9},
            {"id": 0, "label": "dosage", "start_offset": 11, "end_offset": 16},
        ],
        "relations": [{"id": 0, "from_id": 0, "to_id": 4, "type": "modifies"}],
        "metadata": {"ward": 3},
    }
    assert {kind.split(":")[0]: n for kind, n in (+lost).items()} == {
        "fragments of a mention": 1, "score": 1, "id of a mention": 1, "id of a relation": 1,
    }  # fmt: skip
    with pytest.raises(CorpusError, match="in fragments"):
        write_doccano(tmp_path / "d.jsonl", [note])
    with pytest.raises(CorpusError, match="'n1' occurs twice"):
        write_doccano(tmp_path / "d.jsonl", [fitted, fitted])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.corpora
@pytest.mark.skipif(
    not FOLDER, reason="FEDMEDLORA_CORPORA does not name a folder with the real cohorts"
)
def test_every_line_of_the_glaucoma_notes_is_read_repaired_or_reported():
    path = Path(FOLDER, "glaucoma_ohsu", "Combined_annotations.jsonl")
    reader = MappedReader(DoccanoReader(path, skip_bad_notes=True), load_mapping("glaucoma-ohsu"))
    found = list(reader)
    num_lines = sum(1 for line in path.read_bytes().split(b"\n") if line)
    assert len(found) + reader.num_skipped == num_lines == 5_520
    codes = Counter(fault.code for fault in reader.faults)
    assert codes == {"broken-line": 9, "offset": 2}
    assert reader.adjusted["id that was blanked out: numbered by line"] == 1_266
    assert reader.dropped["***: the de-identifier blanked the label"] == 67
    gold = read_jsonl(path.with_name("documents.jsonl.gz"))
    assert sum(len(d.entities) for d in found) == sum(len(d.entities) for d in gold) == 5_265
    # the harmonised file has two more: of notes with a label beyond their end it lost the label
    reported = {fault.line for fault in reader.faults}
    kept = [d for d in gold if int(d.id.removeprefix("line")) + 1 not in reported]
    same = replace(found[0], annotated_labels=None, id="", metadata={})
    assert same == replace(kept[0], id="")
    assert [(d.text, d.entities) for d in found] == [(d.text, d.entities) for d in kept]
