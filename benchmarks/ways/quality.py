"""How good two ways' answers are, so that speed cannot be bought with mistakes unseen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedmedlora.evaluation.evaluate import evaluate_presets
from fedmedlora.evaluation.presets import STRICT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.ways.sentences import Sentence
    from fedmedlora.core.document import Entity

_DRAWS = 2_000


def quality_rows(
    sentences: Sequence[Sentence],
    answers: Mapping[str, Sequence[Sequence[Entity]]],
    reference: str,
) -> list[list[Any]]:
    """A row a way: strict F1 with its interval, and the difference to `reference` with its own.

    Intervals draw sentences; differences are paired.
    """
    gold = [sentence.document for sentence in sentences]
    predicted = {
        name: [
            document.with_entities(found) for document, found in zip(gold, entities, strict=True)
        ]
        for name, entities in answers.items()
    }
    rows = []
    for name, documents in predicted.items():
        [result] = evaluate_presets(
            gold,
            documents,
            [STRICT],
            against=predicted[reference],
            num_draws=_DRAWS,
            num_swaps=_DRAWS,
        )
        micro = result.entities.micro
        [difference] = [d for d in result.differences or () if d.figure == "entities"]
        same = sum(
            _spans(ours) == _spans(theirs)
            for ours, theirs in zip(answers[name], answers[reference], strict=True)
        )
        rows.append(
            [
                name,
                100 * micro.f1,
                [100 * end for end in result.entities.f1_ci95 or ()],
                100 * micro.precision,
                100 * micro.recall,
                100 * difference.difference,
                [100 * end for end in difference.ci95 or ()],
                same,
            ]
        )
    return rows


def _spans(entities: Sequence[Entity]) -> list[tuple[str, int, int]]:
    return [(entity.label, entity.start, entity.end) for entity in entities]
