"""Gold and predicted documents in, the whole result under one preset or several out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fedmedlora import __version__
from fedmedlora.evaluation.alignment import AGAINST, PREDICTED, AlignedStream
from fedmedlora.evaluation.blocks import (
    BLOCKS,
    ENTITIES,
    MODIFIERS,
    RELATIONS,
    BlockTally,
    CategoryTally,
    Pair,
)
from fedmedlora.evaluation.comparison import Difference, compare_figures
from fedmedlora.evaluation.intervals import NUM_DRAWS
from fedmedlora.evaluation.labels import SeenLabels
from fedmedlora.evaluation.mistakes import mistake_numbers, mistake_rows, mistakes_in
from fedmedlora.evaluation.presets import PARTIAL
from fedmedlora.evaluation.rates import Rates, RateTally
from fedmedlora.evaluation.scores import Scores, scores_of
from fedmedlora.evaluation.significance import NUM_SWAPS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from fedmedlora.core.document import Document
    from fedmedlora.core.schema import TaskSchema
    from fedmedlora.evaluation.document_counts import DocumentCounts
    from fedmedlora.evaluation.intervals import Interval
    from fedmedlora.evaluation.mistakes import Mistake, MistakeNumbers
    from fedmedlora.evaluation.presets import Preset


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
        mistakes: Every wrong mention, if they were to be kept; the same under every preset.
        mistake_numbers: How many there are by kind and labels.
        not_scored: Labels that were asked for or, where none were, used, but that the gold
            documents were not annotated for.
        num_missing: How many of the gold documents each prediction set lacks, by its name.
        differences: Paired comparisons with another prediction set, where there is one.
    """

    preset: str
    num_documents: int
    figures: Mapping[str, Scores]
    categories: Mapping[str, Mapping[str, Mapping[str, int]]]
    rates: Rates
    mistakes: tuple[Mistake, ...]
    mistake_numbers: MistakeNumbers
    not_scored: tuple[str, ...]
    num_missing: Mapping[str, int]
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
        result["errors"] = mistake_rows(self.mistake_numbers)
        if self.differences is not None:
            result["against"] = [difference.to_json() for difference in self.differences]
        return result


def evaluate_documents(
    gold: Iterable[Document],
    predicted: Iterable[Document],
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
    gold: Iterable[Document],
    predicted: Iterable[Document],
    presets: Sequence[Preset],
    *,
    against: Iterable[Document] | None = None,
    schema: TaskSchema | None = None,
    labels: Collection[str] | None = None,
    annotated_relations: Collection[str] | None = None,
    num_draws: int = NUM_DRAWS,
    num_swaps: int = NUM_SWAPS,
    seed: int = 0,
    keep_mistakes: bool = True,
) -> list[Evaluation]:
    """Scores of the predictions under each preset, each gold document on its annotated labels.

    All documents are read once, side by side, and none is kept.

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
        keep_mistakes: Keep every mistake, not only their numbers.

    Raises:
        ConfigError: A label asked for is unknown, or none is left to score.
        CorpusError: The documents cannot be aligned, or their metadata is not as it should be.
    """
    sides = {PREDICTED: predicted} | ({} if against is None else {AGAINST: against})
    stream = AlignedStream(gold, sides)
    pass_over = _Pass(presets, schema, labels, annotated_relations, compared=against is not None)
    for place, known, found in stream:
        pass_over.add(place, known, *found, keep_mistakes=keep_mistakes)
    return pass_over.evaluations(stream, num_draws, num_swaps, seed)


class _Pass:
    """All that is counted while the documents go by, of which none is kept."""

    def __init__(
        self,
        presets: Sequence[Preset],
        schema: TaskSchema | None,
        labels: Collection[str] | None,
        annotated_relations: Collection[str] | None,
        *,
        compared: bool,
    ) -> None:
        self._presets = presets
        self._seen = SeenLabels(schema, labels)
        self._relations = annotated_relations
        self._ours = [BlockTally(preset, gold_entities=True) for preset in presets]
        self._theirs = [BlockTally(preset) for preset in presets] if compared else []
        self._categories = CategoryTally()
        self._rates = RateTally()
        self._numbers: MistakeNumbers = Counter()
        self._mistakes: list[tuple[int, list[Mistake]]] = []

    def add(
        self,
        place: int,
        gold: Document,
        predicted: Document,
        *others: Document,
        keep_mistakes: bool,
    ) -> None:
        labels = self._seen.add(gold, (predicted, *others))
        self._rates.add(predicted)
        pair = Pair(gold, predicted, labels, self._relations)
        mistakes = mistakes_in(gold.id, pair.gold, pair.predicted)
        self._numbers.update(mistake_numbers(mistakes))
        if keep_mistakes:
            self._mistakes.append((place, mistakes))
        for tally in self._ours:
            tally.add(place, pair)
        for other in others:
            theirs = Pair(gold, other, labels, self._relations)
            for tally in self._theirs:
                tally.add(place, theirs)
        if PARTIAL in self._presets:
            self._categories.add(pair)

    def evaluations(
        self, stream: AlignedStream, num_draws: int, num_swaps: int, seed: int
    ) -> list[Evaluation]:
        scored = self._seen.chosen()
        in_order = [m for _, of_one in sorted(self._mistakes, key=lambda x: x[0]) for m in of_one]
        found = []
        comparable: dict[tuple[str, str], tuple[DocumentCounts, DocumentCounts]] = {}
        for index, preset in enumerate(self._presets):
            counts = self._ours[index].counts(stream.ids, scored)
            figures = scores_of(list(counts.values()), num_draws=num_draws, seed=seed)
            found.append(
                Evaluation(
                    preset=preset.name,
                    num_documents=len(stream.ids),
                    figures=dict(zip(counts, figures, strict=True)),
                    categories=self._categories.sums() if preset is PARTIAL else {},
                    rates=self._rates.rates(),
                    mistakes=tuple(in_order),
                    mistake_numbers=self._numbers,
                    not_scored=scored.left_out,
                    num_missing=dict(stream.missing),
                )
            )
            if self._theirs:
                theirs = self._theirs[index].counts(stream.ids, scored)
                comparable |= {(preset.name, name): (counts[name], theirs[name]) for name in theirs}
        if not self._theirs:
            return found
        compared = compare_figures(comparable, num_draws=num_draws, num_swaps=num_swaps, seed=seed)
        return [
            replace(each, differences=tuple(d for d in compared if d.preset == each.preset))
            for each in found
        ]


def _figure(scores: Scores, labels: str) -> dict[str, Any]:
    return {
        "micro": scores.micro.to_json() | {"f1_ci95": _ends(scores.f1_ci95)},
        "macro_f1": scores.macro_f1,
        labels: {
            label: counts.to_json() | {"f1_ci95": _ends(scores.labels_f1_ci95[label])}
            for label, counts in scores.labels.items()
        },
    }


def _ends(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)
