"""i2b2 2010: places by line and token, quotes in the text, assertions, faults in three files."""

import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.corpora.i2b2 import I2b2Reader
from fedmedlora.corpora.mapped import MappedReader
from fedmedlora.corpora.mapping import load_mapping
from fedmedlora.corpora.reader import BadNote

TEXT = (
    "Date :\nMs. Doe denied chest pain on aspirin 81 mg daily .\n"
    "An EKG \U0001f600 showed possible ischemia .\n"
)
CONCEPTS = [
    'c="chest pain" 2:3 2:4||t="problem"',
    'c="aspirin" 2:6 2:6||t="treatment"',
    'c="an ekg" 3:0 3:1||t="test"',
    'c="possible ischemia" 3:4 3:5||t="problem"',
]
ASSERTIONS = [
    'c="chest pain" 2:3 2:4||t="problem"||a="absent"',
    'c="possible ischemia" 3:4 3:5||t="problem"||a="present"',
]
RELATIONS = ['c="aspirin" 2:6 2:6||r="TrAP"||c="chest pain" 2:3 2:4']


def write(
    folder, text=TEXT, con=CONCEPTS, ast=ASSERTIONS, rel=RELATIONS, name="record-1", flat=False
):
    parts = {"txt": text, "concept": con, "ast": ast, "rel": rel}
    for kind, content in parts.items():
        if content is None:
            continue
        suffix = "con" if kind == "concept" else kind
        path = folder / ("" if flat else kind) / f"{name}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = content if isinstance(content, str) else "".join(f"{line}\n" for line in content)
        path.write_bytes(raw.encode())
    return folder


def faults(folder):
    notes = [note for note in I2b2Reader(folder).notes() if isinstance(note, BadNote)]
    return [(f.file.name, f.line, f.code) for note in notes for f in note.faults]


def test_a_record_is_read_from_its_four_files(tmp_path):
    reader = I2b2Reader(write(tmp_path))
    [document] = reader
    assert (document.id, document.text) == ("record-1", TEXT)
    assert [(e.id, e.label, document.entity_text(e)) for e in document.entities] == [
        ("T1", "problem", "chest pain"), ("T2", "treatment", "aspirin"),
        ("T3", "test", "An EKG"), ("T4", "problem", "possible ischemia"),
    ]  # fmt: skip
    assert [(r.label, r.head, r.tail) for r in document.relations] == [("TrAP", "T2", "T1")]
    assert document.metadata["attributes"] == [
        {"target": "T1", "name": "assertion", "value": "absent"},
        {"target": "T4", "name": "assertion", "value": "present"},
    ]
    assert (reader.dropped, reader.adjusted) == ({}, {})


def test_the_shipped_mapping_keeps_assertions_under_the_names_of_modifiers(tmp_path):
    reader = MappedReader(I2b2Reader(write(tmp_path)), load_mapping("i2b2-2010"))
    [document] = reader
    assert document.metadata["attributes"] == [
        {"target": "T1", "name": "negation", "value": "absent"}
    ]
    assert [e.label for e in document.entities] == ["problem", "treatment", "test", "problem"]
    assert sorted(reader.dropped.values()) == [1, 1]


def test_files_may_lie_side_by_side_or_in_folders_of_hospitals(tmp_path):
    write(tmp_path / "beth", name="r1")
    write(tmp_path / "partners", name="r1", ast=None, rel=None, flat=True)
    assert [d.id for d in I2b2Reader(tmp_path)] == ["beth/r1", "partners/r1"]


def test_quotes_and_bars_in_the_text_are_read_from_the_right(tmp_path):
    text = 'a "large" mass||t="x" 1:1 seen\n'
    con = ['c="a "large" mass||t="x" 1:1" 1:0 1:3||t="problem"', 'c="seen" 1:4 1:4||t="test"']
    rel = ['c="seen" 1:4 1:4||r="TeRP"||c="a "large" mass||t="x" 1:1" 1:0 1:3']
    [document] = I2b2Reader(write(tmp_path, text, con, None, rel))
    assert [document.entity_text(e) for e in document.entities] == [text[:25], "seen"]
    assert [(r.head, r.tail) for r in document.relations] == [("T2", "T1")]


@pytest.mark.parametrize("place", ["1:2 1:2", "1:1 1:1"])
def test_two_blanks_in_a_row_count_as_the_text_of_the_concept_says(tmp_path, place):
    [document] = I2b2Reader(
        write(tmp_path, "chest  pain\r\n", [f'c="pain" {place}||t="x"'], None, None)
    )
    assert document.entity_text(document.entities[0]) == "pain"


