"""The server takes an Adam step along the sites' mean change: FedAdam."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from fedmedlora.adapters.exchange import Train
from fedmedlora.adapters.state import AdapterState, LoRAPair
from fedmedlora.aggregation.merging import mean_of_factors
from fedmedlora.aggregation.screening import screen
from fedmedlora.aggregation.strategy import Aggregate
from fedmedlora.aggregation.weighting import SizeUnit, by_size, size_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fedmedlora.adapters.exchange import LocalPlan, SiteUpdate
    from fedmedlora.aggregation.strategy import AggregationContext, Memory


class FedAdamConfig(BaseModel):
    """Options of `fedadam`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["fedadam"] = "fedadam"

    learning_rate: float = Field(default=0.01, gt=0, allow_inf_nan=False)
    """The server's; no number of the adapter moves much farther in a round. The right one depends
    on rounds, local epochs and rank, and has to be tried out."""

    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Share of the earlier rounds in the mean change."""

    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Share of the earlier rounds in the mean squared change."""

    tau: float = Field(default=0.01, gt=0, allow_inf_nan=False)
    """Adaptivity: changes that are small against it are not blown up. Where it equals
    `learning_rate`, small changes of a first round move as far as with `fedavg`."""

    size: SizeUnit = "tokens"
    """What a site's weight in the mean change is proportional to."""

    def build(self) -> FedAdam:
        """The strategy."""
        return FedAdam(self.learning_rate, (self.beta1, self.beta2), self.tau, self.size)


class FedAdam:
    """Read the sites' mean change as a gradient, and let Adam at the server follow it.

    Update:    d <- sum_i n_i (x_i - x) / n;  m <- b1 m + (1 - b1) d;  v <- b2 v + (1 - b2) d^2;
               x <- x + rate m' / (sqrt(v') + tau), for each number x of A and B, where
               m' = m / (1 - b1^t) and v' = v / (1 - b2^t) in round t.
    Sends:     A and B, up and down.
    Limits:    Works on single numbers of A and B, which mean nothing by themselves: another gauge
               of the same product gives another step. Even sites that agree do not get what they
               sent. Keeps two more adapters in memory.
    Reference: Reddi et al. 2021, arXiv:2003.00295, FedAdam; m' and v' are the bias correction of
               Kingma and Ba, arXiv:1412.6980, which matters when there are few rounds.
    """

    needs_scorer = False

    def __init__(
        self,
        learning_rate: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.99),
        tau: float = 0.01,
        size: SizeUnit = "tokens",
    ) -> None:
        self.learning_rate = learning_rate
        self.betas = betas
        self.tau = tau
        self.size: SizeUnit = size

    def plan(
        self,
        plans: Mapping[str, LocalPlan],
        adapter: AdapterState,
        memory: Memory,  # noqa: ARG002  # needed by the server only
    ) -> dict[str, Train]:
        """The study's plan and the global adapter, for every site."""
        return {site: Train(plan, adapter) for site, plan in plans.items()}

    def aggregate(self, updates: Iterable[SiteUpdate], context: AggregationContext) -> Aggregate:
        """The global adapter after one step of the server's optimiser.

        Raises:
            AggregationError: No update is sound, or no site has anything of the chosen size.
        """
        sound, refused = screen(updates, context)
        sizes = {site: size_of(update, self.size) for site, update in sound.items()}
        weights = by_size(sizes)
        mean = mean_of_factors({s: update.adapter for s, update in sound.items()}, weights)
        memory: dict[str, Any] = {"num_steps": context.memory.get("num_steps", 0) + 1}
        pairs = {}
        for module, pair in context.adapter.pairs.items():
            A = self._step(f"{module}.A", pair.A, mean.pairs[module].A, context.memory, memory)
            B = self._step(f"{module}.B", pair.B, mean.pairs[module].B, context.memory, memory)
            pairs[module] = LoRAPair(A, B)
        adapter = AdapterState(context.adapter.spec, pairs)
        return Aggregate(adapter, weights, memory, record={"sizes": sizes}, refused=refused)

    def _step(
        self,
        name: str,
        before: torch.Tensor,
        mean: torch.Tensor,
        old: Memory,
        new: dict[str, Any],
    ) -> torch.Tensor:
        """The factor after the step, in its dtype; the optimiser's moments go into `new`."""
        parameter = torch.nn.Parameter(before.to(torch.float32, copy=True))
        parameter.grad = before.to(torch.float32) - mean.to(torch.float32)
        optimiser = torch.optim.Adam(
            [parameter], lr=self.learning_rate, betas=self.betas, eps=self.tau
        )
        if old:
            optimiser.state[parameter] = {
                "step": torch.tensor(float(old["num_steps"])),
                "exp_avg": old[f"{name}.mean"].clone(),
                "exp_avg_sq": old[f"{name}.square"].clone(),
            }
        optimiser.step()
        moments = optimiser.state[parameter]
        new[f"{name}.mean"], new[f"{name}.square"] = moments["exp_avg"], moments["exp_avg_sq"]
        return parameter.detach().to(before.dtype)
