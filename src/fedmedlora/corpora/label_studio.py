"""Label Studio's JSON: a list of tasks with annotations or predictions.

Offsets there are JavaScript's: UTF-16 code units, two for a character such as an emoji. Regions of
type `labels` on plain text and relations between them are read and written; a document with scores
is written as a prediction, any other as an annotation. Label Studio holds no fragments.
"""

from __future__ import annotations

import json
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NoReturn
from xml.sax.saxutils import quoteattr

from fedmedlora.core.errors import CorpusError
from fedmedlora.corpora.compressed import replace_bytes
from fedmedlora.corpora.flatten import without_fragments
from fedmedlora.corpora.jsonl import document_line
from fedmedlora.corpora.note_builder import NoteBuilder
from fedmedlora.corpora.note_folder import note_paths
from fedmedlora.corpora.reader import BadNote, Fault, Reader, shown
from fedmedlora.corpora.text import read_text

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from fedmedlora.core.document import Document

CONFIG_NAME = "labeling_config.xml"

_ID_KEYS = ("document_id", "doc_id", "id")
_NO_LABEL = "relation"


class Utf16Offsets:
    """Offsets in code points and in UTF-16 code units of one text, from one to the other."""

    def __init__(self, text: str) -> None:
        self.to_units: list[int] | range = range(len(text) + 1)
        if not text.isascii() and max(text) > "\uffff":
            self.to_units = [0, *accumulate(1 + (character > "\uffff") for character in text)]
        self._points = {unit: point for point, unit in enumerate(self.to_units)}

    def to_point(self, unit: Any) -> int | None:
        """The code point offset; None beyond the text or between the halves of a character."""
        return self._points.get(unit) if type(unit) is int else None


class LabelStudioReader(Reader):
    """The tasks of one file, or of all `.json` files in a folder, with `data.text`.

    A document's id is `data.document_id`, `data.doc_id` or `data.id`, else the task's id.
    """

    def notes(self) -> Iterator[Document | BadNote]:
        """Every task, the bad ones as what is wrong with them."""
        ids: set[str] = set()
        empty = True
        for path in note_paths(self.path, (".json",)):
            faults: list[Fault] = []
            content = read_text(path, faults)
            if content is None:
                empty = False
                yield BadNote(tuple(faults))
                continue
            for line, task in _json_items(content):
                empty = False
                if isinstance(task, _Broken):
                    yield BadNote((Fault(path, line, "broken-line", task.reason),))
                else:
                    yield self._note(path, line, task, ids)
        if empty:
            reason = "no task; expected a JSON list of Label Studio's tasks."
            yield BadNote((Fault(self.path, None, "empty-file", reason),))

    def _note(self, path: Path, line: int, task: Any, ids: set[str]) -> Document | BadNote:
        data = task.get("data") if type(task) is dict else None
        text = data.get("text") if type(data) is dict else None
        given = [data.get(key) for key in _ID_KEYS] if type(data) is dict else []
        given += [task.get("id")] if type(task) is dict else []
        known = (str(x) for x in given if type(x) is int or (type(x) is str and x))
        identity = next(known, f"line{line}")
        twice = []
        if identity in ids:
            reason = f"document id {shown(identity)} occurs twice; expected unique ids."
            twice.append(Fault(path, line, "duplicate-id", reason))
        ids.add(identity)
        if type(task) is not dict or type(data) is not dict or type(text) is not str:
            reason = "no task with a string as data.text; expected one of Label Studio's."
            return BadNote((Fault(path, line, "wrong-type", reason), *twice))
        note = NoteBuilder(self, path, identity, text, line)
        note.faults += twice
        self._add_result(note, self._result(note, task, line), line)
        meta = task.get("meta") or {}
        if type(meta) is not dict:
            note.fault(line, "wrong-type", "'meta' is not an object.")
            meta = {}
        others = {k: v for k, v in data.items() if k not in ("text", *_ID_KEYS)}
        return note.build(others | meta)

    def _result(self, note: NoteBuilder, task: dict[str, Any], line: int) -> list[Any]:
        """What was annotated: by the first annotator who did not give up, else predicted."""
        found: list[list[Any]] = []
        for key in ("annotations", "completions", "predictions"):
            for item in _list(note, task, key, line):
                result = item.get("result") if type(item) is dict else None
                if type(result) is not list:
                    note.fault(line, "wrong-type", f"{key}: an item has no list as 'result'.")
                elif item.get("was_cancelled"):
                    note.dropped["annotation that was cancelled"] += 1
                else:
                    found.append(result)
        note.dropped.update(["further annotation or prediction of a task"] * len(found[1:]))
        return found[0] if found else []

    def _add_result(self, note: NoteBuilder, result: list[Any], line: int) -> None:
        offsets = Utf16Offsets(note.text)
        relations = []
        for item in result:
            kind = item.get("type") if type(item) is dict else None
            if kind == "labels":
                _add_region(note, item, offsets, line)
            elif kind == "relation":
                relations.append(item)
            elif kind is None:
                note.fault(line, "wrong-type", "an item of 'result' has no type.")
            else:
                note.dropped[f"result of type {shown(kind)}"] += 1
        for number, item in enumerate(relations, 1):
            labels = item.get("labels") or [_NO_LABEL]
            ends = str(item.get("from_id")), str(item.get("to_id"))
            if item.get("direction") == "left":
                ends = ends[1], ends[0]
            elif item.get("direction") != "right":
                note.adjusted["relation without direction: read from its first end"] += 1
            identity = item.get("id") or f"R{number}"
            label = labels[0] if type(labels) is list else None
            note.add_relation(str(identity), label, *ends, line)


