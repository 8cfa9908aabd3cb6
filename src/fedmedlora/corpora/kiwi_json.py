"""Kiwi's JSON with `indexes`, one file a note, as CLAMP-Kiwi exports it.

`content` is the note. `indexes` maps an offset, in document order, to lists of `Sentence`, `Token`
and `Entity` with `begin` and `end`, end exclusive; an `Entity` has its label in `semantic`, in any
case. Everything else, relations included, is counted and left out, because its form is not known.
Offsets are taken as code points, as the project's own converter does.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn

from fedmedlora.corpora.note_builder import NoteBuilder
from fedmedlora.corpora.note_folder import note_id, note_paths
from fedmedlora.corpora.reader import BadNote, Fault, Reader, shown
from fedmedlora.corpora.text import read_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fedmedlora.core.document import Document

_NO_TOKEN = "entity that does not begin at a token: kept"
_SHARED = "entity that begins where another does: both kept"
_OTHER_KEY = "entity that stands at the index of another offset: its own begin is used"


class KiwiJsonReader(Reader):
    """The notes of one folder, ordered by id, or of one file."""

    def notes(self) -> Iterator[Document | BadNote]:
        """Every note, the bad ones as what is wrong with them."""
        paths = {note_id(self.path, path): path for path in note_paths(self.path, (".json",))}
        for identity, path in sorted(paths.items()):
            yield self._note(path, identity)
        if not paths:
            reason = "no .json file in the folder."
            yield BadNote((Fault(self.path, None, "empty-file", reason),))

    def _note(self, path: Path, identity: str) -> Document | BadNote:
        faults: list[Fault] = []
        raw = read_text(path, faults)
        if raw is None:
            return BadNote(tuple(faults))
        try:
            data = json.loads(raw, parse_constant=_refuse_constant)
        except json.JSONDecodeError as error:
            reason = f"not JSON from column {error.colno} on."
            return BadNote((Fault(path, error.lineno, "broken-line", reason),))
        except (ValueError, RecursionError):
            reason = "not JSON: a number or a depth that no note has."
            return BadNote((Fault(path, 1, "broken-line", reason),))
        content = data.get("content") if type(data) is dict else None
        indexes = data.get("indexes") if type(data) is dict else None
        if type(content) is not str or type(indexes) is not dict:
            reason = "expected an object with the note as 'content' and an object as 'indexes'."
            return BadNote((Fault(path, 1, "wrong-type", reason),))
        note = NoteBuilder(self, path, identity, content, 1)
        self._add_indexes(note, indexes, raw)
        for key in sorted(data.keys() - {"content", "indexes"}):
            note.dropped[f"{shown(key)} of a note"] += 1
        return note.build()

    def _add_indexes(self, note: NoteBuilder, indexes: dict[str, Any], raw: str) -> None:
        found: list[tuple[str, int, dict[str, Any]]] = []
        tokens: set[Any] = set()
        position = max(raw.find('"indexes"'), 0)
        line = raw.count("\n", 0, position) + 1
        for key, at in indexes.items():
            before, position = position, raw.find(f'"{key}"', position)
            if position < 0:  # an escape in the key: the line before is near enough
                position = before
            line += raw.count("\n", before, position)
            if type(at) is not dict or not all(type(items) is list for items in at.values()):
                note.fault(line, "wrong-type", f"index {shown(key)} is not an object of lists.")
                continue
            for kind, items in at.items():
                if kind == "Token":
                    tokens.update(item.get("begin") for item in items if type(item) is dict)
                if kind != "Entity":
                    note.dropped[shown(kind).strip("'")] += len(items)
                    continue
                for item in items:
                    if type(item) is dict:
                        found.append((key, line, item))
                    else:
                        reason = f"index {shown(key)}: an Entity is not an object."
                        note.fault(line, "wrong-type", reason)
        begins: set[Any] = set()
        for number, (key, line, item) in enumerate(found, 1):
            begin, label = item.get("begin"), item.get("semantic")
            label = label.lower() if type(label) is str else label
            note.add_entity(f"T{number}", label, begin, item.get("end"), line)
            if type(begin) is int:
                note.adjusted[_NO_TOKEN] += begin not in tokens
                note.adjusted[_SHARED] += begin in begins
                note.adjusted[_OTHER_KEY] += key != str(begin)
                begins.add(begin)


def _refuse_constant(_name: str) -> NoReturn:
    raise ValueError("not a JSON number")
