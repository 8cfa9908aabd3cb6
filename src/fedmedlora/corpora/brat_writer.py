"""Writing BRAT standoff, so that BRAT shows it and our own reader gives back the same document.

The note's text is written unchanged. What BRAT has no place for stands in `#` notes of our own
type: the score of a prediction, ids that BRAT does not allow, and the exact span of a mention that
runs over a line end, which BRAT wants in fragments. Of the metadata, attributes and groups are
written as BRAT's own lines; the rest is left out.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from fedmedlora.core.errors import CorpusError
from fedmedlora.corpora.brat_annotations import OWN_NOTE, line_pieces
from fedmedlora.corpora.extras import ATTRIBUTES, GROUPS, ROLES, items
from fedmedlora.corpora.note_folder import check_file_name, check_labels, write_notes
from fedmedlora.corpora.numbered_ids import numbered_ids
from fedmedlora.corpora.reader import shown

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from fedmedlora.core.document import Document


def write_brat(folder: Path, documents: Iterable[Document]) -> int:
    """The number of notes written; the folder appears as a whole or not at all.

    Raises:
        CorpusError: The folder holds something already, two documents have the same id, or BRAT
            cannot hold one of them.
    """
    return write_notes(folder, ((document.id, _files(document)) for document in documents))


def _files(document: Document) -> dict[str, bytes]:
    text, annotations = note_files(document)
    return {".txt": text, ".ann": annotations}


def note_files(document: Document) -> tuple[bytes, bytes]:
    """The bytes of the document's `.txt` and `.ann` file.

    Raises:
        CorpusError: The id cannot be a path, a label holds white space, or the text is one that
            reading would refuse.
    """
    where = f"document {shown(document.id)}"
    check_file_name(document.id)
    if "\0" in document.text or document.text.startswith("\ufeff"):
        raise CorpusError(f"{where}: the text holds a NUL or starts with a byte order mark.")
    check_labels(
        document.id, [x.label for x in document.entities] + [x.label for x in document.relations]
    )
    try:
        annotations = "".join(f"{line}\n" for line in _annotation_lines(document)).encode()
        return document.text.encode(), annotations
    except UnicodeEncodeError:
        raise CorpusError(f"{where}: holds half a surrogate pair.") from None


def _annotation_lines(document: Document) -> list[str]:
    lines: list[str] = []
    notes: list[tuple[str, dict[str, Any]]] = []
    names = numbered_ids("T", [entity.id for entity in document.entities])
    for entity in document.entities:
        name = names[entity.id]
        pieces = line_pieces(document.text, entity.spans)
        offsets = ";".join(f"{piece.start} {piece.end}" for piece in pieces)
        covered = " ".join(document.text[piece.start : piece.end] for piece in pieces)
        covered = re.sub(r"[\r\n]", " ", covered)
        lines.append(f"{name}\t{entity.label} {offsets}\t{covered}")
        own: dict[str, Any] = {} if name == entity.id else {"id": entity.id}
        if pieces != entity.spans:
            own["spans"] = [[span.start, span.end] for span in entity.spans]
        if entity.score is not None:
            own["score"] = entity.score
        notes.append((name, own))
    links = numbered_ids("R", [relation.id for relation in document.relations])
    for relation in document.relations:
        name, head, tail = links[relation.id], names[relation.head], names[relation.tail]
        lines.append(f"{name}\t{relation.label} Arg1:{head} Arg2:{tail}")
        notes.append((name, {} if name == relation.id else {"id": relation.id}))
    told = [(name, own) for name, own in notes if own]
    attributes, groups = _writable_extras(document)
    names |= links
    for number, item in enumerate(attributes, 1):
        value = "" if item["value"] is True else f" {item['value']}"
        lines.append(f"A{number}\t{item['name']} {names[item['target']]}{value}")
    lines += [
        f"*\t{' '.join([item['label'], *(names[m] for m in item['members'])])}" for item in groups
    ]
    return lines + [
        f"#{number}\t{OWN_NOTE} {name}\t{json.dumps(own)}"
        for number, (name, own) in enumerate(told, 1)
    ]


def _writable_extras(document: Document) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The attributes and the groups that BRAT can hold."""
    ids = {entity.id for entity in document.entities}
    known = ids ^ {relation.id for relation in document.relations}  # an id of both says too little
    attributes = [
        item
        for item in items(document, ATTRIBUTES)
        if item["target"] in known
        and re.fullmatch(r"\S+", item["name"])
        and (item["value"] is True or re.fullmatch(r"[^\s\0]+(?: [^\s\0]+)*", item["value"]))
    ]
    groups = [
        item
        for item in items(document, GROUPS)
        if re.fullmatch(r"\S+", item["label"])
        and item["members"]
        and known.issuperset(item["members"])
    ]
    return attributes, groups


def brat_losses(document: Document) -> Counter[str]:
    """What of the document will not be in its BRAT files, by kind."""
    attributes, groups = _writable_extras(document)
    others = document.metadata.keys() - {
        kind for kind in (ATTRIBUTES, GROUPS, ROLES) if items(document, kind)
    }
    lost = {
        "metadata": len(others) > 0,
        "attribute": len(items(document, ATTRIBUTES)) - len(attributes),
        "group": len(items(document, GROUPS)) - len(groups),
        "event role": len(items(document, ROLES)),
    }
    return Counter({kind: int(count) for kind, count in lost.items() if count})
