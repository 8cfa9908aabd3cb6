"""Tables of notes are read exactly, or refused with file and line."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.core.errors import ConfigError, CorpusError
from fedmedlora.study.note_table import NoteTable

SECRET = "quobblefinch"


def table(folder: Path, content: str | bytes, suffix: str = ".csv", **columns: str) -> NoteTable:
    path = folder / f"notes{suffix}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return NoteTable(path, "notes", **columns)


def read(notes: NoteTable) -> list[tuple[str, str]]:
    return [(document.id, document.text) for document in notes]


def refused(notes: NoteTable, kind: type[Exception] = CorpusError) -> str:
    with pytest.raises(kind) as caught:
        read(notes)
    assert SECRET not in str(caught.value)
    return str(caught.value)


def test_ids_come_from_the_column_of_ids_and_else_from_the_row(tmp_path: Path) -> None:
    assert read(table(tmp_path, "text\npain\nfever\n")) == [
        ("notes/1", "pain"),
        ("notes/2", "fever"),
    ]
    assert read(table(tmp_path, "age,id,text\n7,a,pain\n8,b,fever\n")) == [
        ("a", "pain"),
        ("b", "fever"),
    ]


def test_columns_can_be_named(tmp_path: Path) -> None:
    content = "id,Note Text,visit\n1,pain,v1\n2,fever,v2\n"
    named = table(tmp_path, content, text_column="Note Text", id_column="visit")

    assert read(named) == [("v1", "pain"), ("v2", "fever")]


def test_line_ends_quotes_and_separators_within_a_note_are_kept(tmp_path: Path) -> None:
    note = 'says "pain",\r\nno fever;\n\n\ttabs\rand \u2028 too '
    quoted = '"' + note.replace('"', '""') + '"'

    assert read(table(tmp_path, f"text,id\r\n{quoted},a\r\n")) == [("a", note)]
    assert read(table(tmp_path, f"text\tid\n{quoted}\ta\n", ".tsv")) == [("a", note)]
    assert read(table(tmp_path, "text\tid\npain, fever\ta\n", ".TSV")) == [("a", "pain, fever")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["unix", "windows", "old mac"])
def test_any_line_end_separates_rows_and_the_last_may_lack_one(tmp_path: Path, end: str) -> None:
    content = end.join(["id,text", "a,pain", "", "b,fever"])

    assert read(table(tmp_path, content)) == [("a", "pain"), ("b", "fever")]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    assert read(table(tmp_path, b"\xef\xbb\xbftext\npain\n")) == [("notes/1", "pain")]


def test_empty_notes_and_very_long_ones_are_notes(tmp_path: Path) -> None:
    long = "pain and fever, " * 100_000

    found = read(table(tmp_path, f'text\n""\n"{long}"\n'))

    assert found == [("notes/1", ""), ("notes/2", long)]


@settings(max_examples=60)
@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=1
    ),
    suffix=st.sampled_from([".csv", ".tsv"]),
)
def test_what_a_table_program_writes_is_read_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], suffix: str
) -> None:
    path = tmp_path_factory.mktemp("table") / f"notes{suffix}"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="," if suffix == ".csv" else "\t")
        writer.writerow(["id", "text"])
        writer.writerows((f"n{number}", text) for number, text in enumerate(texts))

    assert read(NoteTable(path, "notes")) == [(f"n{i}", text) for i, text in enumerate(texts)]


def test_rows_are_read_as_they_are_needed(tmp_path: Path) -> None:
    notes = iter(table(tmp_path, "text\npain\n" + "one,too many\n"))

    assert next(notes).text == "pain"
    with pytest.raises(CorpusError):
        next(notes)


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        (f"id,text\na,pain\nb,{SECRET},x\n", 3, "expected 2 cells as in the header, got 3"),
        (f'id,text\na,"pain\n\nfever"\n{SECRET}\n', 5, "expected 2 cells as in the header, got 1"),
        (f'id,text\na,pain\nb,"{SECRET}\nc,fever\n', 3, "not a row of the table"),
        (f'id,text\na,"pain" {SECRET}\n', 2, "not a row of the table"),
        (f"id,text\na,pain\n,{SECRET}\n", 3, "the id is empty"),
        (f"id,text\na,{SECRET}\0\n", 2, "NUL"),
        (b"id,text\na,pain\nb,M\xfcller " + SECRET.encode() + b"\n", 3, "not UTF-8"),
        ("id,text\na,pain\n".encode("utf-16"), 1, "not UTF-8"),
    ],
    ids=["more", "fewer", "open quote", "after quote", "no id", "nul", "latin-1", "utf-16"],
)
def test_a_row_that_is_none_is_named_by_file_and_line(
    tmp_path: Path, content: str | bytes, line: int, reason: str
) -> None:
    told = refused(table(tmp_path, content))

    assert told.startswith(f"{tmp_path / 'notes.csv'}:{line}: ")
    assert reason in told


def test_a_broken_byte_far_into_a_file_is_named_by_its_line(tmp_path: Path) -> None:
    content = b"text\n" + b"no pain\n" * 50_000 + b"\xff\n"

    assert ":50002: not UTF-8" in refused(table(tmp_path, content))


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    told = refused(table(tmp_path, "key,note\n1,pain\n"), ConfigError)
    assert (
        "has no column 'text'; its columns are 'key', 'note'. Name one with --text-column" in told
    )

    told = refused(table(tmp_path, "key,text\n1,pain\n", id_column="number"), ConfigError)
    assert "has no column 'number'" in told
    assert "--id-column" in told

    told = refused(table(tmp_path, "text,text\n1,pain\n"), ConfigError)
    assert "has 2 columns named 'text'" in told


def test_a_note_in_the_place_of_a_header_is_not_shown(tmp_path: Path) -> None:
    told = refused(table(tmp_path, f"1,has {SECRET} and pain\n2,fever\n"), ConfigError)

    assert "its columns are '1', (not shown, as it may be words of a note)" in told


@pytest.mark.parametrize("content", ["", "\n\n", "id,text\n", "id,text\n\n\n"])
def test_a_table_without_notes_is_refused(tmp_path: Path, content: str) -> None:
    assert "expected" in refused(table(tmp_path, content))
