"""Laws: what is written is read back as it was, or what the format cannot hold is counted."""

import re
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from fedmedlora.core.document import Document, Entity, Relation, Span
from fedmedlora.corpora.bio import bio_file
from fedmedlora.corpora.brat import read_brat
from fedmedlora.corpora.brat_writer import note_files, write_brat
from fedmedlora.corpora.formats import READERS, TARGETS
from fedmedlora.corpora.jsonl import read_jsonl, write_jsonl

PIECES = [
    "pain", "aspirin 81 mg", " ", "\n", "\r\n", "\r", "\t", "<", "&", "&amp;",
    "\U0001f600", "e\u0301",
    '<span class="problem">', "</span>", "[/drug]", "\u2028", "\x85", "\x0b", "\x1c", "\u00a0", '"',
    "\\", "T1\t", "\nR1\t", "#", "*", "\ufeff", "\u4e2d",
]  # fmt: skip
LABELS = ["problem", "drug", "Other.Label-2"]


@st.composite
def documents(draw, ids):
    text = "".join(draw(st.lists(st.sampled_from(PIECES), max_size=12)))
    text = text.removeprefix("\ufeff") if draw(st.booleans()) else f"x{text}"
    text = text.lstrip("\ufeff")
    entities = []
    for _ in range(draw(st.integers(0, 4)) if text else 0):
        count = draw(st.sampled_from([2, 2, 2, 4, 6]))
        cuts = sorted(draw(st.sets(st.integers(0, len(text)), min_size=1, max_size=count)))
        if len(cuts) % 2:
            cuts = cuts[:-1]
        spans = tuple(Span(s, e) for s, e in zip(cuts[::2], cuts[1::2], strict=True))
        if spans:
            number = len(entities)
            name = draw(st.sampled_from([f"T{number + 1}", f"T{90 - number}", f"mention {number}"]))
            score = draw(st.none() | st.floats(0, 1))
            entities.append(Entity(name, draw(st.sampled_from(LABELS)), spans, score))
    names = [entity.id for entity in entities]
    relations = [
        Relation(f"{draw(st.sampled_from(['R', 'link-']))}{i}", "modifies", *ends)
        for i, ends in enumerate(
            draw(st.lists(st.tuples(*[st.sampled_from(names)] * 2), max_size=3)) if names else []
        )
    ]
    return Document(draw(ids), text, tuple(entities), tuple(relations))


ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
plain_ids = st.from_regex(
    r"[a-z0-9 _\u00e9%:]{1,6}(/[a-z0-9.]?[a-z]{1,3})?", fullmatch=True
).filter(lambda name: "/." not in name)
metadata = st.dictionaries(
    st.text(max_size=3),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner, max_size=2),
        max_leaves=4,
    ),
    max_size=2,
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(documents(ids), max_size=3, unique_by=lambda d: d.id),
    metadata,
    st.sampled_from([".jsonl", ".jsonl.gz", ".jsonl.zst"]),
)
def test_json_lines_are_read_back_as_they_were_written(notes, extra, suffix):
    notes = [replace(note, metadata=extra) for note in notes] or [Document("empty", "")]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"d{suffix}")
        write_jsonl(path, notes)
        assert read_jsonl(path) == notes


@settings(max_examples=120, deadline=None)
@given(st.lists(documents(plain_ids), min_size=1, max_size=3, unique_by=lambda d: d.id))
def test_brat_files_are_read_back_as_they_were_written(notes):
    with tempfile.TemporaryDirectory() as folder:
        write_brat(Path(folder, "brat"), notes)
        for note in notes:
            assert Path(folder, "brat", f"{note.id}.txt").read_bytes() == note.text.encode()
        assert read_brat(Path(folder, "brat")) == sorted(notes, key=lambda d: d.id)


@settings(max_examples=100, deadline=None)
@given(documents(st.just("n")))
def test_every_mention_in_an_ann_file_is_what_brat_wants(note):
    """The rules of BRAT's own reader: no fragment crosses a line end, text joined with blanks."""
    text, annotations = (raw.decode() for raw in note_files(note))
    mentions = [line for line in annotations.split("\n") if line.startswith("T")]
    assert len(mentions) == len(note.entities)
    for line in mentions:
        _, head, covered = line.split("\t", 2)
        label, offsets = head.split(" ", 1)
        pieces = [text[int(s) : int(e)] for s, e in (p.split(" ") for p in offsets.split(";"))]
        assert label in LABELS
        if not all(set(piece) <= {"\r", "\n"} for piece in pieces):
            assert not any(re.search("[\r\n]", piece) for piece in pieces)
            assert covered == " ".join(pieces)


