"""A mapping at work: rules in order, conditions, relations, and an account of everything."""

import os
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from fedmedlora.core.document import Document, Entity, Relation, Span
from fedmedlora.core.errors import CorpusError
from fedmedlora.corpora.brat import BratReader
from fedmedlora.corpora.jsonl import JsonlReader, read_jsonl, write_jsonl
from fedmedlora.corpora.mapped import MappedReader
from fedmedlora.corpora.mapping import load_mapping, parse_mapping

FOLDER = os.environ.get("FEDMEDLORA_CORPORA", "")

TEXT = "No severe pain today.\nAspirin 81 mg twice  daily, and a scan of the chest."
AT = {word: TEXT.index(word) for word in TEXT.split()}


def mention(number, label, phrase):
    return Entity.at(f"T{number}", label, start := TEXT.index(phrase), start + len(phrase))


def run(tmp_path, rules, entities, relations=(), metadata=None):
    """The mapped document and its reader."""
    note = Document("n1", TEXT, tuple(entities), tuple(relations), metadata=metadata or {})
    write_jsonl(tmp_path / "n.jsonl", [note])
    mapping = parse_mapping(tomllib.loads(rules), "m.toml")
    reader = MappedReader(JsonlReader(tmp_path / "n.jsonl"), mapping)
    [document] = reader
    return document, reader


PROCEDURES = """
[word_lists]
test = '''\\bscan\\b|\\bx-?ray'''
[[entities]]
from = "Procedure"
word_list = "test"
to = "test"
[[entities]]
from = ["Procedure", "Device"]
to = "treatment"
[[entities]]
from = "Age"
drop = "not wanted"
"""


def test_the_first_rule_that_fits_decides_and_the_rest_is_counted(tmp_path):
    document, reader = run(
        tmp_path,
        PROCEDURES,
        [
            mention(3, "Procedure", "twice"),
            mention(1, "Procedure", "a scan of"),
            mention(4, "Age", "today"),
            mention(5, "Sex", "chest"),
            mention(6, "Sex of a person", "chest"),
            mention(7, "Device", "mg"),
        ],
    )
    assert [(e.id, e.label) for e in document.entities] == [
        ("T3", "treatment"), ("T1", "test"), ("T7", "treatment"),
    ]  # fmt: skip
    assert reader.mapped == {
        "Procedure -> treatment": 1, "Procedure -> test": 1, "Device -> treatment": 1,
    }  # fmt: skip
    assert reader.dropped == {
        "Age: not wanted": 1, "'Sex': no rule": 1,
        "(not shown, as it may be words of a note): no rule": 1,
    }  # fmt: skip
    assert document.annotated_labels == {"test", "treatment"}
    assert sum(reader.mapped.values()) + sum(reader.dropped.values()) == reader.num_entities_read


def test_fragments_become_the_span_that_covers_them_or_are_dropped(tmp_path):
    def fragments(number, first, last):
        return Entity(f"T{number}", "Device", (first, last))

    severe, scan = Span(3, 9), Span(AT["scan"], AT["scan"] + 4)
    document, reader = run(
        tmp_path,
        "max_cover_characters = 11\n" + PROCEDURES,
        [
            fragments(1, severe, Span(12, 14)),
            fragments(2, severe, Span(13, 15)),
            fragments(3, severe, scan),
            Entity.at("T4", "Device", 2, 10),
            Entity.at("T5", "Device", 2, 3),
        ],
    )
    assert [(e.id, e.spans) for e in document.entities] == [
        ("T1", (Span(3, 14),)), ("T4", (severe,)),
    ]  # fmt: skip
    assert reader.dropped == {
        "Device: in fragments over more than 11 characters": 2,
        "Device: only white space": 1,
    }
    assert sum(reader.adjusted.values()) == 2


LINKED = """
[[entities]]
from = "Duration"
modifies = { type = "Rx", relation = "MODIFY" }
to = "duration"
[[entities]]
from = ["Duration", "Date"]
to = "temporal"
[[entities]]
from = "Rx"
modified_by = { type = "Date" }
to = "treatment"
[[entities]]
from = "Rx"
to = "drug"
[[entities]]
from = "Sign"
to = "problem"
[[entities]]
from = "Grade"
to = "severity"
[[relations]]
from = ["MODIFY", "Theme"]
modifier = "Arg1"
to = "modifies"
[[relations]]
from = "HAS"
modifier = "Arg2"
to = "modifies"
[[relations]]
group = "OVERLAP"
modifier_type = ["Date", "Duration"]
same_line = true
to = "modifies"
[[relations]]
from = "BEFORE"
drop = "an order in time"
"""


