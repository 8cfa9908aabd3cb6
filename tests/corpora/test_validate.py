"""Validation: every fault of a corpus, with its place, and never a word of a note."""

import json
from dataclasses import replace

import pytest

from fedmedlora.core.document import Document, Entity, Relation
from fedmedlora.core.errors import FedMedLoRAError
from fedmedlora.core.schema import default_schema
from fedmedlora.corpora.brat_writer import write_brat
from fedmedlora.corpora.card import CorpusCard, write_card
from fedmedlora.corpora.jsonl import write_jsonl
from fedmedlora.corpora.open_corpus import load_corpus
from fedmedlora.corpora.validate import validate

CANARY = "Zebulon Fishwick was admitted"
NOTES = [
    Document(
        "n1",
        "aspirin daily",
        (Entity.at("T1", "drug", 0, 7), Entity.at("T2", "frequency", 8, 13)),
        (Relation("R1", "modifies", "T2", "T1"),),
    ),
    Document("n2", ""),
]


def told(validation):
    return [(f.file.name, f.line, f.code) for f in validation.faults]


@pytest.mark.parametrize("kind", ["jsonl", "brat"])
def test_a_sound_corpus_has_no_fault(tmp_path, kind):
    if kind == "jsonl":
        write_jsonl(tmp_path / "c" / "d.jsonl", NOTES)
    else:
        write_brat(tmp_path / "c", NOTES)
    documents = "d.jsonl" if kind == "jsonl" else "."
    labels = ("drug", "frequency")
    write_card(tmp_path / "c", CorpusCard("north", documents, labels, num_documents=2))
    validation = validate(tmp_path / "c", default_schema())
    assert (validation.num_documents, validation.num_bad_notes, told(validation)) == (2, 0, [])


def test_labels_outside_the_schema_are_faults_unless_any_label_is_taken(tmp_path):
    note = Document("n2", "aspirin", (Entity.at("T1", "Medication", 0, 7),))
    write_jsonl(tmp_path / "d.jsonl", [NOTES[0], note])
    write_brat(tmp_path / "brat", [NOTES[0], note])
    schema = default_schema()
    assert told(validate(tmp_path / "d.jsonl", schema)) == [("d.jsonl", 2, "unknown-label")]
    assert told(validate(tmp_path / "brat", schema)) == [("n2.ann", 1, "unknown-label")]
    [fault] = validate(tmp_path / "brat", schema).faults
    assert fault.reason == "T1: the label 'Medication' is not in the schema clinical-ie-v1."
    assert validate(tmp_path / "brat", None).faults == ()


def test_what_contradicts_the_card_is_a_fault(tmp_path):
    write_jsonl(tmp_path / "d.jsonl", NOTES)
    card = CorpusCard("north", "d.jsonl", ("drug",), num_documents=2, num_entities=9)
    write_card(tmp_path, card)
    unlisted, counted = validate(tmp_path, default_schema()).faults
    assert str(unlisted) == (
        f"{tmp_path / 'corpus.toml'}:3: annotated_labels does not list 'frequency', but 1 mention "
        "has it, the first in note 'n1'. List it, or take out what was not annotated on purpose."
    )
    assert counted.line == 6
    write_card(tmp_path, CorpusCard("north", "d.jsonl", ("drug", "frequency"), num_entities=9))
    [fault] = validate(tmp_path / "corpus.toml", default_schema()).faults
    assert (fault.file, fault.code) == (tmp_path / "corpus.toml", "card")
    assert fault.reason == "num_entities is 9, but d.jsonl holds 2."


def test_faults_of_the_card_itself_are_listed(tmp_path):
    (tmp_path / "corpus.toml").write_text('name = "x"\n')
    validation = validate(tmp_path, None)
    assert [str(fault) for fault in validation.faults] == [
        f'{tmp_path / "corpus.toml"}: documents is missing. Write documents = "documents.jsonl", '
        'or "." for BRAT files beside the card.',
        f"{tmp_path / 'corpus.toml'}: annotated_labels is missing. Write annotated_labels = "
        '["problem", "treatment", "test", "drug"], without those that the annotators did not look '
        "for.",
    ]
    assert {fault.code for fault in validation.faults} == {"card"}


def card_of(folder, labels, relations=("modifies",), role="train"):
    write_jsonl(folder / "d.jsonl", [replace(NOTES[0], id=f"n{i}") for i in range(3)])
    write_card(folder, CorpusCard("north", "d.jsonl", labels, relations, role=role))


