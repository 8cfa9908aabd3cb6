"""Gold and predicted documents in, the whole result under one preset out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedmedlora import __version__
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
    """What predictions are worth under one preset; every block states micro and by-label scores.

    `not_scored` are labels that were asked for or, where none were, used, but that the gold
    documents were not annotated for.
    """

    preset: str
    num_documents: int
    entities: Scores
    modifiers: Scores
    relations: Scores
    num_unaligned: int
    not_scored: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The result as `evaluate --json` prints it, with the version of the scorer."""
        return {
            "preset": self.preset,
            "version": __version__,
            "documents": self.num_documents,
            "entities": _block(self.entities, "labels"),
            "modifiers": _block(self.modifiers, "labels"),
            "relations": _block(self.relations, "pairs"),
            "unaligned_predictions": self.num_unaligned,
        }


@dataclass(frozen=True, slots=True)
class ScoredLabels:
    """Which labels are scored, as entities and as modifiers, and which are not though wanted."""

    entities: tuple[str, ...]
    modifiers: tuple[str, ...]
    left_out: tuple[str, ...]


def evaluate_documents(
    gold: Sequence[Document],
    predicted: Sequence[Document],
    preset: Preset,
    *,
    schema: TaskSchema | None = None,
    labels: Collection[str] | None = None,
    annotated_relations: Collection[str] | None = None,
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
        annotated_relations: Score only links of these names; `None` scores all.
        num_draws: Bootstrap draws for the intervals.
        seed: Seed of the bootstrap.

    Raises:
        ConfigError: A label asked for is unknown, or none is left to score.
        CorpusError: The documents cannot be aligned.
    """
    aligned = align_documents(gold, predicted)
    scored = choose_labels(aligned, schema, labels)
    both = (*scored.entities, *scored.modifiers)
    counts = count_entities(aligned, preset, both)
    links = count_links(aligned, preset, both, annotated_relations)
    return Evaluation(
        preset=preset.name,
        num_documents=len(aligned),
        entities=counts.only(scored.entities).scores(num_draws=num_draws, seed=seed),
        modifiers=counts.only(scored.modifiers).scores(num_draws=num_draws, seed=seed),
        relations=links.scores(num_draws=num_draws, seed=seed),
        num_unaligned=sum(sum(unaligned(document).values()) for _, document in aligned),
        not_scored=scored.left_out,
    )


def choose_labels(
    aligned: Sequence[tuple[Document, Document]],
    schema: TaskSchema | None,
    labels: Collection[str] | None,
) -> ScoredLabels:
    """The labels to score, in schema order, then by name.

    Raises:
        ConfigError: A label asked for is unknown, or none of them is annotated.
    """
    order = schema or default_schema()
    used = {e.label for pair in aligned for document in pair for e in document.entities}
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


def _block(scores: Scores, key: str) -> dict[str, Any]:
    return {
        "micro": scores.micro.to_json() | {"f1_ci95": list(scores.f1_ci95)},
        "macro_f1": scores.macro_f1,
        key: {label: counts.to_json() for label, counts in scores.labels.items()},
    }
