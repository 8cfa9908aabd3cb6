"""Adapters with weights in, one adapter out. Pure functions; inputs are never changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fedmedlora.adapters.state import AdapterState, LoRAPair
from fedmedlora.core.errors import AggregationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def mean_of_factors(
    adapters: Mapping[str, AdapterState], weights: Mapping[str, float]
) -> AdapterState:
    """The adapter whose `A` and `B` are the weighted means of the sites' `A` and `B`.

    The factors are averaged separately, so `B @ A` of the result is not the mean of the products.
    Sums run in float64, over sites in name order and one module after the other, and are cast back
    to `spec.dtype`; so the result does not depend on the order of arrival.

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
            module: LoRAPair(
                A=_weighted_sum([adapters[site].pairs[module].A for site in sites], shares),
                B=_weighted_sum([adapters[site].pairs[module].B for site in sites], shares),
            )
            for module in first.pairs
        },
    )


def _weighted_sum(tensors: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    """The weighted sum in float64, cast back to the tensors' dtype."""
    total = torch.zeros(tensors[0].shape, dtype=torch.float64)
    for tensor, share in zip(tensors, shares, strict=True):
        total.add_(tensor.to(torch.float64), alpha=share)
    return total.to(tensors[0].dtype)
