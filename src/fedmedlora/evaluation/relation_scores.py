"""Modifiers and links beside entities: which scores there are, kept apart, and their counts.

A score is told by three things: what is scored, what was given to whoever predicted it, and who
drew the links. End to end nothing is given but the note.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fedmedlora.evaluation.alignment import align_documents
from fedmedlora.evaluation.blocks import ENTITIES, MODIFIERS, RELATIONS
from fedmedlora.evaluation.counting import count_entities, count_links

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fedmedlora.core.document import Document
    from fedmedlora.evaluation.document_counts import DocumentCounts
    from fedmedlora.evaluation.presets import Preset

Given = Literal["predicted", "gold", "gold-spans"]
"""End to end; the gold entities, as in the reference; gold entities and gold modifiers."""

Linker = Literal["model", "rules"]
"""The model itself, or the distance-and-type rule on the very same mentions."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One score: what is scored, given what, and for links, who drew them."""

    task: str
    given: Given
    linker: Linker | None = None

    def to_json(self) -> dict[str, str | None]:
        """The three names that tell the score."""
        return {"task": self.task, "given": self.given, "linker": self.linker}


END_TO_END_ENTITIES = Figure(ENTITIES, "predicted")
RULES_ON_GOLD = Figure(RELATIONS, "gold-spans", "rules")
FIGURES = (
    END_TO_END_ENTITIES,
    Figure(MODIFIERS, "predicted"),
    Figure(MODIFIERS, "gold"),
    Figure(RELATIONS, "predicted", "model"),
    Figure(RELATIONS, "predicted", "rules"),
    Figure(RELATIONS, "gold", "model"),
    Figure(RELATIONS, "gold", "rules"),
    RULES_ON_GOLD,
)


@dataclass(frozen=True, slots=True)
class Annotated:
    """What a cohort's annotators looked for; nothing else is scored there.

    `relations` says whether they linked modifiers to entities at all.
    """

    entities: tuple[str, ...]
    modifiers: tuple[str, ...]
    relations: bool

    @property
    def labels(self) -> tuple[str, ...]:
        """Entities, then modifiers."""
        return (*self.entities, *self.modifiers)


def count_modifiers_and_links(
    gold: Sequence[Document],
    predicted: Mapping[Linker, Sequence[Document]],
    preset: Preset,
    annotated: Annotated,
    given: Given,
) -> dict[Figure, DocumentCounts]:
    """The counts of every figure beyond entities that the annotations of these notes allow.

    Args:
        gold: The cohort's notes.
        predicted: The same mentions with the links of each linker; modifiers are taken from those
            of `model`, if it is there.
        preset: How mentions and links are counted.
        annotated: What to score.
        given: What the predictions were made from.

    Raises:
        CorpusError: The documents cannot be aligned.
    """
    found: dict[Figure, DocumentCounts] = {}
    known = [document.only_labels(annotated.labels) for document in gold]
    aligned = {linker: align_documents(known, of) for linker, of in predicted.items()}
    if annotated.modifiers and "model" in aligned:
        counts = count_entities(aligned["model"], preset, annotated.modifiers)
        found[Figure(MODIFIERS, given)] = counts
    if annotated.modifiers and annotated.relations:
        for linker, pairs in aligned.items():
            counts = count_links(pairs, preset, annotated.labels)
            found[Figure(RELATIONS, given, linker)] = counts
    return found
