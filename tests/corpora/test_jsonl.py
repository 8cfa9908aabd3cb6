"""JSON lines: what is written, what is read back, and what is refused with which words."""

import gzip
import json

import pytest
import zstandard

from fedmedlora.core.document import Document, Entity, Relation, Span
from fedmedlora.core.errors import CorpusError
from fedmedlora.corpora.jsonl import JsonlReader, read_jsonl, write_jsonl
from fedmedlora.corpora.reader import BadNote

NOTE = "Takes aspirin 81 mg.\r\nDenies left and right arm pain \U0001f600 <b>&."


def note(**changes):
    drug = {"id": "T1", "label": "drug", "start": 6, "end": 13, "text": "aspirin"}
    dose = {"id": "T2", "label": "strength", "start": 14, "end": 19, "text": "81 mg"}
    link = {"id": "R1", "label": "modifies", "head": "T2", "tail": "T1"}
    data = {"id": "n1", "text": NOTE, "entities": [drug, dose], "relations": [link]}
    return data | {"metadata": {}} | changes


def entity(**changes):
    return {"id": "T1", "label": "drug", "start": 6, "end": 13, "text": "aspirin"} | changes


def write_lines(path, *values):
    path.write_text("".join(json.dumps(v) + "\n" for v in values), encoding="utf-8", newline="")
    return path


def faults(path):
    return [
        (fault.line, fault.code)
        for item in JsonlReader(path).notes()
        if isinstance(item, BadNote)
        for fault in item.faults
    ]


def test_a_document_is_written_as_the_interchange_format_says(tmp_path):
    arm = Entity("T2", "problem", (Span(8, 12), Span(23, 31)), score=0.5)
    document = Document(
        "n1", "No pain left and right arm pain.", (Entity.at("T1", "negation", 0, 2), arm),
        (Relation("R1", "modifies", "T1", "T2"),), metadata={"patient_id": "p"},
    )  # fmt: skip
    write_jsonl(tmp_path / "d.jsonl", [document])
    assert (tmp_path / "d.jsonl").read_bytes() == (
        b'{"id": "n1", "text": "No pain left and right arm pain.", "entities": '
        b'[{"id": "T1", "label": "negation", "start": 0, "end": 2, "text": "No"}, '
        b'{"id": "T2", "label": "problem", "start": 8, "end": 31, '
        b'"text": "left and right arm pain", "fragments": [[8, 12], [23, 31]], "score": 0.5}], '
        b'"relations": '
        b'[{"id": "R1", "label": "modifies", "head": "T1", "tail": "T2"}], '
        b'"metadata": {"patient_id": "p"}}\n'
    )


def test_a_line_of_the_interchange_format_is_read_with_offsets_in_code_points(tmp_path):
    emoji = NOTE.index("\U0001f600")
    data = note(entities=[entity(start=emoji, end=emoji + 1, text="\U0001f600")], relations=[])
    [document] = read_jsonl(write_lines(tmp_path / "d.jsonl", data))
    assert document.text == NOTE
    assert document.entities == (Entity.at("T1", "drug", emoji, emoji + 1),)


def test_entities_relations_and_metadata_may_be_left_out(tmp_path):
    [document] = read_jsonl(write_lines(tmp_path / "d.jsonl", {"id": "n1", "text": ""}))
    assert (document.text, document.entities, document.relations) == ("", (), ())


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_every_suffix_round_trips_and_the_same_documents_give_the_same_bytes(tmp_path, suffix):
    documents = [Document(f"n{i}", "pain\r\n" * i) for i in range(300)]
    first, second = tmp_path / f"first{suffix}", tmp_path / f"other{suffix}"
    assert write_jsonl(first, documents) == 300
    write_jsonl(second, iter(documents))
    assert first.read_bytes() == second.read_bytes()
    if suffix.endswith(".gz"):
        assert first.read_bytes()[4:8] == bytes(4)  # the time of writing
    assert read_jsonl(first) == documents


def test_compressed_files_are_really_compressed_so_that_other_tools_read_them(tmp_path):
    documents = [Document("n1", "pain")]
    for suffix in ("", ".gz", ".zst"):
        write_jsonl(tmp_path / f"d.jsonl{suffix}", documents)
    plain = (tmp_path / "d.jsonl").read_bytes()
    assert gzip.decompress((tmp_path / "d.jsonl.gz").read_bytes()) == plain
    frame = (tmp_path / "d.jsonl.zst").read_bytes()
    assert zstandard.ZstdDecompressor().decompressobj().decompress(frame) == plain


