"""Which notes an extraction reads: files, folders, tables and standard input, in one order."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedmedlora.core.document import Document, Entity
from fedmedlora.core.errors import ConfigError, CorpusError
from fedmedlora.corpora.jsonl import document_line, write_jsonl
from fedmedlora.study.extraction_inputs import STDIN, Columns, NoteInputs

SECRET = "quobblefinch"


def inputs(*paths: Path, stdin: bytes | None = None, columns: Columns | None = None) -> NoteInputs:
    file = None if stdin is None else io.BytesIO(stdin)
    return NoteInputs(paths, document_line, columns, file)


def ids(found: NoteInputs) -> list[str]:
    return [document.id for document in found.notes()]


def from_stdin(data: bytes) -> list[Document]:
    return list(inputs(STDIN, stdin=data).notes())


def refused_stdin(data: bytes) -> str:
    with pytest.raises(CorpusError) as caught:
        from_stdin(data)
    assert SECRET not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Every kind of file, two folders deep, and what is passed over."""
    root = tmp_path / "notes"
    (root / "ward" / "old").mkdir(parents=True)
    (root / "b.txt").write_text("pain")
    (root / "a.csv").write_text("text\npain\nfever\n")
    (root / "ward" / "c.tsv").write_text("id\ttext\nx\tpain\n")
    (root / "ward" / "old" / "d.txt").write_text("no pain")
    write_jsonl(root / "e.jsonl.gz", [Document("y", "fever"), Document("z", "")])
    (root / "readme.md").write_text("not a note")
    (root / ".hidden.txt").write_text("not a note")
    (root / ".cache").mkdir()
    (root / ".cache" / "f.txt").write_text("not a note")
    return root


def test_a_folder_gives_the_notes_of_every_kind_of_file_in_one_order(folder: Path) -> None:
    found = inputs(folder)

    expected = ["a/1", "a/2", "b", "y", "z", "x", "ward/old/d"]
    assert found.count() == len(expected)
    assert ids(found) == ids(found) == expected


def test_inputs_keep_the_order_in_which_they_are_named(folder: Path, tmp_path: Path) -> None:
    odd = tmp_path / "0001"
    odd.write_text("a file without a suffix is a note")

    assert ids(inputs(folder / "b.txt", odd, folder / "a.csv")) == ["b", "0001", "a/1", "a/2"]


def test_columns_hold_for_every_table(folder: Path) -> None:
    (folder / "a.csv").write_text("number,note\n17,pain\n")
    columns = Columns("note", "number")

    (document,) = inputs(folder / "a.csv", columns=columns).notes()

    assert (document.id, document.text) == ("17", "pain")


def test_an_id_that_occurs_twice_is_refused_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    path.write_text('id,text\na,"pain\nfever"\nb,x\na,y\n')

    with pytest.raises(ConfigError, match=rf"^{path}:5: the id of a note occurs twice"):
        inputs(path).count()


def test_ids_are_unique_over_files_and_standard_input(folder: Path) -> None:
    line = document_line(Document("b", "pain"))
    found = inputs(folder / "b.txt", STDIN, stdin=line)

    assert found.count() is None
    with pytest.raises(ConfigError, match=r"^stdin: the id of a note occurs twice"):
        ids(found)


def test_json_is_not_taken_for_the_text_of_a_note(tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    path.write_text('[{"id": "a", "text": "pain"}]')

    with pytest.raises(ConfigError, match=r"expected JSON lines in a file named \.jsonl"):
        inputs(path)


def test_output_within_an_input_is_refused(folder: Path, tmp_path: Path) -> None:
    found = inputs(folder)

    found.refuse_inside(tmp_path / "notes-marked")
    for out in (folder, folder / "deep" / "out", folder / ".." / "notes" / "out"):
        with pytest.raises(ConfigError, match=r"lies inside the input .* with --out\."):
            found.refuse_inside(out)


def test_what_was_said_of_dropped_entities_is_dropped_too(tmp_path: Path) -> None:
    note = Document(
        "a",
        "no pain",
        (Entity.at("T1", "problem", 3, 7),),
        metadata={
            "ward": "west",
            "attributes": [{"target": "T1", "name": "negated", "value": True}],
            "num_windows": 9,
            "unaligned_predictions": {"drug": 3},
        },
    )
    write_jsonl(tmp_path / "a.jsonl", [note])

    (found,) = inputs(tmp_path / "a.jsonl").notes()

    assert (found.entities, found.metadata) == ((), {"ward": "west"})


def test_notes_are_read_as_they_are_needed() -> None:
    class Lines(io.BytesIO):
        read_lines = 0

        def __next__(self) -> bytes:
            self.read_lines += 1
            return super().__next__()

        def __iter__(self) -> Iterator[bytes]:
            return self

    lines = Lines(b"".join(document_line(Document(f"n{i}", "pain")) for i in range(100)))
    notes = NoteInputs((STDIN,), document_line, None, lines).notes()

    assert [next(notes).id for _ in range(10)] == [f"n{i}" for i in range(10)]
    assert lines.read_lines == 10
    assert sum(1 for _ in notes) == 90


@pytest.mark.parametrize("before", [b"", b"\n", b" \r\n\t\n"], ids=["at once", "lf", "blanks"])
def test_standard_input_that_begins_like_json_lines_is_json_lines(before: bytes) -> None:
    notes = [Document("a", "pain\nfever"), Document("b", "", metadata={"ward": "west"})]

    assert from_stdin(before + b"\n".join(map(document_line, notes))) == notes
    assert from_stdin(before + b'{ "id":"c","text":"x"}')[0].id == "c"


@pytest.mark.parametrize(
    "text",
    ["pain", "\n\n  pain\r\n\r\nfever", "{fever} and pain", "[x] pain\n", "{}", "<b>", '"', "\n{a"],
)
def test_anything_else_on_standard_input_is_one_note_kept_exactly(text: str) -> None:
    assert from_stdin(text.encode()) == [Document("stdin", text)]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "stdin: empty"),
        (b" \n\t\r\n", "stdin: empty"),
        (b"\xef\xbb\xbfpain", "stdin: starts with a byte order mark"),
        (b"pain\n\xfcber", "stdin: byte 5 is not UTF-8"),
        (b"pain\0", "stdin: NUL byte at byte 4"),
        (b'{"id": "a", "text": "x"}\n{"id": "b", "' + SECRET.encode() + b'"', "stdin:2: not JSON"),
        (b'{"text": "' + SECRET.encode() + b'"}', "stdin:1: the document has no 'id'"),
        (b'[{"id": "a", "text": "x"}]', "stdin:1: the line is not a JSON object"),
        (b'{\n  "id": "a",\n  "text": "x"\n}', "stdin:1: not JSON"),
        (b'\xef\xbb\xbf{"id": "a", "text": "x"}', "stdin:1: the file starts with a byte order"),
    ],
)
def test_what_cannot_be_read_from_standard_input_is_named(data: bytes, reason: str) -> None:
    assert reason in refused_stdin(data)


def test_a_bad_line_on_standard_input_ends_the_reading_at_once() -> None:
    good = document_line(Document("a", "pain"))
    found = inputs(STDIN, stdin=good + b"{}\n" + good * 3).notes()

    assert next(found).id == "a"
    with pytest.raises(CorpusError, match=r"^stdin:2: ") as caught:
        next(found)
    assert "stdin:3" not in str(caught.value)


def test_standard_input_can_be_named_once() -> None:
    with pytest.raises(ConfigError, match="named twice"):
        inputs(STDIN, STDIN, stdin=b"pain")
