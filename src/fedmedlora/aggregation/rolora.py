"""One round trains `B`, the next one `A`: RoLoRA."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from fedmedlora.adapters.exchange import Train
from fedmedlora.aggregation.one_factor import mean_of_one_factor, screen_factor
from fedmedlora.aggregation.strategy import Aggregate
from fedmedlora.aggregation.weighting import SizeUnit, by_size, size_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fedmedlora.adapters.exchange import LocalPlan, SiteUpdate
    from fedmedlora.adapters.state import AdapterState, Factor
    from fedmedlora.aggregation.strategy import AggregationContext, Memory


class RoLoRAConfig(BaseModel):
    """Options of `rolora`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["rolora"] = "rolora"

    size: SizeUnit = "tokens"
    """What a site's weight is proportional to."""

    def build(self) -> RoLoRA:
        """The strategy."""
        return RoLoRA(self.size)


class RoLoRA:
    """Train and average `B` in odd rounds and `A` in even ones, each beside the other, frozen.

    Update:    round 1, 3, ...: B <- sum_i n_i B_i / n; round 2, 4, ...: A <- sum_i n_i A_i / n.
    Sends:     B up in odd rounds, A in even ones; A and B down.
    Limits:    Exact in every round, at half the traffic up; but each factor learns in every second
               round only, so it needs about twice as many. With one round it is `ffa-lora`. `B`
               comes first because it starts at zero, and until then `A` has no gradient.
    Reference: Chen et al. 2025, arXiv:2502.01755.
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
        """The study's plan with the round's factor alone trained and sent; the global adapter."""
        requests = {}
        for site, plan in plans.items():
            factors = frozenset({factor_of(plan.round_index)})
            asked = replace(plan, train_factors=factors, share_factors=factors)
            requests[site] = Train(asked, adapter)
        return requests

    def aggregate(self, updates: Iterable[SiteUpdate], context: AggregationContext) -> Aggregate:
        """The mean of the round's factor, weighted by size, beside the other one as it was.

        Raises:
            AggregationError: No update is sound, or no site has anything of the chosen size.
        """
        factor = factor_of(context.round_index)
        sound, refused = screen_factor(updates, context, factor)
        sizes = {site: size_of(update, self.size) for site, update in sound.items()}
        weights = by_size(sizes)
        adapters = {site: update.adapter for site, update in sound.items()}
        adapter = mean_of_one_factor(adapters, weights, context.adapter)
        record = {"factor": factor, "sizes": sizes}
        return Aggregate(adapter, weights, record=record, refused=refused)


def factor_of(round_index: int) -> Factor:
    """The factor that a round trains; rounds count from 1."""
    return "B" if round_index % 2 else "A"
