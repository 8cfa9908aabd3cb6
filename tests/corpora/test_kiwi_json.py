"""Kiwi's JSON with indexes: what is read, its known quirks, and faults."""

import json

import pytest

from fedmedlora.core.errors import CorpusError
from fedmedlora.corpora.kiwi_json import KiwiJsonReader
from fedmedlora.corpora.mapped import MappedReader
from fedmedlora.corpora.mapping import load_mapping
from fedmedlora.corpora.reader import BadNote

CONTENT = "No chest pain. Takes aspirin."
INDEXES = {
    "0": {
        "Sentence": [{"begin": 0, "end": 14}],
        "Token": [{"begin": 0, "end": 2}],
        "Entity": [{"begin": 0, "end": 2, "semantic": "negation"}],
    },
    "3": {
        "Token": [{"begin": 3, "end": 8}],
        "Entity": [{"begin": 3, "end": 13, "semantic": "Problem"}],
    },
    "21": {
        "Token": [{"begin": 21, "end": 28}],
        "Entity": [{"begin": 21, "end": 28, "semantic": "DRUG"}],
    },
}


def write(folder, indexes, name="n1.json", **more):
    data = {"content": CONTENT, "indexes": indexes} | more
    (folder / name).write_text(json.dumps(data, indent=1))
    return folder


def faults(folder):
    notes = [note for note in KiwiJsonReader(folder).notes() if isinstance(note, BadNote)]
    return [(fault.line, fault.code) for note in notes for fault in note.faults]


def test_entities_are_read_in_document_order_with_labels_in_lower_case(tmp_path):
    reader = KiwiJsonReader(write(tmp_path, INDEXES))
    [document] = reader
    assert (document.id, document.text) == ("n1", CONTENT)
    assert [(e.id, e.label, document.entity_text(e)) for e in document.entities] == [
        ("T1", "negation", "No"), ("T2", "problem", "chest pain"), ("T3", "drug", "aspirin"),
    ]  # fmt: skip
    assert reader.adjusted == {}
    assert reader.dropped == {"Sentence": 1, "Token": 3}
    assert next(iter(MappedReader(reader, load_mapping("kiwi")))).entities == document.entities


def test_entities_that_the_papers_reader_loses_are_kept_and_counted(tmp_path):
    indexes = INDEXES | {
        "9": {"Entity": [{"begin": 9, "end": 13, "semantic": "problem"}]},
        "3": INDEXES["3"]
        | {
            "Entity": [
                {"begin": 3, "end": 13, "semantic": "problem"},
                {"begin": 3, "end": 8, "semantic": "bodyloc"},
            ]
        },
        "15": {"Entity": [{"begin": 21, "end": 28, "semantic": "treatment"}]},
    }
    reader = KiwiJsonReader(write(tmp_path, indexes))
    [document] = reader
    assert len(document.entities) == 6
    assert sorted((kind.split(":")[0], n) for kind, n in reader.adjusted.items()) == [
        ("entity that begins where another does", 2),
        ("entity that does not begin at a token", 1),
        ("entity that stands at the index of another offset", 1),
    ]


def test_what_has_no_known_form_is_counted(tmp_path):
    indexes = {"0": {"Relation": [{"a": 1}, {"b": 2}]}}
    reader = KiwiJsonReader(write(tmp_path, indexes, name="a.json", version=3))
    assert [d.entities for d in reader] == [()]
    assert reader.dropped == {"Relation": 2, "'version' of a note": 1}


@pytest.mark.parametrize(
    ("entity", "code"),
    [
        ({"begin": 3, "end": 99, "semantic": "x"}, "offset"),
        ({"begin": 13, "end": 3, "semantic": "x"}, "offset"),
        ({"begin": "3", "end": 8, "semantic": "x"}, "wrong-type"),
        ({"begin": 3, "end": 8}, "wrong-type"),
        (3, "wrong-type"),
    ],
)
def test_a_bad_entity_is_a_fault_of_the_line_of_its_index(tmp_path, entity, code):
    write(tmp_path, {"0": {"Token": []}, "3": {"Entity": [entity]}})
    lines = (tmp_path / "n1.json").read_text().split("\n")
    assert faults(tmp_path) == [(lines.index('  "3": {') + 1, code)]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{\n"content": ', (2, "broken-line")),
        (b'{"content": NaN}', (1, "broken-line")),
        (b"[]", (1, "wrong-type")),
        (b'{"content": "a"}', (1, "wrong-type")),
        (b'{"content": "a", "indexes": {"0": []}}', (1, "wrong-type")),
        (b'{"content": "a", "indexes": {"0": {"Entity": 3}}}', (1, "wrong-type")),
        (b'{"content": "a\\u0000", "indexes": {}}', (1, "nul")),
        (b'{"content": "\\ud83d", "indexes": {}}', (1, "encoding")),
        (b"\xff", (1, "encoding")),
    ],
)
def test_a_bad_file_is_a_fault_and_left_out_when_asked(tmp_path, raw, expected):
    write(tmp_path, INDEXES, name="good.json")
    (tmp_path / "bad.json").write_bytes(raw)
    assert faults(tmp_path) == [expected]
    assert [d.id for d in KiwiJsonReader(tmp_path, skip_bad_notes=True)] == ["good"]
    with pytest.raises(CorpusError, match=r"bad\.json"):
        list(KiwiJsonReader(tmp_path))


def test_one_file_and_an_empty_folder(tmp_path):
    assert faults(tmp_path) == [(None, "empty-file")]
    write(tmp_path, INDEXES)
    assert [d.id for d in KiwiJsonReader(tmp_path / "n1.json")] == ["n1"]
