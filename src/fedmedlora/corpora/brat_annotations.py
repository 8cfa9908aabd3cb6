"""What the lines of a BRAT `.ann` file say about their note.

Relations are taken as they stand: head is Arg1, tail is Arg2, and an event id stands for its
trigger. Attributes, groups and event roles go into the document's metadata (`extras.py`).
Normalizations and annotators' notes have no place there; they are counted.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fedmedlora.core.document import Entity, Relation, Span
from fedmedlora.corpora.extras import ATTRIBUTES, GROUPS, ROLES
from fedmedlora.corpora.reader import NOT_SHOWN, Fault, FaultCode, LabelCheck

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

OWN_NOTE = "FedMedLoRA"
"""The type of `#` lines in which we keep what BRAT has no place for: scores, exact spans, ids."""

_RECORD = re.compile(r"([TREAMN][0-9]+|#[0-9]*|\*)\t(.*)", re.DOTALL)
_TEXT_BOUND = re.compile(r"(\S+) ([0-9]{1,12} [0-9]{1,12}(?:;[0-9]{1,12} [0-9]{1,12})*)")
_RELATION = re.compile(r"(\S+) ([^\s:]+):(\S+) ([^\s:]+):(\S+)\s*")
_EVENT = re.compile(r"([^\s:]+):(\S+)((?: [^\s:]+:\S+)*)\s*")
_TARGETED = re.compile(r"(\S+) (\S+)(.*)", re.DOTALL)
_KINDS = {
    "A": "attribute",
    "M": "attribute",
    "N": "normalization",
    "#": "annotator's note",
    "*": "group",
}
_STOPS_AT_LINE_END = "mention whose text stops at a line end: its offsets are kept"


def _shown_id(identity: str) -> str:
    """An id for an error message; in a damaged line a word of the note may stand in its place."""
    return identity if re.fullmatch(r"[TERAMN][0-9]{1,9}", identity) else NOT_SHOWN


def line_pieces(text: str, spans: Sequence[Span]) -> tuple[Span, ...]:
    """The spans as BRAT writes them: broken into fragments at line ends."""
    pieces = tuple(
        Span(span.start + match.start(), span.start + match.end())
        for span in spans
        for match in re.finditer(r"[^\r\n]+", text[span.start : span.end])
    )
    return pieces or tuple(spans)


@dataclass(slots=True)
class _Record:
    """A line of an `.ann` file with the lines after it that are no annotations themselves."""

    line: int
    id: str
    body: str
    continued: list[tuple[int, str]] = field(default_factory=list)


@dataclass(slots=True)
class _Mention:
    label: str
    fragments: tuple[Span, ...]


class AnnotationParser:
    """Reads the annotations of one note; collects every fault instead of stopping at the first."""

    def __init__(
        self,
        path: Path,
        text: str,
        check_label: LabelCheck | None,
        text_may_stop_at_line_end: bool,
    ) -> None:
        self.path = path
        self.text = text
        self.check_label = check_label
        self.text_may_stop_at_line_end = text_may_stop_at_line_end
        self.faults: list[Fault] = []
        self.dropped: Counter[str] = Counter()
        self.adjusted: Counter[str] = Counter()
        self.extras: dict[str, list[dict[str, Any]]] = {}
        self.mentions: dict[str, _Mention] = {}
        self.events: dict[str, str] = {}
        self.roles: list[tuple[str, ...]] = []
        self.own: dict[str, dict[str, Any]] = {}
        self.claimed: set[str] = set()

    def parse(self, annotations: str) -> tuple[tuple[Entity, ...], tuple[Relation, ...]]:
        """Entities and relations in file order; meaningless if there are faults.

        `extras`, `dropped` and `adjusted` say what else the file holds.
        """
        records = self._records(annotations)
        for record in records:
            if record.id[0] != "T":
                self._refuse_continuation(record.continued)
            if record.id[0] in "TRE" and record.id in self.claimed:
                self._fault(record.line, "duplicate-id", f"{record.id} occurs twice.")
            self.claimed.add(record.id)
        for record in records:
            self._read(record)
        entities = self._entities()
        relations = []
        names = {name: entities[end].id for name, end in self._ends() if end in entities}
        for record in records:
            if record.id[0] == "R" and (relation := self._relation(record, entities)):
                relations.append(relation)
                names[record.id] = relation.id
        if len({e.id for e in entities.values()}) < len(entities):
            self._fault(None, "duplicate-id", f"two {OWN_NOTE} notes give the same entity id.")
        if len({r.id for r in relations}) < len(relations) and not self.faults:
            self._fault(None, "duplicate-id", f"two {OWN_NOTE} notes give the same relation id.")
        self._collect_extras(records, names)
        return tuple(entities.values()), tuple(relations)

    def _ends(self) -> list[tuple[str, str]]:
        """Each id that may stand for a mention, with the id of that mention."""
        return [(identity, identity) for identity in self.mentions] + list(self.events.items())

    def _fault(self, line: int | None, code: FaultCode, reason: str) -> None:
        self.faults.append(Fault(self.path, line, code, reason))

    def _records(self, annotations: str) -> list[_Record]:
        records: list[_Record] = []
        for number, line in enumerate(annotations.split("\n"), 1):
            if match := _RECORD.fullmatch(line):
                records.append(_Record(number, match[1], match[2]))
            elif records:
                records[-1].continued.append((number, line))
            else:
                self._refuse_continuation([(number, line)])
        return records

    def _refuse_continuation(self, lines: Sequence[tuple[int, str]]) -> None:
        for number, line in lines:
            if line and not line.isspace():
                reason = "not an annotation; expected an id such as T1 or R1, then a tab."
                self._fault(number, "broken-line", reason)

    def _read(self, record: _Record) -> None:
        match record.id[0]:
            case "T":
                self._text_bound(record)
            case "E":
                self._event(record)
            case "#" if record.body.startswith(OWN_NOTE + " "):
                self._own_note(record)
            case "A" | "M" | "N" | "#" | "*" as kind:
                if not _TARGETED.fullmatch(record.body):
                    reason = f"a broken {_KINDS[kind]} line; expected a type and what it is for."
                    self._fault(record.line, "broken-line", reason)
                if kind in "N#":
                    self.dropped[_KINDS[kind]] += 1

    def _text_bound(self, record: _Record) -> None:
        head, tab, covered = record.body.partition("\t")
        match = _TEXT_BOUND.fullmatch(head)
        if not match or not tab:
            reason = f"{record.id}: expected a type, offsets and the text, with tabs between."
            self._fault(record.line, "broken-line", reason)
            return
        given = [tuple(map(int, pair.split(" "))) for pair in match[2].split(";")]
        ordered = sorted(given)
        offsets = [offset for pair in ordered for offset in pair]
        if offsets[-1] > len(self.text) or max(offsets) > len(self.text):
            reason = f"ends at {max(offsets)}, but the note has {len(self.text)} characters."
            self._fault(record.line, "offset", f"{record.id}: {reason}")
            return
        if any(s >= e for s, e in ordered) or offsets != sorted(offsets):
            reason = f"{record.id}: offsets are empty or overlap; expected start < end."
            self._fault(record.line, "offset", reason)
            return
        cover = Span(offsets[0], offsets[-1])
        self._check_text(record, covered, " ".join(self.text[s:e] for s, e in given), cover)
        if self.check_label is not None and (refused := self.check_label(match[1])):
            self._fault(record.line, "unknown-label", f"{record.id}: {refused}")
        self.mentions[record.id] = _Mention(match[1], tuple(Span(s, e) for s, e in ordered))

    def _check_text(self, record: _Record, covered: str, text: str, span: Span) -> None:
        """White space may differ: tools write a line end in a mention as blank or as line end."""
        expected, words, used = text.split(), covered.split(), 0
        while len(words) < len(expected) and used < len(record.continued):
            words += record.continued[used][1].split()
            used += 1
        if words == expected:
            self._refuse_continuation(record.continued[used:])
            return
        first_line = re.split(r"[\r\n]", self.text[span.start : span.end])[0].split()
        if self.text_may_stop_at_line_end and words and words == first_line:
            self._refuse_continuation(record.continued[used:])
            self.adjusted[_STOPS_AT_LINE_END] += 1
            return
        reason = f"{record.id}: its text is not what stands at its offsets in the note."
        self._fault(record.line, "text-mismatch", reason)
        self._refuse_continuation(record.continued)

    def _event(self, record: _Record) -> None:
        match = _EVENT.fullmatch(record.body)
        if not match:
            reason = f"{record.id}: expected Type:Trigger and Role:Argument, blanks between."
            self._fault(record.line, "broken-line", reason)
        elif match[2] not in self.claimed:
            reason = f"{record.id}: its trigger {_shown_id(match[2])} is not in the file."
            self._fault(record.line, "dangling-relation", reason)
        else:
            self.events[record.id] = match[2]
            self.roles += [(match[2], *role.split(":", 1)) for role in match[3].split()]

    def _own_note(self, record: _Record) -> None:
        head, _, value = record.body.partition("\t")
        try:
            data = json.loads(value)
            self.own[head.removeprefix(OWN_NOTE + " ")] = {
                "id": str(data["id"]) if "id" in data else None,
                "score": float(data["score"]) if "score" in data else None,
                "spans": tuple(Span(int(s), int(e)) for s, e in data.get("spans", ())),
            }
        except (ValueError, TypeError, AttributeError, RecursionError):
            reason = f"{record.id}: a damaged {OWN_NOTE} note. Remove the line."
            self._fault(record.line, "broken-line", reason)

    def _entities(self) -> dict[str, Entity]:
        entities = {}
        for identity, mention in self.mentions.items():
            own = self.own.get(identity, {})
            spans = own.get("spans") or mention.fragments
            # After someone moved the mention in BRAT, our note of its exact spans is out of date.
            if spans[-1].end > len(self.text) or line_pieces(self.text, spans) != mention.fragments:
                spans = mention.fragments
            name = own.get("id") or identity
            entities[identity] = Entity(name, mention.label, spans, own.get("score"))
        return entities

    def _relation(self, record: _Record, entities: dict[str, Entity]) -> Relation | None:
        match = _RELATION.fullmatch(record.body)
        if not match:
            reason = f"{record.id}: expected a type and two arguments, Arg1:T1 Arg2:T2."
            self._fault(record.line, "broken-line", reason)
            return None
        ends = [self.events.get(end, end) for end in (match[3], match[5])]
        if match[2] == "Arg2" and match[4] == "Arg1":
            ends.reverse()
        missing = [end for end in ends if end not in self.claimed or end[0] not in "TE"]
        for end in missing:
            reason = f"{record.id} names {_shown_id(end)}, which is no mention in the file."
            self._fault(record.line, "dangling-relation", reason)
        if missing or any(end not in entities for end in ends):
            return None  # the mention has a fault of its own, which was reported
        name = self.own.get(record.id, {}).get("id") or record.id
        return Relation(name, match[1], entities[ends[0]].id, entities[ends[1]].id)

    def _collect_extras(self, records: Sequence[_Record], names: dict[str, str]) -> None:
        """Fill `extras`; what points at nothing in the file is counted in `dropped`."""
        attributes: list[dict[str, Any]] = []
        groups: list[dict[str, Any]] = []
        for record in records:
            match = _TARGETED.fullmatch(record.body) if record.id[0] in "AM*" else None
            if match is None:
                continue
            if record.id == "*":
                members = [names[end] for end in record.body.split()[1:] if end in names]
                if lost := len(record.body.split()) - 1 - len(members):
                    self.dropped["group member that is not in the file"] += lost
                groups.append({"label": match[1], "members": members})
            elif match[2] in names:
                value = match[3].strip() or True
                attributes.append({"target": names[match[2]], "name": match[1], "value": value})
            else:
                self.dropped["attribute of what is not in the file"] += 1
        roles: list[dict[str, Any]] = []
        for trigger, role, argument in self.roles:
            if trigger in names and argument in names:
                label = role.rstrip("0123456789") or role  # Theme, Theme2, Theme3 are one role
                roles.append({"label": label, "head": names[trigger], "tail": names[argument]})
            else:
                self.dropped["event role of what is not in the file"] += 1
        found = {ATTRIBUTES: attributes, GROUPS: groups, ROLES: roles}
        self.extras = {kind: values for kind, values in found.items() if values}
