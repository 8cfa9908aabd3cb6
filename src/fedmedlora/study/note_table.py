"""Notes in a table: CSV and TSV files with a header, one note a row."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from fedmedlora.core.document import Document
from fedmedlora.core.errors import ConfigError, CorpusError
from fedmedlora.corpora.reader import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

TABLE_SUFFIXES = (".csv", ".tsv")
_DEFAULT_ID_COLUMN = "id"
# Far beyond any note; where a quote is never closed, reading ends here and not at the file's end.
_MAX_CELL_CHARACTERS = 1 << 28
_MOST_LINES = 8


class NoteTable:
    """The notes of one table, read row by row each time it is iterated.

    UTF-8 with or without a byte order mark; cells are quoted with `"` where they hold separators,
    quotes (doubled) or line ends, which are kept as they are. Blank lines are passed over;
    `remarks` tells of them, and of rows whose note is empty.

    Args:
        path: A `.csv` (commas) or `.tsv` (tabs) file.
        name: What the ids of rows begin with where there is no column of ids.
        text_column: The column with the notes.
        id_column: The column with their ids; by default `id` if there is one, else ids are made of
            `name` and the row's number.
    """

    def __init__(
        self, path: Path, name: str, *, text_column: str = "text", id_column: str | None = None
    ) -> None:
        self._path, self._name = path, name
        self._text_column, self._id_column = text_column, id_column
        self._line = 1
        self._blank: list[int] = []
        self._empty: list[int] = []

    def remarks(self) -> list[str]:
        """Of the last reading: which lines hold no row, and which rows an empty note."""
        found = []
        if self._blank:
            found.append(f"{self._path}: passed over blank {_lines(self._blank)}")
        if self._empty:
            rows = _lines(self._empty, "row at line", "rows at lines")
            found.append(f"{self._path}: no text in the {rows}; nothing can be marked there")
        return found

    @property
    def place(self) -> str:
        """The file, with the line at which the last row began."""
        return f"{self._path}:{self._line}"

    def __iter__(self) -> Iterator[Document]:
        """Each row's note.

        Raises:
            ConfigError: A column that was asked for is not there.
            CorpusError: The file is not a table in UTF-8, or holds no notes.
        """
        self._blank, self._empty = [], []
        rows = self._rows()
        header = [name.strip() for name in next(rows, [])]
        if not header:
            raise CorpusError(f"{self._path}: the file is empty; expected a header and notes.")
        text_at = self._column(header, self._text_column, "--text-column")
        id_at: int | None = None
        if self._id_column is not None or _DEFAULT_ID_COLUMN in header:
            id_at = self._column(header, self._id_column or _DEFAULT_ID_COLUMN, "--id-column")
        number = 0
        for number, row in enumerate(rows, 1):
            if len(row) != len(header):
                raise self._fault(f"expected {len(header)} cells as in the header, got {len(row)}.")
            identity = f"{self._name}/{number}" if id_at is None else row[id_at]
            if not identity:
                raise self._fault("the id is empty; expected one for each note.")
            if "\0" in row[text_at] or "\0" in identity:
                raise self._fault("a NUL character. Remove it.")
            if not row[text_at].strip():
                self._empty.append(self._line)
            yield Document(identity, row[text_at])
        if number == 0:
            raise CorpusError(f"{self._path}: holds a header only; expected notes.")

    def _rows(self) -> Iterator[list[str]]:
        delimiter = "\t" if self._path.suffix.lower() == ".tsv" else ","
        csv.field_size_limit(_MAX_CELL_CHARACTERS)
        with self._path.open(encoding="utf-8-sig", newline="") as file:
            # Strict: else a quote that is never closed makes one note of the rest of the file.
            rows = csv.reader(file, delimiter=delimiter, strict=True)
            self._line = 1
            try:
                for row in rows:
                    if row:
                        yield row
                    else:
                        self._blank.append(self._line)
                    self._line = rows.line_num + 1
            except csv.Error as error:
                raise self._fault(
                    f"not a row of the table ({error}). Cells are separated by commas in .csv and "
                    'by tabs in .tsv files, and quoted with ", doubled inside.'
                ) from None
            except UnicodeDecodeError:
                self._line = _first_line_not_utf8(self._path)
                raise self._fault("not UTF-8. Convert the file first.") from None

    def _column(self, header: Sequence[str], name: str, option: str) -> int:
        found = header.count(name)
        if found == 1:
            return header.index(name)
        reason = f"has {found} columns named" if found else "has no column"
        # Without a header, the first row is a note.
        columns = ", ".join(map(shown, header))
        raise ConfigError(
            f"{self._path}: {reason} {name!r}; its columns are {columns}. Name one with {option}; "
            "cells are separated by commas in .csv and by tabs in .tsv files."
        )

    def _fault(self, reason: str) -> CorpusError:
        return CorpusError(f"{self.place}: {reason}")


def _lines(numbers: Sequence[int], one: str = "line", several: str = "lines") -> str:
    """Such as `lines 3, 7`, with the first few numbers only."""
    if len(numbers) == 1:
        return f"{one} {numbers[0]}"
    first = ", ".join(map(str, numbers[:_MOST_LINES]))
    more = f" and {len(numbers) - _MOST_LINES:,} more" if len(numbers) > _MOST_LINES else ""
    return f"{several} {first}{more}"


def _first_line_not_utf8(path: Path) -> int:
    with path.open("rb") as file:
        for line, raw in enumerate(file, 1):
            try:
                raw.decode("utf-8")
            except UnicodeDecodeError:
                return line
    return 1
