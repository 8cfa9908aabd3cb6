"""`A` stays as it was drawn, only `B` is trained and sent: FFA-LoRA."""

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
    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.aggregation.strategy import AggregationContext, Memory


class FFALoRAConfig(BaseModel):
    """Options of `ffa-lora`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["ffa-lora"] = "ffa-lora"

    size: SizeUnit = "tokens"
    """What a site's weight is proportional to."""

    def build(self) -> FFALoRA:
        """The strategy."""
        return FFALoRA(self.size)


class FFALoRA:
    """Freeze `A` as it was drawn before training, train and average `B`.

    Update:    B <- sum_i n_i B_i / n; A stays.
    Sends:     B up; A and B down, so that a site needs no memory.
    Limits:    Exact, as sum_i w_i (B_i A) = (sum_i w_i B_i) A, and noise added for privacy stays
               linear; but what can be learned lies in the row space of a random A, which costs
               accuracy at low rank and with many sites.
    Reference: Sun et al. 2024, arXiv:2403.12313.
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
        """The study's plan with `B` alone trained and sent, and the global adapter."""
        only_b: frozenset[Literal["A", "B"]] = frozenset({"B"})
        return {
            site: Train(replace(plan, train_factors=only_b, share_factors=only_b), adapter)
            for site, plan in plans.items()
        }

    def aggregate(self, updates: Iterable[SiteUpdate], context: AggregationContext) -> Aggregate:
        """The mean `B` of the sound updates, weighted by size, beside the `A` of all.

        Raises:
            AggregationError: No update is sound, or no site has anything of the chosen size.
        """
        sound, refused = screen_factor(updates, context, "B")
        sizes = {site: size_of(update, self.size) for site, update in sound.items()}
        weights = by_size(sizes)
        adapters = {site: update.adapter for site, update in sound.items()}
        adapter = mean_of_one_factor(adapters, weights, context.adapter)
        return Aggregate(adapter, weights, record={"sizes": sizes}, refused=refused)