def test_a_rule_may_ask_what_a_mention_modifies_or_is_modified_by(tmp_path):
    entities = [
        mention(1, "Duration", "today"),
        mention(2, "Duration", "twice"),
        mention(3, "Rx", "Aspirin"),
        mention(4, "Rx", "scan"),
        mention(5, "Date", "daily"),
        mention(6, "Duration", "81"),
    ]
    links = [
        Relation("R1", "MODIFY", "T1", "T3"),
        Relation("R2", "HAS", "T2", "T3"),  # T3 is the modifier of T2, not T2 of T3
        Relation("R3", "HAS", "T4", "T5"),
        Relation("R4", "BEFORE", "T6", "T3"),
    ]
    document, _ = run(tmp_path, LINKED, entities, links)
    assert [e.label for e in document.entities] == [
        "duration", "temporal", "drug", "treatment", "temporal", "temporal",
    ]  # fmt: skip


def test_relations_run_from_modifier_to_entity_and_each_that_is_lost_is_counted(tmp_path):
    entities = [
        mention(1, "Grade", "severe"),
        mention(2, "Sign", "pain"),
        mention(10, "Date", "today"),
        mention(4, "Rx", "Aspirin"),
        mention(5, "Sex", "No"),
    ]
    links = [
        Relation("a", "HAS", "T2", "T1"),
        Relation("b", "MODIFY", "T1", "T2"),
        Relation("c", "MODIFY", "T10", "T2"),
        Relation("d", "MODIFY", "T1", "T4"),
        Relation("e", "BEFORE", "T2", "T4"),
        Relation("f", "MODIFY", "T5", "T4"),
        Relation("g", "SEES", "T2", "T4"),
    ]
    document, reader = run(tmp_path, LINKED, entities, links)
    assert document.relations == (
        Relation("R1", "modifies", "T1", "T2"),
        Relation("R2", "modifies", "T10", "T2"),
    )
    assert {kind: n for kind, n in reader.dropped.items() if kind.startswith("relation")} == {
        "relation MODIFY: the same two mentions are related already": 1,
        "relation MODIFY: severity does not modify drug": 1,
        "relation BEFORE: an order in time": 1,
        "relation MODIFY: one of its mentions was dropped": 1,
        "relation 'SEES': no rule": 1,
    }
    assert reader.num_relations_read == len(links)


def test_an_event_role_is_a_relation_from_the_trigger(tmp_path):
    roles = [{"label": "Theme", "head": "T1", "tail": "T2"}]
    entities = [mention(1, "Grade", "severe"), mention(2, "Sign", "pain")]
    document, reader = run(tmp_path, LINKED, entities, metadata={"roles": roles, "ward": "3"})
    assert [(r.head, r.tail) for r in document.relations] == [("T1", "T2")]
    assert document.metadata == {"ward": "3"}
    assert reader.mapped["relation Theme -> modifies"] == 1


def test_a_group_relates_its_members_on_one_line_only(tmp_path):
    entities = [
        mention(1, "Date", "today"),
        mention(2, "Sign", "pain"),
        mention(3, "Rx", "Aspirin"),
        mention(4, "Grade", "severe"),
    ]
    groups = [
        {"label": "OVERLAP", "members": ["T1", "T2", "T3", "T4"]},
        {"label": "OVERLAP", "members": ["T2", "T3"]},
        {"label": "NEAR", "members": ["T1", "T3"]},
    ]
    document, reader = run(tmp_path, LINKED, entities, metadata={"groups": groups})
    assert [(r.head, r.tail) for r in document.relations] == [("T1", "T2")]
    assert reader.dropped == {"group 'NEAR': no rule": 1}


def test_attributes_decide_and_are_kept_only_by_a_rule(tmp_path):
    rules = """
    [[entities]]
    from = "Sign"
    attribute = { name = "Assertion", value = "other" }
    drop = "not the patient's"
    [[entities]]
    from = "Sign"
    attribute = { name = "Family" }
    to = "test"
    [[entities]]
    from = "Sign"
    to = "problem"
    [[attributes]]
    from = "Assertion"
    value = "absent"
    to = "negation"
    [[attributes]]
    from = "Family"
    drop = "not wanted"
    """
    entities = [mention(n, "Sign", "pain") for n in (1, 2, 3)]
    attributes = [
        {"target": "T1", "name": "Assertion", "value": "other"},
        {"target": "T2", "name": "Family", "value": True},
        {"target": "T3", "name": "Assertion", "value": "absent"},
        {"target": "T3", "name": "Sure", "value": True},
    ]
    document, reader = run(tmp_path, rules, entities, metadata={"attributes": attributes})
    assert [(e.id, e.label) for e in document.entities] == [("T2", "test"), ("T3", "problem")]
    assert document.metadata == {
        "attributes": [{"target": "T3", "name": "negation", "value": "absent"}]
    }
    assert reader.dropped == {
        "Sign: not the patient's": 1,
        "attribute 'Assertion': no rule": 1,
        "attribute Family: not wanted": 1,
        "attribute 'Sure': no rule": 1,
    }


