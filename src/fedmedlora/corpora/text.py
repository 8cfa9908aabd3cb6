"""Text files: UTF-8, every character kept, line ends as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmedlora.core.document import Document
from fedmedlora.core.errors import CorpusError
from fedmedlora.corpora.reader import Fault

if TYPE_CHECKING:
    from pathlib import Path


def read_text_note(path: Path, document_id: str) -> Document:
    """The note in a UTF-8 file; line ends stay as they are.

    Raises:
        CorpusError: The file is not plain UTF-8: another encoding, a byte order mark, NUL bytes.
    """
    faults: list[Fault] = []
    text = read_text(path, faults)
    if text is None:
        fault = faults[0]
        raise CorpusError(f"{path}:{fault.line}: {fault.reason} Convert the file first.")
    return Document(document_id, text)


def read_text(path: Path, faults: list[Fault]) -> str | None:
    """The file's text with its line ends as they are, or None after adding to `faults`."""
    raw = path.read_bytes()
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        faults.append(Fault(path, 1, "encoding", "the file is UTF-16; expected UTF-8."))
        return None
    before = len(faults)
    if raw.startswith(b"\xef\xbb\xbf"):
        reason = "the file starts with a byte order mark, which shifts offsets; expected none."
        faults.append(Fault(path, 1, "bom", reason))
    if b"\0" in raw:
        line = raw.count(b"\n", 0, raw.index(0)) + 1
        faults.append(Fault(path, line, "nul", f"NUL byte at byte {raw.index(0)} of the file."))
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        reason = f"byte {error.start} of the file is not UTF-8."
        faults.append(Fault(path, line, "encoding", reason))
        return None
    return text if len(faults) == before else None
