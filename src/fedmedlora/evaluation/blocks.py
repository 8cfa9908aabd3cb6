"""The three blocks of a result and their further figures, counted document by document."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from fedmedlora.evaluation.counting import link_counts, mention_counts
from fedmedlora.evaluation.document_counts import DocumentCounts, Tally
from fedmedlora.evaluation.items import side_of
from fedmedlora.evaluation.rates import unaligned
from fedmedlora.evaluation.semeval import CATEGORIES, SCHEMES, categories

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from fedmedlora.core.document import Document
    from fedmedlora.evaluation.labels import ScoredLabels
    from fedmedlora.evaluation.presets import Preset

BLOCKS = ENTITIES, MODIFIERS, RELATIONS = "entities", "modifiers", "relations"
GOLD_ENTITIES = f"{RELATIONS}.gold_entities"


class Pair:
    """A gold document and what was found in it, ready to be counted under any preset.

    Args:
        gold: What the annotators found.
        predicted: What a system found.
        labels: What is scored in this document.
        annotated_relations: Score only links of these names; `None` scores all.
    """

    def __init__(
        self,
        gold: Document,
        predicted: Document,
        labels: ScoredLabels,
        annotated_relations: Collection[str] | None,
    ) -> None:
        self.id = gold.id
        self.gold = side_of(gold, labels.both, annotated_relations)
        self.predicted = side_of(predicted, labels.both, annotated_relations)
        self.unplaced = unaligned(predicted)
        self.blocks = ((ENTITIES, labels.entities), (MODIFIERS, labels.modifiers))


class BlockTally:
    """The figures of one preset by name, as documents come in: the blocks, and `entities.lenient`.

    Args:
        preset: How mentions and links are counted.
        gold_entities: Count the links between mentions that both sides have, too. Two systems
            cannot be compared by them: each has other mentions in common with the gold, so they
            are scored on other links.
    """

    def __init__(self, preset: Preset, *, gold_entities: bool = False) -> None:
        self._preset = preset
        self._rules = {"": preset.rule} | {f".{name}": r for name, r in preset.further.items()}
        names = [block + further for further in self._rules for block in BLOCKS]
        self._tallies = {name: Tally() for name in names}
        if gold_entities:
            self._tallies[GOLD_ENTITIES] = Tally()

    def add(self, place: int, pair: Pair) -> None:
        """Count the document at this place among the gold ones."""
        sides, tallies = (pair.gold, pair.predicted), self._tallies
        for further, rule in self._rules.items():
            for block, own in pair.blocks:
                counts = mention_counts(*sides, rule, own, pair.unplaced)
                tallies[block + further].add(place, counts)
            tallies[RELATIONS + further].add(place, link_counts(*sides, rule))
        if GOLD_ENTITIES in tallies:
            links = link_counts(*sides, self._preset.rule, given_mentions=True)
            tallies[GOLD_ENTITIES].add(place, links)

    def counts(self, ids: tuple[str, ...], labels: ScoredLabels) -> dict[str, DocumentCounts]:
        """The counts of every figure, `labels` being those of all documents."""
        own = {ENTITIES: labels.entities, MODIFIERS: labels.modifiers, RELATIONS: ()}
        over_documents = self._preset.macro_over_documents
        return {
            name: DocumentCounts(ids, tally, own[name.split(".")[0]], over_documents)
            for name, tally in self._tallies.items()
        }


class CategoryTally:
    """The categories of SemEval 2013 by block of mentions and scheme, summed over documents.

    Predictions that could not be placed are spurious.
    """

    def __init__(self) -> None:
        self._sums = {
            block: {scheme: Counter(dict.fromkeys(CATEGORIES, 0)) for scheme in SCHEMES}
            for block in (ENTITIES, MODIFIERS)
        }

    def add(self, pair: Pair) -> None:
        """Count one document."""
        for block, own in pair.blocks:
            here = categories(
                [item for item in pair.gold.items if item.label in own],
                [item for item in pair.predicted.items if item.label in own],
            )
            num_unplaced = sum(n for label, n in pair.unplaced.items() if label in own)
            for scheme, sums in self._sums[block].items():
                sums.update(here[scheme])
                sums["spurious"] += num_unplaced

    def sums(self) -> Mapping[str, Mapping[str, Mapping[str, int]]]:
        """Of each block and scheme how many mentions fall in each category."""
        return {
            block: {scheme: dict(sums) for scheme, sums in schemes.items()}
            for block, schemes in self._sums.items()
        }