def _list(note: NoteBuilder, data: dict[str, Any], key: str, line: int) -> list[Any]:
    value = data.get(key)
    if value is not None and type(value) is not list:
        note.fault(line, "wrong-type", f"{key!r} is not a list.")
    return value if type(value) is list else []


def _add_region(note: NoteBuilder, item: dict[str, Any], offsets: Utf16Offsets, line: int) -> None:
    identity, value = str(item.get("id") or f"T{len(note.entities) + 1}"), item.get("value")
    where = f"region {shown(identity)}"
    labels = value.get("labels") if type(value) is dict else None
    if type(value) is not dict or type(labels) is not list or not labels:
        note.fault(line, "wrong-type", f"{where} has no labels in its value.")
        return
    points = offsets.to_point(value.get("start")), offsets.to_point(value.get("end"))
    if None in points:
        reason = f"{where}: start or end is no offset in the text (UTF-16 code units)."
        note.fault(line, "offset", reason)
        return
    covered = value.get("text")
    if type(covered) is str:  # some versions write a line end in it as backslash and n
        covered = covered.replace("\\n", "\n").replace("\\r", "\r")
        plain = note.text[slice(*points)].replace("\\n", "\n").replace("\\r", "\r")
        if covered.split() != plain.split():
            reason = f"{where}: its text is not what stands at its offsets."
            note.fault(line, "text-mismatch", reason)
            return
    score = item.get("score")
    score = float(score) if isinstance(score, (int, float)) else None
    for number, label in enumerate(labels):
        name = identity if not number else f"{identity}-{number + 1}"
        note.add_entity(name, label, *points, line, score=score)


