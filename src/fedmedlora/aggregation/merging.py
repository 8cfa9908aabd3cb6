"""Adapters with weights in, one adapter out. Pure functions; inputs are never changed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fedmedlora.adapters.products import mean_of_products
from fedmedlora.adapters.state import AdapterState, LoRAPair
from fedmedlora.core.errors import AggregationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fedmedlora.aggregation.strategy import Merge


@dataclass(frozen=True, slots=True)
class Merged:
    """An adapter, and how much of the mean product's energy is in it; None with factors."""

    adapter: AdapterState
    energy_kept: float | None


def merge(
    how: Merge,
    before: AdapterState,
    adapters: Mapping[str, AdapterState],
    weights: Mapping[str, float],
) -> Merged:
    """The mean of factors or of products; what the weights leave of 1 stays with `before`.

    Raises:
        AggregationError: Weights and adapters name different sites, or weights are no shares.
        AdapterMismatchError: The adapters cannot be merged in this way.
    """
    if how == "product":
        return Merged(*mean_of_products(before, adapters, weights))
    rest = 1 - math.fsum(weights.values())
    if rest > 1e-9:
        # No site can have this name.
        adapters, weights = {**adapters, "": before}, {**weights, "": rest}
    return Merged(mean_of_factors(adapters, weights), None)


def mean_of_factors(
    adapters: Mapping[str, AdapterState], weights: Mapping[str, float]
) -> AdapterState:
    """The adapter whose `A` and `B` are the weighted means of the sites' `A` and `B`.

    The factors are averaged separately, so `B @ A` of the result is not the mean of the products.
    Sums run in float64, over sites in name order and one module after the other, and are cast back
    to `spec.dtype`; so the result does not depend on the order of arrival. Of adapters that lie in
    files one pair of one site is in memory at a time.

    Raises:
        AggregationError: Weights and adapters name different sites, or weights do not sum to 1.
        AdapterMismatchError: The adapters cannot be added.
    """
    sites = sorted(weights)
    if not sites or sites != sorted(adapters):
        raise AggregationError(
            f"mean of factors: expected one weight an adapter, got weights of {sites} and "
            f"adapters of {sorted(adapters)}."
        )
    shares = [weights[site] for site in sites]
    if not all(share >= 0 for share in shares) or abs(sum(shares) - 1) > 1e-9:
        raise AggregationError(
            f"mean of factors: expected weights >= 0 that sum to 1, got {dict(weights)}."
        )
    first = adapters[sites[0]]
    for site in sites[1:]:
        first.check_compatible(adapters[site], f"mean of factors, {site} against {sites[0]}")
    return AdapterState(
        first.spec,
        {
            module: _mean_pair((adapters[site].pairs[module] for site in sites), shares)
            for module in first.pairs
        },
    )


def _mean_pair(pairs: Iterable[LoRAPair], shares: Sequence[float]) -> LoRAPair:
    """The weighted sums of `A` and of `B` in float64, cast back. One pair is held at a time."""
    totals: list[torch.Tensor] = []
    for pair, share in zip(pairs, shares, strict=True):
        factors = (pair.A, pair.B)
        totals = totals or [torch.zeros(factor.shape, dtype=torch.float64) for factor in factors]
        for total, factor in zip(totals, factors, strict=True):
            total.add_(factor.to(torch.float64), alpha=share)
    A, B = (total.to(pair.A.dtype) for total in totals)
    return LoRAPair(A=A, B=B)
