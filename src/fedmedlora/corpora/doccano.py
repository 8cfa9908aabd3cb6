"""Doccano's JSON lines: spans as `[start, end, label]`, or entities with relations.

Both shapes are read; the second is written. Doccano numbers entities and relations, so their ids
are read as `T<number>` and `R<number>`. Beside what Doccano knows, a written line holds
`document_id` and `metadata`, which Doccano keeps as its own metadata.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from fedmedlora.core.errors import CorpusError
from fedmedlora.corpora.compressed import DAMAGED, open_bytes, replace_bytes
from fedmedlora.corpora.flatten import without_fragments
from fedmedlora.corpora.jsonl import document_line, parse_json_line
from fedmedlora.corpora.note_builder import NoteBuilder
from fedmedlora.corpora.note_folder import note_paths
from fedmedlora.corpora.numbered_ids import numbered_ids
from fedmedlora.corpora.reader import BadNote, Fault, FaultCode, Reader, shown

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from fedmedlora.core.document import Document

SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".jsonl.zst")

_KNOWN = {"id", "document_id", "text", "label", "labels", "entities", "relations", "metadata"}
_NUMBER = "0|[1-9][0-9]{0,8}"
_BLANKED_ID = re.compile(rb'\A\s*\{\s*"id":\s*\*+(?=\s*,)')
_RENUMBERED = "id that was blanked out: numbered by line"


class DoccanoReader(Reader):
    """The documents of one file, or of all JSON lines files in a folder.

    A document's id is our `document_id`, else Doccano's id, else the number of its line from 0.
    """

    def notes(self) -> Iterator[Document | BadNote]:
        """Every note, the bad ones as what is wrong with them."""
        ids: set[str] = set()
        empty = True
        for path in note_paths(self.path, SUFFIXES):
            line = 0
            try:
                with open_bytes(path) as file:
                    for line, raw in enumerate(file, 1):
                        if not raw.isspace():
                            empty = False
                            yield self._note(path, raw, line, ids)
            except DAMAGED:
                reason = "the compressed file is cut off or damaged from here. Copy it again."
                yield BadNote((Fault(path, line + 1, "damaged-file", reason),))
                empty = False
        if empty:
            reason = "no line with a note; expected at least one."
            yield BadNote((Fault(self.path, None, "empty-file", reason),))

    def _note(self, path: Path, raw: bytes, line: int, ids: set[str]) -> Document | BadNote:
        problems: list[tuple[FaultCode, str]] = []
        data = parse_json_line(raw, line, problems)
        if blanked := bool(problems and _BLANKED_ID.match(raw)):
            problems = []
            data = parse_json_line(_BLANKED_ID.sub(b'{"id": null', raw), line, problems)
        text = data.get("text") if type(data) is dict else None
        if not problems and type(text) is not str:
            reason = "no object with a string as 'text'; expected one note of Doccano's."
            problems.append(("wrong-type", reason))
        identity = _document_id(data, line) if type(data) is dict else f"line {line}"
        if identity in ids:
            reason = f"document id {shown(identity)} occurs twice; expected unique ids."
            problems.append(("duplicate-id", reason))
        ids.add(identity)
        if type(text) is not str or any(code != "duplicate-id" for code, _ in problems):
            return BadNote(tuple(Fault(path, line, *problem) for problem in problems))
        note = NoteBuilder(self, path, identity, text, line)
        for problem in problems:
            note.fault(line, *problem)
        note.adjusted[_RENUMBERED] = int(blanked)
        _add_spans(note, data, line)
        _add_entities(note, data, line)
        return note.build(_metadata(note, data, line))


def _document_id(data: dict[str, Any], line: int) -> str:
    for key in ("document_id", "id"):
        value = data.get(key)
        if type(value) is int or (type(value) is str and value):
            return str(value)
    return f"line{line - 1:05d}"


def _metadata(note: NoteBuilder, data: dict[str, Any], line: int) -> dict[str, Any]:
    """What else the line holds; our own metadata comes back as it was."""
    own = data.get("metadata", {})
    if type(own) is not dict:
        note.fault(line, "wrong-type", "'metadata' is not an object.")
        return {}
    others = {key: value for key, value in data.items() if key not in _KNOWN and value}
    return others | own


def _items(note: NoteBuilder, data: dict[str, Any], key: str, kind: type, line: int) -> list[Any]:
    value = data.get(key)
    if value is None:
        return []
    if type(value) is not list or not all(type(item) is kind for item in value):
        note.fault(line, "wrong-type", f"{key!r} is not a list of {kind.__name__} values.")
        return []
    return value


def _add_spans(note: NoteBuilder, data: dict[str, Any], line: int) -> None:
    key = "labels" if "labels" in data else "label"
    for index, item in enumerate(_items(note, data, key, list, line)):
        if len(item) == len(("start", "end", "label")):
            note.add_entity(f"T{index}", item[2], item[0], item[1], line)
        else:
            note.fault(line, "wrong-type", f"{key}[{index}] is not [start, end, label].")


def _add_entities(note: NoteBuilder, data: dict[str, Any], line: int) -> None:
    for item in _items(note, data, "entities", dict, line):
        offsets = item.get("start_offset"), item.get("end_offset")
        note.add_entity(f"T{item.get('id')}", item.get("label"), *offsets, line)
    for item in _items(note, data, "relations", dict, line):
        ends = f"T{item.get('from_id')}", f"T{item.get('to_id')}"
        note.add_relation(f"R{item.get('id')}", item.get("type"), *ends, line)


def write_doccano(path: Path, documents: Iterable[Document]) -> int:
    """The number of documents written; the file is replaced as a whole or not at all.

    Raises:
        CorpusError: Two documents have the same id, or one is not as `fit_doccano` makes it.
    """
    ids: set[str] = set()
    with replace_bytes(path) as file:
        for document in documents:
            if document.id in ids:
                raise CorpusError(f"{path}: document id {shown(document.id)} occurs twice.")
            ids.add(document.id)
            file.write(doccano_line(document))
    return len(ids)


def fit_doccano(document: Document, lost: Counter[str]) -> Document:
    """What the format can hold of the document: mentions without fragments. The rest is counted."""
    whole = without_fragments(document, lost)
    lost["score"] += sum(entity.score is not None for entity in whole.entities)
    for kind, letter, items in (
        ("mention", "T", whole.entities),
        ("relation", "R", whole.relations),
    ):
        given = numbered_ids(letter, [item.id for item in items], number=_NUMBER, first=0)
        renamed = sum(old != new for old, new in given.items())
        lost[f"id of a {kind}: numbered anew"] += renamed
    return whole


def doccano_line(document: Document) -> bytes:
    """The document's line, with its line end.

    Raises:
        CorpusError: A mention is in fragments, or the document holds what reading would refuse.
    """
    document_line(document)  # refuses what no JSON lines reader takes
    if any(entity.is_discontinuous for entity in document.entities):
        reason = "a mention is in fragments, which Doccano cannot hold."
        raise CorpusError(f"document {shown(document.id)}: {reason}")
    names = numbered_ids("T", [e.id for e in document.entities], number=_NUMBER, first=0)
    links = numbered_ids("R", [r.id for r in document.relations], number=_NUMBER, first=0)
    data: dict[str, Any] = {
        "document_id": document.id,
        "text": document.text,
        "entities": [
            {
                "id": int(names[entity.id][1:]),
                "label": entity.label,
                "start_offset": entity.start,
                "end_offset": entity.end,
            }
            for entity in document.entities
        ],
        "relations": [
            {
                "id": int(links[relation.id][1:]),
                "from_id": int(names[relation.head][1:]),
                "to_id": int(names[relation.tail][1:]),
                "type": relation.label,
            }
            for relation in document.relations
        ],
    }
    if document.metadata:
        data["metadata"] = dict(document.metadata)
    return json.dumps(data, ensure_ascii=False, allow_nan=False).encode() + b"\n"