@pytest.mark.parametrize("wrong", ["drugs", "Drug", "durg"])
def test_a_misspelt_label_in_the_card_is_one_fault_of_its_line_and_of_no_mention(tmp_path, wrong):
    card_of(tmp_path, (wrong, "frequency"))

    [fault] = validate(tmp_path, default_schema()).faults

    assert str(fault) == (
        f"{tmp_path / 'corpus.toml'}:4: annotated_labels names '{wrong}', which is not in the "
        "schema clinical-ie-v1. Did you mean 'drug'?"
    )
    assert validate(tmp_path, default_schema()).num_documents == 3


def test_a_label_that_nothing_is_near_to_is_told_with_those_that_there_are(tmp_path):
    card_of(tmp_path, ("drug", "frequency", "Medication"))

    [fault] = validate(tmp_path, default_schema()).faults

    assert "annotated_labels names 'Medication', which is not in the schema" in fault.reason
    assert "Expected some of bodyloc, condition, " in fault.reason
    assert validate(tmp_path, None).faults == ()


def test_native_labels_that_card_and_notes_share_are_told_once_each(tmp_path):
    note = Document("n1", "aspirin", (Entity.at("T1", "Medication", 0, 7),))
    write_jsonl(tmp_path / "d.jsonl", [note, replace(note, id="n2")])
    write_card(tmp_path, CorpusCard("north", "d.jsonl", ("Medication",)))

    assert told(validate(tmp_path, default_schema())) == [("corpus.toml", 3, "card")]


def test_a_misspelt_relation_or_role_in_the_card_is_one_fault_of_its_line(tmp_path):
    card_of(tmp_path, ("drug", "frequency"), ("modifes",), role="extern")

    relation, role = validate(tmp_path, default_schema()).faults

    assert relation.reason == (
        "annotated_relations names 'modifes', which no relation here is called. Did you mean "
        "'modifies'?"
    )
    assert (relation.line, role.line) == (5, 3)
    assert "Did you mean 'external'?" in role.reason


@pytest.mark.parametrize("role", ["assertions", "internal", "training", "site", "test"])
def test_a_role_of_ones_own_is_no_fault_of_a_card(tmp_path, role):
    card_of(tmp_path, ("drug", "frequency"), role=role)

    assert validate(tmp_path, default_schema()).faults == ()


def test_a_second_note_of_one_id_is_told_behind_a_first_one_with_faults(tmp_path):
    def entity(identity, end=7):
        return {"id": identity, "label": "drug", "start": 0, "end": end, "text": "aspirin"[:end]}

    def note(*entities, **more):
        return json.dumps({"id": "n1", "text": "aspirin", "entities": entities} | more)

    lines = [note(entity("T1", 9)), note(entity("T1")), note(entity("T1", 9), entity("T1"))]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))

    assert told(validate(tmp_path / "d.jsonl", None)) == [
        ("d.jsonl", 1, "offset"),
        ("d.jsonl", 2, "duplicate-id"),
        ("d.jsonl", 3, "offset"),
        ("d.jsonl", 3, "duplicate-id"),
        ("d.jsonl", 3, "duplicate-id"),
    ]
    first = validate(tmp_path / "d.jsonl", None).faults[1].reason
    assert first == "document id 'n1' occurs twice, first in line 1; expected unique ids."


def test_an_entity_without_a_readable_id_is_told_by_its_place_in_the_note(tmp_path):
    entities = [{"label": "drug", "start": 0, "end": 7, "text": "aspirin"}]
    entities.append(entities[0] | {"id": "two words", "end": 9})
    line = json.dumps({"id": "n1", "text": "aspirin", "entities": entities})
    (tmp_path / "d.jsonl").write_text(line)

    reasons = [fault.reason for fault in validate(tmp_path / "d.jsonl", None).faults]

    assert reasons == [
        "entity number 1 has no 'id'; expected a string.",
        "entity number 2: offsets 0 to 9 do not lie in the text of 7 characters.",
    ]


def jsonl_entity(**changes):
    entity = {"id": "T1", "label": "drug", "start": 0, "end": 7, "text": CANARY[:7]}
    return {"id": "n1", "text": CANARY, "entities": [entity | changes]}


