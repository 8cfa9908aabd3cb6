"""Plain text notes: one `.txt` file, one document, every character kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmedlora.core.document import Document
from fedmedlora.core.errors import CorpusError

if TYPE_CHECKING:
    from pathlib import Path


def read_text_note(path: Path, document_id: str) -> Document:
    """The note in a UTF-8 file; line ends stay as they are.

    Raises:
        CorpusError: The file is not UTF-8 or holds NUL bytes.
    """
    data = path.read_bytes()
    if b"\0" in data:
        raise CorpusError(
            f"{path}: holds a NUL byte at byte {data.index(0)}; expected text. Convert it first."
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path}: not UTF-8 at byte {error.start}; expected UTF-8. Convert it first."
        ) from None
    return Document(document_id, text)
