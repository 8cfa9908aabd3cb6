"""The products of many adapters brought together: their inner products, and their mean.

Everything runs in float64, one module after the other; of adapters that lie in files one module of
all of them is in memory at a time. Nothing is changed in place.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from fedmedlora.adapters.algebra import check_modules, check_pair, product_shape
from fedmedlora.adapters.ranks import split
from fedmedlora.adapters.stacks import inner_products, largest_components, stack
from fedmedlora.adapters.state import AdapterState, LoRAPair
from fedmedlora.core.errors import AggregationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from fedmedlora.adapters.ranks import Gauge
    from fedmedlora.adapters.state import AdapterSpec


def delta_gram(
    before: AdapterState, adapters: Mapping[str, AdapterState]
) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Sites in name order, and the inner products of their round deltas, `(sites, sites)`.

    A site's round delta is its product less what it started from: `before`, truncated to its rank.

    Raises:
        AdapterMismatchError: Base model, modules or shapes differ, or a factor is missing.
    """
    sites = _checked_sites(before, adapters)
    deltas = _delta_coefficients(before.spec, [adapters[site].spec for site in sites])
    total = torch.zeros(len(sites), len(sites), dtype=torch.float64)
    for module, pair in before.pairs.items():
        left, right = stack(_pairs_of(module, pair, adapters, sites))
        total += deltas @ inner_products(left, right) @ deltas.T
    return sites, ((total + total.T) / 2).numpy()


def mean_of_products(
    before: AdapterState,
    adapters: Mapping[str, AdapterState],
    weights: Mapping[str, float],
    spec: AdapterSpec | None = None,
    gauge: Gauge = "scaled",
) -> tuple[AdapterState, float]:
    """The adapter of `spec` (that of `before`) nearest to the mean product, and its energy share.

    The mean is `G + sum_i w_i (DW_i - P_i(G))`, with `G` the product of `before`, `DW_i` that of a
    site, and `P_i(G)` what a site of its rank had received. So components of `G` beyond a site's
    rank are not pulled to zero by it, and what the weights leave of 1 stays with `G`. With equal
    ranks and weights that sum to 1 it is the plain mean of the products. The energy share is that
    of the mean's squared norm that fits into the rank; 1 if all does.

    Raises:
        AggregationError: A weight has no adapter, is no share, or all sum to more than 1; or a
            number of an adapter is not finite.
        AdapterMismatchError: Base model, modules or shapes differ, or a factor is missing.
    """
    _check_weights(adapters, weights)
    used = {site: adapters[site] for site, weight in weights.items() if weight > 0}
    sites = _checked_sites(before, used)
    deltas = _delta_coefficients(before.spec, [used[site].spec for site in sites])
    shares = torch.tensor([weights[site] for site in sites], dtype=torch.float64)
    coefficients = shares @ deltas
    coefficients[: before.spec.rank] += before.spec.scaling
    # The rest of 1 less all weights: rounding errors would bring back components of `before`.
    coefficients[coefficients.abs() < 1e-12 * before.spec.scaling] = 0.0
    used_before = coefficients[: before.spec.rank].nonzero().flatten()
    coefficients = torch.cat([coefficients[used_before], coefficients[before.spec.rank :]])
    spec = spec or before.spec
    pairs: dict[str, LoRAPair] = {}
    kept = energy = 0.0
    for module, own in before.pairs.items():
        sent, *stacked = _pairs_of(module, own, used, sites)
        if len(used_before):
            stacked = [LoRAPair(sent.A[used_before], sent.B[:, used_before]), *stacked]
        left, right = stack(stacked)
        found = largest_components(left * coefficients, right, spec.rank)
        pairs[module] = split(found, own.A, module, spec, gauge)
        kept += float(found.sigmas.square().sum())
        energy += found.energy
    return AdapterState(spec, pairs), min(1.0, kept / energy) if energy > 0 else 1.0


def _checked_sites(before: AdapterState, adapters: Mapping[str, AdapterState]) -> tuple[str, ...]:
    """Sites in name order. Shapes are looked at when a module is stacked: it is read only then."""
    for site, adapter in adapters.items():
        check_modules(before, adapter, f"adapter of {site}")
    return tuple(sorted(adapters))


def _check_weights(adapters: Mapping[str, AdapterState], weights: Mapping[str, float]) -> None:
    shares = weights.values()
    if not weights.keys() <= adapters.keys():
        raise AggregationError(
            f"mean of products: expected weights of {sorted(adapters)}, got {sorted(weights)}."
        )
    if not all(share >= 0 for share in shares) or not math.fsum(shares) <= 1 + 1e-9:
        raise AggregationError(
            f"mean of products: expected weights >= 0 that sum to at most 1, got {dict(weights)}."
        )


def _pairs_of(
    module: str, own: LoRAPair, adapters: Mapping[str, AdapterState], sites: Sequence[str]
) -> list[LoRAPair]:
    """The module's pair before, then those of the sites, as `_delta_coefficients` counts them."""
    shape = product_shape(own)
    check_pair(shape, own, f"the adapter before the round, {module}")
    pairs = [adapters[site].pairs[module] for site in sites]
    for site, pair in zip(sites, pairs, strict=True):
        check_pair(shape, pair, f"adapter of {site}, {module}")
    some_narrower = any(pair.rank < own.rank for pair in pairs)
    return [_principal(own) if some_narrower else own, *pairs]


def _principal(pair: LoRAPair) -> LoRAPair:
    """The same product in float64 with its singular components in order, zeros behind them."""
    found = largest_components(*stack([pair]), pair.rank)
    missing = pair.rank - len(found.sigmas)
    return LoRAPair(
        A=torch.nn.functional.pad(found.right, (0, 0, 0, missing)),
        B=torch.nn.functional.pad(found.scaled_left, (0, missing)),
    )


def _delta_coefficients(before: AdapterSpec, specs: Sequence[AdapterSpec]) -> torch.Tensor:
    """`(sites, k)`: what each stacked column adds to a site's round delta.

    The first columns are the components of the adapter before the round; a site of a lower rank
    received only the first of them.
    """
    widths = [before.rank, *(spec.rank for spec in specs)]
    deltas = torch.zeros(len(specs), sum(widths), dtype=torch.float64)
    start = before.rank
    for row, spec in zip(deltas, specs, strict=True):
        row[: min(spec.rank, before.rank)] = -before.scaling
        row[start : start + spec.rank] = spec.scaling
        start += spec.rank
    return deltas