def test_bad_notes_are_refused_or_left_out_as_without_a_mapping(tmp_path):
    path = tmp_path / "n.jsonl"
    write_jsonl(path, [Document("n1", TEXT, (mention(1, "Device", "scan"),))])
    path.write_bytes(b"{\n" + path.read_bytes())
    mapping = parse_mapping(tomllib.loads(PROCEDURES), "m.toml")
    with pytest.raises(CorpusError, match=r"n\.jsonl:1: not JSON"):
        list(MappedReader(JsonlReader(path), mapping))
    reader = MappedReader(JsonlReader(path, skip_bad_notes=True), mapping)
    assert [len(list(reader)) for _ in range(2)] == [1, 1]
    assert (reader.num_read, reader.num_skipped, reader.num_entities_read) == (1, 1, 1)
    assert reader.mapped == {"Device -> treatment": 1}


N2C2 = (
    "T1\tDrug 0 10\tLisinopril\nT2\tStrength 11 16\t20 mg\nT3\tFrequency 17 21;22 27\tonce a day\n"
    "T4\tReason 32 44\thypertension\nR1\tStrength-Drug Arg1:T2 Arg2:T1\n"
    "R2\tFrequency-Drug Arg1:T3 Arg2:T1\nR3\tReason-Drug Arg1:T4 Arg2:T1\n"
)
KIWI = (
    "T1\tproblem 0 23\tsevere right ankle\npain\nT2\tseverity 0 6\tsevere\n"
    "R1\thasAttr Arg1:T1 Arg2:T2\n"
)


@pytest.mark.parametrize(
    ("name", "text", "annotations", "entities", "relations"),
    [
        (
            "n2c2-2018",
            "Lisinopril 20 mg once\na day for hypertension",
            N2C2,
            [("drug", 0, 10), ("strength", 11, 16), ("frequency", 17, 27), ("problem", 32, 44)],
            [("T2", "T1"), ("T3", "T1")],
        ),
        (
            "kiwi",
            "severe right ankle\npain",
            KIWI,
            [("problem", 0, 23), ("severity", 0, 6)],
            [("T2", "T1")],
        ),
    ],
)
def test_shipped_mappings_of_corpora_that_may_not_be_passed_on(
    tmp_path, name, text, annotations, entities, relations
):
    (tmp_path / "1.txt").write_text(text)
    (tmp_path / "1.ann").write_text(annotations)
    [document] = MappedReader(BratReader(tmp_path), load_mapping(name))
    assert [(e.label, e.start, e.end) for e in document.entities] == entities
    assert [(r.head, r.tail) for r in document.relations] == relations


@pytest.mark.corpora
@pytest.mark.skipif(
    not FOLDER, reason="FEDMEDLORA_CORPORA does not name a folder with the real cohorts"
)
@pytest.mark.parametrize(
    ("name", "native", "counts"),
    [
        ("maccrobat", "MACCROBAT2020", (160, 15_426, 5_850)),
        ("chia", "chia_without_scope", (1_622, 25_666, 6_126)),
    ],
)
def test_a_cohort_is_reproduced_from_its_native_files(name, native, counts):
    mapping = load_mapping(name)
    inner = BratReader(
        Path(FOLDER, name, native), text_may_stop_at_line_end=mapping.text_may_stop_at_line_end
    )
    reader = MappedReader(inner, mapping)
    found = [replace(document, annotated_labels=None) for document in reader]
    assert found == read_jsonl(Path(FOLDER, name, "documents.jsonl.gz"))
    assert counts == (
        len(found),
        sum(len(d.entities) for d in found),
        sum(len(d.relations) for d in found),
    )
    mapped = sum(n for kind, n in reader.mapped.items() if kind.split(" ")[0] not in KINDS)
    dropped = sum(n for kind, n in reader.dropped.items() if ": " in kind and is_mention(kind))
    assert mapped + dropped == reader.num_entities_read


KINDS = ("relation", "group", "attribute")


def is_mention(kind):
    return kind.split(" ")[0] not in KINDS
