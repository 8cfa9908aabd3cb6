"""Could two systems differ this much by chance? Approximate randomisation, and Holm for many.

If the systems are equally good, it does not matter which of them an output of a document came
from. So the outputs of each document are swapped or not at random, many times; p is how often the
difference is then at least as large as the real one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedmedlora.core.seeds import numpy_rng
from fedmedlora.evaluation.intervals import f1_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fedmedlora.evaluation.intervals import CountArray

NUM_SWAPS = 9_999
_BLOCK_ELEMENTS = 2**16
# Two sums of the same counts in another order may differ in the last digits.
_ROUNDING = 1e-12


def randomisation_p(
    first: CountArray, second: CountArray, *, num_swaps: int = NUM_SWAPS, seed: int = 0
) -> NDArray[np.float64]:
    """Two-sided p of the differences in micro F1, `(k + 1) / (num_swaps + 1)`, `(...)`.

    Args:
        first: tp, fp, fn of each document, `(..., num_documents, 3)`. Leading axes, such as
            figures, share the swaps.
        second: The same for the other system, on the same documents in the same order.
        num_swaps: How many times to swap at random; the smallest p is 1 / (num_swaps + 1).
        seed: Seed of the swaps.

    Raises:
        ValueError: The shapes differ, or there is no document.
    """
    if first.shape != second.shape or first.shape[-2] == 0:
        raise ValueError(
            f"approximate randomisation of {first.shape} and {second.shape}: expected counts of "
            "the same documents, at least one."
        )
    *leading, num_documents, _ = first.shape
    difference = (second - first).astype(np.float64)
    columns = np.moveaxis(difference, -2, 0).reshape(num_documents, -1)
    sum_first, sum_second = first.sum(axis=-2), second.sum(axis=-2)
    observed = np.abs(f1_of(sum_first) - f1_of(sum_second))
    rng = numpy_rng("document-swaps", seed, num_documents)
    block = max(1, _BLOCK_ELEMENTS // num_documents)
    num_as_large = np.zeros(leading, dtype=np.int64)
    for done in range(0, num_swaps, block):
        size = (min(block, num_swaps - done), num_documents)
        swapped = rng.integers(0, 2, size=size, dtype=np.int8).astype(np.float64)
        moved = (swapped @ columns).reshape(size[0], *leading, 3)
        by_chance = np.abs(f1_of(sum_first + moved) - f1_of(sum_second - moved))
        num_as_large += (by_chance >= observed - _ROUNDING).sum(axis=0)
    p: NDArray[np.float64] = (num_as_large + 1) / (num_swaps + 1)
    return p


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values adjusted for being a family, in the given order.

    To call a figure different where its adjusted p is at most 0.05 is wrong for any figure of the
    family with a chance of at most 5 %.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