def test_files_of_several_compressed_parts_are_read_to_the_end(tmp_path):
    lines = [json.dumps({"id": f"n{i}", "text": "x"}).encode() + b"\n" for i in range(3)]
    (tmp_path / "d.jsonl.gz").write_bytes(b"".join(map(gzip.compress, lines)))
    compress = zstandard.ZstdCompressor().compress
    (tmp_path / "d.jsonl.zst").write_bytes(b"".join(map(compress, lines)))
    assert [d.id for d in read_jsonl(tmp_path / "d.jsonl.gz")] == ["n0", "n1", "n2"]
    assert [d.id for d in read_jsonl(tmp_path / "d.jsonl.zst")] == ["n0", "n1", "n2"]


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_compressed_file_that_was_cut_off_is_a_fault_not_a_shorter_corpus(tmp_path, suffix, keep):
    import random

    path = tmp_path / f"d{suffix}"
    texts = (random.Random(i).randbytes(200).hex() for i in range(200))
    write_jsonl(path, [Document(f"n{i}", text) for i, text in enumerate(texts)])
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    assert faults(path)[-1][1] == "damaged-file"
    with pytest.raises(CorpusError, match="cut off or damaged"):
        read_jsonl(path)


BAD_NOTES = {
    "a key that is not known": (note(colour="red"), ["unknown-key"]),
    "an entity key that is not known": (
        note(entities=[entity(type="x")], relations=[]),
        ["unknown-key"],
    ),
    "a relation key that is not known": (
        note(relations=[{"id": "R1", "label": "m", "head": "T2", "tail": "T1", "x": 1}]),
        ["unknown-key"],
    ),
    "no id": ({"text": "x"}, ["missing-key"]),
    "an empty id": (note(id=""), ["wrong-type"]),
    "no text": ({"id": "n1"}, ["missing-key"]),
    "a text that is a number": (note(text=3), ["wrong-type"]),
    "metadata that is a list": (note(metadata=[]), ["wrong-type"]),
    "entities that are no list": (note(entities={}, relations=[]), ["wrong-type"]),
    "an entity that is no object": (note(entities=["x"], relations=[]), ["wrong-type"]),
    "an entity without a label": (
        note(entities=[{"id": "T1", "start": 6, "end": 13, "text": "aspirin"}], relations=[]),
        ["missing-key"],
    ),
    "an empty label": (note(entities=[entity(label="")], relations=[]), ["wrong-type"]),
    "a start that is text": (note(entities=[entity(start="6")], relations=[]), ["wrong-type"]),
    "a start that is true": (note(entities=[entity(start=True)], relations=[]), ["wrong-type"]),
    "a start that is a fraction": (
        note(entities=[entity(start=6.0)], relations=[]),
        ["wrong-type"],
    ),
    "an end beyond the text": (note(entities=[entity(end=999)], relations=[]), ["offset"]),
    "a negative start": (
        note(entities=[entity(start=-4, end=-1, text="b>&")], relations=[]),
        ["offset"],
    ),
    "a start at the end": (note(entities=[entity(start=13, text="")], relations=[]), ["offset"]),
    "another text at the offsets": (
        note(entities=[entity(text="Aspirin")], relations=[]),
        ["text-mismatch"],
    ),
    "offsets of the normalised text": (
        note(entities=[entity(start=21, end=27, text="Denies")], relations=[]),
        ["text-mismatch"],
    ),
    "two entities of one id": (note(entities=[entity(), entity()], relations=[]), ["duplicate-id"]),
    "fragments out of order": (
        note(entities=[entity(fragments=[[9, 13], [6, 8]])], relations=[]),
        ["offset"],
    ),
    "fragments that do not reach the end": (
        note(entities=[entity(fragments=[[6, 8], [9, 12]])], relations=[]),
        ["offset"],
    ),
    "fragments that are no pairs": (
        note(entities=[entity(fragments=[[6, 8, 13]])], relations=[]),
        ["wrong-type"],
    ),
    "a score that is text": (note(entities=[entity(score="high")], relations=[]), ["wrong-type"]),
    "a relation to nothing": (
        note(relations=[{"id": "R1", "label": "m", "head": "T9", "tail": "T1"}]),
        ["dangling-relation"],
    ),
    "a relation without an end": (
        note(relations=[{"id": "R1", "label": "m", "head": "T2"}]),
        ["missing-key"],
    ),
    "two relations of one id": (
        note(relations=[{"id": "R1", "label": "m", "head": "T2", "tail": "T1"}] * 2),
        ["duplicate-id"],
    ),
    "a NUL character": (note(text=NOTE + "\0"), ["nul"]),
    "half a surrogate pair": (note(text=NOTE + "\ud83d"), ["encoding"]),
    "a list": ([1, 2], ["wrong-type"]),
    "every fault of the note": (
        note(
            colour="red",
            entities=[entity(end=999), entity(id="T2", text="wrong"), entity(id="T3", start=None)],
            relations=[{"id": "R1", "label": "m", "head": "T1", "tail": "T8"}],
        ),
        ["unknown-key", "offset", "text-mismatch", "wrong-type", "dangling-relation"],
    ),
}


@pytest.mark.parametrize("what", BAD_NOTES)
def test_a_bad_note_is_a_fault_of_its_line_and_its_neighbours_are_read(tmp_path, what):
    data, codes = BAD_NOTES[what]
    path = write_lines(tmp_path / "d.jsonl", note(id="before"), data, note(id="after"))
    assert faults(path) == [(2, code) for code in codes]
    assert [d.id for d in read_jsonl(path, skip_bad_notes=True)] == ["before", "after"]
    with pytest.raises(CorpusError, match=r"d\.jsonl:2: "):
        read_jsonl(path)