def there_and_back(format_name, notes):
    """The notes as the format can hold them, what is lost, and what is read back."""
    target, lost = TARGETS[format_name], Counter()
    fitted = [target.fit(note, lost) for note in notes]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, target.file_name or "notes")
        target.write(path, fitted)
        return fitted, +lost, list(READERS[format_name](path))


def numbered(note):
    """The note with ids by position, for formats that number mentions and relations anew."""
    names = {entity.id: f"T{i}" for i, entity in enumerate(note.entities)}
    entities = [replace(entity, id=names[entity.id], score=None) for entity in note.entities]
    relations = [
        Relation(f"R{i}", r.label, names[r.head], names[r.tail])
        for i, r in enumerate(note.relations)
    ]
    return note.with_entities(entities, relations)


def num_lost(lost, kind):
    return sum(count for name, count in lost.items() if re.match(rf"{kind}\b(?!:)", name))


def changes(format_name, notes, fitted, back):
    """How many mentions came back with other spans, without their score, under another id."""
    changed = {"fragments of a mention": 0, "score": 0, "id of a mention": 0}
    for before, held, after in zip(notes, fitted, back, strict=True):
        given = {entity.id: entity.spans for entity in before.entities}
        changed["fragments of a mention"] += sum(e.spans != given[e.id] for e in held.entities)
        written = held.entities
        if format_name == "bio":  # the only order that it has is that of the text
            written = sorted(written, key=lambda e: e.start)
        for old, new in zip(written, after.entities, strict=True):
            changed["score"] += old.score != new.score
            changed["id of a mention"] += old.id != new.id
    return changed


@pytest.mark.parametrize("format_name", ["jsonl", "brat", "bio", "doccano", "label-studio"])
@settings(max_examples=60, deadline=None)
@given(
    notes=st.lists(documents(plain_ids), min_size=1, max_size=2, unique_by=lambda d: d.id),
    extra=metadata,
)
def test_a_format_gives_back_what_was_written_or_says_what_it_lost(format_name, notes, extra):
    notes = [replace(note, metadata=extra) for note in sorted(notes, key=lambda d: d.id)]
    if format_name == "bio":  # a file may not begin with a byte order mark
        assume(not any(note.text.lstrip().startswith("\ufeff") for note in notes))
    fitted, lost, back = there_and_back(format_name, notes)
    assert [note.id for note in back] == [note.id for note in notes]
    if not lost:
        assert back == notes
    for kind, items in (("mention", "entities"), ("relation", "relations")):
        before, after = (sum(len(getattr(n, items)) for n in side) for side in (notes, fitted))
        if not (format_name == "bio" and kind == "relation"):
            assert before - after == num_lost(lost, kind)
        assert sum(len(getattr(n, items)) for n in back) == after
    for kind, number in changes(format_name, notes, fitted, back).items():
        if not (format_name == "bio" and kind.startswith("fragments")):  # overlaps take some away
            assert number == sum(n for name, n in lost.items() if name.startswith(kind)), kind
    if format_name in ("doccano", "label-studio"):
        assert [numbered(note) for note in back] == [numbered(note) for note in fitted]
        assert format_name == "doccano" or back == fitted


@settings(max_examples=120, deadline=None)
@example(
    Document(
        "n",
        "x e\u0301pain 1.5",  # mentions that end before a combining mark and within a number
        (Entity.at("T1", "problem", 0, 3), Entity.at("T2", "test", 9, 11)),
    )
)
@given(documents(st.just("n")))
def test_bio_files_hold_every_mention_that_is_not_counted_as_lost(note):
    assume(not note.text.lstrip().startswith("\ufeff"))
    [fitted], _, [back] = there_and_back("bio", [note])

    def mentions(document):
        ordered = sorted(document.entities, key=lambda e: e.start)
        return [(e.label, re.sub(r"\s", "", document.entity_text(e))) for e in ordered]

    assert mentions(back) == mentions(fitted)
    assert re.sub(r"\s", "", back.text) == re.sub(r"\s", "", note.text)

    def tagged(document):
        return [line for line in bio_file(document).split(b"\n") if line]

    assert tagged(back) == tagged(fitted)
