"""How sure a score is: the document bootstrap, and paired differences of systems.

Documents are resampled, never mentions: the mentions of a note are not independent, and resampling
them gives intervals that are too narrow. The draws for a cohort depend on its seed and its number
of documents only, so two systems scored on the same documents in the same order share their draws,
and the difference of their estimates is a paired one. Estimates of several cohorts may be averaged:
give each cohort its own seed, and every system the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedmedlora.core.seeds import numpy_rng

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    CountArray = NDArray[np.int64] | NDArray[np.float64]

NUM_DRAWS = 10_000
# A block of resampling weights stays in the processor's cache, and is large enough for a fast
# product. Within it, draws are made in small parts: arrays of 128 KiB and more come from the system
# anew each time, page by page.
_BLOCK_ELEMENTS = 2**16
_PART_ELEMENTS = 2**14 - 1


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """A figure on the documents as they are, and on each resampled set of them, `(num_draws,)`."""

    value: float
    draws: NDArray[np.float64]

    @property
    def ci95(self) -> tuple[float, float]:
        """The 95 % percentile interval."""
        return interval(self.draws)


def f1_of(counts: CountArray) -> NDArray[np.float64]:
    """F1 of counts `(..., 3)` = tp, fp, fn; 0 where all three are 0."""
    tp, errors = 2.0 * counts[..., 0], counts[..., 1] + counts[..., 2]
    f1: NDArray[np.float64] = np.divide(tp, tp + errors, out=np.zeros_like(tp), where=tp > 0)
    return f1


def bootstrap_f1(
    counts: CountArray, *, num_draws: int = NUM_DRAWS, seed: int = 0
) -> NDArray[np.float64]:
    """Micro F1 of resampled documents, `(..., num_draws)`.

    Args:
        counts: tp, fp, fn of each document, `(..., num_documents, 3)`. Leading axes, such as
            systems, share the draws.
        num_draws: How many times to resample.
        seed: The cohort's seed.

    Raises:
        ValueError: There is no document.
    """
    *leading, num_documents, _ = counts.shape
    if num_documents == 0:
        raise ValueError("bootstrap: expected at least one document, got 0.")
    # (num_documents, systems * 3): one matrix product serves all systems.
    columns = np.moveaxis(counts, -2, 0).reshape(num_documents, -1).astype(np.float64)
    rng = numpy_rng("document-bootstrap", seed, num_documents)
    weights = np.empty((max(1, _BLOCK_ELEMENTS // num_documents), num_documents))
    sums = []
    for first in range(0, num_draws, len(weights)):
        block = weights[: num_draws - first]
        _fill_with_weights(block, rng)
        sums.append(block @ columns)
    per_draw = np.concatenate(sums).reshape(num_draws, *leading, 3)
    return np.moveaxis(f1_of(per_draw), 0, -1)


def _fill_with_weights(block: NDArray[np.float64], rng: np.random.Generator) -> None:
    """Set the block to how often each draw holds each document, `(num_draws, num_documents)`."""
    num_documents = block.shape[1]
    num_draws = max(1, _PART_ELEMENTS // num_documents)
    starts = num_documents * np.arange(num_draws)[:, None]
    for first in range(0, len(block), num_draws):
        part = block[first : first + num_draws]
        drawn = rng.integers(0, num_documents, size=part.shape)
        drawn += starts[: len(part)]
        part[:] = np.bincount(drawn.ravel(), minlength=part.size).reshape(part.shape)


def estimate_f1(counts: CountArray, *, num_draws: int = NUM_DRAWS, seed: int = 0) -> Estimate:
    """Micro F1 of one system on one cohort, from counts `(num_documents, 3)`.

    Raises:
        ValueError: There is no document.
    """
    draws = bootstrap_f1(counts, num_draws=num_draws, seed=seed)
    return Estimate(float(f1_of(counts.sum(axis=0))), draws)


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """The plain mean: of one system over cohorts, or of several systems (mean single-site model).

    Raises:
        ValueError: There is no estimate, or the numbers of draws differ.
    """
    if not estimates or len({e.draws.shape for e in estimates}) != 1:
        raise ValueError(
            f"mean of {len(estimates)} estimates: expected at least one, all with the same number "
            "of draws."
        )
    draws = np.mean([e.draws for e in estimates], axis=0)
    return Estimate(float(np.mean([e.value for e in estimates])), draws)


def interval(draws: NDArray[np.float64], level: float = 0.95) -> tuple[float, float]:
    """The central percentile interval of the draws."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_difference(first: Estimate, second: Estimate) -> Estimate:
    """First minus second, draw by draw; both must come from the same documents and seeds.

    Raises:
        ValueError: The numbers of draws differ.
    """
    if first.draws.shape != second.draws.shape:
        raise ValueError(
            f"paired difference of {first.draws.size} and {second.draws.size} draws: expected the "
            "same number, from the same documents and seeds."
        )
    return Estimate(first.value - second.value, first.draws - second.draws)
