"""Two prediction sets on the same gold: how far apart, how sure, and whether by chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmedlora.evaluation.intervals import (
    MIN_DOCUMENTS,
    NUM_DRAWS,
    bootstrap_f1,
    f1_of,
    interval,
)
from fedmedlora.evaluation.significance import NUM_SWAPS, holm, randomisation_p

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedmedlora.evaluation.document_counts import DocumentCounts
    from fedmedlora.evaluation.intervals import Interval


@dataclass(frozen=True, slots=True)
class Difference:
    """The micro F1 of one figure for both prediction sets.

    Attributes:
        preset: The preset that both were counted under.
        figure: The figure's name, e.g. `entities` or `entities.lenient`.
        f1: Of the predictions.
        against_f1: Of the predictions that they are compared with.
        ci95: Interval of the difference: both are scored on the same draws of documents. None
            where there are too few.
        p: By approximate randomisation.
        p_holm: The same, adjusted for all figures that were compared.
    """

    preset: str
    figure: str
    f1: float
    against_f1: float
    ci95: Interval | None
    p: float
    p_holm: float

    @property
    def difference(self) -> float:
        """How much better the predictions are than those that they are compared with."""
        return self.f1 - self.against_f1

    def to_json(self) -> dict[str, Any]:
        """All but the preset, which the result states."""
        return {
            "figure": self.figure,
            "f1": self.f1,
            "against_f1": self.against_f1,
            "difference": self.difference,
            "ci95": None if self.ci95 is None else list(self.ci95),
            "p": self.p,
            "p_holm": self.p_holm,
        }


def compare_figures(
    counts: Mapping[tuple[str, str], tuple[DocumentCounts, DocumentCounts]],
    *,
    num_draws: int = NUM_DRAWS,
    num_swaps: int = NUM_SWAPS,
    seed: int = 0,
) -> list[Difference]:
    """The difference in every figure that has something to count, as one family.

    Args:
        counts: By preset and figure, the counts of both prediction sets on the same documents.
        num_draws: Bootstrap draws.
        num_swaps: Random swaps.
        seed: Seed of both.
    """
    pairs = {
        key: np.stack([first.matrix(), second.matrix()]) for key, (first, second) in counts.items()
    }
    pairs = {key: matrices for key, matrices in pairs.items() if matrices.any()}
    if not pairs:
        return []
    first, second = np.stack(list(pairs.values()), axis=1)
    f1, against_f1 = f1_of(first.sum(axis=1)), f1_of(second.sum(axis=1))
    draws = bootstrap_f1(np.stack([first, second]), num_draws=num_draws, seed=seed)
    p_values = [float(p) for p in randomisation_p(first, second, num_swaps=num_swaps, seed=seed)]
    adjusted = holm(p_values)
    enough = first.shape[-2] >= MIN_DOCUMENTS
    return [
        Difference(
            preset,
            figure,
            f1=float(f1[index]),
            against_f1=float(against_f1[index]),
            ci95=interval(draws[0, index] - draws[1, index]) if enough else None,
            p=p_values[index],
            p_holm=adjusted[index],
        )
        for index, (preset, figure) in enumerate(pairs)
    ]
