"""One note while it is read: collects entities and relations, and every fault instead of the first.

For formats in which an annotation is a span of characters; what it refuses, every format refuses.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from fedmedlora.core.document import Document, Entity, Relation, Span
from fedmedlora.corpora.reader import BadNote, Fault, FaultCode, Reader, shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class NoteBuilder:
    """Builds one document of a reader.

    Args:
        reader: Whose document it is.
        file: The file that faults name.
        identity: The document's id.
        text: The note.
        line: Where the note starts in the file, for faults of the note as a whole.
    """

    def __init__(
        self, reader: Reader, file: Path, identity: str, text: str, line: int | None = None
    ) -> None:
        self.reader = reader
        self.file = file
        self.identity = identity
        self.text = text
        self.line = line
        self.entities: dict[str, Entity] = {}
        self.relations: dict[str, Relation] = {}
        self.faults: list[Fault] = []
        self.dropped: Counter[str] = Counter()
        self.adjusted: Counter[str] = Counter()
        self._claimed: set[str] = set()
        self._claimed_relations: set[str] = set()
        if "\0" in text:
            self.fault(line, "nul", f"NUL character at offset {text.index(chr(0))} of the text.")

    def fault(self, line: int | None, code: FaultCode, reason: str) -> None:
        """Note that something is wrong."""
        self.faults.append(Fault(self.file, line, code, reason))

    def add_entity(
        self,
        identity: str,
        label: Any,
        start: Any,
        end: Any,
        line: int | None,
        *,
        covered: str | None = None,
        score: float | None = None,
    ) -> None:
        """Add a mention, unless it has a fault.

        `covered` is what the file gives as its text; white space in it may differ.
        """
        where = f"entity {shown(identity)}"
        if identity in self._claimed:
            self.fault(line, "duplicate-id", f"entity id {shown(identity)} occurs twice.")
            return
        self._claimed.add(identity)
        if type(label) is not str or not label:
            self.fault(line, "wrong-type", f"{where}: its label is not a string, or empty.")
            return
        if type(start) is not int or type(end) is not int:
            self.fault(line, "wrong-type", f"{where}: its offsets are not whole numbers.")
            return
        if not 0 <= start < end <= len(self.text):
            where += f": offsets {start} to {end} do not lie in the text of"
            self.fault(line, "offset", f"{where} {len(self.text)} characters.")
            return
        if covered is not None and covered.split() != self.text[start:end].split():
            reason = f"{where}: its text is not what stands at {start} to {end}."
            self.fault(line, "text-mismatch", reason)
            return
        if self.reader.check_label is not None and (refused := self.reader.check_label(label)):
            self.fault(line, "unknown-label", f"{where}: {refused}")
        self.entities[identity] = Entity(identity, label, (Span(start, end),), score)

    def add_relation(
        self, identity: str, label: Any, head: str, tail: str, line: int | None
    ) -> None:
        """Add a relation, unless it has a fault or an end of it has one. Entities come first."""
        where = f"relation {shown(identity)}"
        if identity in self._claimed_relations:
            self.fault(line, "duplicate-id", f"relation id {shown(identity)} occurs twice.")
            return
        self._claimed_relations.add(identity)
        if type(label) is not str or not label:
            self.fault(line, "wrong-type", f"{where}: its label is not a string, or empty.")
            return
        for end in (head, tail):
            if end not in self._claimed:
                reason = f"{where} names {shown(end)}, which is no entity here."
                self.fault(line, "dangling-relation", reason)
        if head in self.entities and tail in self.entities:
            self.relations[identity] = Relation(identity, label, head, tail)

    def build(self, metadata: Mapping[str, Any] | None = None) -> Document | BadNote:
        """The document, or its faults. What was dropped and adjusted counts if it has none."""
        if not self.faults and not _is_unicode(self.text, metadata, *self.entities.values()):
            reason = "half a surrogate pair (an escape such as \\ud83d alone)."
            self.fault(self.line, "encoding", reason)
        if self.faults:
            return BadNote(tuple(sorted(self.faults, key=lambda fault: fault.line or 0)))
        self.reader.dropped.update(+self.dropped)
        self.reader.adjusted.update(+self.adjusted)
        return Document(
            self.identity,
            self.text,
            tuple(self.entities.values()),
            tuple(self.relations.values()),
            self.reader.annotated_labels,
            self.reader.source,
            metadata or {},
        )


def _is_unicode(text: str, metadata: Mapping[str, Any] | None, *entities: Entity) -> bool:
    names = "".join(entity.id + entity.label for entity in entities)
    try:
        (text + names + json.dumps(metadata, ensure_ascii=False)).encode()
    except UnicodeEncodeError:
        return False
    return True
