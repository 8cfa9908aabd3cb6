"""Sites weighted by their size, each held back towards where it started: FedProx."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

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


class FedProxConfig(BaseModel):
    """Options of `fedprox`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["fedprox"] = "fedprox"

    mu: float = Field(default=0.01, gt=0, allow_inf_nan=False)
    """How hard a site is pulled back; the paper tries 0.001, 0.01, 0.1 and 1."""

    size: SizeUnit = "tokens"
    """What a site's weight is proportional to."""

    def build(self) -> FedProx:
        """The strategy."""
        return FedProx(self.mu, self.size)


class FedProx:
    """FedAvg whose sites pay for going far from the adapter that they received.

    Update:    Site i minimises L_i(A, B) + mu/2 (|A - A_received|^2 + |B - B_received|^2); the
               server averages as `fedavg` does.
    Sends:     A and B, up and down.
    Limits:    The pull holds factors, not their product, back. It is a gradient, so AdamW's step
               sizes and the cut of long gradients act on it, too; `mu` must be tried out.
    Reference: Li et al. 2020, arXiv:1812.06127.
    """

    needs_scorer = False

    def __init__(self, mu: float = 0.01, size: SizeUnit = "tokens") -> None:
        self.mu = mu
        self.size: SizeUnit = size

    def plan(
        self,
        plans: Mapping[str, LocalPlan],
        adapter: AdapterState,
        memory: Memory,  # noqa: ARG002  # nothing is remembered
    ) -> dict[str, Train]:
        """The study's plan with the pull, and the global adapter, for every site."""
        return {
            site: Train(replace(plan, proximal_mu=self.mu), adapter) for site, plan in plans.items()
        }

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
