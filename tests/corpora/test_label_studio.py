"""Label Studio's tasks: offsets in UTF-16, faults with their line, what is written."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmedlora.core.document import Document, Entity, Relation, Span
from fedmedlora.core.errors import CorpusError
from fedmedlora.corpora.label_studio import (
    LabelStudioReader,
    Utf16Offsets,
    fit_label_studio,
    labeling_config,
    task_bytes,
    write_label_studio,
)
from fedmedlora.corpora.reader import BadNote

TEXT = "\U0001f600 aspirin\r\n\U0001f48a 81 mg"


def region(identity, label, start, end, text=None, **more):
    value = {"start": start, "end": end, "labels": [label]} | ({"text": text} if text else {})
    return {"id": identity, "type": "labels", "value": value} | more


def task(*result, kind="annotations", **more):
    return {"id": 3, "data": {"text": TEXT}, kind: [{"result": list(result)}]} | more


def write(tmp_path, value):
    path = tmp_path / "tasks.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value, indent=1))
    return path


def faults(path):
    notes = [note for note in LabelStudioReader(path).notes() if isinstance(note, BadNote)]
    return [(fault.line, fault.code) for note in notes for fault in note.faults]


@given(st.text(st.sampled_from("a\r\u00e9\u4e2d\U0001f600\U0010ffff"), max_size=12))
def test_offsets_count_as_in_utf_16(text):
    offsets = Utf16Offsets(text)
    for point in range(len(text) + 1):
        unit = len(text[:point].encode("utf-16-le")) // 2
        assert offsets.to_units[point] == unit
        assert offsets.to_point(unit) == point
    inside = set(range(offsets.to_units[-1])) - set(offsets.to_units)
    for unit in (*inside, -1, offsets.to_units[-1] + 1, "0", None, True):
        assert offsets.to_point(unit) is None


def test_regions_and_relations_are_read_with_offsets_in_code_points(tmp_path):
    result = [
        region("x1", "drug", 3, 10, "aspirin"),
        region("x2", "dosage", 15, 20, "81 mg", score=0.5),
        {"type": "relation", "from_id": "x2", "to_id": "x1", "direction": "right", "labels": ["m"]},
        {"type": "relation", "from_id": "x1", "to_id": "x2", "direction": "left"},
        {"type": "choices", "value": {"choices": ["a"]}},
    ]
    reader = LabelStudioReader(write(tmp_path, [task(*result, meta={"ward": 3})]))
    assert list(reader) == [
        Document(
            "3",
            TEXT,
            (Entity.at("x1", "drug", 2, 9), Entity.at("x2", "dosage", 13, 18, score=0.5)),
            (Relation("R1", "m", "x2", "x1"), Relation("R2", "relation", "x2", "x1")),
            metadata={"ward": 3},
        )
    ]
    assert reader.dropped == {"result of type 'choices'": 1}


def test_annotations_come_before_predictions_and_others_are_counted(tmp_path):
    both = task(region("a", "drug", 3, 10), kind="predictions")
    cancelled = {"was_cancelled": True, "result": [region("b", "cancelled", 3, 10)]}
    both["annotations"] = [cancelled, {"result": [region("c", "right", 3, 10)]}, {"result": []}]
    reader = LabelStudioReader(write(tmp_path, [both]))
    assert [e.label for d in reader for e in d.entities] == ["right"]
    assert reader.dropped == {
        "annotation that was cancelled": 1, "further annotation or prediction of a task": 2,
    }  # fmt: skip
    [document] = LabelStudioReader(write(tmp_path, [task(both["predictions"][0]["result"][0])]))
    assert [e.label for e in document.entities] == ["drug"]


def test_a_region_with_two_labels_is_two_mentions(tmp_path):
    item = region("a", "drug", 3, 10)
    item["value"]["labels"].append("treatment")
    [document] = LabelStudioReader(write(tmp_path, [task(item)]))
    assert [(e.id, e.label) for e in document.entities] == [("a", "drug"), ("a-2", "treatment")]


def test_a_line_end_in_the_text_of_a_region_may_be_written_as_an_escape(tmp_path):
    path = write(tmp_path, [task(region("a", "x", 3, 20, "aspirin\\r\\n\U0001f48a 81 mg"))])
    assert [e.cover for d in LabelStudioReader(path) for e in d.entities] == [Span(2, 18)]


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (3, "wrong-type"),
        ({"data": {}}, "wrong-type"),
        (task(region("a", "x", 1, 10)), "offset"),  # between the halves of a character
        (task(region("a", "x", 3, 99)), "offset"),
        (task(region("a", "x", "/p/text()", 1)), "offset"),
        (task(region("a", "x", 10, 3)), "offset"),
        (task(region("a", "x", 2, 9, "aspirin")), "text-mismatch"),
        (task(region("a", "", 3, 10)), "wrong-type"),
        (task({"type": "labels", "id": "a"}), "wrong-type"),
        (task(3), "wrong-type"),
        (task(annotations=3), "wrong-type"),
        (task(annotations=[{}]), "wrong-type"),
        (task(meta=3), "wrong-type"),
        (task(region("a", "x", 3, 10), region("a", "y", 3, 10)), "duplicate-id"),
        ({"id": 1, "data": {"text": "first"}}, "duplicate-id"),
        ({"data": {"text": "a\0"}}, "nul"),
        ({"data": {"text": "\ud83d"}}, "encoding"),
    ],
)
def test_a_bad_task_is_a_fault_of_the_line_where_it_begins(tmp_path, bad, code):
    good = {"id": 1, "data": {"text": "one"}}
    path = write(tmp_path, f"[\n{json.dumps(good)},\n\n {json.dumps(bad)}]\n")
    assert faults(path) == [(4, code)]
    assert [d.id for d in LabelStudioReader(path, skip_bad_notes=True)] == ["1"]


def test_a_relation_to_nothing_is_a_fault(tmp_path):
    link = {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"}
    path = write(tmp_path, [task(region("a", "x", 3, 10), link)])
    assert [code for _, code in faults(path)] == ["dangling-relation"]


GOOD = '{"id": 1, "data": {"text": "one"}}'


@pytest.mark.parametrize(
    ("content", "line", "num_good"),
    [
        (f"[{GOOD},\n{{", 2, 1),
        (f"[{GOOD}\n", 2, 1),
        (f"[{GOOD}] x", 1, 1),
        (f"[{GOOD} {GOOD}]", 1, 1),
        (f"[\n\nNaN, {GOOD}]", 3, 0),
        (f"{GOOD}\n{GOOD}", 2, 1),
        ("[" * 200_000, 1, 0),
    ],
)
def test_a_file_that_is_cut_off_or_no_json_is_a_fault_where_it_breaks(
    tmp_path, content, line, num_good
):
    path = write(tmp_path, content)
    assert faults(path) == [(line, "broken-line")]
    assert len(list(LabelStudioReader(path, skip_bad_notes=True))) == num_good


@pytest.mark.parametrize("content", ["[]", "", "[\n]\n"])
def test_a_file_without_tasks_is_a_fault(tmp_path, content):
    assert [code for _, code in faults(write(tmp_path, content))] == ["empty-file"]


def test_gold_is_written_as_an_annotation_and_scored_mentions_as_a_prediction():
    gold = Document("n1", TEXT, (Entity.at("T1", "drug", 2, 9),), metadata={"ward": 3})
    told = json.loads(task_bytes(gold))
    assert told["data"] == {"text": TEXT, "document_id": "n1"}
    assert told["meta"] == {"ward": 3}
    assert told["annotations"][0]["result"] == [
        {
            "id": "T1", "from_name": "label", "to_name": "text", "type": "labels",
            "value": {"start": 3, "end": 10, "text": "aspirin", "labels": ["drug"]},
        }
    ]  # fmt: skip
    scored = Document("n1", TEXT, (Entity.at("T1", "drug", 2, 9, score=0.25),))
    told = json.loads(task_bytes(scored))
    assert "annotations" not in told
    assert told["predictions"][0]["result"][0]["score"] == 0.25


def test_fragments_are_written_as_the_span_that_covers_them_and_counted(tmp_path):
    note = Document("n1", TEXT, (Entity("T1", "x", (Span(0, 1), Span(2, 9))),))
    lost = Counter()
    assert fit_label_studio(note, lost).entities[0].spans == (Span(0, 9),)
    assert sum(lost.values()) == 1
    with pytest.raises(CorpusError, match="in fragments"):
        write_label_studio(tmp_path / "t.json", [note])
    with pytest.raises(CorpusError, match="occurs twice"):
        write_label_studio(tmp_path / "t.json", [Document("n1", "a"), Document("n1", "b")])
    assert list(tmp_path.iterdir()) == []


def test_the_interface_names_all_labels_safely():
    xml = labeling_config(["drug", 'a"<b'], ["modifies"])
    assert '<Label value="drug"/>' in xml
    assert 'a"&lt;b' in xml
    assert '<Relation value="modifies"/>' in xml
