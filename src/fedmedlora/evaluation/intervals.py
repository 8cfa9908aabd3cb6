"""How sure a score is: the document bootstrap, and paired differences of systems.

Documents are resampled, never mentions: the mentions of a note are not independent, and resampling
them gives intervals that are too narrow. The draws for a cohort depend on its seed and its number
of documents only, so two systems scored on the same documents in the same order share their draws,
and the difference of their estimates is a paired one. Estimates of several cohorts may be averaged:
give each cohort its own seed, and every system the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmedlora.core.seeds import numpy_rng

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    CountArray = NDArray[np.int64] | NDArray[np.float64]

    Interval = tuple[float, float]

NUM_DRAWS = 10_000
MIN_DOCUMENTS = 2
"""Of fewer there is no interval: a single document is drawn whatever is drawn, so that every draw
has the same score. That says nothing about how sure it is, and must not look as if it did."""

# A block of resampling weights stays in the processor's cache, and is large enough for a fast
# product. Within it, draws are made in small parts: arrays of 128 KiB and more come from the system
# anew each time, page by page. Of many documents a block has some draws all the same: each block
# reads all counts once.
_BLOCK_ELEMENTS = 2**16
_BLOCK_DRAWS, _MOST_BLOCK_ELEMENTS = 64, 2**21
_PART_ELEMENTS = 2**14 - 1
_EXACT_IN_FLOAT32 = 2**23  # sums below it are exact in float32, those of halves, too


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """A figure on the documents as they are, and on each resampled set of them.

    Attributes:
        value: The figure.
        draws: The same of each draw, `(num_draws,)`.
        num_documents: How many there are; of a mean over cohorts, in the smallest one.
    """

    value: float
    draws: NDArray[np.float64]
    num_documents: int

    @property
    def ci95(self) -> Interval | None:
        """The 95 % percentile interval; None where there are too few documents for one."""
        return interval(self.draws) if self.num_documents >= MIN_DOCUMENTS else None


def f1_of(counts: CountArray) -> NDArray[np.float64]:
    """F1 of counts `(..., 3)` = tp, fp, fn; 0 where all three are 0."""
    return _f1(counts[..., 0], counts[..., 1] + counts[..., 2])


def _f1(hits: NDArray[Any], errors: NDArray[Any]) -> NDArray[np.float64]:
    doubled = 2.0 * hits.astype(np.float64)
    f1: NDArray[np.float64] = np.divide(
        doubled, doubled + errors, out=np.zeros_like(doubled), where=doubled > 0
    )
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
    _refuse_none(num_documents)
    # (num_documents, systems * 2): one matrix product serves all systems.
    both = np.stack([counts[..., 0], counts[..., 1] + counts[..., 2]], axis=-1)
    columns = np.moveaxis(both, -2, 0).reshape(num_documents, -1)
    sums = _sums_of_draws(columns.astype(sums_type(counts)), num_draws, seed)
    per_draw = sums.reshape(num_draws, *leading, 2)
    return np.moveaxis(_f1(per_draw[..., 0], per_draw[..., 1]), 0, -1)


def f1_intervals(
    columns: NDArray[Any], *, num_draws: int = NUM_DRAWS, seed: int = 0
) -> list[Interval]:
    """The 95 % interval of each figure, from the same draws as those of `bootstrap_f1`.

    All figures of a result together have more draws than should be in memory at once as F1.

    Args:
        columns: Of each figure the hits and the errors (fp + fn) of every document,
            `(num_documents, num_figures * 2)`, of the type `sums_type`.
        num_draws: As in `bootstrap_f1`.
        seed: Likewise.

    Raises:
        ValueError: There is no document.
    """
    sums = _sums_of_draws(columns, num_draws, seed)
    pairs = range(0, columns.shape[1], 2)
    return [interval(_f1(sums[:, first], sums[:, first + 1])) for first in pairs]


def sums_type(counts: NDArray[Any]) -> type[np.float32] | type[np.float64]:
    """The smaller type of number that holds every sum over a draw of documents exactly.

    Args:
        counts: What is summed, `(..., num_documents, 3)`: whole numbers, halves, or others.
    """
    largest = 2 * float(counts.max(initial=0)) * counts.shape[-2]  # errors are a sum of two
    doubled = 2 * counts
    fits = largest < _EXACT_IN_FLOAT32 and bool((doubled == np.rint(doubled)).all())
    return np.float32 if fits else np.float64


def _sums_of_draws(columns: NDArray[Any], num_draws: int, seed: int) -> NDArray[Any]:
    """The sum of each column over each draw of documents, `(num_draws, num_columns)`."""
    num_documents, num_columns = columns.shape
    _refuse_none(num_documents)
    rng = numpy_rng("document-bootstrap", seed, num_documents)
    some = min(_BLOCK_DRAWS, _MOST_BLOCK_ELEMENTS // num_documents)
    rows = max(1, some, _BLOCK_ELEMENTS // num_documents)
    weights = np.empty((rows, num_documents), columns.dtype)
    sums = np.empty((num_draws, num_columns), columns.dtype)
    for first in range(0, num_draws, rows):
        block = weights[: num_draws - first]
        _fill_with_weights(block, rng)
        np.matmul(block, columns, out=sums[first : first + rows])
    return sums


def _refuse_none(num_documents: int) -> None:
    if num_documents == 0:
        raise ValueError("bootstrap: expected at least one document, got 0.")


def _fill_with_weights(block: NDArray[Any], rng: np.random.Generator) -> None:
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
    return Estimate(float(f1_of(counts.sum(axis=0))), draws, len(counts))


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
    fewest = min(e.num_documents for e in estimates)
    return Estimate(float(np.mean([e.value for e in estimates])), draws, fewest)


def interval(draws: NDArray[np.float64], level: float = 0.95) -> Interval:
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
    fewest = min(first.num_documents, second.num_documents)
    return Estimate(first.value - second.value, first.draws - second.draws, fewest)
