"""For strategies whose sites send `A` or `B` alone: the other factor is that of the server."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fedmedlora.adapters.state import AdapterState, LoRAPair
from fedmedlora.aggregation.merging import mean_of_factors
from fedmedlora.aggregation.screening import screen

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fedmedlora.adapters.exchange import SiteUpdate
    from fedmedlora.adapters.state import Factor
    from fedmedlora.aggregation.strategy import AggregationContext


def screen_factor(
    updates: Iterable[SiteUpdate], context: AggregationContext, factor: Factor
) -> tuple[dict[str, SiteUpdate], dict[str, str]]:
    """What `screen` gives, where this factor and nothing else was asked for.

    Raises:
        AggregationError: No update is sound.
    """
    return screen(updates, replace(context, adapter=context.adapter.only({factor})))


def mean_of_one_factor(
    adapters: Mapping[str, AdapterState], weights: Mapping[str, float], before: AdapterState
) -> AdapterState:
    """The weighted mean of the factor that the adapters hold, beside a copy of `before`'s other.

    As one factor is the same everywhere, the product is exactly the mean of the sites' products.

    Raises:
        AggregationError: Weights and adapters name different sites, or weights do not sum to 1.
        AdapterMismatchError: The adapters cannot be added, or do not fit `before`.
    """
    pairs = {}
    for module, pair in mean_of_factors(adapters, weights).pairs.items():
        old = before.pairs[module]
        pairs[module] = LoRAPair(
            A=pair.A if pair.A.numel() else old.A.clone(),
            B=pair.B if pair.B.numel() else old.B.clone(),
        )
    adapter = AdapterState(before.spec, pairs)
    before.check_compatible(adapter, "mean of one factor")
    return adapter
