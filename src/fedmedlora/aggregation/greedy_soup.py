"""Sites join the mean one by one, as long as the server's validation notes gain: greedy soup."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from fedmedlora.adapters.exchange import Train
from fedmedlora.adapters.products import mean_of_products
from fedmedlora.aggregation.screening import screen
from fedmedlora.aggregation.strategy import Aggregate, LossKind
from fedmedlora.aggregation.weighting import equal
from fedmedlora.core.errors import AggregationError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fedmedlora.adapters.exchange import LocalPlan, SiteUpdate
    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.aggregation.strategy import AggregationContext, Memory


class GreedySoupConfig(BaseModel):
    """Options of `greedy-soup`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["greedy-soup"] = "greedy-soup"

    validation_loss: LossKind = "completion"
    """Over the completion's tokens, or over the whole sequence."""

    def build(self) -> GreedySoup:
        """The strategy."""
        return GreedySoup(self.validation_loss)


class GreedySoup:
    """Take the best site's adapter, then each next best one whose joining does no harm.

    Update:    S <- {}; for sites i by rising loss: S <- S + {i} if the mean of S + {i} has no
               higher loss than that of S; G <- mean of s_i B_i A_i over S, cut to the rank.
    Sends:     A and B, up and down.
    Limits:    Needs labelled notes at the server, and up to 2N - 1 passes over them a round. Fits
               itself to few notes: where they come from one site, it can prefer that site.
    Reference: Wortsman et al. 2022, arXiv:2203.05482, Recipe 1, with loss for accuracy. What is
               averaged there are whole models, hence products here.
    """

    needs_scorer = True

    def __init__(self, validation_loss: LossKind = "completion") -> None:
        self.validation_loss: LossKind = validation_loss

    def plan(
        self,
        plans: Mapping[str, LocalPlan],
        adapter: AdapterState,
        memory: Memory,  # noqa: ARG002  # nothing is remembered
    ) -> dict[str, Train]:
        """The study's plan and the global adapter, for every site."""
        return {site: Train(plan, adapter) for site, plan in plans.items()}

    def aggregate(self, updates: Iterable[SiteUpdate], context: AggregationContext) -> Aggregate:
        """The mean product of the sites that joined; those that did not have weight 0.

        Raises:
            ConfigError: The server has no validation notes.
            AggregationError: No update is sound, or none has a finite loss.
        """
        if context.scorer is None:
            raise ConfigError(
                "greedy-soup: sites join by the loss on validation notes at the server; expected "
                "some, got none. Name them as `server_notes` in the study file, or choose "
                "`fedavg` or `uniform`."
            )
        sound, refused = screen(updates, context)
        losses: dict[str, float] = {}
        for site, update in sound.items():
            loss = context.scorer.loss(update.adapter).mean(self.validation_loss)
            if math.isfinite(loss):
                losses[site] = loss
            else:
                refused[site] = "non-finite-loss"
        if not losses:
            raise AggregationError(
                f"round {context.round_index}: no adapter of {', '.join(sound)} has a finite loss "
                "on the server's validation notes. Lower the learning rate."
            )
        adapters = {site: sound[site].adapter for site in losses}
        soup: list[str] = []
        adapter, energy_kept, least = context.adapter, 1.0, math.inf
        for site in sorted(losses, key=lambda site: (losses[site], site)):
            weights = equal(dict.fromkeys([*soup, site]))
            candidate, kept = mean_of_products(context.adapter, adapters, weights)
            if soup:
                loss = context.scorer.loss(candidate).mean(self.validation_loss)
            else:
                loss = losses[site]
            if loss <= least:
                soup.append(site)
                adapter, energy_kept, least = candidate, kept, loss
        record = {
            "server_losses": losses,
            "joined": soup,
            "soup_loss": least,
            "energy_kept": energy_kept,
        }
        weights = {site: 1 / len(soup) if site in soup else 0.0 for site in losses}
        return Aggregate(adapter, weights, record=record, refused=dict(sorted(refused.items())))
