"""The i2b2 2010 challenge: concepts, assertions and relations beside one text, by line and token.

`3:4` is the fifth token, separated by blanks, of the third line; the end token is inclusive. The
text in `c="..."` is lower-cased and may hold double quotes, so that lines are read from the right.
Assertions become attributes in the metadata. Relations run from the first concept to the second.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedmedlora.corpora.extras import ATTRIBUTES
from fedmedlora.corpora.note_builder import NoteBuilder
from fedmedlora.corpora.note_folder import note_paths
from fedmedlora.corpora.reader import BadNote, Fault, FaultCode, Reader, shown
from fedmedlora.corpora.text import read_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fedmedlora.core.document import Document

_KINDS = {".txt": "txt", ".con": "concept", ".ast": "ast", ".rel": "rel"}
_AT = r"([0-9]{1,9}):([0-9]{1,9}) ([0-9]{1,9}):([0-9]{1,9})"
_CONCEPT = re.compile(rf'c="(.*)" {_AT}\|\|t="([^"\s]+)"\s*')
_ASSERTION = re.compile(rf'c="(.*)" {_AT}\|\|t="([^"\s]+)"\|\|a="([^"\s]+)"\s*')
_RELATION = re.compile(rf'c="(.*)" {_AT}\|\|r="([^"\s]+)"\|\|c="(.*)" {_AT}\s*')

_OTHER_TEXT = "its text is not what stands at its place"
_TWICE = "line that stands there twice: read once"

Place = tuple[int, int, int, int]
Split = Callable[[str], list[tuple[int, int]]]


class I2b2Reader(Reader):
    """The records of one folder, ordered by id.

    The four kinds of files lie in folders `txt`, `concept`, `ast` and `rel`, or side by side. A
    record's id is its path in the folder without these names and without the suffix. Records need
    no `.ast` and no `.rel` file.
    """

    def notes(self) -> Iterator[Document | BadNote]:
        """Every record, the bad ones as what is wrong with them."""
        records: dict[str, dict[str, Path]] = {}
        doubles: dict[str, list[Fault]] = {}
        for path in note_paths(self.path, tuple(_KINDS)):
            inside = path.relative_to(self.path)
            parts = [part for part in inside.parts[:-1] if part != _KINDS[path.suffix]]
            identity = "/".join([*parts, inside.stem])
            if path != records.setdefault(identity, {}).setdefault(path.suffix, path):
                reason = f"a second {path.suffix} file of the same record."
                fault = Fault(path, None, "duplicate-id", reason)
                doubles.setdefault(identity, []).append(fault)
        for identity, files in sorted(records.items()):
            if identity in doubles:
                yield BadNote(tuple(doubles[identity]))
            else:
                yield self._record(identity, files)
        if not records:
            reason = "no .txt and no .con file in the folder."
            yield BadNote((Fault(self.path, None, "empty-file", reason),))

    def _record(self, identity: str, files: dict[str, Path]) -> Document | BadNote:
        for needed in (".txt", ".con"):
            if needed not in files:
                reason = f"there is no {needed} file of this record."
                present = next(files[suffix] for suffix in _KINDS if suffix in files)
                return BadNote((Fault(present, None, "orphan", reason),))
        faults: list[Fault] = []
        texts = {suffix: read_text(path, faults) for suffix, path in files.items()}
        text = texts[".txt"]
        if faults or text is None:
            return BadNote(tuple(faults))
        note = NoteBuilder(self, files[".con"], identity, text)
        record = _Record(note, _Places(text))
        attributes: list[dict[str, Any]] = []
        for suffix, read in (
            (".con", record.concept),
            (".ast", lambda match, line: attributes.append(record.assertion(match, line))),
            (".rel", record.relation),
        ):
            if suffix in files:
                note.file = files[suffix]
                self._lines(note, texts[suffix] or "", _PATTERNS[suffix], read)
        kept = [attribute for attribute in attributes if attribute]
        return note.build({ATTRIBUTES: kept} if kept else None)

    def _lines(
        self,
        note: NoteBuilder,
        content: str,
        pattern: re.Pattern[str],
        read: Callable[[re.Match[str], int], object],
    ) -> None:
        for number, line in enumerate(content.split("\n"), 1):
            if not line.strip():
                continue
            if match := pattern.fullmatch(line):
                read(match, number)
            else:
                reason = f"expected a line such as {_EXAMPLES[pattern]}"
                note.fault(number, "broken-line", reason)


_PATTERNS = {".con": _CONCEPT, ".ast": _ASSERTION, ".rel": _RELATION}
_EXAMPLES = {
    _CONCEPT: 'c="..." 1:0 1:2||t="problem".',
    _ASSERTION: 'c="..." 1:0 1:2||t="problem"||a="absent".',
    _RELATION: 'c="..." 1:0 1:2||r="TrAP"||c="..." 1:5 1:5.',
}


class _Places:
    """Character offsets of lines and tokens."""

    def __init__(self, text: str) -> None:
        self.text = text
        starts = [0, *(match.end() for match in re.finditer("\n", text))]
        ends = [*(start - 1 for start in starts[1:]), len(text)]
        self.lines = list(zip(starts, ends, strict=True))
        self._split: dict[tuple[int, Split], list[tuple[int, int]]] = {}

    def offsets(self, place: Place, covered: str) -> tuple[int, int] | str:
        """Start and end of a concept, or what is wrong with its place.

        Two blanks in a row hold no token for some tools and an empty one for others; the text
        tells which is meant.
        """
        reason = ""
        for split in (_words, _between_blanks):
            found = self._between(place, split)
            if isinstance(found, str):
                reason = reason or found
            elif self.text[slice(*found)].lower().split() == covered.lower().split():
                return found
            else:
                reason = _OTHER_TEXT
        return reason

    def _between(self, place: Place, split: Split) -> tuple[int, int] | str:
        first_line, first, last_line, last = place
        for line, index in ((first_line, first), (last_line, last)):
            if not 1 <= line <= len(self.lines):
                return f"line {line} is not in the text of {len(self.lines)} lines"
            if index >= len(tokens := self._tokens(line, split)):
                return f"token {index} is not in line {line}, which has {len(tokens)} tokens"
        start = self._tokens(first_line, split)[first][0]
        end = self._tokens(last_line, split)[last][1]
        return (start, end) if start < end else "it ends before it begins"

    def _tokens(self, line: int, split: Split) -> list[tuple[int, int]]:
        if (line, split) not in self._split:
            start, end = self.lines[line - 1]
            pieces = split(self.text[start:end])
            self._split[line, split] = [(start + a, start + b) for a, b in pieces]
        return self._split[line, split]


def _words(line: str) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(r"\S+", line)]


def _between_blanks(line: str) -> list[tuple[int, int]]:
    ends = [*(match.start() for match in re.finditer(" ", line)), len(line.rstrip("\r"))]
    return list(zip([0, *(end + 1 for end in ends[:-1])], ends, strict=True))


@dataclass(slots=True)
class _Record:
    """Fills one note with concepts, then with what is said about them."""

    note: NoteBuilder
    places: _Places
    num_relations: int = 0

    def concept(self, match: re.Match[str], line: int) -> None:
        offsets = self._offsets(match[1], match.groups()[1:5], line)
        if offsets is None:
            return
        known = self.note.entities.values()
        if any(e.label == match[6] and (e.start, e.end) == offsets for e in known):
            self.note.adjusted[_TWICE] += 1
            return
        self.note.add_entity(f"T{len(self.note.entities) + 1}", match[6], *offsets, line)

    def assertion(self, match: re.Match[str], line: int) -> dict[str, Any]:
        target = self._concept_at(match[1], match.groups()[1:5], line, match[6])
        if target is None:
            return {}
        return {"target": target, "name": "assertion", "value": match[7]}

    def relation(self, match: re.Match[str], line: int) -> None:
        head = self._concept_at(match[1], match.groups()[1:5], line)
        tail = self._concept_at(match[7], match.groups()[7:11], line)
        self.num_relations += 1
        if head is not None and tail is not None:
            self.note.add_relation(f"R{self.num_relations}", match[6], head, tail, line)

    def _offsets(self, covered: str, place: Any, line: int) -> tuple[int, int] | None:
        found = self.places.offsets(tuple(map(int, place)), covered)  # type: ignore[arg-type]
        if isinstance(found, str):
            code: FaultCode = "text-mismatch" if found == _OTHER_TEXT else "offset"
            self.note.fault(line, code, f"{':'.join(place[:2])} {':'.join(place[2:])}: {found}.")
            return None
        return found

    def _concept_at(
        self, covered: str, place: Any, line: int, label: str | None = None
    ) -> str | None:
        """The id of the concept at a place; a fault if there is none."""
        offsets = self._offsets(covered, place, line)
        if offsets is None:
            return None
        for entity in self.note.entities.values():
            if (entity.start, entity.end) == offsets and label in (None, entity.label):
                return entity.id
        kind = "concept" if label is None else f"concept of type {shown(label)}"
        reason = f"no {kind} at {':'.join(place[:2])} {':'.join(place[2:])} in the .con file."
        self.note.fault(line, "dangling-relation", reason)
        return None
