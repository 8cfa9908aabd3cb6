"""Reading BRAT standoff: a folder of `.txt` notes with an `.ann` file beside each.

Sub-folders are read too; a document's id is its path in the folder without the suffix. What a line
of an `.ann` file becomes is said in `brat_annotations.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedmedlora.core.document import Document
from fedmedlora.corpora.brat_annotations import AnnotationParser
from fedmedlora.corpora.note_folder import note_id, note_paths
from fedmedlora.corpora.reader import BadNote, Fault, Reader
from fedmedlora.corpora.text import read_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def read_brat(folder: Path, *, skip_bad_notes: bool = False) -> list[Document]:
    """All notes of a folder, ordered by id.

    Raises:
        CorpusError: A note cannot be read exactly and `skip_bad_notes` is not set.
    """
    return list(BratReader(folder, skip_bad_notes=skip_bad_notes))


def holds_brat(folder: Path) -> bool:
    """Whether there is an annotation file somewhere in the folder."""
    return any(True for _ in note_paths(folder, (".ann",)))


class BratReader(Reader):
    """The notes of one folder, ordered by id.

    Args:
        path: The folder.
        text_may_stop_at_line_end: Take a mention whose copied text stops at the first line end
            that its offsets pass, as some tools write it; counted in `adjusted`.
        options: Those of every reader.
    """

    def __init__(
        self, path: Path, *, text_may_stop_at_line_end: bool = False, **options: Any
    ) -> None:
        super().__init__(path, **options)
        self.text_may_stop_at_line_end = text_may_stop_at_line_end

    def notes(self) -> Iterator[Document | BadNote]:
        """Every note in the folder, the bad ones as what is wrong with them."""
        stems: dict[str, set[str]] = {}
        for path in note_paths(self.path, (".txt", ".ann")):
            stems.setdefault(note_id(self.path, path), set()).add(path.suffix)
        for stem in sorted(stems):
            yield self._note(stem, stems[stem])
        if not stems:
            reason = "no .txt and no .ann file in the folder."
            yield BadNote((Fault(self.path, None, "empty-file", reason),))

    def _note(self, stem: str, suffixes: set[str]) -> Document | BadNote:
        text_path, ann_path = self.path / f"{stem}.txt", self.path / f"{stem}.ann"
        if ".txt" not in suffixes:
            reason = "there is no .txt file of this name; expected the note beside it."
            return BadNote((Fault(ann_path, None, "orphan", reason),))
        if ".ann" not in suffixes:
            reason = "there is no .ann file of this name; expected one, empty if nothing was found."
            return BadNote((Fault(text_path, None, "orphan", reason),))
        faults: list[Fault] = []
        text, annotations = read_text(text_path, faults), read_text(ann_path, faults)
        if text is None or annotations is None:
            return BadNote(tuple(faults))
        parser = AnnotationParser(ann_path, text, self.check_label, self.text_may_stop_at_line_end)
        parsed = parser.parse(annotations)
        if parser.faults:
            return BadNote(tuple(sorted(parser.faults, key=lambda fault: fault.line or 0)))
        self.dropped.update(parser.dropped)
        self.adjusted.update(parser.adjusted)
        return Document(stem, text, *parsed, self.annotated_labels, self.source, parser.extras)
