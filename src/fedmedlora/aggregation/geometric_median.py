"""The point with the least sum of distances to the sites: the geometric median, or RFA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from fedmedlora.adapters.exchange import Train
from fedmedlora.adapters.products import mean_of_products
from fedmedlora.aggregation.screening import screen_products
from fedmedlora.aggregation.strategy import Aggregate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from fedmedlora.adapters.exchange import LocalPlan, SiteUpdate
    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.aggregation.strategy import AggregationContext, Memory

# Beside the two points' own lengths, a squared distance below this is rounding.
_ROUNDING = 1e-13


class GeometricMedianConfig(BaseModel):
    """Options of `geometric-median`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["geometric-median"] = "geometric-median"

    smoothing: float = Field(default=1e-6, gt=0, lt=1)
    """A distance counts as at least this share of the least one between two sites, so that the
    iteration can end at a site."""

    def build(self) -> GeometricMedian:
        """The strategy."""
        return GeometricMedian(self.smoothing)


class GeometricMedian:
    """Go where the sum of distances, not of squares, to the sites' changes is least.

    Update:    w_i <- 1 / |D_i - sum_j w_j D_j|, divided by their sum, until nothing moves, where
               D_i is the change of site i's product in the round; G <- G + sum_i w_i D_i, cut to
               the rank.
    Sends:     A and B, up and down.
    Limits:    Holds as long as fewer than half of the sites are bad, whatever these send. Every
               site counts alike: weights by size would let one large bad site decide. Costs some
               accuracy where all sites are honest.
    Reference: Pillutla et al. 2022, arXiv:1912.13445 (RFA), iterated to the end and with equal
               weights; on products through their Gram matrix.
    """

    needs_scorer = False

    def __init__(self, smoothing: float = 1e-6) -> None:
        self.smoothing = smoothing

    def plan(
        self,
        plans: Mapping[str, LocalPlan],
        adapter: AdapterState,
        memory: Memory,  # noqa: ARG002  # nothing is remembered
    ) -> dict[str, Train]:
        """The study's plan and the global adapter, for every site."""
        return {site: Train(plan, adapter) for site, plan in plans.items()}

    def aggregate(self, updates: Iterable[SiteUpdate], context: AggregationContext) -> Aggregate:
        """The geometric median of the sound updates' products.

        Raises:
            AggregationError: No update is sound.
        """
        found = screen_products(updates, context)
        shares, distances = geometric_median(found.gram, self.smoothing)
        weights = dict(zip(found.updates, shares, strict=True))
        adapters = {site: update.adapter for site, update in found.updates.items()}
        adapter, energy_kept = mean_of_products(context.adapter, adapters, weights)
        record = found.record() | {
            "distances": dict(zip(found.updates, distances, strict=True)),
            "energy_kept": energy_kept,
        }
        return Aggregate(adapter, weights, record=record, refused=found.refused)


def geometric_median(
    gram: NDArray[np.float64], smoothing: float, *, max_iterations: int = 1000
) -> tuple[list[float], list[float]]:
    """Weights of the geometric median of points with these inner products, and distances to it.

    Weiszfeld's iteration from the mean. Distances are taken from squared distances between points,
    so that one far point does not drown those between the others.
    """
    lengths = gram.diagonal()
    sums = lengths[:, None] + lengths[None, :]
    squares = sums - 2 * gram
    squares[squares < _ROUNDING * sums] = 0.0
    weights = np.full(len(gram), 1 / len(gram))
    # Nothing that grows with the farthest point: that one would blur where the others lie.
    floor = smoothing * float(np.sqrt(squares[squares > 0].min(initial=np.inf)))
    for _ in range(max_iterations if np.isfinite(floor) else 0):
        inverse = 1 / np.maximum(_distances(squares, weights), floor)
        moved = inverse / inverse.sum()
        change = float(np.abs(moved - weights).max())
        weights = moved
        if change < 1e-12:
            break
    return weights.tolist(), _distances(squares, weights).tolist()


def _distances(squares: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each point to the weighted mean.

    |x_i - m|^2 = sum_j w_j q_ij - sum_jk w_j w_k q_jk / 2, with q the squared distances.
    """
    to_mean = squares @ weights
    found: NDArray[np.float64] = np.sqrt(np.maximum(to_mean - weights @ to_mean / 2, 0.0))
    return found
