"""The notes that `extract` is given, in a fixed order and never all in memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from fedmedlora.core import answer_counts
from fedmedlora.core.errors import ConfigError
from fedmedlora.corpora.extras import ATTRIBUTES, GROUPS, ROLES
from fedmedlora.corpora.jsonl import SUFFIXES, JsonlReader, is_jsonl
from fedmedlora.corpora.note_folder import note_paths
from fedmedlora.corpora.text import read_text_note
from fedmedlora.runs.store import canonical_json
from fedmedlora.study.note_table import TABLE_SUFFIXES, NoteTable
from fedmedlora.study.standard_input import StandardInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fedmedlora.core.document import Document

STDIN = Path("-")
_IN_FOLDERS = (".txt", *SUFFIXES, *TABLE_SUFFIXES)
# What is said of entities that are dropped, or by an extraction before this one.
_ABOUT_ENTITIES = {
    *(ATTRIBUTES, GROUPS, ROLES),
    *(answer_counts.NUM_WINDOWS, answer_counts.NUM_UNPARSABLE),
    *(answer_counts.NUM_TRUNCATED, answer_counts.UNALIGNED),
}


@dataclass(frozen=True, slots=True)
class Columns:
    """Where tables hold their notes and, if anywhere, the ids of these; see `NoteTable`."""

    text: str = "text"
    id: str | None = None


class _Source(Protocol):
    """Notes of one file or stream.

    Attributes:
        place: Where the note is that was read last.
    """

    @property
    def place(self) -> str: ...

    def __iter__(self) -> Iterator[Document]: ...


class NoteInputs:
    """The notes of files, folders and standard input.

    Args:
        inputs: `.txt` files, JSON lines, tables, folders of these, and `-` for `stdin`. A file of
            another kind is taken for the text of one note.
        check: Raises for a note that could not be written later.
        columns: Of tables.
        stdin: What `-` stands for.

    Raises:
        ConfigError: An input is missing, has no notes, or is named where it cannot be.
    """

    def __init__(
        self,
        inputs: Sequence[Path],
        check: Callable[[Document], object],
        columns: Columns | None = None,
        stdin: IO[bytes] | None = None,
    ) -> None:
        if list(inputs).count(STDIN) > 1:
            raise ConfigError("-: named twice; standard input can only be read once.")
        self._names = [str(path) for path in inputs]
        self._folders = [path for path in inputs if path.is_dir()]
        self._columns, self._check = columns or Columns(), check
        self._sources = [source for path in inputs for source in self._open(path, stdin)]

    @property
    def sha256(self) -> str:
        """Of the inputs' names as they were given."""
        return hashlib.sha256(canonical_json(self._names)).hexdigest()

    def refuse_inside(self, out: Path) -> None:
        """Refuse to write where notes are read from.

        Raises:
            ConfigError: `out` lies in one of the inputs.
        """
        for folder in self._folders:
            if out.resolve().is_relative_to(folder.resolve()):
                raise ConfigError(
                    f"{out}: lies inside the input {folder}; expected a folder beside it, so that "
                    "what is written is not read as notes. Name one with --out."
                )

    def count(self) -> int | None:
        """How many notes there are, each read once and found in order; None with standard input.

        Of standard input the first note is looked at: it tells what is wrong before a model is
        loaded, and comes again with the others.

        Raises:
            ConfigError: As `notes`.
            CorpusError: As `notes`.
        """
        is_stream = [isinstance(source, StandardInput) for source in self._sources]
        files = [s for s, skipped in zip(self._sources, is_stream, strict=True) if not skipped]
        num_notes = sum(1 for _ in self._read(files))
        for source in self._sources:
            if isinstance(source, StandardInput):
                self._check(source.look())
        return None if any(is_stream) else num_notes

    def remarks(self) -> list[str]:
        """What is notable about tables that were counted: rows without a note."""
        return [
            remark
            for source in self._sources
            if isinstance(source, NoteTable)
            for remark in source.remarks()
        ]

    def notes(self) -> Iterator[Document]:
        """Every note without annotations, read as it is asked for.

        Raises:
            ConfigError: An id occurs twice, or a table lacks a column.
            CorpusError: A note cannot be read exactly, or cannot be written later.
        """
        return self._read(self._sources)

    def _read(self, sources: Sequence[_Source]) -> Iterator[Document]:
        seen: set[str] = set()
        for source in sources:
            for document in source:
                if document.id in seen:
                    raise ConfigError(
                        f"{source.place}: the id of a note occurs twice among the inputs; expected "
                        "unique ids."
                    )
                seen.add(document.id)
                self._check(document)
                yield without_annotations(document)

    def _open(self, path: Path, stdin: IO[bytes] | None) -> Iterator[_Source]:
        if path == STDIN and stdin is not None:
            yield StandardInput(stdin)
        elif path.is_dir():
            files = list(note_paths(path, _IN_FOLDERS))
            if not files:
                raise ConfigError(f"{path}: holds no .txt, JSON lines, .csv or .tsv file.")
            for file in files:
                name = file.relative_to(path).with_suffix("").as_posix()
                yield self._of_file(file, name)
        elif path.is_file():
            yield self._of_file(path, path.stem)
        else:
            raise ConfigError(f"{path}: no such file or folder.")

    def _of_file(self, path: Path, name: str) -> _Source:
        if is_jsonl(path):
            return _File(path, lambda: iter(JsonlReader(path)))
        if path.suffix.lower() in TABLE_SUFFIXES:
            columns = self._columns
            return NoteTable(path, name, text_column=columns.text, id_column=columns.id)
        if path.suffix.lower() == ".json":
            raise ConfigError(
                f"{path}: expected JSON lines in a file named .jsonl, not .json. Rename it, or "
                "convert it with `fedmedlora corpus convert`."
            )
        return _File(path, lambda: iter([read_text_note(path, name)]))


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    read: Callable[[], Iterator[Document]]

    @property
    def place(self) -> str:
        return str(self.path)

    def __iter__(self) -> Iterator[Document]:
        return self.read()


def without_annotations(document: Document) -> Document:
    """The note as it was before anybody, or anything, marked entities in it."""
    metadata = {k: v for k, v in document.metadata.items() if k not in _ABOUT_ENTITIES}
    return replace(document.with_entities(()), metadata=metadata)