BAD_JSONL = [
    json.dumps({"id": "n1", "text": CANARY})[:-3].encode(),
    json.dumps({"id": "n1", "text": CANARY}).replace('"n1"', "n1").encode(),
    json.dumps({"id": "n1", "text": CANARY + "\\q"}).replace("\\\\q", "\\q").encode(),
    b"\xef\xbb\xbf" + json.dumps({"id": "n1", "text": CANARY}).encode(),
    json.dumps({"id": "n1", "text": CANARY}).encode("utf-16"),
    json.dumps({"id": "n1", "text": CANARY}).encode() + b"\xff",
    CANARY.encode(),
    f'"{CANARY}"'.encode(),
    json.dumps({"id": "n1", "text": CANARY + "\0"}).encode(),
    json.dumps({"id": "n1", "text": CANARY + "\ud83d"}).encode(),
    json.dumps({"id": "n1", "text": [CANARY]}).encode(),
    json.dumps({"id": "n1", CANARY: CANARY}).encode(),
    json.dumps({"id": "n1", "text": CANARY, CANARY: 1}).encode(),
    json.dumps(jsonl_entity(text=CANARY[1:8])).encode(),
    json.dumps(jsonl_entity(end=999)).encode(),
    json.dumps(jsonl_entity(label=CANARY)).encode(),
    json.dumps(jsonl_entity(id=CANARY, end=999)).encode(),
    json.dumps(jsonl_entity(start=CANARY)).encode(),
    json.dumps(jsonl_entity(fragments=CANARY)).encode(),
    json.dumps(jsonl_entity(score=CANARY)).encode(),
    json.dumps({"id": "n1", "text": CANARY, "relations": [{"id": CANARY}]}).encode(),
    json.dumps(
        {
            "id": "n1",
            "text": "",
            "relations": [dict.fromkeys(("id", "label", "head", "tail"), CANARY)],
        }
    ).encode(),
    b"\n".join([json.dumps({"id": CANARY, "text": CANARY}).encode()] * 2),
    json.dumps({"id": "n1", "text": CANARY * 400_000})[:-1].encode(),
]
BAD_ANN = [
    f"T1 drug 0 7\t{CANARY}",
    f"T1\tdrug 0 7\t{CANARY}",
    f"T1\tdrug 0 999\t{CANARY}",
    f"T1\t{CANARY}",
    f"T1\t{CANARY}\t0 7",
    f"T1\tdrug 0 7\tZebulon\n{CANARY}",
    CANARY,
    f"R1\tm Arg1:{CANARY} Arg2:T1",
    "R1\tm Arg1:Zebulon Arg2:Fishwick",
    "E1\tSign:Zebulon",
    f"E1\t{CANARY}",
    "A1\tZebulon",
    f'#1\tFedMedLoRA T1\t{{"id": "{CANARY}',
    f"T1\tdrug 0 7\tZebulon\nT1\tdrug 0 7\t{CANARY[:7]}",
    "T1\tdrug 0 7\tZebulon\0",
]


@pytest.mark.parametrize("raw", BAD_JSONL, ids=range(len(BAD_JSONL)))
def test_no_error_about_json_lines_holds_note_text(tmp_path, raw, capfd):
    (tmp_path / "d.jsonl").write_bytes(raw)
    no_word_of_the_note(tmp_path / "d.jsonl", capfd)


@pytest.mark.parametrize("annotations", BAD_ANN, ids=range(len(BAD_ANN)))
def test_no_error_about_brat_files_holds_note_text(tmp_path, annotations, capfd):
    (tmp_path / "n1.txt").write_text(CANARY)
    (tmp_path / "n1.ann").write_bytes(annotations.encode())
    no_word_of_the_note(tmp_path, capfd)


def test_no_error_about_the_encoding_of_a_note_holds_its_text(tmp_path, capfd):
    (tmp_path / "n1.txt").write_bytes(CANARY.encode() + b"\xff")
    (tmp_path / "n1.ann").write_bytes(b"")
    no_word_of_the_note(tmp_path, capfd)


def no_word_of_the_note(path, capfd):
    validation = validate(path, default_schema())
    assert validation.faults
    told = "".join(map(str, validation.faults))
    try:
        load_corpus(path)
    except FedMedLoRAError as caught:
        error = caught
        while error is not None:
            told += str(error) + repr(error.args)
            error = error.__cause__
    else:  # reading takes labels that validation refuses
        assert {fault.code for fault in validation.faults} == {"unknown-label"}
    told += "".join(capfd.readouterr())
    assert "Zebulon" not in told
    assert "Fishwick" not in told