LINE = json.dumps(note()).encode()
BAD_BYTES = {
    "an empty file": (b"", [(None, "empty-file")]),
    "a file of blank lines": (b"\n \r\n\n", [(None, "empty-file")]),
    "a byte order mark": (b"\xef\xbb\xbf" + LINE, [(1, "bom")]),
    "UTF-16": (LINE.decode().encode("utf-16"), [(1, "encoding")]),
    "Latin-1": (LINE + b'\n{"id": "n2", "text": "caf\xe9"}\n', [(2, "encoding")]),
    "a raw surrogate": (b'{"id": "n2", "text": "\xed\xa0\xbd"}\n', [(1, "encoding")]),
    "a NUL byte": (b'{"id": "n2", "text": "a\0b"}\n', [(1, "nul")]),
    "half a line": (LINE + b"\n" + LINE[:-20], [(2, "broken-line")]),
    "two documents in one line": (LINE + LINE, [(1, "broken-line")]),
    "NaN": (b'{"id": "n2", "text": "", "metadata": {"x": NaN}}\n', [(1, "broken-line")]),
    "a number without end": (b'{"id": "n2", "text": ' + b"9" * 9999 + b"}", [(1, "broken-line")]),
    "a depth without end": (b"[" * 200_000, [(1, "broken-line")]),
    "one id twice": (LINE + b"\n\n" + LINE + b"\n", [(3, "duplicate-id")]),
}


@pytest.mark.parametrize("what", BAD_BYTES)
def test_bad_bytes_are_faults_of_the_right_kind(tmp_path, what):
    raw, expected = BAD_BYTES[what]
    (tmp_path / "d.jsonl").write_bytes(raw)
    assert faults(tmp_path / "d.jsonl") == expected


def test_lines_may_end_in_crlf_and_unicode_line_separators_do_not_end_one(tmp_path):
    data = json.dumps({"id": "n1", "text": "a\u2028b\x85c\x0bd"}, ensure_ascii=False)
    (tmp_path / "d.jsonl").write_bytes(data.encode() + b"\r\n\r\n")
    assert read_jsonl(tmp_path / "d.jsonl") == [Document("n1", "a\u2028b\x85c\x0bd")]


def test_a_ten_megabyte_line_is_read(tmp_path):
    text = "no chest pain. " * 700_000
    data = note(text=text, entities=[entity(start=10_499_991, end=10_499_995, text="ches")])
    write_lines(tmp_path / "d.jsonl", data | {"relations": []})
    assert faults(tmp_path / "d.jsonl") == [(1, "text-mismatch")]
    write_lines(tmp_path / "d.jsonl", note(text=text, entities=[], relations=[]))
    assert len(read_jsonl(tmp_path / "d.jsonl")[0].text) == 10_500_000


def test_a_refusal_shows_the_first_faults_and_counts_the_others(tmp_path):
    path = write_lines(tmp_path / "d.jsonl", *({"id": f"n{i}", "text": 1} for i in range(14)))
    with pytest.raises(CorpusError) as caught:
        read_jsonl(path)
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines[:10]] == [f"{path}:{i}" for i in range(1, 11)]
    assert len(lines) == 12
    assert lines[11].startswith("None can be read. If they are stored in another format")
    assert "14 notes cannot be read exactly (14 faults, 4 more than shown)" in lines[10]


def test_no_document_comes_after_a_bad_note_that_was_not_to_be_skipped(tmp_path):
    path = write_lines(tmp_path / "d.jsonl", note(), {"id": "x"}, note(id="n2"))
    seen = []
    with pytest.raises(CorpusError):
        seen.extend(document.id for document in JsonlReader(path))
    assert seen == ["n1"]


def test_a_reader_counts_what_it_read_and_left_out_each_time(tmp_path):
    path = write_lines(tmp_path / "d.jsonl", note(), {"id": "x"}, note(id="n2"))
    reader = JsonlReader(path, skip_bad_notes=True, source="north", annotated_labels=frozenset("a"))
    for _ in range(2):
        documents = list(reader)
        assert (reader.num_read, reader.num_skipped, len(reader.faults)) == (2, 1, 1)
    assert documents[0].source == "north"
    assert documents[0].annotated_labels == {"a"}


@pytest.mark.parametrize(
    "documents",
    [
        [Document("n1", "a"), Document("n1", "b")],
        [Document("n1", "a\0")],
        [Document("n1", "a\ud83d")],
        [Document("n1", "a", metadata={"x": float("nan")})],
        [Document("n1", "a", metadata={"x": object()})],
    ],
    ids=["duplicate id", "NUL", "surrogate", "NaN", "object"],
)
def test_what_reading_would_refuse_is_not_written_and_the_old_file_stays(tmp_path, documents):
    path = tmp_path / "d.jsonl"
    write_jsonl(path, [Document("old", "old")])
    with pytest.raises(CorpusError):
        write_jsonl(path, [Document("fine", "fine"), *documents])
    assert [d.id for d in read_jsonl(path)] == ["old"]
    assert [p.name for p in tmp_path.iterdir()] == ["d.jsonl"]