class _Broken:
    """What is not JSON in a file."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


def _refuse_constant(_name: str) -> NoReturn:
    raise ValueError("not a JSON number")


def _json_items(content: str) -> Iterator[tuple[int, Any]]:
    """The items of a JSON list, or the one value that is no list, each with its line."""
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    position = _after_space(content, 0)
    is_list = content[position : position + 1] == "["
    position = _after_space(content, position + is_list)
    line, counted = 1, 0
    closed = False
    while position < len(content):
        line, counted = line + content.count("\n", counted, position), position
        if is_list and content[position] == "]":
            closed, position = True, _after_space(content, position + 1)
            break
        try:
            value, position = decoder.raw_decode(content, position)
        except json.JSONDecodeError as error:
            broken = line + content.count("\n", counted, error.pos)
            yield broken, _Broken("not JSON from here on; what follows is not read.")
            return
        except (ValueError, RecursionError):
            yield line, _Broken("not JSON from here on: a number or a depth that no task has.")
            return
        yield line, value
        position = _after_space(content, position)
        if not is_list:
            break
        if content[position : position + 1] == ",":
            position = _after_space(content, position + 1)
        elif content[position : position + 1] != "]":
            break
    if position < len(content) or (is_list and not closed):
        line += content.count("\n", counted, position)
        yield line, _Broken("not JSON from here on; expected the end of one list of tasks.")


def _after_space(content: str, position: int) -> int:
    while content[position : position + 1] in (" ", "\t", "\r", "\n"):
        position += 1
    return position


def write_label_studio(path: Path, documents: Iterable[Document]) -> int:
    """The number of tasks written; the file is replaced as a whole or not at all.

    Raises:
        CorpusError: Two documents have the same id, or one is not as `fit_label_studio` makes it.
    """
    ids: set[str] = set()
    with replace_bytes(path) as file:
        file.write(b"[")
        for document in documents:
            if document.id in ids:
                raise CorpusError(f"{path}: document id {shown(document.id)} occurs twice.")
            file.write(b",\n" if ids else b"\n")
            ids.add(document.id)
            file.write(task_bytes(document))
        file.write(b"\n]\n")
    return len(ids)


def fit_label_studio(document: Document, lost: Counter[str]) -> Document:
    """What the format can hold of the document: mentions without fragments. The rest is counted."""
    return without_fragments(document, lost)


def task_bytes(document: Document) -> bytes:
    """The document as one task.

    Raises:
        CorpusError: A mention is in fragments, or the document holds what reading would refuse.
    """
    document_line(document)  # refuses what no reader of ours takes
    if any(entity.is_discontinuous for entity in document.entities):
        reason = "a mention is in fragments, which Label Studio cannot hold."
        raise CorpusError(f"document {shown(document.id)}: {reason}")
    units = Utf16Offsets(document.text).to_units
    result: list[dict[str, Any]] = []
    for entity in document.entities:
        region: dict[str, Any] = {
            "id": entity.id,
            "from_name": "label",
            "to_name": "text",
            "type": "labels",
            "value": {
                "start": units[entity.start],
                "end": units[entity.end],
                "text": document.entity_text(entity),
                "labels": [entity.label],
            },
        }
        if entity.score is not None:
            region["score"] = entity.score
        result.append(region)
    result += [
        {
            "id": relation.id,
            "type": "relation",
            "from_id": relation.head,
            "to_id": relation.tail,
            "direction": "right",
            "labels": [relation.label],
        }
        for relation in document.relations
    ]
    task: dict[str, Any] = {"data": {"text": document.text, "document_id": document.id}}
    if document.metadata:
        task["meta"] = dict(document.metadata)
    if any(entity.score is not None for entity in document.entities):
        task["predictions"] = [{"model_version": "fedmedlora", "result": result}]
    else:
        task["annotations"] = [{"result": result}]
    return json.dumps(task, ensure_ascii=False, allow_nan=False).encode()


def labeling_config(labels: Iterable[str], relation_labels: Iterable[str]) -> str:
    """The interface of a Label Studio project in which the written tasks can be opened."""
    regions = "".join(f"    <Label value={quoteattr(label)}/>\n" for label in labels)
    links = "".join(f"    <Relation value={quoteattr(label)}/>\n" for label in relation_labels)
    return (
        f'<View>\n  <Labels name="label" toName="text">\n{regions}  </Labels>\n'
        f"  <Relations>\n{links}  </Relations>\n"
        '  <Text name="text" value="$text" granularity="symbol"/>\n</View>\n'
    )
