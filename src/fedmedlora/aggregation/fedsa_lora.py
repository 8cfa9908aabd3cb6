"""`A` is shared, `B` stays at the site: FedSA-LoRA."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from fedmedlora.adapters.exchange import Train
from fedmedlora.adapters.state import FACTORS
from fedmedlora.aggregation.merging import mean_of_factors
from fedmedlora.aggregation.one_factor import mean_of_one_factor, screen_factor
from fedmedlora.aggregation.screening import screen
from fedmedlora.aggregation.strategy import Aggregate
from fedmedlora.aggregation.weighting import SizeUnit, by_size, size_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fedmedlora.adapters.exchange import LocalPlan, SiteUpdate
    from fedmedlora.adapters.state import AdapterState, Factor
    from fedmedlora.aggregation.strategy import AggregationContext, Memory


class FedSALoRAConfig(BaseModel):
    """Options of `fedsa-lora`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["fedsa-lora"] = "fedsa-lora"

    size: SizeUnit = "tokens"
    """What a site's weight is proportional to."""

    share_b_at_the_end: bool = True
    """Whether sites send `B` in the last round, so that its mean makes an adapter that a hospital
    which took no part can use. If not, `B` never leaves a site, and the global adapter has the `B`
    from before training, which is zero unless the study has a `start`: it changes nothing until a
    site puts its own `B` in."""

    def build(self) -> FedSALoRA:
        """The strategy."""
        return FedSALoRA(self.size, share_b_at_the_end=self.share_b_at_the_end)


class FedSALoRA:
    """Train both factors, average `A`, which learns what all have in common; `B` stays at home.

    Update:    A <- sum_i n_i A_i / n; each site goes on with its own B_i. In the last round, if
               `share_b_at_the_end`, also B <- sum_i n_i B_i / n.
    Sends:     A up, in the last round B, too; A and B down, of which sites use A.
    Limits:    Personal: there is one model a site, and no global one before the end. Extraction in
               a study uses the global adapter, so it tests the mean of the last round's B, not the
               sites' own. A site must keep its B; one that lost it starts from that of before
               training.
    Reference: Guo et al. 2025, arXiv:2410.01463; the mean B at the end as in the public code of
               Fed-MedLoRA, arXiv:2601.22124.
    """

    needs_scorer = False

    def __init__(self, size: SizeUnit = "tokens", *, share_b_at_the_end: bool = True) -> None:
        self.size: SizeUnit = size
        self.share_b_at_the_end = share_b_at_the_end

    def plan(
        self,
        plans: Mapping[str, LocalPlan],
        adapter: AdapterState,
        memory: Memory,  # noqa: ARG002  # nothing is remembered
    ) -> dict[str, Train]:
        """The study's plan with `A` alone sent, in the last round both; the global adapter."""
        requests = {}
        for site, plan in plans.items():
            factors = self._shared(plan.round_index, plan.num_rounds)
            requests[site] = Train(replace(plan, share_factors=factors), adapter)
        return requests

    def aggregate(self, updates: Iterable[SiteUpdate], context: AggregationContext) -> Aggregate:
        """The mean of what sites shared, weighted by size, beside the rest as it was.

        Raises:
            AggregationError: No update is sound, or no site has anything of the chosen size.
        """
        whole = self._shared(context.round_index, context.num_rounds) == FACTORS
        sound, refused = screen(updates, context) if whole else screen_factor(updates, context, "A")
        sizes = {site: size_of(update, self.size) for site, update in sound.items()}
        weights = by_size(sizes)
        adapters = {site: update.adapter for site, update in sound.items()}
        if whole:
            adapter = mean_of_factors(adapters, weights)
        else:
            adapter = mean_of_one_factor(adapters, weights, context.adapter)
        return Aggregate(adapter, weights, record={"sizes": sizes}, refused=refused)

    def _shared(self, round_index: int, num_rounds: int | None) -> frozenset[Factor]:
        """What sites send in a round; a run that does not know its end has no last one."""
        ends = num_rounds is not None and round_index >= num_rounds
        return FACTORS if self.share_b_at_the_end and ends else frozenset({"A"})
