"""Gold and predicted documents in, the whole result under one preset out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedmedlora.core.errors import ConfigError
from fedmedlora.core.schema import default_schema
from fedmedlora.evaluation.alignment import align_documents
from fedmedlora.evaluation.counting import count_entities, count_links, scored_labels, unaligned
from fedmedlora.evaluation.intervals import NUM_DRAWS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from fedmedlora.core.document import Document
    from fedmedlora.core.schema import TaskSchema
    from fedmedlora.evaluation.presets import Preset
    from fedmedlora.evaluation.scores import Scores


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What predictions are worth under one preset; every block states micro and by-label scores."""

    preset: str
    num_documents: int
    entities: Scores
    modifiers: Scores
    relations: Scores
    num_unaligned: int

    def to_json(self, version: str) -> dict[str, Any]:
        """The result as `evaluate --json` prints it; `version` is the scorer's."""
        return {
            "preset": self.preset,
            "version": version,
            "documents": self.num_documents,
            "entities": _block(self.entities, "labels"),
            "modifiers": _block(self.modifiers, "labels"),
            "relations": _block(self.relations, "pairs"),
            "unaligned_predictions": self.num_unaligned,
        }


def evaluate_documents(
    gold: Sequence[Document],
    predicted: Sequence[Document],
    preset: Preset,
    *,
    schema: TaskSchema | None = None,
    labels: Collection[str] | None = None,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> Evaluation:
    """Scores of the predictions, each gold document on its annotated labels.

    Args:
        gold: Documents with what the annotators found.
        predicted: The same notes with what a system found; a note that is missing has nothing.
        preset: How mentions and links are matched.
        schema: Which labels are entities and which modifiers; others are not scored. Without one,
            every label that is no modifier of `clinical-ie-v1` is an entity.
        labels: Score only these.
        num_draws: Bootstrap draws for the intervals.
        seed: Seed of the bootstrap.

    Raises:
        ConfigError: No label is left to score.
        CorpusError: The documents cannot be aligned.
    """
    aligned = align_documents(gold, predicted)
    entity_labels, modifier_labels = scored_label_lists(aligned, schema, labels)
    both = (*entity_labels, *modifier_labels)
    counts = count_entities(aligned, preset, both)
    links = count_links(aligned, preset, both)
    return Evaluation(
        preset=preset.name,
        num_documents=len(aligned),
        entities=counts.only(entity_labels).scores(num_draws=num_draws, seed=seed),
        modifiers=counts.only(modifier_labels).scores(num_draws=num_draws, seed=seed),
        relations=links.scores(num_draws=num_draws, seed=seed),
        num_unaligned=sum(sum(unaligned(document).values()) for _, document in aligned),
    )


def scored_label_lists(
    aligned: Sequence[tuple[Document, Document]],
    schema: TaskSchema | None,
    labels: Collection[str] | None,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The entity labels and the modifier labels that are scored, in schema order, then by name.

    Raises:
        ConfigError: There is none.
    """
    used = {e.label for pair in aligned for document in pair for e in document.entities}
    annotated = {label for gold, _ in aligned for label in gold.annotated_labels or ()}
    known = used | annotated | set(labels or ())
    scorable = {label for gold, _ in aligned for label in scored_labels(gold, known)}
    if labels is not None:
        scorable &= set(labels)
    if schema is not None:
        scorable &= set(schema.labels)
    if not scorable and (labels is not None or schema is not None):
        raise ConfigError(
            "labels: none of the labels asked for is annotated in the gold documents, so nothing "
            f"can be scored; expected some of {', '.join(sorted(used | annotated)) or 'none'}."
        )
    order = schema or default_schema()
    listed = [label for label in order.labels if label in scorable]
    listed += sorted(scorable - set(listed))
    modifiers = tuple(label for label in listed if label in order.modifier_labels)
    return tuple(label for label in listed if label not in modifiers), modifiers


def _block(scores: Scores, key: str) -> dict[str, Any]:
    return {
        "micro": scores.micro.to_json() | {"f1_ci95": list(scores.f1_ci95)},
        "macro_f1": scores.macro_f1,
        key: {label: counts.to_json() for label, counts in scores.labels.items()},
    }
