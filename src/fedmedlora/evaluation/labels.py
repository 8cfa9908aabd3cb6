"""Which labels of a pair of corpora can be scored, and in which block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmedlora.core.errors import ConfigError
from fedmedlora.core.schema import default_schema
from fedmedlora.evaluation.rates import unaligned

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from fedmedlora.core.document import Document
    from fedmedlora.core.schema import TaskSchema


@dataclass(frozen=True, slots=True)
class ScoredLabels:
    """Which labels are scored, as entities and as modifiers, and which are not though wanted."""

    entities: tuple[str, ...]
    modifiers: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def both(self) -> tuple[str, ...]:
        """Entities, then modifiers."""
        return (*self.entities, *self.modifiers)


class SeenLabels:
    """The labels of the documents so far, and which of them can be scored in a document.

    What is scored in a document does not depend on the others, so that it can be counted before
    they were read.

    Args:
        schema: Which labels are entities and which modifiers; others are not scored. Without one,
            every label that is no modifier of `clinical-ie-v1` is an entity.
        labels: Score only these.
    """

    def __init__(self, schema: TaskSchema | None, labels: Collection[str] | None) -> None:
        self._schema = schema
        self._order = schema or default_schema()
        self._modifiers = frozenset(self._order.modifier_labels)
        self._asked_for = None if labels is None else frozenset(labels)
        self._used: set[str] = set()
        self._annotated: set[str] = set()
        self._unstated = False

    def add(self, gold: Document, others: Iterable[Document]) -> ScoredLabels:
        """Those labels of a gold document and what was found in it that are scored in it.

        Raises:
            CorpusError: Answers that could not be placed are not counted by label.
        """
        here = {entity.label for entity in gold.entities}
        for document in others:
            here.update(entity.label for entity in document.entities)
            here.update(unaligned(document))
        self._used |= here
        if gold.annotated_labels is None:
            self._unstated = True
        else:
            self._annotated |= gold.annotated_labels
            here &= gold.annotated_labels
        allowed = self._allowed(here)
        return ScoredLabels(tuple(allowed - self._modifiers), tuple(allowed & self._modifiers), ())

    def chosen(self) -> ScoredLabels:
        """The labels to score in all of the documents, in schema order, then by name.

        Raises:
            ConfigError: A label asked for is unknown, or none of them is annotated.
        """
        asked_for = self._asked_for
        known = self._used | self._annotated | set(self._order.labels)
        if asked_for is not None and (unknown := asked_for - known):
            raise ConfigError(
                f"labels: unknown: {', '.join(sorted(unknown))}; "
                f"expected some of {', '.join(sorted(known))}."
            )
        wanted = self._used | self._annotated if asked_for is None else asked_for
        allowed = self._allowed(wanted)
        scorable = allowed if self._unstated else allowed & self._annotated
        if wanted and not scorable:
            raise ConfigError(
                f"labels: none of {', '.join(sorted(wanted))} can be scored; expected labels that "
                "the gold documents are annotated for and that the schema has."
            )
        listed = [label for label in self._order.labels if label in scorable]
        listed += sorted(scorable.difference(listed))
        return ScoredLabels(
            entities=tuple(label for label in listed if label not in self._modifiers),
            modifiers=tuple(label for label in listed if label in self._modifiers),
            left_out=tuple(sorted(wanted - scorable)),
        )

    def _allowed(self, labels: Collection[str]) -> frozenset[str]:
        found = frozenset(labels)
        if self._asked_for is not None:
            found &= self._asked_for
        return found if self._schema is None else found & frozenset(self._schema.labels)


def choose_labels(
    aligned: Iterable[tuple[Document, Document]],
    schema: TaskSchema | None,
    labels: Collection[str] | None,
) -> ScoredLabels:
    """The labels to score; see `SeenLabels`.

    Raises:
        ConfigError: A label asked for is unknown, or none of them is annotated.
        CorpusError: Answers that could not be placed are not counted by label.
    """
    seen = SeenLabels(schema, labels)
    for gold, predicted in aligned:
        seen.add(gold, [predicted])
    return seen.chosen()
