"""Every fault of a corpus: what its readers find, and what it holds against schema and card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmedlora.core.document import Document
from fedmedlora.core.errors import CorpusError
from fedmedlora.corpora.card import CARD_NAME, CorpusCard
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


def validate(
    path: Path, schema: TaskSchema | None, source_format: SourceFormat | None = None
) -> Validation:
    """Every fault of the corpus at `path`; `num_documents` counts those without one.

    With a schema, labels outside it are faults; None takes any label. With a card, so are labels
    that the card does not list as annotated, and counts other than the card's. `source_format` is
    for notes without a card in a format that does not show, such as Doccano's.

    Raises:
        ConfigError: There is no corpus at `path`, or none of this format.
    """
    card = path if path.name == CARD_NAME else path / CARD_NAME
    try:
        source = find_source(path, source_format)
    except CorpusError as error:
        reasons = [line.removeprefix(f"{card}: ") for line in str(error).splitlines()]
        return Validation(path, 0, 0, tuple(Fault(card, None, "card", r) for r in reasons))
    check = _label_check(schema, source.card)
    faults: list[Fault] = []
    documents = bad_notes = entities = relations = 0
    for note in source.reader(check_label=check).notes():
        if isinstance(note, Document):
            documents += 1
            entities += len(note.entities)
            relations += len(note.relations)
        else:
            bad_notes += 1
            faults.extend(note.faults)
    if not bad_notes:  # otherwise the counts differ for reasons that stand above
        faults.extend(_count_faults(card, source, documents, entities, relations))
    return Validation(path, documents, bad_notes, tuple(faults))


def _label_check(schema: TaskSchema | None, card: CorpusCard | None) -> LabelCheck:
    known = None if schema is None else frozenset(schema.labels)
    annotated = None if card is None else frozenset(card.annotated_labels)

    def check(label: str) -> str | None:
        if known is not None and schema is not None and label not in known:
            return f"the label {shown(label)} is not in the schema {schema.id}."
        if annotated is not None and label not in annotated:
            return f"the label {shown(label)} is not among annotated_labels of {CARD_NAME}."
        return None

    return check


def _count_faults(
    card: Path, source: CorpusSource, documents: int, entities: int, relations: int
) -> Iterator[Fault]:
    if source.card is None:
        return
    found = {"num_documents": documents, "num_entities": entities, "num_relations": relations}
    for name, count in found.items():
        stated = getattr(source.card, name)
        if stated is not None and stated != count:
            reason = f"{name} is {stated}, but {source.documents.name} holds {count}."
            yield Fault(card, None, "card", reason)
