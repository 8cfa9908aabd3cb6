"""Every site counts alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from fedmedlora.adapters.exchange import Train
from fedmedlora.aggregation.merging import mean_of_factors
from fedmedlora.aggregation.screening import screen
from fedmedlora.aggregation.strategy import Aggregate
from fedmedlora.aggregation.weighting import equal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fedmedlora.adapters.exchange import LocalPlan, SiteUpdate
    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.aggregation.strategy import AggregationContext, Memory


class UniformConfig(BaseModel):
    """Options of `uniform`: none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["uniform"] = "uniform"

    def build(self) -> Uniform:
        """The strategy."""
        return Uniform()


class Uniform:
    """Average the adapters, a small hospital as loud as a large one.

    Update:    A <- mean_i A_i and B <- mean_i B_i, separately.
    Sends:     A and B, up and down.
    Limits:    A site with few or bad notes pulls as hard as the others. The arm that every
               loss-weighted rule must beat, because such rules are close to it.
    Reference: McMahan et al. 2017, arXiv:1602.05629, with every n_i equal.
    """

    needs_scorer = False

    def plan(
        self,
        plans: Mapping[str, LocalPlan],
        adapter: AdapterState,
        memory: Memory,  # noqa: ARG002  # nothing is remembered
    ) -> dict[str, Train]:
        """The study's plan and the global adapter, for every site."""
        return {site: Train(plan, adapter) for site, plan in plans.items()}

    def aggregate(self, updates: Iterable[SiteUpdate], context: AggregationContext) -> Aggregate:
        """The plain mean of the sound updates.

        Raises:
            AggregationError: No update is sound.
        """
        sound, refused = screen(updates, context)
        weights = equal(sound)
        adapter = mean_of_factors({s: update.adapter for s, update in sound.items()}, weights)
        return Aggregate(adapter, weights, refused=refused)
