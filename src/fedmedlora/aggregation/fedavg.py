"""Sites weighted by their size: Fed-MedLoRA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from fedmedlora.adapters.exchange import Train
from fedmedlora.aggregation.merging import mean_of_factors
from fedmedlora.aggregation.screening import screen
from fedmedlora.aggregation.strategy import Aggregate
from fedmedlora.aggregation.weighting import SizeUnit, by_size, size_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fedmedlora.adapters.exchange import LocalPlan, SiteUpdate
    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.aggregation.strategy import AggregationContext, Memory


class FedAvgConfig(BaseModel):
    """Options of `fedavg`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["fedavg"] = "fedavg"

    size: SizeUnit = "tokens"
    """What a site's weight is proportional to; the reference code counts completion tokens."""

    def build(self) -> FedAvg:
        """The strategy."""
        return FedAvg(self.size)


class FedAvg:
    """Average the adapters, each site as loud as its training split is large.

    Update:    A <- sum_i n_i A_i / n and B <- sum_i n_i B_i / n, separately.
    Sends:     A and B, up and down.
    Limits:    The product of the means is not the mean of the products (an error of second order in
               the sites' drift), and a large site with bad labels decides.
    Reference: McMahan et al. 2017, arXiv:1602.05629; on LoRA: Fed-MedLoRA, arXiv:2601.22124.
    """

    needs_scorer = False

    def __init__(self, size: SizeUnit = "tokens") -> None:
        self.size: SizeUnit = size

    def plan(
        self,
        plans: Mapping[str, LocalPlan],
        adapter: AdapterState,
        memory: Memory,  # noqa: ARG002  # nothing is remembered
    ) -> dict[str, Train]:
        """The study's plan and the global adapter, for every site."""
        return {site: Train(plan, adapter) for site, plan in plans.items()}

    def aggregate(self, updates: Iterable[SiteUpdate], context: AggregationContext) -> Aggregate:
        """The mean of the sound updates, weighted by size.

        Raises:
            AggregationError: No update is sound, or no site has anything of the chosen size.
        """
        sound, refused = screen(updates, context)
        sizes = {site: size_of(update, self.size) for site, update in sound.items()}
        weights = by_size(sizes)
        adapter = mean_of_factors({s: update.adapter for s, update in sound.items()}, weights)
        return Aggregate(adapter, weights, record={"sizes": sizes}, refused=refused)
