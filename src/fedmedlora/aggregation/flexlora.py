"""Sites of different ranks; the mean of their products is cut to each one's rank: FlexLoRA."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  # pydantic reads it
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import BaseModel, ConfigDict, PositiveInt

from fedmedlora.adapters.exchange import Train
from fedmedlora.adapters.products import mean_of_products
from fedmedlora.adapters.state import AdapterState, LoRAPair
from fedmedlora.aggregation.screening import screen_products
from fedmedlora.aggregation.site_ranks import cut_for
from fedmedlora.aggregation.strategy import Aggregate
from fedmedlora.aggregation.weighting import SizeUnit, by_size, size_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fedmedlora.adapters.exchange import LocalPlan, SiteUpdate
    from fedmedlora.aggregation.strategy import AggregationContext, Memory


class FlexLoRAConfig(BaseModel):
    """Options of `flexlora`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["flexlora"] = "flexlora"

    ranks: Mapping[str, PositiveInt] = {}
    """Rank of a site's adapter by site name; sites that are not named have the study's, and none
    may have more. `alpha` changes with the rank, so that the scaling stays."""

    size: SizeUnit = "tokens"
    """What a site's weight is proportional to."""

    def build(self) -> FlexLoRA:
        """The strategy."""
        return FlexLoRA(self.ranks, self.size)


class FlexLoRA:
    """Average the products, and send each site as much of the mean as its rank holds.

    Update:    M <- sum_i n_i s_i B_i A_i / n; G is M cut to the study's rank by singular values,
               and site i starts from M cut to rank r_i.
    Sends:     A and B of rank r_i, up and down.
    Limits:    What a site of low rank could not receive counts as zero in its update, so with mixed
               ranks the tail of M shrinks in every round, even where no site learns anything: here
               for comparison, `fedmedlora-plus` with product merge does not do this.
    Reference: Bai et al. 2024, arXiv:2402.11505; computed without forming M.
    """

    needs_scorer = False

    def __init__(self, ranks: Mapping[str, int] | None = None, size: SizeUnit = "tokens") -> None:
        self.ranks = dict(ranks or {})
        self.size: SizeUnit = size

    def plan(
        self,
        plans: Mapping[str, LocalPlan],
        adapter: AdapterState,
        memory: Memory,  # noqa: ARG002  # nothing is remembered
    ) -> dict[str, Train]:
        """The study's plan and the global adapter, cut to the site's rank, for every site.

        Raises:
            ConfigError: A site has more than the study's rank.
        """
        return {
            site: Train(plan, cut_for("flexlora", site, adapter, self.ranks))
            for site, plan in plans.items()
        }

    def aggregate(self, updates: Iterable[SiteUpdate], context: AggregationContext) -> Aggregate:
        """The mean product of the sound updates, weighted by size, cut to the study's rank.

        Raises:
            AggregationError: No update is sound, or no site has anything of the chosen size.
        """
        found = screen_products(updates, context)
        sizes = {site: size_of(update, self.size) for site, update in found.updates.items()}
        weights = by_size(sizes)
        adapters = {site: update.adapter for site, update in found.updates.items()}
        adapter, energy_kept = mean_of_products(_emptied(context.adapter), adapters, weights)
        record = found.record() | {"sizes": sizes, "energy_kept": energy_kept}
        return Aggregate(adapter, weights, record=record, refused=found.refused)


def _emptied(adapter: AdapterState) -> AdapterState:
    """The adapter with a product of zero, so that changes against it are whole products."""
    return AdapterState(
        adapter.spec, {m: LoRAPair(p.A, torch.zeros_like(p.B)) for m, p in adapter.pairs.items()}
    )
