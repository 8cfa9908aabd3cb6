"""Gold and predicted documents in, the whole result under one preset or several out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fedmedlora import __version__
from fedmedlora.evaluation.alignment import align_documents
from fedmedlora.evaluation.blocks import (
    BLOCKS,
    ENTITIES,
    MODIFIERS,
    RELATIONS,
    count_blocks,
    count_categories,
    count_gold_entities,
)
from fedmedlora.evaluation.comparison import Difference, compare_figures
from fedmedlora.evaluation.intervals import NUM_DRAWS
from fedmedlora.evaluation.labels import choose_labels
from fedmedlora.evaluation.mistakes import Mistake, find_mistakes, mistake_table
from fedmedlora.evaluation.presets import PARTIAL
from fedmedlora.evaluation.rates import Rates, rates_of
from fedmedlora.evaluation.scores import Scores, scores_of
from fedmedlora.evaluation.significance import NUM_SWAPS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from fedmedlora.core.document import Document
    from fedmedlora.core.schema import TaskSchema
    from fedmedlora.evaluation.presets import Preset
    from fedmedlora.evaluation.scores import DocumentCounts


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What predictions are worth under one preset.

    Attributes:
        preset: The preset's name.
        num_documents: How many gold documents were scored.
        figures: The scores by name: the three blocks `entities`, `modifiers` and `relations`, and
            further figures of a block, such as `entities.lenient`.
        categories: Of a block, how many mentions fall in each category of SemEval 2013, by scheme;
            for the preset `partial` only.
        rates: What went wrong before anything could be scored.
        mistakes: Every wrong mention; the same under every preset.
        not_scored: Labels that were asked for or, where none were, used, but that the gold
            documents were not annotated for.
        differences: Paired comparisons with another prediction set, where there is one.
    """

    preset: str
    num_documents: int
    figures: Mapping[str, Scores]
    categories: Mapping[str, Mapping[str, Mapping[str, int]]]
    rates: Rates
    mistakes: tuple[Mistake, ...]
    not_scored: tuple[str, ...]
    differences: tuple[Difference, ...] | None = None

    @property
    def entities(self) -> Scores:
        """The preset's own figures for entities."""
        return self.figures[ENTITIES]

    @property
    def modifiers(self) -> Scores:
        """The preset's own figures for modifiers."""
        return self.figures[MODIFIERS]

    @property
    def relations(self) -> Scores:
        """The preset's own figures for links, end to end."""
        return self.figures[RELATIONS]

    def further(self, block: str) -> dict[str, Scores]:
        """The further figures of a block by their own names."""
        names = {name: name.removeprefix(f"{block}.") for name in self.figures}
        return {short: self.figures[name] for name, short in names.items() if name != short}

    def to_json(self) -> dict[str, Any]:
        """The result as `evaluate --json` prints it, with the version of the scorer."""
        result: dict[str, Any] = {
            "preset": self.preset,
            "version": __version__,
            "documents": self.num_documents,
        }
        for block in BLOCKS:
            labels = "pairs" if block == RELATIONS else "labels"
            further = self.further(block).items()
            result[block] = _figure(self.figures[block], labels) | {
                name: _figure(scores, labels) for name, scores in further
            }
            if block in self.categories:
                result[block]["categories"] = self.categories[block]
        result |= self.rates.to_json()
        result["errors"] = mistake_table(self.mistakes)
        if self.differences is not None:
            result["against"] = [difference.to_json() for difference in self.differences]
        return result


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
    """Scores of the predictions under one preset; see `evaluate_presets`.

    Raises:
        ConfigError: A label asked for is unknown, or none is left to score.
        CorpusError: The documents cannot be aligned, or their metadata is not as it should be.
    """
    [evaluation] = evaluate_presets(
        gold,
        predicted,
        [preset],
        schema=schema,
        labels=labels,
        annotated_relations=annotated_relations,
        num_draws=num_draws,
        seed=seed,
    )
    return evaluation


def evaluate_presets(
    gold: Sequence[Document],
    predicted: Sequence[Document],
    presets: Sequence[Preset],
    *,
    against: Sequence[Document] | None = None,
    schema: TaskSchema | None = None,
    labels: Collection[str] | None = None,
    annotated_relations: Collection[str] | None = None,
    num_draws: int = NUM_DRAWS,
    num_swaps: int = NUM_SWAPS,
    seed: int = 0,
) -> list[Evaluation]:
    """Scores of the predictions under each preset, each gold document on its annotated labels.

    Args:
        gold: Documents with what the annotators found.
        predicted: The same notes with what a system found; a note that is missing has nothing.
        presets: How mentions and links are counted.
        against: What another system found in the same notes: each micro F1 is compared with its,
            and all that are compared, under all presets, are one family.
        schema: Which labels are entities and which modifiers; others are not scored. Without one,
            every label that is no modifier of `clinical-ie-v1` is an entity.
        labels: Score only these.
        annotated_relations: Score only links of these names; `None` scores all.
        num_draws: Bootstrap draws for the intervals.
        num_swaps: Random swaps for the p values.
        seed: Seed of the draws and swaps.

    Raises:
        ConfigError: A label asked for is unknown, or none is left to score.
        CorpusError: The documents cannot be aligned, or their metadata is not as it should be.
    """
    aligned = align_documents(gold, predicted)
    other = None if against is None else align_documents(gold, against)
    scored = choose_labels([*aligned, *(other or ())], schema, labels)
    rates = rates_of(document for _, document in aligned)
    mistakes = tuple(find_mistakes(aligned, scored.both))
    found = []
    comparable: dict[tuple[str, str], tuple[DocumentCounts, DocumentCounts]] = {}
    for preset in presets:
        ours = count_blocks(aligned, preset, scored, annotated_relations)
        counts = ours | count_gold_entities(aligned, preset, scored, annotated_relations)
        figures = scores_of(list(counts.values()), num_draws=num_draws, seed=seed)
        found.append(
            Evaluation(
                preset=preset.name,
                num_documents=len(aligned),
                figures=dict(zip(counts, figures, strict=True)),
                categories=count_categories(aligned, scored) if preset is PARTIAL else {},
                rates=rates,
                mistakes=mistakes,
                not_scored=scored.left_out,
            )
        )
        if other is not None:
            theirs = count_blocks(other, preset, scored, annotated_relations)
            comparable |= {(preset.name, name): (ours[name], theirs[name]) for name in ours}
    if other is None:
        return found
    compared = compare_figures(comparable, num_draws=num_draws, num_swaps=num_swaps, seed=seed)
    return [
        replace(each, differences=tuple(d for d in compared if d.preset == each.preset))
        for each in found
    ]


def _figure(scores: Scores, labels: str) -> dict[str, Any]:
    return {
        "micro": scores.micro.to_json() | {"f1_ci95": list(scores.f1_ci95)},
        "macro_f1": scores.macro_f1,
        labels: {
            label: counts.to_json() | {"f1_ci95": list(scores.labels_f1_ci95[label])}
            for label, counts in scores.labels.items()
        },
    }