def test_a_concept_may_run_over_a_line_end_and_windows_line_ends_are_no_token(tmp_path):
    text = "severe chest\r\npain today\r\n"
    [document] = I2b2Reader(
        write(tmp_path, text, ['c="Chest pain" 1:1 2:0||t="problem"'], None, None)
    )
    assert document.entity_text(document.entities[0]) == "chest\r\npain"


def test_a_concept_line_that_stands_there_twice_is_read_once(tmp_path):
    reader = I2b2Reader(write(tmp_path, con=[*CONCEPTS, CONCEPTS[0]]))
    [document] = reader
    assert len(document.entities) == 4
    assert sum(reader.adjusted.values()) == 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"con": [CONCEPTS[0], "c=chest"]}, ("record-1.con", 2, "broken-line")),
        ({"con": ['c="date" 9:0 9:0||t="x"']}, ("record-1.con", 1, "offset")),
        ({"con": ['c="date" 0:0 0:0||t="x"']}, ("record-1.con", 1, "offset")),
        ({"con": ['c="date" 1:0 1:9||t="x"']}, ("record-1.con", 1, "offset")),
        ({"con": ['c="date" 1:1 1:0||t="x"']}, ("record-1.con", 1, "offset")),
        ({"con": ['c="date" 1:1 1:1||t="x"']}, ("record-1.con", 1, "text-mismatch")),
        ({"ast": ['c="chest pain" 2:3 2:4||t="problem"']}, ("record-1.ast", 1, "broken-line")),
        (
            {"ast": ['c="chest pain" 2:3 2:4||t="test"||a="absent"']},
            ("record-1.ast", 1, "dangling-relation"),
        ),
        (
            {"rel": [*RELATIONS, 'c="aspirin" 2:6 2:6||r="TrAP"||c="denied" 2:2 2:2']},
            ("record-1.rel", 2, "dangling-relation"),
        ),
        ({"rel": ['c="aspirin" 2:6 2:6||r="TrAP"']}, ("record-1.rel", 1, "broken-line")),
        ({"con": None}, ("record-1.txt", None, "orphan")),
        ({"text": None}, ("record-1.con", None, "orphan")),
        ({"text": "\ufeffx"}, ("record-1.txt", 1, "bom")),
    ],
)
def test_a_fault_is_told_with_file_and_line_and_the_record_left_out(tmp_path, change, expected):
    unannotated = {"ast": None, "rel": None} if "con" in change and len(change) == 1 else {}
    write(tmp_path, **(unannotated | change))
    write(tmp_path, name="good")
    assert expected in faults(tmp_path)
    assert {name for name, _, _ in faults(tmp_path)} == {expected[0]}
    assert [d.id for d in I2b2Reader(tmp_path, skip_bad_notes=True)] == ["good"]


def test_an_empty_folder_and_a_second_file_of_a_record_are_faults(tmp_path):
    assert faults(tmp_path) == [(tmp_path.name, None, "empty-file")]
    write(tmp_path)
    (tmp_path / "record-1.con").write_text("")
    assert [code for _, _, code in faults(tmp_path)] == ["duplicate-id"]


words = st.text(st.sampled_from('aB"|:1\u00e9\U0001f600\u0130'), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(words, min_size=1, max_size=5), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(0, 2)), max_size=5),
)
def test_concepts_written_as_the_guideline_says_come_back(lines, picks):
    text = "".join(" ".join(line) + "\n" for line in lines)
    expected, con = set(), []
    for line_pick, token_pick, more in picks:
        number = line_pick % len(lines)
        tokens = lines[number]
        first = token_pick % len(tokens)
        last = min(first + more, len(tokens) - 1)
        covered = " ".join(tokens[first : last + 1])
        con.append(f'c="{covered.lower()}" {number + 1}:{first} {number + 1}:{last}||t="problem"')
        start = sum(len(" ".join(line)) + 1 for line in lines[:number])
        start += sum(len(token) + 1 for token in tokens[:first])
        expected.add((start, start + len(covered)))
    with tempfile.TemporaryDirectory() as folder:
        [document] = I2b2Reader(write(Path(folder), text, con, None, None))
    assert {(e.start, e.end) for e in document.entities} == expected
    assert not any(re.match(r"\s|.*\s$", document.entity_text(e)) for e in document.entities)
