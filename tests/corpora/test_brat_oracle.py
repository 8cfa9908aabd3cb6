"""BRAT files of ours as another library reads them, and those of others as it and we read them."""

import io
import os
from pathlib import Path

import pytest
from bioc import brat
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.core.document import Document, Entity, Relation, Span
from fedmedlora.corpora.brat import BratReader
from fedmedlora.corpora.brat_writer import note_files
from fedmedlora.corpora.extras import ATTRIBUTES, GROUPS, ROLES, items

FOLDER = os.environ.get("FEDMEDLORA_CORPORA", "")

PIECES = ["pain", "aspirin 81 mg", " ", "\n", "\r\n", "\U0001f600", "e\u0301", "T1", "\u2028", "#"]
LABELS = ["problem", "drug", "Other.Label-2"]


def read_by_bioc(text, annotations):
    # Lines end with LF only: the text's own line ends must not be translated.
    return brat.load(io.StringIO(text, newline=""), io.StringIO(annotations, newline="\n"), "n")


@st.composite
def notes(draw):
    text = "x" + "".join(draw(st.lists(st.sampled_from(PIECES), max_size=10)))
    entities = []
    for number in range(draw(st.integers(0, 5))):
        cuts = sorted(draw(st.sets(st.integers(0, len(text)), min_size=1, max_size=6)))
        spans = tuple(Span(s, e) for s, e in zip(cuts[::2], cuts[1::2], strict=False))
        if "".join(text[span.start : span.end] for span in spans).strip():  # bioc reads no others
            label = draw(st.sampled_from(LABELS))
            entities.append(Entity(f"T{number + 1}", label, spans))
    ids = [entity.id for entity in entities]
    ends = st.tuples(st.sampled_from(ids), st.sampled_from(ids)) if ids else st.nothing()
    links = draw(st.lists(ends, max_size=3)) if ids else []
    relations = [Relation(f"R{i}", "modifies", *link) for i, link in enumerate(links, 1)]
    extras = {}
    if ids and draw(st.booleans()):
        extras[ATTRIBUTES] = [
            {"target": ids[0], "name": "POLARITY", "value": draw(st.sampled_from(["NEG", True]))}
        ]
        extras[GROUPS] = [{"label": "OVERLAP", "members": sorted(set(ids))}]
    return Document("n", text, tuple(entities), tuple(relations), metadata=extras)


@settings(max_examples=120, deadline=None)
@given(notes())
def test_another_library_finds_every_mention_relation_attribute_and_group(note):
    text, annotations = (raw.decode() for raw in note_files(note))
    theirs = read_by_bioc(text, annotations)

    assert theirs.text == note.text
    assert {e.id: e.type for e in theirs.entities} == {e.id: e.label for e in note.entities}
    for entity in note.entities:
        [found] = [e for e in theirs.entities if e.id == entity.id]
        spans = sorted((i.begin, i.end) for i in found.locations)
        pieces = [note.text[start:end] for start, end in spans]
        characters = {c for start, end in spans for c in range(start, end)}
        ours = {c for span in entity.spans for c in range(span.start, span.end)}
        # BRAT wants a span that runs over a line end in fragments.
        assert characters <= ours
        assert all(note.text[c] in "\r\n" for c in ours - characters)
        assert found.text.split() == " ".join(pieces).split()
    assert [(r.id, r.type, r.arguments["Arg1"], r.arguments["Arg2"]) for r in theirs.relations] == [
        (r.id, r.label, r.head, r.tail) for r in note.relations
    ]
    flags = [(a.refid, a.type, " ".join(a.attributes) or True) for a in theirs.attributes]
    assert flags == [(a["target"], a["name"], a["value"]) for a in items(note, ATTRIBUTES)]
    groups = [(g.type, sorted(g.argids)) for g in theirs.equiv_relations]
    assert groups == [(g["label"], g["members"]) for g in items(note, GROUPS)]


def group_pairs(groups):
    return sorted((label, frozenset(members)) for label, members in groups)


@pytest.mark.corpora
@pytest.mark.skipif(
    not FOLDER, reason="FEDMEDLORA_CORPORA does not name a folder with the real cohorts"
)
@pytest.mark.parametrize("native", ["maccrobat/MACCROBAT2020", "chia/chia_without_scope"])
def test_native_files_hold_for_us_what_they_hold_for_another_library(native):
    folder = Path(FOLDER, native)
    reader = BratReader(folder, text_may_stop_at_line_end=True)
    for note in reader:
        text = folder.joinpath(f"{note.id}.txt").read_bytes().decode()
        annotations = folder.joinpath(f"{note.id}.ann").read_bytes().decode()
        # bioc knows no mention whose text runs over two lines of the file: those lines are joined.
        lines = []
        for line in annotations.replace("\r\n", "\n").split("\n"):
            if line.startswith(("T", "R", "E", "A", "#", "*", "N", "M")) and "\t" in line:
                lines.append(line)
            elif line.strip():
                lines[-1] += " " + line
        theirs = read_by_bioc(text, "\n".join(lines))
        assert theirs.text == note.text
        of_event = {event.id: event.trigger_id for event in theirs.events}
        spans = {e.id: sorted((i.begin, i.end) for i in e.locations) for e in theirs.entities}
        ours = {e.id: [(s.start, s.end) for s in e.spans] for e in note.entities}
        assert {e.id: e.type for e in theirs.entities} == {e.id: e.label for e in note.entities}
        for identity, fragments in ours.items():
            assert {c for s, e in fragments for c in range(s, e)} == {
                c for s, e in spans[identity] for c in range(s, e)
            }
        assert sorted(
            (r.type, of_event.get(r.arguments["Arg1"], r.arguments["Arg1"]),
             of_event.get(r.arguments["Arg2"], r.arguments["Arg2"]))
            for r in theirs.relations
        ) == sorted((r.label, r.head, r.tail) for r in note.relations)  # fmt: skip
        members = [(g.type, [of_event.get(m, m) for m in g.argids]) for g in theirs.equiv_relations]
        assert group_pairs(members) == group_pairs(
            (g["label"], g["members"]) for g in items(note, GROUPS)
        )
        num_roles = sum(len(event.arguments) for event in theirs.events)
        assert len(items(note, ROLES)) == num_roles
        known = ours.keys() | of_event.keys() | {r.id for r in theirs.relations}
        flags = [(of_event.get(a.refid, a.refid), a.type) for a in theirs.attributes]
        assert len(flags) == len(items(note, ATTRIBUTES)) + sum(f not in known for f, _ in flags)
        assert {(a["target"], a["name"]) for a in items(note, ATTRIBUTES)} <= set(flags)
