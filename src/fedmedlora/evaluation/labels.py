"""Which labels of a pair of corpora can be scored, and in which block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmedlora.core.errors import ConfigError
from fedmedlora.core.schema import default_schema
from fedmedlora.evaluation.counting import scored_labels
from fedmedlora.evaluation.rates import unaligned

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

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


def choose_labels(
    aligned: Sequence[tuple[Document, Document]],
    schema: TaskSchema | None,
    labels: Collection[str] | None,
) -> ScoredLabels:
    """The labels to score, in schema order, then by name.

    Raises:
        ConfigError: A label asked for is unknown, or none of them is annotated.
        CorpusError: Answers that could not be placed are not counted by label.
    """
    order = schema or default_schema()
    used = {e.label for pair in aligned for document in pair for e in document.entities}
    used |= {label for _, predicted in aligned for label in unaligned(predicted)}
    annotated = {label for gold, _ in aligned for label in gold.annotated_labels or ()}
    known = used | annotated | set(order.labels)
    if labels is not None and (unknown := set(labels) - known):
        raise ConfigError(
            f"labels: unknown: {', '.join(sorted(unknown))}; "
            f"expected some of {', '.join(sorted(known))}."
        )
    wanted = used | annotated if labels is None else set(labels)
    allowed = wanted if schema is None else wanted & set(schema.labels)
    scorable = {label for gold, _ in aligned for label in scored_labels(gold, allowed)}
    if wanted and not scorable:
        raise ConfigError(
            f"labels: none of {', '.join(sorted(wanted))} can be scored; expected labels that the "
            "gold documents are annotated for and that the schema has."
        )
    listed = [label for label in order.labels if label in scorable]
    listed += sorted(scorable.difference(listed))
    return ScoredLabels(
        entities=tuple(label for label in listed if label not in order.modifier_labels),
        modifiers=tuple(label for label in listed if label in order.modifier_labels),
        left_out=tuple(sorted(wanted - scorable)),
    )
