"""Every fault of a corpus: what its readers find, and what it holds against schema and card."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fedmedlora.core.document import Document
from fedmedlora.core.errors import CorpusError
from fedmedlora.core.suggest import did_you_mean
from fedmedlora.core.words import counted
from fedmedlora.corpora.card import CARD_NAME, CorpusCard, line_of
from fedmedlora.corpora.card_names import WrongName, wrong_names
from fedmedlora.corpora.open_corpus import CorpusSource, find_source
from fedmedlora.corpora.reader import Fault, LabelCheck, shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fedmedlora.core.schema import TaskSchema
    from fedmedlora.corpora.formats import SourceFormat


@dataclass(frozen=True, slots=True)
class Validation:
    """What checking one corpus gave."""

    path: Path
    num_documents: int
    num_bad_notes: int
    faults: tuple[Fault, ...]


@dataclass(slots=True)
class _Counts:
    """What the notes without faults hold, by name, and the first note of each name."""

    labels: Counter[str] = field(default_factory=Counter)
    relations: Counter[str] = field(default_factory=Counter)
    first: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, note: Document) -> None:
        self.labels.update(entity.label for entity in note.entities)
        self.relations.update(relation.label for relation in note.relations)
        for entity in note.entities:
            self.first.setdefault(("mention", entity.label), note.id)
        for relation in note.relations:
            self.first.setdefault(("relation", relation.label), note.id)


def validate(
    path: Path, schema: TaskSchema | None, source_format: SourceFormat | None = None
) -> Validation:
    """Every fault of the corpus at `path`; `num_documents` counts those without one.

    With a schema, labels outside it are faults; None takes any label. With a card, names in it
    that nobody knows are faults of the card, and so are names in the notes that it does not list,
    and counts other than its own. `source_format` is for notes without a card in a format that
    does not show, such as Doccano's.

    Raises:
        ConfigError: There is no corpus at `path`, or none of this format.
    """
    place = path if path.name == CARD_NAME else path / CARD_NAME
    try:
        source = find_source(path, source_format)
    except CorpusError as error:
        return Validation(path, 0, 0, tuple(_card_fault(place, x) for x in str(error).splitlines()))
    card = source.card
    faults: list[Fault] = []
    counts = _Counts()
    documents = bad_notes = 0
    for note in source.reader(check_label=_label_check(schema, card)).notes():
        if isinstance(note, Document):
            documents += 1
            counts.add(note)
        else:
            bad_notes += 1
            faults.extend(note.faults)
    if card is not None:
        wrong = wrong_names(place, card, schema, counts.relations)
        faults[:0] = [Fault(place, name.line, "card", name.reason) for name in wrong]
        faults.extend(_unlisted(place, card, wrong, counts))
        if not bad_notes:  # otherwise the counts differ for reasons that stand above
            faults.extend(_count_faults(place, source, documents, counts))
    return Validation(path, documents, bad_notes, tuple(faults))


def _card_fault(place: Path, line: str) -> Fault:
    """A line of what reading the card raised."""
    match = re.fullmatch(rf"{re.escape(str(place))}(?::(\d+))?: (.*)", line)
    number, reason = (match[1], match[2]) if match else (None, line)
    return Fault(place, int(number) if number else None, "card", reason)


def _label_check(schema: TaskSchema | None, card: CorpusCard | None) -> LabelCheck:
    known = None if schema is None else frozenset(schema.labels)
    listed = frozenset(() if card is None else card.annotated_labels)

    def check(label: str) -> str | None:
        if known is None or schema is None or label in known or label in listed:
            return None  # what the card lists is told once, at the card
        hint = did_you_mean(label, schema.labels)
        return f"the label {shown(label)} is not in the schema {schema.id}.{hint}"

    return check


def _unlisted(
    place: Path, card: CorpusCard, wrong: list[WrongName], counts: _Counts
) -> Iterator[Fault]:
    """Names that the notes hold and the card does not list, each told once."""
    text = place.read_text("utf-8")
    meant = {name.meant for name in wrong}
    parts = [("annotated_labels", "mention", card.annotated_labels, counts.labels)]
    if card.annotated_relations:
        parts.append(
            ("annotated_relations", "relation", card.annotated_relations, counts.relations)
        )
    for key, kind, listed, found in parts:
        for name, count in sorted(found.items()):
            if name not in listed and name not in meant:
                have = "has" if count == 1 else "have"
                reason = (
                    f"{key} does not list {shown(name)}, but {counted(count, kind)} {have} it, the "
                    f"first in note {shown(counts.first[kind, name])}. List it, or take out what "
                    "was not annotated on purpose."
                )
                yield Fault(place, line_of(text, key), "card", reason)


def _count_faults(
    place: Path, source: CorpusSource, documents: int, counts: _Counts
) -> Iterator[Fault]:
    text = place.read_text("utf-8")
    found = {
        "num_documents": documents,
        "num_entities": counts.labels.total(),
        "num_relations": counts.relations.total(),
    }
    for name, count in found.items():
        stated = getattr(source.card, name)
        if stated is not None and stated != count:
            reason = f"{name} is {stated}, but {source.documents.name} holds {count}."
            yield Fault(place, line_of(text, name), "card", reason)
