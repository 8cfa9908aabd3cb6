"""Documents as JSON lines, the interchange format: `.jsonl`, `.jsonl.gz` and `.jsonl.zst`.

One document a line, UTF-8 without a byte order mark, one `LF` a line; blank lines hold nothing and
are passed over. Offsets are code points, end exclusive, and `text[start:end]` must equal the
entity's `text` (gaps of a discontinuous entity included).
"""

from __future__ import annotations

import json
import math
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NoReturn

from fedmedlora.core.document import Document, Entity, Relation, Span
from fedmedlora.core.errors import CorpusError
from fedmedlora.core.suggest import did_you_mean
from fedmedlora.corpora.compressed import DAMAGED, open_bytes, replace_bytes
from fedmedlora.corpora.reader import (
    BadNote,
    Fault,
    FaultCode,
    LabelCheck,
    Reader,
    is_identifier,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")

_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_DOCUMENT_KEYS = {"id", "text", "entities", "relations", "metadata"}
_ENTITY_KEYS = {"id", "label", "start", "end", "text", "fragments", "score"}
_RELATION_KEYS = {"id", "label", "head", "tail"}
_ENTITY = itemgetter("id", "label", "start", "end", "text")
_RELATION = itemgetter("id", "label", "head", "tail")

Problem = tuple[FaultCode, str]


def is_jsonl(path: Path) -> bool:
    """Whether the file's name says that it holds JSON lines."""
    return path.name.endswith(SUFFIXES)


def read_jsonl(path: Path, *, skip_bad_notes: bool = False) -> list[Document]:
    """All documents of a file, in file order.

    Raises:
        CorpusError: A note cannot be read exactly and `skip_bad_notes` is not set.
    """
    return list(JsonlReader(path, skip_bad_notes=skip_bad_notes))


def write_jsonl(path: Path, documents: Iterable[Document]) -> int:
    """The number of documents written; the file is replaced as a whole or not at all.

    `source` and `annotated_labels` belong to the corpus card and are not written.

    Raises:
        CorpusError: Two documents have the same id, or one holds what reading would refuse.
    """
    ids: set[str] = set()
    with replace_bytes(path) as file:
        for document in documents:
            if document.id in ids:
                raise CorpusError(f"{path}: document id {shown(document.id)} occurs twice.")
            ids.add(document.id)
            file.write(document_line(document))
    return len(ids)


def document_line(document: Document) -> bytes:
    """The document's line, with its line end.

    Raises:
        CorpusError: The document holds a NUL character, half a surrogate pair, or metadata that
            JSON cannot hold.
    """
    where = f"document {shown(document.id)}"
    if "\0" in document.text:
        raise CorpusError(f"{where}: the text holds a NUL character. Remove it.")
    data = {
        "id": document.id,
        "text": document.text,
        "entities": [_entity_json(entity, document) for entity in document.entities],
        "relations": [
            {"id": r.id, "label": r.label, "head": r.head, "tail": r.tail}
            for r in document.relations
        ],
        "metadata": dict(document.metadata),
    }
    try:
        return json.dumps(data, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:
        reason = "holds half a surrogate pair, which UTF-8 cannot hold"
    except (TypeError, ValueError):
        reason = "has metadata or a score that JSON cannot hold"
    raise CorpusError(f"{where}: {reason}.")


def _entity_json(entity: Entity, document: Document) -> dict[str, Any]:
    data: dict[str, Any] = {
        "id": entity.id,
        "label": entity.label,
        "start": entity.start,
        "end": entity.end,
        "text": document.entity_text(entity),
    }
    if entity.is_discontinuous:
        data["fragments"] = [[span.start, span.end] for span in entity.spans]
    if entity.score is not None:
        data["score"] = entity.score
    return data


class JsonlReader(Reader):
    """The documents of one JSON lines file."""

    def notes(self) -> Iterator[Document | BadNote]:
        """Every note in the file, the bad ones as what is wrong with them."""
        ids: dict[str, int] = {}
        line, empty = 0, True
        try:
            with open_bytes(self.path) as file:
                for line, raw in enumerate(file, 1):
                    if raw.isspace():
                        continue
                    empty = False
                    if line == 1 and raw.startswith(_UTF16_BOMS):
                        yield self._bad(1, [("encoding", "the file is UTF-16; expected UTF-8.")])
                        return
                    yield self._note(raw, line, ids)
        except DAMAGED:
            reason = "the compressed file is cut off or damaged from here. Copy it again."
            yield self._bad(line + 1, [("damaged-file", reason)])
            return
        if empty:
            reason = "the file is empty; expected at least one document."
            yield self._bad(None, [("empty-file", reason)])

    def _bad(self, line: int | None, problems: list[Problem]) -> BadNote:
        return BadNote(tuple(Fault(self.path, line, code, text) for code, text in problems))

    def _note(self, raw: bytes, line: int, ids: dict[str, int]) -> Document | BadNote:
        problems: list[Problem] = []
        data = parse_json_line(raw, line, problems)
        document = None if problems else self._document(data, problems)
        identity = data.get("id") if type(data) is dict else None
        if type(identity) is str and identity:  # also of a note with other faults
            first = ids.setdefault(identity, line)
            if first != line:
                reason = f"document id {shown(identity)} occurs twice, first in line {first}; "
                problems.append(("duplicate-id", reason + "expected unique ids."))
        return self._bad(line, problems) if document is None or problems else document

    def _document(self, data: Any, problems: list[Problem]) -> Document | None:
        if type(data) is not dict:
            problems.append(("wrong-type", "the line is not a JSON object; expected a document."))
            return None
        _unknown_keys(data, _DOCUMENT_KEYS, "the document", problems)
        identity, text = data.get("id"), data.get("text")
        if type(identity) is not str or not identity:
            problems.append(_missing_or_wrong(data, "id", "the document", "a string"))
        if type(text) is not str:
            problems.append(_missing_or_wrong(data, "text", "the document", "a string"))
            return None  # offsets cannot be judged without the text
        if "\0" in text:
            problems.append(("nul", f"NUL character at offset {text.index(chr(0))} of the text."))
        metadata = data.get("metadata", {})
        if type(metadata) is not dict:
            problems.append(("wrong-type", "metadata is not an object."))
        entities = _entities(data, text, self.check_label, problems)
        ids = {e.id for e in entities} if not problems else _claimed_ids(data)
        relations = _relations(data, ids, problems)
        if problems:
            return None
        return Document(
            identity,  # type: ignore[arg-type]  # a string, or there was a problem
            text,
            tuple(entities),
            tuple(relations),
            self.annotated_labels,
            self.source,
            metadata,
        )


def _refuse_constant(_name: str) -> NoReturn:
    raise ValueError("not a JSON number")


_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode


def parse_json_line(raw: bytes, line: int, problems: list[Problem]) -> Any:
    """The line's JSON value; what is wrong with its bytes goes to `problems`."""
    if line == 1 and raw.startswith(_BOM):
        problems.append(
            ("bom", "the file starts with a byte order mark; expected UTF-8 without one.")
        )
        raw = raw[len(_BOM) :]
    if b"\0" in raw:
        problems.append(("nul", f"NUL byte at byte {raw.index(0)} of the line."))
        return None
    raw = raw.rstrip()
    try:
        value = _decode(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        problems.append(("encoding", f"byte {error.start} of the line is not UTF-8."))
    except json.JSONDecodeError as error:
        problems.append(("broken-line", f"not JSON from column {error.pos + 1} on."))
    except (ValueError, RecursionError):
        problems.append(("broken-line", "not JSON: a number or a depth that no document has."))
    else:
        if b"\\ud" in raw or b"\\uD" in raw:
            try:
                json.dumps(value, ensure_ascii=False).encode()
            except UnicodeEncodeError:
                reason = "half a surrogate pair (an escape such as \\ud83d alone)."
                problems.append(("encoding", reason))
        return value
    return None


def _unknown_keys(
    data: dict[str, Any], known: set[str], where: str, problems: list[Problem]
) -> None:
    problems.extend(
        ("unknown-key", f"{where} has the unknown key {shown(key)}.{did_you_mean(key, known)}")
        for key in sorted(data.keys() - known)
    )


def _missing_or_wrong(data: dict[str, Any], key: str, where: str, expected: str) -> Problem:
    if key not in data:
        return "missing-key", f"{where} has no {key!r}; expected {expected}."
    if data[key] == "":
        return "wrong-type", f"{where} has an empty {key!r}."
    got = type(data[key]).__name__
    return "wrong-type", f"{where}: {key!r} is of type {got}; expected {expected}."


def _objects(data: dict[str, Any], key: str, problems: list[Problem]) -> list[dict[str, Any]]:
    """The objects in the list under `key`; anything else goes to `problems`."""
    value = data.get(key, [])
    if type(value) is not list:
        problems.append(("wrong-type", f"{key!r} is not a list."))
        return []
    for index, item in enumerate(value):
        if type(item) is not dict:
            problems.append(("wrong-type", f"{key}[{index}] is not an object."))
    return [item for item in value if type(item) is dict] if problems else value


def _note_id(
    kind: str, raw: dict[str, Any], number: int, ids: set[str], problems: list[Problem]
) -> None:
    """Add the id, or the fault that it occurs twice; whatever else is wrong with the object."""
    identity = raw.get("id")
    if type(identity) is str and identity:
        if identity in ids:
            where = _where(kind, raw, number)
            problems.append(("duplicate-id", f"{where}: the id occurs twice in the note."))
        ids.add(identity)


def _entities(
    data: dict[str, Any], text: str, check_label: LabelCheck | None, problems: list[Problem]
) -> list[Entity]:
    entities: list[Entity] = []
    ids: set[str] = set()
    for number, raw in enumerate(_objects(data, "entities", problems), 1):
        spans: tuple[Span, ...] | None = None
        _note_id("entity", raw, number, ids, problems)
        try:
            identity, label, start, end, covered = _ENTITY(raw)
        except KeyError:
            problems.extend(_wrong_entity_fields(raw, number))
            continue
        if not (
            type(start) is int
            and type(end) is int
            and type(identity) is str
            and type(label) is str
            and type(covered) is str
            and identity
            and label
        ):
            problems.extend(_wrong_entity_fields(raw, number))
            continue
        if not 0 <= start < end <= len(text):
            reason = f"offsets {start} to {end} do not lie in the text of {len(text)} characters."
            problems.append(("offset", f"{_where('entity', raw, number)}: {reason}"))
            continue
        if text[start:end] != covered:
            reason = f"its text is not what stands at {start} to {end}."
            problems.append(("text-mismatch", f"{_where('entity', raw, number)}: {reason}"))
        if check_label is not None and (refused := check_label(label)):
            problems.append(("unknown-label", f"{_where('entity', raw, number)}: {refused}"))
        score = None
        if len(raw) > len(("id", "label", "start", "end", "text")):
            where = _where("entity", raw, number)
            _unknown_keys(raw, _ENTITY_KEYS, where, problems)
            spans = _fragments(raw, start, end, where, problems)
            score = _score(raw, where, problems)
        if not problems:
            entities.append(Entity(identity, label, spans or (Span(start, end),), score))
    return entities


def _where(kind: str, raw: dict[str, Any], number: int) -> str:
    """An entity or a relation for an error message: by its id, else by its place in the note."""
    identity = raw.get("id")
    return f"{kind} {identity!r}" if is_identifier(identity) else f"{kind} number {number}"


def _wrong_entity_fields(raw: dict[str, Any], number: int) -> list[Problem]:
    where = _where("entity", raw, number)
    kinds = {"id": str, "label": str, "start": int, "end": int, "text": str}
    wrong = [
        _missing_or_wrong(raw, key, where, "a string" if kind is str else "a whole number")
        for key, kind in kinds.items()
        if type(raw.get(key)) is not kind or (key in ("id", "label") and not raw[key])
    ]
    _unknown_keys(raw, _ENTITY_KEYS, where, wrong)
    return wrong


def _fragments(
    raw: dict[str, Any], start: int, end: int, where: str, problems: list[Problem]
) -> tuple[Span, ...] | None:
    if "fragments" not in raw:
        return None
    pairs = raw["fragments"]
    if not (
        type(pairs) is list
        and pairs
        and all(type(p) is list and len(p) == 2 and all(type(o) is int for o in p) for p in pairs)
    ):
        problems.append(("wrong-type", f"{where}: fragments are not a list of [start, end]."))
        return None
    offsets = [offset for pair in pairs for offset in pair]
    ordered = all(s < e for s, e in pairs) and offsets == sorted(offsets)
    if not ordered or offsets[0] != start or offsets[-1] != end:
        reason = "fragments must be in text order, without overlap, from start to end."
        problems.append(("offset", f"{where}: {reason}"))
        return None
    return tuple(Span(s, e) for s, e in pairs)


def _score(raw: dict[str, Any], where: str, problems: list[Problem]) -> float | None:
    score = raw.get("score")
    if score is None:
        return None
    if type(score) not in (int, float) or not math.isfinite(score):
        problems.append(("wrong-type", f"{where}: score is not a number."))
        return None
    return float(score)


def _claimed_ids(data: dict[str, Any]) -> set[str]:
    """The ids of all entities, those that could not be read included."""
    entities = data.get("entities")
    return {
        raw["id"]
        for raw in (entities if type(entities) is list else [])
        if type(raw) is dict and type(raw.get("id")) is str
    }


def _relations(
    data: dict[str, Any], entity_ids: set[str], problems: list[Problem]
) -> list[Relation]:
    relations: list[Relation] = []
    ids: set[str] = set()
    for number, raw in enumerate(_objects(data, "relations", problems), 1):
        _note_id("relation", raw, number, ids, problems)
        try:
            identity, label, head, tail = _RELATION(raw)
        except KeyError:
            identity = label = head = tail = None
        if not (
            type(identity) is str
            and type(label) is str
            and type(head) is str
            and type(tail) is str
            and identity
            and label
            and head
            and tail
        ):
            problems.extend(_wrong_relation_fields(raw, number))
            continue
        where = _where("relation", raw, number)
        if len(raw) > len(_RELATION_KEYS):
            _unknown_keys(raw, _RELATION_KEYS, where, problems)
        for end in (head, tail):
            if end not in entity_ids:
                reason = f"{where} names {shown(end)}, which is no entity here."
                problems.append(("dangling-relation", reason))
        relations.append(Relation(identity, label, head, tail))
    return relations


def _wrong_relation_fields(raw: dict[str, Any], number: int) -> list[Problem]:
    where = _where("relation", raw, number)
    wrong = [
        _missing_or_wrong(raw, key, where, "a string")
        for key in ("id", "label", "head", "tail")
        if type(raw.get(key)) is not str or not raw[key]
    ]
    _unknown_keys(raw, _RELATION_KEYS, where, wrong)
    return wrong
