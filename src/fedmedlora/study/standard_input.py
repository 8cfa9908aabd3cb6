"""Notes that another program writes to our standard input."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING

from fedmedlora.core.document import Document
from fedmedlora.core.errors import CorpusError
from fedmedlora.corpora.jsonl import JsonlReader
from fedmedlora.corpora.reader import BadNote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_BOM = b"\xef\xbb\xbf"
# A list, or an object over several lines, is not JSON lines; but it is no note either.
_LIKE_JSON = re.compile(rb'\s*(\[\s*)?\{\s*("|$)')


class StandardInput:
    """JSON lines if the input begins with `{"`, else one note, named `stdin`. Read once, in order.

    Args:
        file: Where the bytes come from.
    """

    place = "stdin"

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._notes = self._read()
        self._looked_at: list[Document] = []

    def look(self) -> Document:
        """The first note, which is not used up by this.

        Raises:
            CorpusError: As for the notes.
        """
        if not self._looked_at:
            self._looked_at.append(next(self._notes))
        return self._looked_at[0]

    def __iter__(self) -> Iterator[Document]:
        """Each note as soon as it is there.

        Raises:
            CorpusError: Nothing comes, or a note cannot be read exactly.
        """
        while self._looked_at:
            yield self._looked_at.pop()
        yield from self._notes

    def _read(self) -> Iterator[Document]:
        first: list[bytes] = []
        for raw in self._file:
            first.append(raw)
            if raw.strip():
                break
        else:
            raise CorpusError(f"{self.place}: empty; expected JSON lines or the text of a note.")
        lines = chain(first, self._file)
        if not _LIKE_JSON.match(first[-1].removeprefix(_BOM)):
            yield Document("stdin", _text(b"".join(lines)))
            return
        for note in _JsonLines(lines).notes():
            if isinstance(note, BadNote):
                raise CorpusError("\n".join(map(str, note.faults)))
            yield note


class _JsonLines(JsonlReader):
    """JSON lines that are in no file."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        super().__init__(Path(StandardInput.place))
        self._lines = lines

    def notes(self) -> Iterator[Document | BadNote]:
        ids: set[str] = set()
        for line, raw in enumerate(self._lines, 1):
            if not raw.isspace():
                yield self._note(raw, line, ids)


def _text(raw: bytes) -> str:
    if raw.startswith(_BOM):
        raise CorpusError("stdin: starts with a byte order mark, which shifts offsets. Remove it.")
    if b"\0" in raw:
        raise CorpusError(f"stdin: NUL byte at byte {raw.index(0)}. Remove it.")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is not UTF-8. Convert the note first."
    raise CorpusError(f"stdin: {reason}")
